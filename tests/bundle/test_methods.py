"""Other methods than HeadCLIP in a MONAI bundle: trained by their own loss, evaluated and run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bundle_case import write_patients
from typer.testing import CliRunner

from headclip_med.base.errors import InputError, ModelError
from headclip_med.bundle import HeadCLIPInferer, build_network, new_method
from headclip_med.bundle.network import MethodNetwork
from headclip_med.cli.main import app
from headclip_med.engine.load import load_engine
from headclip_med.models.pack import load_pack


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patients(tmp_path_factory.mktemp("data") / "patients")


@pytest.fixture(scope="module")
def trained(patients: Path, tiny_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of the workflow train_method, on the tower of a pack."""
    out = tmp_path_factory.mktemp("method")
    words = ["--dataset_dir", str(patients), "--output_dir", str(out / "eval"), "--ckpt_dir", str(out / "models")]
    choice = ["--method", "vectors", "--model", str(tiny_pack), "--max_epochs", "2", "--val_fraction", "0.5"]
    done = CliRunner().invoke(app, ["bundle", "run", "train_method", *words, *choice, "--tensorboard", "false"])
    assert done.exit_code == 0, done.output
    return out / "models"


def test_a_method_is_trained_by_the_bundle_into_a_pack_that_names_what_it_saw(trained: Path) -> None:
    pack = load_pack(trained / "pack")
    assert pack.record.method == "vectors"
    assert pack.record.ledger[-1].name == "patients"
    assert set(pack.tensors) == {"patch_vectors", "image_vectors", "log_scale"}
    before = new_method(str(trained / "pack"), "vectors").model.pack
    assert before is not None
    assert not torch.equal(pack.tensors["patch_vectors"], before.tensors.get("patch_vectors", torch.zeros(1)))


def test_the_bundle_scores_with_the_pack_as_predict_does(trained: Path, patients: Path, tmp_path: Path) -> None:
    source = patients / "patient0" / "flair.nii.gz"
    out = tmp_path / "out"
    words = ["--dataset_dir", str(source), "--output_dir", str(out), "--model", str(trained / "pack")]
    done = CliRunner().invoke(app, ["bundle", "run", "inference", *words, "--load_pretrain", "false"])
    assert done.exit_code == 0, done.output
    rows = (out / "scores.csv").read_text().splitlines()
    expected = load_engine(trained / "pack", "cpu").predict(source)
    assert float(rows[-1].split(",")[1]) == pytest.approx(expected.pred_score, abs=1e-5)


def test_the_bundle_evaluates_a_method_but_not_on_what_it_saw(trained: Path, patients: Path, tmp_path: Path) -> None:
    words = ["bundle", "run", "evaluate", "--dataset_dir", str(patients), "--output_dir", str(tmp_path)]
    words += ["--model", str(trained / "pack"), "--load_checkpoint", "false", "--val_fraction", "0.5"]
    words += ["--tensorboard", "false"]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code != 0
    assert "must not be evaluated on data that it was trained on" in refused.output
    done = CliRunner().invoke(app, [*words, "--held_out_only", "true"])
    assert done.exit_code == 0, done.output
    assert "val_pixel_auroc" in (tmp_path / "metrics.csv").read_text()


def test_a_network_of_a_method_gives_the_engines_map_and_takes_its_own_checkpoint(
    trained: Path, patients: Path
) -> None:
    network = build_network(trained / "pack", precision="float32")
    assert isinstance(network, MethodNetwork)
    source = load_engine(trained / "pack", "cpu", precision="float32").predict(patients / "patient1" / "flair.nii.gz")
    again = HeadCLIPInferer().predict(source.volume, network)
    assert again.pred_score == pytest.approx(source.pred_score, abs=1e-6)
    pixels = torch.randn(2, 3, network.image_size, network.image_size, generator=torch.Generator().manual_seed(0))
    assert network(pixels).shape == (2, 1, network.image_size, network.image_size)
    fresh = new_method(str(trained / "pack"), "vectors")
    state = torch.load(trained / "model_trained.pt", weights_only=True)
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh(pixels), network(pixels))
    del state["learned.log_scale"]
    with pytest.raises(ModelError, match=r"1 missing \(first learned.log_scale\)"):
        fresh.load_state_dict(state)


def test_a_method_without_training_is_a_network_too(patients: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="must be given normal images"):
        build_network("memory:headclip-tiny")
    with pytest.raises(ModelError, match="must have a tower with a text side"):
        build_network("clip:headclip-tiny")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("headclip", "another than headclip"),
        ("memory", "must be one that learns"),
        ("crane", "must have a tower with a text side"),
        ("cranne", "Did you mean crane"),
    ],
)
def test_what_the_bundle_cannot_train_is_refused_in_words(method: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        new_method("headclip-tiny", method)


def test_the_workflow_of_headclip_refuses_to_train_another_method(
    trained: Path, patients: Path, tmp_path: Path
) -> None:
    words = ["--dataset_dir", str(patients), "--output_dir", str(tmp_path), "--ckpt_dir", str(tmp_path)]
    model = ["--model", str(trained / "pack"), "--load_pretrain", "false", "--tensorboard", "false"]
    done = CliRunner().invoke(app, ["bundle", "run", "train", *words, *model, "--val_fraction", "0.5"])
    assert done.exit_code == 1
    assert "Run the workflow train_method" in done.output


def test_a_pack_of_a_method_keeps_its_domain_and_is_not_exported(trained: Path) -> None:
    with pytest.raises(InputError, match="must stay"):
        build_network(trained / "pack", domain="head-ct")
    done = CliRunner().invoke(
        app, ["bundle", "export", str(trained / "export"), "--model", str(trained / "pack"), "--kind", "pt2"]
    )
    assert done.exit_code == 2
    assert "must be of the HeadCLIP family" in done.output


def test_methods_are_listed_with_what_they_need() -> None:
    done = CliRunner().invoke(app, ["models", "methods", "--json"])
    methods = {row["name"]: row for row in json.loads(done.stdout)["methods"]}
    assert methods["crane"]["needs"] == ["a text side", "a trained or converted pack"]
    assert methods["memory"]["needs"] == ["normal images (--normals)"]
    assert methods["clip"]["localises"] is False
    assert methods["vectors"]["learns"] == "images and masks"
    shown = CliRunner().invoke(app, ["models", "methods"])
    assert "winclip" in shown.output
