"""Counts by score → metrics and curves.

Every function works on the last axis, scores rising; leading axes are independent, such as bootstrap replicates. A
metric that is undefined (one class is missing) is NaN here; whoever reports it says why.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from headclip_med.evaluation.metrics.counts import ScoreCounts, level_scores

Array = NDArray[np.float64]
Points = tuple[Array, Array]


AUPRO_LIMIT = 0.3
_MOST_POINTS = 400


def reliability(scores: Array, negatives: Array, positives: Array, bins: int = 15) -> tuple[Array, Array, Array]:
    """Compare the probability said with the share that was abnormal, in bins of equal width.

    Args:
        scores: ``(K,)`` in [0, 1].
        negatives, positives: ``(..., K)`` units of each class with that score.
        bins: Number of bins, each of which includes its lower edge.

    Returns:
        Mean probability said, share that was abnormal, and number of units, each ``(..., bins)``, 0 in empty bins.
    """
    place = np.minimum((scores * bins).astype(np.int64), bins - 1)
    member = (place[:, None] == np.arange(bins)).astype(np.float64)
    units = negatives + positives
    count = units @ member
    filled = np.maximum(count, 1e-300)
    return (units * scores) @ member / filled, positives @ member / filled, count


def expected_calibration_error(scores: Array, negatives: Array, positives: Array, *, bins: int = 15) -> Array:
    """Sum over bins the share of units · |mean probability − share abnormal| (Naeini et al., AAAI 2015).

    Args:
        scores: ``(K,)`` in [0, 1].
        negatives, positives: ``(..., K)`` units of each class with that score.
        bins: Number of bins of equal width.

    Returns:
        ``(...)`` in [0, 1], NaN without a unit.
    """
    confidence, frequency, count = reliability(scores, negatives, positives, bins)
    total = count.sum(axis=-1)
    error = (count * np.abs(confidence - frequency)).sum(axis=-1)
    return np.divide(error, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def auroc(negatives: Array, positives: Array) -> Array:
    """Compute the probability that a positive scores above a negative, ties counting half.

    Args:
        negatives, positives: ``(..., K)`` by rising score.

    Returns:
        ``(...)`` in [0, 1], NaN where one class is missing.
    """
    below = np.cumsum(negatives, axis=-1) - negatives
    wins = (positives * (below + 0.5 * negatives)).sum(axis=-1)
    return _ratio(wins, negatives.sum(axis=-1) * positives.sum(axis=-1))


def auroc_bound(negatives: Array, positives: Array) -> Array:
    """Bound the error of :func:`auroc` that rounding scores to levels can cause: half the pairs that are tied.

    Args:
        negatives, positives: ``(..., K)`` by rising score.

    Returns:
        ``(...)`` in [0, 0.5], NaN where one class is missing.
    """
    tied = (negatives * positives).sum(axis=-1) / 2
    return _ratio(tied, negatives.sum(axis=-1) * positives.sum(axis=-1))


def average_precision(negatives: Array, positives: Array) -> Array:
    """Sum precision · rise of recall over falling thresholds, without interpolation.

    Args:
        negatives, positives: ``(..., K)`` by rising score.

    Returns:
        ``(...)`` in [0, 1], NaN where one class is missing.
    """
    true, false = _above(positives), _above(negatives)
    found = true + false
    precision = np.divide(true, found, out=np.zeros_like(found), where=found > 0)
    return _where_both(_ratio((precision * positives).sum(axis=-1), positives.sum(axis=-1)), negatives, positives)


def f1_max(negatives: Array, positives: Array) -> Array:
    """Find the highest F1 (Dice of the pooled pixels) over all thresholds.

    Args:
        negatives, positives: ``(..., K)`` by rising score.

    Returns:
        ``(...)`` in [0, 1], NaN where one class is missing.
    """
    return _where_both(_f1(negatives, positives).max(axis=-1), negatives, positives)


def best_f1(counts: ScoreCounts) -> tuple[float, float]:
    """Find the highest F1 and its threshold.

    Args:
        counts: Counts by score.

    Returns:
        F1 in [0, 1] and the score from which a pixel is positive there, both NaN where one class is missing.
    """
    if not (counts.n_negatives and counts.n_positives):
        return float("nan"), float("nan")
    values = _f1(counts.negatives, counts.positives)
    best = int(values.argmax())
    return float(values[best]), float(counts.scores[best])


def sensitivity_at_specificity(negatives: Array, positives: Array, specificity: float) -> Array:
    """Find the highest sensitivity among the thresholds whose specificity reaches the target, without interpolation.

    Args:
        negatives, positives: ``(..., K)`` by rising score.
        specificity: Target in [0, 1].

    Returns:
        ``(...)`` in [0, 1], NaN where one class is missing.
    """
    false = _above(negatives) / np.maximum(negatives.sum(axis=-1, keepdims=True), 1e-300)
    true = _above(positives) / np.maximum(positives.sum(axis=-1, keepdims=True), 1e-300)
    allowed = np.where(false <= 1 - specificity + 1e-12, true, 0.0)
    return _where_both(allowed.max(axis=-1), negatives, positives)


def aupro(negatives: Array, regions: Array, n_regions: Array | float, limit: float = AUPRO_LIMIT) -> Array:
    """Compute the area under the per-region overlap curve up to a false-positive rate, divided by that rate.

    Exact: every threshold is a point of the curve, and the point at the limit is interpolated (Bergmann et al., MVTec
    AD, 2021).

    Args:
        negatives: ``(..., K)`` by rising score.
        regions: ``(..., K)`` positives weighted by 1 / size of their region.
        n_regions: ``(...)`` number of regions.
        limit: Highest false-positive rate, in (0, 1].

    Returns:
        ``(...)`` in [0, 1], NaN without a negative or a region.
    """
    rate, overlap = _pro(negatives, regions, n_regions)
    width = np.clip(np.minimum(rate[..., 1:], limit) - rate[..., :-1], 0, None)
    step = np.diff(rate, axis=-1)
    share = np.divide(width, step, out=np.zeros_like(step), where=step > 0)
    end = overlap[..., :-1] + share * np.diff(overlap, axis=-1)
    area = (width * (overlap[..., :-1] + end) / 2).sum(axis=-1) / limit
    defined = (negatives.sum(axis=-1) > 0) & (np.asarray(n_regions) > 0)
    return np.where(defined, area, np.nan)


def aupro_legacy(
    scores: Array,
    negatives: Array,
    regions: Array,
    n_regions: float,
    steps: int = 200,
    limit: float = AUPRO_LIMIT,
) -> float:
    """Compute AUPRO as the AnomalyCLIP family's released code does, so that numbers can be compared with papers.

    A pixel is positive above each of ``steps`` thresholds, in equal steps from the lowest score up to the highest.
    Points whose false-positive rate lies below ``limit`` are kept, their rates are rescaled to [0, 1] by their own
    lowest and highest, and the area is taken by trapezoids.

    Args:
        scores: ``(K,)`` rising.
        negatives: ``(K,)`` by score.
        regions: ``(K,)`` positives weighted by 1 / size of their region.
        n_regions: Number of regions.
        steps: Number of thresholds.
        limit: False-positive rate below which points are kept.

    Returns:
        In [0, 1], NaN where fewer than two different rates are kept.
    """
    total = float(negatives.sum())
    if not total or not n_regions or scores[-1] <= scores[0]:
        return float("nan")
    low, high = np.float32(scores[0]), np.float32(scores[-1])  # that code computes its thresholds in 32 bits
    thresholds = np.arange(low, high, (high - low) / np.float32(steps))
    first_above = np.searchsorted(scores, thresholds, side="right")
    rate = np.append(_above(negatives), 0.0)[first_above] / total
    overlap = np.append(_above(regions), 0.0)[first_above] / n_regions
    kept = rate < limit
    rate, overlap = rate[kept], overlap[kept]
    if len(rate) < 2 or rate.max() == rate.min():
        return float("nan")
    rate = (rate - rate.min()) / (rate.max() - rate.min())
    return float((-np.diff(rate) * (overlap[1:] + overlap[:-1]) / 2).sum())  # rates fall as thresholds rise


def dice_curve(counts: ScoreCounts) -> Array:
    """Compute the Dice of one case at every level, with a pixel positive from the level's score on.

    Args:
        counts: Counts of the case by score.

    Returns:
        ``(LEVELS,)`` in [0, 1].
    """
    first = np.searchsorted(counts.scores, level_scores(), side="left")
    true, false = (np.append(_above(part), 0.0)[first] for part in (counts.positives, counts.negatives))
    return np.asarray(2 * true / np.maximum(true + false + counts.n_positives, 1))


def roc_points(negatives: Array, positives: Array) -> Points:
    """Draw the ROC curve, thinned.

    Args:
        negatives, positives: ``(K,)`` by rising score.

    Returns:
        False- and true-positive rates, each in [0, 1].
    """
    x, y = (np.append(_above(p)[::-1], p.sum()) / max(p.sum(), 1e-300) for p in (negatives, positives))
    return _thinned(np.append(0.0, x), np.append(0.0, y))


def pr_points(negatives: Array, positives: Array) -> Points:
    """Draw the precision-recall curve, thinned.

    Args:
        negatives, positives: ``(K,)`` by rising score.

    Returns:
        Recall and precision, each in [0, 1].
    """
    true, false = _above(positives)[::-1], _above(negatives)[::-1]
    return _thinned(true / max(true[-1], 1e-300), true / np.maximum(true + false, 1e-300))


def pro_points(negatives: Array, regions: Array, n_regions: float, limit: float = AUPRO_LIMIT) -> Points:
    """Draw the per-region overlap curve, thinned, its last point interpolated.

    Args:
        negatives: ``(K,)`` by rising score.
        regions: ``(K,)`` positives weighted by 1 / size of their region.
        n_regions: Number of regions.
        limit: Highest false-positive rate, in (0, 1].

    Returns:
        False-positive rates up to ``limit``, and per-region overlaps in [0, 1].
    """
    rate, overlap = _pro(negatives, regions, n_regions)
    kept = rate <= limit
    end = float(np.interp(limit, rate, overlap))
    return _thinned(np.append(rate[kept], limit), np.append(overlap[kept], end))


def _pro(negatives: Array, regions: Array, n_regions: Array | float) -> Points:
    """The per-region overlap curve from (0, 0) on, thresholds falling."""
    total = np.maximum(negatives.sum(axis=-1, keepdims=True), 1e-300)
    per = np.maximum(np.asarray(n_regions, dtype=np.float64), 1e-300)
    rate = np.flip(_above(negatives), axis=-1) / total
    overlap = np.flip(_above(regions), axis=-1) / per[..., None]
    start = np.zeros((*rate.shape[:-1], 1))
    return np.concatenate([start, rate], axis=-1), np.concatenate([start, overlap], axis=-1)


def _above(counts: Array) -> Array:
    """How many have this score or a higher one."""
    return np.flip(np.cumsum(np.flip(counts, axis=-1), axis=-1), axis=-1)


def _f1(negatives: Array, positives: Array) -> Array:
    true, false = _above(positives), _above(negatives)
    return np.asarray(2 * true / np.maximum(true + false + positives.sum(axis=-1, keepdims=True), 1e-300))


def _ratio(part: Array, whole: Array) -> Array:
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def _where_both(values: Array, negatives: Array, positives: Array) -> Array:
    return np.where((negatives.sum(axis=-1) > 0) & (positives.sum(axis=-1) > 0), values, np.nan)


def _thinned(x: Array, y: Array) -> Points:
    """At most some hundreds of points: always the one next that lies farthest from the line drawn so far.

    So corners stay (Douglas and Peucker, Cartographica 10, 1973).
    """
    if len(x) <= _MOST_POINTS:
        return x, y
    kept, queue = [0, len(x) - 1], [_farthest(x, y, 0, len(x) - 1)]
    while len(kept) < _MOST_POINTS and queue[0][0] < 0:
        _, first, place, last = heappop(queue)
        kept.append(place)
        heappush(queue, _farthest(x, y, first, place))
        heappush(queue, _farthest(x, y, place, last))
    kept.sort()
    return x[kept], y[kept]


def _farthest(x: Array, y: Array, first: int, last: int) -> tuple[float, int, int, int]:
    """(−distance, first, place, last) of the point between two that is farthest from the straight line of them."""
    if last - first < 2:
        return 0.0, first, first, last
    along_x, along_y = x[first + 1 : last] - x[first], y[first + 1 : last] - y[first]
    chord_x, chord_y = x[last] - x[first], y[last] - y[first]
    length = float(np.hypot(chord_x, chord_y))
    away = np.abs(along_x * chord_y - along_y * chord_x) / length if length else np.hypot(along_x, along_y)
    place = int(away.argmax())
    return -float(away[place]), first, first + 1 + place, last
