"""Scores counted per patient on common levels, so that drawing patients again is one matrix product."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headclip_med.evaluation.metrics.counts import ScoreCounts
from headclip_med.evaluation.record import Metric
from headclip_med.evaluation.settings import Settings

_CHUNK = 100  # replicates at once, so that memory does not grow with their number
_DEFINED_SHARE = 0.9  # of the replicates must have a value for an interval to mean anything


Array = NDArray[np.float64]


def patient_draws(patients: int, settings: Settings) -> Iterator[NDArray[np.float64]]:
    """Draw patients with replacement, the same ones for the same seed and count.

    Args:
        patients: Number of patients.
        settings: Seed and number of replicates.

    Yields:
        How often each patient is drawn, in chunks ``(≤ 100, patients)``.
    """
    rng = np.random.default_rng(settings.seed)
    share = np.full(patients, 1 / patients)
    for begin in range(0, settings.replicates, _CHUNK):
        size = min(_CHUNK, settings.replicates - begin)
        yield rng.multinomial(patients, share, size=size).astype(np.float64)


def no_interval(patients: int, settings: Settings) -> str:
    """Say why there can be no interval whatever the metric.

    Args:
        patients: Number of patients.
        settings: Number of replicates, and the fewest patients.

    Returns:
        The reason, empty where there can be an interval.
    """
    if settings.replicates == 0:
        return "no bootstrap was asked for"
    if patients < settings.min_patients:
        return f"{patients} patient(s): an interval needs at least {settings.min_patients}"
    return ""


def with_interval(value: float | None, draws: NDArray[np.float64] | None, reason: str) -> Metric:
    """Give a value its 95 % percentile interval.

    Args:
        value: The metric on all patients, None where undefined.
        draws: ``(replicates,)`` the metric in each replicate, NaN where undefined, or None.
        reason: Why there are no draws, empty where there are.

    Returns:
        The metric with an interval, or with the reason why it has none.
    """
    if draws is None or reason:
        return Metric(value=value, interval_reason=reason or "not resampled")
    defined = draws[np.isfinite(draws)]
    if len(defined) < _DEFINED_SHARE * len(draws):
        missing = len(draws) - len(defined)
        return Metric(value=value, interval_reason=f"undefined in {missing} of {len(draws)} replicates")
    low, high = np.percentile(defined, [2.5, 97.5])
    return Metric(value=value, low=float(low), high=float(high))


def p_value(differences: NDArray[np.float64]) -> float | None:
    """Compute the two-sided bootstrap p-value of no difference.

    Args:
        differences: ``(replicates,)``, NaN where undefined.

    Returns:
        In [2 / (replicates + 1), 1], None where every replicate is undefined.
    """
    defined = differences[np.isfinite(differences)]
    if not len(defined):
        return None
    below, above = int((defined <= 0).sum()), int((defined >= 0).sum())
    return float(min(1.0, 2 * (min(below, above) + 1) / (len(defined) + 1)))


@dataclass(frozen=True)
class Bins:
    """Common score levels.

    Attributes:
        edges: ``(b,)`` the lowest score of each bin, rising.
        scores: ``(b,)`` mean score of each.
    """

    edges: Array
    scores: Array


@dataclass(frozen=True)
class PatientCounts:
    """Counts of every patient on common bins.

    Attributes:
        bins: the b bins.
        negatives, positives, regions: ``(patients, b)`` float32.
        n_regions: ``(patients,)`` number of regions.
    """

    bins: Bins
    negatives: NDArray[np.float32]
    positives: NDArray[np.float32]
    regions: NDArray[np.float32]
    n_regions: Array

    def drawn(self, weights: Array) -> tuple[Array, Array, Array, Array]:
        """Sum the counts of each replicate.

        Args:
            weights: ``(B, patients)``, how often each patient is drawn.

        Returns:
            Negatives, positives and regions ``(B, b)``, and the number of regions ``(B,)``.
        """
        negatives, positives, regions = (
            np.asarray(weights.astype(np.float32) @ part, dtype=np.float64)
            for part in (self.negatives, self.positives, self.regions)
        )
        return negatives, positives, regions, weights @ self.n_regions


def choose_bins(pooled: ScoreCounts, count: int) -> Bins:
    """Choose at most about ``count`` bins of equal mass, half of the mass negatives and half positives.

    With no more distinct scores than that, every score has its own bin and nothing is lost.

    Args:
        pooled: Counts of all cases.
        count: Number of bins.

    Returns:
        Edges and mean scores.
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
    """Sum the counts of every patient's cases.

    Args:
        bins: Common bins.
        patients: Number of patients.
        counts: Place of the patient, from 0, and the counts of a case.

    Returns:
        Counts of every patient on the bins.
    """
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
