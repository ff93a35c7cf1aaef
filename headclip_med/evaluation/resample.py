"""Scores counted per patient on common levels, so that drawing patients again is one matrix product."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headclip_med.evaluation.counts import ScoreCounts

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """Common score levels.

    Attributes:
        edges: ``(b,)`` the lowest score of each bin, rising. scores: ``(b,)`` mean score of each.
    """

    edges: Array
    scores: Array


@dataclass(frozen=True)
class PatientCounts:
    """``negatives``, ``positives``, ``regions``: ``(patients, b)`` float32 on the bins; ``n_regions (patients,)``."""

    bins: Bins
    negatives: NDArray[np.float32]
    positives: NDArray[np.float32]
    regions: NDArray[np.float32]
    n_regions: Array

    def drawn(self, weights: Array) -> tuple[Array, Array, Array, Array]:
        """Counts of each replicate: ``weights (B, patients)`` → three ``(B, b)`` and ``(B,)`` regions in all."""
        negatives, positives, regions = (
            np.asarray(weights.astype(np.float32) @ part, dtype=np.float64)
            for part in (self.negatives, self.positives, self.regions)
        )
        return negatives, positives, regions, weights @ self.n_regions


def choose_bins(pooled: ScoreCounts, count: int) -> Bins:
    """At most about ``count`` bins of equal mass, half of the mass negatives and half positives.

    With no more distinct scores than that, every score has its own bin and nothing is lost.
    """
    if len(pooled.scores) <= count:
        return Bins(pooled.scores, pooled.scores)
    mass = _share(pooled.negatives) + _share(pooled.positives)
    before = np.cumsum(mass) - mass
    bin_of = np.floor(before / mass.sum() * count).astype(np.int64)
    starts = np.flatnonzero(np.diff(bin_of, prepend=-1))
    pixels = pooled.negatives + pooled.positives
    mean = np.add.reduceat(pooled.scores * pixels, starts) / np.add.reduceat(pixels, starts)
    return Bins(pooled.scores[starts], mean)


def count_patients(bins: Bins, patients: int, counts: Iterable[tuple[int, ScoreCounts]]) -> PatientCounts:
    """Sum the counts of every patient's cases, given as (place of the patient, counts of a case)."""
    size = len(bins.edges)
    tables = np.zeros((3, patients, size), dtype=np.float32)
    regions = np.zeros(patients)
    for place, case in counts:
        bin_of = np.maximum(np.searchsorted(bins.edges, case.scores, side="right") - 1, 0)
        for table, part in zip(tables, (case.negatives, case.positives, case.regions), strict=True):
            table[place] += np.bincount(bin_of, weights=part, minlength=size)
        regions[place] += case.n_regions
    return PatientCounts(bins, tables[0], tables[1], tables[2], regions)


def _share(counts: Array) -> Array:
    total = counts.sum()
    return counts / total if total > 0 else counts
