"""Our objects → an archive: each of them once, whatever breaks in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headclip_med.pacs.archive import Archive, StoredFile
from headclip_med.pacs.problems import PacsUnavailableError
from headclip_med.pacs.queue import PushQueue
from headclip_med.pacs.retry import Retry

Progress = Callable[[int, int], None]  # objects there, objects in all


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
