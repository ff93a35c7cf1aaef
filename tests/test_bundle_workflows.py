"""The bundle through MONAI's own workflow classes: train, evaluate and infer, and what they leave behind."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from bundle_case import EVALUATE, INFERENCE, ROOT, TRAIN, settings, training, write_patients
from monai.bundle import ConfigWorkflow, create_workflow
from safetensors.torch import load_file

from headclip_med import load_engine
from headclip_med.bundle import build_network, read_ledger
from headclip_med.errors import HeadclipError

pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),  # that a config is code
]


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patients(tmp_path_factory.mktemp("data") / "patients")


@pytest.fixture(scope="module")
def trained(patients: Path, tiny_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a training run of two epochs."""
    out = tmp_path_factory.mktemp("trained")
    run(TRAIN, "train", **training(patients, out, tiny_pack))
    return out


def run(configs: list[str], kind: str, **overrides: Any) -> ConfigWorkflow:
    """Initialize, check, run and finalize, as the model zoo's tests do."""
    workflow = ConfigWorkflow(
        config_file=configs,
        meta_file=str(ROOT / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        **overrides,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()
    return workflow


def test_training_leaves_checkpoints_a_pack_and_its_ledger(trained: Path, patients: Path) -> None:
    models = trained / "models"
    checkpoints = {"last.pt", "last.json", "model_trained.pt", "model_trained.json"}
    assert {path.name for path in models.iterdir()} == {*checkpoints, "pack"}
    state = torch.load(models / "model_trained.pt", weights_only=True)
    pack = load_file(models / "pack" / "pack.safetensors")
    assert torch.equal(state["head_weights"], pack["head_weights"])
    assert not torch.equal(pack["head_weights"], torch.ones_like(pack["head_weights"]))
    record = json.loads((models / "pack" / "pack.json").read_text())
    assert record["ledger"][-1]["name"] == patients.name
    assert record["ledger"][-1]["count"] == 2
    assert "validation cases" in record["threshold"]["origin"]
    assert "val_pixel_auroc" in record["validation"]


def test_the_trained_pack_predicts_as_the_checkpoint_does(trained: Path, patients: Path, tiny_pack: Path) -> None:
    source = patients / "patient0" / "flair.nii.gz"
    network = build_network(tiny_pack)
    network.load_state_dict(torch.load(trained / "models" / "model_trained.pt", weights_only=True))
    from_pack = load_engine(trained / "models" / "pack").predict(source)
    from_checkpoint = network.as_engine().predict(source)
    assert np.array_equal(from_pack.map_array, from_checkpoint.map_array)
    assert from_pack.pred_score == from_checkpoint.pred_score


@pytest.mark.parametrize("name", ["model_trained.pt", "last.pt"])
def test_training_data_is_refused_in_an_evaluation(trained: Path, patients: Path, tiny_pack: Path, name: str) -> None:
    checkpoint = trained / "models" / name
    assert len(read_ledger(checkpoint)[-1]["image_sha256"]) == 2
    overrides = training(patients, trained / "eval", tiny_pack, ckpt_path=str(checkpoint))
    with pytest.raises(RuntimeError) as caught:
        run(EVALUATE, "eval", **overrides)
    assert "2 of 4 images are in patients" in str(innermost(caught.value))


def test_training_further_forgets_nothing_that_was_seen_before(trained: Path, tiny_pack: Path, tmp_path: Path) -> None:
    """The ledger of the checkpoint that a run began with was lost: its images could be evaluated on."""
    others = write_patients(tmp_path / "others", 6)
    start = str(trained / "models" / "model_trained.pt")
    overrides = {**training(others, tmp_path / "out", tiny_pack), "load_pretrain": True, "ckpt_path": start}
    run(TRAIN, "train", **{**overrides, "max_epochs": 1})
    seen = [entry["name"] for entry in read_ledger(tmp_path / "out" / "models" / "model_trained.pt")]
    assert seen == ["patients", "others"]
    record = json.loads((tmp_path / "out" / "models" / "pack" / "pack.json").read_text())
    assert [entry["name"] for entry in record["ledger"]] == seen


def test_held_out_patients_can_be_evaluated(trained: Path, patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    checkpoint = trained / "models" / "model_trained.pt"
    overrides = training(patients, tmp_path, tiny_pack, ckpt_path=str(checkpoint), held_out_only=True)
    workflow = run(EVALUATE, "eval", **overrides)
    assert len(workflow.dataset) == 2
    rows = (tmp_path / "metrics.csv").read_text()
    assert "val_pixel_auroc" in rows
    saved = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.nii.gz"))
    assert len(saved) == 2
    name = saved[0].split("/")[0]
    assert saved[0] == f"{name}/{name}_anomaly_map.nii.gz"
    assert_on_grid(tmp_path / saved[0], patients / name / "flair.nii.gz")


def test_a_checkpoint_of_another_network_is_one_message(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    overrides = settings(
        patients, tmp_path, tiny_pack, pattern="*flair.nii.gz", ckpt_path=str(ROOT / "models/model.pt")
    )
    with pytest.raises(RuntimeError) as caught:
        run(INFERENCE, "infer", **overrides)
    words = str(innermost(caught.value))
    assert "A checkpoint must hold the" in words
    assert "unknown (first tower.blocks.2." in words
    assert "of another shape" in words
    assert len(words) < 500


@pytest.mark.parametrize("changes", [{}, {"spatial_size": [16, 20, 6]}])
def test_inference_gives_maps_on_the_sources_grid(
    patients: Path, tiny_pack: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    overrides = settings(patients, tmp_path, tiny_pack, pattern="*flair.nii.gz", load_pretrain=False, **changes)
    run(INFERENCE, "infer", **overrides)
    names = [row["case"] for row in rows_of(tmp_path / "scores.csv")]
    assert names == ["flair", "flair_2", "flair_3", "flair_4"]  # of one file name, none overwrites another
    for number, name in enumerate(names):
        source = patients / f"patient{number}" / "flair.nii.gz"
        assert_on_grid(tmp_path / name / f"{name}_anomaly_map.nii.gz", source)


def test_bundle_and_predict_give_the_same_map_and_scores(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    overrides = settings(patients, tmp_path, tiny_pack, pattern="*flair.nii.gz", load_pretrain=False)
    run(INFERENCE, "infer", **overrides)
    expected = load_engine(tiny_pack).predict(patients / "patient2" / "flair.nii.gz")
    found = nib.load(tmp_path / "flair_3" / "flair_3_anomaly_map.nii.gz").get_fdata(dtype=np.float32)
    assert np.abs(found - expected.map_array).max() <= 1e-6
    assert float(rows_of(tmp_path / "scores.csv")[2]["score"]) == pytest.approx(expected.pred_score, abs=1e-6)
    slices = [row for row in rows_of(tmp_path / "scores_slices.csv") if row["case"] == "flair_3"]
    assert [float(row["score"]) for row in slices] == pytest.approx([part.score for part in expected.slices], abs=1e-6)


def test_a_case_that_cannot_be_read_leaves_the_scores_of_those_before_it(
    patients: Path, tiny_pack: Path, tmp_path: Path
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "a.nii.gz").write_bytes((patients / "patient0" / "flair.nii.gz").read_bytes())
    (scans / "b.nii.gz").write_bytes((patients / "patient1" / "flair.nii.gz").read_bytes()[:500])
    with pytest.raises(RuntimeError) as caught:
        run(INFERENCE, "infer", **settings(scans, tmp_path / "out", tiny_pack, load_pretrain=False))
    assert "b.nii.gz must be a readable NIfTI file" in "".join(map(str, causes(caught.value)))
    assert [row["case"] for row in rows_of(tmp_path / "out" / "scores.csv")] == ["a"]
    assert len(rows_of(tmp_path / "out" / "scores_slices.csv")) == 6


def test_the_shipped_model_predicts_as_headclip_tiny(patients: Path, tmp_path: Path) -> None:
    overrides = settings(patients / "patient1", tmp_path, Path("headclip-tiny"), pattern="*flair.nii.gz")
    run(INFERENCE, "infer", **overrides)
    expected = load_engine("headclip-tiny").predict(patients / "patient1" / "flair.nii.gz")
    found = nib.load(tmp_path / "flair" / "flair_anomaly_map.nii.gz").get_fdata(dtype=np.float32)
    assert np.abs(found - expected.map_array).max() <= 1e-6


def test_shipped_weights_are_those_of_the_embedded_pack() -> None:
    expected = build_network("headclip-tiny").state_dict()
    for name, state in (
        ("model.pt", torch.load(ROOT / "models" / "model.pt", weights_only=True)),
        ("model.safetensors", load_file(ROOT / "models" / "model.safetensors")),
    ):
        assert set(state) == set(expected), name
        assert all(torch.equal(state[key].float(), expected[key].float()) for key in expected), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what mlflow itself uses
def test_runs_are_tracked_in_sqlite_and_tensorboard(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    import sqlite3

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(TRAIN, "train", **{**training(patients, tmp_path, tiny_pack), "mlflow": True, "tensorboard": True})
    with sqlite3.connect(tmp_path / "mlruns.db") as database:
        kept = {key for (key,) in database.execute("SELECT DISTINCT key FROM metrics")}
    assert {"train_loss", "val_pixel_auroc", "pixel_average_precision"} <= kept
    seen = set()
    for events in tmp_path.glob("events.out.tfevents.*"):
        seen |= set(EventAccumulator(str(events)).Reload().Tags()["scalars"])
    assert {"train_loss", "val_pixel_auroc"} <= seen


def test_early_stop_ends_a_run_that_does_not_improve(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    overrides = training(patients, tmp_path, tiny_pack)
    workflow = run(TRAIN, "train", **{**overrides, "max_epochs": 9, "patience": 1, "learning_rate": 1e-12})
    assert workflow.trainer.state.epoch == 2


def test_models_are_built_again_by_one_command(tmp_path: Path) -> None:
    from headclip_med_workflows.build_model import build

    assert [path.name for path in build(tmp_path)] == ["model.pt", "model.safetensors", "model.json"]
    built, shipped = (torch.load(root / "models" / "model.pt", weights_only=True) for root in (tmp_path, ROOT))
    assert all(torch.equal(built[key], shipped[key]) for key in shipped)
    assert read_ledger(ROOT / "models" / "model.pt") == read_ledger(tmp_path / "models" / "model.pt")


# --- in plain Python ------------------------------------------------------------------------------------------------


def plain_values(*configs: str) -> dict[str, Any]:
    """Top-level values of configs laid over each other, without expressions, components and what MONAI alone uses."""
    found: dict[str, Any] = {}
    for config in configs:
        found |= yaml.safe_load(Path(config).read_text())
    mine = {name: value for name, value in found.items() if not str(value).startswith("$") and "#" not in name}
    for name in ("imports", "bundle_root", "overrides", "handlers", "initialize", "run", "finalize"):
        mine.pop(name, None)
    return {
        name: value for name, value in mine.items() if not isinstance(value, dict) and not str(value).startswith("@")
    }


@pytest.mark.parametrize(
    ("workflow", "configs", "config_only"),
    [
        ("HeadCLIPTraining", TRAIN, {"mlflow"}),
        ("HeadCLIPEvaluation", EVALUATE, {"mlflow", "learn"}),  # a config's trainer must have something to learn
        (
            "HeadCLIPInference",
            INFERENCE,
            {"image_key", "output_ext", "output_postfix", "separate_folder", "spatial_size"},
        ),
    ],
)
def test_settings_are_the_configs_top_level_values(workflow: str, configs: list[str], config_only: set[str]) -> None:
    from headclip_med_workflows import pythonic

    defaults = {field.name: field.default for field in dataclasses.fields(pythonic.Settings)}
    defaults |= getattr(pythonic, workflow).defaults
    values = plain_values(*configs)
    assert config_only <= set(values)
    expected = {name: value for name, value in values.items() if name not in config_only}
    assert {name: list(v) if isinstance(v := defaults[name], tuple) else v for name in expected} == expected


def test_pythonic_evaluation_equals_the_configs(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    overrides = training(patients, tmp_path / "config", tiny_pack, ckpt_path=str(checkpoint_of(tiny_pack, tmp_path)))
    expected = run(EVALUATE, "eval", **overrides).evaluator.state.metrics
    del overrides["bundle_root"]
    overrides |= {"output_dir": str(tmp_path / "python"), "load_pretrain": True}
    workflow = create_workflow(
        workflow_name="headclip_med_workflows.pythonic.HeadCLIPEvaluation", config_file=None, **overrides
    )
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()
    assert workflow.evaluator.state.metrics == expected
    assert len(list((tmp_path / "python").rglob("*.nii.gz"))) == 4


def test_pythonic_training_and_inference(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    from headclip_med_workflows.pythonic import HeadCLIPInference, HeadCLIPTraining

    overrides = training(patients, tmp_path, tiny_pack)
    del overrides["bundle_root"]
    workflow = HeadCLIPTraining(**overrides)
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()
    assert (tmp_path / "models" / "model_trained.pt").is_file()
    assert workflow.trainer.state.epoch == 2
    again = HeadCLIPInference(
        dataset_dir=str(patients / "patient0"),
        output_dir=str(tmp_path / "out"),
        pattern="*flair.nii.gz",
        model=str(tiny_pack),
        ckpt_path=str(tmp_path / "models" / "model_trained.pt"),
    )
    again.initialize()
    assert again.check_properties() == []
    again.run()
    assert_on_grid(tmp_path / "out" / "flair" / "flair_anomaly_map.nii.gz", patients / "patient0" / "flair.nii.gz")


def test_a_misspelt_setting_is_refused_with_the_nearest() -> None:
    from headclip_med_workflows.pythonic import HeadCLIPInference

    with pytest.raises(HeadclipError, match=r"given: output_dirr\. Did you mean output_dir"):
        HeadCLIPInference(output_dirr="x")


def checkpoint_of(pack: Path, folder: Path) -> Path:
    path = folder / "untrained.pt"
    torch.save(build_network(pack).state_dict(), path)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    lines = path.read_text().splitlines()
    assert "Research use only" in lines[0]
    return list(csv.DictReader(lines[1:]))


def assert_on_grid(path: Path, source: Path) -> None:
    """Shape, affine, codes and units of the source, values in [0, 1]."""
    found, expected = nib.load(path), nib.load(source)
    assert found.shape == expected.shape
    assert np.array_equal(found.affine, expected.affine)
    assert [int(found.header[f"{form}_code"]) for form in ("qform", "sform")] == [1, 0]
    assert found.header.get_xyzt_units()[0] == "mm"
    values = found.get_fdata()
    assert values.min() >= 0
    assert 0 < values.max() <= 1


def innermost(error: BaseException) -> BaseException:
    return causes(error)[-1]


def causes(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *causes(error.__cause__)]
