"""The trivial feature beside the learned one: brightness joins the map by a logistic regression on training slices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med.detectors.headclip.config import SIGMA_REFERENCE
from headclip_med.detectors.scoring import fuse_intensity, grey_levels, upsample
from headclip_med.training.adapter import Adapter
from headclip_med.training.features import FeatureBank

Fusion = tuple[float, float, float]

_PIXELS = 300  # per slice and class
_DECAY = 1e-4


@torch.no_grad()
def fit_fusion(adapter: Adapter, bank: FeatureBank, slices: int, sigma: float, seed: int) -> Fusion:
    """Fit how brightness joins the map, from the first slices of ``bank``.

    Args:
        adapter: As it was trained.
        bank: Training slices.
        slices: How many of them.
        sigma: Smoothing of the map in pixels at the reference input size, as the detector will smooth it.
        seed: Of the choice of pixels.

    Returns:
        (a, b, c) of :func:`headclip_med.detectors.scoring.fuse_intensity`, class-balanced.
    """
    draw = torch.Generator().manual_seed(seed)
    rows, labels = [], []
    for index in range(slices):
        maps, levels, inside, lesion = pixel_features(adapter, bank, index, sigma)
        for label, wanted in ((1.0, lesion & inside), (0.0, ~lesion & inside)):
            places = torch.nonzero(wanted.flatten())[:, 0]
            places = places[torch.randperm(len(places), generator=draw)[:_PIXELS]]
            features = torch.stack([torch.logit(maps.flatten(), eps=1e-6), levels.flatten()], dim=1)[places]
            rows.append(features)
            labels.append(torch.full((len(places),), label))
    return logistic_fusion(torch.cat(rows), torch.cat(labels))


@torch.no_grad()
def pixel_features(
    adapter: Adapter, bank: FeatureBank, index: int, sigma: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute map, brightness, patient and lesion of one slice at input size.

    Args:
        adapter: As it was trained.
        bank: Training slices.
        index: Place in the bank.
        sigma: Smoothing of the map in pixels at the reference input size.

    Returns:
        Map and brightness in [0, 1], patient and lesion bool, each ``(S, S)``.
    """
    part = bank.slices[index]
    maps, _ = adapter.probabilities(*bank.features(adapter, [index]))
    size = part.mask.shape[-1]
    side = size // bank.tower.patch_size
    patches = maps.mean(dim=0).unflatten(-1, (side, side))
    smooth = upsample(patches, (size, size), sigma=sigma * size / SIGMA_REFERENCE).clamp(0, 1)[0]
    levels = grey_levels(part.pixels[None].float(), bank.tower.mean, bank.tower.std)[0]
    return smooth, levels, part.valid, part.mask == 1


def fused(maps: Tensor, levels: Tensor, fusion: Fusion | None) -> Tensor:
    """Put brightness into the map, or leave it as it is.

    Args:
        maps: In [0, 1].
        levels: Brightness of the same shape, in [0, 1].
        fusion: (a, b, c), or None.

    Returns:
        Of the same shape, in [0, 1].
    """
    return maps if fusion is None else fuse_intensity(maps, levels, fusion)


def logistic_fusion(features: Tensor, labels: Tensor, shares: Tensor | None = None) -> Fusion:
    """Fit class-balanced logistic regression on log-odds of the map and brightness.

    Args:
        features: ``(M, 2)``, log-odds and brightness.
        labels: ``(M,)``, 1 for lesion.
        shares: ``(M,)``, what each row weighs among those of its class, None for all the same.

    Returns:
        (a, b, c): factors of the log-odds and of brightness, and the offset.
    """
    shares = torch.ones_like(labels) if shares is None else shares
    lesion = labels > 0
    weight = 0.5 * torch.where(lesion, shares / shares[lesion].sum(), shares / shares[~lesion].sum())
    with torch.enable_grad():
        theta = torch.tensor([1.0, 0.0, 0.0], requires_grad=True)
        optimiser = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            logits = features @ theta[:2] + theta[2]
            losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
            loss = (weight * losses).sum() + _DECAY * theta[:2].square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
    a, b, c = (float(value) for value in theta.detach())
    return a, b, c
