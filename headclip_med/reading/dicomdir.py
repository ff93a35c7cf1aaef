"""DICOMDIR → the files that it names, as long as they lie inside its own folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread

from headclip_med.base.errors import InputError
from headclip_med.reading.base import in_words
from headclip_med.reading.dicom_values import element

_MOST_PARTS = 16  # the standard allows eight


def referenced_files(path: Path) -> tuple[list[Path], Counter[str]]:
    """Files that the directory at ``path`` names, and how many it names in vain, by reason.

    Nothing outside its folder is touched, whatever it names and wherever links lead.
    """
    root = path.resolve().parent
    with in_words(path.name, "DICOMDIR"):
        records = element(dcmread(path), "DirectoryRecordSequence")
        names = [element(record, "ReferencedFileID") for record in records or ()]
    found: dict[Path, None] = {}
    dropped: Counter[str] = Counter()
    for name in filter(None, names):
        file = _inside(root, name)
        if file is None:
            dropped["file named outside the DICOMDIR's folder"] += 1
        elif not file.is_file():
            dropped["missing file of the DICOMDIR"] += 1
        else:
            found[file] = None
    if not found:
        given = "; ".join(f"{count} × {kind}" for kind, count in dropped.items()) or "no file named in it"
        raise InputError(f"{path.name} must name image files that lie beside it", given, "Copy the whole medium")
    return list(found), dropped


def _inside(root: Path, name: Any) -> Path | None:
    """The file below ``root`` that a ReferencedFileID names, None where that would leave ``root``."""
    parts = [str(part).strip() for part in ([name] if isinstance(name, str) else name)]
    if not isinstance(name, str) and not isinstance(name, Sequence):
        return None
    bad = any(part in ("", ".", "..") or set(part) & set("/\\:\0") for part in parts)
    if bad or len(parts) > _MOST_PARTS:
        return None
    candidates = [root.joinpath(*parts), root.joinpath(*(part.lower() for part in parts))]
    file = next((candidate for candidate in candidates if candidate.exists()), candidates[0])
    return file if file.resolve().is_relative_to(root) else None
