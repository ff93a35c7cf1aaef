"""The part of a DICOM file that decides where its images belong: read tolerantly, element by element."""

from __future__ import annotations

import gzip
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pydicom import dcmread, uid
from pydicom.filereader import read_file_meta_info

from headclip_med.base.errors import InputError
from headclip_med.reading.archive import check_growth, check_inflated_file
from headclip_med.reading.content import GZIP, is_bare_dicom
from headclip_med.reading.dicom.values import (
    finite_number,
    folded,
    image_type,
    integer,
    numbers,
    orientation,
    positive_pair,
    rescale_factors,
    text,
)
from headclip_med.reading.sequences import sequences_in

DICOMDIR = "DICOMDIR"
LOCALIZER = "localizer"
PARAMETRIC_MAP = "parametric map"

# Private elements that tell a mosaic: the creators Siemens and United Imaging, and how many slices each has tiled.
SIEMENS_CREATOR, NUMBER_IN_MOSAIC, UIH_CREATOR, NUMBER_IN_GRID = 0x00190010, 0x0019100A, 0x00650010, 0x00651050

# What may tell slices in one place apart, by name.
FACTS = (
    *("type", "echo", "echo time", "phase", "b-value", "direction"),
    *("inversion time", "kernel", "contrast", "description"),
    *("dimension", "acquisition", "trigger", "time", "instance"),
)

TAGS: list[str | int] = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "StudyDate",
    "AccessionNumber",
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
    "InversionTime",
    "ConvolutionKernel",
    "AcquisitionNumber",
    "TriggerTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence",
    *(SIEMENS_CREATOR, NUMBER_IN_MOSAIC, UIH_CREATOR, NUMBER_IN_GRID),
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
_HEAD_BYTES, _CHUNK = 2048, 1 << 20
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_TOMOGRAPHY = {"RECON TOMO", "RECON GATED TOMO"}


class Tile(NamedTuple):
    """One slice of a mosaic: its number of how many, and how many tiles lie down and across the stored image."""

    number: int
    total: int
    down: int
    across: int


@dataclass(frozen=True)
class ImageHeader:
    """One image of a file, or one frame with a place of its own, lengths in mm, positions in LPS.

    Attributes:
        frame: 0-based in its file.
        frames: in the file. A file of several frames without places is one header.
        orientation: row and column direction, orthogonal unit vectors.
        position: of the first voxel's centre.
        pixel_spacing: between rows, between columns.
        kind: ``image``, or why it is not one to read.
        facts: what may tell it from another slice in the same place, by the names of :data:`FACTS`.
        rescale: slope and intercept. None: not stated. Infinite: not stated, unlike those of the others.
        stamp: size and time of the file when it was read.
        tile: which part of the stored image it is, None for all of it, where rows and columns are of the slice.
        remark: what had to be assumed about it, in words.
        sequence: of MR, as far as the series names it.
        issuer, patient_name, birth_date, study_date, accession: tell patients and studies apart, and are never shown.
    """

    path: Path
    sop_uid: str
    sop_class: str
    patient: str
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
    rescale: tuple[float | None, float | None] | None = None
    stamp: tuple[int, int] = (0, 0)
    tile: Tile | None = None
    remark: str = ""
    sequence: str = ""
    issuer: str = ""
    patient_name: str = ""
    birth_date: str = ""
    study_date: str = ""
    accession: str = ""

    @property
    def is_pictures(self) -> bool:
        """Several frames without a place in the patient: a cine, a stack of photographs."""
        return self.frames > 1 and self.orientation is None

    @property
    def stored_size(self) -> tuple[int, int]:
        """Rows and columns of the stored image."""
        return (self.rows * self.tile.down, self.columns * self.tile.across) if self.tile else (self.rows, self.columns)

    def fact(self, name: str) -> str:
        """Look up one of :data:`FACTS`.

        Args:
            name: Of the fact.

        Returns:
            Its text, empty where the file does not say.
        """
        return self.facts[FACTS.index(name)]


def read_dataset(path: Path, **options: Any) -> Any:
    """Read all elements before the pixels, tolerantly.

    Args:
        path: A DICOM file.
        options: Passed on to pydicom's ``dcmread``.

    Returns:
        The dataset.
    """
    with opened(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return dcmread(_Bounded(file, size), stop_before_pixels=True, force=True, **options)


def file_stamp(path: Path) -> tuple[int, int]:
    """Note size and time of last change: what tells that a file was exchanged or is still being written.

    Args:
        path: A file.

    Returns:
        Bytes and nanoseconds.
    """
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def opened(path: Path) -> BinaryIO:
    """Open a DICOM file as a stream, unpacked in memory where gzip packed it.

    Args:
        path: The file.

    Returns:
        The stream.

    Raises:
        InputError: a file that grows too far. A damaged one raises what :mod:`gzip` does.
    """
    return unpacked(path.open("rb"), path)


def unpacked(file: BinaryIO, path: Path) -> BinaryIO:
    """Unpack a stream that may be in gzip, as of :func:`opened`.

    Args:
        file: The stream, at its beginning.
        path: The file that it is of.

    Returns:
        The bytes without gzip.

    Raises:
        InputError: a file that grows too far.
    """
    is_packed = file.read(2) == GZIP
    file.seek(0)
    if not is_packed:
        return file
    out, packed = io.BytesIO(), path.stat().st_size
    with file, gzip.open(file) as stream:
        while chunk := stream.read(_CHUNK):
            out.write(chunk)
            check_growth(out.tell(), packed, path.name)
    out.seek(0)
    return out


def check_deflated(path: Path) -> None:
    """Refuse a deflated file that would inflate too far, where others cost one look at the file meta.

    Args:
        path: A DICOM file.

    Raises:
        InputError: a decompression bomb, or a deflated file whose size cannot be told.
    """
    with opened(path) as file:
        head = file.read(_HEAD_BYTES)
        in_memory = isinstance(file, io.BytesIO)
        content = head + file.read() if in_memory else head
    deflated = uid.DeflatedExplicitVRLittleEndian.encode()
    if is_bare_dicom(head):
        if deflated in content:
            raise InputError(
                f"{path.name} must begin as a DICOM file", "deflated, without a preamble", "Export it again"
            )
    elif in_memory:
        if deflated in content:
            raise InputError(f"{path.name} must be packed once", "deflated and in gzip", "Unpack it with gunzip first")
    else:
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
            # preamble, DICM and the group length element stand before what the length counts
            check_inflated_file(path, 144 + int(meta.FileMetaInformationGroupLength))


def check_frame_count(header: ImageHeader) -> None:
    """Refuse more frames than the file can hold, before anything is made for each of them.

    A frame takes a bit a sample, or the eight bytes of an item where pixels are compressed. What a deflated file holds
    is known once it is inflated.

    Args:
        header: Of the file.

    Raises:
        InputError: the header claims too many.
    """
    with opened(header.path) as file:
        is_deflated = uid.DeflatedExplicitVRLittleEndian.encode() in file.read(_HEAD_BYTES)
        size = file.seek(0, os.SEEK_END)
    least = min(8, max(1, header.rows * header.columns * header.samples // 8))
    if not is_deflated and header.frames * least > size:
        raise InputError(
            f"{header.path.name} must hold the frames that its header names",
            f"{header.frames} frames in {size} bytes",
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


def header_of(path: Path, dataset: Any, stamp: tuple[int, int]) -> ImageHeader:
    """Pick from a dataset what decides where its images belong.

    Args:
        path: The file.
        dataset: Its elements.
        stamp: Of :func:`file_stamp`.

    Returns:
        The header of its only image, or of all of its frames.
    """
    sop_class = text(dataset, "SOPClassUID", 64) or text(dataset.file_meta, "MediaStorageSOPClassUID", 64)
    return ImageHeader(
        path=path,
        sop_uid=text(dataset, "SOPInstanceUID", 64),
        sop_class=sop_class,
        patient=text(dataset, "PatientID", None),
        study_uid=text(dataset, "StudyInstanceUID", None),
        series_uid=text(dataset, "SeriesInstanceUID", None),
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
        thickness=finite_number(dataset, "SliceThickness"),
        kind=_kind(dataset, sop_class),
        facts=(
            image_type(dataset, "ImageType"),
            text(dataset, "EchoNumbers"),
            text(dataset, "EchoTime"),
            text(dataset, "TemporalPositionIdentifier"),
            text(dataset, "DiffusionBValue"),
            "/".join(f"{x:.4f}" for x in numbers(dataset, "DiffusionGradientOrientation", 3) or ()),
            text(dataset, "InversionTime"),
            text(dataset, "ConvolutionKernel", 64),
            text(dataset, "ContrastBolusAgent", 64),
            text(dataset, "SeriesDescription", 64),
            "",
            text(dataset, "AcquisitionNumber"),
            text(dataset, "TriggerTime"),
            text(dataset, "AcquisitionDate") + text(dataset, "AcquisitionTime"),
            text(dataset, "InstanceNumber"),
        ),
        rescale=rescale_factors(dataset),
        stamp=stamp,
        sequence=_sequence(dataset),
        issuer=text(dataset, "IssuerOfPatientID", None),
        patient_name=folded(dataset, "PatientName"),
        birth_date=folded(dataset, "PatientBirthDate"),
        study_date=folded(dataset, "StudyDate"),
        accession=text(dataset, "AccessionNumber", None),
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
