"""What still has to be pushed, on disk before the first byte is sent: a killed process forgets nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from headclip_med.base.errors import InputError
from headclip_med.base.files import atomic_path, remove_file

QUEUE_NAME = "push-queue.json"
QUEUE_SCHEMA = "headclip_med.push_queue/1"


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
