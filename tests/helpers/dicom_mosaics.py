"""Small mosaics on disk: many slices tiled into one stored image, as Siemens and as United Imaging write them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from dicom_series import ORIENTATIONS
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage


@dataclass
class Mosaic:
    """What to write; :meth:`write` puts one file into a folder and returns the truth about it."""

    slices: int = 7
    rows: int = 10
    columns: int = 12
    down: int = 3
    across: int = 3
    orientation: str = "axial"
    inverted: bool = False  # slices run against the normal of rows and columns
    spacing: tuple[float, float] = (2.0, 1.5)  # between rows, between columns
    step: float = 4.0
    first: tuple[float, float, float] = (-23.0, -19.0, -12.0)  # LPS mm of the first voxel of the first slice
    vendor: str = "siemens"
    instance: int = 1
    seed: int = 0
    csa: dict[str, tuple[str, list[str]]] | None = None  # default: number and normal
    tags: dict[str, Any] = field(default_factory=dict)  # to set, or with None to delete

    @property
    def stack(self) -> np.ndarray:
        """``(slices, rows, columns)`` stored values."""
        shape = (self.slices, self.rows, self.columns)
        return np.random.default_rng(self.seed).integers(10, 900, shape).astype(np.uint16)

    @property
    def normal(self) -> np.ndarray:
        """LPS unit vector from the first slice to the last."""
        row, column = ORIENTATIONS[self.orientation]
        return np.cross(row, column) * (-1 if self.inverted else 1)

    def lps(self, k: int) -> np.ndarray:
        """Position of the first voxel of slice ``k``."""
        return np.array(self.first) + k * self.step * self.normal

    def write(self, path: Path) -> Mosaic:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        ds = self._dataset()
        for keyword, value in self.tags.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)
        ds.save_as(path, enforce_file_format=True)
        return self

    def _dataset(self) -> Dataset:
        ds, uid = Dataset(), f"1.2.3.{self.seed}.{self.instance}"
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3.4", "1.2.3.5", "1.2.3.6"
        ds.Modality, ds.SeriesNumber, ds.InstanceNumber, ds.PatientID = "MR", 5, self.instance, "SECRET"
        row, column = (np.array(direction) for direction in ORIENTATIONS[self.orientation])
        ds.ImageOrientationPatient = [round(float(x), 8) for x in (*row, *column)]
        ds.PixelSpacing, ds.SliceThickness, ds.SpacingBetweenSlices = list(self.spacing), 3.0, self.step
        image = np.zeros((self.down * self.rows, self.across * self.columns), np.uint16)
        for k, plane in enumerate(self.stack):
            y, x = k // self.across * self.rows, k % self.across * self.columns
            image[y : y + self.rows, x : x + self.columns] = plane
        ds.Rows, ds.Columns = image.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.PixelData = image.tobytes()
        if self.vendor == "siemens":
            # as if the whole mosaic were one slice with the first one's centre
            corner = np.array(self.first) - row * self.spacing[1] * self.columns * (self.across - 1) / 2
            corner = corner - column * self.spacing[0] * self.rows * (self.down - 1) / 2
            self._siemens(ds, corner)
        else:
            self._united_imaging(ds)
        return ds

    def _siemens(self, ds: Dataset, corner: np.ndarray) -> None:
        ds.Manufacturer, ds.ImageType = "SIEMENS", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        ds.ImagePositionPatient = [round(float(x), 8) for x in corner]
        ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", self.slices)
        normal = ("FD", [f"{x:.8f}" for x in self.normal])
        own = {
            "AcquisitionMatrixText": ("SH", [f"{self.rows}p*{self.columns}"]),
            "NumberOfImagesInMosaic": ("US", [str(self.slices)]),
            "SliceNormalVector": normal,
        }
        header = csa_header(own if self.csa is None else self.csa)
        ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", header)

    def _united_imaging(self, ds: Dataset) -> None:
        ds.Manufacturer, ds.ImageType = "UIH", ["ORIGINAL", "PRIMARY", "M", "VFRAME"]
        ds.ImagePositionPatient = [round(float(x), 8) for x in self.lps(0)]
        block = ds.private_block(0x0065, "Image Private Header", create=True)
        block.add_new(0x50, "DS", str(self.slices))
        frames = []
        for k in range(self.slices):
            frame = Dataset()
            frame.ImagePositionPatient = [round(float(x), 8) for x in self.lps(k)]
            frames.append(frame)
        block.add_new(0x51, "SQ", frames)


def csa_header(tags: dict[str, tuple[str, list[str]]]) -> bytes:
    """Siemens' private image header (CSA2) with elements ``{name: (VR, values as text)}``."""
    out = b"SV10\x04\x03\x02\x01" + struct.pack("<2I", len(tags), 77)
    for name, (vr, values) in tags.items():
        out += struct.pack("<64si4s3i", name.encode(), len(values), vr.encode(), 0, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            out += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + b"\0" * (-len(text) % 4)
    return out
