"""Files that list cases: finding and reading them, labels in words, and paths that must stay where they belong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from headclip_med.base.errors import InputError
from headclip_med.datasets.names import files_in, label_of

_NORMAL, _ABNORMAL = ("0", "0.0", "false"), ("1", "1.0", "true")
_NOTHING = ("", "none", "nan", "unknown")


def read_label(value: object, where: str) -> bool | None:
    """0, 1, true, false or a word such as normal; None for nothing.

    Raises:
        InputError: anything else; it says ``where``.
    """
    text = str("" if value is None else value).strip().lower()
    if text in _NOTHING:
        return None
    if text in (*_NORMAL, *_ABNORMAL):
        return text in _ABNORMAL
    known = label_of(text)
    if known is None:
        raise InputError("A label must be 0, 1, or a word such as normal or abnormal", f"{text!r} in {where}")
    return known


def inside(folder: Path, text: str, where: str) -> Path:
    """A listed path, which must stay within the folder of its list: a list from elsewhere must not open other files.

    Raises:
        InputError: an absolute path, or one with ``..``.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise InputError(
            "Paths in a JSON list must lie below the folder of the list",
            where,
            "Make the paths relative, or list the files in a CSV",
        )
    return folder / path


def one_file(root: Path, ending: str) -> Path | None:
    """The file itself, or the only one of that ending in the folder."""
    if root.is_file():
        return root if root.name.lower().endswith(ending) else None
    found = files_in(root, (ending,))
    return found[0] if len(found) == 1 else None


def json_file(root: Path, name: str) -> Path | None:
    """The JSON file itself, or the one of that name in the folder."""
    if root.is_file():
        return root if root.suffix.lower() == ".json" else None
    return root / name if (root / name).is_file() else None


def needed(path: Path | None, root: Path, what: str) -> Path:
    """``path``, or an InputError that says what was looked for."""
    if path is None:
        raise InputError(f"This layout must find {what}", root.name)
    return path


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("A list of cases must be a readable text file in UTF-8", path.name) from error


def read_object(path: Path) -> Mapping[str, Any]:
    """A JSON file that holds one object."""
    return as_object(parse_json(read_text(path), path.name), path.name)


def parse_json(text: str, where: str) -> Any:
    """The value that ``text`` holds."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} must be valid JSON", str(error), "Correct it") from error


def as_object(value: Any, where: str) -> Mapping[str, Any]:
    """``value``, which must be a JSON object."""
    if not isinstance(value, dict):
        raise InputError(f"{where} must hold a JSON object here", type(value).__name__)
    return value


def as_list(value: Any, where: str) -> list[Any]:
    """``value``, which must be a JSON array."""
    if not isinstance(value, list):
        raise InputError(f"{where} must hold a JSON array here", type(value).__name__)
    return value
