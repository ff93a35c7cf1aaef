"""Results on complete synthetic DICOM series for the tests of DICOM writing, and the independent tools that judge."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_series import CtSeries, edit
from pydicom import dcmread

from headclip_med.base.geometry import slice_centres
from headclip_med.base.volume import LoadedVolume
from headclip_med.engine.result import AnomalyResult, SliceScore
from headclip_med.engine.volume_map import find_components
from headclip_med.reading import load_volume

PATIENT = {  # every value can be searched for in whatever is written
    "PatientName": "Zymarker^Quentin",
    "PatientID": "ZYPID4711",
    "PatientBirthDate": "19311213",
    "PatientSex": "O",
    "PatientAge": "093Y",
    "PatientAddress": "Zystreet 9",
    "OtherPatientIDs": "ZYOTHER",
    "EthnicGroup": "ZYGROUP",
    "PatientComments": "zycomment",
    "StudyDate": "20190807",
    "StudyTime": "061514",
    "StudyID": "ZYSTUDY",
    "StudyDescription": "Zystudy of the head",
    "SeriesDescription": "Zyseries thin",
    "AccessionNumber": "ZYACC1",
    "ReferringPhysicianName": "Zyreferrer^Anna",
    "PerformingPhysicianName": "Zyperformer^Otto",
    "OperatorsName": "Zyoperator^Ida",
    "InstitutionName": "Zyhospital",
    "InstitutionAddress": "Zyroad 1",
    "StationName": "ZYSTATION",
    "DeviceSerialNumber": "ZYSERIAL",
    "Manufacturer": "ScannerWorks",
    "ManufacturerModelName": "Tube 3",
    "SoftwareVersions": "1.0",
    "BodyPartExamined": "HEAD",
    "AcquisitionDate": "20190807",
    "AcquisitionTime": "061515",
    "ContentDate": "20190807",
    "ContentTime": "061516",
    "SeriesDate": "20190807",
    "SeriesTime": "061514",
    "PositionReferenceIndicator": "",
}
_MARKED = [word for value in PATIENT.values() for word in value.split("^") if word.lower().startswith("zy")]
MARKERS = (*_MARKED, "19311213", "20190807", "061514", "061515", "061516", "093Y")

TILTED = [[-0.5, 0, 0.6, -20], [0, -0.7, 0, 15], [0, 0, 3, 40], [0, 0, 0, 1]]


def complete_series(folder: Path, **options: Any) -> CtSeries:
    """A :class:`CtSeries` on disk with everything that a scanner states about patient, study and equipment."""
    series = CtSeries(**options).write(folder)
    for path in folder.iterdir():
        edit(path, **PATIENT)
    return series


def result_of(
    source: Path | LoadedVolume, amap: np.ndarray | None = None, threshold: float = 0.5, model: str = "tiny"
) -> AnomalyResult:
    """A result on a source; default map: noise below the threshold, a block of 0.9 and one voxel of 0.7."""
    volume = source if isinstance(source, LoadedVolume) else load_volume(source)
    shape = volume.array.shape[1:]
    if amap is None:
        amap = np.random.default_rng(3).uniform(0, 0.4, shape).astype(np.float32)
        amap[1:3, 2:6, : max(1, shape[2] - 3)] = 0.9
        amap[-1, -1, -1] = 0.7
    centres, plain = slice_centres(volume.affine, shape, 2), bool(volume.meta.get("is_2d"))
    uids = volume.meta.get("slice_uids") or []
    uids = uids if len(uids) == shape[2] else [None] * shape[2]
    slices = tuple(
        SliceScore(
            k,
            None if plain else (float(c[0]), float(c[1]), float(c[2])),
            float(amap[..., k].max()),
            uid=uids[k] or None,
        )
        for k, c in enumerate(centres)
    )
    return AnomalyResult(
        volume=volume,
        volume_map=replace(volume, array=amap[None]),
        pred_score=float(amap.max()),
        threshold=threshold,
        threshold_origin="test",
        planes=("axial",),
        slices=slices,
        findings=find_components(amap, volume.affine, threshold, 2, plain),
        display_window=(-100.0, 900.0),
        provenance={"model": model, "weights_sha256": "ab" * 32, "device": "cpu"},
    )


def tool(name: str) -> str:
    """A program of the test extra; the test is skipped where it is not installed."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (extra test)")
    return found


def validation_errors(path: Path) -> list[str]:
    """What dciodvfy calls an error; it must also have known what kind of object it is."""
    said = subprocess.run([tool("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False).stderr
    lines = said.splitlines()
    assert any(line in ("Segmentation", "ParametricMap", "Comprehensive3DSR", "SCImage") for line in lines), said
    return [line for line in lines if line.startswith("Error")]


def dcmqi_segments(path: Path, folder: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Segment number → ``(I, J, K)`` and RAS affine, as dcmqi reads the object."""
    folder.mkdir()
    arguments = ["--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nifti", "-p", "s"]
    done = subprocess.run([tool("segimage2itkimage"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    images = {int(file.name.split("-")[1].split(".")[0]): nib.load(file) for file in folder.glob("s-*.nii.gz")}
    return {number: (np.asarray(image.dataobj), image.affine) for number, image in images.items()}


def map_by_source(path: Path, result: AnomalyResult) -> np.ndarray:
    """A parametric map ``(I, J, K)`` by the source instance that every frame says it was made from."""
    dataset = dcmread(path)
    out = np.full(result.map_array.shape, np.nan, dtype=np.float32)
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        uid = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        out[:, :, result.meta["slice_uids"].index(uid)] = frame.T
    return out


def on_grid(array: np.ndarray, affine: np.ndarray, result: AnomalyResult) -> np.ndarray:
    """Voxels of another program put onto the result's grid by their millimetres; nothing may fall beside it."""
    out = np.zeros(result.map_array.shape, dtype=array.dtype)
    index = np.argwhere(array != 0)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    place = (world - result.affine[:3, 3]) @ np.linalg.inv(result.affine[:3, :3]).T
    assert np.abs(place - np.round(place)).max(initial=0) < 1e-2
    out[tuple(np.round(place).astype(int).T)] = array[array != 0]
    return out
