"""What a resumed evaluation may keep, and what it must learn anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from PIL import Image

from headclip_med import evaluate, open_dataset
from headclip_med.datasets import CaseDataset
from headclip_med.evaluation import EvaluationWatcher, Settings
from headclip_med.evaluation.controls import Control, make_control
from headclip_med.result import AnomalyResult

QUICK = Settings(replicates=100)
BRIGHT = "control:intensity"


class Counting(EvaluationWatcher):
    """The cases of each model that were measured."""

    def __init__(self) -> None:
        self.done: dict[str, list[str]] = {}

    def phase_started(self, phase: str, cases: int) -> None:
        self.phase = self.done.setdefault(phase, [])

    def case_done(self, case: str, error: str) -> None:
        self.phase.append(case)


def _labelled(root: Path, labels: str = "0101") -> CaseDataset:
    """A CSV of one noisy picture per label."""
    rng = np.random.default_rng(0)
    root.mkdir(exist_ok=True)
    for i in range(len(labels)):
        Image.fromarray(rng.integers(60, 120, (24, 24)).astype(np.uint8)).save(root / f"{i}.png")
    rows = [f"{i}.png,{label},p{i}" for i, label in enumerate(labels)]
    (root / "set.csv").write_text("\n".join(["image,label,patient", *rows]))
    return open_dataset(root / "set.csv")


def test_a_resumed_run_knows_the_patients_and_columns_of_today(tmp_path: Path) -> None:
    dataset = _labelled(tmp_path / "set")
    evaluate(BRIGHT, dataset, tmp_path / "out", settings=QUICK)
    told = tuple(replace(case, patient="same", category="c", columns={"site": "A"}) for case in dataset)
    watcher = Counting()
    again = evaluate(
        BRIGHT,
        replace(dataset, cases=told),
        tmp_path / "out",
        settings=QUICK,
        group_by=["site"],
        resume=True,
        watcher=watcher,
    ).record.models[0]
    assert watcher.done[BRIGHT] == []
    assert [(g.value, g.cases, g.patients) for g in again.subgroups] == [("A", 4, 1)]
    assert {(row.patient, row.category) for row in again.cases} == {("same", "c")}


def test_a_resumed_run_does_not_keep_a_corrected_label(tmp_path: Path) -> None:
    evaluate(BRIGHT, _labelled(tmp_path / "set", "0111"), tmp_path / "out", settings=QUICK)
    watcher = Counting()
    corrected = _labelled(tmp_path / "set", "0101")
    again = evaluate(BRIGHT, corrected, tmp_path / "out", settings=QUICK, resume=True, watcher=watcher)
    assert watcher.done[BRIGHT] == ["2"]
    assert [row.label for row in again.record.models[0].cases] == [False, True, False, True]


class Asked(Control):
    """Counts how often it is asked who it is."""

    times = 0

    def identity(self) -> dict[str, Any]:
        Asked.times += 1
        return super().identity()

    def predict(self, volume: MetaTensor, **_: Any) -> AnomalyResult:
        return make_control(self.name).predict(volume)


def test_resuming_many_cases_asks_the_model_once_who_it_is(tmp_path: Path) -> None:
    dataset = _labelled(tmp_path / "set", "01" * 6)
    evaluate({"a": Asked("intensity")}, dataset, tmp_path / "out", settings=QUICK)
    Asked.times = 0
    evaluate({"a": Asked("intensity")}, dataset, tmp_path / "out", settings=QUICK, resume=True)
    assert 0 < Asked.times < len(dataset)
