"""Losses of the AnomalyCLIP recipe (arXiv 2310.18961) with what small lesions need: balance, and the patient only.

All take probabilities of abnormal and soft truth in [0, 1] on one grid, and ``valid``: where the loss is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Keeps logarithms finite, as the released recipe does.
_SMALL = 1e-5


def focal_loss(
    probabilities: Tensor, truth: Tensor, valid: Tensor, *, gamma: float = 2.0, balanced: bool = True
) -> Tensor:
    """Focal loss −(1 − p_t)^γ log p_t (Lin et al., arXiv 1708.02002).

    Args:
        probabilities, truth, valid: ``(N, H, W)``; truth may be the share of a patch that is lesion.
        balanced: lesion and lesion-free pixels of the batch weigh half each, whatever their number; otherwise the plain
            mean over valid pixels.
    """
    p = probabilities.clamp(_SMALL, 1 - _SMALL)
    abnormal = -((1 - p) ** gamma) * p.log() * truth
    normal = -(p**gamma) * (1 - p).log() * (1 - truth)
    if not balanced:
        return ((abnormal + normal) * valid).sum() / valid.sum().clamp_min(1)
    lesion, free = (truth * valid).sum(), ((1 - truth) * valid).sum()
    terms = [(part * valid).sum() / mass for part, mass in ((abnormal, lesion), (normal, free)) if mass > 0]
    return torch.stack(terms).mean()


def dice_loss(probabilities: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """1 − mean over images of (2 Σ p g + 1) / (Σ p + Σ g + 1)."""
    p, g = (part.flatten(1) for part in (probabilities * valid, truth * valid))
    overlap = (2 * (p * g).sum(dim=1) + 1) / (p.sum(dim=1) + g.sum(dim=1) + 1)
    return 1 - overlap.mean()


def map_loss(probabilities: Tensor, truth: Tensor, valid: Tensor, *, gamma: float = 2.0, balanced: bool = True) -> Tensor:
    """focal + dice of abnormal + dice of normal: the recipe's pixel-level loss for one map."""
    focal = focal_loss(probabilities, truth, valid, gamma=gamma, balanced=balanced)
    return focal + dice_loss(probabilities, truth, valid) + dice_loss(1 - probabilities, 1 - truth, valid)


def image_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of image-level probabilities of abnormal ``(N,)`` with labels 0 or 1 ``(N,)``."""
    return F.binary_cross_entropy(probabilities.clamp(_SMALL, 1 - _SMALL), labels)


def pull_to_one(weights: Tensor) -> Tensor:
    """Mean squared distance of head weights from 1, the frozen tower."""
    return (weights - 1).square().mean()
