"""The recipe's pixel-level loss as a module, for a trainer's ``loss_function``."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med.base.errors import InputError
from headclip_med.bundle.network import IGNORE
from headclip_med.training.losses import VALID_SHARE, map_loss


class MapLoss(nn.Module):
    """focal + dice of abnormal + dice of normal (AnomalyCLIP, arXiv 2310.18961) on the grid of the prediction.

    Truth is the share of a patch that is lesion; patches outside the patient do not count.

    Args:
        gamma: of the focal loss. lesion_share: share of lesion in the training data, so that lesion and the rest weigh
            half each; None: every patch weighs the same.
    """

    def __init__(self, gamma: float = 2.0, lesion_share: float | None = None) -> None:
        super().__init__()
        self.gamma, self.lesion_share = gamma, lesion_share

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """The loss of maps.

        Args:
            pred: ``(N, 1, Hp, Wp)`` in [0, 1]; label: ``(N, 1, S, S)``, 1 in a lesion, 255 outside the patient.
        """
        if pred.ndim != 4 or label.ndim != 4 or pred.shape[:2] != label.shape[:2]:
            shapes = f"{tuple(pred.shape)} and {tuple(label.shape)}"
            raise InputError("Prediction and label must be (N, 1, rows, columns)", shapes)
        size = pred.shape[-2:]
        lesion = F.adaptive_avg_pool2d((label == 1).float(), size)[:, 0]
        valid = (F.adaptive_avg_pool2d((label != IGNORE).float(), size)[:, 0] >= VALID_SHARE).float()
        return map_loss(pred[:, 0], lesion, valid, gamma=self.gamma, lesion_share=self.lesion_share)
