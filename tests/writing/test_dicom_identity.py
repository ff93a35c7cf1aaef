"""Whose objects they are: UIDs without chance, the patient's identity where it belongs and nowhere else."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_results import MARKERS, complete_series, result_of, tool, validation_errors
from pydicom import Dataset, dcmread
from pydicom.datadict import DicomDictionary
from typer.testing import CliRunner

from headclip_med.base.errors import MissingExtraError
from headclip_med.cli.main import app
from headclip_med.writing import ALL_FORMATS, DICOM_FORMATS
from headclip_med.writing.dicom.deidentify import SALT
from headclip_med.writing.dicom.objects import write_dicom
from headclip_med.writing.dicom.options import DicomOptions, wanted_kinds
from headclip_med.writing.dicom.uids import derived_uid, series_number

EVERYTHING = ["dicom", "segscore"]


def test_a_rerun_gives_the_same_bytes_and_sources_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    complete_series(tmp_path / "in", orientation="oblique")
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        files = write_dicom(result_of(tmp_path / "in"), tmp_path / name, EVERYTHING)
        found.append({kind: hashlib.sha256(path.read_bytes()).hexdigest() for kind, path in files.items()})
    assert found[0] == found[1]
    assert len(found[0]) == 10
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    assert dcmread(tmp_path / "first" / "seg.dcm").ContentDate == "20231114"


def test_uids_follow_from_source_model_and_options(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    result = result_of(tmp_path / "in")
    elsewhere = replace(result, provenance={**result.provenance, "device": "cuda", "batch_size": 16})
    base = _uids(result, tmp_path / "a")
    assert _uids(elsewhere, tmp_path / "b") == base
    others = [
        result_of(tmp_path / "in", model="another"),
        result_of(tmp_path / "in", threshold=0.45),
        replace(result, volume=replace(result.volume, meta={**result.meta, "content_sha256": "0"})),
    ]
    for number, other in enumerate(others):
        assert not _uids(other, tmp_path / str(number)) & base
    assert not _uids(result, tmp_path / "c", keep_empty_frames=True) & base
    assert len(base) == 15  # five series and ten instances


def _uids(result: object, folder: Path, **options: bool) -> set[str]:
    folder.mkdir()
    files = write_dicom(result, folder, EVERYTHING, DicomOptions(**options))  # type: ignore[arg-type]
    datasets = [dcmread(path) for path in files.values()]
    return {str(dataset[name].value) for dataset in datasets for name in ("SOPInstanceUID", "SeriesInstanceUID")}


def test_objects_join_the_study_in_series_of_their_own(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    files = write_dicom(result_of(tmp_path / "in"), tmp_path, EVERYTHING)
    source = dcmread(next((tmp_path / "in").iterdir()))
    numbers = set()
    for path in files.values():
        dataset = dcmread(path)
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "AccessionNumber", "PatientAge"):
            assert dataset[keyword].value == source[keyword].value, keyword
        assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
        assert "research use only" in dataset.SeriesDescription
        assert dataset.ContentQualification == "RESEARCH"
        assert dataset.ManufacturerModelName == "headclip-med"
        if "FrameOfReferenceUID" in dataset:
            assert dataset.FrameOfReferenceUID == source.FrameOfReferenceUID
        if "ImageType" in dataset:
            assert dataset.ImageType[0] == "DERIVED"
        numbers.add(int(dataset.SeriesNumber))
    assert numbers == {491, 492, 493, 494, 495}


def test_series_numbers_fit_an_integer_string() -> None:
    assert series_number(None, "seg") == 91
    assert series_number(7, "sc") == 795
    assert series_number(30_000_000, "pm") == 93
    assert series_number(-1, "sr") == 94


def test_derived_uids_are_valid() -> None:
    uids = {derived_uid("a", str(number)) for number in range(200)}
    assert len(uids) == 200
    assert all(len(uid) <= 64 and uid.startswith("2.25.") for uid in uids)


def test_formats_bring_what_they_refer_to() -> None:
    assert wanted_kinds(["nifti"]) == ()
    assert wanted_kinds(["sr"]) == ("seg", "sr")
    assert wanted_kinds(["dicom"]) == ("seg", "pm", "sr", "sc")
    assert set(DICOM_FORMATS) <= set(ALL_FORMATS)


def test_without_highdicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete_series(tmp_path / "in", slices=2)
    result = result_of(tmp_path / "in")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "headclip_med.writing.dicom.options.find_spec", lambda name: None if name == "highdicom" else found(name)
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'headclip-med\[dicom\]'"):
        write_dicom(result, tmp_path, ["pm"])


def test_deidentified_objects_hold_nothing_of_the_patient(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", orientation="oblique")
    files = write_dicom(result_of(tmp_path / "in"), tmp_path, EVERYTHING, DicomOptions(deidentify=True))
    sources = [dcmread(path) for path in (tmp_path / "in").iterdir()]
    kept = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    uids = {str(source[keyword].value) for source in sources for keyword in kept}
    for path in files.values():
        dataset = dcmread(path)
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        text = _text(dataset)
        assert [marker for marker in MARKERS if marker.lower() in text] == []
        assert [uid for uid in uids if uid in text] == []
        assert validation_errors(path) == []


_SAID = {
    **dict.fromkeys(("LO", "SH", "LT", "ST", "UT", "UC", "UR", "CS", "AE"), "ZYXTEXT"),
    **{"PN": "Zyxtext^Zyxtext", "DA": "19990909", "TM": "090909", "DT": "19990909090909", "AS": "099Y"},
}
# Groups of patient, study, acquisition, place, request and visit; a slide's attributes would make it another image.
_TOLD_IN = (0x08, 0x10, 0x12, 0x18, 0x20, 0x32, 0x38, 0x88, 0x400)


def _say_everything(path: Path) -> None:
    """Give a file every attribute of text, name, date or code that DICOM knows and it lacks, and private ones."""
    dataset = dcmread(path)
    for tag, (kind, _, _, _, keyword) in DicomDictionary.items():
        if tag >> 16 not in _TOLD_IN or keyword in dataset or not keyword or "Slide" in keyword:
            continue
        if kind == "SQ":
            item = Dataset()
            item.PatientName, item.CodeMeaning, item.StudyDate = _SAID["PN"], _SAID["LO"], _SAID["DA"]
            dataset.add_new(tag, kind, [item])
        elif kind in _SAID and keyword not in ("SpecificCharacterSet", "PatientOrientation"):
            dataset.add_new(tag, kind, _SAID[kind])
    dataset.PositionReferenceIndicator = _SAID["LO"]
    block = dataset.private_block(0x0009, "ZYXTEXT", create=True)
    block.add_new(1, "LO", _SAID["LO"])
    dataset.save_as(path)


@pytest.mark.parametrize("orientation", ["axial", "oblique"])
def test_deidentified_objects_hold_nothing_whatever_the_source_says(tmp_path: Path, orientation: str) -> None:
    complete_series(tmp_path / "in", orientation=orientation, slices=2)
    for path in (tmp_path / "in").iterdir():
        _say_everything(path)
    result = result_of(tmp_path / "in")
    (known,) = write_dicom(result, tmp_path, ["pm"]).values()
    assert "zyxtext" in _text(dcmread(known))  # there is something to remove
    files = write_dicom(result, tmp_path, EVERYTHING, DicomOptions(deidentify=True))
    assert len(files) > 4
    said = [*MARKERS, "zyxtext", "19990909", "090909", "099y"]
    for path in files.values():
        assert [marker for marker in said if marker.lower() in _text(dcmread(path))] == []
        assert not any(element.tag.is_private for element in dcmread(path).iterall())


def test_deidentified_objects_still_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete_series(tmp_path / "in")
    result = result_of(tmp_path / "in")
    found = {}
    for name, salt in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "")):
        monkeypatch.setenv(SALT, salt)
        (tmp_path / name).mkdir()
        files = write_dicom(result, tmp_path / name, ["dicom"], DicomOptions(deidentify=True))
        found[name] = {kind: dcmread(path) for kind, path in files.items()}
    for objects in found.values():
        assert len({dataset.StudyInstanceUID for dataset in objects.values()}) == 1
        assert len({dataset.PatientID for dataset in objects.values()}) == 1
        referred = _text(objects["sr"])
        assert str(objects["seg"].SOPInstanceUID) in referred
        of_map = objects["pm"].PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
        assert str(of_map.ReferencedSOPInstanceUID) in _text(objects["seg"])
    assert found["a"]["seg"].StudyInstanceUID == found["b"]["seg"].StudyInstanceUID
    assert len({found[name]["seg"].StudyInstanceUID for name in "acd"}) == 3
    assert len({found[name]["seg"].PatientID for name in "acd"}) == 3


def _text(dataset: Dataset) -> str:
    """All values but pixels, in lower case."""
    values = []
    for element in dataset.iterall():
        if element.VR not in ("SQ", "OB", "OW", "OF"):
            values.append(str(element.value))
    return "\n".join(values).lower()


@pytest.mark.parametrize("extra", [[], ["--deidentify"], ["--keep-empty-frames"]])
def test_nothing_of_the_patient_leaves_but_in_dicom(tmp_path: Path, tiny_pack: Path, extra: list[str]) -> None:
    complete_series(tmp_path / "scan", rows=40, columns=40)
    arguments = ["predict", str(tmp_path / "scan"), "--out", str(tmp_path / "out"), "--model", str(tiny_pack)]
    done = CliRunner().invoke(app, [*arguments, "--formats", "nifti,png,html,json,dicom,segscore", *extra])
    assert done.exit_code == 0, done.output
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"seg.dcm", "seg_score.dcm", "pm.dcm", "sr.dcm", "sc_01.dcm"} <= {path.name for path in written}
    uids = [dcmread(path).SOPInstanceUID for path in (tmp_path / "scan").iterdir()]
    forbidden = [*MARKERS, str(tmp_path), *uids]
    texts = {path.name: path.read_bytes().decode("latin-1") for path in written if path.suffix != ".dcm"}
    texts |= {"screen": done.output, "names": "\n".join(path.name for path in written)}
    for name, text in texts.items():
        if name.endswith((".nii.gz", ".png")):
            continue  # compressed: their headers are looked at below
        screened = text.replace(str(tmp_path / "out"), "") if name == "screen" else text  # the user's own words
        assert [marker for marker in forbidden if marker.lower() in screened.lower()] == [], name
    assert _headers(tmp_path / "out" / "scan") == []


def _headers(folder: Path) -> list[str]:
    """Markers in what pictures and volumes say beside their pixels."""
    import nibabel as nib
    from PIL import Image

    with Image.open(folder / "preview.png") as picture:
        said = [str(picture.info)]
    said += [str(nib.load(folder / name).header) for name in ("anomaly_map.nii.gz", "anomaly_mask.nii.gz")]
    return [marker for marker in MARKERS for text in said if marker.lower() in text.lower()]


def test_dicom_formats_of_another_file_are_refused_before_a_model_is_loaded(volume: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(volume), "--out", str(tmp_path / "out"), "--model", "no-such-model"]
    done = CliRunner().invoke(app, [*arguments, "--formats", "seg"])
    assert done.exit_code == 2
    assert "The formats seg must be made from a DICOM source; given: nifti" in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_a_real_series_as_typed(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "dicom" / "ct_philips"
    if not source.is_dir():
        pytest.skip("no shared CT series")
    tool("dciodvfy")
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    arguments = ["predict", str(source), "--formats", "nifti,seg,pm,sr,sc", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before
    folder = tmp_path / "ct_philips"
    record = json.loads((folder / "result.json").read_text())
    segmentation = dcmread(folder / "seg.dcm")
    assert segmentation.pixel_array.sum() == sum(finding["voxels"] for finding in record["findings"])
    assert dcmread(folder / "pm.dcm").NumberOfFrames == record["source"]["shape"][2]
    assert np.isfinite(dcmread(folder / "pm.dcm").pixel_array).all()
    for path in folder.glob("*.dcm"):
        assert validation_errors(path) == []
