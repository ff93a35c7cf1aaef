"""The bundle through MONAI's own workflow classes: train, evaluate and infer, and what they leave behind."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_case import EVALUATE, INFERENCE, ROOT, TRAIN, settings, training, write_patients
from dicom_series import CtSeries
from monai.bundle import ConfigWorkflow
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from headclip_med import load_engine
from headclip_med.bundle import HeadCLIPInferer, build_network, read_ledger
from headclip_med.bundle.failures import BundleRunError
from headclip_med.cli.main import app

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


# --- pictures, and cases that fail ----------------------------------------------------------------------------------


def write_pictures(folder: Path) -> dict[str, Path]:
    """Noise of 30 rows and 40 columns in every way that pictures are stored."""
    folder.mkdir(parents=True)
    colour = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    alpha = np.dstack([colour, np.full((30, 40), 200, np.uint8)])
    made = {
        "colour.png": Image.fromarray(colour),
        "colour.jpg": Image.fromarray(colour),
        "alpha.png": Image.fromarray(alpha),
        "palette.png": Image.fromarray(colour).convert("P"),
        "cmyk.tif": Image.fromarray(colour).convert("CMYK"),
        "colour.bmp": Image.fromarray(colour),
        "grey.png": Image.fromarray(colour[..., 0]),
        "grey16.png": Image.fromarray(colour[..., 0].astype(np.uint16) * 200),
        "grey_alpha.png": Image.fromarray(colour).convert("LA"),
    }
    for name, image in made.items():
        image.save(folder / name)
    return {name: folder / name for name in made}


def test_pictures_of_every_kind_get_maps_in_their_own_pixels(tiny_pack: Path, tmp_path: Path) -> None:
    """SaveImaged found no writer for the map of a colour picture, and the run ended."""
    pictures = write_pictures(tmp_path / "in")
    out = tmp_path / "out"
    run(INFERENCE, "infer", **settings(tmp_path / "in", out, tiny_pack, load_pretrain=False))
    engine = load_engine(tiny_pack)
    scores = {row["case"]: float(row["score"]) for row in rows_of(out / "scores.csv")}
    assert len(scores) == len(pictures)
    for name, path in pictures.items():
        case = {"colour.jpg": "colour_2", "colour.png": "colour_3"}.get(name, path.stem)
        expected = engine.predict(path)
        assert scores[case] == pytest.approx(expected.pred_score, abs=1e-6)
        saved = nib.load(out / case / f"{case}_anomaly_map.nii.gz")
        assert saved.shape == (40, 30, 1)
        np.testing.assert_allclose(saved.get_fdata(), expected.map_array, atol=1e-6)
        seen = np.asarray(Image.open(out / case / f"{case}_anomaly_map.png")) / 255
        np.testing.assert_allclose(seen, expected.map_array[:, :, 0].T, atol=0.5 / 255 + 1e-6)


def test_colour_pictures_are_evaluated(tiny_pack: Path, tmp_path: Path) -> None:
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "masks").mkdir()
    for number in range(3):
        picture = np.random.default_rng(number).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        mask = np.zeros((30, 40), np.uint8)
        mask[5:12, 8 + number : 20] = 255
        Image.fromarray(picture).save(tmp_path / "set" / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "set" / "masks" / f"{number}.png")
    overrides = settings(tmp_path / "set", tmp_path / "out", tiny_pack, load_checkpoint=False, tensorboard=False)
    metrics = run(EVALUATE, "eval", **overrides).evaluator.state.metrics
    truth = [np.asarray(Image.open(tmp_path / "set" / "masks" / f"{n}.png")).T > 0 for n in range(3)]
    maps = [nib.load(tmp_path / "out" / str(n) / f"{n}_anomaly_map.nii.gz").get_fdata()[..., 0] for n in range(3)]
    expected = roc_auc_score(np.ravel(truth), np.ravel(maps))
    assert metrics["val_pixel_auroc"] == pytest.approx(expected, abs=1e-3)


def write_mixed(folder: Path, patients: Path) -> Path:
    """Two good volumes and a picture, and between them what cannot be scored."""
    write_pictures(folder / "pictures")
    good = (patients / "patient0" / "flair.nii.gz").read_bytes()
    (folder / "pictures" / "colour.png").rename(folder / "c_good.png")
    for path in (folder / "pictures").iterdir():
        path.unlink()
    (folder / "pictures").rmdir()
    (folder / "a_good.nii.gz").write_bytes(good)
    (folder / "b_cut.nii.gz").write_bytes(good[:500])
    (folder / "d_text.png").write_text("no picture")
    image = nib.load(folder / "a_good.nii.gz")
    nib.Nifti1Image(np.stack([np.asarray(image.dataobj)] * 2, axis=-1), image.affine).to_filename(folder / "e_4d.nii")
    nib.Nifti1Image(np.zeros((6, 6, 6), np.float32), image.affine).to_filename(folder / "f_black.nii")
    (folder / "g_good.nii.gz").write_bytes((patients / "patient1" / "flair.nii.gz").read_bytes())
    return folder


FAILING = ("b_cut", "d_text", "e_4d", "f_black")


@pytest.mark.parametrize("changes", [{}, {"dataloader#num_workers": 1}])
def test_a_case_that_fails_is_named_at_the_end_and_the_others_are_done(
    changes: dict[str, Any], patients: Path, tiny_pack: Path, tmp_path: Path
) -> None:
    """One unreadable file ended the run, and what came after it was never scored."""
    scans, out = write_mixed(tmp_path / "scans", patients), tmp_path / "out"
    with pytest.raises(RuntimeError) as caught:
        run(INFERENCE, "infer", **settings(scans, out, tiny_pack, load_pretrain=False, **changes))
    error = innermost(caught.value)
    assert isinstance(error, BundleRunError)
    assert [name for name in FAILING if f"\n  {name}: " in str(error)] == list(FAILING)
    assert "4 failed" in str(error)
    assert "b_cut.nii.gz must be a readable NIfTI file" in str(error)
    assert [row["case"] for row in rows_of(out / "scores.csv")] == ["a_good", "c_good", "g_good"]
    assert len(list(out.rglob("*_anomaly_map.nii.gz"))) == 3
    assert_on_grid(out / "g_good" / "g_good_anomaly_map.nii.gz", patients / "patient1" / "flair.nii.gz")


def test_a_case_that_cannot_be_saved_or_scored_does_not_end_the_run_either(
    patients: Path, tiny_pack: Path, tmp_path: Path
) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for number in range(3):
        (scans / f"{number}.nii.gz").write_bytes((patients / f"patient{number}" / "flair.nii.gz").read_bytes())
    out.mkdir()
    (out / "1").write_text("a file where the folder of a case must be")
    image = nib.load(scans / "0.nii.gz")
    stack = np.stack([np.asarray(image.dataobj)] * 2, axis=-1)[..., None, :]
    nib.Nifti1Image(stack, image.affine).to_filename(scans / "vectors.nii.gz")
    with pytest.raises(RuntimeError) as caught:
        run(INFERENCE, "infer", **settings(scans, out, tiny_pack, load_pretrain=False))
    told = str(innermost(caught.value))
    assert "\n  1: " in told
    assert "\n  vectors: " in told
    assert {path.name for path in out.rglob("*.nii.gz")} == {"0_anomaly_map.nii.gz", "2_anomaly_map.nii.gz"}


def test_cases_of_one_batch_fail_alone_and_need_not_be_of_one_shape(
    patients: Path, tiny_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, out = write_mixed(tmp_path / "scans", patients), tmp_path / "out"
    overrides = settings(scans, out, tiny_pack, load_pretrain=False, **{"dataloader#batch_size": 7})
    with pytest.raises(RuntimeError) as caught:
        run(INFERENCE, "infer", **overrides)
    assert [name for name in FAILING if name in str(innermost(caught.value))] == list(FAILING)
    assert [row["case"] for row in rows_of(out / "scores.csv")] == ["a_good", "c_good", "g_good"]
    expected = load_engine(tiny_pack).predict(scans / "g_good.nii.gz")
    for path in scans.iterdir():
        if "good.nii" not in path.name:
            path.unlink()
    run(INFERENCE, "infer", **overrides)
    assert float(rows_of(out / "scores.csv")[1]["score"]) == pytest.approx(expected.pred_score, abs=1e-6)
    real = HeadCLIPInferer.predict

    def fails_on_the_second(self: HeadCLIPInferer, volume: torch.Tensor, network: Any) -> Any:
        if "g_good" in volume.meta["filename_or_obj"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, volume, network)

    monkeypatch.setattr(HeadCLIPInferer, "predict", fails_on_the_second)
    with pytest.raises(RuntimeError) as caught:
        run(INFERENCE, "infer", **overrides)
    assert "1 failed:\n  g_good: OutOfMemoryError: CUDA out of memory" in str(innermost(caught.value))
    assert [row["case"] for row in rows_of(out / "scores.csv")] == ["a_good"]


def test_unreadable_cases_of_an_evaluation_are_named_and_the_metrics_are_those_of_the_rest(
    patients: Path, tiny_pack: Path, tmp_path: Path
) -> None:
    shutil.copytree(patients, tmp_path / "set")
    common = {"load_checkpoint": False, "tensorboard": False, "sequences": ["flair"]}
    expected = run(EVALUATE, "eval", **settings(tmp_path / "set", tmp_path / "a", tiny_pack, **common))
    shutil.copytree(patients / "patient0", tmp_path / "set" / "patient7")
    (tmp_path / "set" / "patient7" / "flair.nii.gz").write_bytes(b"cut off")
    with pytest.raises(RuntimeError) as caught:
        run(EVALUATE, "eval", **settings(tmp_path / "set", tmp_path / "b", tiny_pack, **common))
    assert "1 failed:\n  patient7: flair.nii.gz must be" in str(innermost(caught.value))
    rows = (tmp_path / "b" / "metrics.csv").read_text()
    assert rows == (tmp_path / "a" / "metrics.csv").read_text()
    assert "val_pixel_auroc" in expected.evaluator.state.metrics


def test_the_command_names_failed_cases_and_exits_with_1(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    scans = write_mixed(tmp_path / "scans", patients)
    words = ["--dataset_dir", scans, "--output_dir", tmp_path / "out", "--model", tiny_pack, "--load_pretrain", "false"]
    ran = CliRunner().invoke(app, ["bundle", "run", "inference", *map(str, words)], env={"COLUMNS": "200"})
    assert ran.exit_code == 1
    assert "Traceback" not in ran.output
    assert "error: Every case must be scored; given: 4 failed:" in ran.stderr
    assert all(f"\n  {name}: " in ran.stderr for name in FAILING)
    assert (tmp_path / "out" / "g_good" / "g_good_anomaly_map.nii.gz").is_file()


def test_with_debug_the_first_error_is_raised_as_it_is(
    patients: Path, tiny_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADCLIP_DEBUG", "1")
    scans = write_mixed(tmp_path / "scans", patients)
    with pytest.raises(RuntimeError) as caught:
        run(INFERENCE, "infer", **settings(scans, tmp_path / "out", tiny_pack, load_pretrain=False))
    assert "b_cut.nii.gz must be a readable NIfTI file" in "".join(map(str, causes(caught.value)))
    assert [row["case"] for row in rows_of(tmp_path / "out" / "scores.csv")] == ["a_good"]


def test_what_is_wrong_with_a_checkpoint_is_not_hidden_by_a_folder_that_is_not_made_yet(
    patients: Path, tiny_pack: Path, tmp_path: Path
) -> None:
    """The scores could not be written, for the run had not come to its first case, and only that was told."""
    out = tmp_path / "not" / "there"
    with pytest.raises(RuntimeError) as caught:
        run(INFERENCE, "infer", **settings(patients, out, tiny_pack, ckpt_path=str(ROOT / "models/model.pt")))
    assert "A checkpoint must hold the" in str(innermost(caught.value))
    assert "set load_pretrain to false" in str(innermost(caught.value))
    assert not out.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
def test_file_names_that_are_no_text_reach_scores_and_messages(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    """A name in Latin-1 ended the run when the scores were to be written, and they were lost."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    good = (patients / "patient0" / "flair.nii.gz").read_bytes()
    for name, content in ((b"caf\xe9.nii.gz", good), (b"na\xefve.nii.gz", good[:300])):
        Path(os.fsdecode(os.fsencode(scans) + b"/" + name)).write_bytes(content)
    with pytest.raises(RuntimeError) as caught:
        run(INFERENCE, "infer", **settings(scans, out, tiny_pack, load_pretrain=False))
    assert "1 failed:\n  na%EFve: " in str(innermost(caught.value))
    assert [row["case"] for row in rows_of(out / "scores.csv")] == ["caf%E9"]
    assert len(list(out.rglob("*_anomaly_map.nii.gz"))) == 1


def test_what_was_assumed_of_a_case_stands_beside_its_score(tiny_pack: Path, tmp_path: Path) -> None:
    CtSeries().write(tmp_path / "ct")
    run(INFERENCE, "infer", **settings(tmp_path / "ct", tmp_path / "out", tiny_pack, load_pretrain=False))
    (row,) = rows_of(tmp_path / "out" / "scores.csv")
    assert "CT without a window or a domain: the file's own window 40/80 is used" in row["warnings"]


def test_a_volume_of_a_4d_file_is_chosen_by_its_number(patients: Path, tiny_pack: Path, tmp_path: Path) -> None:
    scan = write_mixed(tmp_path / "scans", patients) / "e_4d.nii"
    run(INFERENCE, "infer", **settings(scan, tmp_path / "out", tiny_pack, load_pretrain=False, time=1))
    expected = load_engine(tiny_pack).predict(scan, time_index=1).map_array
    found = nib.load(tmp_path / "out" / "e_4d" / "e_4d_anomaly_map.nii.gz").get_fdata()
    np.testing.assert_allclose(found, expected, atol=1e-6)


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
    from headclip_med.bundle.build_model import build

    assert [path.name for path in build(tmp_path)] == ["model.pt", "model.safetensors", "model.json"]
    built, shipped = (torch.load(root / "models" / "model.pt", weights_only=True) for root in (tmp_path, ROOT))
    assert all(torch.equal(built[key], shipped[key]) for key in shipped)
    assert read_ledger(ROOT / "models" / "model.pt") == read_ledger(tmp_path / "models" / "model.pt")


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
