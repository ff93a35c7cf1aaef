"""One source file's header → a plain header that objects can be derived from, and the place of one of its frames."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset
from pydicom.charset import default_encoding
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.uid import UID
from pydicom.valuerep import DA, TM

from headclip_med.reading.dicom.values import integer, numbers
from headclip_med.writing.dicom.uids import derived_uid

# Type 2 of the patient and study modules: must be there, may be empty.
_TYPE_2 = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_SEXES = ("M", "F", "O")


def _date(value: Any) -> str:
    """``YYYYMMDD``, also from the older form with dots, or an empty text. ``ValueError`` for anything else."""
    text = str(value or "").replace(".", "").strip()
    DA(text)
    return text


def _time(value: Any) -> str:
    """``HHMMSS.FFF``, also from the older form with colons, or an empty text. ``ValueError`` for anything else."""
    text = str(value or "").replace(":", "").strip()
    TM(text)
    return text


# Value representations with a form that highdicom insists on.
_MOMENTS = {"DA": _date, "TM": _time}

# Pixels in any form, waveforms, and what only the scanner's own software reads.
_BULK_VRS = ("OB", "OW", "OF", "OD", "OL", "OV", "UN")
_LEFT_OUT = (
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationSequence",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "ContributingEquipmentSequence",
)


@dataclass(frozen=True)
class FrameGeometry:
    """Where one frame lies in the patient.

    Attributes:
        orientation: Unit vectors along a row and along a column, LPS, six numbers.
        position: LPS mm of the centre of the first pixel.
        spacing: Distance of rows and of columns, mm.
        thickness: Of the slice, mm, 0 where the header has none.
    """

    orientation: tuple[float, ...]
    position: tuple[float, ...]
    spacing: tuple[float, float]
    thickness: float

    @property
    def to_lps(self) -> NDArray[np.float64]:
        """(column, row, 1) → LPS mm, ``(3, 3)``."""
        along, down = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        return np.column_stack([along * self.spacing[1], down * self.spacing[0], np.array(self.position)])


def clean_header(source: Dataset) -> Dataset:
    """Copy what can be read and written again of a header, little-endian.

    At its top level damaged values, private attributes, bulk data, and what says where frames lie are left out.
    Always there are the type 2 attributes of patient and study, which may be empty, the modality, and UIDs of study and
    series, which are derived where the source has none.

    Args:
        source: Header of a file, which stays as it is.

    Returns:
        The header without pixels.
    """
    header = Dataset()
    for tag in list(source.keys()):
        element = _sound(source, tag)
        if element is not None and element.keyword not in _LEFT_OUT:
            header.add(element)
    for keyword in _TYPE_2:
        if keyword not in header or header[keyword].value is None:
            setattr(header, keyword, "")
    if header.PatientSex not in _SEXES:
        header.PatientSex = ""
    methods = (header.get("DeidentificationMethod"), header.get("DeidentificationMethodCodeSequence"))
    if header.get("PatientIdentityRemoved") == "YES" and not any(methods):
        header.DeidentificationMethod = "not stated by the source"
    if not header.get("SeriesInstanceUID"):
        header.SeriesInstanceUID = derived_uid("series", str(header.get("SOPInstanceUID", "")))
    if not header.get("StudyInstanceUID"):
        header.StudyInstanceUID = derived_uid("study", str(header.SeriesInstanceUID))
    header.Modality = str(header.get("Modality") or "OT")
    return header


def is_multiframe(source: Dataset) -> bool:
    """Tell whether references to an image must name frames.

    Args:
        source: Header of the file.

    Returns:
        True for several frames, and for one frame of an enhanced or multi-frame class.
    """
    name = UID(str(source.get("SOPClassUID", ""))).name
    return (integer(source, "NumberOfFrames") or 1) > 1 or "Enhanced" in name or "Multi-frame" in name


def frame_geometry(source: Dataset, number: int) -> FrameGeometry | None:
    """Find the place of a frame, from functional groups or else from the header itself.

    Args:
        source: Header of the file.
        number: Of the frame, from 0.

    Returns:
        The place, None where there is no usable position, orientation or spacing.
    """
    groups = [*_groups(source, "PerFrameFunctionalGroupsSequence", number)]
    groups += _groups(source, "SharedFunctionalGroupsSequence", 0)
    orientation = _numbers(source, groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    position = _numbers(source, groups, "PlanePositionSequence", "ImagePositionPatient", 3)
    spacing = _numbers(source, groups, "PixelMeasuresSequence", "PixelSpacing", 2)
    thickness = _numbers(source, groups, "PixelMeasuresSequence", "SliceThickness", 1)
    unit = None if orientation is None else _unit(orientation)
    if unit is None or position is None or spacing is None or min(spacing) <= 0:
        return None
    return FrameGeometry(unit, position, (spacing[0], spacing[1]), max(0.0, thickness[0]) if thickness else 0.0)


def _unit(orientation: tuple[float, ...]) -> tuple[float, ...] | None:
    """Row and column direction at exactly unit length and right angles, as few stored digits leave them a bit off.

    None where they are off by more than 1e-2.
    """
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > 1e-2 or abs(float(row @ column)) > 1e-2:
        return None
    row = row / lengths[0]
    column = column - (row @ column) * row
    return tuple(float(v) for v in (*row, *(column / np.linalg.norm(column))))


def _groups(source: Dataset, keyword: str, number: int) -> list[Dataset]:
    sequence = source.get(keyword) or []
    return [sequence[number]] if number < len(sequence) else []


def _numbers(
    source: Dataset, groups: list[Dataset], sequence: str, keyword: str, count: int
) -> tuple[float, ...] | None:
    for place in [*(item for group in groups for item in group.get(sequence) or []), source]:
        found = numbers(place, keyword, count)
        if found is not None:
            return found
    return None


def _sound(source: Dataset, tag: Any) -> DataElement | None:
    """The element where it can be decoded and written again, else None."""
    try:
        element = copy(source[tag])
        if element.VR in _MOMENTS:
            element.value = _MOMENTS[element.VR](element.value)
        if element.tag.is_private or element.VR in _BULK_VRS or not element.keyword:
            return None
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, element, [default_encoding] if _is_ascii(element) else _encodings(source))
        return element
    except Exception:  # pydicom raises whatever the damaged value provokes
        return None


def _is_ascii(element: DataElement) -> bool:
    return str(element.value).isascii()


def _encodings(source: Dataset) -> list[str]:
    from pydicom.charset import convert_encodings

    return convert_encodings(source.get("SpecificCharacterSet") or "ISO_IR 6")
