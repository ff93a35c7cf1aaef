"""Curves of counts: torchmetrics as a second oracle, batches, bounds, thinning, and what is undefined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_oracles import aupro as slow_aupro
from metric_oracles import aupro_legacy as slow_legacy
from scipy import ndimage
from sklearn import metrics as sk

from headclip_med.evaluation.metrics import curves
from headclip_med.evaluation.metrics.counts import LEVELS, CountSum, ScoreCounts, count_map, count_scores, level_scores


def _maps(seed: int, count: int = 4, side: int = 32):
    rng = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(rng.standard_normal((count, side, side)), (0, 2, 2)) > 0.2
    noise = ndimage.gaussian_filter(rng.standard_normal(masks.shape), (0, 1, 1)) * 3
    return (1 / (1 + np.exp(2 - noise - 1.5 * masks))).astype(np.float32), masks


def _pooled(maps, masks, exact: bool = True) -> ScoreCounts:
    total = CountSum(exact)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        total.add(count_map(anomaly_map, mask, exact=exact))
    return total.counts()


def _sample(seed: int, count: int = 500):
    rng = np.random.default_rng(seed)
    truth = rng.random(count) < 0.4
    return rng.beta(1 + truth, 2).astype(np.float32), truth


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_torchmetrics(seed: int) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    scores, truth = _sample(seed)
    counts = count_scores(scores, truth, exact=True)
    tensors = torch.from_numpy(scores), torch.from_numpy(truth).long()
    auroc, ap = float(functional.binary_auroc(*tensors)), float(functional.binary_average_precision(*tensors))
    assert curves.auroc(counts.negatives, counts.positives) == pytest.approx(auroc, abs=1e-6)
    assert curves.average_precision(counts.negatives, counts.positives) == pytest.approx(ap, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_sample_weights(seed: int) -> None:
    scores, truth = _sample(seed)
    scores = np.round(scores, 2)
    weights = np.random.default_rng(seed).integers(0, 4, len(scores)).astype(float)
    values, place = np.unique(scores, return_inverse=True)
    negatives, positives = (np.bincount(place, weights * part, len(values)) for part in (~truth, truth))
    theirs = sk.roc_auc_score(truth, scores, sample_weight=weights)
    assert curves.auroc(negatives, positives) == pytest.approx(theirs, abs=1e-9)
    precision, recall, _ = sk.precision_recall_curve(truth, scores, sample_weight=weights)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert curves.f1_max(negatives, positives) == pytest.approx(f1, abs=1e-9)


def test_a_batch_is_its_parts() -> None:
    maps, masks = _maps(0)
    total = _pooled(maps, masks)
    weights = np.random.default_rng(1).integers(0, 3, (3, 1, len(total.scores))).astype(float) + 0.5
    negatives, positives, regions = total.negatives * weights, total.positives * weights, total.regions * weights
    n_regions = regions.sum(axis=-1)
    for metric in (
        curves.auroc,
        curves.average_precision,
        curves.f1_max,
        curves.auroc_bound,
        lambda n, p: curves.sensitivity_at_specificity(n, p, 0.9),
    ):
        batch = metric(negatives, positives)
        assert batch.shape == (3, 1)
        one_by_one = [float(metric(negatives[i, 0], positives[i, 0])) for i in range(3)]
        assert batch[:, 0] == pytest.approx(one_by_one, abs=1e-12)
    batch = curves.aupro(negatives, regions, n_regions)
    one_by_one = [float(curves.aupro(negatives[i, 0], regions[i, 0], n_regions[i, 0])) for i in range(3)]
    assert batch[:, 0] == pytest.approx(one_by_one, abs=1e-12)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("digits", [1, 7])
def test_aupro_up_to_any_limit(limit: float, digits: int) -> None:
    maps, masks = _maps(2, side=24)
    maps = np.round(maps, digits)  # ties make long slanting steps, one of them across the limit
    counts = _pooled(maps, masks)
    ours = curves.aupro(counts.negatives, counts.regions, counts.n_regions, limit)
    assert ours == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-9)


def test_legacy_by_hand() -> None:
    scores = (
        np.arange(9)[None] / 8
    )  # 0 to 1 in eighths: eight normal pixels and one lesion pixel; thresholds in quarters

    def legacy(lesion: float, limit: float) -> float:
        counts = count_map(scores, scores == lesion, exact=True)
        return curves.aupro_legacy(
            counts.scores, counts.negatives, counts.regions, counts.n_regions, steps=4, limit=limit
        )

    # lesion at 1: 7, 5, 3, 1 normal pixels are above; below 1/2 the rates are 3/8 and 1/8, the overlap is 1 at both
    assert legacy(1, 0.5) == 1
    # lesion at 1/2: 7, 5, 4, 2 are above, and the lesion above the first two thresholds only
    assert np.isnan(legacy(0.5, 0.5))  # a single rate is left
    assert legacy(0.5, 0.6) == 0
    # rates 5/8, 4/8, 2/8 → 1, 2/3, 0 with overlaps 1, 0, 0: a triangle
    assert legacy(0.5, 0.7) == pytest.approx(1 / 3 / 2)


def test_legacy_needs_two_rates_below_the_limit() -> None:
    flat = count_map(np.full((2, 2), 0.5), np.eye(2, dtype=bool), exact=True)
    assert np.isnan(curves.aupro_legacy(flat.scores, flat.negatives, flat.regions, flat.n_regions))
    # every normal pixel at 0, the lesion at 1: each threshold leaves no normal pixel, so there is no width
    apart = count_map(np.eye(2), np.eye(2, dtype=bool), exact=True)
    assert np.isnan(curves.aupro_legacy(apart.scores, apart.negatives, apart.regions, apart.n_regions))
    assert curves.aupro(apart.negatives, apart.regions, apart.n_regions) == 1


@pytest.mark.parametrize("seed", range(3))
def test_legacy_in_levels_is_close_to_the_plain_loop(seed: int) -> None:
    maps, masks = _maps(seed)
    counts = _pooled(maps, masks, exact=False)
    ours = curves.aupro_legacy(counts.scores, counts.negatives, counts.regions, counts.n_regions)
    assert ours == pytest.approx(slow_legacy(maps, masks), abs=2e-3)


def test_bound_by_hand() -> None:
    negatives, positives = np.array([2.0, 1, 0]), np.array([1.0, 1, 2])
    # 3 of 12 pairs are tied; at worst all of them were won or lost instead of halved
    assert curves.auroc_bound(negatives, positives) == 3 / (2 * 12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2**20), st.booleans()), min_size=2, max_size=40))
def test_levels_err_by_no_more_than_the_bound(sample: list[tuple[int, bool]]) -> None:
    # scores so near to each other that many share a level
    scores = np.array([0.5 + 1e-10 * s for s, _ in sample], dtype=np.float32)
    truth = np.array([t for _, t in sample])
    exact, rounded = (count_scores(scores, truth, exact=how) for how in (True, False))
    first, second = (curves.auroc(c.negatives, c.positives) for c in (exact, rounded))
    if truth.all() or not truth.any():
        assert np.isnan(first)
        assert np.isnan(second)
    else:
        assert abs(first - second) <= curves.auroc_bound(rounded.negatives, rounded.positives) + 1e-12


def test_sensitivity_takes_the_threshold_that_keeps_the_specificity() -> None:
    counts = count_scores(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([0, 1, 0, 1, 0], dtype=bool), exact=True)
    found = [curves.sensitivity_at_specificity(counts.negatives, counts.positives, s) for s in (1, 2 / 3, 1 / 3, 0)]
    assert found == [0, 0.5, 1, 1]


def test_undefined_is_nan_whatever_is_missing() -> None:
    for truth in (np.array([True, True]), np.array([False, False])):
        counts = count_scores(np.array([0.1, 0.9]), truth, exact=True)
        assert np.isnan(curves.best_f1(counts)).all()
        assert np.isnan(curves.sensitivity_at_specificity(counts.negatives, counts.positives, 0.9))
        assert np.isnan(curves.auroc_bound(counts.negatives, counts.positives))


def test_best_f1_is_reached_at_its_threshold() -> None:
    maps, masks = _maps(5)
    counts = _pooled(maps, masks)
    value, threshold = curves.best_f1(counts)
    above = maps >= np.float32(threshold)
    assert value == pytest.approx(2 * (above & masks).sum() / (above.sum() + masks.sum()))
    assert value == curves.f1_max(counts.negatives, counts.positives)


def test_dice_curve_agrees_with_the_pixels() -> None:
    maps, masks = _maps(6, count=1)
    counts = count_map(maps[0], masks[0])
    curve = curves.dice_curve(counts)
    assert curve.shape == (LEVELS,)
    for level in (0, 1, 15_000, 30_000, LEVELS - 1):
        above = maps[0] >= level_scores()[level]
        assert curve[level] == pytest.approx(2 * (above & masks[0]).sum() / (above.sum() + masks[0].sum()))


def test_thinning_keeps_corners() -> None:
    # a long step hidden among thousands of points on straight lines: 0 → (0.1, 0.8) → (1, 1)
    positives = np.concatenate([np.full(5000, 0.2), np.full(5000, 0.8)])
    negatives = np.concatenate([np.full(5000, 0.9), np.full(5000, 0.1)])
    x, y = curves.roc_points(negatives, positives)
    assert len(x) <= 400
    assert np.hypot(x - 0.1, y - 0.8).min() < 1e-9
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)


@pytest.mark.parametrize("seed", range(2))
def test_thinned_curves_pass_by_every_point(seed: int) -> None:
    maps, masks = _maps(seed, count=8)
    counts = _pooled(maps, masks)
    assert len(counts.scores) > 5000
    x, y = curves.roc_points(counts.negatives, counts.positives)
    assert len(x) <= 400
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()
    rate, found, _ = sk.roc_curve(masks.ravel(), maps.ravel(), drop_intermediate=False)
    away = np.abs(np.interp(rate, x, y) - found)
    assert np.median(away) < 1e-3
    area = float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())
    assert area == pytest.approx(float(curves.auroc(counts.negatives, counts.positives)), abs=2e-4)
    recall, precision = curves.pr_points(counts.negatives, counts.positives)
    assert len(recall) <= 400
    assert (recall[-1], precision[-1]) == (1, pytest.approx(masks.mean()))
