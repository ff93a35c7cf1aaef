"""What fails in the middle of an evaluation is counted, told, and stops it only where nothing could be kept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headclip_med import evaluate, open_dataset
from headclip_med.base.errors import InputError, OutputError
from headclip_med.datasets import CaseDataset
from headclip_med.datasets.case import Case
from headclip_med.datasets.names import uniquely_named
from headclip_med.evaluation import EvaluationWatcher, Settings, cases
from headclip_med.evaluation.controls import Control, make_control
from headclip_med.evaluation.groups import with_columns
from headclip_med.evaluation.workers import run_all

QUICK = Settings(replicates=100)


@dataclass(frozen=True)
class Picky(Control):
    """The control intensity, which refuses bright images."""

    def predict(self, volume: Any, **asked: Any) -> Any:
        if float(volume.max()) > 200:
            raise InputError("An image must be dark", "a bright one")
        return super().predict(volume, **asked)


def _pictures(root: Path, count: int = 6) -> CaseDataset:
    """``count`` noisy pictures, two of each patient; in every second one a bright square with its mask."""
    rng = np.random.default_rng(0)
    root.mkdir()
    rows = ["image,mask,patient"]
    for i in range(count):
        array, mask = rng.integers(60, 120, (24, 24)).astype(np.uint8), np.zeros((24, 24), dtype=np.uint8)
        if i % 2:
            array[8:14, 8:14], mask[8:14, 8:14] = 250, 255
        Image.fromarray(array).save(root / f"{i}.png")
        Image.fromarray(mask).save(root / f"{i}_mask.png")
        rows.append(f"{i}.png,{i}_mask.png,p{i // 4}")
    (root / "set.csv").write_text("\n".join(rows))
    return open_dataset(root / "set.csv")


def test_a_case_that_failed_does_not_count(tmp_path: Path) -> None:
    scorers = {"all": make_control("intensity"), "picky": Picky("intensity")}
    result = evaluate(scorers, _pictures(tmp_path / "set"), settings=QUICK)
    facts = result.record.dataset
    assert (facts.cases, facts.counted, facts.failed, facts.patients) == (6, 3, 3, 2)
    assert "3 of 6 cases of 2 patients (without 3 failed)" in result.table()
    assert not result.ok
    assert result.record.warnings == (
        "models were measured on different cases (all 6, picky 3): only differences rest on the same ones",
    )


def test_a_full_disk_ends_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutputError("The output must be writable", "the disk is full")

    monkeypatch.setattr(cases, "save_case", full)
    done: list[str] = []
    watcher = EvaluationWatcher()
    watcher.case_done = lambda case, error: done.append(case)  # type: ignore[method-assign]
    with pytest.raises(OutputError, match="the disk is full"):
        evaluate("control:intensity", _pictures(tmp_path / "set"), tmp_path / "out", settings=QUICK, watcher=watcher)
    assert done == ["0", "1", "2", "3", "4", "5"]  # read; none was predicted for nothing


@pytest.mark.parametrize("letter", ["x", "字", "𠀀"])
def test_a_name_fits_a_file_system_whatever_its_letters(letter: str, tmp_path: Path) -> None:
    (case,) = uniquely_named([Case(name=f"a.{letter * 300}", images=(tmp_path / "x.png",))])
    assert len(f".headclip-0123456789ab{case.name}.npz".encode()) <= 255
    assert case.name.startswith(f"a.{letter * 40}")


def test_a_column_named_category_can_be_grouped_by(tmp_path: Path) -> None:
    dataset = _pictures(tmp_path / "set")
    (tmp_path / "g.csv").write_text("case,category\n" + "\n".join(f"{i},{'AB'[i % 3 == 0]}" for i in range(6)))
    joined = with_columns(dataset, tmp_path / "g.csv")
    groups = evaluate("control:intensity", joined, settings=QUICK, group_by=["category"]).record.models[0].subgroups
    assert [(group.value, group.cases) for group in groups] == [("A", 4), ("B", 2)]


def test_what_was_done_when_a_process_died_stays_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result and the crash of the next task can be reported together, in any order."""
    from concurrent.futures.process import BrokenProcessPool

    from headclip_med.evaluation import workers

    class Pool:
        def __init__(self, *_: object, **__: object) -> None: ...

        def submit(self, work: Callable[..., str], inner: Callable[[Any, int], str], task: int) -> Future[str]:
            future: Future[str] = Future()
            if task == 13:
                future.set_exception(BrokenProcessPool())
            else:
                future.set_result(inner(None, task))
            return future

        def shutdown(self, **_: object) -> None: ...

    def crash_first(running: dict[Future[str], int], **_: object) -> tuple[list[Future[str]], list[Future[str]]]:
        return sorted(running, key=lambda future: future.exception() is None), []

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(workers, "wait", crash_first)
    found = dict(run_all([1, 13, 2], lambda _, task: str(task), lambda: None, 2, lambda words: "died"))
    assert found == {1: "1", 13: "died", 2: "2"}
