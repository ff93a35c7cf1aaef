"""Findings against lesions: by hand, and equal to picai-eval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from headclip_med.evaluation.lesions import CaseLesions, FrocTable, candidates_from_map, froc, match_lesions


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
    case = match_lesions(*candidates_from_map(found, 0.5), truth)
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
    case = match_lesions(*candidates_from_map(found, 0.5), truth)
    assert not case.is_hit.any()
    assert not case.is_ignored.any()
    assert match_lesions(*candidates_from_map(found, 0.5), truth, min_overlap=0.03).is_hit.all()


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
        case = match_lesions(*candidates_from_map(found, 0.5), truth)
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
