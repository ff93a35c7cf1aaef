"""The doctor recognises what is wrong and names the way out."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from small_cases import write_tiny_pack

from headclip_med.cli import doctor
from headclip_med.cli.doctor import Check, diagnose
from headclip_med.models import pack as packs


def _by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_every_finding_that_is_not_fine_names_a_fix() -> None:
    checks = diagnose()
    found = _by_name(checks)
    assert len(found) == len(checks)
    assert {"python", "torch", "monai", "torch and torchvision", "device", "DICOM decoders"} <= set(found)
    assert found["torch and torchvision"].status == "ok"
    assert [check for check in checks if check.status != "ok" and not check.fix] == []


def test_a_mismatched_torchvision_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    check = doctor._torch_pair()[0]
    assert check.status == "fail"
    assert "do not match (operator torchvision::nms does not exist)" in check.detail
    assert "pip install --upgrade torch torchvision" in check.fix


def test_an_old_or_absent_package_fails_with_its_pip_command() -> None:
    from packaging.specifiers import SpecifierSet

    old = doctor._package("numpy", ">=99", SpecifierSet(">=99").contains)
    assert (old.status, old.fix) == ("fail", 'pip install "numpy>=99"')
    absent = doctor._package("no-such-package-xyz", ">=1", SpecifierSet(">=1").contains)
    assert absent.status == "fail"
    assert "not installed" in absent.detail


def test_a_pack_is_compared_with_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = write_tiny_pack(tmp_path / "headclip-tiny")
    monkeypatch.setattr(packs, "builtin_packs", lambda: {"headclip-tiny": pack})
    assert [check.status for check in doctor._built_in_packs()] == ["ok"]
    with (pack / "tower.safetensors").open("ab") as file:
        file.write(b"0")
    damaged = doctor._built_in_packs()[0]
    assert damaged.status == "fail"
    assert "sha256 differs" in damaged.detail
    (pack / "tower.safetensors").unlink()
    assert "tower.safetensors is missing" in doctor._built_in_packs()[0].detail
    shutil.rmtree(pack)
    monkeypatch.setattr(packs, "builtin_packs", dict)
    assert [(check.name, check.status) for check in doctor._built_in_packs()] == [("pack headclip-tiny", "fail")]


def test_missing_decoders_cost_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import pydicom.pixels

    class Unavailable:
        is_available = False

    monkeypatch.setattr(pydicom.pixels, "get_decoder", lambda _: Unavailable)
    check = doctor._dicom_decoders()[0]
    assert check.status == "warn"
    assert "JPEG 2000" in check.detail
    assert "headclip-med[dicom]" in check.fix


def test_an_absent_extra_is_fine_and_a_viewer_without_qt_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert {check.status for check in doctor._extras()} == {"ok"}
    assert all("not installed" in check.detail and "pip install" in check.fix for check in doctor._extras())
    assert doctor._viewer() == []
    monkeypatch.setattr(doctor, "find_spec", lambda name: object() if name == "napari" else None)
    assert [(check.status, "no Qt binding" in check.detail) for check in doctor._viewer()] == [("warn", True)]


def test_linux_without_a_screen_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert _by_name(doctor._linux_display())["display"].status == "warn"
    monkeypatch.setenv("DISPLAY", ":1")
    assert "display" not in _by_name(doctor._linux_display())


def test_offline_mode_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in doctor._hugging_face()[0].detail


def test_a_look_that_stumbles_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def _memory() -> list[Check]:
        raise OSError("cannot look\nat this")

    monkeypatch.setattr(doctor, "_LOOKS", (_memory,))
    [check] = diagnose()
    assert (check.name, check.status, check.detail) == ("memory", "fail", "OSError: cannot look")
