"""Pixels → patch features of any layer and one global feature, through a frozen tower.

Two paths run through the blocks. The original path is the tower's own forward. The local path (AnomalyCLIP's
DPAM, arXiv 2310.18961) starts from the same tokens, adds in every later block an attention of the original
path's values (or queries, keys) with themselves, and has no MLP. Patch features come from the local path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.encoders.attention import Kernel, LocalAttention, attend, attend_locally
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.tower import Block, ImageTower

# AnomalyCLIP runs its local path through the last 19 of 24 blocks; of 12 blocks 11 were better than 6.
_LOCAL_BLOCKS = 19

# Tokens of the original path that a block computes: those of its last one are mostly never looked at.
Rows = Literal["all", "first", "none"]
_ROWS: dict[Rows, int | None] = {"all": None, "first": 1, "none": 0}


@dataclass(frozen=True)
class ImageFeatures:
    """Features of a batch of images.

    Attributes:
        patch_features: by 0-based layer, ``(N, P, D)``, L2-normalised.
        grid: ``(Hp, Wp)`` with P = Hp·Wp, row by row.
        global_feature: ``(N, D)``, L2-normalised, or None when it was not asked for.
        inputs: by tapped layer, the original path's tokens ``(N, prefix + P, width)`` that enter it, where asked for.
    """

    patch_features: dict[int, Tensor]
    grid: tuple[int, int]
    global_feature: Tensor | None
    inputs: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodeOptions:
    """What is taken from the tower.

    Attributes:
        layers: 0-based blocks whose patch features are tapped.
        local_attention: of the local path, or ``none`` to tap the tower's ordinary tokens instead.
        local_start: first block of the local path. None: the last 19 blocks, but never the first block.
        want_global: also compute the global feature. Without it, blocks after the last tap are not run.
        global_norm: apply the final norm to the class token (AnomalyCLIP's released weights expect False).
        position_mode: interpolation of position embeddings.
        kernel: attention kernel.
        keep_inputs: also give the tokens that enter each tapped block.
    """

    layers: tuple[int, ...]
    local_attention: LocalAttention = "vv"
    local_start: int | None = None
    want_global: bool = True
    global_norm: bool = True
    position_mode: Literal["bicubic", "bilinear"] = "bicubic"
    kernel: Kernel = "auto"
    keep_inputs: bool = False


def first_local_block(depth: int, start: int | None = None) -> int:
    """Find the first block that has a local path.

    Args:
        depth: Blocks of the tower.
        start: The block asked for, 0-based. None: the last 19 blocks, but never the first block.

    Returns:
        0-based block.

    Raises:
        ModelError: not ``1 <= start < depth``, where no block would have one.
    """
    first = max(1, depth - _LOCAL_BLOCKS) if start is None else start
    if not 1 <= first < depth:
        raise ModelError(
            f"The first local block must be at least 1 and below the tower's depth {depth}",
            first,
            "Blocks are 0-based; a tower without a local path has local attention 'none'",
        )
    return first


def encode_images(
    tower: ImageTower,
    pixels: Tensor,
    options: EncodeOptions,
    *,
    head_weights: HeadWeights | Callable[[Tensor], HeadWeights] | None = None,
    folded: Mapping[int, Tensor] | None = None,
    centre: Mapping[int, Tensor] | None = None,
    normalise: bool = True,
) -> ImageFeatures:
    """Run the tower once.

    Differentiable in the head weights, while the frozen tower gets no gradient.

    Args:
        tower: A frozen image tower.
        pixels: ``(N, 3, H, W)``, normalised, sides multiples of the patch size.
        options: What is taken from the tower.
        head_weights: Factors for the attention heads, or a function of the class token ``(N, width)`` at the first
            local block.
        folded: Output projections with the local factors already in them (``head_weights.fold``).
        centre: By layer, a mean feature ``(D,)`` that is subtracted before normalisation.
        normalise: L2-normalise patch features, where False leaves them as projected, for fitting a centre.

    Returns:
        Patch features of every tap, and the global feature where asked for.
    """
    start = None if options.local_attention == "none" else first_local_block(tower.depth, options.local_start)
    tokens = tower.embed(pixels.to(tower.device), position_mode=options.position_mode)
    weights = HeadWeights() if head_weights is None or callable(head_weights) else head_weights
    local: Tensor | None = None
    taps: dict[int, Tensor] = {}
    inputs: dict[int, Tensor] = {}
    for layer, block in enumerate(tower.blocks[: _last_block(tower, options) + 1]):
        if options.keep_inputs and layer in options.layers:
            inputs[layer] = tokens
        if layer == start:
            local = tokens[:, tower.prefix :]
            weights = head_weights(tokens[:, 0]) if callable(head_weights) else weights
        with_local = local is not None and layer <= max(options.layers)
        rows = _rows_wanted(tower, options, layer, local is None)
        tokens, update = _run_block(
            block, layer, tokens, with_local, tower.prefix, options, weights, (folded or {}).get(layer), rows
        )
        if local is not None and update is not None:
            local = local + update
        if layer in options.layers:
            patch_tokens = tokens[:, tower.prefix :] if local is None else local
            features = tower.project(patch_tokens)
            taps[layer] = _finish(features, (centre or {}).get(layer)) if normalise else features
    global_feature = _global_feature(tower, tokens, options) if options.want_global else None
    return ImageFeatures(taps, tower.grid(pixels), global_feature, inputs)


def _last_block(tower: ImageTower, options: EncodeOptions) -> int:
    """The last block that anything depends on."""
    return tower.depth - 1 if options.want_global else max(options.layers)


def _rows_wanted(tower: ImageTower, options: EncodeOptions, layer: int, taps_original: bool) -> Rows:
    """Which tokens of the original path anything depends on after ``layer``."""
    if layer < _last_block(tower, options) or (taps_original and layer in options.layers):
        return "all"
    if not options.want_global:
        return "none"
    return "first" if tower.pool == "token" else "all"


def _run_block(
    block: Block,
    layer: int,
    tokens: Tensor,
    with_local: bool,
    prefix: int,
    options: EncodeOptions,
    weights: HeadWeights,
    folded: Tensor | None,
    rows: Rows,
) -> tuple[Tensor, Tensor | None]:
    """One block of both paths; q, k and v are shared.

    Returns:
        The new tokens, of ``rows`` alone, and the local path's update.
    """
    normed = block.norm1(tokens)
    only_values = rows == "none" and options.local_attention == "vv"
    qkv = (_project_values(block, normed),) * 3 if only_values else _project_qkv(block, normed)
    by_temperature = weights.site == "attention_temperature"
    global_factors, local_factors = weights.at("global", layer), weights.at("local", layer)
    shared = with_local and options.local_attention == "qk"  # the local path takes the ordinary attention as it is
    query = qkv[0] if shared else qkv[0][:, :, : _ROWS[rows]]
    ordinary = attend(query, *qkv[1:], temperature=global_factors if by_temperature else None, kernel=options.kernel)
    update: Tensor | None = None
    if with_local:
        heads = attend_locally(
            options.local_attention,
            qkv,
            ordinary,
            prefix=prefix,
            temperature=local_factors if by_temperature else None,
            kernel=options.kernel,
        )
        factors = None if by_temperature or folded is not None else local_factors
        update = _merge_heads(block, heads, factors, folded)
    if rows != "none":
        tokens, ordinary = tokens[:, : _ROWS[rows]], ordinary[:, :, : _ROWS[rows]]
        factors = None if by_temperature else global_factors
        tokens = _advance(block, tokens, _merge_heads(block, ordinary, factors, None))
    return tokens, update


def run_block(block: Block, tokens: Tensor, kernel: Kernel = "auto") -> Tensor:
    """Run the tower's own forward through one block, for methods that act between blocks.

    Args:
        block: A block of a tower.
        tokens: ``(N, T, width)`` that enter it.
        kernel: Attention kernel.

    Returns:
        ``(N, T, width)`` that leave it.
    """
    ordinary = attend(*_project_qkv(block, block.norm1(tokens)), kernel=kernel)
    return _advance(block, tokens, _merge_heads(block, ordinary, None, None))


def attend_by(block: Block, tokens: Tensor, attention: Tensor) -> Tensor:
    """Put a block's values under an attention from elsewhere, through its output projection.

    Args:
        block: A block of a tower.
        tokens: ``(N, T, width)`` that enter the block.
        attention: ``(N, P, P)`` over the last P tokens, one for all heads.

    Returns:
        ``(N, P, width)``: the update of the block's attention, without its residual.
    """
    values = _project_values(block, block.norm1(tokens))[:, :, -attention.shape[-1] :]
    return _merge_heads(block, attention[:, None].to(values.dtype) @ values, None, None)


def _advance(block: Block, tokens: Tensor, update: Tensor) -> Tensor:
    """The rest of a block on the original path: residual, then the MLP."""
    tokens = tokens + update
    hidden = block.norm2(tokens).to(block.qkv_weight.dtype)
    advanced: Tensor = tokens + block.scale2(block.mlp(hidden))
    return advanced


@dataclass(frozen=True)
class Contributions:
    """What the tapped features of a batch are made of: they are linear in the local head weights.

    Attributes:
        base: ``(N, P, width)`` float32 tokens where the local path starts.
        heads: ``(N, P, L, width)`` outputs of the heads of each local block up to the last tap, heads side by side.
        cls_token: ``(N, width)`` class token where the local path starts.
        global_feature: ``(N, D)`` L2-normalised, or None where it was not asked for.
        grid: ``(Hp, Wp)``.
    """

    base: Tensor
    heads: Tensor
    cls_token: Tensor
    global_feature: Tensor | None
    grid: tuple[int, int]

    def __len__(self) -> int:
        return len(self.base)


@torch.no_grad()
def local_contributions(tower: ImageTower, pixels: Tensor, options: EncodeOptions) -> Contributions:
    """Run the frozen tower once and keep what every local head says, before any head weight.

    Args:
        tower: A frozen image tower.
        pixels: ``(N, 3, H, W)``, normalised, sides multiples of the patch size.
        options: Taps, all of them on the local path.

    Returns:
        What the tapped features are made of.

    Raises:
        ModelError: no local path, or a tap before it.
    """
    start = None if options.local_attention == "none" else first_local_block(tower.depth, options.local_start)
    if start is None or start > min(options.layers):
        raise ModelError(
            "Head contributions must come from a local path that begins before every tap",
            f"local attention {options.local_attention}, first local block {start}, taps {list(options.layers)}",
            "Use feature_layers that are not before local_start",
        )
    tokens = tower.embed(pixels.to(tower.device), position_mode=options.position_mode)
    base, cls_token, kept = tokens, tokens[:, 0], []
    for layer, block in enumerate(tower.blocks[: _last_block(tower, options) + 1]):
        if layer == start:
            base, cls_token = tokens[:, tower.prefix :], tokens[:, 0]
        qkv = _project_qkv(block, block.norm1(tokens))
        ordinary = attend(*qkv, kernel=options.kernel)
        if start <= layer <= max(options.layers):
            heads = attend_locally(options.local_attention, qkv, ordinary, prefix=tower.prefix, kernel=options.kernel)
            kept.append(heads.transpose(1, 2).flatten(2))
        tokens = _advance(block, tokens, _merge_heads(block, ordinary, None, None))
    global_feature = _global_feature(tower, tokens, options) if options.want_global else None
    return Contributions(base, torch.stack(kept, dim=2), cls_token, global_feature, tower.grid(pixels))


def _project_qkv(block: Block, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(N, T, width)`` → query, key, value, each ``(N, heads, T, head_dim)``."""
    n, t, width = normed.shape
    flat = F.linear(normed.to(block.qkv_weight.dtype), block.qkv_weight, block.qkv_bias)
    split = flat.view(n, t, 3, block.heads, width // block.heads)
    query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
    return block.query_norm(query), block.key_norm(key), value


def _project_values(block: Block, normed: Tensor) -> Tensor:
    """``(N, T, width)`` → value ``(N, heads, T, head_dim)`` alone."""
    width = normed.shape[-1]
    bias = None if block.qkv_bias is None else block.qkv_bias[2 * width :]
    flat = F.linear(normed.to(block.qkv_weight.dtype), block.qkv_weight[2 * width :], bias)
    return flat.unflatten(-1, (block.heads, -1)).transpose(1, 2)


def _merge_heads(block: Block, heads: Tensor, factors: Tensor | None, out_weight: Tensor | None) -> Tensor:
    """Δ = concat_h(w_h · O_h) W_O + b_O: ``(N, heads, T, d)`` → ``(N, T, width)``, to be added in float32."""
    if factors is not None:
        heads = heads * factors.to(heads.dtype)
    merged = heads.transpose(1, 2).flatten(2)
    weight = block.out_weight if out_weight is None else out_weight
    update: Tensor = block.scale1(F.linear(merged, weight, block.out_bias))
    return update


def _global_feature(tower: ImageTower, tokens: Tensor, options: EncodeOptions) -> Tensor:
    if tower.pool == "average" and tower.norm_after_pool:
        mean = tokens[:, tower.prefix :].mean(dim=1)
        return F.normalize(tower.project(mean, norm=options.global_norm), dim=-1)
    if tower.pool == "average":
        return F.normalize(tower.project(tokens, norm=options.global_norm)[:, tower.prefix :].mean(dim=1), dim=-1)
    return F.normalize(tower.project(tokens[:, 0], norm=options.global_norm), dim=-1)


def _finish(features: Tensor, centre: Tensor | None) -> Tensor:
    return F.normalize(features if centre is None else features - centre.to(features.device), dim=-1)


def resolve_layers(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """Resolve layers, of which negative ones count from the end.

    Args:
        layers: 0-based, in [−depth, depth − 1].
        depth: Blocks of the tower.

    Returns:
        0-based layers in [0, depth − 1], in the order given.

    Raises:
        ModelError: no layer, one outside ``-depth … depth - 1``, or the same one twice.
    """
    outside = [layer for layer in layers if not -depth <= layer < depth]
    if outside or not layers:
        raise ModelError(
            f"Layers must lie between {-depth} and {depth - 1}, for a tower of {depth} blocks",
            ", ".join(map(str, outside)) or "none",
            "Layers are 0-based: the AnomalyCLIP family's 24 is 23 here",
        )
    resolved = tuple(layer % depth for layer in layers)
    if len(set(resolved)) < len(resolved):
        raise ModelError("Layers must differ from each other", ", ".join(map(str, layers)), "Name each layer once")
    return resolved


def quarters(depth: int) -> tuple[int, ...]:
    """List the last block of each quarter of a tower.

    Args:
        depth: Blocks of the tower.

    Returns:
        0-based, rising: 5, 11, 17, 23 of 24.
    """
    return tuple(sorted({-(-depth * part // 4) - 1 for part in (1, 2, 3, 4)}))
