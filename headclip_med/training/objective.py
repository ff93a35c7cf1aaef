"""The loss of one batch of head weights, and how well a state does on slices that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from headclip_med.detectors import Detector
from headclip_med.detectors.losses import patch_map_loss, pull_to_one, score_loss
from headclip_med.detectors.scoring import joint_score
from headclip_med.evaluation.metrics.counts import CountSum, count_scores
from headclip_med.evaluation.metrics.curves import auroc, average_precision
from headclip_med.training.adapter import Adapter
from headclip_med.training.batches import collate
from headclip_med.training.config import TrainConfig
from headclip_med.training.features import FeatureBank, PatchTruth
from headclip_med.training.slices import TrainingSlice

# Validation goes through the slices in groups of this size: from kept features, and through the whole tower.
_AT_ONCE = 8
_SCORED_AT_ONCE = 4


@dataclass(frozen=True)
class Quality:
    """AUROC and average precision of patches or pixels of held-out slices, pooled over all. NaN: one class only."""

    auroc: float
    average_precision: float


def batch_loss(
    adapter: Adapter, bank: FeatureBank, indices: Sequence[int], config: TrainConfig, lesion_share: float | None
) -> Tensor:
    """Compute L = image · CE + local · Σ_taps (focal + dice + dice) + joint · CE(joint score) + decay · pull to 1.

    AnomalyCLIP's recipe (arXiv 2310.18961) on the patch grid, with soft truth instead of up-sampled maps.

    Args:
        adapter: What learns.
        bank: Features and truth of the training slices.
        indices: The slices of the batch.
        config: Weights of the terms.
        lesion_share: Of :func:`lesion_share` for a balanced loss, None for a plain one.

    Returns:
        A scalar, differentiable in the adapter.
    """
    truth = bank.truth(indices)
    features, global_feature = bank.features(adapter, indices)
    maps, image = adapter.probabilities(features, global_feature)
    grids = maps.unflatten(-1, truth.lesion.shape[1:])
    terms = config.loss
    of_map = partial(patch_map_loss, gamma=terms.gamma, lesion_share=lesion_share)
    parts = [of_map(grid, truth.lesion, truth.valid) for grid in grids]
    loss = terms.local * torch.stack(parts).sum()
    if image is not None and terms.image:
        loss = loss + terms.image * score_loss(image, truth.labels)
    if terms.joint:
        loss = loss + terms.joint * score_loss(_joint(grids, truth, image), truth.labels)
    if adapter.heads is not None and adapter.heads.predictor is None and config.heads.decay:
        loss = loss + config.heads.decay * pull_to_one(adapter.heads.factors())
    return loss


@torch.no_grad()
def validate(adapter: Adapter, bank: FeatureBank) -> Quality:
    """Give the quality on every slice of ``bank``: valid patches, abnormal from half a patch of lesion on.

    Args:
        adapter: As it is now.
        bank: Slices held back.

    Returns:
        AUROC and average precision, pooled over all patches.
    """
    groups = [range(begin, min(begin + _AT_ONCE, len(bank))) for begin in range(0, len(bank), _AT_ONCE)]
    return _pooled(_patches_of(adapter, bank, indices) for indices in groups)


def validate_maps(detector: Detector, slices: Sequence[TrainingSlice]) -> Quality:
    """Give the quality of a detector's maps on ``slices``: every pixel of the patient.

    Args:
        detector: As it is now.
        slices: Held back.

    Returns:
        AUROC and average precision, pooled over all pixels.
    """
    groups = [slices[begin : begin + _SCORED_AT_ONCE] for begin in range(0, len(slices), _SCORED_AT_ONCE)]
    return _pooled(_pixels_of(detector, group) for group in groups)


def is_defined(quality: Quality) -> bool:
    """Tell whether the held-out slices have both classes.

    Args:
        quality: On slices held back.

    Returns:
        False where one class is missing.
    """
    return bool(np.isfinite(quality.average_precision))


def lesion_share(bank: FeatureBank) -> float:
    """Give the share of lesion in the valid patches of the training slices, in [0, 1].

    Args:
        bank: Training slices.

    Returns:
        0 where no patch is valid.
    """
    lesion = valid = 0.0
    for index in range(len(bank)):
        truth = bank.truth([index])
        lesion += float((truth.lesion * truth.valid).sum())
        valid += float(truth.valid.sum())
    return lesion / max(valid, 1.0)


def _joint(grids: Tensor, truth: PatchTruth, image: Tensor | None) -> Tensor:
    """Joint score: half the image's probability, half the map's maximum inside the patient."""
    inside = grids.mean(dim=0) * truth.valid
    return joint_score(image, inside.flatten(1).amax(dim=1), 0.5)


def _patches_of(adapter: Adapter, bank: FeatureBank, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Scores and truth of the valid patches of some slices, ``(M,)`` each."""
    truth = bank.truth(indices)
    maps, _ = adapter.probabilities(*bank.features(adapter, indices))
    inside = truth.valid.flatten() > 0
    return maps.mean(dim=0).flatten()[inside], (truth.lesion.flatten() >= 0.5)[inside]


def _pixels_of(detector: Detector, slices: Sequence[TrainingSlice]) -> tuple[Tensor, Tensor]:
    """Scores and truth of the patient's pixels in some slices, ``(M,)`` each."""
    batch = collate(slices)
    return detector.score(batch.pixels, batch.valid).maps[batch.valid], batch.mask[batch.valid] > 0.5


def _pooled(found: Iterable[tuple[Tensor, Tensor]]) -> Quality:
    """Quality of all scores with their truth together."""
    total = CountSum()
    for scores, truth in found:
        total.add(count_scores(scores.clamp(0, 1).numpy(), truth.numpy()))
    counts = total.counts()
    return Quality(
        float(auroc(counts.negatives, counts.positives)), float(average_precision(counts.negatives, counts.positives))
    )
