"""One case and its prediction → what every metric needs of it, small enough to keep for any number of cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.datasets.case import Case, LabelledVolume
from headclip_med.evaluation.controls import foreground_of
from headclip_med.evaluation.counts import ScoreCounts, count_map, count_scores
from headclip_med.evaluation.curves import auroc
from headclip_med.evaluation.lesions import CaseLesions, candidates_from_map, match_lesions
from headclip_med.evaluation.record import CaseRow
from headclip_med.evaluation.settings import Settings
from headclip_med.geometry import slice_frame
from headclip_med.result import AnomalyResult

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CaseStatistics:
    """What is kept of one case under one model.

    Attributes:
        row: the case's own line. is_volume: more than one slice.
        slice_scores, slice_labels: ``(S,)`` of the scored slices of a volume with known lesions, else empty.
        inside, outside: how often each score occurs within the foreground (and lesions) and elsewhere; None where
            nothing says where the lesions are. Together they are the whole map.
        lesions: findings against lesions at the model's threshold.
    """

    row: CaseRow
    is_volume: bool
    slice_scores: NDArray[np.float64]
    slice_labels: Mask
    inside: ScoreCounts | None = None
    outside: ScoreCounts | None = None
    lesions: CaseLesions | None = None


def case_facts(case: Case) -> dict[str, Any]:
    """What is told about a case, whatever a model makes of it: fields of its row."""
    return {
        "case": case.name,
        "patient": case.patient or case.name,
        "category": case.category,
        "columns": dict(case.columns),
    }


def measure(
    case: Case, labelled: LabelledVolume, result: AnomalyResult, settings: Settings, seconds: float
) -> CaseStatistics:
    """Compare one prediction with its truth."""
    truth = labelled.gt_mask
    anomaly_map = result.map_array
    scores, labels = _slices(result, truth)
    row = CaseRow(
        **case_facts(case),
        label=labelled.gt_label,
        status="done",
        pred_score=result.pred_score,
        seconds=round(seconds, 3),
        warnings=(*labelled.warnings, *result.warnings),
    )
    is_volume = min(anomaly_map.shape) > 1
    if truth is None:
        row = row.model_copy(update={"error_size": _distance(result.pred_score, labelled.gt_label)})
        return CaseStatistics(row, is_volume, scores, labels)
    inside, outside = _count(result, truth, settings)
    lesions = match_lesions(
        *candidates_from_map(anomaly_map, result.threshold), truth, min_overlap=settings.min_overlap
    )
    dice = _dice(anomaly_map >= result.threshold, truth)
    row = row.model_copy(
        update={
            "dice": dice,
            "auroc": _number(float(auroc(inside.negatives, inside.positives))),
            "lesions": lesions.lesions,
            "lesions_found": int(lesions.is_hit.sum()),
            "false_positives": int((~lesions.is_hit & ~lesions.is_ignored).sum()),
            "error_size": _distance(result.pred_score, labelled.gt_label) if dice is None else 1 - dice,
        }
    )
    return CaseStatistics(row, is_volume, scores, labels, inside, outside, lesions)


def _slices(result: AnomalyResult, truth: Mask | None) -> tuple[NDArray[np.float64], Mask]:
    """Scores and labels of the slices of a volume; a background slice counts only if it holds a lesion."""
    if truth is None or len(result.slices) < 2:
        return np.zeros(0), np.zeros(0, dtype=bool)
    axis = slice_frame(result.affine, result.planes[0]).axis
    abnormal = np.asarray(truth.any(axis=tuple(a for a in range(3) if a != axis)))
    kept = [s for s in result.slices if abnormal[s.index] or not s.background]
    return np.array([s.score for s in kept]), np.array([bool(abnormal[s.index]) for s in kept])


def _count(result: AnomalyResult, truth: Mask, settings: Settings) -> tuple[ScoreCounts, ScoreCounts]:
    array = np.asarray(result.volume.as_tensor().numpy(), dtype=np.float32)
    within = foreground_of(result.volume, array) | truth
    beyond = result.map_array[~within]
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
