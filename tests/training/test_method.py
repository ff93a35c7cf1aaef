"""Training any method: by its own loss, validated on patients held back, kept and taken up again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prompt_files import small_clip
from training_case import train_config, write_pairs, write_tower
from typer.testing import CliRunner

from headclip_med.base.errors import CancelledError, InputError, ModelError
from headclip_med.cli.main import app
from headclip_med.engine.load import load_engine
from headclip_med.models.pack import load_pack
from headclip_med.training.loop import TrainWatcher
from headclip_med.training.run import train

VECTORS = {"method": "vectors", "feature_layers": [5], "steps": 12, "validate_every": 4}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}


def test_a_trained_method_is_a_pack_that_says_what_it_was_trained_on(tmp_path: Path) -> None:
    config = train_config(tmp_path / "out", **VECTORS, options={"map_sigma": 2.0})
    trained = train(config)
    pack = load_pack(trained.pack)
    assert pack.record.method == "vectors"
    assert pack.record.config == {"image_size": 64, "feature_layers": [5], "map_sigma": 2.0}
    assert pack.record.ledger[0].licence == "made here"
    assert pack.record.threshold.origin.startswith("highest mean Dice")
    assert trained.fitted.best_score == pytest.approx(pack.record.validation["average_precision"])
    scan = next((tmp_path / "pairs" / "images").glob("*.png"))
    result = load_engine(trained.pack, "cpu", weights=config.model).predict(scan)
    assert result.threshold == pack.record.threshold.value


def test_the_same_seed_gives_the_same_pack_interrupted_or_not(tmp_path: Path) -> None:
    whole = train(train_config(tmp_path / "whole", **VECTORS))
    config = train_config(tmp_path / "broken", **VECTORS)

    class Seven(TrainWatcher):
        done = 0

        def step(self, step: int, steps: int, loss: float) -> None:
            self.done = step

    watcher = Seven()
    with pytest.raises(CancelledError, match="after step 7 of 12"):
        train(config, watcher=watcher, cancel=lambda: watcher.done >= 7)
    assert not (tmp_path / "broken" / "pack.json").exists()
    again = train(config, resume=True)
    assert contents(whole.pack) == contents(again.pack)
    assert whole.fitted.history == again.fitted.history


def test_the_best_state_is_chosen_on_patients_that_were_held_back(tmp_path: Path) -> None:
    trained = train(train_config(tmp_path / "out", **VECTORS))
    scores = {entry["step"]: entry["average_precision"] for entry in trained.fitted.history}
    assert list(scores) == [0, 4, 8, 12]
    assert trained.fitted.best_score == max(scores.values())
    assert trained.slices["validation"] > 0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"method": "memory"}, ModelError, "must be one that learns"),
        ({"method": "mvfe"}, ModelError, "Did you mean mvfa"),
        ({"method": "anomalyclip"}, ModelError, "must have a tower with a text side"),
        ({"method": "crane"}, ModelError, "must have a tower with a text side"),
        ({"method": "vectors", "options": {"colour": 1}}, ModelError, "must use known keys; given: colour"),
        ({"method": "headclip", "options": {"image_size": 64}}, InputError, "to other methods than headclip"),
    ],
)
def test_a_method_that_cannot_be_trained_so_is_refused(
    tmp_path: Path, changes: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train(train_config(tmp_path / "out", **changes))


def test_options_that_are_no_fields_of_the_method_are_refused_before_the_tower_is_read(tmp_path: Path) -> None:
    config = train_config(tmp_path / "out", method="vectors", options={"feature_layer": 3})
    (tmp_path / "tower.safetensors").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"the method vectors must use known keys; given: feature_layer\. Known are"):
        train(config)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("method", ["anomalyclip", "memory", "headclip"])
def test_what_a_method_cannot_do_is_said_before_anything_is_loaded(tmp_path: Path, method: str) -> None:
    """The tower's file is no model at all, and is never read."""
    tower = tmp_path / "tower.safetensors"
    config = train_config(tmp_path / "out", method=method)
    tower.write_bytes(b"not a model")
    for mask in (tmp_path / "pairs" / "masks").iterdir():
        if method == "headclip":
            mask.unlink()
    data = f"folders:{tmp_path / 'pairs'}" if method == "headclip" else config.data[0].path
    if method == "headclip":
        for folder in ("normal", "abnormal"):
            (tmp_path / "pairs" / folder).mkdir()
        for number, image in enumerate(sorted((tmp_path / "pairs" / "images").iterdir())):
            image.rename(tmp_path / "pairs" / ("abnormal" if number % 2 else "normal") / image.name)
        for folder in ("images", "masks"):
            (tmp_path / "pairs" / folder).rmdir()
    changed = config.model_copy(update={"data": (config.data[0].model_copy(update={"path": data}),)})
    words = {
        "anomalyclip": "must have a tower with a text side",
        "memory": "must be one that learns",
        "headclip": "has no masks",
    }[method]
    with pytest.raises((ModelError, InputError), match=words):
        train(changed)


def test_a_method_is_chosen_on_the_command_line(tmp_path: Path) -> None:
    tower, data = write_tower(tmp_path / "tower.safetensors"), write_pairs(tmp_path / "pairs")
    words = ["train", "--method", "vectors", "--model", tower, "--data", f"pairs:{data}", "--steps", "2"]
    fields = ["--set", "image_size=64", "--set", "validation=0.4", "--set", "slices.lesion=2"]
    done = CliRunner().invoke(app, [*words, *fields, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert load_pack(tmp_path / "out").record.method == "vectors"


@pytest.mark.parametrize("method", ["anomalyclip", "crane", "mvfa", "vectors"])
def test_every_method_that_learns_trains_on_a_clip_tower_and_predicts(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tower is a small random CLIP, which no name stands for."""
    for module in ("headclip_med.training.method", "headclip_med.models.load"):
        monkeypatch.setattr(f"{module}.build_tower", lambda name: small_clip(dim=32))
    config = train_config(tmp_path / "out", method=method, model="small.pt", steps=2, slices={"lesion": 2, "free": 2})
    changed = config.model_copy(update={"feature_layers": (-1,), "image_size": None})
    trained = train(type(config)(**{**changed.model_dump(exclude={"feature_layers", "image_size"})}))
    assert len(trained.fitted.history) == 2
    record = load_pack(trained.pack).record
    assert record.method == method
    assert record.tower.kind == "open_clip"
    scan = next((tmp_path / "pairs" / "images").glob("*.png"))
    found = load_engine(trained.pack, "cpu", weights="small.pt").predict(scan).map_array
    assert 0 <= found.min() <= found.max() <= 1
    assert torch.isfinite(torch.as_tensor(found)).all()


def test_weights_go_to_the_packs_of_a_table_that_carry_none(tmp_path: Path) -> None:
    """`evaluate --weights` was refused for the models beside such a pack."""
    trained = train(train_config(tmp_path / "out", **VECTORS))
    data = write_pairs(tmp_path / "other", 4, seed=2)
    words = ["evaluate", "--data", f"pairs:{data}", "--out", str(tmp_path / "table"), "--bootstrap", "0"]
    tower = f"test_vit.r160_in1k@{tmp_path / 'tower.safetensors'}"
    models = ["--model", str(trained.pack), "--model", "headclip-tiny", "--weights", tower, "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, *models])
    assert done.exit_code == 0, done.output
    none = CliRunner().invoke(app, [*words, "--model", "headclip-tiny", "--weights", tower])
    assert none.exit_code == 2
    assert "Weights must be given for a pack that carries none" in none.output
