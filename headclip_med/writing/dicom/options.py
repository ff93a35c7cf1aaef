"""Which DICOM objects there are, and what can be asked of them; importing this needs no highdicom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from headclip_med.base.errors import InputError, MissingExtraError, OutputError

DICOM_KINDS = ("seg", "segscore", "pm", "sr", "sc")
SHORTHAND = "dicom"
_OF_SHORTHAND = ("seg", "pm", "sr", "sc")
DICOM_FORMATS = (*DICOM_KINDS, SHORTHAND)

NAMES = {"seg": "seg.dcm", "segscore": "seg_score.dcm", "pm": "pm.dcm", "sr": "sr.dcm"}

_NO_DICOM = "Give the DICOM series itself, or leave these formats out"


@dataclass(frozen=True)
class DicomOptions:
    """How DICOM objects are written.

    Attributes:
        keep_empty_frames: a segmentation has a frame for every source frame and segment, not only for those with
            a voxel in it; some viewers need that.
        deidentify: see :mod:`headclip_med.writing.dicom.deidentify`.
        captures: at most so many secondary captures, the most suspicious slices; 0: every slice.
    """

    keep_empty_frames: bool = False
    deidentify: bool = False
    captures: int = 8


def wanted_kinds(formats: Sequence[str]) -> tuple[str, ...]:
    """The objects that ``formats`` ask for, in order of writing; a report brings the segmentation it refers to."""
    named = set(formats) | (set(_OF_SHORTHAND) if SHORTHAND in formats else set())
    if "sr" in named:
        named.add("seg")
    return tuple(kind for kind in DICOM_KINDS if kind in named)


def check_dicom_extra(formats: Sequence[str]) -> None:
    """Raise :class:`MissingExtraError` where DICOM is asked for and highdicom is not installed."""
    kinds = wanted_kinds(formats)
    if kinds and find_spec("highdicom") is None:
        raise MissingExtraError(
            f"The formats {', '.join(kinds)} need highdicom", "not installed", "Run: pip install 'headclip-med[dicom]'"
        )


def check_dicom_source(source: object, formats: Sequence[str]) -> None:
    """Refuse a source that is certainly not DICOM, before anything is computed; files are only looked into.

    Raises:
        OutputError: DICOM formats for a file of another format, or for an array.
    """
    kinds = wanted_kinds(formats)
    if not kinds:
        return
    found = _not_dicom(source)
    if found:
        raise OutputError(f"The formats {', '.join(kinds)} must be made from a DICOM source", found, _NO_DICOM)


def check_dicom_meta(source_format: str | None, formats: Sequence[str]) -> None:
    """The same for a volume that has been read: ``source_format`` of its metadata."""
    if wanted_kinds(formats) and source_format != "dicom":
        found = source_format or "unknown format"
        raise OutputError(
            f"The formats {', '.join(wanted_kinds(formats))} must be made from a DICOM source", found, _NO_DICOM
        )


def _not_dicom(source: object) -> str | None:
    """What a source is when it is a file of another format; None: DICOM, or not known yet."""
    from headclip_med.reading.content import identify

    if isinstance(source, (list, tuple)):
        return next((found for found in map(_not_dicom, source) if found), None)
    if not isinstance(source, (str, Path)) or not Path(source).is_file():
        return None
    try:
        found = identify(Path(source))
    except InputError:
        return None  # reading says what is wrong
    return None if found in ("dicom", "zip") else found  # an archive may hold a series
