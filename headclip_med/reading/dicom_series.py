"""Which DICOM images lie in a folder, and which of them belong to one series."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread, uid
from pydicom.filereader import read_file_meta_info

from headclip_med.errors import InputError
from headclip_med.reading.base import collected_warnings
from headclip_med.reading.content import is_format
from headclip_med.types import PLANES, Plane

# Direction cosines of one series differ by rounding only.
_ORIENTATION_TOLERANCE = 1e-3

# A deflated file may hold this much once inflated; more is a decompression bomb.
_MAX_INFLATED_BYTES = 2**32

# A message names this many series; a folder may hold hundreds.
_LISTED = 10

_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
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
]

# Objects with pixels that describe another image rather than being one.
_DERIVED = {
    uid.SegmentationStorage,
    uid.SurfaceSegmentationStorage,
    uid.ParametricMapStorage,
    uid.RTDoseStorage,
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
}


@dataclass(frozen=True)
class ImageHeader:
    """The part of one DICOM image that decides where it belongs; lengths in mm, positions in LPS."""

    path: Path
    sop_uid: str
    sop_name: str
    series_uid: str
    series_number: int | None
    frame_of_reference: str
    modality: str | None
    rows: int
    columns: int
    frames: int
    photometric: str
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    imager_spacing: tuple[float, ...] | None
    thickness: float | None
    kind: str  # "image", or why it is not one to read

    @property
    def is_multiframe(self) -> bool:
        """Several frames, or an enhanced object whose geometry lies per frame."""
        return self.frames > 1 or "Enhanced" in self.sop_name or "Multi-frame" in self.sop_name


@dataclass(frozen=True)
class SeriesInfo:
    """One series to choose from.

    Attributes:
        number: place in the list, from 1; ``series="#1"`` chooses it.
        uid: SeriesInstanceUID.
        series_number: as shown on the scanner.
        modality: DICOM code.
        images: number of files.
        rows, columns: size of each.
        plane: anatomical name of the slices' orientation, None without one.
    """

    number: int
    uid: str
    series_number: int | None
    modality: str | None
    images: int
    rows: int
    columns: int
    plane: Plane | None

    def __str__(self) -> str:
        plane = f", {self.plane}" if self.plane else ""
        shown = "without number" if self.series_number is None else str(self.series_number)
        size = f"{self.images} × {self.columns}×{self.rows}"
        return f"#{self.number}: series {shown}, {self.modality or 'unknown modality'}, {size}{plane}"


@dataclass(frozen=True)
class Scan:
    """What was found: images by series, and what was left out and why."""

    groups: tuple[tuple[ImageHeader, ...], ...]
    dropped: Counter[str]
    notes: tuple[str, ...]

    def infos(self) -> list[SeriesInfo]:
        """The groups as a list to choose from."""
        return [_info(number, group) for number, group in enumerate(self.groups, start=1)]

    def dropped_in_words(self) -> list[str]:
        """One note for every kind of file that was left out."""
        return [f"left out: {count} × {kind}" for kind, count in sorted(self.dropped.items())]


def scan(source: Path | Iterable[Path]) -> Scan:
    """Read the headers of all files below a folder (or of the files given) and group the images.

    Images belong together when series, frame of reference, size and pixel spacing are equal and the
    orientation is equal to 1e-3.
    """
    paths = sorted(source.rglob("*")) if isinstance(source, Path) else list(source)
    dropped: Counter[str] = Counter()
    notes: list[str] = []
    images: list[ImageHeader] = []
    with collected_warnings(notes, "pydicom", "pydicom"):
        for path in paths:
            if not path.is_file():
                continue
            header = read_header(path) if is_format(path, "dicom") else "file that is not DICOM"
            if isinstance(header, ImageHeader) and header.kind == "image":
                images.append(header)
            else:
                kind = header.kind if isinstance(header, ImageHeader) else header
                dropped[kind or "damaged DICOM file"] += 1
    return Scan(tuple(_grouped(images)), dropped, tuple(notes))


def read_header(path: Path) -> ImageHeader | None:
    """The header of one DICOM file; None when it cannot be parsed."""
    try:
        check_deflated(path)
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        return _header(path, dataset)
    except InputError:
        raise
    except Exception:  # pydicom raises whatever the damaged bytes provoke
        return None


def check_deflated(path: Path) -> None:
    """Refuse a deflated file that would inflate beyond 4 GiB; others cost one look at the file meta."""
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
        return
    inflater, total = zlib.decompressobj(wbits=-zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        file.seek(144 + int(meta.FileMetaInformationGroupLength))  # preamble, DICM, group length element
        pending = file.read(1 << 16)
        while pending and not inflater.eof:
            total += len(inflater.decompress(pending, 1 << 24))
            if total > _MAX_INFLATED_BYTES:
                raise InputError(f"{path.name} must inflate to at most 4 GiB", "a decompression bomb")
            pending = inflater.unconsumed_tail or file.read(1 << 16)


def choose(found: Scan, series: str | int | None, name: str) -> tuple[ImageHeader, ...]:
    """The one group that ``series`` names: a SeriesInstanceUID, either end of it, a SeriesNumber, or ``#n``.

    A bare number that is no SeriesNumber counts as a place in the list.

    Raises:
        InputError: no image at all, several groups and no choice, or a choice that fits none or several.
    """
    infos = found.infos()
    if not infos:
        raise _nothing(found, name)
    more = f"; and {len(infos) - _LISTED} more" if len(infos) > _LISTED else ""
    listing = "; ".join(str(info) for info in infos[:_LISTED]) + more
    if series is None:
        if len(infos) > 1:
            raise InputError(
                f"{name} must hold one series of images, or one must be chosen",
                f"{len(infos)} groups ({listing})",
                "Choose one with series= (command line: --series), as a series number or as #1, #2, …",
            )
        return found.groups[0]
    matches = _matches(infos, str(series).strip())
    if len(matches) != 1:
        problem = "fits none" if not matches else f"fits {len(matches)}"
        raise InputError(
            f"The chosen series of {name} must be one of: {listing}",
            f"{series!s}, which {problem}",
            "Choose by place in the list: #1, #2, …",
        )
    return found.groups[matches[0].number - 1]


def _matches(infos: list[SeriesInfo], wanted: str) -> list[SeriesInfo]:
    if wanted.startswith("#"):
        return [info for info in infos if wanted[1:] == str(info.number)]
    by_uid = [info for info in infos if info.uid == wanted]
    by_number = [info for info in infos if wanted == str(info.series_number)]
    by_place = [info for info in infos if wanted == str(info.number)]
    ends = [i for i in infos if len(wanted) > 3 and (i.uid.startswith(wanted) or i.uid.endswith(wanted))]
    return by_uid or by_number or by_place or ends


def _nothing(found: Scan, name: str) -> InputError:
    given = "; ".join(found.dropped_in_words()) or "no file"
    do = "Give the folder of one series, or an image file by its own path"
    return InputError(f"{name} must contain DICOM images to read", given, do)


def _info(number: int, group: tuple[ImageHeader, ...]) -> SeriesInfo:
    first = group[0]
    plane = None
    if first.orientation is not None:
        normal = np.cross(first.orientation[:3], first.orientation[3:])
        by_axis: tuple[Plane, ...] = (PLANES[2], PLANES[1], PLANES[0])  # normal along x, y, z
        plane = by_axis[int(np.argmax(np.abs(normal)))]
    return SeriesInfo(
        number,
        first.series_uid,
        first.series_number,
        first.modality,
        len(group),
        first.rows,
        first.columns,
        plane,
    )


def _grouped(images: list[ImageHeader]) -> list[tuple[ImageHeader, ...]]:
    groups: list[list[ImageHeader]] = []
    for image in images:
        home = next((group for group in groups if _belongs(image, group[0])), None)
        if home is None:
            groups.append([image])
        else:
            home.append(image)
    ordered = sorted(groups, key=lambda g: (g[0].series_number or 0, g[0].series_uid, str(g[0].path)))
    return [tuple(group) for group in ordered]


def _belongs(image: ImageHeader, first: ImageHeader) -> bool:
    def key(h: ImageHeader) -> tuple[Any, ...]:
        return h.series_uid, h.frame_of_reference, h.rows, h.columns, h.pixel_spacing, h.is_multiframe

    if key(image) != key(first) or (image.orientation is None) != (first.orientation is None):
        return False
    if image.orientation is None or first.orientation is None:
        return True
    return bool(np.allclose(image.orientation, first.orientation, rtol=0, atol=_ORIENTATION_TOLERANCE))


def _header(path: Path, dataset: Any) -> ImageHeader:
    spacing = _numbers(dataset, "PixelSpacing", 2)
    thickness = _numbers(dataset, "SliceThickness", 1)
    sop_class = uid.UID(str(dataset.get("SOPClassUID", "")))
    return ImageHeader(
        path=path,
        sop_uid=str(dataset.get("SOPInstanceUID", "")),
        sop_name=sop_class.name,
        series_uid=str(dataset.get("SeriesInstanceUID", "")),
        series_number=_integer(dataset, "SeriesNumber"),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID", "")),
        modality=str(dataset.get("Modality") or "")[:16] or None,
        rows=_integer(dataset, "Rows") or 0,
        columns=_integer(dataset, "Columns") or 0,
        frames=_integer(dataset, "NumberOfFrames") or 1,
        photometric=str(dataset.get("PhotometricInterpretation", "")),
        orientation=_orientation(dataset),
        position=_numbers(dataset, "ImagePositionPatient", 3),
        pixel_spacing=spacing if spacing and min(spacing) > 0 else None,
        imager_spacing=_numbers(dataset, "ImagerPixelSpacing", 2),
        thickness=thickness[0] if thickness else None,
        kind=_kind(dataset, sop_class),
    )


def _kind(dataset: Any, sop_class: str) -> str:
    if not (_integer(dataset, "Rows") and _integer(dataset, "Columns")):
        return "DICOM object without an image"
    if sop_class in _DERIVED:
        return "derived object (segmentation, parametric map or dose)"
    image_type = dataset.get("ImageType") or []
    values = [image_type] if isinstance(image_type, str) else list(image_type)
    return "localizer" if "LOCALIZER" in values else "image"


def _orientation(dataset: Any) -> tuple[float, ...] | None:
    """Row and column direction as two orthogonal unit vectors, else None."""
    values = _numbers(dataset, "ImageOrientationPatient", 6)
    if values is None:
        return None
    row, column = np.array(values[:3]), np.array(values[3:])
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > 1e-2 or abs(float(row @ column)) > 1e-2:
        return None
    return tuple(float(x) for x in (*(row / lengths[0]), *(column / lengths[1])))


def _numbers(dataset: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """``count`` finite numbers, or None when the element is absent, empty or not that."""
    try:
        values = tuple(float(x) for x in np.atleast_1d(dataset.get(keyword)))
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _integer(dataset: Any, keyword: str) -> int | None:
    try:
        return int(dataset.get(keyword))
    except (TypeError, ValueError):
        return None
