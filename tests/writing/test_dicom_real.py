"""DICOM objects of series that other people's machines made, and of irregular ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from dicom_results import complete_series, map_by_source, result_of, validation_errors
from pydicom import dcmread

from headclip_med.base.errors import InputError
from headclip_med.base.volume import LoadedVolume
from headclip_med.reading import load_volume
from headclip_med.writing.dicom.objects import write_dicom
from headclip_med.writing.dicom.options import DicomOptions

# A study and a frame of reference of one UID: a fault of these sources, which objects about them must repeat.
_OF_THE_SOURCE = "has same value as FrameOfReferenceUID"

TEST_FILES = Path(pydicom.data.__file__).parent / "test_files"


def test_every_file_of_pydicom_that_can_be_read_can_be_written_about(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    for path in sorted(TEST_FILES.rglob("*")):
        volume = _read(path) if path.is_file() else None
        if volume is None:
            continue
        amap = np.zeros(volume.array.shape[1:], dtype=np.float32)
        amap[tuple(size // 2 for size in amap.shape)] = 0.9
        files = write_dicom(result_of(volume, amap), tmp_path, ["dicom"], DicomOptions(captures=1))
        counts.update(list(files))
        for written in files.values():
            errors = [line for line in validation_errors(written) if _OF_THE_SOURCE not in line]
            assert errors == [], path.name
    assert counts["sc_01"] >= 80
    assert counts["seg"] >= 75
    assert counts["pm"] >= 40


def _read(path: Path) -> LoadedVolume | None:
    try:
        volume = load_volume(path)
    except InputError:
        return None
    return volume if volume.meta["source_format"] == "dicom" else None


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ({"tilt_mm": 0.8}, "keep"),
        ({"tilt_mm": 0.8}, "resample"),
        ({"slices": 9, "missing": (3, 4)}, "keep"),
        ({"slices": 9, "missing": (3, 4)}, "resample"),
        ({"slices": 9, "missing": (3, 4), "tilt_mm": 0.8, "orientation": "oblique"}, "keep"),
    ],
)
def test_an_irregular_series_gets_one_frame_per_source_image(tmp_path: Path, options: dict, policy: str) -> None:
    complete_series(tmp_path / "in", **options)
    volume = load_volume(tmp_path / "in", on_irregular=policy)
    shape = volume.array.shape[1:]
    ramp = np.linspace(0.1, 0.9, shape[2], dtype=np.float32) * np.ones(shape, dtype=np.float32)
    result = result_of(volume, ramp)
    files = write_dicom(result, tmp_path, ["dicom"], DicomOptions(captures=1))
    assert all(validation_errors(path) == [] for path in files.values())
    sources = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, (tmp_path / "in").iterdir())}
    dataset = dcmread(files["pm"])
    frames = {}
    for frame, groups in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        item = groups.DerivationImageSequence[0].SourceImageSequence[0]
        place = groups.PlanePositionSequence[0].ImagePositionPatient
        assert list(place) == list(sources[item.ReferencedSOPInstanceUID].ImagePositionPatient)
        frames[item.ReferencedSOPInstanceUID] = frame
    assert set(frames) == set(sources)
    if not volume.meta.get("resampled"):
        for k, uid in enumerate(volume.meta["slice_uids"]):
            if uid:
                np.testing.assert_array_equal(frames[uid], ramp[:, :, k].T)


def test_frames_of_enhanced_images_are_named(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "dicom" / "mr_enhanced"
    files = [path for path in sorted(folder.rglob("*.dcm")) if path.is_file()] if folder.is_dir() else []
    volumes = [volume for volume in map(_read, files) if volume is not None]
    if not volumes:
        pytest.skip("no enhanced series that can be read")
    for volume in volumes:
        result = result_of(volume)
        written = write_dicom(result, tmp_path, ["seg", "segscore", "pm", "sr"])
        for path in written.values():
            assert validation_errors(path) == []
        dataset = dcmread(written["pm"])
        named = [
            int(groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
            for groups in dataset.PerFrameFunctionalGroupsSequence
        ]
        assert sorted(named) == sorted(number + 1 for number in volume.meta["slice_frames"])
        frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
        for number, frame in zip(named, frames, strict=True):
            k = volume.meta["slice_frames"].index(number - 1)
            np.testing.assert_array_equal(frame, result.map_array[:, :, k].T)


def test_a_real_series_is_exact(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "dicom" / "ct_philips"
    if not source.is_dir():
        pytest.skip("no shared CT series")
    volume = load_volume(source)
    amap = np.random.default_rng(0).uniform(0, 1, volume.array.shape[1:]).astype(np.float32)
    result = result_of(volume, amap, threshold=0.99999)
    files = write_dicom(result, tmp_path, ["pm"])
    np.testing.assert_array_equal(map_by_source(files["pm"], result), amap)
