"""Dice at the best threshold: what it is, and that its interval belongs to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headclip_med.evaluation import Settings
from headclip_med.evaluation.cases import load_case_file, save_case
from headclip_med.evaluation.levels import Cohort, pixel_levels
from headclip_med.evaluation.measure import CaseStatistics
from headclip_med.evaluation.metrics.counts import count_map, count_scores
from headclip_med.evaluation.record import CaseRow


def test_the_interval_of_the_best_dice_holds_its_value(tmp_path: Path) -> None:
    """Lesion and tissue are 2 % of the odds apart in every patient: the best Dice is 1 whoever is drawn."""
    truth = np.zeros((12, 12), dtype=bool)
    truth[4:8, 4:8] = True
    anomaly_map = np.where(truth, 0.7040, 0.7000).astype(np.float32)
    nothing = count_scores(np.zeros(0), np.zeros(0, dtype=bool))
    for number in range(10):
        row = CaseRow(case=f"{number}", patient=f"p{number}", label=True, status="done", pred_score=0.7, dice=0.2)
        counts = count_map(anomaly_map, truth), nothing
        statistics = CaseStatistics(row, False, np.zeros(0), np.zeros(0, dtype=bool), *counts)
        save_case(tmp_path / f"{number}.npz", statistics, {})
    stored = [load_case_file(path) for path in sorted(tmp_path.glob("*.npz"))]
    cohort = Cohort(tuple(case for case in stored if case is not None), Settings(replicates=250))
    metrics = pixel_levels(cohort)[0].level("").metrics
    best = metrics["dice_best_threshold"]
    assert (best.value, best.low, best.high) == (1, pytest.approx(1), pytest.approx(1))
    assert (metrics["dice"].value, metrics["dice"].low) == (pytest.approx(0.2), pytest.approx(0.2))
