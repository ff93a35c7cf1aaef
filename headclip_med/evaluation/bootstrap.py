"""Resampling patients: intervals of a metric, and of the difference between two models on the same patients.

Slices of one patient are alike, so patients are drawn, never slices or pixels (the cluster bootstrap of Davison and
Hinkley, *Bootstrap Methods and their Application*, 1997, §3.8); intervals are percentiles.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from headclip_med.evaluation.record import Metric
from headclip_med.evaluation.settings import Settings

_CHUNK = 100  # replicates at once, so that memory does not grow with their number
_DEFINED_SHARE = 0.9  # of the replicates must have a value for an interval to mean anything


def patient_draws(patients: int, settings: Settings) -> Iterator[NDArray[np.float64]]:
    """How often each patient is drawn: chunks ``(≤ 100, patients)``, the same for the same seed and count."""
    rng = np.random.default_rng(settings.seed)
    share = np.full(patients, 1 / patients)
    for begin in range(0, settings.replicates, _CHUNK):
        size = min(_CHUNK, settings.replicates - begin)
        yield rng.multinomial(patients, share, size=size).astype(np.float64)


def no_interval(patients: int, settings: Settings) -> str:
    """Why there can be no interval whatever the metric; empty where there can."""
    if settings.replicates == 0:
        return "no bootstrap was asked for"
    if patients < settings.min_patients:
        return f"{patients} patient(s): an interval needs at least {settings.min_patients}"
    return ""


def with_interval(value: float | None, draws: NDArray[np.float64] | None, reason: str) -> Metric:
    """``value`` with the 95 % percentile interval of ``draws``; ``reason`` says why there are no draws."""
    if draws is None or reason:
        return Metric(value=value, interval_reason=reason or "not resampled")
    defined = draws[np.isfinite(draws)]
    if len(defined) < _DEFINED_SHARE * len(draws):
        missing = len(draws) - len(defined)
        return Metric(value=value, interval_reason=f"undefined in {missing} of {len(draws)} replicates")
    low, high = np.percentile(defined, [2.5, 97.5])
    return Metric(value=value, low=float(low), high=float(high))


def p_value(differences: NDArray[np.float64]) -> float | None:
    """Two-sided bootstrap p-value of no difference, never below 1 / (replicates + 1); None without replicates."""
    defined = differences[np.isfinite(differences)]
    if not len(defined):
        return None
    below, above = int((defined <= 0).sum()), int((defined >= 0).sum())
    return float(min(1.0, 2 * (min(below, above) + 1) / (len(defined) + 1)))
