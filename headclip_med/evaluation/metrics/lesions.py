"""Findings against lesions: who hit whom, and sensitivity at a rate of false positives (FROC).

Matching follows PI-CAI's evaluation (Saha et al., Lancet Oncology 2024; package picai-eval): one finding to one lesion,
as many pairs with enough overlap as there can be, then the largest overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from headclip_med.base.errors import InputError
from headclip_med.evaluation.metrics.counts import label_regions

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class CaseLesions:
    """One case's findings and lesions.

    Attributes:
        confidence: ``(n,)`` of the findings.
        is_hit: ``(n,)`` matched to a lesion.
        is_ignored: ``(n,)`` not matched, but overlapping a lesion enough: a second finding on one lesion is neither hit
            nor false.
        lesions: how many there are.
    """

    confidence: Array
    is_hit: Mask
    is_ignored: Mask
    lesions: int


def candidates_of(anomaly_map: NDArray[np.floating], found_at: Mask) -> tuple[Labels, Array]:
    """Find the connected regions of a mask, and the peak of the map in each.

    Args:
        anomaly_map: ``(H, W)`` or ``(I, J, K)`` in [0, 1].
        found_at: Mask of the same shape.

    Returns:
        Labels from 1 on in the map's shape, and the peak of each region ``(n,)``.
    """
    labels, count = label_regions(found_at)
    peaks, found = np.full(count, -np.inf), labels > 0
    np.maximum.at(peaks, labels[found] - 1, anomaly_map[found].astype(np.float64))
    return labels, peaks


def match_lesions(candidates: Labels, confidence: Array, gt_mask: Mask, min_overlap: float = 0.1) -> CaseLesions:
    """Match findings with lesions.

    Args:
        candidates: Labels 1 … n of the findings, 0 elsewhere.
        confidence: ``(n,)`` of the findings.
        gt_mask: Lesions, same shape.
        min_overlap: Intersection over union from which a pair may be matched, in (0, 1].

    Returns:
        Which findings hit, and how many lesions there are.

    Raises:
        InputError: findings and lesions of different shapes.
    """
    if candidates.shape != gt_mask.shape:
        shapes = f"findings {candidates.shape}, lesions {gt_mask.shape}"
        raise InputError("Findings and lesions must have the same shape", shapes)
    truth, lesions = label_regions(gt_mask)
    count = len(confidence)
    is_hit, is_ignored = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    if count and lesions:
        lesion, finding, overlap = _overlaps(candidates, truth, count, lesions)
        enough = overlap >= min_overlap
        rows, row = np.unique(lesion[enough], return_inverse=True)
        columns, column = np.unique(finding[enough], return_inverse=True)
        gain = np.zeros((len(rows), len(columns)))
        gain[row, column] = overlap[enough] + 1  # a pair counts more than any overlap
        first, second = linear_sum_assignment(gain, maximize=True)
        is_hit[columns[second[gain[first, second] > 0]]] = True
        is_ignored[columns] = ~is_hit[columns]
    return CaseLesions(np.asarray(confidence, dtype=np.float64), is_hit, is_ignored, lesions)


def _overlaps(candidates: Labels, truth: Labels, count: int, lesions: int) -> tuple[Places, Places, Array]:
    """Lesion and finding (from 0 on) of each pair that meets, and its intersection over union."""
    both = (candidates > 0) & (truth > 0)
    pairs, shared = np.unique((truth[both] - 1).astype(np.int64) * count + candidates[both] - 1, return_counts=True)
    lesion, finding = pairs // count, pairs % count
    of_lesion = np.bincount(truth[truth > 0], minlength=lesions + 1)[1:]
    of_finding = np.bincount(candidates[candidates > 0], minlength=count + 1)[1:]
    return lesion, finding, shared / (of_lesion[lesion] + of_finding[finding] - shared)


class FrocTable:
    """Findings of all cases by falling confidence, ready for any weights of the cases."""

    def __init__(self, cases: Sequence[CaseLesions]) -> None:
        """Sort the findings of all cases.

        Args:
            cases: Findings and lesions, case by case.
        """
        self.lesions = np.array([case.lesions for case in cases], dtype=np.float64)
        confidence = np.concatenate([case.confidence for case in cases]) if cases else np.zeros(0)
        counts = np.concatenate([~case.is_ignored for case in cases]) if cases else np.zeros(0, dtype=bool)
        owner = np.repeat(np.arange(len(cases)), [len(case.confidence) for case in cases])
        is_hit = np.concatenate([case.is_hit for case in cases]) if cases else np.zeros(0, dtype=bool)
        order = np.argsort(-confidence[counts], kind="stable")
        self._confidence = confidence[counts][order]
        self._owner, self._is_hit = owner[counts][order], is_hit[counts][order]
        # findings of one confidence pass a threshold together
        self._last = np.flatnonzero(np.append(np.diff(self._confidence) != 0, True)) if len(order) else order

    def curve(self, weights: Array) -> tuple[Array, Array]:
        """Draw the FROC curve under any weights of the cases.

        Args:
            weights: ``(B, cases)``, how often each case counts.

        Returns:
            False positives per case and sensitivity at every threshold, from (0, 0) on: ``(B, t)`` each. Sensitivity is
            NaN where no lesion was drawn.
        """
        drawn = weights[:, self._owner]
        hits, false = (np.cumsum(drawn * part, axis=1)[:, self._last] for part in (self._is_hit, ~self._is_hit))
        lesions, cases = (weights @ self.lesions)[:, None], weights.sum(axis=1)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            rate, sensitivity = false / cases, hits / lesions
        start = np.zeros((len(weights), 1))
        sensitivity = np.concatenate([start, sensitivity], axis=1)
        return np.concatenate([start, rate], axis=1), np.where(lesions > 0, sensitivity, np.nan)

    def sensitivity(self, weights: Array, rates: Array) -> Array:
        """Find the highest sensitivity among thresholds with at most so many false positives per case.

        Beyond its last threshold the curve is flat.

        Args:
            weights: ``(B, cases)``, how often each case counts.
            rates: ``(r,)`` allowed false positives per case.

        Returns:
            ``(B, r)`` in [0, 1], NaN where no lesion was drawn.
        """
        rate, sensitivity = self.curve(weights)
        found = [np.where(rate <= limit + 1e-12, sensitivity, 0).max(axis=1) for limit in rates]
        return np.where(np.isnan(sensitivity[:, :1]), np.nan, np.stack(found, axis=1))


def froc(cases: Sequence[CaseLesions], weights: Array | None = None) -> tuple[Array, Array]:
    """Draw the FROC curve, thresholds falling.

    Args:
        cases: Findings and lesions, case by case.
        weights: ``(cases,)``, how often each case counts, once by default.

    Returns:
        False positives per case and sensitivity, ``(t,)`` each.
    """
    drawn = np.ones(len(cases)) if weights is None else weights
    rate, sensitivity = FrocTable(cases).curve(drawn[None])
    return rate[0], sensitivity[0]
