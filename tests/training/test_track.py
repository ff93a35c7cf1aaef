"""What TensorBoard and MLflow know of a run afterwards."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
from training_case import train_config

from headclip_med.base.errors import CancelledError, MissingExtraError
from headclip_med.training import track
from headclip_med.training.config import TrainConfig
from headclip_med.training.loop import TrainWatcher
from headclip_med.training.objective import Quality
from headclip_med.training.run import train
from headclip_med.training.track import tracked


class _Memory(TrainWatcher):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.losses: list[tuple[int, float]] = []
        self.found: list[tuple[int, Quality]] = []

    def stage(self, words: str) -> None:
        self.stages.append(words)

    def step(self, step: int, steps: int, loss: float) -> None:
        self.losses.append((step, loss))

    def validated(self, step: int, quality: Quality, best: bool) -> None:
        self.found.append((step, quality))


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag, from the event files of TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / track.TENSORBOARD_FOLDER)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def _stopped_after_a_step(config: TrainConfig) -> None:
    with tracked(TrainWatcher(), config) as watcher:
        watcher.step(1, 6, 0.5)
        raise CancelledError("The run was stopped by the caller", "after step 1")


def _same(found: list[tuple[int, float]], said: list[tuple[int, float]]) -> bool:
    """Steps are equal, values are equal to 32 bits."""
    return [s for s, _ in found] == [s for s, _ in said] and [v for _, v in found] == pytest.approx(
        [v for _, v in said], rel=1e-6
    )


def test_tensorboard_holds_the_losses_and_validations_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("ignite")
    pytest.importorskip("tensorboard")
    memory, folder = _Memory(), tmp_path / "run"
    train(train_config(folder, track="tensorboard", steps=4), watcher=memory)
    found = _scalars(folder)
    assert set(found) == {"train/loss", "validation/auroc", "validation/average_precision"}
    assert [step for step, _ in memory.losses] == [1, 2, 3, 4]
    assert "training" in memory.stages
    assert _same(found["train/loss"], memory.losses)
    assert _same(found["validation/auroc"], [(step, quality.auroc) for step, quality in memory.found])
    precision = [(step, quality.average_precision) for step, quality in memory.found]
    assert [step for step, _ in precision] == [0, 2, 4]
    assert _same(found["validation/average_precision"], precision)


def test_a_validation_that_is_not_defined_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("ignite")
    pytest.importorskip("tensorboard")
    config = train_config(tmp_path / "run", track="tensorboard")
    with tracked(TrainWatcher(), config) as watcher:
        watcher.validated(2, Quality(math.nan, math.nan), False)
        watcher.validated(4, Quality(0.75, 0.5), True)
    assert _scalars(config.out) == {"validation/auroc": [(4, 0.75)], "validation/average_precision": [(4, 0.5)]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of mlflow's own packages
def test_mlflow_keeps_its_run_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ignite")
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    config = train_config(tmp_path / "run", track="mlflow", name="tiny")
    with pytest.raises(CancelledError):
        _stopped_after_a_step(config)
    client = mlflow.MlflowClient(f"sqlite:///{config.out / track.MLFLOW_FILE}")
    experiment = client.get_experiment_by_name("headclip_med").experiment_id
    assert [run.info.status for run in client.search_runs(experiment)] == ["KILLED"]
    with tracked(TrainWatcher(), config.model_copy(update={"steps": 9})) as watcher:  # resumed, and longer
        watcher.step(2, 9, 0.25)
        watcher.validated(2, Quality(0.75, 0.5), True)
    (run,) = client.search_runs(experiment)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tiny")
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == [
        (1, 0.5),
        (2, 0.25),
    ]
    assert run.data.metrics["validation/average_precision"] == 0.5
    assert (run.data.params["heads.lr"], run.data.params["batch"]) == ("0.01", "4")
    assert not [value for value in run.data.params.values() if str(tmp_path) in value]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs", "run", "tower.safetensors"]


@pytest.mark.parametrize(
    ("choice", "absent", "named"),
    [("tensorboard", {"tensorboard"}, "no tensorboard"), ("mlflow", {"ignite", "mlflow"}, "no pytorch-ignite, mlflow")],
)
def test_missing_packages_are_named_with_the_way_to_get_them(
    choice: str, absent: set[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(track, "find_spec", lambda name: None if name in absent else known("json"))
    with pytest.raises(MissingExtraError, match=r"pip install headclip-med\[track\]") as error:
        train(train_config(tmp_path / "run", track=choice))
    assert error.value.given == named


def test_nothing_is_wrapped_or_imported_without_tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "find_spec", lambda name: None)
    watcher = TrainWatcher()
    with tracked(watcher, train_config(tmp_path / "run")) as same:
        assert same is watcher
