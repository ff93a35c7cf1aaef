"""Files and folders that appear whole or not at all.

Everything is written to a hidden sibling first and renamed at the end, on the same file system. Every
``OSError`` on the way becomes an :class:`OutputError` in words. A process that is killed outright can leave a
hidden ``.headclip-*`` entry behind, never a half-written result under its own name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from headclip_med.base.errors import OutputError

if TYPE_CHECKING:
    from torch import Tensor


def sha256_file(path: Path) -> str:
    """Lower-case hex digest of a file's bytes, read in blocks; ``OSError`` where it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


RECORD_NAME = "result.json"  # its presence says that a result folder is complete

_PROBE_BYTES = 4096  # one block of common file systems: a full disk refuses it

_DESKTOP_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}  # file managers leave them in any folder

_ELSEWHERE = "Choose another output folder"
_CAUSES = {
    errno.ENOSPC: ("the disk is full", "Free some space or choose another output folder"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space or choose another output folder"),
    errno.EFBIG: ("the file is too large for this file system", _ELSEWHERE),
    errno.EROFS: ("a read-only file system", _ELSEWHERE),
    errno.EACCES: ("no permission to write there", "Change the permissions or choose another output folder"),
    errno.EPERM: ("no permission to write there", "Change the permissions or choose another output folder"),
    errno.ENOTDIR: ("a file where a folder must be", _ELSEWHERE),
    errno.EEXIST: ("a file where a folder must be", _ELSEWHERE),
    errno.EISDIR: ("a folder where a file must be", _ELSEWHERE),
    errno.ENAMETOOLONG: ("a name that is too long for this file system", "Choose a shorter name"),
}


@contextmanager
def case_folder(out_dir: Path, name: str) -> Iterator[Path]:
    """Yield a hidden folder that becomes ``out_dir / name`` when the body succeeds, else vanishes.

    An earlier result of that name stays untouched until the new one is complete. Only an empty folder or an
    earlier result is ever replaced (see :func:`check_writable`). The body should only write: any
    ``OSError`` in it is reported as a failure to write.

    Raises:
        OutputError: for every ``OSError`` (full disk, ...) and for a target that must not be replaced.
    """
    target = out_dir / _checked_name(name)
    with os_errors_in_words(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
        _check_replaceable(target)
        draft = _hidden_sibling(target)
        try:
            draft.mkdir()
            yield draft
            _swap(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # already renamed on success


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden path with the same suffixes that replaces ``path`` when the body succeeds; its folder is made.

    Raises:
        OutputError: for every ``OSError``; an earlier file at ``path`` is then still there.
    """
    with os_errors_in_words(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _hidden_sibling(path)
        try:
            yield draft
            # Delayed allocation and network shares report a full disk only when data are forced out.
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    r"""Write UTF-8 text, whole or not at all; what no UTF-8 can hold becomes ``\\udce9``, as JSON has it."""
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all; like other results it can be read by everybody.

    Raises:
        OutputError: it cannot be written, which safetensors itself says in an error of its own.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as draft:
        try:
            save_file(plain, draft, metadata=metadata)
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            raise OSError(int(found[1]) if found else errno.EIO, str(error)) from error
        draft.chmod(0o644)


def remove_file(path: Path) -> None:
    """Remove a file where there is one; :class:`OutputError` where that is not allowed."""
    with os_errors_in_words(path):
        path.unlink(missing_ok=True)


def check_writable(out_dir: Path, name: str | None = None) -> None:
    """Fail early: write a small file into ``out_dir``, or where it would be made, and remove it again; make no folder.

    With ``name``, also check that ``out_dir / name`` is free, an empty folder, or an earlier result with
    nothing else in it: nobody's own files are ever replaced.

    Raises:
        OutputError: in words, before any expensive step.
    """
    with os_errors_in_words(out_dir):
        existing = next(path for path in (out_dir, *out_dir.absolute().parents) if os.path.lexists(path))
        with tempfile.TemporaryFile(prefix=".headclip-", dir=existing) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        if name is not None:
            _check_replaceable(out_dir / _checked_name(name))


@contextmanager
def leaving_nothing(folder: Path) -> Iterator[None]:
    """Take away again, when the body fails, the folders down to ``folder`` that it made and left empty."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):  # something is in it
            for path in made:
                path.rmdir()
        raise


def _checked_name(name: str) -> str:
    if name in {"", ".", ".."} or Path(name).name != name or "\0" in name:
        raise OutputError("The name of a result folder must be a plain folder name", repr(name))
    return name


def _hidden_sibling(path: Path) -> Path:
    # Suffixes are kept because writers choose their format by them; the rest of a long name is not.
    return path.with_name(f".headclip-{uuid4().hex[:12]}{''.join(path.suffixes[-2:])}")


def _swap(draft: Path, target: Path) -> None:
    """Put ``draft`` in the place of ``target``; on any failure the earlier result is back in its place."""
    aside = _hidden_sibling(target)
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
            f"The result folder '{target.name}' must be a folder", "a file or a link of that name", _ELSEWHERE
        )
    foreign = sorted(p.name for p in target.iterdir() if p.name not in _own_files(target) | _DESKTOP_FILES)
    if foreign:
        raise OutputError(
            f"The result folder '{target.name}' must be empty or hold nothing but an earlier result",
            f"{len(foreign)} other file(s) in it, such as '{foreign[0]}'",
            "Move them away or choose another output folder",
        )


def _own_files(folder: Path) -> set[str]:
    """Names that the result in ``folder`` says it consists of; empty when there is no readable result."""
    try:
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        if str(record["schema_version"]).startswith("headclip_med.result/"):
            return {RECORD_NAME} | {str(file["name"]) for file in record["files"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return set()


@contextmanager
def os_errors_in_words(path: Path) -> Iterator[None]:
    """Turn every ``OSError`` of the body into an :class:`OutputError` about ``path``."""
    try:
        yield
    except OSError as error:
        detail = error.strerror or type(error).__name__
        cause, advice = _CAUSES.get(error.errno or 0, (detail, _ELSEWHERE))
        raise OutputError(f"The output '{path.name or path}' must be writable", cause, advice) from error
