"""Where a review lies on disk: an append-only journal that is always ahead, and a compact ``review_READER.json``.

Every action is one JSON line, forced to the disk before it counts. The journal's first line holds the state it began
with, so that it stands alone. The compact file is what others read, and the state again should the journal be lost.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from headclip_med.base.errors import InputError, OutputError
from headclip_med.base.files import write_text
from headclip_med.review.history import Event, History
from headclip_med.review.model import SCHEMA_VERSION, CaseReview, ResultLink, review_json
from headclip_med.writing.record import _first_problem

# The second version says of every event which map was on the screen; journals of the first one are read and go on.
JOURNAL_SCHEMA = "headclip_med.review_journal/2"
_JOURNALS = ("headclip_med.review_journal/1", JOURNAL_SCHEMA)
_ELSEWHERE = "Choose another place for the review with --session DIR"


@dataclass(frozen=True)
class ReviewFiles:
    """The two files of one reader's review of one case.

    Attributes:
        folder: that they lie in.
        reader: whose they are.
    """

    folder: Path
    reader: str

    @property
    def review(self) -> Path:
        """Return the compact file."""
        return self.folder / f"review_{self.reader.lower()}.json"

    @property
    def journal(self) -> Path:
        """Return one JSON line an action."""
        return self.folder / f"review_{self.reader.lower()}.journal"

    @property
    def lock(self) -> Path:
        """A hidden empty file that is locked while the review is open."""
        return self.folder / f".review_{self.reader.lower()}.lock"

    def remove_lock(self) -> None:
        """Leave nothing hidden beside the review. Windows keeps an open file, and filelock removes it there."""
        with suppress(OSError):
            self.lock.unlink()


@dataclass
class Loaded:
    """What the files hold: the state, how it came about, what was odd, and how much of the journal is sound.

    Attributes:
        history: the state and how it came about.
        messages: what was odd, in words.
        sound_bytes: how much of the journal is sound.
        journal_fits: whether the journal belongs to the result.
        compact_actions: actions that the compact file has.
    """

    history: History | None = None
    messages: list[str] = field(default_factory=list)
    sound_bytes: int = 0
    journal_fits: bool = False
    compact_actions: int = -1


def load_review(path: Path) -> CaseReview:
    """Read a compact review file.

    Args:
        path: of the file.

    Returns:
        What the reader said.

    Raises:
        InputError: no readable review in it.
    """
    try:
        return CaseReview.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise InputError(f"{path.name} must be a review of {SCHEMA_VERSION}", _first_problem(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} must be a readable review file", type(error).__name__) from error


def save_review(review: CaseReview, path: Path) -> None:
    """Write a compact review file, whole or not at all.

    Args:
        review: what the reader said.
        path: of the file.
    """
    write_text(path, review_json(review))


def read_files(files: ReviewFiles, link: ResultLink | None = None) -> Loaded:
    """Read the newest state that the two files give, without changing them.

    Args:
        files: of the review.
        link: the result that the review must belong to, None for any.

    Returns:
        What the files hold. ``history`` is None where there is none.

    Raises:
        InputError: the review belongs to another result, or nothing in either file can be read.
    """
    loaded = _read_journal(files.journal)
    compact = _read_compact(files.review, loaded)
    for review in (compact, loaded.history.review if loaded.history else None):
        if review is not None and link is not None:
            _check_link(review, link, files)
            _check_places(review, files)
    if compact is not None:
        loaded.compact_actions = compact.actions
        if loaded.history is None or compact.actions > loaded.history.review.actions:
            if loaded.history is not None:
                loaded.messages.append("the journal was shorter than the review: the review counts")
            loaded.history, loaded.journal_fits = History(compact), False
    if loaded.history is not None and loaded.journal_fits and compact is not None:
        ahead = loaded.history.review.actions - compact.actions
        if ahead:
            loaded.messages.append(f"{_count(ahead, 'action')} recovered from the journal")
    return loaded


class ReviewStore:
    """The files of the case that is being reviewed: locked, and written at every action.

    Args:
        files: of the review.
        journal: file descriptor of the open journal.
        lock: held until the store is closed or discarded.
        loaded: what the files held.
        fresh: the review to begin with where there was none.
    """

    def __init__(self, files: ReviewFiles, journal: int, lock: FileLock, loaded: Loaded, fresh: CaseReview) -> None:
        self.files, self.history, self.messages = files, loaded.history or History(fresh), loaded.messages
        self._journal, self._loaded = journal, loaded
        self._is_new = loaded.history is None
        self._saved = loaded.compact_actions if loaded.journal_fits else -1
        self._written = hashlib.sha256()  # of all that the journal holds
        # A store that nobody holds any more unlocks, as a kill does.
        self._close = weakref.finalize(self, _let_go, journal, lock)

    @classmethod
    def open(cls, files: ReviewFiles, fresh: CaseReview) -> ReviewStore:
        """Lock and read the review, or begin it with ``fresh``.

        Args:
            files: of the review.
            fresh: the review to begin with where there is none.

        Returns:
            The store, which holds the lock until it is closed or discarded.

        Raises:
            InputError: open elsewhere, of another result, or damaged beyond reading.
            OutputError: the folder cannot be written to.
        """
        try:
            files.folder.mkdir(parents=True, exist_ok=True)
            journal = os.open(files.journal, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise _not_writable(files.folder, error) from error
        lock = FileLock(files.lock, timeout=0, thread_local=False)
        try:
            _acquire(lock, f"the review of {fresh.result.name} by {fresh.reader}")
            store = cls(files, journal, lock, read_files(files, fresh.result), fresh)
        except BaseException:
            if lock.is_locked:
                files.remove_lock()
            _let_go(journal, lock)
            raise
        store._begin()
        return store

    def append(self, event: Event) -> None:
        """Force one event to the disk, then follow it. Its map must be the one that the review is about.

        Args:
            event: one line of the journal.

        Raises:
            InputError: an event about another map.
            OutputError: it could not be written, nothing has changed then, in the file or here.
        """
        if event.map_sha256 != self.history.review.result.map_sha256:
            raise InputError(
                f"What is kept in {self.files.journal.name} must be about its own map",
                "an action on another map" if event.map_sha256 else "an action without a map",
                "Open the case again",
            )
        after = self.history.after(event)
        self._check_in_place()
        self._write(_line(event))
        self.history = after

    def save(self) -> None:
        """Write the compact file where it is behind."""
        if self._saved != self.history.review.actions:
            save_review(self.history.review, self.files.review)
            self._saved = self.history.review.actions

    def close(self) -> None:
        """Save and unlock."""
        try:
            self._check_in_place()
            self.save()
            self.files.remove_lock()
        finally:
            self._close()

    def discard(self) -> None:
        """Unlock, and leave nothing behind of a review that was never begun."""
        if self._is_new and self.history.review.actions == 0:
            with suppress(OSError):
                self.files.journal.unlink()
                self.files.remove_lock()
                self.files.folder.rmdir()  # of reviews, with nothing in it; one with files stays
        self._close()

    def _check_in_place(self) -> None:
        """A file that was deleted, moved away or replaced, be it by its copy, takes what is written without a word."""
        try:
            with self.files.journal.open("rb") as file:
                is_same = os.path.samestat(os.fstat(file.fileno()), os.fstat(self._journal))
                in_place = is_same and hashlib.sha256(file.read()).digest() == self._written.digest()
        except OSError:
            in_place = False
        if not in_place:
            raise OutputError(
                f"The journal {self.files.journal.name} must stay where it is while a case is reviewed, and as it is",
                f"moved, deleted, replaced or altered in '{self.files.folder.name}'",
                "Bring it back if it is gone, then open another case and this one again; until then nothing is kept",
            )

    def _begin(self) -> None:
        """A journal that can be appended to: cut behind its last sound line, or new where it does not fit."""
        if self._loaded.journal_fits:
            os.ftruncate(self._journal, self._loaded.sound_bytes)
            self._written.update(self.files.journal.read_bytes())
            return
        if self.messages and os.fstat(self._journal).st_size:  # somebody's damaged journal is kept for the curious
            self._keep_aside()
        os.ftruncate(self._journal, 0)
        header = {"schema_version": JOURNAL_SCHEMA, "start": self.history.review.model_dump(mode="json")}
        self._write(json.dumps(header, ensure_ascii=False, allow_nan=False).encode() + b"\n")

    def _keep_aside(self) -> None:
        number = 1
        while (aside := self.files.journal.with_suffix(f".damaged{number}")).exists():
            number += 1
        with suppress(OSError):
            aside.write_bytes(self.files.journal.read_bytes())
            self.messages.append(f"the journal could not be used as it was; a copy is kept as {aside.name}")

    def _write(self, line: bytes) -> None:
        before, rest = os.fstat(self._journal).st_size, line
        try:
            while rest:
                rest = rest[os.write(self._journal, rest) :]
            os.fsync(self._journal)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._journal, before)
            raise _not_writable(self.files.folder, error) from error
        self._written.update(line)


def _acquire(lock: FileLock, what: str) -> None:
    """Lock a review, or raise :class:`InputError` where somebody has; file systems without locks are let through."""
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            "A review must be open in one window only",
            f"{what}, which is open elsewhere",
            "Close the other window, or choose another reader with --reader",
        ) from error
    except (OSError, NotImplementedError):
        return


def _let_go(journal: int, lock: FileLock) -> None:
    os.close(journal)
    lock.release()


def _read_journal(path: Path) -> Loaded:
    """State and history from the journal alone."""
    loaded = Loaded()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return loaded
    except OSError as error:
        raise InputError(f"{path.name} must be readable", type(error).__name__) from error
    *lines, rest = content.split(b"\n")
    history, sound = None, 0
    for number, line in enumerate(lines):
        try:
            if history is None:
                history = History(_start(line, path.name))
            else:
                history.apply(Event.model_validate_json(line))
        except ValueError:  # pydantic's errors among them
            loaded.messages.append(f"line {number + 1} of {path.name} is damaged: what follows it is left out")
            break
        sound += len(line) + 1
    if rest and sound + len(rest) == len(content):
        loaded.messages.append(f"the last action in {path.name} was not finished: it is left out")
    loaded.history, loaded.sound_bytes = history, sound
    loaded.journal_fits = history is not None and sound + len(rest) == len(content)
    return loaded


class _Header(BaseModel):
    schema_version: str
    start: CaseReview


def _start(line: bytes, name: str) -> CaseReview:
    """The state that a journal begins with.

    Raises:
        InputError: a journal of a later version, which is left alone. ValueError: a damaged line.
    """
    header = json.loads(line)
    version = str(header.get("schema_version")) if isinstance(header, dict) else ""
    if re.fullmatch(r"headclip_med\.review_journal/[0-9]+", version) and version not in _JOURNALS:
        raise InputError(
            f"{name} must be a journal of {JOURNAL_SCHEMA} or earlier", version, "Use a newer headclip_med"
        )
    return _Header.model_validate_json(line).start


def _read_compact(path: Path, loaded: Loaded) -> CaseReview | None:
    if not path.exists():
        return None
    try:
        return load_review(path)
    except InputError as error:
        if loaded.history is None:
            raise
        loaded.messages.append(f"{error} The journal counts.")
        return None


def _check_link(review: CaseReview, link: ResultLink, files: ReviewFiles) -> None:
    said = review.result
    same = (said.result_sha256, said.map_sha256, said.shape) == (link.result_sha256, link.map_sha256, link.shape)
    if not same:
        raise InputError(
            f"{files.review.name} must belong to the result beside it",
            "a review of another result of that name",
            "Move the review away, or bring its own result back",
        )


def _check_places(review: CaseReview, files: ReviewFiles) -> None:
    """Nothing that was judged or drawn lies outside the grid: files can be edited by hand."""
    shape = review.result.shape
    size = shape[0] * shape[1] * shape[2]
    peaks = (one.peak_voxel for one in review.findings.values())
    inside = all(0 <= v < n for peak in peaks for v, n in zip(peak, shape, strict=True))
    drawn = all(first + length <= size for one in review.drawn.values() for first, length in one.runs)
    if not (inside and drawn):
        raise InputError(
            f"{files.review.name} must lie within its image", "a finding outside of it", "Use an older copy"
        )


def _line(event: Event) -> bytes:
    content: dict[str, Any] = event.model_dump(mode="json", exclude_unset=True)
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _not_writable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"The folder '{folder.name}' must be writable to keep a review", error.strerror or type(error).__name__,
        _ELSEWHERE,
    )  # fmt: skip


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
