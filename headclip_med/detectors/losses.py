"""Losses as the AnomalyCLIP family publishes them (arXiv 2310.18961, B4): on maps of the input's size, over all of it.

Probabilities of abnormal and truth are ``(N, H, W)`` in [0, 1]; truth is 1 in a lesion.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

# What the released recipe clamps the truth with and adds to probabilities, so that logarithms are finite.
_SMALL = 1e-5


def focal_loss(probabilities: Tensor, truth: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss −(1 − p_t)^γ log p_t (arXiv 1708.02002), the plain mean over all pixels.

    p_t is the probability of the true class, under a truth that is clamped away from 0 and 1 by 1e-5, plus 1e-5.
    """
    abnormal = truth.clamp(_SMALL, 1 - _SMALL)
    normal = (1 - truth).clamp(_SMALL, 1 - _SMALL)
    true_class = normal * (1 - probabilities) + abnormal * probabilities + _SMALL
    return -((1 - true_class) ** gamma * true_class.log()).mean()


def dice_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """1 − mean over images of (2 Σ p g + 1) / (Σ p + Σ g + 1)."""
    p, g = probabilities.flatten(1), truth.flatten(1)
    overlap = (2 * (p * g).sum(dim=1) + 1) / (p.sum(dim=1) + g.sum(dim=1) + 1)
    return 1 - overlap.mean()


def map_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """AnomalyCLIP's loss of one map: focal + dice of abnormal + dice of normal."""
    return focal_loss(probabilities, truth) + dice_loss(probabilities, truth) + dice_loss(1 - probabilities, 1 - truth)


def image_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of image-level logits ``(N, 2)``, ``[normal, abnormal]``, with labels 0 or 1 ``(N,)``."""
    return F.cross_entropy(logits.float(), labels.long())
