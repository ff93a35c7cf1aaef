"""Bundles are found by name, and only by the names there are; what their READMEs say to type can be run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import headclip_med_workflows
import pytest
import typer
from bundle_case import write_patients
from headclip_med_workflows import available_bundles, bundle_root
from monai.bundle import ckpt_export
from typer.testing import CliRunner

from headclip_med.base.errors import HeadclipError
from headclip_med.bundle import run as front
from headclip_med.bundle.folder import BundleFolder
from headclip_med.bundle.overrides import read_overrides
from headclip_med.cli.main import app


@pytest.fixture
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bundles and a folder that is none."""
    for name in ("zero_shot", "few_shot"):
        (tmp_path / name / "configs").mkdir(parents=True)
        (tmp_path / name / "configs" / "metadata.json").write_text("{}", encoding="utf-8")
    (tmp_path / "notes").mkdir()
    monkeypatch.setattr(headclip_med_workflows, "_ROOT", tmp_path)
    return tmp_path


def test_bundles_are_the_folders_with_metadata(bundles: Path) -> None:
    assert available_bundles() == ("few_shot", "zero_shot")
    assert bundle_root("zero_shot") == bundles / "zero_shot"


@pytest.mark.parametrize("name", ["notes", "zero_shot/configs", "../zero_shot", ""])
def test_an_unknown_name_is_refused_with_those_there_are(bundles: Path, name: str) -> None:
    with pytest.raises(HeadclipError, match=r"must be one of few_shot, zero_shot; given: '"):
        bundle_root(name)


def test_without_any_bundle_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headclip_med_workflows, "_ROOT", tmp_path)
    assert available_bundles() == ()
    with pytest.raises(HeadclipError, match=r"this version ships none; given: 'zero_shot'"):
        bundle_root("zero_shot")


def test_the_installed_bundles_have_their_metadata() -> None:
    for name in available_bundles():
        metadata = json.loads((bundle_root(name) / "configs" / "metadata.json").read_text(encoding="utf-8"))
        assert "Research use only" in metadata["description"]
        assert "Not a medical device" in metadata["intended_use"]


# --- the commands of their READMEs, as they stand there -------------------------------------------------------------


def commands(name: str) -> list[str]:
    """Every command in a bundle's README, on one line each."""
    text = (bundle_root(name) / "docs" / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL) + re.findall(r"`(python -m monai[^`]*)`", text)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.strip()]


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundle with ``scans`` and ``data`` in it, as somebody has who follows the README."""
    folder = tmp_path / "headclip_zero_shot"
    shutil.copytree(bundle_root("headclip_zero_shot"), folder)
    write_patients(folder / "data", 3)
    write_patients(folder / "scans", 1)
    (folder / "DATA").mkdir()
    (folder / "models" / "model_trained.pt").write_bytes((folder / "models" / "model.pt").read_bytes())
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LOCAL_RANK", "0")
    return folder


def parsed_by_click(words: list[str]) -> None:
    """Go down the tree of commands with the words, and run nothing."""
    command: Any = typer.main.get_command(app)
    while True:
        context = command.make_context(words[0], words[1:])
        if not hasattr(command, "commands"):
            return
        words = [*context._protected_args, *context.args]
        command = command.commands[words[0]]


def prepared(folder: Path, words: list[str]) -> front.BundleRun:
    """``monai.bundle run`` with these words, checked as ``headclip-med bundle run`` checks it."""
    given = read_overrides(words)
    config = next(override.value for override in given if override.key == "config_file")
    files = [folder / file for file in ([config] if isinstance(config, str) else config)]
    overrides = [override for override in given if override.key != "config_file"]
    return front.prepare(BundleFolder(folder, own=False), files[-1].stem, files, overrides)


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("command", commands("headclip_zero_shot"))
def test_a_command_of_the_zero_shot_readme_can_be_run_as_typed(command: str, user: Path) -> None:
    program, *words = shlex.split(command)
    if program == "headclip-med":
        parsed_by_click([program, *words])
        if words[:2] == ["bundle", "run"]:
            ran = CliRunner().invoke(app, [*words, "--dry-run"])
            assert ran.exit_code == 0, ran.output
    elif words[:3] == ["-m", "monai.bundle", "ckpt_export"]:
        options = {override.key: override.value for override in read_overrides(words[4:])}
        ckpt_export(words[3], **options)
        assert (user / options["filepath"]).is_file()
    elif "monai.bundle" in words:
        run = prepared(user, words[words.index("run") + 1 :])
        if program == "python":  # torchrun's processes are joined before anything is built
            front.execute(run, dry_run=True)
    else:
        raise AssertionError(f"no test knows how to try {command}")


@pytest.mark.parametrize("command", commands("headclip_tiny_pretraining"))
def test_a_command_of_the_pretraining_readme_is_one_that_there_is(command: str, user: Path) -> None:
    """Nothing is built here: that reads hundreds of megabytes of data."""
    bundle = bundle_root("headclip_tiny_pretraining")
    program, *words = shlex.split(command)
    if words[:2] == ["bundle", "run"]:
        parsed_by_click([program, *words])
        options = [word for word in words[3:] if word not in ("--bundle", bundle.name)]
        front.prepare(
            BundleFolder(bundle, own=True), words[2], [bundle / "configs/train.yaml"], read_overrides(options)
        )
    elif program == "headclip-med":
        parsed_by_click([program, *words])
    elif "monai.bundle" in words:
        prepared(bundle, words[words.index("run") + 1 :])
    else:
        assert find_spec(words[1]) is not None
