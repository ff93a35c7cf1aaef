"""The method of docs/adding_a_method.md, installed as a package of its own, everywhere a method can be used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from training_case import write_pairs, write_tower

from headclip_med.base.errors import ModelError
from headclip_med.bundle import HeadCLIPInferer, build_network
from headclip_med.detectors import get_method
from headclip_med.engine.load import load_engine

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_method.md"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder that holds the page's module and what an installer writes of its entry point."""
    page = PAGE.read_text(encoding="utf-8")
    code, declared = re.findall(r"```(?:python|toml)\n(.*?)```", page, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 45
    site = tmp_path / "site"
    info = site / "linear_probe-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "linear_probe.py").write_text(code, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: linear-probe\nVersion: 1.0\n", encoding="utf-8")
    group = declared.splitlines()[0].removeprefix('[project.entry-points."').removesuffix('"]')
    lines = [f"[{group}]", *(line.replace('"', "") for line in declared.splitlines()[1:])]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return site


@pytest.fixture
def run(package: Path, tmp_path: Path) -> Run:
    """The command line with the package installed."""

    def command(*words: object, fails: bool = False) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-m", "headclip_med", *map(str, words)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            timeout=300,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stderr
        return done

    return command


def test_a_method_of_another_package_is_trained_used_and_measured_without_a_line_changed(
    run: Run, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower, data = write_tower(tmp_path / "tower.safetensors"), write_pairs(tmp_path / "pairs", 10)
    other = write_pairs(tmp_path / "other", 4, seed=1)

    methods = json.loads(run("models", "methods", "--json").stdout)["methods"]
    assert methods[-1]["name"] == "linear-probe"
    assert methods[-1]["needs"] == ["a trained or converted pack"]

    refused = run("predict", data, "--model", f"linear-probe:{tower}", "--out", "none", fails=True)
    assert "must be given a pack that was trained or converted for it" in refused.stderr

    settings = ["--set", "image_size=64", "--set", "validation=0.4", "--set", "validate_every=20", "--steps", "60"]
    trained = run(
        "train", "--method", "linear-probe", "--model", tower, "--data", f"pairs:{data}", "--out", "probe", *settings,
        "--json",
    )  # fmt: skip
    history = json.loads(trained.stdout)["history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert history[-1]["average_precision"] > 3 * history[0]["average_precision"]

    options = ["--weights", tower, "--device", "cpu"]
    run("predict", other / "images" / "01.png", "--model", "probe", "--out", "out", *options, "--formats", "nifti,json")
    assert (tmp_path / "out" / "01" / "anomaly_map.nii.gz").is_file()

    table = run(
        "evaluate", "--data", f"pairs:{other}", "--model", "probe", "--controls", "--out", "table", "--bootstrap", "0",
        *options, "--json",
    )  # fmt: skip
    models = {result["model"]: result for result in json.loads(table.stdout)["models"]}
    assert list(models) == ["probe", "control:intensity", "control:edges", "control:chance"]
    auroc = {name: model["levels"]["pixel"]["metrics"]["auroc"]["value"] for name, model in models.items()}
    assert auroc["probe"] > max(0.7, auroc["control:chance"])

    # the same package within this process: the engine that napari runs, and a bundle's network
    monkeypatch.syspath_prepend(package)
    assert get_method("linear-probe").name == "linear-probe"
    weights = tower
    scan = other / "images" / "01.png"
    result = load_engine(tmp_path / "probe", "cpu", weights=weights, precision="float32").predict(scan)
    network = build_network(tmp_path / "probe", weights=weights, precision="float32")
    again = HeadCLIPInferer().predict(result.volume, network)
    assert again.pred_score == pytest.approx(result.pred_score, abs=1e-6)


def test_an_entry_point_that_cannot_be_loaded_is_told_in_words(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "linear_probe.py").write_text("raise RuntimeError('broken on purpose')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(package)
    monkeypatch.delitem(sys.modules, "linear_probe", raising=False)
    with pytest.raises(ModelError, match=r"linear-probe must load from its package.*broken on purpose"):
        get_method("linear-probe")


def test_an_entry_point_that_is_no_method_is_told_in_words(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "linear_probe.py").write_text("LinearProbe = dict\n", encoding="utf-8")
    monkeypatch.syspath_prepend(package)
    monkeypatch.delitem(sys.modules, "linear_probe", raising=False)
    with pytest.raises(ModelError, match="must name a subclass of"):
        get_method("linear-probe")
