"""One case and its prediction → what every metric needs of it, small enough to keep for any number of cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.geometry import slice_frame
from headclip_med.datasets.case import Case, LabelledVolume
from headclip_med.engine.result import AnomalyResult, SliceScore
from headclip_med.engine.volume_map import volume_score
from headclip_med.evaluation.controls import foreground_of
from headclip_med.evaluation.metrics.counts import ScoreCounts, count_map, count_scores
from headclip_med.evaluation.metrics.curves import auroc
from headclip_med.evaluation.metrics.lesions import CaseLesions, candidates_of, match_lesions
from headclip_med.evaluation.record import CaseRow
from headclip_med.evaluation.settings import Settings

Mask = NDArray[np.bool_]

_NOTHING_KNOWN = "every slice holds voxels that are ignored and no lesion: it counts neither as normal nor as abnormal"


@dataclass(frozen=True)
class CaseStatistics:
    """What is kept of one case under one model.

    Attributes:
        row: The case's own line.
        is_volume: More than one slice.
        slice_scores, slice_labels: ``(S,)`` of the scored slices of a volume with known lesions, else empty.
        inside, outside: How often each score occurs within the foreground (and lesions) and elsewhere. Together they
            are the whole map but what is ignored. None where nothing says where the lesions are.
        lesions: Findings against lesions at the model's threshold.
    """

    row: CaseRow
    is_volume: bool
    slice_scores: NDArray[np.float64]
    slice_labels: Mask
    inside: ScoreCounts | None = None
    outside: ScoreCounts | None = None
    lesions: CaseLesions | None = None


def case_facts(case: Case) -> dict[str, Any]:
    """Gather what is told about a case, whatever a model makes of it.

    Args:
        case: Its own name stands for the patient where none is given.

    Returns:
        Fields of its row: ``case``, ``patient``, ``category`` and ``columns``.
    """
    return {
        "case": case.name,
        "patient": case.patient or case.name,
        "category": case.category,
        "columns": dict(case.columns),
    }


def measure(
    case: Case, labelled: LabelledVolume, result: AnomalyResult, settings: Settings, seconds: float
) -> CaseStatistics:
    """Compare one prediction with its truth. Voxels about which nothing is known count nowhere.

    A slice without a lesion that holds such voxels counts neither at slice level nor in the score of its case, and a
    case of which no slice is left has no label: nobody can say that it is normal.

    Args:
        case: Whose name and columns go into the row.
        labelled: The same case with its truth.
        result: Its prediction, on the grid of the truth.
        settings: Of the metrics.
        seconds: That reading and prediction took.

    Returns:
        What every metric needs of the case.
    """
    truth = labelled.gt_mask
    counted = None if labelled.ignored is None else ~labelled.ignored
    anomaly_map = result.map_array
    judged = _judged_slices(result, truth, labelled.ignored)
    label, pred_score, warnings = labelled.gt_label, result.pred_score, [*labelled.warnings, *result.warnings]
    if len(judged) < len(result.slices):
        pred_score = volume_score([part.score for part, _ in judged if not part.background])
    if not judged and result.slices:
        label, pred_score = None, result.pred_score
        warnings.append(_NOTHING_KNOWN)
    scores, labels = _slices(judged if truth is not None and len(result.slices) > 1 else [])
    row = CaseRow(
        **case_facts(case),
        label=label,
        status="done",
        pred_score=pred_score,
        ignored_voxels=None if labelled.ignored is None else int(labelled.ignored.sum()),
        seconds=round(seconds, 3),
        warnings=tuple(warnings),
    )
    is_volume = min(anomaly_map.shape) > 1
    if truth is None:
        row = row.model_copy(update={"error_size": _distance(pred_score, label)})
        return CaseStatistics(row, is_volume, scores, labels)
    inside, outside = _count(result, truth, counted, settings)
    found = anomaly_map >= result.threshold if counted is None else (anomaly_map >= result.threshold) & counted
    lesions = match_lesions(*candidates_of(anomaly_map, found), truth, min_overlap=settings.min_overlap)
    dice = _dice(found, truth)
    row = row.model_copy(
        update={
            "dice": dice,
            "auroc": _number(float(auroc(inside.negatives, inside.positives))),
            "lesions": lesions.lesions,
            "lesions_found": int(lesions.is_hit.sum()),
            "false_positives": int((~lesions.is_hit & ~lesions.is_ignored).sum()),
            "error_size": _distance(pred_score, label) if dice is None else 1 - dice,
        }
    )
    return CaseStatistics(row, is_volume, scores, labels, inside, outside, lesions)


def _judged_slices(result: AnomalyResult, truth: Mask | None, ignored: Mask | None) -> list[tuple[SliceScore, bool]]:
    """Slices that can be judged and whether they hold a lesion: not those without one that hold ignored voxels."""
    if truth is None:
        return [(part, False) for part in result.slices]
    axis = slice_frame(result.affine, result.planes[0]).axis
    others = tuple(a for a in range(3) if a != axis)
    abnormal = np.asarray(truth.any(axis=others))
    open_ones = np.zeros_like(abnormal) if ignored is None else np.asarray(ignored.any(axis=others))
    judged = [part for part in result.slices if abnormal[part.index] or not open_ones[part.index]]
    return [(part, bool(abnormal[part.index])) for part in judged]


def _slices(judged: Sequence[tuple[SliceScore, bool]]) -> tuple[NDArray[np.float64], Mask]:
    """Scores and labels of the slices of a volume; a background slice counts only if it holds a lesion."""
    kept = [(part.score, abnormal) for part, abnormal in judged if abnormal or not part.background]
    return np.array([score for score, _ in kept]), np.array([abnormal for _, abnormal in kept], dtype=bool)


def _count(
    result: AnomalyResult, truth: Mask, counted: Mask | None, settings: Settings
) -> tuple[ScoreCounts, ScoreCounts]:
    array = np.asarray(result.volume.as_tensor().numpy(), dtype=np.float32)
    within = foreground_of(result.volume, array) | truth
    without = ~within
    if counted is not None:
        within, without = within & counted, without & counted
    beyond = result.map_array[without]
    inside = count_map(result.map_array, truth, inside=within, exact=settings.exact)
    return inside, count_scores(beyond, np.zeros(len(beyond), dtype=bool), exact=settings.exact)


def _dice(predicted: Mask, truth: Mask) -> float | None:
    """Dice of two masks; None where there is no lesion, as any false voxel would make it 0."""
    if not truth.any():
        return None
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))


def _distance(score: float, label: bool | None) -> float | None:
    return None if label is None else abs(float(label) - score)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
