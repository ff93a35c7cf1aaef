"""``result.json`` and the folder it closes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pytest
from writing_phantom import UID, make_result

import headclip_med
from headclip_med.base.errors import InputError, OutputError
from headclip_med.writing import write_result
from headclip_med.writing.folder import case_folder
from headclip_med.writing.record import load_result, record_json, result_schema, schema_json, to_record

SCHEMA_FILE = Path(headclip_med.__file__).with_name("result.schema.json")


def test_the_schema_in_the_package_is_the_models_schema() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_json(), (
        "regenerate with: python -m headclip_med.writing.record > headclip_med/result.schema.json"
    )


def test_the_record_holds_the_result_and_fits_the_schema() -> None:
    record = json.loads(record_json(to_record(make_result())))
    jsonschema.Draft202012Validator(result_schema()).validate(record)
    assert record["schema_version"] == "headclip_med.result/2"
    assert "Research use only" in record["research_use_only"]
    assert record["source"]["shape"] == [12, 10, 6]
    np.testing.assert_allclose(record["source"]["spacing_mm"], [1, 1.5, 4])
    assert record["pred_score"] == pytest.approx(0.8)
    assert [s["index"] for s in record["slices"]] == list(range(6))
    assert record["findings"][0]["centroid_mm"] == [-23.1, 10.2, 33.0]
    assert record["provenance"]["layers"] == [5, 11]


def test_identifiers_are_kept_only_on_request() -> None:
    assert UID not in record_json(to_record(make_result()))
    kept = to_record(make_result(), keep_identifiers=True)
    assert kept.slices[3].uid == f"{UID}.3"


def test_folders_never_reach_the_record() -> None:
    result = make_result(meta={"source_name": "smith_john/scan.nii.gz"})
    result = replace(result, provenance={"pack": Path("smith_john") / "pack.yaml", "size": np.float32(0.5)})
    text = record_json(to_record(result))
    assert "smith_john" not in text
    assert json.loads(text)["provenance"] == {"pack": "pack.yaml", "size": 0.5}


@pytest.mark.parametrize("score", [float("nan"), 1.5])
def test_a_score_that_is_none_is_not_written(tmp_path: Path, score: float) -> None:
    with pytest.raises(OutputError, match="pred_score"):
        write_result(replace(make_result(), pred_score=score), tmp_path, formats=["json"])
    assert list(tmp_path.iterdir()) == []


def test_a_written_folder_loads_again(tmp_path: Path) -> None:
    result = make_result()
    with case_folder(tmp_path, "case") as folder:
        written = write_result(result, folder)
    assert set(written) == {"map", "mask", "preview", "report", "result"}
    assert {p.name for p in (tmp_path / "case").iterdir()} == {p.name for p in written.values()}
    record, map_path, mask_path = load_result(tmp_path / "case")
    assert record.pred_score == result.pred_score
    assert map_path is not None
    assert mask_path is not None
    np.testing.assert_array_equal(np.asarray(nib.load(map_path).dataobj), result.map_array)
    assert np.asarray(nib.load(mask_path).dataobj).sum() == 12


def test_the_record_is_written_whatever_the_formats(tmp_path: Path) -> None:
    assert set(write_result(make_result(), tmp_path, formats=["png"])) == {"preview", "result"}
    assert load_result(tmp_path)[1:] == (None, None)


def test_an_unknown_format_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nifti, png, html, json, seg, .*; given: tiff"):
        write_result(make_result(), tmp_path, formats=["png", "tiff"])
    with pytest.raises(OutputError, match="existing folder"):
        write_result(make_result(), tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writes_before", range(5))
def test_a_disk_that_fills_up_at_any_file_leaves_the_earlier_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes_before: int
) -> None:
    with case_folder(tmp_path, "case") as folder:
        write_result(make_result(), folder)
    before = {p.name: p.read_bytes() for p in (tmp_path / "case").iterdir()}
    left = [writes_before]

    def fills_up(_: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fills_up)
    changed = replace(make_result(), pred_score=0.25)
    with pytest.raises(OutputError, match="disk is full"), case_folder(tmp_path, "case") as folder:
        write_result(changed, folder)
    assert [p.name for p in tmp_path.iterdir()] == ["case"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "case").iterdir()} == before


def test_an_earlier_record_does_not_vouch_for_half_a_new_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_result(make_result(), tmp_path, formats=["json"])

    def read_only(_: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", read_only)
    with pytest.raises(OutputError, match="read-only"):
        write_result(make_result(), tmp_path, formats=["nifti"])
    assert list(tmp_path.iterdir()) == []


def _cut_off(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])


def _edit(folder: Path, old: str, new: str) -> None:
    path = folder / "result.json"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "result.json").unlink(), "complete result; given: no result.json"),
        (lambda f: _cut_off(f, "result.json"), "record of headclip_med.result/2"),
        (lambda f: (f / "result.json").write_bytes(b"\xff\xfe\x00"), "readable text"),
        (lambda f: _edit(f, "headclip_med.result/2", "headclip_med.result/9"), "schema_version"),
        (lambda f: _edit(f, '"anomaly_map.nii.gz"', '"../anomaly_map.nii.gz"'), "files.map.name"),
        (lambda f: (f / "anomaly_map.nii.gz").unlink(), r"no anomaly_map\.nii\.gz"),
        (lambda f: _cut_off(f, "anomaly_map.nii.gz"), r"anomaly_map\.nii\.gz has changed or is cut off"),
    ],
)
def test_a_damaged_result_is_refused(tmp_path: Path, damage: object, words: str) -> None:
    write_result(make_result(), tmp_path, formats=["nifti"])
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(InputError, match=words):
        load_result(tmp_path)


def test_importing_writing_is_light() -> None:
    code = (
        "import sys, headclip_med.writing, headclip_med.writing.record, headclip_med.base.files\n"
        "assert not {'torch', 'monai', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
