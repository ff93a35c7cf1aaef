"""Pull a series of an archive into a folder: resumable, and complete or an error."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from pydicom import dcmread
from pydicom.dataelem import RawDataElement

from headclip_med.base.errors import CancelledError, InputError, OutputError
from headclip_med.base.files import RECORD_NAME, atomic_path, check_writable, write_text
from headclip_med.cohort.pacs.archive import (
    DEFAULT_ATTEMPTS,
    Archive,
    InstanceFound,
    PacsError,
    PacsUnavailableError,
    Progress,
    pseudonym,
    with_retries,
)
from headclip_med.reading.dicom.header import check_deflated

Cancel = Callable[[], bool]
PULLED_NAME = "pacs-pulled.json"
_ENDING = ".dcm"
_UNDEFINED_LENGTH = 0xFFFFFFFF
_SCHEMA = "headclip_med.pulled/1"
_MOST_LISTINGS = 5  # a series that grows meanwhile is followed that often


class SeriesSpool:
    """Keeps one series in a folder. File names are hashes of the UIDs, as a UID leads to the patient.

    Args:
        folder: where to, made by :meth:`open`.
        study, series: UIDs.
    """

    def __init__(self, folder: Path, study: str, series: str) -> None:
        self.folder, self.study, self.series = folder, study, series

    def open(self) -> None:
        """Make the folder, for its owner alone.

        Raises:
            OutputError: it is a link or a file, or cannot be made.
        """
        _private_folder(self.folder.parent)
        _private_folder(self.folder)
        with suppress(OSError):  # a share that knows no permissions
            self.folder.chmod(0o700)

    def has(self, uid: str) -> bool:
        """Tell whether an instance is there, which is whole then.

        Args:
            uid: SOPInstanceUID.

        Returns:
            True where its file exists.
        """
        return self._path(uid).is_file()

    def keep(self, uid: str, content: bytes) -> None:
        """Write an instance, whole or not at all.

        Args:
            uid: SOPInstanceUID that was asked for.
            content: the whole file.

        Raises:
            PacsError: it is another one than asked for, or no DICOM at all.
            PacsUnavailableError: it is cut off.
            OutputError: it cannot be written.
        """
        with atomic_path(self._path(uid)) as draft:
            draft.write_bytes(content)
            _check_file(draft, (self.study, self.series, uid))

    def drop_others(self, uids: Iterable[str]) -> None:
        """Remove what an archive has replaced or withdrawn since.

        Args:
            uids: SOPInstanceUIDs that stay.
        """
        kept = {self._path(uid).name for uid in uids}
        for path in self.folder.iterdir():
            if path.name not in kept and (path.suffix == _ENDING or path.name.startswith(".headclip-")):
                path.unlink(missing_ok=True)

    def _path(self, uid: str) -> Path:
        return self.folder / f"{pseudonym(uid, 'image')}{_ENDING}"


def _private_folder(folder: Path) -> None:
    """Make a folder that only its owner can enter; one that is there already keeps its permissions."""
    if folder.is_symlink():
        raise OutputError(f"The spool folder '{folder.name}' must be a folder", "a link", "Choose another with --spool")
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True)
    check_writable(folder)  # says in words what is wrong


def remove_spool(folder: Path) -> None:
    """Remove the folder of a series, and the one above it once it is empty.

    Args:
        folder: of the series, which need not be there.
    """
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


class PulledCases:
    """Remembers in ``pacs-pulled.json`` hashes of instances and content by case. A damaged file counts as none.

    An instance never changes under its UID (PS3.5 §9), so that equal UIDs mean equal content.

    Args:
        folder: of the results.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / PULLED_NAME
        self._cases: dict[str, dict[str, str]] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(self.path.read_text(encoding="utf-8"))
            if record["schema_version"] == _SCHEMA:
                self._cases = {str(name): dict(facts) for name, facts in record["cases"].items()}

    def content_of(self, name: str, uids: Iterable[str]) -> str | None:
        """Give the hash of a case's content if it was made from exactly these instances, else None.

        Args:
            name: Of the case.
            uids: SOPInstanceUIDs, in any order.

        Returns:
            The hash of their content, None where that is not known.
        """
        facts = self._cases.get(name, {})
        known = facts.get("instances_sha256") == _fingerprint(pseudonym(uid, "image") for uid in uids)
        return facts.get("content_sha256") if known else None

    def remember(self, name: str, spool: Path, result: Path) -> None:
        """Note a finished case, unless its record or its images are gone.

        Args:
            name: of the case.
            spool: folder of its images.
            result: folder of its results.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            content = json.loads((result / RECORD_NAME).read_text(encoding="utf-8"))["source"]["content_sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if not isinstance(content, str) or not spool.is_dir():
            return
        instances = _fingerprint(path.stem for path in spool.glob("*.dcm"))
        self._cases[name] = {"instances_sha256": instances, "content_sha256": content}
        text = json.dumps({"schema_version": _SCHEMA, "cases": self._cases}, indent=2) + "\n"
        write_text(self.path, text)


def _fingerprint(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def pull_series(
    archive: Archive,
    study: str,
    series: str,
    folder: Path,
    attempts: int = DEFAULT_ATTEMPTS,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> int:
    """Fetch every instance that the archive lists into ``folder``. Those that are there already stay.

    Args:
        archive: that has it.
        study, series: UIDs.
        folder: where to, made for its owner alone.
        attempts: how often a silent or busy archive is asked without progress.
        progress: told after each instance.
        cancel: asked before each instance whether to stop.

    Returns:
        How many instances the series has.

    Raises:
        InputError: the archive knows no such series.
        PacsError: it refuses, is away for longer than ``attempts`` allow, or the series never stops growing.
        OutputError: the folder cannot be written to.
        CancelledError: ``cancel`` said so. What was fetched stays for the next attempt, as with every error.
    """
    spool = SeriesSpool(folder, study, series)
    spool.open()
    for _ in range(_MOST_LISTINGS):
        listed = with_retries(lambda: archive.instances(study, series), attempts)
        if not listed:
            raise InputError(
                "The study and series must be in the archive",
                "none of these UIDs",
                "See what is there: headclip-med pacs find",
            )
        spool.drop_others(instance.uid for instance in listed)
        pull = _Pull(archive, spool, listed, progress, cancel)
        if not pull.missing():
            pull.tell()
            return len(listed)
        pull.run(attempts)
    raise PacsError("The series must be complete before it is pulled", "it keeps growing", "Try again later")


class _Pull:
    """One listing of a series and what is missing of it."""

    def __init__(
        self,
        archive: Archive,
        spool: SeriesSpool,
        listed: list[InstanceFound],
        progress: Progress | None,
        cancel: Cancel | None,
    ) -> None:
        self.archive, self.spool, self.listed = archive, spool, listed
        self.progress, self.cancel = progress, cancel
        self.there = len(listed) - len(self.missing())

    def missing(self) -> list[InstanceFound]:
        return [instance for instance in self.listed if not self.spool.has(instance.uid)]

    def run(self, attempts: int) -> None:
        before = self.there

        def has_moved() -> bool:
            nonlocal before
            moved, before = self.there > before, self.there
            return moved

        try:
            with_retries(self._fetch, attempts, has_moved)
        except PacsUnavailableError as problem:
            done = f"{self.there} of {len(self.listed)} instances are there and stay; run the same command again"
            raise PacsUnavailableError(problem.must, problem.given, f"{problem.do}; {done}") from problem

    def _fetch(self) -> None:
        self.tell()
        self.archive.fetch(self.spool.study, self.spool.series, self.missing(), self._keep)
        if left := len(self.missing()):
            raise PacsUnavailableError("The archive must send every instance it lists", f"{left} did not come")

    def _keep(self, uid: str, content: bytes) -> None:
        if self.spool.has(uid):
            return
        self.spool.keep(uid, content)
        self.there += 1
        self.tell()

    def tell(self) -> None:
        """Progress, and the question whether to go on."""
        if self.cancel is not None and self.cancel():
            raise CancelledError("The pull must run to its end", "a cancel", "What was pulled stays")
        if self.progress is not None:
            self.progress(self.there, len(self.listed))
