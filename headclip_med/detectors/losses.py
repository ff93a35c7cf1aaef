"""Losses of the AnomalyCLIP family (arXiv 2310.18961): as published, and ours on the patch grid.

Maps, truth and ``valid`` are ``(N, H, W)`` in [0, 1]; maps are probabilities of abnormal, truth is 1 in a lesion.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med.base.errors import InputError

# In a mask: no loss is taken there, and it is neither lesion nor free of one.
IGNORED = 255

# A patch counts from this share of patient in it.
VALID_SHARE = 0.25

# What the released recipe clamps the truth with and adds to probabilities, so that logarithms are finite.
_SMALL = 1e-5


# ---- as published (B4), over all of a map of the input's size


def focal_loss(probabilities: Tensor, truth: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Compute the focal loss −(1 − p_t)^γ log p_t (arXiv 1708.02002), the plain mean over all pixels.

    p_t is the probability of the true class, under a truth that is clamped away from 0 and 1 by 1e-5, plus 1e-5.

    Args:
        probabilities: ``(N, H, W)`` of abnormal.
        truth: ``(N, H, W)``, 1 in a lesion.
        gamma: how little easy pixels count, 0 or more.

    Returns:
        A scalar.
    """
    abnormal = truth.clamp(_SMALL, 1 - _SMALL)
    normal = (1 - truth).clamp(_SMALL, 1 - _SMALL)
    true_class = normal * (1 - probabilities) + abnormal * probabilities + _SMALL
    return -((1 - true_class) ** gamma * true_class.log()).mean()


def dice_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """Compute 1 − mean over images of (2 Σ p g + 1) / (Σ p + Σ g + 1).

    Args:
        probabilities: ``(N, H, W)`` of abnormal.
        truth: ``(N, H, W)`` in [0, 1].

    Returns:
        A scalar.
    """
    p, g = probabilities.flatten(1), truth.flatten(1)
    overlap = (2 * (p * g).sum(dim=1) + 1) / (p.sum(dim=1) + g.sum(dim=1) + 1)
    return 1 - overlap.mean()


def map_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """Compute AnomalyCLIP's loss of one map: focal + dice of abnormal + dice of normal.

    Args:
        probabilities, truth: as of :func:`dice_loss`.

    Returns:
        A scalar.
    """
    return focal_loss(probabilities, truth) + dice_loss(probabilities, truth) + dice_loss(1 - probabilities, 1 - truth)


def image_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy of images.

    Args:
        logits: ``(N, 2)``, ``[normal, abnormal]``.
        labels: ``(N,)``, 0 or 1.

    Returns:
        A scalar.
    """
    return F.cross_entropy(logits.float(), labels.long())


# ---- ours, on the patch grid: soft truth, the patient only, and balance for small lesions


def patch_focal_loss(
    probabilities: Tensor, truth: Tensor, valid: Tensor, *, gamma: float = 2.0, lesion_share: float | None = None
) -> Tensor:
    """Compute the focal loss with a soft truth, the mean over valid patches and then over images.

    Args:
        probabilities: ``(N, H, W)`` of abnormal.
        truth: ``(N, H, W)``, the share of a patch that is lesion.
        valid: ``(N, H, W)``, 1 where the loss is taken, else 0.
        gamma: as of :func:`focal_loss`.
        lesion_share: share of lesion in the valid patches of the training data, so that lesion and the rest weigh half
            each, None for the plain mean. It is a constant of the data, not of the batch: a loss that is a mean over
            images is the same on one process and on several.

    Returns:
        A scalar.
    """
    p = probabilities.clamp(_SMALL, 1 - _SMALL)
    abnormal = -((1 - p) ** gamma) * p.log() * truth
    normal = -(p**gamma) * (1 - p).log() * (1 - truth)
    if lesion_share is not None:
        share = min(max(lesion_share, _SMALL), 1 - _SMALL)
        abnormal, normal = abnormal / (2 * share), normal / (2 * (1 - share))
    pixels = valid.flatten(1).sum(dim=1).clamp_min(1)
    return (((abnormal + normal) * valid).flatten(1).sum(dim=1) / pixels).mean()


def patch_map_loss(
    probabilities: Tensor, truth: Tensor, valid: Tensor, *, gamma: float = 2.0, lesion_share: float | None = None
) -> Tensor:
    """Compute focal + dice of abnormal + dice of normal, as :func:`map_loss`.

    Args:
        probabilities, truth, valid, gamma, lesion_share: as of :func:`patch_focal_loss`.

    Returns:
        A scalar.
    """
    focal = patch_focal_loss(probabilities, truth, valid, gamma=gamma, lesion_share=lesion_share)
    abnormal = dice_loss(probabilities * valid, truth * valid)
    return focal + abnormal + dice_loss((1 - probabilities) * valid, (1 - truth) * valid)


def score_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Compute the cross-entropy of image scores.

    Args:
        scores: ``(N,)``, probabilities of abnormal.
        labels: ``(N,)``, 0 or 1.

    Returns:
        A scalar.
    """
    return F.binary_cross_entropy(scores.clamp(_SMALL, 1 - _SMALL), labels)


def pull_to_one(weights: Tensor) -> Tensor:
    """Compute the mean squared distance of head weights from 1, the frozen tower.

    Args:
        weights: of any shape.

    Returns:
        A scalar.
    """
    return (weights - 1).square().mean()


class MapLoss(nn.Module):
    """:func:`patch_map_loss` on the grid of the prediction, for a trainer's ``loss_function``.

    Truth is the share of a patch that is lesion. Patches outside the patient do not count.

    Args:
        gamma: of the focal loss.
        lesion_share: as of :func:`patch_focal_loss`.
    """

    def __init__(self, gamma: float = 2.0, lesion_share: float | None = None) -> None:
        super().__init__()
        self.gamma, self.lesion_share = gamma, lesion_share

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """Give the loss of maps.

        Args:
            pred: ``(N, 1, Hp, Wp)`` in [0, 1].
            label: ``(N, 1, S, S)``, 1 in a lesion, 255 outside the patient.

        Returns:
            A scalar.

        Raises:
            InputError: other shapes.
        """
        if pred.ndim != 4 or label.ndim != 4 or pred.shape[:2] != label.shape[:2]:
            shapes = f"{tuple(pred.shape)} and {tuple(label.shape)}"
            raise InputError("Prediction and label must be (N, 1, rows, columns)", shapes)
        size = pred.shape[-2:]
        lesion = F.adaptive_avg_pool2d((label == 1).float(), size)[:, 0]
        valid = (F.adaptive_avg_pool2d((label != IGNORED).float(), size)[:, 0] >= VALID_SHARE).float()
        return patch_map_loss(pred[:, 0], lesion, valid, gamma=self.gamma, lesion_share=self.lesion_share)
