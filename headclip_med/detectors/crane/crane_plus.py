"""Crane+ (arXiv 2504.11055): Crane and a second view, whose attention is the likeness of patches in another tower."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors.base import Parts
from headclip_med.detectors.crane.crane import Crane, CraneConfig, CraneViews
from headclip_med.encoders.attention import attend
from headclip_med.encoders.build import build_tower
from headclip_med.encoders.image import EncodeOptions, attend_by, encode_images
from headclip_med.encoders.tower import Block, ImageTower


@dataclass(frozen=True)
class CranePlusConfig(CraneConfig):
    """Choices beside those of Crane.

    Attributes:
        feature_layers: tapped blocks, 0-based [published: the last one].
        similarity_tower: the second tower, as :func:`headclip_med.encoders.build.build_tower` names it [published:
            DINOv2 ViT-B/14 with registers].
        similarity_factor, similarity_scale: β and γ of γ · (S − β · mean S) [published: 1.2 and 3].
        values_after_attention: the values are those of the tokens after the block's own attention was added, not of
            those that enter it. The released code does so by adding in place, and its prompts were trained so.
    """

    feature_layers: tuple[int, ...] | None = (-1,)
    similarity_tower: str = "timm:vit_base_patch14_reg4_dinov2.lvd142m"
    similarity_factor: float = 1.2
    similarity_scale: float = 3.0
    values_after_attention: bool = False

    def __post_init__(self) -> None:
        """As of Crane; further, a likeness that attends to nothing."""
        super().__post_init__()
        if not (0 < self.similarity_factor < inf and 0 < self.similarity_scale < inf):
            raise ModelError(
                "similarity_factor and similarity_scale must be positive",
                f"{self.similarity_factor} and {self.similarity_scale}",
            )


class CranePlus(Crane):
    """Crane with a second view, whose attention is patch likeness in DINOv2.

    Args:
        parts: Tower with its text side, configuration and what was learned.
        similarity: The second tower, ready. None: the one that the configuration names.

    Raises:
        ModelError: as of Crane, or the second tower cannot be had.
    """

    name = "crane+"
    Config = CranePlusConfig
    released_taps = 1
    config: CranePlusConfig

    def __init__(self, parts: Parts, similarity: ImageTower | None = None) -> None:
        super().__init__(parts)
        second = build_tower(self.config.similarity_tower).tower if similarity is None else similarity
        self.similarity = second.place(self.tower.device, self.tower.dtype)

    def encode(self, pixels: Tensor) -> CraneViews:
        """Encode as Crane does, and every tap once more under the attention of the second tower."""
        features = encode_images(self.tower, pixels, replace(self._options(), keep_inputs=True))
        assert features.global_feature is not None
        attention = self._attention(pixels.to(self.tower.device), features.grid)
        views = list(features.patch_features.values())
        for layer, tokens in features.inputs.items():
            block = self.tower.blocks[layer]
            entering = attended(block, tokens) if self.config.values_after_attention else tokens
            update = attend_by(block, entering, attention).float()
            views.append(F.normalize(self.tower.project(update), dim=-1))
        return CraneViews(torch.stack(views), features.global_feature, features.grid)

    def _attention(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """``(N, P, P)`` of the second tower, on the patch grid of the first."""
        seen = renormalised(pixels, self.tower, self.similarity)
        patch = self.similarity.patch_size
        size = (grid[0] * patch, grid[1] * patch)
        if tuple(seen.shape[-2:]) != size:
            seen = F.interpolate(seen, size, mode="bilinear", antialias=True)
        last = self.similarity.depth - 1
        options = EncodeOptions((last,), local_attention="none", want_global=False)
        features = encode_images(self.similarity, seen, options).patch_features[last]
        return similarity_attention(features, self.config.similarity_factor, self.config.similarity_scale)

    def _again(self, parts: Parts) -> CranePlus:
        return type(self)(parts, self.similarity)


def similarity_attention(features: Tensor, factor: float, scale: float) -> Tensor:
    """Compute D-attention: softmax over those j with γ · (S_ij − β · mean S) ≥ 0, where S is cosine similarity.

    The mean is over the pairs of one image. The released code takes it over the batch, where a slice's map would depend
    on its neighbours. A patch always attends to itself: in a nearly uniform image nothing else may be left.

    Args:
        features: ``(N, P, D)`` L2-normalised.
        factor: β.
        scale: γ.

    Returns:
        ``(N, P, P)``, rows sum to 1.
    """
    likeness = features @ features.mT
    logits = scale * (likeness - factor * likeness.mean(dim=(1, 2), keepdim=True))
    own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    return logits.masked_fill((logits < 0) & ~own, float("-inf")).softmax(dim=-1)


def renormalised(pixels: Tensor, source: ImageTower, target: ImageTower) -> Tensor:
    """Normalise pixels anew for another tower.

    Args:
        pixels: ``(N, 3, H, W)``, normalised for ``source``.
        source, target: Towers.

    Returns:
        ``(N, 3, H, W)``, normalised for ``target``.
    """
    (mean, std), (new_mean, new_std) = (
        (pixels.new_tensor(tower.mean)[:, None, None], pixels.new_tensor(tower.std)[:, None, None])
        for tower in (source, target)
    )
    return (pixels * std + mean - new_mean) / new_std


def attended(block: Block, tokens: Tensor) -> Tensor:
    """Add a block's attention to its tokens, before its MLP.

    Args:
        block: A block of a tower.
        tokens: ``(N, T, width)`` that enter it.

    Returns:
        ``(N, T, width)``.
    """
    weight = block.qkv_weight
    flat = F.linear(block.norm1(tokens).to(weight.dtype), weight, block.qkv_bias)
    query, key, value = flat.unflatten(-1, (3, block.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    heads = attend(block.query_norm(query), block.key_norm(key), value)
    update: Tensor = block.scale1(F.linear(heads.transpose(1, 2).flatten(2), block.out_weight, block.out_bias))
    return tokens + update
