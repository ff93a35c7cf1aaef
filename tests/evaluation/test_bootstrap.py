"""Patients are drawn, never pixels; what cannot have an interval says why."""

from __future__ import annotations

import numpy as np
import pytest

from headclip_med.base.errors import InputError
from headclip_med.evaluation.metrics.counts import CountSum, count_scores
from headclip_med.evaluation.metrics.curves import auroc
from headclip_med.evaluation.metrics.resample import (
    choose_bins,
    count_patients,
    no_interval,
    p_value,
    patient_draws,
    with_interval,
)
from headclip_med.evaluation.settings import Settings


def test_every_draw_has_as_many_patients_as_there_are_and_the_seed_decides() -> None:
    draws = np.concatenate(list(patient_draws(12, Settings(replicates=250, seed=3))))
    assert draws.shape == (250, 12)
    assert (draws.sum(axis=1) == 12).all()
    again = np.concatenate(list(patient_draws(12, Settings(replicates=250, seed=3))))
    other = np.concatenate(list(patient_draws(12, Settings(replicates=250, seed=4))))
    assert (draws == again).all()
    assert (draws != other).any()


def test_an_interval_holds_the_middle_95_percent() -> None:
    metric = with_interval(0.5, np.arange(1001) / 1000, "")
    assert (metric.value, metric.low, metric.high) == (0.5, pytest.approx(0.025), pytest.approx(0.975))


def test_few_patients_get_a_reason_instead_of_an_interval() -> None:
    reason = no_interval(3, Settings())
    assert reason == "3 patient(s): an interval needs at least 10"
    metric = with_interval(0.5, None, reason)
    assert metric.low is None
    assert metric.interval_reason == reason


def test_mostly_undefined_draws_give_no_interval() -> None:
    draws = np.where(np.arange(200) < 50, np.nan, 0.7)
    metric = with_interval(0.7, draws, "")
    assert metric.low is None
    assert "undefined in 50 of 200" in metric.interval_reason


def test_p_value_counts_draws_on_the_other_side_of_zero() -> None:
    assert p_value(np.r_[np.full(999, 0.1)]) == pytest.approx(2 / 1000)
    assert p_value(np.r_[np.full(500, 0.1), np.full(499, -0.1)]) == 1.0
    assert p_value(np.full(5, np.nan)) is None


def test_few_replicates_are_refused() -> None:
    with pytest.raises(InputError, match="at least 100 replicates"):
        Settings(replicates=10)


def test_counts_per_patient_add_up_to_what_was_pooled() -> None:
    rng = np.random.default_rng(0)
    cases = []
    pooled = CountSum(exact=True)
    for patient in (0, 0, 1, 2):
        scores = rng.random(500, dtype=np.float32)
        case = count_scores(scores, rng.random(500) < scores, exact=True)
        cases.append((patient, case))
        pooled.add(case)
    whole = pooled.counts()
    bins = choose_bins(whole, 64)
    assert len(bins.edges) <= 65
    table = count_patients(bins, 3, cases)
    negatives, positives, _, _ = table.drawn(np.ones((1, 3)))
    assert negatives.sum() == whole.n_negatives
    assert positives.sum() == whole.n_positives
    assert float(auroc(negatives, positives)[0]) == pytest.approx(
        float(auroc(whole.negatives, whole.positives)), abs=1e-3
    )


def test_few_distinct_scores_lose_nothing_in_the_bins() -> None:
    case = count_scores(
        np.array([0.1, 0.1, 0.4, 0.9], dtype=np.float32), np.array([0, 1, 0, 1], dtype=bool), exact=True
    )
    bins = choose_bins(case, 2048)
    table = count_patients(bins, 1, [(0, case)])
    assert table.negatives.tolist() == [[1, 1, 0]]
    assert table.positives.tolist() == [[1, 0, 1]]
