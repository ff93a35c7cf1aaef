"""Findings against lesions: by hand, and equal to picai-eval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from headclip_med.base.errors import InputError
from headclip_med.evaluation.metrics.lesions import CaseLesions, FrocTable, candidates_of, froc, match_lesions


def _blobs(seed: int, side: int = 16):
    """A volume with a few boxes as lesions, and a map with blobs on, beside and across them."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((side, side, side), dtype=bool)
    found = np.zeros(truth.shape, dtype=np.float32)
    for _ in range(rng.integers(0, 4)):
        corner = rng.integers(1, side - 5, 3)
        size = rng.integers(2, 5, 3)
        truth[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
        for _ in range(rng.integers(0, 3)):
            near = np.clip(corner + rng.integers(-2, 3, 3), 0, side - 4)
            found[tuple(slice(c, c + s) for c, s in zip(near, rng.integers(2, 5, 3), strict=True))] = 0.5
    for _ in range(rng.integers(0, 3)):
        corner = rng.integers(0, side - 3, 3)
        found[tuple(slice(c, c + 2) for c in corner)] = 0.5
    labels, count = ndimage.label(found, structure=np.ones((3, 3, 3)))
    for label in range(1, count + 1):  # one confidence per blob, ties among them
        found[labels == label] = rng.choice([0.55, 0.6, 0.7, 0.8, 0.9])
    return found, truth


def test_by_hand() -> None:
    truth = np.zeros((1, 12), dtype=bool)
    truth[0, 1:5] = truth[0, 8:10] = True  # two lesions
    found = np.zeros((1, 12), dtype=np.float32)
    found[0, 1:3] = 0.9  # half of the first lesion
    found[0, 4] = 0.7  # a quarter of it, a second finding
    found[0, 6] = 0.8  # nothing
    case = match_lesions(*candidates_of(found, found >= 0.5), truth)
    assert case.lesions == 2
    assert case.confidence == pytest.approx([0.9, 0.7, 0.8])
    assert case.is_hit.tolist() == [True, False, False]
    assert case.is_ignored.tolist() == [False, True, False]
    rate, sensitivity = froc([case])
    assert rate.tolist() == [0, 0, 1]
    assert sensitivity.tolist() == [0, 0.5, 0.5]


def test_a_finding_with_too_little_overlap_is_false() -> None:
    truth = np.zeros((1, 30), dtype=bool)
    truth[0, :10] = True
    found = np.zeros((1, 30), dtype=np.float32)
    found[0, 9:28] = 0.9  # 1 of 28
    case = match_lesions(*candidates_of(found, found >= 0.5), truth)
    assert not case.is_hit.any()
    assert not case.is_ignored.any()
    assert match_lesions(*candidates_of(found, found >= 0.5), truth, min_overlap=0.03).is_hit.all()


def test_two_pairs_are_better_than_one_that_fits_better() -> None:
    truth = np.zeros((1, 18), dtype=bool)
    truth[0, :10] = truth[0, 12:16] = True
    found = np.zeros((1, 18), dtype=np.float32)
    found[0, 0], found[0, 2:16] = 0.6, 0.9  # 1/10 of the first lesion; 8/16 of the first and 4/14 of the second
    case = match_lesions(*candidates_of(found, found >= 0.5), truth)
    assert case.is_hit.tolist() == [True, True]


def test_sensitivity_at_rates_is_flat_beyond_the_last_threshold() -> None:
    cases = [
        CaseLesions(np.array([0.9, 0.8]), np.array([False, True]), np.array([False, False]), 1),
        CaseLesions(np.array([0.7]), np.array([True]), np.array([False]), 2),
    ]
    table = FrocTable(cases)
    assert table.sensitivity(np.ones((1, 2)), np.array([0.25, 0.5, 4])).tolist() == [[0, 2 / 3, 2 / 3]]
    drawn = table.sensitivity(np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([1.0]))
    assert drawn.tolist() == [[1], [0.5]]


def test_no_drawn_lesion_is_undefined() -> None:
    cases = [CaseLesions(np.array([0.9]), np.array([False]), np.array([False]), 0)] * 2
    assert np.isnan(FrocTable(cases).sensitivity(np.ones((1, 2)), np.array([1.0]))).all()


def test_no_findings_find_nothing() -> None:
    cases = [CaseLesions(np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=bool), 3)]
    assert FrocTable(cases).sensitivity(np.ones((1, 1)), np.array([1.0])).tolist() == [[0]]


def test_equal_to_picai_eval(capsys: pytest.CaptureFixture[str]) -> None:
    from picai_eval.eval import evaluate_case
    from picai_eval.metrics import Metrics

    ours, theirs = [], {}
    for seed in range(40):
        found, truth = _blobs(seed)
        case = match_lesions(*candidates_of(found, found >= 0.5), truth)
        ours.append(case)
        results, *_ = evaluate_case(found, truth.astype(np.int32))
        theirs[str(seed)] = results
        hits = sorted(round(float(c), 6) for is_lesion, c, o in results if is_lesion and o > 0)
        false = sorted(round(float(c), 6) for is_lesion, c, _ in results if not is_lesion)
        assert sorted(np.round(case.confidence[case.is_hit], 6)) == pytest.approx(hits)
        assert sorted(np.round(case.confidence[~case.is_hit & ~case.is_ignored], 6)) == pytest.approx(false)
        assert case.lesions == sum(is_lesion for is_lesion, *_ in results)
    metrics = Metrics(
        lesion_results=theirs,
        case_target={str(i): int(case.lesions > 0) for i, case in enumerate(ours)},
        case_pred={str(i): float(max(case.confidence, default=0)) for i, case in enumerate(ours)},
    )
    rates = np.array([0.1, 0.25, 0.5, 1, 2, 4])
    expected = [metrics.lesion_TPR_at_FPR(rate) for rate in rates]
    assert FrocTable(ours).sensitivity(np.ones((1, 40)), rates)[0] == pytest.approx(expected, abs=1e-6)
    assert 0.2 < expected[-1] < 1  # neither nothing nor everything was found


def _cluttered(seed: int, side: int = 24):
    """Lesions and findings that touch, split and span each other, in a plane (volume of one slice)."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((2, side, side)), (0, 1, 1))
    truth = smooth[0] > 0.35
    shape = 0.8 * smooth[0] + 0.6 * smooth[1] > 0.25
    labels, count = ndimage.label(shape, structure=np.ones((3, 3)))
    confidence = rng.choice([0.55, 0.6, 0.7, 0.8, 0.9], count + 1)
    return np.where(shape, confidence[labels], 0).astype(np.float32)[None], truth[None]


@pytest.mark.parametrize("min_overlap", [0.01, 0.1, 0.5])
def test_clutter_equal_to_picai_eval(min_overlap: float) -> None:
    from picai_eval.eval import evaluate_case

    ignored = 0
    for seed in range(15):
        found, truth = _cluttered(seed)
        case = match_lesions(*candidates_of(found, found >= 0.5), truth, min_overlap=min_overlap)
        results, *_ = evaluate_case(found, truth.astype(np.int32), min_overlap=min_overlap)
        hits = [(c, o) for is_lesion, c, o in results if is_lesion and o > 0]
        false = [c for is_lesion, c, _ in results if not is_lesion]
        assert np.sort(case.confidence[case.is_hit]) == pytest.approx(np.sort([c for c, _ in hits]))
        assert np.sort(case.confidence[~case.is_hit & ~case.is_ignored]) == pytest.approx(np.sort(false))
        assert case.lesions == sum(is_lesion for is_lesion, *_ in results)
        ignored += int(case.is_ignored.sum())
    assert ignored > 0 or min_overlap == 0.5  # the third kind of finding did occur


def test_peaks_and_regions_are_those_of_the_findings() -> None:
    from headclip_med.engine.volume_map import find_components

    found = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((14, 13, 12)), 1).astype(np.float32)
    found = (found - found.min()) / np.ptp(found)
    labels, peaks = candidates_of(found, found >= 0.7)
    theirs = find_components(found, np.eye(4), 0.7, axis=2)
    assert len(peaks) > 3
    assert sorted(peaks) == pytest.approx(sorted(f.peak for f in theirs))
    assert sorted(np.bincount(labels[labels > 0])[1:]) == sorted(f.voxels for f in theirs)
    assert len(candidates_of(found, found >= 1.1)[1]) == 0


def test_drawn_weights_are_repeated_cases() -> None:
    cases = [match_lesions(*candidates_of(found, found >= 0.5), truth) for found, truth in map(_blobs, range(25))]
    weights = np.random.default_rng(0).integers(0, 3, (4, 25)).astype(float)
    rates = np.array([0.1, 0.3, 1.0, 3.0])
    drawn = FrocTable(cases).sensitivity(weights, rates)
    for row, weight in zip(drawn, weights, strict=True):
        repeated = [case for case, times in zip(cases, weight, strict=True) for _ in range(int(times))]
        assert row == pytest.approx(FrocTable(repeated).sensitivity(np.ones((1, len(repeated))), rates)[0])
        ours, theirs = froc(cases, weight), froc(repeated)
        assert ours[0][-1] == pytest.approx(theirs[0][-1])
        assert ours[1][-1] == pytest.approx(theirs[1][-1])


def test_findings_and_lesions_of_different_shapes_are_refused() -> None:
    labels, peaks = candidates_of(np.full((2, 3), 0.9, dtype=np.float32), np.ones((2, 3), dtype=bool))
    with pytest.raises(InputError, match="same shape"):
        match_lesions(labels, peaks, np.zeros((3, 2), dtype=bool))
