"""What a user gets from an install: light imports, one version, the data files, three top-level names."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

import headclip_med

HEAVY = ("torch", "monai", "torchvision", "open_clip", "timm", "napari", "qtpy")


def heavy_modules_after(statement: str) -> list[str]:
    """The heavy packages that a fresh interpreter has loaded after ``statement``."""
    code = f"{statement}; import json, sys; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


@pytest.mark.parametrize(
    "module",
    [
        "headclip_med",
        "headclip_med.cli.main",
        "headclip_med.review",
        "headclip_med.review.exports",
        "headclip_med.review.tables",
        "headclip_med_workflows",
        "napari_headclip_med",
        "napari_headclip_med.files.reader",
        "napari_headclip_med.files.sample_data",
    ],
)
def test_importing_it_loads_nothing_heavy(module: str) -> None:
    assert heavy_modules_after(f"import {module}") == []


def test_the_check_for_heavy_modules_sees_them() -> None:
    assert "torch" in heavy_modules_after("import torch")


def test_the_version_is_the_distributions() -> None:
    assert metadata.version("headclip-med") == headclip_med.base.versions.__version__


def test_the_public_names_load_on_first_use() -> None:
    for name in headclip_med.__all__:
        assert getattr(headclip_med, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'load_motor'"):
        _ = headclip_med.load_motor


@pytest.mark.parametrize(
    ("package", "file"),
    [
        ("headclip_med", "py.typed"),
        ("headclip_med", "result.schema.json"),
        ("headclip_med", "review.schema.json"),
        ("headclip_med", "writing/page.html.j2"),
        ("headclip_med", "review/review.html.j2"),
        ("headclip_med", "writing/report.html.j2"),
        ("headclip_med", "bundle/meta_schema_20240725.json"),
        ("headclip_med", "models/packs/headclip-tiny/pack.json"),
        ("headclip_med", "models/packs/headclip-tiny/tower.safetensors"),
        ("headclip_med_workflows", "py.typed"),
        ("headclip_med_workflows", "headclip_zero_shot/LICENSE"),
        ("headclip_med_workflows", "headclip_zero_shot/configs/train.yaml"),
        ("headclip_med_workflows", "headclip_zero_shot/models/model.pt"),
        ("napari_headclip_med", "py.typed"),
        ("napari_headclip_med", "napari.yaml"),
    ],
)
def test_data_files_are_found_beside_the_code(package: str, file: str) -> None:
    assert resources.files(package).joinpath(file).is_file()


def test_every_package_on_disk_is_in_the_distribution() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    root = resources.files(headclip_med).joinpath("..")
    project = root.joinpath("pyproject.toml")
    if not project.is_file():
        pytest.skip("installed from a wheel: no pyproject.toml")
    declared = set(tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"])
    folders = {
        "headclip_med": "headclip_med",
        "workflows": "headclip_med_workflows",
        "napari_plugin": "napari_headclip_med",
    }
    assert {name for name in declared if "." not in name} == set(folders.values())
    for folder, package in folders.items():
        on_disk = Path(str(root.joinpath(folder))).resolve()
        rooms = [init.parent.relative_to(on_disk).parts for init in on_disk.rglob("__init__.py")]
        assert {".".join((package, *room)) for room in rooms} <= declared


def test_extras_are_those_that_the_documentation_names() -> None:
    extras = set(metadata.metadata("headclip-med").get_all("Provides-Extra") or ())
    assert extras == {
        "dicom",
        "napari",
        "review",
        "pacs",
        "onnx",
        "openvino",
        "bundle",
        "cluster",
        "track",
        "test",
        "dev",
    }
