"""A frozen vision transformer seen as parts, so that attention heads can be reached without hooks or edits."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med.base.errors import InputError, ModelError


def interpolate_positions(
    positions: Tensor, grid: tuple[int, int], *, prefix: int, mode: Literal["bicubic", "bilinear"] = "bicubic"
) -> Tensor:
    """Resample position embeddings to a grid.

    Args:
        positions: ``(1, prefix + side², width)`` of the square grid that the weights were trained on.
        grid: Wanted patch rows and columns.
        prefix: Leading entries (class, registers) that are kept as they are.
        mode: ``bicubic`` with antialiasing as open_clip and timm do on loading, or ``bilinear`` without, as
            AnomalyCLIP's released code does.

    Returns:
        ``(1, prefix + grid[0]·grid[1], width)``, the very same tensor when the grid is the stored one.
    """
    side = isqrt(positions.shape[1] - prefix)
    if grid == (side, side):
        return positions
    head, body = positions[:, :prefix], positions[:, prefix:]
    image = body.reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    image = F.interpolate(image, size=grid, mode=mode, antialias=mode == "bicubic", align_corners=False)
    body = image.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1).to(positions.dtype)
    return torch.cat([head, body], dim=1)


class Block(nn.Module):
    """One pre-norm block, by reference to the frozen model's own parameters.

    A module, so that tracers find the parameters.

    Args:
        heads: Number of attention heads.
        norm1, norm2: Before the attention and before the MLP.
        qkv_weight, qkv_bias: ``(3·width, width)`` and ``(3·width,)`` in the order query, key, value.
        query_norm, key_norm: Of each head's queries and keys.
        out_weight, out_bias: ``(width, width)``, whose columns ``[h·d : (h+1)·d]`` belong to head h, and ``(width,)``.
        scale1, scale2: Of the attention's and of the MLP's update (layer scale).
        mlp: ``(..., width)`` → the same.
    """

    def __init__(
        self,
        *,
        heads: int,
        norm1: nn.Module,
        qkv_weight: Tensor,
        qkv_bias: Tensor | None,
        query_norm: nn.Module,
        key_norm: nn.Module,
        out_weight: Tensor,
        out_bias: Tensor | None,
        scale1: nn.Module,
        norm2: nn.Module,
        mlp: nn.Module,
        scale2: nn.Module,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = norm1, norm2
        self.qkv_weight, self.qkv_bias = qkv_weight, qkv_bias
        self.query_norm, self.key_norm = query_norm, key_norm
        self.out_weight, self.out_bias = out_weight, out_bias
        self.scale1, self.scale2 = scale1, scale2
        self.mlp = mlp


class ImageTower(nn.Module):
    """A frozen ViT: pixels → tokens → blocks → norm → projection.

    Attributes:
        model: the open_clip or timm module that owns every parameter.
        blocks: its blocks, outermost first. ``layers`` in this package are 0-based indices into them.
        patch_projection: the convolution that turns patches into tokens.
        width, output_dim, patch_size: of the architecture.
        prefix: number of class and register tokens in front.
        pool: where the global feature comes from.
        norm_after_pool: the average is taken before the final norm.
        native_size: input side in pixels of the stored position embeddings.
        mean, std: of the pixels that the weights expect, per channel in [0, 1].

    Args:
        model: The module that owns every parameter, frozen here.
        blocks: Its blocks, outermost first.
        patch_projection: ``(N, 3, H, W)`` → ``(N, width, Hp, Wp)``.
        prefix_tokens: Class token, then registers, ``width`` numbers each.
        positions: ``(side² [+ prefix], width)``, maybe with an axis of 1 in front.
        positions_cover_prefix: The prefix tokens have positions too.
        norm_pre, norm_post: Before the first block and after the last one.
        projection: ``(width, D)``, or None where features are the tokens themselves.
        pool: The global feature is the class token or the average of the patches.
        norm_after_pool: The average is taken before the final norm.
        width: Of the tokens.
        patch_size: In pixels.
        native_size: Input side in pixels of the stored positions.
        mean, std: Of the pixels that the weights expect, per channel in [0, 1].
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        blocks: Sequence[Block],
        patch_projection: nn.Module,
        prefix_tokens: Sequence[Tensor],
        positions: Tensor,
        positions_cover_prefix: bool,
        norm_pre: nn.Module,
        norm_post: nn.Module,
        projection: Tensor | None,
        pool: Literal["token", "average"],
        norm_after_pool: bool = False,
        width: int,
        patch_size: int,
        native_size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.blocks = tuple(blocks)
        self._parts = nn.ModuleList(blocks)
        self.patch_projection = patch_projection
        self.prefix_tokens = nn.ParameterList(prefix_tokens)
        self.prefix = sum(token.numel() for token in prefix_tokens) // width
        self.positions = positions
        self.positions_cover_prefix = positions_cover_prefix
        self.norm_pre, self.norm_post = norm_pre, norm_post
        self.projection = projection
        self.pool, self.norm_after_pool = pool, norm_after_pool
        self.width, self.patch_size, self.native_size = width, patch_size, native_size
        self.mean, self.std = tuple(mean), tuple(std)
        self._placed = False

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def heads(self) -> int:
        """Attention heads in every block."""
        return self.blocks[0].heads

    @property
    def output_dim(self) -> int:
        """Length of a projected feature."""
        return self.width if self.projection is None else self.projection.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.positions.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the matrix products, while the residual stream and the norms stay float32."""
        return self.blocks[0].qkv_weight.dtype

    def cast(self, dtype: torch.dtype) -> ImageTower:
        """Store the blocks' matrices in another type, once at load time.

        Args:
            dtype: Of the matrix products.

        Returns:
            The tower itself.
        """
        for block in self.blocks:
            matrices = (
                block.qkv_weight,
                block.qkv_bias,
                block.out_weight,
                block.out_bias,
                *block.mlp.parameters(),
            )
            for parameter in matrices:
                if parameter is not None:
                    parameter.data = parameter.data.to(dtype)
        return self

    def place(self, device: torch.device, dtype: torch.dtype) -> ImageTower:
        """Move the tower to a device and :meth:`cast` it, for good: whoever uses it relies on where it is.

        Args:
            device: Where to.
            dtype: Of the matrix products.

        Returns:
            The tower itself.

        Raises:
            ModelError: it was already placed elsewhere or in another type.
        """
        actual = torch.empty(0, device=device).device  # "cuda" → "cuda:0"
        if self._placed and (actual, dtype) != (self.device, self.dtype):
            raise ModelError(
                "A loaded model must stay on the device and in the precision that its first engine chose",
                f"{self.device} and {self.dtype}, asked for {actual} and {dtype}",
                "Load the model again for a second engine, as load_engine does",
            )
        self.to(device).cast(dtype)
        self._placed = True
        return self

    def for_size(self, size: int, last: int, mode: Literal["bicubic", "bilinear"] = "bicubic") -> ImageTower:
        """Make the part that runs on square inputs of one size up to one block, as a tower for exporters.

        Its positions are resampled for good, and it owns none of the model's other parameters.

        Args:
            size: Side of the input in pixels, a multiple of the patch size.
            last: 0-based block.
            mode: Interpolation of position embeddings.

        Returns:
            The tower, over the same parameters.
        """
        grid = (size // self.patch_size, size // self.patch_size)
        prefix = self.prefix if self.positions_cover_prefix else 0
        stored = self.positions.detach().reshape(1, -1, self.width)
        positions = interpolate_positions(stored, grid, prefix=prefix, mode=mode)
        tower = self._at(nn.Parameter(positions, requires_grad=False), size)
        tower._parts = tower._parts[: last + 1]
        return tower

    def for_window(self, row: int, col: int, size: int) -> ImageTower:
        """Make the tower that sees a window of the native square.

        Positions are cut, not resampled, so that neighbours are as far apart as in the whole square. Differentiable.

        Args:
            row, col: First patch of the window, 0-based.
            size: Side of the window in pixels, a multiple of the patch size.

        Returns:
            The tower, over the same parameters.

        Raises:
            InputError: a window that reaches out of the square.
        """
        side, across = size // self.patch_size, self.native_size // self.patch_size
        if not (0 <= row <= across - side and 0 <= col <= across - side):
            raise InputError(f"A window must lie within the {across}×{across} patches", f"({row}, {col}) + {side}")
        prefix = self.prefix if self.positions_cover_prefix else 0
        stored = self.positions.reshape(1, -1, self.width)
        places = stored[:, prefix:].unflatten(1, (across, across))[:, row : row + side, col : col + side]
        return self._at(torch.cat([stored[:, :prefix], places.flatten(1, 2)], dim=1), size)

    def _at(self, positions: Tensor, size: int) -> ImageTower:
        """The same blocks with other positions, for inputs of ``size`` pixels."""
        return ImageTower(
            nn.Identity(),
            blocks=self.blocks,
            patch_projection=self.patch_projection,
            prefix_tokens=tuple(self.prefix_tokens),
            positions=positions,
            positions_cover_prefix=self.positions_cover_prefix,
            norm_pre=self.norm_pre,
            norm_post=self.norm_post,
            projection=self.projection,
            pool=self.pool,
            norm_after_pool=self.norm_after_pool,
            width=self.width,
            patch_size=self.patch_size,
            native_size=size,
            mean=self.mean,
            std=self.std,
        )

    def nearest_size(self, size: int) -> int:
        """Round a size to the nearest multiple of the patch size, at least one patch.

        Args:
            size: In pixels.

        Returns:
            In pixels.
        """
        return max(1, round(size / self.patch_size)) * self.patch_size

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        """Count the patches of an input.

        Args:
            pixels: ``(N, 3, H, W)``.

        Returns:
            Patch rows and columns ``(Hp, Wp)``.

        Raises:
            InputError: sides that are no multiples of the patch size.
        """
        height, width = (int(side) for side in pixels.shape[-2:])
        if height % self.patch_size or width % self.patch_size:
            raise InputError(
                f"The input size must be a multiple of the patch size {self.patch_size}",
                f"{height}×{width} pixels",
                f"Use an image size such as {self.nearest_size(height)}",
            )
        return height // self.patch_size, width // self.patch_size

    def embed(self, pixels: Tensor, *, position_mode: Literal["bicubic", "bilinear"] = "bicubic") -> Tensor:
        """Turn pixels into the tokens that enter the first block, positions interpolated to the grid.

        Args:
            pixels: ``(N, 3, H, W)``, normalised, sides multiples of the patch size.
            position_mode: Interpolation of position embeddings.

        Returns:
            ``(N, prefix + P, width)`` float32.
        """
        grid = self.grid(pixels)
        patches = self.patch_projection(pixels).flatten(2).transpose(1, 2)
        prefix = [t.reshape(1, -1, self.width).expand(patches.shape[0], -1, -1) for t in self.prefix_tokens]
        positions = interpolate_positions(
            self.positions.reshape(1, -1, self.width),
            grid,
            prefix=self.prefix if self.positions_cover_prefix else 0,
            mode=position_mode,
        )
        if self.positions_cover_prefix:
            tokens = torch.cat([*prefix, patches], dim=1) + positions
        else:
            tokens = torch.cat([*prefix, patches + positions], dim=1)
        return self.norm_pre(tokens).float()

    def project(self, tokens: Tensor, *, norm: bool = True) -> Tensor:
        """Apply the final norm and the projection.

        Args:
            tokens: ``(..., width)``.
            norm: Whether to apply the norm.

        Returns:
            ``(..., D)``, not yet L2-normalised.
        """
        features = self.norm_post(tokens) if norm else tokens
        return features if self.projection is None else features @ self.projection
