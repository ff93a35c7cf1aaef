"""Push our objects to an archive: each of them once, whatever breaks in between.

What the archive holds is asked before every attempt, so that no list of what waits has to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from headclip_med.base.errors import InputError
from headclip_med.cohort.pacs.archive import (
    DEFAULT_ATTEMPTS,
    Archive,
    PacsError,
    Progress,
    StoredFile,
    with_retries,
)
from headclip_med.reading.content import existing_path

Bar = Callable[[int], AbstractContextManager[Progress]]  # how many objects
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


@dataclass(frozen=True)
class PushOutcome:
    """What became of some objects.

    Attributes:
        stored: sent and confirmed now.
        there: the archive held them already.
        refused: file names with the archive's reason.
        waiting: how many are not in the archive yet and were not refused.
        error: why they wait, None where nothing does.
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


def push_results(
    archive: Archive, results: Path, attempts: int = DEFAULT_ATTEMPTS, bar: Bar | None = None
) -> PushOutcome:
    """Push every DICOM object in a folder, or the one file.

    Args:
        archive: where to.
        results: a folder, searched at any depth, or a file.
        attempts: see :func:`push_files`.
        bar: shows the progress.

    Returns:
        What became of the objects.

    Raises:
        InputError: a file that is no DICOM object, or none at all.
    """
    files = dicom_objects(results)
    if not files:
        raise InputError(f"{results.name} must hold DICOM objects", "none", "Predict with --format seg,pm,sr,sc")
    with bar(len(files)) if bar else nullcontext() as progress:
        return push_files(archive, files, attempts, progress)


def push_files(
    archive: Archive, files: Sequence[StoredFile], attempts: int = DEFAULT_ATTEMPTS, progress: Progress | None = None
) -> PushOutcome:
    """Store the files that the archive does not hold yet.

    An object is known by its SOPInstanceUID, and ours is the same in every rerun: asking first makes a push idempotent.

    Args:
        archive: where to.
        files: what it should hold.
        attempts: how often a silent or busy archive is asked without progress.
        progress: told after each object.

    Returns:
        What became of the files. An archive that refuses or is away is an outcome, not an error.
    """
    push = _Push(archive, files, progress)
    try:
        with_retries(push.run, attempts, push.has_moved)
    except PacsError as problem:
        return push.outcome(str(problem))
    return push.outcome()


def push_problems(made: PushOutcome, again: str) -> list[str]:
    """Say what is not in the archive, and how to finish.

    Args:
        made: what became of the objects.
        again: the command that sends the rest.

    Returns:
        Sentences, none where all is well.
    """
    said = [f"the archive must take {name}; it said: {reason}." for name, reason in made.refused]
    if made.waiting:
        said.append(f"{made.error} {made.waiting} object(s) are not there yet; finish with: {again}")
    return said


def push_json(made: PushOutcome) -> dict[str, Any]:
    """Put an outcome as JSON values.

    Args:
        made: What became of the objects.

    Returns:
        Plain JSON values.
    """
    return {
        "stored": made.stored,
        "already_there": made.there,
        "refused": dict(made.refused),
        "waiting": made.waiting,
        "error": made.error,
    }


def dicom_objects(source: str | Path) -> list[StoredFile]:
    """List every ``.dcm`` file in a folder at any depth, without hidden ones, or the one file.

    Args:
        source: a folder or a file.

    Returns:
        The files, sorted by path.

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


class _Push:
    """A push on its way."""

    def __init__(self, archive: Archive, files: Sequence[StoredFile], progress: Progress | None) -> None:
        self.archive, self.left, self.progress = archive, list(files), progress
        self.stored = self.there = 0
        self.refused: list[tuple[str, str]] = []
        self.total = self._before = len(files)

    def run(self) -> None:
        """Make one attempt at everything that is left."""
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
        return len(self.left) < before

    def outcome(self, error: str | None = None) -> PushOutcome:
        return PushOutcome(self.stored, self.there, tuple(self.refused), len(self.left), error)

    def _told(self, file: StoredFile, reason: str | None) -> None:
        if reason is None:
            self.stored += 1
        else:
            self.refused.append((file.path.name, reason))
        self._finish(file)

    def _finish(self, file: StoredFile) -> None:
        self.left.remove(file)
        self._tell()

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(self.total - len(self.left), self.total)
