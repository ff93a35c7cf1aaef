"""Expected calibration error: equal to torchmetrics, and the same for a batch as one by one."""

from __future__ import annotations

import numpy as np
import pytest

from headclip_med.evaluation.metrics.counts import count_scores
from headclip_med.evaluation.metrics.curves import expected_calibration_error, reliability


def _sample(seed: int, exact: bool = True):
    rng = np.random.default_rng(seed)
    truth = rng.random(2000) < 0.3
    scores = rng.beta(1 + 2 * truth, 3).astype(np.float32)
    return scores, truth, count_scores(scores, truth, exact=exact)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bins", [5, 15])
def test_equal_to_torchmetrics(seed: int, bins: int) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    import torch

    scores, truth, counts = _sample(seed)
    ours = expected_calibration_error(counts.scores, counts.negatives, counts.positives, bins=bins)
    tensors = torch.from_numpy(scores), torch.from_numpy(truth).long()
    assert ours == pytest.approx(float(functional.binary_calibration_error(*tensors, n_bins=bins)), abs=1e-6)


def test_levels_move_it_by_no_more_than_they_move_scores() -> None:
    _, _, exact = _sample(0)
    _, _, rounded = _sample(0, exact=False)
    first, second = (expected_calibration_error(c.scores, c.negatives, c.positives) for c in (exact, rounded))
    assert first == pytest.approx(second, abs=1e-3)


def test_a_batch_is_its_parts() -> None:
    _, _, counts = _sample(1)
    weights = np.array([[1.0], [9.0]])
    negatives, positives = counts.negatives * weights, counts.positives * weights[::-1]
    batch = expected_calibration_error(counts.scores, negatives, positives)
    parts = [float(expected_calibration_error(counts.scores, n, p)) for n, p in zip(negatives, positives, strict=True)]
    assert batch.shape == (2,)
    assert batch == pytest.approx(parts)
    assert batch[0] != pytest.approx(batch[1], abs=1e-2)


def test_certainty_belongs_to_the_last_bin_and_nothing_is_undefined() -> None:
    confidence, frequency, count = reliability(np.array([0.0, 1.0]), np.array([1.0, 0]), np.array([0, 1.0]), bins=4)
    assert count.tolist() == [1, 0, 0, 1]
    assert (confidence[-1], frequency[-1]) == (1, 1)
    none = np.zeros(2)
    assert np.isnan(expected_calibration_error(np.array([0.0, 1.0]), none, none))
