"""Parametric maps, reports and secondary captures: what they hold, what they refer to, what dciodvfy says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from dicom_results import MARKERS, complete_series, map_by_source, result_of, validation_errors
from dicom_series import edit
from pydicom import dcmread, dcmwrite
from pydicom.uid import ExplicitVRBigEndian

from headclip_med.base.errors import HeadclipError, OutputError
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.writing import write_result
from headclip_med.writing.dicom.frames import segment_volume
from headclip_med.writing.dicom.objects import write_dicom
from headclip_med.writing.dicom.options import DicomOptions
from headclip_med.writing.folder import case_folder
from headclip_med.writing.record import load_result

KINDS = {"axial": {}, "oblique": {"orientation": "oblique"}, "single": {"slices": 1}, "mr": {"modality": "MR"}}


def items(dataset: Any) -> Iterator[Any]:
    """The dataset and every item below it."""
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from items(item)


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_is_exact(tmp_path: Path, kind: str) -> None:
    complete_series(tmp_path / "in", **KINDS[kind])
    result = result_of(tmp_path / "in")
    path = write_dicom(result, tmp_path, ["pm"])["pm"]
    assert validation_errors(path) == []
    np.testing.assert_array_equal(map_by_source(path, result), result.map_array)
    mapping = dcmread(path).SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert hd.imread(path).SOPInstanceUID == dcmread(path).SOPInstanceUID


@pytest.mark.parametrize("kind", KINDS)
def test_every_reference_of_a_report_resolves(tmp_path: Path, kind: str) -> None:
    complete_series(tmp_path / "in", **KINDS[kind])
    result = result_of(tmp_path / "in")
    files = write_dicom(result, tmp_path, ["sr"])
    assert set(files) == {"seg", "sr"}
    assert validation_errors(files["sr"]) == []
    report, segmentation = dcmread(files["sr"]), dcmread(files["seg"])
    sources = {d.SOPInstanceUID: d.SOPClassUID for d in map(dcmread, (tmp_path / "in").iterdir())}
    known = {**sources, segmentation.SOPInstanceUID: segmentation.SOPClassUID}
    evidence = {
        item.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert evidence == set(known)
    numbers = {segment.SegmentNumber for segment in segmentation.SegmentSequence}
    for item in items(report):
        if "ReferencedSOPInstanceUID" in item:
            assert known[item.ReferencedSOPInstanceUID] == item.ReferencedSOPClassUID
        if "ReferencedSegmentNumber" in item:
            assert item.ReferencedSegmentNumber in numbers


def test_measurements_are_those_of_the_result(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", orientation="oblique")
    result = result_of(tmp_path / "in")
    files = write_dicom(result, tmp_path, ["sr"])
    report = hd.sr.srread(files["sr"])
    segmentation = dcmread(files["seg"])
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(result.findings) == 2
    for group, finding, segment in zip(groups, result.findings, segmentation.SegmentSequence, strict=True):
        assert group.tracking_uid == segment.TrackingUID
        assert group.finding_category.value == "49755003"
        assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert group.referenced_segment.referenced_segment_numbers == [finding.label]
        measured = [(m.name.value, m.derivation and m.derivation.meaning, m.value) for m in group.get_measurements()]
        x, y, z = finding.centroid_mm
        expected = [
            ("118565006", None, finding.volume_mm3),
            ("anomaly-score", "Maximum", finding.peak),
            ("anomaly-score", "Mean", finding.mean),
            ("centroid-x", None, -x),
            ("centroid-y", None, -y),
            ("centroid-z", None, z),
        ]
        for found, wanted in zip(measured, expected, strict=True):
            assert found[:2] == wanted[:2]
            assert found[2] == pytest.approx(wanted[2], rel=1e-8)
    assert RESEARCH_ONLY in str(report)


def test_a_report_tells_the_score_of_every_slice_with_its_image(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    result = result_of(tmp_path / "in")
    report = hd.sr.srread(write_dicom(result, tmp_path, ["sr"])["sr"])
    (case,) = report.content.get_image_measurement_groups()
    measured = case.get_measurements()
    assert [m.value for m in measured[:3]] == [pytest.approx(result.pred_score), 0.5, 2]
    scores = {m.referenced_images[0].referenced_sop_instance_uid: m.value for m in measured[3:]}
    assert scores == {entry.uid: pytest.approx(entry.score) for entry in result.slices}


def test_a_report_without_findings_tells_the_scores(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    result = result_of(tmp_path / "in", np.full((8, 9, 6), 0.1, dtype=np.float32))
    path = write_dicom(result, tmp_path, ["sr"])["sr"]
    assert validation_errors(path) == []
    assert hd.sr.srread(path).content.get_volumetric_roi_measurement_groups() == []


def test_a_report_counts_the_findings_that_share_a_segment(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", rows=24, columns=20)
    amap = np.zeros((20, 24, 6), dtype=np.float32)
    amap[::2, ::2, ::2] = np.random.default_rng(0).uniform(0.6, 1, (10, 12, 3))
    result = result_of(tmp_path / "in", amap)
    path = write_dicom(result, tmp_path, ["sr"])["sr"]
    assert validation_errors(path) == []
    last = hd.sr.srread(path).content.get_volumetric_roi_measurement_groups()[-1]
    count, volume, peak = (m.value for m in last.get_measurements())
    assert count == 310
    assert volume == pytest.approx(sum(finding.volume_mm3 for finding in result.findings[50:]))
    assert peak == pytest.approx(result.findings[50].peak)


@pytest.mark.parametrize("kind", KINDS)
def test_captures_are_pictures_of_slices(tmp_path: Path, kind: str) -> None:
    complete_series(tmp_path / "in", **KINDS[kind])
    files = write_dicom(result_of(tmp_path / "in"), tmp_path, ["sc"], DicomOptions(captures=2))
    assert list(files) == (["sc_01"] if kind == "single" else ["sc_01", "sc_02"])
    for number, path in enumerate(files.values(), start=1):
        assert validation_errors(path) == []
        dataset = dcmread(path)
        assert dataset.InstanceNumber == number
        assert dataset.BurnedInAnnotation == "YES"
        assert RESEARCH_ONLY in dataset.DerivationDescription
        pixels = dataset.pixel_array
        assert pixels.shape == (dataset.Rows, dataset.Columns, 3)
        foot = pixels[-50:].reshape(-1, 3).astype(int)
        assert ((foot[:, 0] > 200) & (foot[:, 2] < 120)).any()  # the orange line about research use


def test_a_capture_looks_as_radiologists_expect(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", orientation="sagittal")
    result = replace(result_of(tmp_path / "in"), planes=("sagittal",))
    dataset = dcmread(write_dicom(result, tmp_path, ["sc"])["sc_01"])
    assert list(dataset.PatientOrientation) == ["P", "F"]


def test_all_slices_are_captured_on_request(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", slices=11)
    result = result_of(tmp_path / "in")
    assert len(write_dicom(result, tmp_path, ["sc"])) == 8
    assert len(write_dicom(result, tmp_path, ["sc"], DicomOptions(captures=0))) == 11


def test_a_picture_without_a_place_gets_all_but_a_map(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", slices=1)
    path = next((tmp_path / "in").iterdir())
    edit(path, ImagePositionPatient=None, ImageOrientationPatient=None, FrameOfReferenceUID=None)
    result = result_of(path)
    files = write_dicom(result, tmp_path, ["dicom"])
    assert set(files) == {"seg", "sr", "sc_01"}
    shown = [item.ReferencedSegmentNumber for item in items(dcmread(files["seg"])) if "ReferencedSegmentNumber" in item]
    frames = dcmread(files["seg"]).pixel_array.reshape(-1, 9, 8)
    np.testing.assert_array_equal(frames[shown.index(1)], segment_volume(result)[:, :, 0].T == 1)
    assert all(validation_errors(path) == [] for path in files.values())
    with pytest.raises(OutputError, match="where it lies for a parametric map"):
        write_dicom(result, tmp_path, ["pm"])


def test_a_big_endian_source_can_be_written_about(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", slices=3)
    for path in (tmp_path / "in").iterdir():
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        dcmwrite(path, dataset, implicit_vr=False, little_endian=False, enforce_file_format=True)
    result = result_of(tmp_path / "in")
    files = write_dicom(result, tmp_path, ["dicom"])
    np.testing.assert_array_equal(map_by_source(files["pm"], result), result.map_array)
    assert dcmread(files["seg"]).PatientName == "Zymarker^Quentin"
    assert all(validation_errors(path) == [] for path in files.values())


def test_a_poor_header_is_completed(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", slices=2)
    for path in (tmp_path / "in").iterdir():
        gone = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber")
        edit(path, **dict.fromkeys(gone), PatientSex=None, FrameOfReferenceUID=None, SliceThickness=None)
    files = write_dicom(result_of(tmp_path / "in"), tmp_path, ["dicom", "segscore"])
    frames = {dcmread(files[name]).FrameOfReferenceUID for name in ("seg", "segscore", "pm")}
    assert len(frames) == 1
    assert all(validation_errors(path) == [] for path in files.values())


def test_files_are_listed_with_their_hashes(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    with case_folder(tmp_path / "out", "case") as folder:
        write_result(result_of(tmp_path / "in"), folder, ["json", "seg", "pm", "sr", "sc"])
    record, _, _ = load_result(tmp_path / "out" / "case")  # verifies the hashes
    assert {"seg", "pm", "sr", "sc_01"} <= set(record.files)
    assert record.files["seg"].name == "seg.dcm"


def test_a_result_of_another_source_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    result = result_of(tmp_path / "in")
    foreign = replace(result, volume=replace(result.volume, meta={**result.meta, "source_format": "nrrd"}))
    with pytest.raises(OutputError, match="nrrd"), case_folder(tmp_path / "out", "case") as folder:
        write_result(foreign, folder, ["seg"])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_damaged_source_is_written_about_or_refused_in_words(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", slices=2)
    result = result_of(tmp_path / "in")
    sound = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    random = np.random.default_rng(0)
    written, said = 0, []
    for _ in range(300):
        for path, content in sound.items():
            damaged = np.frombuffer(content, np.uint8).copy()
            places = random.integers(132, len(content) - 200, random.choice([1, 2, 5]))
            damaged[places] = random.integers(0, 256, len(places))
            path.write_bytes(damaged.tobytes())
        try:
            written += len(write_dicom(result, tmp_path, ["seg", "pm", "sr"])) == 3
        except HeadclipError as problem:
            said.append(str(problem))
    assert written > 10
    assert len(said) > 10
    assert not any(marker.lower() in words.lower() for marker in MARKERS for words in said)


def test_findings_of_a_picture_are_counted_in_pixels(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", slices=1)
    (path,) = (tmp_path / "in").iterdir()
    edit(path, ImagePositionPatient=None, ImageOrientationPatient=None, FrameOfReferenceUID=None)
    result = result_of(path)
    assert result.meta["is_2d"] is True
    files = write_dicom(result, tmp_path, ["sr"])
    for group, finding in zip(
        hd.sr.srread(files["sr"]).content.get_volumetric_roi_measurement_groups(), result.findings, strict=True
    ):
        (size, *scores) = group.get_measurements()
        assert (size.name.meaning, size.value, size.unit.value) == ("Number of pixels", finding.voxels, "{pixels}")
        assert [m.name.value for m in scores] == ["anomaly-score", "anomaly-score"]
    described = [segment.SegmentDescription for segment in dcmread(files["seg"]).SegmentSequence]
    assert [f"; {finding.voxels} px; " in text for finding, text in zip(result.findings, described, strict=True)] == [
        True for _ in result.findings
    ]
    assert validation_errors(files["sr"]) == []
