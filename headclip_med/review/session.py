"""One reader and a list of results: which cases there are, how far the reader is, and the one that is open."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from headclip_med.base.errors import HeadclipError, InputError
from headclip_med.base.versions import __version__
from headclip_med.review.cases import CaseData, FoundResult, find_results, load_found
from headclip_med.review.decisions import ReviewFinding
from headclip_med.review.history import History
from headclip_med.review.lists import CaseEntry, SliceRow, entry_of, in_order, neighbour
from headclip_med.review.model import READER_PATTERN, CaseReview, ResultLink
from headclip_med.review.open_case import KEEP, OpenCase, utc_now
from headclip_med.review.signals import Change, Signal
from headclip_med.review.store import ReviewFiles, ReviewStore, read_files
from headclip_med.writing.record import ResultRecord

__all__ = ["KEEP", "CaseEntry", "Change", "OpenCase", "ReviewFinding", "Session", "Signal", "SliceRow"]


class Session:
    """See :mod:`headclip_med.review` for a tour. Not for several threads at once. Only the pure functions are.

    Args:
        results: those of :func:`~headclip_med.review.cases.find_results`.
        reader: id of the reader, part of the review's file names.
        unaided_first: conceal scores, findings and map of every case until its first opinion.
        session_dir: where reviews are kept, by default beside each result.
        sources: files and folders where source images may be.
        clock: tells the time as reviews record it.

    Raises:
        InputError: a reader's id that cannot name a file.

    Attributes:
        changed: calls everyone who connected after every change, with a :class:`Change`.
        case: the open case, None before the first one, and where none could be shown.
        messages: what was odd so far.
        reader, unaided_first, session_dir: as given.
        sources: files and folders where source images may be.
    """

    def __init__(
        self,
        results: Sequence[FoundResult],
        reader: str = "reader",
        *,
        unaided_first: bool = False,
        session_dir: Path | None = None,
        sources: Sequence[Path] = (),
        clock: Callable[[], str] = utc_now,
    ) -> None:
        if not re.match(READER_PATTERN, reader):
            raise InputError(
                "A reader's id must be up to 40 letters, digits, dots, dashes or underscores", repr(reader[:60])
            )
        self.reader, self.unaided_first, self.session_dir = reader, unaided_first, session_dir
        self.sources = tuple(sources)
        self.changed = Signal()
        self.case: OpenCase | None = None
        self.messages: list[str] = []
        self._clock, self._screen = clock, _Screen()
        self._found = {found.key: found for found in results}
        entries = in_order([entry_of(found, *self._peek(found)) for found in results])
        self._entries = {entry.key: entry for entry in entries}

    @classmethod
    def open(
        cls,
        places: Sequence[str | Path],
        reader: str = "reader",
        *,
        unaided_first: bool = False,
        session_dir: str | Path | None = None,
        sources: Sequence[str | Path] = (),
    ) -> Session:
        """Find and check the results in ``places``. Nothing is written before a case is opened.

        Args:
            places: result folders, their ``result.json``, or folders of result folders.
            reader: id of the reader, part of the review's file names.
            unaided_first: conceal scores, findings and map of every case until its first opinion.
            session_dir: where reviews are kept, by default beside each result.
            sources: files and folders where source images may be.

        Returns:
            The session, without an open case.

        Raises:
            InputError: no result in a place, or a reader's id that cannot name a file.
        """
        return cls(
            find_results(places),
            reader,
            unaided_first=unaided_first,
            session_dir=None if session_dir is None else Path(session_dir).expanduser(),
            sources=[Path(source).expanduser() for source in sources],
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def cases(self) -> tuple[CaseEntry, ...]:
        """Return the cases by falling score (by name while any score is concealed), those that cannot be reviewed last.

        The order is that of the beginning: it does not jump while a reader works.
        """
        self._refresh()
        return tuple(self._entries.values())

    def show_on(self, screen: Callable[[], ResultLink | None] | None) -> None:
        """Ask a window, at every action from now on, whose map the reader sees.

        Args:
            screen: gives the result whose map is shown, None for no window.

        Raises:
            InputError: another window shows this session already.
        """
        if screen is not None and self._screen.ask is not None:
            raise InputError("A session must be reviewed in one window", "two", "Open a session of its own there")
        self._screen.ask = screen

    def open_case(self, key: str) -> OpenCase:
        """Close the open case and open this one. The result is checked once more.

        Where the review cannot be kept (read-only folder, open in another window, of another result, damaged) the case
        opens for looking only and says why in ``read_only``.

        Args:
            key: of the case.

        Returns:
            The open case.

        Raises:
            InputError: no such case, or a result that cannot be reviewed. The open case stays open.
        """
        if self.case is not None and self.case.key == key and self.case.read_only is None:
            return self.case
        case = self.prepare(key)
        self.take(case)
        return case

    def prepare(self, key: str, instead_of: OpenCase | None = None) -> OpenCase:
        """Do all of :meth:`open_case` that can fail. The open case stays open, and nobody is told.

        What comes back must be given to :meth:`take` or to :meth:`discard`.

        Args:
            key: of the case.
            instead_of: a case of another session that is to be closed, whose review is taken over where it is the same.

        Returns:
            The case, not yet the open one.

        Raises:
            InputError: as :meth:`open_case`.
        """
        found = self._of(key)
        if found.record is None or found.link is None:
            raise InputError(f"The case '{key}' must be a complete, unaltered result", found.problem or "")
        data = self._load(found)
        fresh, files = self._fresh(found.record, found.link), self._files(found, found.link)
        before = _same_review((self.case, instead_of), files)
        store, reason, history = None if before is None else before.store, None, History(fresh)
        messages: list[str] = []
        try:
            if store is None:
                store = ReviewStore.open(files, fresh)
                messages = store.messages
        except HeadclipError as error:
            reason, messages = str(error), [f"looking only: {error}"]
            history = self._seen(files, found.link) or history
        return OpenCase(
            data,
            history,
            store,
            unaided_first=self.unaided_first,
            read_only=reason,
            messages=[f"{key}: {message}" for message in messages],
            screen=self._screen.of(data.link),
            clock=self._clock,
            before=before,
        )

    def take(self, case: OpenCase) -> None:
        """Make a prepared case the open one, and close the one before.

        Args:
            case: made by :meth:`prepare`.
        """
        if case.before is not None:
            case.before.let_go()
            case.before = None
        self._close_case()
        self.case = case
        case.changed.connect(self.changed.emit)
        self.changed.emit(Change("case"))
        for message in case.messages:
            self.tell(message)

    def discard(self, case: OpenCase) -> None:
        """Let go of a prepared case that is not to be opened after all.

        Args:
            case: made by :meth:`prepare`.
        """
        store = case.let_go()
        if store is not None and case.before is None:
            store.discard()

    def step_case(self, step: int = 1, *, open_only: bool = False) -> str | None:
        """Find the case ``step`` after the open one.

        Args:
            step: how far, backwards where negative.
            open_only: whether those that are read are passed over.

        Returns:
            Its key, None beyond the ends.
        """
        here = None if self.case is None else self.case.key
        keys = [e.key for e in self.cases if e.problem is None and (not open_only or not e.done or e.key == here)]
        return neighbour(keys, here, step)

    def close_case(self) -> None:
        """Save and unlock the open case."""
        if self.case is not None:
            self._close_case()
            self.changed.emit(Change("case"))

    def save(self) -> None:
        """Bring the compact review file of the open case up to date."""
        if self.case is not None:
            self.case.save()

    def close(self) -> None:
        """Save and unlock everything."""
        self.close_case()

    def tell(self, message: str) -> None:
        """Keep a message and pass it to everyone who listens.

        Args:
            message: in words.
        """
        self.messages.append(message)
        self.changed.emit(Change("message", message))

    def review_files(self, key: str) -> ReviewFiles:
        """Locate the review of a case, whether it exists or not.

        Args:
            key: of the case.

        Returns:
            Its two files.

        Raises:
            InputError: no such case, or a result that is incomplete or altered.
        """
        found = self._of(key)
        if found.link is None:
            raise InputError(f"The case '{key}' must be a complete, unaltered result", found.problem or "")
        return self._files(found, found.link)

    def _close_case(self) -> None:
        if self.case is None:
            return
        self._refresh()
        case, self.case = self.case, None
        case.changed.disconnect(self.changed.emit)
        store = case.let_go()
        try:
            if store is not None:
                store.close()
        except (HeadclipError, OSError) as error:  # the journal has everything, and nobody must stay for that
            self.tell(f"{case.key}: {error}")

    def _load(self, found: FoundResult) -> CaseData:
        """The case in memory. The list says from now on why there is none, or no longer."""
        entry = self._entries[found.key]
        try:
            data = load_found(found)
        except HeadclipError as error:
            self._entries[found.key] = replace(entry, problem=str(error))
            raise
        self._entries[found.key] = replace(entry, problem=None)
        return data

    def _refresh(self) -> None:
        if self.case is not None:
            found = self._found[self.case.key]
            self._entries[found.key] = entry_of(found, self.case.review, self.unaided_first)

    def _of(self, key: str) -> FoundResult:
        if key not in self._found:
            raise InputError("A case must be one of the list", key)
        return self._found[key]

    def _files(self, found: FoundResult, link: ResultLink) -> ReviewFiles:
        if self.session_dir is None:
            return ReviewFiles(found.folder, self.reader)
        return ReviewFiles(self.session_dir / f"{link.name}-{link.result_sha256[:8]}", self.reader)

    def _peek(self, found: FoundResult) -> tuple[CaseReview | None, bool]:
        """The review as it lies on disk, without a lock."""
        if found.link is None:
            return None, self.unaided_first
        history = self._seen(self._files(found, found.link), found.link)
        return (None if history is None else history.review), self.unaided_first

    def _seen(self, files: ReviewFiles, link: ResultLink) -> History | None:
        try:
            return read_files(files, link).history
        except HeadclipError:
            return None

    def _fresh(self, record: ResultRecord, link: ResultLink) -> CaseReview:
        now = self._clock()
        return CaseReview(
            reader=self.reader,
            result=link,
            software=f"headclip-med {__version__}",
            started=now,
            updated=now,
            actions=0,
            unaided_first=self.unaided_first,
            threshold=record.threshold,
        )


class _Screen:
    """The window that shows a session, where there is one. Cases hold this and not their session."""

    def __init__(self) -> None:
        self.ask: Callable[[], ResultLink | None] | None = None

    def of(self, link: ResultLink) -> Callable[[], ResultLink | None]:
        """Tell what is seen while the case of ``link`` is open: itself, where no window shows anything."""
        return lambda: self.ask() if self.ask is not None else link


def _same_review(cases: Sequence[OpenCase | None], files: ReviewFiles) -> OpenCase | None:
    """The one of these cases that keeps its review in exactly these files."""
    place = files.journal.resolve()
    kept = (case for case in cases if case is not None and case.store is not None)
    return next((case for case in kept if case.store and case.store.files.journal.resolve() == place), None)
