"""The folder of a result: whole or not at all, and never in the place of something else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headclip_med.base.errors import OutputError
from headclip_med.base.files import RECORD_NAME, check_writable, hidden_sibling, os_errors_in_words

_DESKTOP_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}  # file managers leave them in any folder


def check_case_folder(out_dir: Path, name: str) -> None:
    """Check early that ``out_dir`` can be written to, and that ``out_dir / name`` may become a result.

    It may where it is free, an empty folder, or an earlier result with nothing else in it: nobody's own files are ever
    replaced.

    Args:
        out_dir: Folder of results. It need not be there yet, and is not made.
        name: Of the result's own folder, without a path.

    Raises:
        OutputError: in words, before any expensive step.
    """
    check_writable(out_dir)
    with os_errors_in_words(out_dir):
        _check_replaceable(out_dir / _checked_name(name))


@contextmanager
def case_folder(out_dir: Path, name: str) -> Iterator[Path]:
    """Yield a hidden folder that becomes ``out_dir / name`` when the body succeeds, else vanishes.

    An earlier result of that name stays untouched until the new one is complete. Only an empty folder or an
    earlier result is ever replaced (see :func:`check_case_folder`). The body should only write: any
    ``OSError`` in it is reported as a failure to write.

    Args:
        out_dir: Folder of results, made where it is not there.
        name: Of the result's own folder, without a path.

    Yields:
        The hidden folder, which is empty.

    Raises:
        OutputError: for every ``OSError`` (full disk, ...) and for a target that must not be replaced.
    """
    target = out_dir / _checked_name(name)
    with os_errors_in_words(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
        _check_replaceable(target)
        draft = hidden_sibling(target)
        try:
            draft.mkdir()
            yield draft
            _swap(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # already renamed on success


def _checked_name(name: str) -> str:
    if name in {"", ".", ".."} or Path(name).name != name or "\0" in name:
        raise OutputError("The name of a result folder must be a plain folder name", repr(name))
    return name


def _swap(draft: Path, target: Path) -> None:
    """Put ``draft`` in the place of ``target``. On any failure the earlier result is back in its place."""
    aside = hidden_sibling(target)
    try:
        if target.exists():
            target.rename(aside)
        draft.rename(target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise OutputError(
            f"The result folder '{target.name}' must be a folder",
            "a file or a link of that name",
            "Choose another output folder",
        )
    foreign = sorted(p.name for p in target.iterdir() if p.name not in _own_files(target) | _DESKTOP_FILES)
    if foreign:
        raise OutputError(
            f"The result folder '{target.name}' must be empty or hold nothing but an earlier result",
            f"{len(foreign)} other file(s) in it, such as '{foreign[0]}'",
            "Move them away or choose another output folder",
        )


def _own_files(folder: Path) -> set[str]:
    """Names that the result in ``folder`` says it consists of, none when there is no readable result."""
    try:
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        if str(record["schema_version"]).startswith("headclip_med.result/"):
            return {RECORD_NAME} | {str(file["name"]) for file in record["files"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return set()
