"""Metrics against numbers worked by hand, scikit-learn and slow definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_oracles import aupro as slow_aupro
from metric_oracles import aupro_legacy as slow_legacy
from scipy import ndimage
from scipy.integrate import trapezoid
from sklearn import metrics as sk

from headclip_med.base.errors import InputError
from headclip_med.evaluation.metrics import curves
from headclip_med.evaluation.metrics.counts import (
    LEVELS,
    CountSum,
    count_map,
    count_scores,
    from_arrays,
    level_scores,
    region_weights,
    to_arrays,
    to_levels,
)
from headclip_med.evaluation.metrics.curves import expected_calibration_error, reliability


def _maps(seed: int, count: int = 3, side: int = 24, ties: bool = False):
    """Smooth noise that knows a little about random blobs."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, side, side), dtype=bool)
    for mask in masks:
        for _ in range(rng.integers(1, 4)):
            i, j = rng.integers(1, side - 6, 2)
            mask[i : i + rng.integers(1, 6), j : j + rng.integers(1, 6)] = True
    noise = ndimage.gaussian_filter(rng.standard_normal(masks.shape), (0, 2, 2)) * 4
    maps = (1 / (1 + np.exp(-(noise + 0.8 * masks)))).astype(np.float32)
    return (np.round(maps, 1) if ties else maps), masks


def _pooled(maps, masks, exact: bool = True):
    total = CountSum(exact)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        total.add(count_map(anomaly_map, mask, exact=exact))
    return total.counts()


def test_by_hand() -> None:
    # scores 0.1 0.2 0.2 0.8, truth 0 1 0 1: positives win 1 + 0.5 and 2 of 2 pairs → 3.5 / 4
    counts = count_scores(np.array([0.1, 0.2, 0.2, 0.8]), np.array([0, 1, 0, 1], dtype=bool), exact=True)
    negatives, positives = counts.negatives, counts.positives
    assert curves.auroc(negatives, positives) == 3.5 / 4
    # thresholds 0.8: P 1, R 0.5; 0.2: P 2/3, R 1 → 0.5 + 0.5 · 2/3
    assert curves.average_precision(negatives, positives) == pytest.approx(0.5 + 1 / 3)
    assert curves.f1_max(negatives, positives) == pytest.approx(0.8)  # at 0.2: 2·2 / (3 + 2)
    assert curves.best_f1(counts) == (pytest.approx(0.8), pytest.approx(0.2))
    assert curves.sensitivity_at_specificity(negatives, positives, 0.9) == 0.5
    assert curves.sensitivity_at_specificity(negatives, positives, 0.5) == 1


def test_aupro_by_hand() -> None:
    # one region of two pixels (0.9, 0.5), four normal pixels (0.6, 0.1 ...): at 0.9 overlap 1/2 at rate 0, then rate
    # 1/4 at 0.6 with overlap 1/2, then overlap 1. Up to 0.3: 0.5 · 0.25 flat, then a vertical step to 1 and 0.05 at 1.
    scores = np.array([[0.9, 0.5, 0.6], [0.1, 0.1, 0.1]], dtype=np.float32)
    truth = np.array([[1, 1, 0], [0, 0, 0]], dtype=bool)
    counts = count_map(scores, truth, exact=True)
    value = curves.aupro(counts.negatives, counts.regions, counts.n_regions)
    assert value == pytest.approx((0.25 * 0.5 + 0.05 * 1) / 0.3, abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_equal_to_scikit_learn(seed: int, ties: bool) -> None:
    maps, masks = _maps(seed, ties=ties)
    counts = _pooled(maps, masks)
    truth, scores = masks.ravel(), maps.ravel()
    assert curves.auroc(counts.negatives, counts.positives) == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-6)
    ap = sk.average_precision_score(truth, scores)
    assert curves.average_precision(counts.negatives, counts.positives) == pytest.approx(ap, abs=1e-6)
    precision, recall, _ = sk.precision_recall_curve(truth, scores)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert curves.f1_max(counts.negatives, counts.positives) == pytest.approx(f1, abs=1e-6)
    rate, found, _ = sk.roc_curve(truth, scores, drop_intermediate=False)
    best = found[rate <= 0.1].max()
    assert curves.sensitivity_at_specificity(counts.negatives, counts.positives, 0.9) == pytest.approx(best, abs=1e-6)


def test_weighted_counts_are_sample_weights() -> None:
    maps, masks = _maps(0)
    weights = np.array([2.0, 0.0, 3.0])
    negatives, positives = 0, 0
    distinct = np.unique(maps)
    for anomaly_map, mask, weight in zip(maps, masks, weights, strict=True):
        place = np.searchsorted(distinct, anomaly_map)
        negatives = negatives + weight * np.bincount(place[~mask], minlength=len(distinct))
        positives = positives + weight * np.bincount(place[mask], minlength=len(distinct))
    repeated = np.repeat(weights, maps[0].size)
    theirs = sk.average_precision_score(masks.ravel(), maps.ravel(), sample_weight=repeated)
    batch = np.stack([negatives, negatives]), np.stack([positives, positives])
    assert curves.average_precision(*batch) == pytest.approx([theirs, theirs], abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_aupro_equals_every_component_by_itself(seed: int, ties: bool) -> None:
    maps, masks = _maps(seed, ties=ties)
    counts = _pooled(maps, masks)
    ours = curves.aupro(counts.negatives, counts.regions, counts.n_regions)
    assert ours == pytest.approx(slow_aupro(maps, masks), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_legacy_aupro_equals_the_plain_loop(seed: int) -> None:
    maps, masks = _maps(seed)
    counts = _pooled(maps, masks)
    ours = curves.aupro_legacy(counts.scores, counts.negatives, counts.regions, counts.n_regions)
    assert ours == pytest.approx(slow_legacy(maps, masks), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_levels_stay_within_their_own_bound(seed: int) -> None:
    maps, masks = _maps(seed, count=6)
    exact, rounded = _pooled(maps, masks), _pooled(maps, masks, exact=False)
    apart = abs(curves.auroc(exact.negatives, exact.positives) - curves.auroc(rounded.negatives, rounded.positives))
    assert apart <= curves.auroc_bound(rounded.negatives, rounded.positives) + 1e-12
    assert curves.auroc_bound(rounded.negatives, rounded.positives) < 5e-4
    ours, theirs = (curves.aupro(c.negatives, c.regions, c.n_regions) for c in (rounded, exact))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_levels_are_monotone_and_tell_small_probabilities_apart() -> None:
    scores = level_scores()
    assert (np.diff(scores) > 0).all()
    low = LEVELS // 2  # above, neighbours fall together in 32 bits
    assert (to_levels(scores[:low]) == np.arange(low)).mean() > 0.99
    assert (np.diff(to_levels(scores).astype(int)) >= 0).all()
    tiny = np.array([1e-5, 1.01e-5, 1 - 1e-4, 1 - 0.99e-4], dtype=np.float32)
    assert len(set(to_levels(tiny).tolist())) == 4
    assert to_levels(np.array([0.0, 1.0])).tolist() == [0, LEVELS - 1]


@pytest.mark.parametrize("wrong", [[-0.1], [1.1], [np.nan], [0.2, np.inf]])
def test_scores_that_are_no_probabilities_are_refused(wrong: list[float]) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        count_scores(np.array(wrong), np.zeros(len(wrong), dtype=bool))


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(5)), st.integers(1, 4), st.booleans())
def test_merging_is_the_same_in_any_order(order: list[int], cut: int, exact: bool) -> None:
    maps, masks = _maps(1, count=5)
    parts = [count_map(maps[i], masks[i], exact=exact) for i in order]
    first, second = CountSum(exact), CountSum(exact)
    for part in parts[:cut]:
        first.add(part)
    for part in parts[cut:]:
        second.add(part)
    first.add(second.counts())
    ours, theirs = first.counts(), _pooled(maps, masks, exact)
    assert (ours.scores == theirs.scores).all()
    assert (ours.negatives == theirs.negatives).all()
    assert np.allclose(ours.regions, theirs.regions)
    assert ours.n_regions == theirs.n_regions


@pytest.mark.parametrize("exact", [False, True])
def test_counts_survive_the_disk(exact: bool) -> None:
    maps, masks = _maps(2)
    counts = count_map(maps[0], masks[0], exact=exact)
    again = from_arrays(to_arrays(counts))
    for name in ("scores", "negatives", "positives", "regions"):
        assert (getattr(again, name) == getattr(counts, name)).all()
    assert again.n_regions == counts.n_regions


def test_every_region_weighs_the_same() -> None:
    mask = np.zeros((6, 6), dtype=bool)
    mask[0, 0] = mask[1, 1] = True  # by a corner: one region
    mask[4:6, 3:6] = True
    weights, count = region_weights(mask)
    assert count == 2
    assert weights.tolist() == [1 / 2] * 2 + [1 / 6] * 6
    assert region_weights(np.zeros((3, 3), dtype=bool))[1] == 0


def test_truth_outside_the_foreground_is_never_dropped() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[0, :2] = True
    inside = np.zeros((4, 4), dtype=bool)
    inside[2:] = True
    counts = count_map(np.full((4, 4), 0.5, dtype=np.float32), mask, inside=inside)
    assert (counts.n_positives, counts.n_negatives, counts.n_regions) == (2, 8, 1)


def test_one_class_is_undefined() -> None:
    counts = count_scores(np.array([0.1, 0.9]), np.array([True, True]), exact=True)
    for metric in (curves.auroc, curves.average_precision, curves.f1_max):
        assert np.isnan(metric(counts.negatives, counts.positives))
    assert np.isnan(curves.aupro(counts.negatives, counts.regions, 1.0))
    assert np.isnan(curves.aupro_legacy(counts.scores, counts.negatives, counts.regions, 0))


def test_dice_at_every_level() -> None:
    maps, masks = _maps(3, count=1)
    curve = curves.dice_curve(count_map(maps[0], masks[0]))
    for level in (0, 20_000, 33_000, LEVELS - 1):
        predicted = to_levels(maps[0]) >= level
        dice = 2 * (predicted & masks[0]).sum() / (predicted.sum() + masks[0].sum())
        assert curve[level] == pytest.approx(dice)


def test_reliability_by_hand() -> None:
    counts = count_scores(np.array([0.05, 0.15, 0.15, 0.95]), np.array([0, 0, 1, 1], dtype=bool), exact=True)
    confidence, frequency, count = reliability(counts.scores, counts.negatives, counts.positives, bins=10)
    assert count.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert confidence[[0, 1, 9]] == pytest.approx([0.05, 0.15, 0.95])
    assert frequency[[0, 1, 9]] == pytest.approx([0, 0.5, 1])
    ece = expected_calibration_error(counts.scores, counts.negatives, counts.positives, bins=10)
    assert ece == pytest.approx((0.05 + 2 * 0.35 + 0.05) / 4)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_equals_a_plain_loop(seed: int) -> None:
    maps, masks = _maps(seed)
    counts = _pooled(maps, masks)
    ours = expected_calibration_error(counts.scores, counts.negatives, counts.positives)
    scores, truth = maps.ravel().astype(float), masks.ravel()
    place = np.minimum((scores * 15).astype(int), 14)
    parts = [(scores[place == b], truth[place == b]) for b in range(15) if (place == b).any()]
    theirs = sum(len(s) * abs(s.mean() - t.mean()) for s, t in parts) / len(scores)
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_thinned_curves_keep_their_area() -> None:
    maps, masks = _maps(4, count=20)
    counts = _pooled(maps, masks)
    x, y = curves.roc_points(counts.negatives, counts.positives)
    assert len(x) <= 402
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert trapezoid(y, x) == pytest.approx(float(curves.auroc(counts.negatives, counts.positives)), abs=2e-3)
    recall, precision = curves.pr_points(counts.negatives, counts.positives)
    assert recall[-1] == 1
    assert precision[-1] == pytest.approx(masks.mean())
    rate, overlap = curves.pro_points(counts.negatives, counts.regions, counts.n_regions)
    assert rate[-1] == 0.3
    area = trapezoid(overlap, rate) / 0.3
    assert area == pytest.approx(float(curves.aupro(counts.negatives, counts.regions, counts.n_regions)), abs=5e-3)
