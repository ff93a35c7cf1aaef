"""The part of a DICOM file that decides where its images belong: read tolerantly, element by element."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread, uid
from pydicom.filereader import read_file_meta_info

from headclip_med.errors import InputError
from headclip_med.reading.content import is_bare_dicom
from headclip_med.reading.inflate import check_inflated_file
from headclip_med.reading.sequences import sequences_in

DICOMDIR = "DICOMDIR"
LOCALIZER = "localizer"
PARAMETRIC_MAP = "parametric map"

# What may tell slices in one place apart, in the order in which it is asked; "trigger" and "time" only by rank.
FACTS = ("type", "echo", "echo time", "phase", "b-value", "direction", "dimension", "acquisition", "trigger", "time")

_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "FrameOfReferenceUID",
    "Modality",
    "ImageType",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "EchoNumbers",
    "EchoTime",
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "AcquisitionNumber",
    "TriggerTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "SeriesDescription",
    "ProtocolName",
    "ContrastBolusAgent",
]

# Objects with pixels that describe another image rather than being one.
_DERIVED = {
    uid.SegmentationStorage,
    uid.SurfaceSegmentationStorage,
    uid.RTDoseStorage,
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
}
_HEAD_BYTES = 2048
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_TOMOGRAPHY = {"RECON TOMO", "RECON GATED TOMO"}


@dataclass(frozen=True)
class ImageHeader:
    """One image of a file, or one frame with a place of its own; lengths in mm, positions in LPS.

    Attributes:
        frame: 0-based in its file; frames: in the file. A file of several frames without places is one header.
        orientation: row and column direction, orthogonal unit vectors. position: of the first voxel's centre.
        pixel_spacing: between rows, between columns. kind: ``image``, or why it is not one to read.
        facts: what may tell it from another slice in the same place, by the names of :data:`FACTS`.
        rescale: slope and intercept of this very frame, None: the file's.
        stamp: size and time of the file when its header was read. sequence: of MR, as far as the series names it.
    """

    path: Path
    sop_uid: str
    sop_class: str
    study_uid: str
    series_uid: str
    series_number: int | None
    frame_of_reference: str
    modality: str | None
    rows: int
    columns: int
    samples: int
    frames: int
    photometric: str
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    imager_spacing: tuple[float, ...] | None
    thickness: float | None
    kind: str
    facts: tuple[str, ...]
    frame: int = 0
    stack: str = ""
    rescale: tuple[float, float] | None = None
    stamp: tuple[int, int] = (0, 0)
    sequence: str = ""

    @property
    def is_pictures(self) -> bool:
        """Several frames without a place in the patient: a cine, a stack of photographs."""
        return self.frames > 1 and self.orientation is None

    def fact(self, name: str) -> str:
        """One of :data:`FACTS`, empty where the file does not say."""
        return self.facts[FACTS.index(name)]


def read_headers(path: Path) -> list[ImageHeader] | None:
    """The images of one DICOM file, one a frame where frames have places; None when it cannot be parsed.

    Raises:
        InputError: a decompression bomb.
    """
    from headclip_med.reading.dicom_frames import frame_headers

    try:
        stamp = file_stamp(path)
        check_deflated(path)
        with path.open("rb") as file:
            dataset = dcmread(_Bounded(file, stamp[0]), stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
        return frame_headers(_header(path, dataset, stamp), dataset)
    except InputError:
        raise
    except Exception:  # pydicom raises whatever the damaged bytes provoke
        return None


def file_stamp(path: Path) -> tuple[int, int]:
    """Size and time of last change: what tells that a file was exchanged or is still being written."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def check_deflated(path: Path) -> None:
    """Refuse a deflated file that would inflate too far; others cost one look at the file meta."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if is_bare_dicom(head):
        if uid.DeflatedExplicitVRLittleEndian.encode() in head:
            raise InputError(
                f"{path.name} must begin as a DICOM file", "deflated, without a preamble", "Export it again"
            )
        return
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        # preamble, DICM and the group length element stand before what the length counts
        check_inflated_file(path, 144 + int(meta.FileMetaInformationGroupLength))


def check_frame_count(header: ImageHeader) -> None:
    """Refuse more frames than the file can hold, before anything is made for each of them.

    A frame takes a bit a sample, or the eight bytes of an item where pixels are compressed; what a deflated file holds
    is known once it is inflated.

    Raises:
        InputError: the header claims too many.
    """
    with header.path.open("rb") as file:
        is_deflated = uid.DeflatedExplicitVRLittleEndian.encode() in file.read(_HEAD_BYTES)
    least = min(8, max(1, header.rows * header.columns * header.samples // 8))
    if not is_deflated and header.frames * least > header.stamp[0]:
        raise InputError(
            f"{header.path.name} must hold the frames that its header names",
            f"{header.frames} frames in {header.stamp[0]} bytes",
            "Copy or export the file again",
        )


class _Bounded(io.RawIOBase):
    """A file that never reads, or reserves memory, beyond its end, whatever length an element claims."""

    def __init__(self, file: Any, size: int) -> None:
        super().__init__()
        self._file, self._size = file, size

    def read(self, count: int | None = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        return bytes(self._file.read(left if count is None or count < 0 else min(count, left)))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _header(path: Path, dataset: Any, stamp: tuple[int, int]) -> ImageHeader:
    thickness = numbers(dataset, "SliceThickness", 1)
    sop_class = text(dataset, "SOPClassUID", 64) or text(dataset.file_meta, "MediaStorageSOPClassUID", 64)
    return ImageHeader(
        path=path,
        sop_uid=text(dataset, "SOPInstanceUID", 64),
        sop_class=sop_class,
        study_uid=text(dataset, "StudyInstanceUID", 64),
        series_uid=text(dataset, "SeriesInstanceUID", 64),
        series_number=integer(dataset, "SeriesNumber"),
        frame_of_reference=text(dataset, "FrameOfReferenceUID", 64),
        modality=text(dataset, "Modality") or None,
        rows=integer(dataset, "Rows") or 0,
        columns=integer(dataset, "Columns") or 0,
        samples=integer(dataset, "SamplesPerPixel") or 1,
        frames=integer(dataset, "NumberOfFrames") or 1,
        photometric=text(dataset, "PhotometricInterpretation"),
        orientation=orientation(dataset),
        position=numbers(dataset, "ImagePositionPatient", 3),
        pixel_spacing=positive_pair(dataset, "PixelSpacing"),
        imager_spacing=positive_pair(dataset, "ImagerPixelSpacing"),
        thickness=thickness[0] if thickness else None,
        kind=_kind(dataset, sop_class),
        facts=(
            image_type(dataset, "ImageType"),
            text(dataset, "EchoNumbers"),
            text(dataset, "EchoTime"),
            text(dataset, "TemporalPositionIdentifier"),
            text(dataset, "DiffusionBValue"),
            "/".join(f"{x:.4f}" for x in numbers(dataset, "DiffusionGradientOrientation", 3) or ()),
            "",
            text(dataset, "AcquisitionNumber"),
            text(dataset, "TriggerTime"),
            text(dataset, "AcquisitionDate") + text(dataset, "AcquisitionTime"),
        ),
        stamp=stamp,
        sequence=_sequence(dataset),
    )


def _sequence(dataset: Any) -> str:
    """The MR sequences that the series names, joined by ``/``; its words, which may name a patient, are not kept."""
    words = [text(dataset, keyword, 64) for keyword in ("SeriesDescription", "ProtocolName")]
    agent = text(dataset, "ContrastBolusAgent", 64)
    words += ["contrast"] * (agent.upper() not in ("", "NO", "NONE"))
    return "/".join(sorted(sequences_in(" ".join(words)))) if text(dataset, "Modality") == "MR" else ""


def _kind(dataset: Any, sop_class: str) -> str:
    if sop_class == uid.MediaStorageDirectoryStorage:
        return DICOMDIR
    if not (integer(dataset, "Rows") and integer(dataset, "Columns")):
        return "DICOM object without an image"
    if sop_class in _DERIVED:
        return "derived object (segmentation or dose)"
    if sop_class == uid.ParametricMapStorage:
        return PARAMETRIC_MAP
    if sop_class == _WHOLE_SLIDE:
        return "whole-slide image (gigapixels in tiles: export a region of it as a picture)"
    values = set(image_type(dataset, "ImageType").split("/"))
    if sop_class == uid.NuclearMedicineImageStorage and values & _TOMOGRAPHY:
        return "multi-frame nuclear tomography (its geometry is not read: convert it to NIfTI)"
    return LOCALIZER if "LOCALIZER" in values else "image"


def element(dataset: Any, keyword: str) -> Any:
    """The value of an element, None where it is absent or cannot be made sense of."""
    try:
        return dataset.get(keyword)
    except Exception:  # pydicom raises whatever a wrong VR or damaged bytes provoke
        return None


def first_item(dataset: Any, keyword: str) -> Any:
    """The first item of a sequence; an empty mapping where there is none."""
    items = element(dataset, keyword)
    try:
        found = items[0] if items else {}
    except (TypeError, IndexError, KeyError):
        return {}
    return found if hasattr(found, "get") else {}


def text(dataset: Any, keyword: str, longest: int = 24) -> str:
    """An element as short text; several values are joined by ``/``."""
    value = element(dataset, keyword)
    if value is None:
        return ""
    parts = [value] if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) else list(value)[:16]
    return "/".join(str(part).strip() for part in parts)[:longest]


def image_type(dataset: Any, keyword: str) -> str:
    """ImageType or FrameType, values joined by ``/``."""
    return text(dataset, keyword, 100)


def numbers(dataset: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """``count`` finite numbers, or None when the element is absent, empty or not that."""
    try:
        values = tuple(float(x) for x in np.atleast_1d(element(dataset, keyword)))
    except (TypeError, ValueError, OverflowError):
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def positive_pair(dataset: Any, keyword: str) -> tuple[float, ...] | None:
    """Two lengths above 0."""
    values = numbers(dataset, keyword, 2)
    return values if values and min(values) > 0 else None


def integer(dataset: Any, keyword: str) -> int | None:
    """A whole number, or None."""
    try:
        return int(element(dataset, keyword))
    except (TypeError, ValueError, OverflowError):
        return None


def orientation(dataset: Any) -> tuple[float, ...] | None:
    """Row and column direction as two orthogonal unit vectors, else None."""
    values = numbers(dataset, "ImageOrientationPatient", 6)
    if values is None:
        return None
    row, column = np.array(values[:3]), np.array(values[3:])
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm([row, column], axis=1)
        is_frame = np.abs(lengths - 1).max() <= 1e-2 and abs(float(row @ column)) <= 1e-2
    if not is_frame:
        return None
    return tuple(float(x) for x in (*(row / lengths[0]), *(column / lengths[1])))
