"""Counts of scores: what is refused, what is kept, and that they add up however they are added."""

from __future__ import annotations

import numpy as np
import pytest

from headclip_med.base.errors import InputError
from headclip_med.evaluation.metrics.counts import (
    LEVELS,
    CountSum,
    ScoreCounts,
    count_map,
    count_scores,
    from_arrays,
    level_scores,
    to_arrays,
    to_levels,
)


def _same(first: ScoreCounts, second: ScoreCounts) -> None:
    for name in ("scores", "negatives", "positives"):
        assert getattr(first, name).tolist() == getattr(second, name).tolist()
    assert first.regions == pytest.approx(second.regions)
    assert first.n_regions == second.n_regions


def test_a_map_by_hand() -> None:
    scores = np.array([[0.0, 0.25, 0.25], [1.0, 0.25, 0.5]], dtype=np.float32)
    truth = np.array([[0, 1, 0], [0, 1, 1]], dtype=bool)
    counts = count_map(scores, truth, exact=True)
    assert counts.scores.tolist() == [0, 0.25, 0.5, 1]
    assert counts.negatives.tolist() == [1, 1, 0, 1]
    assert counts.positives.tolist() == [0, 2, 1, 0]
    assert counts.regions == pytest.approx([0, 2 / 3, 1 / 3, 0])
    assert (counts.n_negatives, counts.n_positives, counts.n_regions) == (3, 3, 1)


def test_a_volume_of_one_slice_counts_as_the_image() -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.random((9, 8), dtype=np.float32), rng.random((9, 8)) < 0.2
    _same(count_map(scores, truth), count_map(scores[..., None], truth[..., None]))


def test_memory_order_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    scores, truth = rng.random((7, 6, 5), dtype=np.float32), rng.random((7, 6, 5)) < 0.1
    inside = rng.random(truth.shape) < 0.5
    _same(
        count_map(scores, truth, inside=inside, exact=True),
        count_map(np.asfortranarray(scores), np.asfortranarray(truth), inside=inside, exact=True),
    )


def test_inside_limits_the_negatives_only() -> None:
    rng = np.random.default_rng(2)
    scores, truth = rng.random((12, 12), dtype=np.float32), np.zeros((12, 12), dtype=bool)
    truth[2:5, 2:5] = truth[8:10, 8:10] = True
    inside = np.zeros_like(truth)
    inside[:4] = True
    part, whole = (count_map(scores, truth, inside=limit, exact=True) for limit in (inside, None))
    assert part.n_negatives == (inside & ~truth).sum()
    assert part.n_positives == whole.n_positives == 13
    assert part.regions.sum() == pytest.approx(2)


@pytest.mark.parametrize("exact", [False, True])
def test_what_is_no_mask_of_the_map_is_refused(exact: bool) -> None:
    scores = np.full((2, 3), 0.5, dtype=np.float32)
    with pytest.raises(InputError, match=r"same shape; given: mask \(3, 2\), scores \(2, 3\)"):
        count_map(scores, np.zeros((3, 2), dtype=bool), exact=exact)
    with pytest.raises(InputError, match="same shape"):
        count_map(scores, np.zeros((2, 3), dtype=bool), inside=np.ones((3, 2), dtype=bool), exact=exact)
    with pytest.raises(InputError, match="must be boolean; given: uint8"):
        count_map(scores, np.full((2, 3), 255, dtype=np.uint8), exact=exact)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="same shape"):
        count_scores(scores.ravel(), np.zeros(5, dtype=bool), exact=exact)


def test_levels_of_neighbouring_numbers_never_fall() -> None:
    rng = np.random.default_rng(3)
    bits = rng.integers(0, np.float32(1).view(np.int32), 200_000, dtype=np.int32)  # evenly over all numbers below 1
    scores = np.sort(np.concatenate([bits, bits + 1]).view(np.float32))
    levels = to_levels(scores).astype(int)
    assert (np.diff(levels) >= 0).all()
    assert levels[scores > 0].min() > 0
    assert levels[scores < 1].max() < LEVELS - 1
    odds = np.log(scores[scores > 0].astype(float)) - np.log1p(-scores[scores > 0].astype(float))
    within = np.abs(odds) < 15
    stands_for = level_scores()[levels[scores > 0][within]]
    apart = np.log(stands_for / (1 - stands_for)) - odds[within]
    assert np.abs(apart).max() < 0.5 * 32 / LEVELS * 1.05  # half a step and what 32 bits add


def test_many_exact_parts_equal_one_count() -> None:
    rng = np.random.default_rng(4)
    scores, truth = rng.random((30, 6000), dtype=np.float32), rng.random((30, 6000)) < 0.1
    scores = np.round(scores, 5)  # some scores come again
    total = CountSum(exact=True)
    for part, mask in zip(scores, truth, strict=True):
        total.add(count_scores(part, mask, exact=True))
    _same(total.counts(), count_scores(scores.ravel(), truth.ravel(), exact=True))


def test_exact_counts_are_no_levels() -> None:
    exact = count_scores(np.array([0.3]), np.array([True]), n_regions=1, exact=True)
    total = CountSum()
    with pytest.raises(InputError, match="counted with levels"):
        total.add(exact)
    assert (total.n_regions, len(total.counts().scores)) == (0, 0)  # nothing of it was added


@pytest.mark.parametrize(("exact", "kind"), [(False, np.uint16), (True, np.float32)])
def test_arrays_are_small_and_give_the_counts_back(exact: bool, kind: type) -> None:
    rng = np.random.default_rng(5)
    scores, truth = rng.random((40, 40), dtype=np.float32), rng.random((40, 40)) < 0.1
    scores[0, :2] = 0, 1
    counts = count_map(scores, truth, exact=exact)
    arrays = to_arrays(counts)
    assert arrays["scores"].dtype == kind
    assert arrays["negatives"].dtype == arrays["positives"].dtype == np.uint32
    again = from_arrays(arrays)
    for name in ("scores", "negatives", "positives", "regions"):
        assert (getattr(again, name) == getattr(counts, name)).all()
        assert getattr(again, name).dtype == np.float64
    CountSum(exact).add(again)  # levels come back as levels


def test_nothing_counts_nothing() -> None:
    none = count_scores(np.zeros(0), np.zeros(0, dtype=bool))
    total = CountSum()
    total.add(none)
    total.add(CountSum().counts())
    assert len(from_arrays(to_arrays(total.counts())).scores) == 0
