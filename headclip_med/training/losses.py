"""Losses of the AnomalyCLIP recipe (arXiv 2310.18961) with what small lesions need: balance, and the patient only.

All take probabilities of abnormal and soft truth in [0, 1] on one grid, and ``valid``: where the loss is taken.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

# Keeps logarithms finite, as the released recipe does.
_SMALL = 1e-5

# A patch counts from this share of patient in it.
VALID_SHARE = 0.25


def focal_loss(
    probabilities: Tensor, truth: Tensor, valid: Tensor, *, gamma: float = 2.0, lesion_share: float | None = None
) -> Tensor:
    """Focal loss −(1 − p_t)^γ log p_t (Lin et al., arXiv 1708.02002), mean over valid pixels, then over images.

    Args:
        probabilities, truth, valid: ``(N, H, W)``; truth may be the share of a patch that is lesion.
        lesion_share: share of lesion in the valid pixels of the training data, so that lesion and the rest weigh half
            each; None for the plain mean. It is a constant of the data, not of the batch: a loss that is a mean over
            images is the same on one process and on several.
    """
    p = probabilities.clamp(_SMALL, 1 - _SMALL)
    abnormal = -((1 - p) ** gamma) * p.log() * truth
    normal = -(p**gamma) * (1 - p).log() * (1 - truth)
    if lesion_share is not None:
        share = min(max(lesion_share, _SMALL), 1 - _SMALL)
        abnormal, normal = abnormal / (2 * share), normal / (2 * (1 - share))
    pixels = valid.flatten(1).sum(dim=1).clamp_min(1)
    return (((abnormal + normal) * valid).flatten(1).sum(dim=1) / pixels).mean()


def dice_loss(probabilities: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """1 − mean over images of (2 Σ p g + 1) / (Σ p + Σ g + 1)."""
    p, g = (part.flatten(1) for part in (probabilities * valid, truth * valid))
    overlap = (2 * (p * g).sum(dim=1) + 1) / (p.sum(dim=1) + g.sum(dim=1) + 1)
    return 1 - overlap.mean()


def map_loss(
    probabilities: Tensor, truth: Tensor, valid: Tensor, *, gamma: float = 2.0, lesion_share: float | None = None
) -> Tensor:
    """focal + dice of abnormal + dice of normal: the recipe's pixel-level loss for one map."""
    focal = focal_loss(probabilities, truth, valid, gamma=gamma, lesion_share=lesion_share)
    return focal + dice_loss(probabilities, truth, valid) + dice_loss(1 - probabilities, 1 - truth, valid)


def image_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of image-level probabilities of abnormal ``(N,)`` with labels 0 or 1 ``(N,)``."""
    return F.binary_cross_entropy(probabilities.clamp(_SMALL, 1 - _SMALL), labels)


def pull_to_one(weights: Tensor) -> Tensor:
    """Mean squared distance of head weights from 1, the frozen tower."""
    return (weights - 1).square().mean()
