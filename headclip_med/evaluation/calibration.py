"""Whether a probability means what it says: reliability and expected calibration error on equal-width bins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def reliability(scores: Array, negatives: Array, positives: Array, bins: int = 15) -> tuple[Array, Array, Array]:
    """Mean probability said, share that was abnormal, and number of units, each ``(..., bins)``; 0 in empty bins.

    Args:
        scores: ``(K,)`` in [0, 1]; negatives, positives: ``(..., K)``. A bin includes its lower edge.
    """
    place = np.minimum((scores * bins).astype(np.int64), bins - 1)
    member = (place[:, None] == np.arange(bins)).astype(np.float64)
    units = negatives + positives
    count = units @ member
    filled = np.maximum(count, 1e-300)
    return (units * scores) @ member / filled, positives @ member / filled, count


def expected_calibration_error(scores: Array, negatives: Array, positives: Array, *, bins: int = 15) -> Array:
    """Σ over bins of share of units · |mean probability − share abnormal| (Naeini et al., AAAI 2015)."""
    confidence, frequency, count = reliability(scores, negatives, positives, bins)
    total = count.sum(axis=-1)
    error = (count * np.abs(confidence - frequency)).sum(axis=-1)
    return np.divide(error, total, out=np.full(np.shape(total), np.nan), where=total > 0)
