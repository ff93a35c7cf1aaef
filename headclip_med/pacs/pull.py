"""A series in an archive → files in a folder: resumable, and complete or an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from headclip_med.base.errors import CancelledError, InputError
from headclip_med.pacs.archive import Archive, InstanceFound
from headclip_med.pacs.problems import PacsError, PacsUnavailableError
from headclip_med.pacs.retry import Retry
from headclip_med.pacs.spool import SeriesSpool

Progress = Callable[[int, int], None]  # instances there, instances in all
Cancel = Callable[[], bool]

_MOST_LISTINGS = 5  # a series that grows meanwhile is followed that often


def pull_series(
    archive: Archive,
    study: str,
    series: str,
    folder: Path,
    retry: Retry | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> int:
    """Fetch every instance that the archive lists into ``folder``; those that are there already stay.

    Returns:
        How many instances the series has.

    Raises:
        InputError: the archive knows no such series.
        PacsError: it refuses, is away for longer than ``retry`` allows, or the series never stops growing.
        OutputError, CancelledError: what was fetched stays for the next attempt, as with every error.
    """
    retry, spool = retry or Retry(), SeriesSpool(folder, study, series)
    spool.open()
    for _ in range(_MOST_LISTINGS):
        listed = retry.call(lambda: archive.instances(study, series))
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
        pull.run(retry)
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

    def run(self, retry: Retry) -> None:
        before = self.there

        def has_moved() -> bool:
            nonlocal before
            moved, before = self.there > before, self.there
            return moved

        try:
            retry.call(self._fetch, has_moved)
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
