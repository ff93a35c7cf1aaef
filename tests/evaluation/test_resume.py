"""What a resumed evaluation may keep, and what it must learn anew."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.data import MetaTensor
from PIL import Image
from typer.testing import CliRunner, Result

from headclip_med import evaluate, open_dataset
from headclip_med.cli.main import app
from headclip_med.datasets import CaseDataset
from headclip_med.engine import load as engine
from headclip_med.engine.result import AnomalyResult
from headclip_med.evaluation import EvaluationWatcher, Settings
from headclip_med.evaluation.controls import Control, make_control

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


def _pictures(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(3):
        Image.fromarray(rng.integers(60, 120, (24, 24)).astype(np.uint8)).save(root / "images" / f"{number}.png")
        mask = np.zeros((24, 24), dtype=np.uint8)
        mask[4 : 10 + number, 4:9] = 255
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


def _evaluated(*words: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", "--device", "cpu", "--bootstrap", "0", *map(str, words)])


def test_a_finished_evaluation_is_resumed_without_a_model(
    tmp_path: Path, tiny_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = f"pairs:{_pictures(tmp_path / 'set')}"
    asked = ["--data", data, "-m", tiny_pack, "-m", BRIGHT, "-o", tmp_path / "out", "--json"]
    first = _evaluated(*asked)
    assert first.exit_code == 0, first.output
    real = engine.load_engine
    monkeypatch.setattr(engine, "load_engine", lambda *_, **__: pytest.fail("a model was loaded"))
    again = _evaluated(*asked, "--resume")
    assert again.exit_code == 0, again.output
    before, after = (json.loads(ran.stdout)["models"] for ran in (first, again))
    for one, other in zip(before, after, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    loaded: list[object] = []
    monkeypatch.setattr(engine, "load_engine", lambda *a, **k: loaded.append(a) or real(*a, **k))
    for more in (["--threshold", "0.4"], ["--precision", "bfloat16"]):
        assert _evaluated(*asked, "--resume", *more).exit_code == 0
    assert len(loaded) == 2


def _numbers(folder: Path) -> list[dict[str, str]]:
    """Rows of the table of cases, without the time they took."""
    with (folder / "cases.csv").open(encoding="utf-8", newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def test_a_resumed_evaluation_with_a_case_to_do_measures_it(tmp_path: Path, tiny_pack: Path) -> None:
    data = f"pairs:{_pictures(tmp_path / 'set')}"
    asked = ["--data", data, "-m", tiny_pack, "-o", tmp_path / "out"]
    _evaluated(*asked)
    [kept] = (tmp_path / "out" / "cases").glob("tiny*/1.npz")
    before = _numbers(tmp_path / "out")
    kept.unlink()
    again = _evaluated(*asked, "--resume")
    assert again.exit_code == 0, again.output
    assert kept.is_file()
    assert len(before) == 3
    assert _numbers(tmp_path / "out") == before


def test_json_of_an_evaluation_has_curves_on_request_only(tmp_path: Path, tiny_pack: Path) -> None:
    asked = [
        "--data",
        f"pairs:{_pictures(tmp_path / 'set')}",
        "-m",
        tiny_pack,
        "-o",
        tmp_path / "out",
        "--resume",
        "--json",
    ]
    short, long = (_evaluated(*asked, *more) for more in ([], ["--curves"]))
    compact, whole = json.loads(short.stdout), json.loads(long.stdout)
    levels = compact["models"][0]["levels"]
    assert levels["pixel"].keys() == {"unit", "counts", "metrics"}
    assert levels["pixel"]["metrics"] == whole["models"][0]["levels"]["pixel"]["metrics"]
    assert len(whole["models"][0]["levels"]["pixel"]["curves"]["roc"]["x"]) > 2
    assert len(short.stdout) < len(long.stdout) / 3
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["models"] == whole["models"]
