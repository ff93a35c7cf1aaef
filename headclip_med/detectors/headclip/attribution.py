"""What every local attention head adds to the anomaly score of every patch, as an exact sum.

A tapped feature before the final norm is a sum: the tokens where the local path starts, the weighted heads, and the
blocks' biases. With the norm's deviation and the feature's length fixed at the current tokens, all that follows is
linear, so that the logit difference of a patch is the sum of its parts' shares:

    logit = scale · ⟨ u / ‖u‖, t_abn − t_nor ⟩,  u = LN(x) P − c,  x = base + Σ w_lh O_lh W_O^(h) + biases
    share(part) = scale / ‖u‖ · ⟨ part, g ⟩,  g = (v − mean v) / σ,  v = γ ∘ P (t_abn − t_nor)

with γ, β and σ of the final norm (its centring is linear). β and the blocks' biases have one share, the centre c has
one. To set a head's weight to 0 changes σ and ‖u‖ too: a share is a part of the score, not the effect of a removal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from headclip_med.base.errors import ModelError
from headclip_med.detectors.data import ClassFeatures
from headclip_med.detectors.headclip.detector import HeadCLIP
from headclip_med.encoders.head_weights import LayerChoice, place_head_weights
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import Contributions, EncodeOptions, first_local_block, local_contributions
from headclip_med.encoders.tower import Block, ImageTower


@dataclass(frozen=True)
class HeadShares:
    """Parts of the logit difference abnormal − normal of every patch, in logits. Positive ones raise the score.

    Attributes:
        layers: the T tapped layers, 0-based.
        first_layer: the first local block.
        heads: ``(T, L, heads, P)``, L local blocks from ``first_layer`` on, 0 for blocks after a tap.
        base: ``(T, P)`` of the tokens where the local path starts.
        biases, centre: ``(T, P)`` of the blocks' and the norm's biases, and of the centre.
        grid: ``(Hp, Wp)`` with P = Hp·Wp.
    """

    layers: tuple[int, ...]
    first_layer: int
    heads: Tensor
    base: Tensor
    biases: Tensor
    centre: Tensor
    grid: tuple[int, int]

    def logits(self) -> Tensor:
        """Sum all parts: the detector's own logit difference.

        Returns:
            ``(T, P)``.
        """
        return self.heads.sum(dim=(1, 2)) + self.base + self.biases + self.centre

    def by_head(self) -> Tensor:
        """Average over the taps, as the map is a mean over them.

        Returns:
            ``(L, heads, P)`` in logits.
        """
        return self.heads.mean(dim=0)


@dataclass(frozen=True)
class HeadEffect:
    """A head by its layer and number, both 0-based, and its mean share over some patches, in logits."""

    layer: int
    head: int
    logits: float


def detector_shares(detector: HeadCLIP, pixels: Tensor) -> HeadShares:
    """Compute the shares of all heads of a detector for one slice.

    Args:
        detector: With its classes, head weights and temperature.
        pixels: ``(1, 3, S, S)``, normalised.

    Returns:
        Shares in logits.

    Raises:
        ModelError: as of :func:`head_shares`.
    """
    scale = 1 / detector.config.temperature
    return head_shares(detector.tower, pixels, _options(detector), detector.classes, detector.head_weights, scale)


@torch.no_grad()
def head_shares(
    tower: ImageTower,
    pixels: Tensor,
    options: EncodeOptions,
    classes: ClassFeatures,
    weights: HeadWeights | Callable[[Tensor], HeadWeights] | None,
    logit_scale: float,
) -> HeadShares:
    """Compute the shares of all local heads for one slice.

    Args:
        tower: A frozen image tower.
        pixels: ``(1, 3, S, S)``, normalised.
        options: Taps, all of them on the local path.
        classes: For every layer in ``options.layers``.
        weights: On the outputs of the local heads, static or a function of the class token. None: all 1.
        logit_scale: 1 / temperature.

    Returns:
        Shares in logits.

    Raises:
        ModelError: several slices, a tap without a local path, weights that act elsewhere, or a final norm that is no
            layer norm.
    """
    if len(pixels) != 1:
        raise ModelError("Shares of heads must be asked for one slice", f"{len(pixels)} slices")
    parts = local_contributions(tower, pixels, options)
    start = first_local_block(tower.depth, options.local_start)
    weighted = _weighted_heads(parts, tower, weights, start)
    taps = [_at_tap(tower, parts.base[0], weighted, classes, layer, start) for layer in options.layers]
    heads, base, biases, centre = (logit_scale * torch.stack(part) for part in zip(*taps, strict=True))
    return HeadShares(options.layers, start, heads, base, biases, centre, parts.grid)


def strongest_heads(shares: HeadShares, inside: Tensor, count: int = 10) -> list[HeadEffect]:
    """Rank the heads that raise the logit most, by their mean share over some patches.

    Heads that lower it are not among them, so that there may be fewer than ``count``.

    Args:
        shares: Of one slice.
        inside: ``(P,)`` bool, the patches.
        count: How many heads at most.

    Returns:
        Heads, the highest share first.

    Raises:
        ModelError: no patch is inside.
    """
    if not bool(inside.any()):
        raise ModelError("At least one patch must be inside to rank heads", "none")
    mean = shares.by_head()[..., inside.to(shares.heads.device)].mean(dim=-1)
    heads = mean.shape[1]
    order = mean.flatten().argsort(descending=True, stable=True)[:count].tolist()
    return [
        HeadEffect(shares.first_layer + place // heads, place % heads, float(mean.flatten()[place]))
        for place in order
        if mean.flatten()[place] > 0
    ]


@torch.no_grad()
def acting_weights(detector: HeadCLIP, pixels: Tensor | None = None) -> dict[str, Tensor]:
    """List the head weights by branch, and without any, 1 for every local head.

    A local weight acts from the first local block to the last tap, in the layers that the configuration chose. Of one
    weight a channel the mean is given.

    Args:
        detector: With its head weights.
        pixels: ``(1, 3, S, S)``, which only weights need that are predicted from the class token.

    Returns:
        ``local``, ``global`` or both, ``(depth, heads)``, NaN where none acts.

    Raises:
        ModelError: predicted weights without a slice, or a detector without heads that could be weighted.
    """
    config, tower, weights = detector.config, detector.tower, detector.head_weights
    if callable(weights):
        weights = _predicted(detector, weights, pixels)
    layers: LayerChoice = config.lhw_layers
    if weights is None:
        if config.local_attention == "none":
            raise ModelError("A pack must have a local path or head weights to be shown", "neither")
        weights, layers = HeadWeights(torch.ones(tower.depth, tower.heads)), "dual"
    found = {}
    if weights.local is not None:
        found["local"] = _on_layers(weights.local, detector, layers)
        found["local"][: first_local_block(tower.depth, config.local_start)] = float("nan")
        found["local"][max(detector.layers) + 1 :] = float("nan")
    if weights.global_ is not None:
        found["global"] = _on_layers(weights.global_, detector, "all" if config.lhw_task_decoupled else layers)
    return found


def _predicted(detector: HeadCLIP, predict: Callable[[Tensor], HeadWeights], pixels: Tensor | None) -> HeadWeights:
    """Weights of one slice without the axis of images."""
    if pixels is None:
        raise ModelError("Predicted head weights must be shown for a slice", "none", "Add --slice FILE")
    weights = predict(local_contributions(detector.tower, pixels, _options(detector)).cls_token)
    local, global_ = (None if part is None else part[0] for part in (weights.local, weights.global_))
    return HeadWeights(local, global_, weights.site)


def _on_layers(factors: Tensor, detector: HeadCLIP, layers: LayerChoice) -> Tensor:
    """A copy ``(depth, heads)`` on the CPU, NaN outside the chosen layers."""
    config, tower = detector.config, detector.tower
    missing = torch.full((1, tower.heads), float("nan"))
    placed = place_head_weights(
        missing, tower.depth, layers=layers, local_start=config.local_start, tapped=detector.layers
    ).local
    assert placed is not None
    values = (factors.mean(dim=-1) if factors.ndim == 3 else factors).float().cpu()
    return torch.where(placed.isnan(), values, missing)


def _options(detector: HeadCLIP) -> EncodeOptions:
    config = detector.config
    return EncodeOptions(
        layers=detector.layers,
        local_attention=config.local_attention,
        local_start=config.local_start,
        want_global=False,
        position_mode=config.position_mode,
        kernel=config.kernel,
    )


def _weighted_heads(
    parts: Contributions,
    tower: ImageTower,
    weights: HeadWeights | Callable[[Tensor], HeadWeights] | None,
    start: int,
) -> Tensor:
    """w · O of every local head: ``(P, L, heads, head_dim)`` float32."""
    found = weights(parts.cls_token) if callable(weights) else weights or HeadWeights()
    if found.global_ is not None or found.site != "head_output":
        raise ModelError(
            "Shares of heads must come from weights on the outputs of the local heads only",
            f"site {found.site}, weights of the global path {'none' if found.global_ is None else 'given'}",
            "Elsewhere the score is no sum over heads",
        )
    heads = parts.heads[0].float().unflatten(-1, (tower.heads, -1))
    if found.local is None:
        return heads
    local = (found.local[0] if found.per_image else found.local)[start : start + heads.shape[1]]
    return heads * (local if local.ndim == 3 else local[..., None])


def _at_tap(
    tower: ImageTower, base: Tensor, heads: Tensor, classes: ClassFeatures, layer: int, start: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shares at one tap before the logit scale: heads ``(L, heads, P)``, base, biases and centre ``(P,)``."""
    used = tower.blocks[start : layer + 1]
    matrices = [_projection(block).unflatten(0, (tower.heads, -1)) for block in used]  # (heads, head_dim, width)
    bias = torch.stack([_bias(block) for block in used]).sum(dim=0)
    updates = [torch.einsum("phd,hdw->pw", heads[:, place], matrix) for place, matrix in enumerate(matrices)]
    tokens = base + torch.stack(updates).sum(dim=0) + bias
    both = classes.patch[layer].to(tokens)
    direction = both[1] - both[0]
    centre = classes.centre.get(layer)
    projected = tower.project(tokens) if centre is None else tower.project(tokens) - centre.to(tokens)
    length = projected.norm(dim=-1).clamp_min(1e-12)
    readout, deviation, shift = _through_norm(tower, tokens, direction)
    factor = 1 / (deviation * length)
    shares = heads.new_zeros(heads.shape[1], tower.heads, len(base))
    for place, matrix in enumerate(matrices):
        shares[place] = torch.einsum("phd,hd->hp", heads[:, place], matrix @ readout) * factor
    of_biases = (bias @ readout) * factor + shift / length
    of_centre = torch.zeros_like(length) if centre is None else -(centre.to(tokens) @ direction) / length
    return shares, (base @ readout) * factor, of_biases, of_centre


def _through_norm(tower: ImageTower, tokens: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """⟨ LN(x) P, direction ⟩ as ⟨ x, readout ⟩ / deviation + shift: ``(width,)``, ``(P,)``, a number."""
    seen = direction if tower.projection is None else tower.projection.float() @ direction
    norm = tower.norm_post
    if isinstance(norm, nn.Identity):
        return seen, torch.ones(len(tokens), device=tokens.device), seen.new_zeros(())
    if not isinstance(norm, nn.LayerNorm):
        raise ModelError("The tower's final norm must be a layer norm", type(norm).__name__, "Use another tower")
    scaled = seen if norm.weight is None else seen * norm.weight.float()
    shift = seen.new_zeros(()) if norm.bias is None else norm.bias.float() @ seen
    deviation = (tokens.var(dim=-1, unbiased=False) + norm.eps).sqrt()
    return scaled - scaled.mean(), deviation, shift


def _projection(block: Block) -> Tensor:
    """W_O with the layer scale in it ``(width of the heads, width)`` float32."""
    scale = block.scale1(torch.ones(block.out_weight.shape[0], device=block.out_weight.device))
    return block.out_weight.float().T * scale


def _bias(block: Block) -> Tensor:
    """b_O with the layer scale in it ``(width,)`` float32."""
    width, device = block.out_weight.shape[0], block.out_weight.device
    scaled: Tensor = block.scale1(
        torch.zeros(width, device=device) if block.out_bias is None else block.out_bias.float()
    )
    return scaled
