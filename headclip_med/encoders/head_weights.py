"""HeadCLIP's learnable head weights (LHW): one factor per attention head, 1 = the frozen tower.

With O_h the output of head h and W_O the output projection, a block's attention update becomes
Δ = concat_h(w_h · O_h) W_O + b_O; the bias is not scaled (HeadCLIP, arXiv 2505.22259; the site and the
branch are inferred, see docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.encoders.heads import HeadWeights, Site
from headclip_med.encoders.image import first_local_block
from headclip_med.encoders.tower import ImageTower

Parametrisation = Literal["free", "softmax_mean1", "sigmoid2", "softplus"]

Branch = Literal["local", "global", "both"]
# A number k stands for the last k blocks.
LayerChoice = Literal["dual", "all", "tapped"] | int

# softplus(x) = 1 at x = ln(e − 1), so that training starts at the frozen tower.
_SOFTPLUS_ONE = 0.5413248546129181


class DynamicHeadWeights(nn.Module):
    """Head weights predicted from the class token: w = 1 + MLP(CLS), zero-initialised in its last layer.

    Args:
        width: Of the class token.
        depth, heads: Of the tower.
        hidden: Width of the only hidden layer.
        branch, site: Where the weights act, from the first local block on.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        hidden: int = 64,
        *,
        branch: Branch = "local",
        site: Site = "head_output",
    ) -> None:
        super().__init__()
        self.depth, self.heads, self.branch, self.site = depth, heads, branch, site
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, depth * heads)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, cls_token: Tensor) -> HeadWeights:
        """Predict the weights of a batch of images.

        Args:
            cls_token: ``(N, width)``.

        Returns:
            Weights ``(N, depth, heads)`` on the chosen branch, all 1 before training.
        """
        factors = 1 + self.output(F.gelu(self.hidden(F.layer_norm(cls_token, cls_token.shape[-1:]))))
        return _on_branch(factors.view(-1, self.depth, self.heads), self.branch, self.site, per_image=True)


def _on_branch(factors: Tensor, branch: Branch, site: Site, *, per_image: bool = False) -> HeadWeights:
    local = factors if branch in ("local", "both") else None
    global_ = factors if branch in ("global", "both") else None
    return HeadWeights(local, global_, site, per_image)


def parametrise(theta: Tensor, kind: Parametrisation) -> Tensor:
    """Turn trained parameters into head weights, where every kind starts at 1 from :func:`initial_theta`.

    Args:
        theta: ``(L, heads)``, unbounded.
        kind: ``free`` takes them as they are, ``softmax_mean1`` competes over the last axis (mean 1), ``sigmoid2`` lies
            in (0, 2), ``softplus`` above 0.

    Returns:
        Head weights of the same shape.
    """
    if kind == "free":
        return theta
    if kind == "softmax_mean1":
        return theta.shape[-1] * theta.softmax(dim=-1)
    if kind == "sigmoid2":
        return 2 * theta.sigmoid()
    return F.softplus(theta)


def initial_theta(shape: tuple[int, ...], kind: Parametrisation, noise: float = 0.0, seed: int = 0) -> Tensor:
    """Make parameters at which all head weights are 1, plus N(0, noise²) when asked.

    Args:
        shape: ``(L, heads)`` or any other.
        kind: Parametrisation.
        noise: Standard deviation, 0 for none.
        seed: Of the noise.

    Returns:
        float32 of that shape.
    """
    start = {"free": 1.0, "softmax_mean1": 0.0, "sigmoid2": 0.0, "softplus": _SOFTPLUS_ONE}[kind]
    theta = torch.full(shape, start)
    if noise:
        theta = theta + noise * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return theta


def place_head_weights(
    factors: Tensor,
    depth: int,
    *,
    branch: Branch = "local",
    layers: LayerChoice = "dual",
    local_start: int | None = None,
    tapped: Sequence[int] = (),
    site: Site = "head_output",
) -> HeadWeights:
    """Place the factors of chosen layers among all layers of a tower, 1 where nothing was chosen.

    Args:
        factors: ``(rows, heads)`` or ``(rows, heads, head_dim)``, with one row per chosen layer, or one row for all.
        depth: Blocks of the tower.
        branch: On which path they act.
        layers: ``dual`` are the blocks with a local branch, ``all`` every block, ``tapped`` the blocks in ``tapped``
            and in its order, a number k the last k blocks.
        local_start: First block of the local branch, 0-based.
        tapped: Tapped blocks, 0-based.
        site: Output of the heads, or temperature of their attention.

    Returns:
        Weights ``(depth, heads)`` or ``(depth, heads, head_dim)``.

    Raises:
        ModelError: a number of rows that fits neither, or more last blocks than there are.
    """
    chosen = _chosen_layers(layers, depth, local_start, tapped)
    if len(factors) not in (1, len(chosen)):
        raise ModelError(f"Head weights must have 1 or {len(chosen)} rows for the layers {layers!r}", len(factors))
    ones = torch.ones((depth, *factors.shape[1:]), dtype=factors.dtype, device=factors.device)
    rows = factors.expand(len(chosen), *factors.shape[1:])
    return _on_branch(ones.index_copy(0, torch.tensor(chosen, device=factors.device), rows), branch, site)


def _chosen_layers(layers: LayerChoice, depth: int, local_start: int | None, tapped: Sequence[int]) -> list[int]:
    if layers == "tapped":
        return list(tapped)
    if layers == "dual":
        return list(range(first_local_block(depth, local_start), depth))
    count = depth if layers == "all" else layers
    if not 1 <= count <= depth:
        raise ModelError(f"The number of last layers with head weights must be 1 to {depth}", count)
    return list(range(depth - count, depth))


def check_head_weights(weights: HeadWeights, tower: ImageTower) -> HeadWeights:
    """Check that head weights are finite and fit a tower.

    Args:
        weights: Of any branch.
        tower: The tower they are for.

    Returns:
        ``weights`` themselves.

    Raises:
        ModelError: another shape than the tower's, or numbers that are not finite.
    """
    want, head_dim = (tower.depth, tower.heads), tower.width // tower.heads
    for name, tensor in (("local", weights.local), ("global", weights.global_)):
        if tensor is None:
            continue
        got = tuple(map(int, tensor.shape[1:] if weights.per_image else tensor.shape[:2]))
        if tensor.ndim not in (2, 3) or got != want:
            raise ModelError(
                f"{name} head weights must have the shape (layers, heads) = {want} of the tower",
                tuple(tensor.shape),
                "Use a pack that was made for this tower",
            )
        if not weights.per_image and tensor.ndim == 3 and tensor.shape[2] != head_dim:
            raise ModelError(
                f"{name} head weights by channel must have {head_dim} channels a head",
                tensor.shape[2],
                "Use a pack that was made for this tower",
            )
        if not tensor.isfinite().all():
            raise ModelError(f"{name} head weights must be finite numbers", "NaN or infinity", "Use another pack")
    return weights


def fold(weights: HeadWeights, tower: ImageTower) -> dict[int, Tensor]:
    """Multiply the local head weights into copies of the blocks' output projections.

    W_O's columns of head h are scaled by w_h: the same result as scaling O_h, at no cost per image. The frozen
    projections are left alone.

    Args:
        weights: Static factors of the head output.
        tower: The tower they are for.

    Returns:
        By 0-based layer, ``(width, width)`` in the projection's type.

    Raises:
        ModelError: weights that are predicted per image or act elsewhere.
    """
    if not weights.foldable or weights.local is None:
        raise ModelError("Head weights must be static factors of the head output to be folded", weights.site)
    folded = {}
    for layer, block in enumerate(tower.blocks):
        factors = weights.local[layer]
        head_dim = block.out_weight.shape[1] // block.heads
        per_column = factors.reshape(-1) if factors.ndim == 2 else factors.repeat_interleave(head_dim)
        out = block.out_weight
        folded[layer] = (out.float() * per_column.to(out.device)).to(out.dtype)
    return folded
