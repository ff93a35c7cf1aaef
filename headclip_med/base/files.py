"""Files and folders that appear whole or not at all.

Everything is written to a hidden sibling first and renamed at the end, on the same file system. Every
``OSError`` on the way becomes an :class:`OutputError` in words. A process that is killed outright can leave a
hidden ``.headclip-*`` entry behind, never a half-written result under its own name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from headclip_med.base.errors import OutputError

if TYPE_CHECKING:
    from torch import Tensor


RECORD_NAME = "result.json"  # its presence says that a result folder is complete
_PROBE_BYTES = 4096  # one block of common file systems: a full disk refuses it
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


def sha256_file(path: Path) -> str:
    """Hash a file, read in blocks.

    Args:
        path: of the file.

    Returns:
        Lower-case hex digest of its bytes.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Make the folder of ``path``, and yield a hidden path that replaces it when the body succeeds.

    Args:
        path: that the file has in the end.

    Yields:
        The hidden path, with the endings of ``path``.

    Raises:
        OutputError: for every ``OSError``. An earlier file at ``path`` is then still there.
    """
    with os_errors_in_words(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = hidden_sibling(path)
        try:
            yield draft
            # Delayed allocation and network shares report a full disk only when data are forced out.
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    r"""Write text as UTF-8, whole or not at all.

    Args:
        path: of the file, whose folder is made.
        text: what no UTF-8 can hold becomes ``\udce9``, as JSON has it.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, which everybody can read as other results.

    Args:
        path: of the file, whose folder is made.
        tensors: by name, on any device.
        metadata: texts for the file's header.

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
    """Remove a file where there is one.

    Args:
        path: of the file.

    Raises:
        OutputError: that is not allowed.
    """
    with os_errors_in_words(path):
        path.unlink(missing_ok=True)


def check_writable(out_dir: Path) -> None:
    """Write a small file and remove it again, to fail before any expensive step.

    Args:
        out_dir: a folder. Where it is not there, the one that it would be made in is tried, and none is made.

    Raises:
        OutputError: says in words why not.
    """
    with os_errors_in_words(out_dir):
        existing = next(path for path in (out_dir, *out_dir.absolute().parents) if os.path.lexists(path))
        with tempfile.TemporaryFile(prefix=".headclip-", dir=existing) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def leaving_nothing(folder: Path) -> Iterator[None]:
    """Take away again, when the body fails, the folders down to ``folder`` that it made and left empty.

    Args:
        folder: that the body makes.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):  # something is in it
            for path in made:
                path.rmdir()
        raise


def hidden_sibling(path: Path) -> Path:
    """Name a hidden file or folder beside ``path``, never the same twice.

    Args:
        path: whose endings the name has, as writers choose their format by them.

    Returns:
        A path where nothing lies.
    """
    # Only the endings are kept: a long name would become too long.
    return path.with_name(f".headclip-{uuid4().hex[:12]}{''.join(path.suffixes[-2:])}")


@contextmanager
def os_errors_in_words(path: Path) -> Iterator[None]:
    """Turn every ``OSError`` of the body into an :class:`OutputError`.

    Args:
        path: of what the body writes, named in the error.

    Raises:
        OutputError: instead of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        detail = error.strerror or type(error).__name__
        cause, advice = _CAUSES.get(error.errno or 0, (detail, _ELSEWHERE))
        raise OutputError(f"The output '{path.name or path}' must be writable", cause, advice) from error
