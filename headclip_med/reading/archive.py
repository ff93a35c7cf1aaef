"""Zip archives → a temporary folder: no links, no way out of it, caps on count, size and growth."""

from __future__ import annotations

import stat
import tempfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

from headclip_med.base.errors import InputError
from headclip_med.reading.content import headers_beside, is_format, known_format

# Whatever grows beyond this is no scan that this package could hold.
MAX_INFLATED_BYTES = 2**32

# Below this much nobody is harmed; above, images do not shrink to less than a two-hundredth.
_HARMLESS_BYTES = 2**26
_MAX_RATIO = 200

_CHUNK = 1 << 20

_MOST_MEMBERS = 50_000
_MOST_BYTES = 2**33

# Unpacked archives are kept, so that what is written after reading can go back to the source images: these many, and
# more as long as they take no more than these bytes together, such as a cohort of an archive a patient.
_KEPT, _KEPT_BYTES = 4, 2**34

# An export packed by a portal and again by a mail program is two deep.
_MOST_LEVELS = 3

_kept: OrderedDict[tuple[str, int, int], tuple[tempfile.TemporaryDirectory[str], int]] = OrderedDict()
_lock = threading.Lock()


def check_growth(inflated: int, packed: int, name: str) -> None:
    """Refuse data that inflate beyond 4 GiB, or 200-fold beyond 64 MiB.

    Args:
        inflated: Bytes after unpacking.
        packed: Bytes before.
        name: What to call the file in the message.

    Raises:
        InputError: a decompression bomb.
    """
    if inflated <= MAX_INFLATED_BYTES and (inflated <= _HARMLESS_BYTES or inflated <= _MAX_RATIO * packed):
        return
    raise InputError(
        f"{name} must inflate to at most {MAX_INFLATED_BYTES / 2**30:g} GiB, and to 200 times its size",
        "a decompression bomb",
        "Export the image again, without this compression",
    )


def check_inflated_file(path: Path, start: int, length: int | None = None, *, raw: bool = True) -> None:
    """Inflate a part of a file in bounded memory, and refuse what grows too far.

    Args:
        path: The file.
        start: First byte of the stream.
        length: Bytes of the stream, None for all to the end.
        raw: A bare deflate stream, else one with the head and checksum of zlib.

    Raises:
        InputError: as of :func:`check_growth`.
    """
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS if raw else zlib.MAX_WBITS)
    total, size = 0, path.stat().st_size
    left = size if length is None else length
    with path.open("rb") as file:
        file.seek(start)
        pending = file.read(min(_CHUNK, left))
        while pending and not inflater.eof:
            total += len(inflater.decompress(pending, 1 << 24))
            check_growth(total, size, path.name)
            left -= len(pending) - len(inflater.unconsumed_tail)
            pending = inflater.unconsumed_tail or file.read(min(_CHUNK, left))


def unpacked(path: Path, packed: int | None = None) -> Path:
    """Unpack an archive into a temporary folder.

    The folder lives until the end of the process, or until newer ones, at least four, take 16 GiB with it.

    Args:
        path: A zip archive.
        packed: Bytes that came from outside, where the archive lay in another one.

    Returns:
        The folder.

    Raises:
        InputError: damaged, encrypted, a member that is a link or leads elsewhere, or too much of anything.
    """
    found = path.stat()
    key = (str(path.resolve()), found.st_size, found.st_mtime_ns)
    with _lock:
        if key not in _kept:
            folder = tempfile.TemporaryDirectory(prefix="headclip-med-", ignore_cleanup_errors=True)
            try:
                _unpack(path, Path(folder.name), found.st_size if packed is None else packed)
            except BaseException:
                folder.cleanup()
                raise
            size = sum(file.stat().st_size for file in Path(folder.name).rglob("*") if file.is_file())
            _kept[key] = folder, size
            while len(_kept) > _KEPT and sum(size for _, size in _kept.values()) > _KEPT_BYTES:
                _kept.popitem(last=False)[1][0].cleanup()
        _kept.move_to_end(key)
        return Path(_kept[key][0].name)


def content_of(path: Path) -> Path:
    """Find what to read of an archive, and of an archive in it the content of that.

    Args:
        path: A zip archive.

    Returns:
        Its folder where it holds DICOM, else the one image in it.

    Raises:
        InputError: as of :func:`unpacked`, or none or several images, or archives too deep in each other.
    """
    content, name, packed = path, path.name, path.stat().st_size
    for _ in range(_MOST_LEVELS):
        content = _content(unpacked(content, packed), name)
        if content.is_dir() or not is_format(content, "zip"):
            return content
    must = f"{name} must hold its images within {_MOST_LEVELS} archives"
    raise InputError(must, "another archive in the innermost", "Unpack it and give the images")


def _content(folder: Path, name: str) -> Path:
    images = []
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.name.startswith("._"):  # macOS puts a shadow beside each file
            continue
        if is_format(file, "dicom"):
            return folder
        if known_format(file) and not headers_beside(file):
            images.append(file)
    if len(images) != 1:
        raise InputError(
            f"{name} must hold one DICOM series or one image",
            f"{len(images)} images",
            "Unpack it and give the image, or the folder",
        )
    return images[0]


def _unpack(path: Path, folder: Path, packed: int) -> None:
    again = "Copy or pack the archive again"
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check_members(members, path.name, packed)
            for member in members:
                _extract(archive, member, folder.joinpath(*_parts(member.filename)))
    except InputError:
        raise
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as problem:
        raise InputError(f"{path.name} must hold each file once", "two of one name", again) from problem
    except OSError as problem:
        given = problem.strerror or type(problem).__name__
        raise InputError(f"{path.name} must be unpacked to the temporary folder", given, "Free some space") from problem
    except Exception as problem:  # zipfile and the decompressors raise whatever the damaged bytes provoke
        given = f"a damaged or unsupported archive ({type(problem).__name__})"
        raise InputError(f"{path.name} must be a readable zip archive", given, again) from problem


def _check_members(members: list[zipfile.ZipInfo], name: str, packed: int) -> None:
    """Refuse by the archive's own listing, before anything is unpacked."""
    again = "Pack the archive again, with nothing but the images"
    if not 0 < len(members) <= _MOST_MEMBERS:
        raise InputError(f"{name} must hold 1 to {_MOST_MEMBERS} files", len(members), again)
    total = sum(member.file_size for member in members)
    if total > _MOST_BYTES:
        given = f"{total / 2**30:.1f} GiB"
        raise InputError(f"{name} must hold at most {_MOST_BYTES / 2**30:g} GiB", given, again)
    check_growth(min(total, 2**32), packed, name)
    for member in members:
        if member.flag_bits & 1:
            raise InputError(f"{name} must not be encrypted", "a password", "Unpack it first")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputError(f"{name} must hold no links", "a symbolic link", again)
        if not _parts(member.filename):
            raise InputError(f"{name} must hold files of its own folder only", "a name that leads elsewhere", again)


def _parts(name: str) -> list[str]:
    """A member's name as parts of a path below the folder; empty where it leads elsewhere.

    Some programs on Windows write a backslash where the format has a slash.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part != "."]
    leads_away = any(part in ("", "..") for part in parts)
    odd = any(set(part) & set(":\0") or len(part.encode("utf-8", "replace")) > 255 for part in parts)
    return [] if leads_away or odd else parts


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """One member; never more than its listing says, whatever it inflates to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    left = member.file_size
    with archive.open(member) as source, target.open("xb") as out:
        while left > 0 and (chunk := source.read(min(_CHUNK, left))):
            out.write(chunk)
            left -= len(chunk)
