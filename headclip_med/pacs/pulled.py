"""Which instances a finished case was made from, so that ``--resume`` need not fetch them again to know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from headclip_med.base.files import RECORD_NAME, atomic_path
from headclip_med.pacs.archive import pseudonym

PULLED_NAME = "pacs-pulled.json"
_SCHEMA = "headclip_med.pulled/1"


class PulledCases:
    """``pacs-pulled.json`` beside the results: hashes of instances and content by case. A damaged one is none.

    An instance never changes under its UID (PS3.5 §9), so that equal UIDs mean equal content.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / PULLED_NAME
        self._cases: dict[str, dict[str, str]] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(self.path.read_text(encoding="utf-8"))
            if record["schema_version"] == _SCHEMA:
                self._cases = {str(name): dict(facts) for name, facts in record["cases"].items()}

    def content_of(self, name: str, uids: Iterable[str]) -> str | None:
        """The hash of a case's content if it was made from exactly these instances."""
        facts = self._cases.get(name, {})
        known = facts.get("instances_sha256") == _fingerprint(pseudonym(uid, "image") for uid in uids)
        return facts.get("content_sha256") if known else None

    def remember(self, name: str, spool: Path, result: Path) -> None:
        """Note a finished case from its spool and its result folder.

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
        with atomic_path(self.path) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")


def _fingerprint(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
