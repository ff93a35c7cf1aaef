"""A training that is stopped: what is kept, what is said, and that going on gives the pack of an unbroken run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from small_pretraining import SMALL
from training_case import train_config, write_pairs, write_tower
from typer.testing import CliRunner

from headclip_med.base.errors import CancelledError, HeadclipError, InputError, OutputError
from headclip_med.base.files import save_tensors
from headclip_med.cli.main import app
from headclip_med.training import features
from headclip_med.training.checkpoint import NAME, checkpoint_step
from headclip_med.training.config import TrainConfig
from headclip_med.training.feature_store import FeatureStore, kept_folder
from headclip_med.training.loop import TrainWatcher
from headclip_med.training.pretraining import run as pretraining
from headclip_med.training.pretraining.batches import PaintedSlices
from headclip_med.training.pretraining.config import PretrainConfig
from headclip_med.training.pretraining.network import PretrainNetwork
from headclip_med.training.run import train
from headclip_med.training.stop import Stop, stopped_words

METHODS: dict[str, dict[str, Any]] = {
    "headclip": {"steps": 4, "validate_every": 2},
    "without head weights": {"steps": 4, "validate_every": 2, "heads": {"train": False}},
    "through the tower": {"steps": 4, "validate_every": 2, "fast": False, "slices": {"lesion": 1, "free": 1}},
    "vectors": {"method": "vectors", "feature_layers": [5], "steps": 4, "validate_every": 2},
}


class At(TrainWatcher):
    """Interrupts a run at a place: the beginning of a stage, or the end of a step."""

    def __init__(self, place: str) -> None:
        self.place, self.stages = place, list[str]()

    def stage(self, words: str) -> None:
        self.stages.append(words)
        if words == self.place:
            raise KeyboardInterrupt

    def step(self, step: int, steps: int, loss: float) -> None:
        if f"step {step}" == self.place:
            raise KeyboardInterrupt


def results(folder: Path) -> dict[str, bytes]:
    names = ("pack.json", "pack.safetensors", "training.json", "tower.safetensors")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, bytes]]]:
    """The results of unbroken runs, each done once, and the folder that holds their data and tower."""
    root, done = tmp_path_factory.mktemp("whole"), dict[str, dict[str, bytes]]()

    def of(method: str) -> tuple[Path, dict[str, bytes]]:
        if method not in done:
            out = root / f"whole {method}"
            train(train_config(out, **METHODS[method]))
            assert not kept_folder(out).exists(), "what was kept for an interruption is gone"
            done[method] = results(out)
        return root, done[method]

    return of


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("place", "step"),
    [
        ("cutting slices", None),
        ("training", 0),
        ("step 3", 2),
        ("choosing the threshold", 4),
    ],
)
def test_going_on_gives_the_pack_of_an_unbroken_run_to_the_bit(
    method: str, place: str, step: int | None, whole: Callable[[str], tuple[Path, dict[str, bytes]]]
) -> None:
    root, expected = whole(method)
    out = root / f"{method} at {place}"
    config = train_config(out, **METHODS[method])
    out.rmdir()
    with pytest.raises(KeyboardInterrupt):
        train(config, watcher=At(place))
    begun = place != "cutting slices"
    assert out.exists() == begun, "an interruption that kept nothing leaves no folder"
    assert checkpoint_step(out) == step
    train(config, resume=True)
    assert results(out) == expected
    assert not kept_folder(out).exists()


def test_a_run_is_kept_from_the_moment_that_the_class_vectors_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The minutes before the first step: features are computed once, whatever happens in between."""
    computed = []
    contributions = features.local_contributions

    def count(tower: Any, pixels: torch.Tensor, options: Any) -> Any:
        computed.append(pixels.sum().item())
        if len(computed) == 4:
            raise KeyboardInterrupt
        return contributions(tower, pixels, options)

    monkeypatch.setattr(features, "local_contributions", count)
    config = train_config(tmp_path / "out", steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert checkpoint_step(config.out) == 0
    assert len(list(kept_folder(config.out).glob("*.safetensors"))) == 3
    with pytest.raises(HeadclipError, match="Add --resume to go on with it"):
        train(config)
    train(config, resume=True)
    in_both = len(computed)
    train(train_config(tmp_path / "whole", steps=2))
    assert len(computed) - in_both == in_both - 1, "only the slice that was broken off was begun twice"
    assert results(config.out) == results(tmp_path / "whole")


def test_slices_that_were_cut_are_not_cut_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headclip_med.training import slices

    cut, original = [], slices.cut_case

    def count(case: Any, *rest: Any) -> Any:
        cut.append(case.name)
        return original(case, *rest)

    monkeypatch.setattr(slices, "cut_case", count)
    config = train_config(tmp_path / "out", **METHODS["vectors"])
    with pytest.raises(KeyboardInterrupt):
        train(config, watcher=At("step 1"))
    before = len(cut)
    train(config, resume=True)
    assert len(cut) == before == 10
    image = next((tmp_path / "pairs" / "images").iterdir())
    image.write_bytes((tmp_path / "pairs" / "images" / "03.png").read_bytes())
    train(train_config(tmp_path / "other", cache_dir=tmp_path / "cache", **METHODS["vectors"]))
    changed = train_config(tmp_path / "third", cache_dir=tmp_path / "cache", **METHODS["vectors"], image_size=32)
    train(changed)
    assert load_file(tmp_path / "third" / "pack.safetensors"), "slices of another size are not taken from the cache"


def test_a_stop_between_steps_keeps_the_step(tmp_path: Path) -> None:
    for method, changes in METHODS.items():
        done = []

        class Counts(TrainWatcher):
            def step(self, step: int, steps: int, loss: float) -> None:
                done.append(step)  # noqa: B023

        config = train_config(tmp_path / method, **changes)
        with pytest.raises(CancelledError, match="after step 2 of"):
            train(config, watcher=Counts(), cancel=lambda: len(done) >= 2)  # noqa: B023
        assert checkpoint_step(config.out) == 2, method


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_step_in_work_and_a_second_one_does_not(number: int) -> None:
    told: list[str] = []
    before = signal.getsignal(number)
    with Stop(TrainWatcher(), told.append) as stop:
        stop.stage("reading the data")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert (stop.where, stop.exit_code) == ("while reading the data", 128 + number)
    with Stop(TrainWatcher(), told.append) as stop:
        stop.stage("training")
        assert not stop.cancel()
        os.kill(os.getpid(), number)
        stop.step(5, 8, 0.1)
        assert stop.cancel()
        assert stop.where == "after step 5 of 8"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        stop.stage("choosing the threshold")
    assert told == ["stopping after this step; once more stops at once"]
    assert signal.getsignal(number) is before


def test_signals_are_left_alone_where_they_are_ignored_and_in_other_threads() -> None:
    """As of a run that a shell put into the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop(TrainWatcher()):
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    found = []

    def elsewhere() -> None:
        with Stop(TrainWatcher()):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_a_stopped_run_says_whether_a_checkpoint_exists_and_what_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/headclip-med", "train", "--out", "my pack", "--resume"])
    none = stopped_words("while reading the data", tmp_path, "train")
    assert none == (
        "training stopped while reading the data: there is no checkpoint yet, nothing is kept; "
        "begin again with: headclip-med train --out 'my pack'"
    )
    config = train_config(tmp_path / "out", steps=6, validate_every=3)
    with pytest.raises(KeyboardInterrupt):
        train(config, watcher=At("step 4"))
    some = stopped_words("after step 4 of 6", config.out, "train")
    assert f"{NAME} in {config.out} holds step 3; go on with: headclip-med train --out 'my pack' --resume" in some
    assert "the same command and resume" in stopped_words("x", config.out)


def _script(folder: Path, body: str) -> list[str]:
    """A Python program that runs the command line with a change before it."""
    path = folder / "run.py"
    imports = "import os\nfrom headclip_med.cli.main import main\nfrom headclip_med.training import run\n"
    path.write_text(f"{imports}{body}main()\n")
    return [sys.executable, str(path)]


def test_the_command_line_is_stopped_by_a_signal_and_goes_on(tmp_path: Path) -> None:
    """In a process of its own, as a queue stops it."""
    tower, data = write_tower(tmp_path / "tower.safetensors"), write_pairs(tmp_path / "pairs")
    words = ["train", "--model", tower.partition("@")[0], "--weights", str(tmp_path / "tower.safetensors")]
    words += ["--data", f"pairs:{data}", "--steps", "4", "--set", "image_size=64", "--set", "local_start=1"]
    words += ["--set", "validation=0.4", "--set", "batch=4", "--out", str(tmp_path / "out")]
    body = (
        "original = run.batch_loss\n"
        "calls = []\n"
        "def step(*args):\n"
        "    calls.append(1)\n"
        f"    if len(calls) == 2: os.kill(os.getpid(), {int(signal.SIGTERM)})\n"
        "    return original(*args)\n"
        "run.batch_loss = step\n"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([*_script(tmp_path, body), *words], env=env, capture_output=True, text=True)
    assert ran.returncode == 128 + signal.SIGTERM, ran.stderr
    said = " ".join(ran.stderr.split())
    assert "stopping after this step; once more stops at once" in said
    assert "training stopped after step 2 of 4: checkpoint.safetensors in" in said
    assert "go on with: headclip-med train --model test_vit.r160_in1k --weights" in said
    assert said.endswith("--resume")
    assert "finished cases" not in said
    again = CliRunner().invoke(app, [*words, "--resume"])
    assert again.exit_code == 0, again.output
    assert checkpoint_step(tmp_path / "out") == 4


def test_a_tower_must_be_named_by_its_architecture_or_its_weights(tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "pairs")
    words = ["train", "--data", f"pairs:{data}", "--out", str(tmp_path / "out")]
    none = CliRunner().invoke(app, words)
    assert none.exit_code == 2
    assert "given: no model. Add --data, --model (or --weights FILE)" in " ".join(none.output.split())
    for more, told in (
        (("--model", "vit_small_patch14_dinov2", "--weights", str(tmp_path / "gone.pt")), "must exist; given: gone.pt"),
        (("--weights", str(tmp_path / "gone.pt")), "must exist; given: gone.pt"),
        (("--model", "headclip-tiny", "--weights", str(tmp_path / "gone.pt")), "must begin with a tower"),
        (("--model", "ViT-B-16"), "or add --weights FILE"),
    ):
        ran = CliRunner().invoke(app, [*words, *more])
        assert ran.exit_code == 2
        assert told in " ".join(ran.output.split())
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 63},
        {"feature_layers": [99]},
        {"data": [{"path": "nowhere"}]},
        {"validation": 0.01},
        {"model": "headclip-tiny"},
        {"model": "ViT-B-99"},
        {"classes": {"kind": "prompts"}},
        {"method": "anomalyclip"},
        {"method": "vectors", "options": {"colour": 1}},
        {"image_size": 64, "slices": {"min_lesion": 0.999}},
    ],
    ids=str,
)
def test_a_refused_training_leaves_no_folder(changes: dict[str, Any], tmp_path: Path) -> None:
    config = train_config(tmp_path / "runs" / "first", steps=2)
    (tmp_path / "runs" / "first").rmdir()
    changed = TrainConfig.model_validate({**config.model_dump(), "out": tmp_path / "new" / "pack", **changes})
    with pytest.raises(HeadclipError):
        train(changed)
    assert not (tmp_path / "new").exists()


def test_data_that_can_never_begin_leave_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headclip_med.training import run

    def refuse(*_: object) -> None:
        raise InputError("Training slices must have patches with and without lesion", "none")

    monkeypatch.setattr(run, "start_vectors", refuse)
    config = train_config(tmp_path / "out")
    config.out.rmdir()
    with pytest.raises(InputError):
        train(config)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_costs_the_store_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_config(tmp_path / "out", steps=2)
    (tmp_path / "full").touch()
    monkeypatch.setattr(FeatureStore, "_file", lambda self, pixels: tmp_path / "full" / "x.safetensors")
    train(config)
    monkeypatch.undo()
    train(train_config(tmp_path / "whole", steps=2))
    assert results(config.out) == results(tmp_path / "whole")


def test_a_damaged_feature_is_computed_again(tmp_path: Path) -> None:
    config = train_config(tmp_path / "out", steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, watcher=At("training"))
    for path in kept_folder(config.out).glob("*.safetensors"):
        path.write_bytes(b"damaged")
    train(config, resume=True)
    train(train_config(tmp_path / "whole", steps=2))
    assert results(config.out) == results(tmp_path / "whole")


def test_the_bundles_pretraining_is_kept_from_its_beginning_and_goes_on_to_the_bit(tmp_path: Path) -> None:
    """As `bundle run train --bundle headclip_tiny_pretraining` runs it, stopped by the signal that Ctrl-C sends."""

    class Signal(TrainWatcher):
        def step(self, step: int, steps: int, loss: float) -> None:
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    whole, broken = (
        PretrainConfig.model_validate({**SMALL, "phantoms": 1, "out": tmp_path / name}) for name in ("whole", "broken")
    )
    bank, ledger = pretraining.read_bank(whole)

    def run(config: PretrainConfig, **more: Any) -> None:
        network, slices = PretrainNetwork(config), PaintedSlices(bank, config)
        pretraining.Pretrainer(config, network, slices, ledger, **more).run()

    run(whole)
    with pytest.raises(CancelledError, match=r"training stopped after step 3 of .*broken holds step 3; go on with"):
        run(broken, watcher=Signal())
    run(broken, resume=True)
    assert results(broken.out).keys() == {"pack.json", "pack.safetensors", "training.json", "tower.safetensors"}
    assert results(broken.out) == results(whole.out)


def test_a_full_disk_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of safetensors' own error, which is no OSError."""

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match="the disk is full"):
        save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    assert not list(tmp_path.iterdir())
