"""Our objects → an archive: each of them once, whatever breaks in between."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from headclip_med.base.errors import HeadclipError, InputError
from headclip_med.base.files import RECORD_NAME, atomic_path, remove_file
from headclip_med.cohort.pacs.access import Access
from headclip_med.cohort.pacs.address import Address, parse_service
from headclip_med.cohort.pacs.archive import Archive, PacsUnavailableError, StoredFile
from headclip_med.cohort.pacs.open import open_archive
from headclip_med.cohort.pacs.retry import Retry
from headclip_med.reading.content import existing_path

QUEUE_NAME = "push-queue.json"
QUEUE_SCHEMA = "headclip_med.push_queue/1"


Progress = Callable[[int, int], None]  # objects there, objects in all
Bar = Callable[[str, int], AbstractContextManager[Progress]]  # where to, how many objects
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


@dataclass(frozen=True)
class Waiting:
    """A file that waits for an archive: its place below the result folder, the archive, why it is not there yet."""

    file: str
    archive: str
    reason: str = "not sent yet"


class PushQueue:
    """``push-queue.json`` in the folder of results; absent while nothing waits. Holds no UID and no secret."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / QUEUE_NAME
        self._waiting = {(entry.file, entry.archive): entry for entry in self._read()}

    @property
    def waiting(self) -> list[Waiting]:
        """All entries, by archive and file."""
        return sorted(self._waiting.values(), key=lambda entry: (entry.archive, entry.file))

    @property
    def archives(self) -> list[str]:
        """Addresses that something waits for."""
        return sorted({entry.archive for entry in self._waiting.values()})

    def add(self, files: Iterable[Path], archive: str) -> None:
        """Let files wait; those that do already keep their reason."""
        for file in files:
            name = self._name(file)
            self._waiting.setdefault((name, archive), Waiting(name, archive))
        self._write()

    def done(self, file: Path, archive: str) -> None:
        """A file is in the archive."""
        if self._waiting.pop((self._name(file), archive), None) is not None:
            self._write()

    def failed(self, file: Path, archive: str, reason: str) -> None:
        """A file was refused, and why."""
        name = self._name(file)
        self._waiting[name, archive] = Waiting(name, archive, reason)
        self._write()

    def forget_missing(self) -> int:
        """Drop entries whose file is gone, as after a rerun with other formats; how many."""
        gone = [key for key, entry in self._waiting.items() if not (self.folder / entry.file).is_file()]
        for key in gone:
            del self._waiting[key]
        if gone:
            self._write()
        return len(gone)

    def _name(self, file: Path) -> str:
        return file.resolve().relative_to(self.folder.resolve()).as_posix()

    def _read(self) -> list[Waiting]:
        if not self.path.exists():
            return []
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            if record["schema_version"] != QUEUE_SCHEMA:
                raise ValueError
            entries = [Waiting(str(e["file"]), str(e["archive"]), str(e["reason"])) for e in record["waiting"]]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise InputError(
                f"{QUEUE_NAME} must be a queue that headclip-med wrote",
                "something else",
                "Move it away: a push sends whatever the archive does not hold",
            ) from problem
        return [entry for entry in entries if not Path(entry.file).is_absolute() and ".." not in Path(entry.file).parts]

    def _write(self) -> None:
        if not self._waiting:
            remove_file(self.path)
            return
        entries = [{"file": e.file, "archive": e.archive, "reason": e.reason} for e in self.waiting]
        text = json.dumps({"schema_version": QUEUE_SCHEMA, "waiting": entries}, indent=2, ensure_ascii=False) + "\n"
        with atomic_path(self.path) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")


def targets_of(results: Path, address: str | None) -> list[Address]:
    """The archive that is named, or all that the queue names.

    Raises:
        InputError: an address with UIDs, no such results, nothing that waits.
    """
    existing_path(results)
    if address is not None:
        return [parse_service(address, "The archive to push to")]
    named = PushQueue(queue_folder(results)).archives
    if not named:
        raise InputError(
            "The archive must be named where nothing waits for one",
            f"no {QUEUE_NAME}",
            "Give its address after the folder",
        )
    return [parse_service(text) for text in named]


def push_results(results: Path, target: Address, bar: Bar | None = None) -> PushOutcome:
    """Push every DICOM object in a folder (or the one file); see :func:`push_files`.

    Raises:
        InputError: a file that is no DICOM object, or none at all.
    """
    files, queue = dicom_objects(results), PushQueue(queue_folder(results))
    queue.forget_missing()
    if not files:
        raise InputError(f"{results.name} must hold DICOM objects", "none", "Predict with --format seg,pm,sr,sc")
    with (bar or _no_bar)(target.service, len(files)) as progress:
        return push_kept(files, queue, target, progress)


def push_kept(files: list[StoredFile], queue: PushQueue, target: Address, progress: Progress | None) -> PushOutcome:
    """Push files; an archive that refuses or is away is an outcome, not an error, and everything left stays queued."""
    access = Access.from_environment()
    try:
        archive = open_archive(target, access)
        return push_files(archive, target.service, files, queue, Retry(access.attempts), progress)
    except HeadclipError as error:
        waiting = sum(entry.archive == target.service for entry in queue.waiting)
        return PushOutcome(0, len(files) - waiting, (), waiting, str(error))


def queue_folder(results: Path) -> Path:
    """The folder of results that a case's folder or a file lies in: there is one queue for all cases."""
    folder = results.resolve() if results.is_dir() else results.resolve().parent
    return folder.parent if (folder / RECORD_NAME).exists() else folder


def push_problems(made: PushOutcome, again: str) -> list[str]:
    """What to say about objects that are not in the archive, and how to finish."""
    said = [f"the archive must take {name}; it said: {reason}." for name, reason in made.refused]
    if made.waiting:
        said.append(f"{made.error} {made.waiting} object(s) wait in {QUEUE_NAME}; finish with: {again}")
    return said


def push_json(made: PushOutcome) -> dict[str, Any]:
    """An outcome as JSON values."""
    return {
        "stored": made.stored,
        "already_there": made.there,
        "refused": dict(made.refused),
        "waiting": made.waiting,
        "error": made.error,
    }


def _no_bar(service: str, total: int) -> AbstractContextManager[Progress]:
    return nullcontext(lambda done, of: None)


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


@dataclass(frozen=True)
class PushOutcome:
    """What became of some objects.

    Attributes:
        stored: sent and confirmed now; there: the archive held them already.
        refused: file names with the archive's reason; error: why the rest waits, None where nothing does.
    """

    stored: int
    there: int
    refused: tuple[tuple[str, str], ...]
    waiting: int
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the archive holds everything."""
        return not self.refused and not self.waiting


def push_files(
    archive: Archive,
    address: str,
    files: Sequence[StoredFile],
    queue: PushQueue,
    retry: Retry | None = None,
    progress: Progress | None = None,
) -> PushOutcome:
    """Store the files that the archive does not hold yet; the queue knows the rest at every moment.

    An object is known by its SOPInstanceUID, and ours is the same in every rerun: asking first makes a push idempotent.

    Args:
        address: of the archive, without UIDs, for the queue.

    Raises:
        PacsError: the archive refuses us altogether; everything waits then. OutputError: the queue cannot be written.
    """
    queue.add((file.path for file in files), address)
    push = _Push(archive, address, list(files), queue, progress)
    error = None
    try:
        (retry or Retry()).call(push.run, push.has_moved)
    except PacsUnavailableError as problem:
        error = str(problem)
    return PushOutcome(push.stored, push.there, tuple(push.refused.items()), len(push.left), error)


class _Push:
    """A push on its way."""

    def __init__(
        self, archive: Archive, address: str, files: list[StoredFile], queue: PushQueue, progress: Progress | None
    ) -> None:
        self.archive, self.address, self.queue, self.progress = archive, address, queue, progress
        self.left, self.total = files, len(files)
        self.stored = self.there = self._before = 0
        self.refused: dict[str, str] = {}

    def run(self) -> None:
        """One attempt at everything that is left."""
        self._tell()
        held = {
            found.uid
            for study, series in sorted({(file.study, file.series) for file in self.left})
            for found in self.archive.instances(study, series)
        }
        for file in [file for file in self.left if file.uid in held]:
            self.there += 1
            self._finish(file)
        self.archive.store(list(self.left), self._told)

    def has_moved(self) -> bool:
        """Whether anything was done since the last question."""
        before, self._before = self._before, len(self.left)
        return len(self.left) < (before or self.total)

    def _told(self, file: StoredFile, reason: str | None) -> None:
        if reason is None:
            self.stored += 1
            self._finish(file)
            return
        self.refused[file.path.name] = reason
        self.left.remove(file)
        self.queue.failed(file.path, self.address, reason)
        self._tell()

    def _finish(self, file: StoredFile) -> None:
        self.left.remove(file)
        self.queue.done(file.path, self.address)
        self._tell()

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(self.total - len(self.left), self.total)
