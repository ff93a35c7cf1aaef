"""The DICOM objects in a result folder, as an archive will know them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from headclip_med.base.errors import InputError
from headclip_med.pacs.archive import StoredFile
from headclip_med.reading.content import existing_path

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


def dicom_objects(source: str | Path) -> list[StoredFile]:
    """Every ``.dcm`` file in a folder at any depth, without hidden ones; or the one file.

    Raises:
        InputError: nothing of that name, or a file that is no DICOM object with its UIDs.
    """
    path = existing_path(source)
    return [_stored_file(found) for found in (_files(path) if path.is_dir() else [path])]


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.dcm")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _stored_file(path: Path) -> StoredFile:
    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(_UIDS))
        study, series, uid, sop_class = (str(header[keyword].value) for keyword in _UIDS)
        return StoredFile(path, study, series, uid, sop_class, str(header.file_meta.TransferSyntaxUID))
    except (InvalidDicomError, OSError, KeyError, AttributeError, ValueError, NotImplementedError) as problem:
        raise InputError(
            f"{path.name} must be a DICOM object with its UIDs", "something else", "Leave it out of the folder"
        ) from problem
