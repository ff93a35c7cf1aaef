"""Bundles are found by name, and only by the names there are."""

from __future__ import annotations

from pathlib import Path

import headclip_med_workflows
import pytest
from headclip_med_workflows import available_bundles, bundle_root

from headclip_med.errors import HeadclipError


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
        assert (bundle_root(name) / "configs" / "metadata.json").is_file()
