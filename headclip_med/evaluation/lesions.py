"""Findings against lesions: who hit whom, and sensitivity at a rate of false positives (FROC).

Matching follows PI-CAI's evaluation (Saha et al., Lancet Oncology 2024; package picai-eval): one finding to one lesion,
as many pairs with enough overlap as there can be, then the largest overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from headclip_med.evaluation.regions import label_regions

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class CaseLesions:
    """One case's findings and lesions.

    Attributes:
        confidence: ``(n,)`` of the findings. is_hit: matched to a lesion. is_ignored: not matched, but overlapping a
            lesion enough: a second finding on one lesion is neither hit nor false.
        lesions: how many there are.
    """

    confidence: Array
    is_hit: Mask
    is_ignored: Mask
    lesions: int


def candidates_from_map(anomaly_map: NDArray[np.floating], threshold: float) -> tuple[Labels, Array]:
    """Connected regions of ``map >= threshold`` as labels from 1 on, and the peak of each."""
    labels, count = label_regions(anomaly_map >= threshold)
    peaks = ndimage.maximum(anomaly_map, labels, np.arange(1, count + 1)) if count else []
    return labels, np.asarray(peaks, dtype=np.float64)


def match_lesions(candidates: Labels, confidence: Array, gt_mask: Mask, min_overlap: float = 0.1) -> CaseLesions:
    """Match findings with lesions.

    Args:
        candidates: labels 1 … n of the findings, 0 elsewhere; confidence: ``(n,)``; gt_mask: lesions, same shape.
        min_overlap: intersection over union from which a pair may be matched.
    """
    truth, lesions = label_regions(gt_mask)
    count = len(confidence)
    is_hit, is_ignored = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    if count and lesions:
        overlap = _overlaps(candidates, truth, count, lesions)
        overlap[overlap < min_overlap] = 0
        enough = overlap > 0
        rows, columns = np.flatnonzero(enough.any(axis=1)), np.flatnonzero(enough.any(axis=0))
        gain = np.where(enough, overlap + 1, 0)[np.ix_(rows, columns)]  # a pair counts more than any overlap
        first, second = linear_sum_assignment(gain, maximize=True)
        is_hit[columns[second[gain[first, second] > 0]]] = True
        is_ignored = enough.any(axis=0) & ~is_hit
    return CaseLesions(np.asarray(confidence, dtype=np.float64), is_hit, is_ignored, lesions)


def _overlaps(candidates: Labels, truth: Labels, count: int, lesions: int) -> Array:
    """Intersection over union of each lesion with each finding, ``(lesions, count)``."""
    pairs = np.bincount(truth.ravel().astype(np.int64) * (count + 1) + candidates.ravel())
    shared = np.zeros((lesions + 1) * (count + 1))
    shared[: len(pairs)] = pairs
    shared = shared.reshape(lesions + 1, count + 1)
    both = shared.sum(axis=1)[1:, None] + shared.sum(axis=0)[None, 1:] - shared[1:, 1:]
    return np.asarray(shared[1:, 1:] / both)


class FrocTable:
    """Findings of all cases by falling confidence, ready for any weights of the cases."""

    def __init__(self, cases: Sequence[CaseLesions]) -> None:
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
        """False positives per case and sensitivity at every threshold, from (0, 0) on: ``(B, t)`` each.

        Args:
            weights: ``(B, cases)``; sensitivity is NaN where no lesion was drawn.
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
        """Highest sensitivity among thresholds with at most so many false positives per case: ``(B, rates)``.

        Beyond its last threshold the curve is flat.
        """
        rate, sensitivity = self.curve(weights)
        found = [np.where(rate <= limit + 1e-12, sensitivity, 0).max(axis=1) for limit in rates]
        return np.where(np.isnan(sensitivity[:, :1]), np.nan, np.stack(found, axis=1))


def froc(cases: Sequence[CaseLesions]) -> tuple[Array, Array]:
    """False positives per case and sensitivity, thresholds falling."""
    rate, sensitivity = FrocTable(cases).curve(np.ones((1, len(cases))))
    return rate[0], sensitivity[0]
