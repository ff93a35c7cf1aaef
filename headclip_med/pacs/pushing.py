"""Results in a folder → one archive or those that something waits for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from headclip_med.base.errors import HeadclipError, InputError
from headclip_med.base.files import RECORD_NAME
from headclip_med.pacs.access import Access
from headclip_med.pacs.address import Address, parse_service
from headclip_med.pacs.archive import StoredFile, open_archive
from headclip_med.pacs.objects import dicom_objects
from headclip_med.pacs.push import Progress, PushOutcome, push_files
from headclip_med.pacs.queue import QUEUE_NAME, PushQueue
from headclip_med.pacs.retry import Retry
from headclip_med.reading.content import existing_path

Bar = Callable[[str, int], AbstractContextManager[Progress]]  # where to, how many objects


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
