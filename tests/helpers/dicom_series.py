"""Small synthetic CT series on disk, regular or broken in one chosen way, with one marked voxel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

ORIENTATIONS = {  # row direction, column direction (LPS)
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "oblique": (
        (np.cos(0.4), np.sin(0.4), 0.0),
        (-np.sin(0.4) * np.cos(0.3), np.cos(0.4) * np.cos(0.3), np.sin(0.3)),
    ),
}
MARK = (3, 5, 2)  # column, row, slice in order of position
MARK_HU = 900.0


@dataclass
class CtSeries:
    """What to write; :meth:`write` puts one file per slice into a folder."""

    orientation: str = "axial"
    slices: int = 6
    rows: int = 9
    columns: int = 8
    row_spacing: float = 0.7
    column_spacing: float = 0.5
    step: float = 3.0
    origin: tuple[float, float, float] = (-20.0, 15.0, 40.0)  # LPS mm of the first voxel's centre
    instance_numbers: str = "shuffled"  # or "ones"
    missing: tuple[int, ...] = ()
    duplicate: int | None = None
    twin_differs: bool = True  # the duplicate's pixels, not only its UID
    tilt_mm: float = 0.0  # sideways shift per slice
    places: tuple[float, ...] = ()  # of the slices in steps along the normal; default 0, 1, 2, …
    photometric: str = "MONOCHROME2"
    per_slice_rescale: bool = False
    series_number: int = 4
    modality: str = "CT"
    seed: int = 0

    def write(self, folder: Path, prefix: str = "im") -> CtSeries:
        """Write the series into ``folder`` (made if absent) and return it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.uid = generate_uid(entropy_srcs=[f"series {self.series_number} {self.seed}"])
        order = np.random.default_rng(self.seed).permutation(self.slices)
        kept = [k for k in range(self.slices) if k not in self.missing]
        for k in kept + ([self.duplicate] if self.duplicate is not None else []):
            twin = "b" if k == self.duplicate and (folder / f"{prefix}{order[k]:03d}.dcm").exists() else ""
            dataset = self._dataset(k, int(order[k]), twin)
            dataset.save_as(folder / f"{prefix}{order[k]:03d}{twin}.dcm", enforce_file_format=True)
        return self

    @property
    def lps_affine(self) -> np.ndarray:
        """(column, row, slice) → LPS mm by the DICOM standard's equation: the tests' oracle."""
        row_direction, column_direction = (np.array(d) for d in ORIENTATIONS[self.orientation])
        affine = np.eye(4)
        affine[:3, 0] = row_direction * self.column_spacing
        affine[:3, 1] = column_direction * self.row_spacing
        affine[:3, 2] = np.cross(row_direction, column_direction) * self.step + row_direction * self.tilt_mm
        affine[:3, 3] = self.origin
        return affine

    @property
    def mark_ras(self) -> np.ndarray:
        """RAS mm of the marked voxel."""
        return (self.lps_affine @ [*MARK, 1.0])[:3] * [-1, -1, 1]

    def hu(self, k: int) -> np.ndarray:
        """(rows, columns) Hounsfield units of slice ``k``."""
        values = np.random.default_rng(100 + k).integers(-100, 100, (self.rows, self.columns)).astype(float)
        if k == MARK[2]:
            values[MARK[1], MARK[0]] = MARK_HU
        return values

    def _dataset(self, k: int, rank: int, twin: str) -> Dataset:
        slope, intercept = (1.0 + k, -10.0 * k) if self.per_slice_rescale else (1.0, -1024.0)
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[self.uid, f"{k}{twin}"])
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.SeriesInstanceUID, ds.SeriesNumber, ds.Modality = self.uid, self.series_number, self.modality
        ds.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
        ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
        ds.PatientName, ds.PatientID = "Secret^Person", "SECRET-ID"
        ds.InstanceNumber = 1 if self.instance_numbers == "ones" else rank + 1
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        row_direction, column_direction = ORIENTATIONS[self.orientation]
        ds.ImageOrientationPatient = [round(float(x), 8) for x in (*row_direction, *column_direction)]
        position = self.lps_affine @ [0.0, 0.0, self.places[k] if self.places else float(k), 1.0]
        ds.ImagePositionPatient = [round(float(x), 6) for x in position[:3]]
        ds.PixelSpacing, ds.SliceThickness = [self.row_spacing, self.column_spacing], self.step
        ds.WindowCenter, ds.WindowWidth = [40, 300], [80, 1500]
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        ds.PhotometricInterpretation, ds.SamplesPerPixel = self.photometric, 1
        ds.Rows, ds.Columns = self.rows, self.columns
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        stored = np.round((self.hu(k) - intercept) / slope).astype("<i2")
        ds.PixelData = (stored + 1 if twin and self.twin_differs else stored).tobytes()
        return ds


def write_enhanced(series: CtSeries, path: Path, echoes: tuple[float, ...] = (), **tags: Any) -> CtSeries:
    """The slices of ``series`` as one enhanced multi-frame object, its frames shuffled; one volume for every echo time,
    whose values are 1000 higher than those of the one before."""
    series.uid = generate_uid(entropy_srcs=[f"series {series.series_number} {series.seed}"])
    frames = [(e, k) for e in range(max(1, len(echoes))) for k in range(series.slices) if k not in series.missing]
    frames = [frames[i] for i in np.random.default_rng(series.seed).permutation(len(frames))]
    slices = {k: series._dataset(k, k, "") for _, k in frames}
    ds = slices[frames[0][1]]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage if echoes else EnhancedCTImageStorage
    ds.NumberOfFrames = len(frames)
    shared, ds.PerFrameFunctionalGroupsSequence = Dataset(), []
    shared.PlaneOrientationSequence = [_moved(ds, "ImageOrientationPatient")]
    shared.PixelMeasuresSequence = [_moved(ds, "PixelSpacing", "SliceThickness")]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.DimensionIndexSequence = [_pointer("StackID"), _pointer("InStackPositionNumber")]
    if echoes:
        ds.DimensionIndexSequence.append(_pointer("EffectiveEchoTime"))
    for e, k in frames:
        item, echo = Dataset(), Dataset()
        item.PlanePositionSequence = [_moved(slices[k], "ImagePositionPatient", copy=True)]
        transformation = _moved(slices[k], "RescaleSlope", "RescaleIntercept", copy=True)
        transformation.RescaleIntercept += 1000 * e
        item.PixelValueTransformationSequence = [transformation]
        content = Dataset()
        content.StackID, content.InStackPositionNumber = "1", k + 1
        content.DimensionIndexValues = [1, k + 1, e + 1] if echoes else [1, k + 1]
        item.FrameContentSequence = [content]
        if echoes:
            echo.EffectiveEchoTime = echoes[e]
            item.MREchoSequence = [echo]
        ds.PerFrameFunctionalGroupsSequence.append(item)
    ds.PixelData = b"".join(slices[k].PixelData for _, k in frames)
    for keyword in ("ImagePositionPatient", "RescaleSlope", "RescaleIntercept"):
        del ds[keyword]
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    ds.save_as(path, enforce_file_format=True)
    return series


def _pointer(keyword: str) -> Dataset:
    item = Dataset()
    item.DimensionIndexPointer = tag_for_keyword(keyword)
    return item


def _moved(source: Dataset, *keywords: str, copy: bool = False) -> Dataset:
    """A new item with elements of ``source``, which loses them unless ``copy``."""
    item = Dataset()
    for keyword in keywords:
        setattr(item, keyword, getattr(source, keyword))
        if not copy:
            del source[keyword]
    return item


def edit(path: Path, **tags: Any) -> None:
    """Set (or with ``None`` delete) attributes of one file in place."""
    from pydicom import dcmread

    ds = dcmread(path)
    for keyword, value in tags.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    ds.save_as(path)
