"""Which format a file is, by its first bytes; a file name only decides what to say about it."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Literal

from headclip_med.base.errors import InputError

Format = Literal["nifti", "nrrd", "mha", "dicom", "png", "jpeg", "tiff", "bmp", "zip"]

GZIP = b"\x1f\x8b"
_HEAD_BYTES = 600  # enough for a NIfTI-2 header (540) and for the keys that open a MetaImage
_FIRST_VRS = (b"UL", b"UI", b"CS", b"DA", b"TM", b"SH", b"OB")
_ANALYZE = (b"\x5c\x01\0\0", b"\0\0\x01\x5c")  # the size of its header, 348
_META_KEY = re.compile(rb"^(ObjectType|NDims)\s*=", re.MULTILINE)
_RASTER: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
    (b"PK\x03\x04", "zip"),
)
_ARCHIVE = "archive"
_PACKERS = (
    (0, GZIP, "a gzip"),
    (0, b"BZh", "a bzip2"),
    (0, b"\xfd7zXZ\x00", "an xz"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip"),
    (0, b"Rar!\x1a\x07", "a RAR"),
    (257, b"ustar", "a tar"),
)
_BY_SUFFIX: dict[str, Format] = {
    ".nii": "nifti",
    ".hdr": "nifti",
    ".img": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "mha",
    ".mhd": "mha",
    ".dcm": "dicom",
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
    ".zip": "zip",
}
_KNOWN = "NIfTI, NRRD, MetaImage, DICOM, PNG, JPEG, TIFF, BMP or zip"


def existing_path(source: str | Path) -> Path:
    """Check that a path exists, with ``~`` expanded.

    Args:
        source: What a user named.

    Returns:
        The path of a file or folder.

    Raises:
        InputError: nothing there, or a pipe, socket or device.
    """
    path = Path(source)
    try:
        path = path.expanduser()
        exists = path.exists()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # too long, a NUL, a folder that may not be entered, no such user's home
        exists = False
    if exists and not (path.is_file() or path.is_dir()):  # opening a pipe would wait for ever
        raise InputError("The input must be a file or folder", f"{path.name}, a pipe, socket or device", "Give a file")
    if not exists:
        raise InputError("The input must be a file or folder that exists", path.name, "Check the path")
    return path


def identify(path: Path) -> Format:
    """Tell the format of a file by its content.

    Args:
        path: A file.

    Returns:
        Its format.

    Raises:
        InputError: empty, unreadable, compressed but neither NIfTI nor DICOM, or nothing that is known.
    """
    head = _read_head(path)
    if not head:
        raise InputError(f"{path.name} must not be empty", "0 bytes", "Copy or export the file again")
    is_packed = head.startswith(GZIP)
    if is_packed:
        head = _inflate(head, path.name)
    found = _identify_head(head)
    if path.name.lower().endswith((".img", ".img.gz")) and (found is None or _has_voxels(path, head)):
        return "nifti"  # bare voxels; its .hdr must say so
    if is_packed and found not in ("nifti", "dicom"):
        given = _what_else(head) if found is None else f"a {found} file"
        do = "Unpack it first (gunzip)"
        raise InputError(f"The compressed file {path.name} must contain a NIfTI volume or a DICOM image", given, do)
    if found is None:
        given = _what_else(head)
        do = "Unpack it first" if given.endswith(_ARCHIVE) else "Convert it first"
        raise InputError(f"{path.name} must be a {_KNOWN} file", given, do)
    return found


def known_format(path: Path) -> Format | None:
    """Tell the format of a file by its content, without refusing any.

    Args:
        path: A file.

    Returns:
        Its format, None where it cannot be told.
    """
    try:
        return identify(path)
    except InputError:
        return None


def is_format(path: Path, *formats: Format) -> bool:
    """Tell whether a file's content is one of some formats, which an unreadable file is not.

    Args:
        path: A file.
        formats: Formats to look for.

    Returns:
        True for one of them.
    """
    return known_format(path) in formats


def name_warning(path: Path, found: Format) -> list[str]:
    """Warn when the file name promises another format than the content holds.

    Args:
        path: A file.
        found: Its format by content.

    Returns:
        One warning or none.
    """
    suffixes = [s.lower() for s in path.suffixes]
    last = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    promised = _BY_SUFFIX.get(last)
    if promised is None or promised == found:
        return []
    return [f"the name promises {promised} but the content is {found}: read as {found}"]


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4 * _HEAD_BYTES)
    except OSError as problem:
        raise InputError(f"{path.name} must be readable", problem.strerror, "Check the permissions") from problem


def _inflate(head: bytes, name: str) -> bytes:
    """The first bytes inside a gzip file, at most ``_HEAD_BYTES`` of them."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
    except zlib.error as problem:
        raise InputError(f"{name} must be a readable gzip file", "a damaged file", "Copy it again") from problem


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def headers_beside(path: Path) -> list[Path]:
    """Find the headers whose voxels a file holds, by its name.

    Args:
        path: A file that may be the image half of a pair.

    Returns:
        The headers beside it, none where it is no half.
    """
    if not path.name.lower().endswith((".img", ".img.gz")):
        return []
    stem = path.name[: path.name.lower().rindex(".img")]
    headers = [path.with_name(stem + suffix) for suffix in (".hdr", ".HDR", ".hdr.gz")]
    return [header for header in headers if header.is_file()]


def _has_voxels(path: Path, head: bytes) -> bool:
    """Whether the file is the data of a NIfTI or Analyze header beside it, whatever its bytes happen to look like."""
    if head[128:132] == b"DICM":
        return False
    starts = [_read_head(header) for header in headers_beside(path)]
    starts = [_inflate(start, path.name) if start.startswith(GZIP) else start for start in starts]
    return any(_is_nifti(start) or start[:4] in _ANALYZE for start in starts)


def _identify_head(head: bytes) -> Format | None:
    if head[128:132] == b"DICM":  # first: the 128 bytes before it are free and may imitate anything
        return "dicom"
    if _is_nifti(head):
        return "nifti"
    if head.startswith(b"NRRD000"):
        return "nrrd"
    for magic, found in _RASTER:
        if head.startswith(magic):
            return found
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
        return "bmp"
    if _META_KEY.search(head):
        return "mha"
    return "dicom" if is_bare_dicom(head) else None


def is_bare_dicom(head: bytes) -> bool:
    """Tell whether a file begins with a DICOM data element, without the preamble and mark that DICOM files should have.

    Args:
        head: Its first bytes, at least 132.

    Returns:
        True for a first element of group 2 or 8.
    """
    if len(head) < 16 or head[128:132] == b"DICM":
        return False
    for order in ("<", ">"):
        group, number, length = struct.unpack_from(f"{order}HHI", head)
        has_vr = head[4:6] in _FIRST_VRS
        if (group, order) == (2, "<") or group == 8:
            is_short = number <= 0x18 and length <= 64 and length % 2 == 0
            return has_vr or (group == 8 and order == "<" and is_short)
    return False


def _what_else(head: bytes) -> str:
    for at, magic, name in _PACKERS:
        if head.startswith(magic, at):
            return f"{name} {_ARCHIVE}"
    if head.startswith(b"DICM"):
        return "a DICOM file that lost its first 128 bytes"
    if head[:4] in _ANALYZE:
        return "an Analyze 7.5 header, which does not say how the patient lies"
    is_text = not any(byte < 9 or 13 < byte < 32 for byte in head)
    return "a text file" if is_text else "unknown content"
