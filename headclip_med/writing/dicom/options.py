"""Which DICOM objects there are, and what can be asked of them. Importing this needs no highdicom."""

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
        keep_empty_frames: A segmentation has a frame for every source frame and segment, not only for those with
            a voxel in it. Some viewers need that.
        deidentify: Write objects without the patient, see :mod:`headclip_med.writing.dicom.deidentify`.
        captures: At most so many secondary captures, of the most suspicious slices. 0: every slice but background.
    """

    keep_empty_frames: bool = False
    deidentify: bool = False
    captures: int = 8


def wanted_kinds(formats: Sequence[str]) -> tuple[str, ...]:
    """List the objects that formats ask for. A report brings the segmentation that it refers to.

    Args:
        formats: Names, of which those that are no DICOM format are ignored.

    Returns:
        Some of :data:`DICOM_KINDS`, in order of writing.
    """
    named = set(formats) | (set(_OF_SHORTHAND) if SHORTHAND in formats else set())
    if "sr" in named:
        named.add("seg")
    return tuple(kind for kind in DICOM_KINDS if kind in named)


def check_dicom_extra(formats: Sequence[str]) -> None:
    """Refuse DICOM formats where highdicom is not installed.

    Args:
        formats: Names, of which those that are no DICOM format are ignored.

    Raises:
        MissingExtraError: highdicom is needed and not there.
    """
    kinds = wanted_kinds(formats)
    if kinds and find_spec("highdicom") is None:
        raise MissingExtraError(
            f"The formats {', '.join(kinds)} need highdicom", "not installed", "Run: pip install 'headclip-med[dicom]'"
        )


def check_dicom_source(source: object, formats: Sequence[str]) -> None:
    """Refuse a source that is certainly not DICOM, before anything is computed.

    Args:
        source: A path, or a list of them. Files are identified by their content. Archives, folders,
            arrays, and files that cannot be identified pass.
        formats: Names, of which those that are no DICOM format are ignored.

    Raises:
        OutputError: DICOM formats for a file of another format.
    """
    kinds = wanted_kinds(formats)
    if not kinds:
        return
    found = _not_dicom(source)
    if found:
        raise OutputError(f"The formats {', '.join(kinds)} must be made from a DICOM source", found, _NO_DICOM)


def check_dicom_meta(source_format: str | None, formats: Sequence[str]) -> None:
    """Refuse a volume that was not read from DICOM.

    Args:
        source_format: What the volume's metadata say, None where they do not.
        formats: Names, of which those that are no DICOM format are ignored.

    Raises:
        OutputError: DICOM formats for a volume of another or an unknown format.
    """
    if wanted_kinds(formats) and source_format != "dicom":
        found = source_format or "unknown format"
        raise OutputError(
            f"The formats {', '.join(wanted_kinds(formats))} must be made from a DICOM source", found, _NO_DICOM
        )


def _not_dicom(source: object) -> str | None:
    """What a source is when it is a file of another format. None: DICOM, or not known yet."""
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
