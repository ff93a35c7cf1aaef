"""Where pulled instances lie: one file each, whole or not there, readable by their owner only."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pydicom import dcmread
from pydicom.dataelem import RawDataElement

from headclip_med.base.errors import OutputError
from headclip_med.base.files import atomic_path, check_writable
from headclip_med.pacs.archive import pseudonym
from headclip_med.pacs.problems import PacsError, PacsUnavailableError
from headclip_med.reading.dicom.header import check_deflated

_ENDING = ".dcm"
_UNDEFINED_LENGTH = 0xFFFFFFFF


class SeriesSpool:
    """The folder of one series; file names are hashes of the UIDs, as a UID leads to the patient."""

    def __init__(self, folder: Path, study: str, series: str) -> None:
        self.folder, self.study, self.series = folder, study, series

    def open(self) -> None:
        """Make the folder, for its owner alone.

        Raises:
            OutputError: it is a link or a file, or cannot be made.
        """
        private_folder(self.folder.parent)
        private_folder(self.folder)
        with suppress(OSError):  # a share that knows no permissions
            self.folder.chmod(0o700)

    def has(self, uid: str) -> bool:
        """Whether the instance is there; it is whole then."""
        return self._path(uid).is_file()

    def keep(self, uid: str, content: bytes) -> None:
        """Write an instance.

        Raises:
            PacsError: it is another one than asked for, or no DICOM at all; PacsUnavailableError: it is cut off.
            OutputError: it cannot be written.
        """
        with atomic_path(self._path(uid)) as draft:
            draft.write_bytes(content)
            _check_file(draft, (self.study, self.series, uid))

    def drop_others(self, uids: Iterable[str]) -> None:
        """Remove what is not among ``uids``: an archive may have replaced or withdrawn instances since."""
        kept = {self._path(uid).name for uid in uids}
        for path in self.folder.iterdir():
            if path.name not in kept and (path.suffix == _ENDING or path.name.startswith(".headclip-")):
                path.unlink(missing_ok=True)

    def _path(self, uid: str) -> Path:
        return self.folder / f"{pseudonym(uid, 'image')}{_ENDING}"


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner can enter; one that is there already keeps its permissions.

    Raises:
        OutputError: it is a link, or cannot be made or written to.
    """
    if folder.is_symlink():
        raise OutputError(f"The spool folder '{folder.name}' must be a folder", "a link", "Choose another with --spool")
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True)
    check_writable(folder)  # says in words what is wrong


def remove_spool(folder: Path) -> None:
    """Remove the folder of a series, and the one above it once it is empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


def _check_file(path: Path, wanted: tuple[str, str, str]) -> None:
    """Refuse what is no DICOM file, is another instance, or ends within an element."""
    keywords = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    try:
        check_deflated(path)
        header = dcmread(path, stop_before_pixels=True, specific_tags=keywords)
        found = tuple(str(header.get(keyword, "")) for keyword in keywords)
        is_whole = _is_whole(path)
    except Exception as problem:  # whatever foreign bytes provoke
        given = f"{path.stat().st_size} bytes of something else"
        raise PacsError("The archive must send DICOM files", given, "Ask its administrator") from problem
    if found != wanted:
        raise PacsError("The archive must send the instance that was asked for", "another one", "Ask its administrator")
    if not is_whole:
        raise PacsUnavailableError("The archive must send whole files", "one that is cut off", "Try again")


def _is_whole(path: Path) -> bool:
    """Whether the last element is as long as it says; pydicom reads a shorter one without a word."""
    dataset = dcmread(path)
    last = dataset.get_item(max(dataset.keys()))
    if not isinstance(last, RawDataElement) or last.length == _UNDEFINED_LENGTH:
        return True  # an undefined length ends in a delimiter, which pydicom misses loudly
    return len(last.value or b"") == last.length
