"""The fast path of head-weight training: no back-propagation through the tower.

With weights on the local branch only, a tapped feature before the final norm is linear in them:

    x^L = x^(s−1) + Σ_{l=s..L} ( Σ_h w_{l,h} O_{l,h} W_O^{l,(h)} + b_O^l )

because the values that the local attention mixes come from the original path, which the weights do not touch. One
pass without gradients gives every O_l (:func:`headclip_med.encoders.image.local_contributions`); a training step is
then one matrix product per tap, the final norm and the loss. :func:`headclip_med.encoders.image.encode_images` under
autograd computes the same and is the oracle in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import Contributions, EncodeOptions, first_local_block
from headclip_med.encoders.tower import Block, ImageTower


def in_half(parts: Contributions) -> Contributions:
    """Turn the heads into 16 bits, which halves the memory of a cache.

    Args:
        parts: Contributions in any type.

    Returns:
        The same with float16 heads.
    """
    return replace(parts, heads=parts.heads.half())


def stack_contributions(parts: Sequence[Contributions]) -> Contributions:
    """Stack several batches of one grid.

    Args:
        parts: At least one batch.

    Returns:
        One batch, without global features where one has none.
    """
    features = [part.global_feature for part in parts]
    known = [feature for feature in features if feature is not None]
    return Contributions(
        torch.cat([part.base for part in parts]),
        torch.cat([part.heads for part in parts]),
        torch.cat([part.cls_token for part in parts]),
        torch.cat(known) if len(known) == len(parts) else None,
        parts[0].grid,
    )


def tapped_features(
    tower: ImageTower,
    parts: Contributions,
    weights: HeadWeights,
    options: EncodeOptions,
    *,
    centre: Mapping[int, Tensor] | None = None,
    normalise: bool = True,
) -> dict[int, Tensor]:
    """Compute patch features, differentiable in the local head weights.

    Args:
        tower: Frozen.
        parts: Of :func:`headclip_med.encoders.image.local_contributions`.
        weights: Static ``(L, heads)`` or ``(L, heads, head_dim)`` over the whole tower, or per image ``(N, L, heads)``.
        options: Which layers are tapped and how.
        centre, normalise: As :func:`headclip_med.encoders.image.encode_images`.

    Returns:
        ``(N, P, D)`` by tapped layer.

    Raises:
        ModelError: Weights that act elsewhere than on the local heads' outputs, where nothing is linear in them.
    """
    check_linear(weights)
    start = first_local_block(tower.depth, options.local_start)
    tokens, done = parts.base, start
    taps: dict[int, Tensor] = {}
    for layer in sorted(options.layers):
        if layer >= done:
            tokens = tokens + _update(tower, parts, weights, range(done, layer + 1), start)
            done = layer + 1
        features = tower.project(tokens)
        mean = (centre or {}).get(layer)
        features = features if mean is None else features - mean
        taps[layer] = F.normalize(features, dim=-1) if normalise else features
    return {layer: taps[layer] for layer in options.layers}


def check_linear(weights: HeadWeights) -> None:
    """Refuse weights that the fast path cannot train, though the slow one can.

    Args:
        weights: Of the heads.

    Raises:
        ModelError: Global weights, or weights elsewhere than on the heads' outputs.
    """
    if weights.global_ is not None or weights.site != "head_output":
        raise ModelError(
            "The fast path must have weights on the outputs of the local branch's heads only",
            f"site {weights.site}, global weights {'given' if weights.global_ is not None else 'none'}",
            "Train with fast: false",
        )


def _update(tower: ImageTower, parts: Contributions, weights: HeadWeights, layers: range, start: int) -> Tensor:
    """Σ over ``layers`` of the weighted heads through their output projections: ``(N, P, width)`` float32."""
    heads = parts.heads[:, :, layers.start - start : layers.stop - start].float()
    blocks = [tower.blocks[layer] for layer in layers]
    matrices = [_projection(block) for block in blocks]
    if weights.local is not None and weights.per_image:
        head_dim = tower.width // tower.heads
        factors = weights.local[:, layers.start : layers.stop].repeat_interleave(head_dim, dim=-1)
        heads = heads * factors[:, None]
    elif weights.local is not None:
        matrices = [
            matrix * _per_column(weights.local[layer], tower)[:, None]
            for matrix, layer in zip(matrices, layers, strict=True)
        ]
    bias = sum(_bias(block) for block in blocks)
    return heads.flatten(2) @ torch.cat(matrices) + bias


def _per_column(factors: Tensor, tower: ImageTower) -> Tensor:
    head_dim = tower.width // tower.heads
    return factors.reshape(-1) if factors.ndim == 2 else factors.repeat_interleave(head_dim)


def _projection(block: Block) -> Tensor:
    """W_O with the layer scale in it, ``(width of the heads, width)`` float32."""
    scale = block.scale1(torch.ones(block.out_weight.shape[0], device=block.out_weight.device))
    return block.out_weight.float().T * scale


def _bias(block: Block) -> Tensor:
    none = torch.zeros(block.out_weight.shape[0], device=block.out_weight.device)
    scaled: Tensor = block.scale1(none if block.out_bias is None else block.out_bias.float())
    return scaled
