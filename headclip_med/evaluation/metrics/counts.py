"""How often each score occurs: the sufficient statistic of every pixel metric.

Counts of cases add up, in any order and over any number of processes, and every metric is a function of the sum. By
default scores are rounded to 65,536 levels, so that memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from headclip_med.base.errors import InputError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
LEVELS = 65_536
# Levels are spaced evenly in the log-odds from −16 to 16 (probabilities 1e-7 to 1 − 1e-7): softmax maps crowd near 0
# and 1, where equal steps of probability would tell nothing apart. One step is 0.05 % of the odds.
_FARTHEST_LOGIT = 16.0


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Label the connected regions of a mask, by corners too (8 neighbours in an image, 26 in a volume).

    Args:
        mask: ``(H, W)`` or ``(I, J, K)``.

    Returns:
        Labels from 1 on in the mask's shape, 0 outside, and the number of regions.
    """
    labels, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, dtype=bool))
    return labels, int(count)


def region_weights(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], int]:
    """Weigh each pixel of a mask by 1 / size of its region.

    Args:
        mask: ``(H, W)`` or ``(I, J, K)``.

    Returns:
        Weights in (0, 1] in the order of ``np.nonzero``, and the number of regions.
    """
    if not mask.any():
        return np.zeros(0), 0
    box = tuple(slice(int(where.min()), int(where.max()) + 1) for where in np.nonzero(mask))
    labels, count = label_regions(mask[box])
    found = labels[mask[box]]
    return 1.0 / np.bincount(found, minlength=count + 1)[found], count


@dataclass(frozen=True)
class ScoreCounts:
    """Counts by score.

    Attributes:
        scores: ``(K,)`` distinct, rising, in [0, 1].
        negatives, positives: ``(K,)`` pixels of each class with that score.
        regions: ``(K,)`` positives weighted by 1 / size of their region.
        n_regions: how many regions.
    """

    scores: Array
    negatives: Array
    positives: Array
    regions: Array
    n_regions: float = 0.0

    @property
    def n_negatives(self) -> float:
        """Negatives in all."""
        return float(self.negatives.sum())

    @property
    def n_positives(self) -> float:
        """Positives in all."""
        return float(self.positives.sum())


def to_levels(scores: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Round scores to levels.

    The levels are monotone in the score, and only 0 and 1 (to 1e-7) reach the first and the last one.

    Args:
        scores: In [0, 1], of any shape.

    Returns:
        Levels of the same shape, 0 to 65,535.

    Raises:
        InputError: a score outside [0, 1], or NaN.
    """
    values = _checked(scores)
    with np.errstate(divide="ignore"):
        logit = np.log(values) - np.log1p(-values)
    steps = (logit + _FARTHEST_LOGIT) * np.float32((LEVELS - 3) / (2 * _FARTHEST_LOGIT)) + np.float32(1)
    levels = np.clip(np.rint(steps), 1, LEVELS - 2).astype(np.uint16)
    levels[values <= 0] = 0
    levels[values >= 1] = LEVELS - 1
    return levels


@lru_cache(maxsize=1)
def level_scores() -> Array:
    """Compute the score that each level stands for.

    Returns:
        ``(LEVELS,)``, rising from exactly 0 to exactly 1.
    """
    scores = np.empty(LEVELS)
    scores[1:-1] = expit(np.linspace(-_FARTHEST_LOGIT, _FARTHEST_LOGIT, LEVELS - 2))
    scores[0], scores[-1] = 0.0, 1.0
    scores.flags.writeable = False
    return scores


def count_scores(
    scores: NDArray[np.floating],
    truth: Mask,
    *,
    weights: Array | None = None,
    n_regions: float = 0.0,
    exact: bool = False,
) -> ScoreCounts:
    """Count one flat set of scores.

    Args:
        scores: ``(n,)`` in [0, 1].
        truth: ``(n,)``, true where abnormal.
        weights: Region weight of every positive, in order.
        n_regions: Number of the regions that the weights are of.
        exact: Keep every distinct 32-bit score instead of levels.

    Returns:
        Counts of both classes by score.

    Raises:
        InputError: a score outside [0, 1] or NaN, or a truth that is no mask of the same shape.
    """
    _check_mask(truth, scores.shape)
    place: NDArray[np.integer]
    if exact:
        distinct, place = np.unique(_checked(scores), return_inverse=True)
        values, size = distinct.astype(np.float64), len(distinct)
    else:
        place, values, size = to_levels(scores), level_scores(), LEVELS
    found = place[truth]
    positives = np.bincount(found, minlength=size).astype(np.float64)
    negatives = np.bincount(place, minlength=size) - positives
    regions = np.zeros(size) if weights is None else np.bincount(found, weights, size).astype(np.float64)
    used = np.flatnonzero(negatives + positives)
    return ScoreCounts(values[used], negatives[used], positives[used], regions[used], float(n_regions))


def count_map(
    anomaly_map: NDArray[np.floating], gt_mask: Mask, *, inside: Mask | None = None, exact: bool = False
) -> ScoreCounts:
    """Count one map with its regions.

    Args:
        anomaly_map: ``(H, W)`` or ``(I, J, K)`` in [0, 1].
        gt_mask: True lesions, same shape.
        inside: Count only there. Lesion pixels count wherever they are, as truth is never dropped.
        exact: Keep every distinct 32-bit score instead of levels.

    Returns:
        Counts of both classes and of regions by score.

    Raises:
        InputError: as :func:`count_scores`.
    """
    _check_mask(gt_mask, anomaly_map.shape)
    if inside is not None:
        _check_mask(inside, anomaly_map.shape)
    weights, n_regions = region_weights(gt_mask)
    if inside is None:
        return count_scores(anomaly_map.ravel(), gt_mask.ravel(), weights=weights, n_regions=n_regions, exact=exact)
    kept = inside | gt_mask
    return count_scores(anomaly_map[kept], gt_mask[kept], weights=weights, n_regions=n_regions, exact=exact)


class CountSum:
    """A running sum of counts, whose memory is fixed with levels whatever is added.

    ``exact`` sums keep every distinct score. Parts wait until they are as many as the sum, so that adding many stays
    fast.
    """

    def __init__(self, exact: bool = False) -> None:
        """Begin with nothing counted.

        Args:
            exact: Keep every distinct score instead of levels.
        """
        self.exact = exact
        self.n_regions = 0.0
        self._scores: Array = np.zeros(0) if exact else level_scores()
        self._sums: Array = np.zeros((3, len(self._scores)))
        self._waiting: list[ScoreCounts] = []

    def add(self, counts: ScoreCounts) -> None:
        """Add the counts of a case.

        Args:
            counts: Of levels, unless the sum is exact.

        Raises:
            InputError: exact counts added to a sum of levels.
        """
        if self.exact:
            self._waiting.append(counts)
            if sum(len(part.scores) for part in self._waiting) > max(len(self._scores), LEVELS):
                self._take_in()
        else:
            levels = _levels_of(counts.scores)
            if levels is None:
                raise InputError("Counts added to a sum of levels must have been counted with levels", "exact counts")
            for total, part in zip(self._sums, (counts.negatives, counts.positives, counts.regions), strict=True):
                total[levels] += part
        self.n_regions += counts.n_regions

    def counts(self) -> ScoreCounts:
        """Give the sum so far.

        Returns:
            Counts by score, which later additions leave as they are.
        """
        self._take_in()
        used = np.flatnonzero(self._sums[0] + self._sums[1])
        negatives, positives, regions = self._sums[:, used]
        return ScoreCounts(self._scores[used].copy(), negatives, positives, regions, self.n_regions)

    def _take_in(self) -> None:
        """Merge the parts that wait."""
        if not self._waiting:
            return
        scores = np.concatenate([self._scores, *(part.scores for part in self._waiting)])
        merged, place = np.unique(scores, return_inverse=True)
        added = [[part.negatives, part.positives, part.regions] for part in self._waiting]
        self._sums = np.stack(
            [
                np.bincount(place, weights=np.concatenate(parts), minlength=len(merged))
                for parts in zip(self._sums, *added, strict=True)
            ]
        )
        self._scores, self._waiting = merged, []


def to_arrays(counts: ScoreCounts) -> dict[str, NDArray[np.generic]]:
    """Turn counts into small arrays to keep on disk, from which :func:`from_arrays` gives the same counts back.

    Args:
        counts: Counts of one case.

    Returns:
        Arrays by name, where ``scores`` are uint16 levels if the counts are of levels, else the 32-bit scores they
        were.
    """
    levels = _levels_of(counts.scores)
    return {
        "scores": counts.scores.astype(np.float32) if levels is None else levels.astype(np.uint16),
        "negatives": counts.negatives.astype(np.uint32),
        "positives": counts.positives.astype(np.uint32),
        "regions": counts.regions,
        "n_regions": np.float64(counts.n_regions),
    }


def from_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> ScoreCounts:
    """Give back the counts that :func:`to_arrays` was given.

    Args:
        arrays: What it returned.

    Returns:
        The same counts.
    """
    negatives, positives, regions = (
        np.asarray(arrays[name], dtype=np.float64) for name in ("negatives", "positives", "regions")
    )
    stored = np.asarray(arrays["scores"])
    scores = level_scores()[stored] if stored.dtype == np.uint16 else stored.astype(np.float64)
    return ScoreCounts(scores, negatives, positives, regions, float(arrays["n_regions"]))


def _levels_of(scores: Array) -> NDArray[np.int64] | None:
    """The level of each score, or None where one is no level's."""
    levels = np.minimum(np.searchsorted(level_scores(), scores), LEVELS - 1)
    return levels if (level_scores()[levels] == scores).all() else None


def _check_mask(mask: Mask, shape: tuple[int, ...]) -> None:
    if mask.dtype != np.bool_:
        raise InputError("A mask must be boolean", f"{mask.dtype}", "Compare it with a value first")
    if mask.shape != shape:
        raise InputError("Mask and scores must have the same shape", f"mask {mask.shape}, scores {shape}")


def _checked(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    values = np.asarray(scores, dtype=np.float32)
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # NaN fails both
        raise InputError("Scores must be probabilities between 0 and 1", f"{values.min()} to {values.max()}")
    return values
