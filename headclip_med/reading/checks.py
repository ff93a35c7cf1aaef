"""What every reader gives back, and the checks that every volume passes."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import HeadclipError, InputError, readable
from headclip_med.base.files import sha256_file
from headclip_med.base.geometry import check_affine
from headclip_med.base.threads import WARNINGS
from headclip_med.base.types import VolumeMeta
from headclip_med.base.volume import LoadedVolume

if TYPE_CHECKING:
    pass

# A volume above this many voxels needs more than 4 GiB as float32: a broken or hostile header far more
# often than a scan.
MAX_VOXELS = 2**30

# A kilometre: no scan is placed or spaced like that, and the checks that follow could overflow.
_FARTHEST_MM = 1e6

# Two sequences lie on one grid when their affines agree to this (mm per voxel, and mm for the origin).
GRID_TOLERANCE = 1e-3


_EXPORT_AGAIN = "Copy or export the file again"


def finish(
    array: NDArray[np.generic], affine: NDArray[np.float64], meta: VolumeMeta, notes: Sequence[str] = ()
) -> LoadedVolume:
    """Check an array as read and pack it as a :class:`LoadedVolume`.

    Args:
        array: ``(C, I, J, K)``, any real dtype. Voxels that are not finite become the finite minimum.
        affine: Voxel index → RAS mm, ``(4, 4)``.
        meta: What the reader knows about it.
        notes: What the reader has to say, which becomes ``reader_warnings``.

    Returns:
        The volume as float32.

    Raises:
        InputError: an empty array, nothing finite, one constant value, or an unusable affine.
    """
    name, messages = meta["source_name"], list(notes)
    if array.size == 0:
        raise InputError(f"{name} must contain voxels", f"the shape {array.shape[1:]}", _EXPORT_AGAIN)
    if array.dtype.kind in "iu" and array.itemsize > 2 and not _exact_in_float32(array):
        messages.append("integers beyond 2^24 were rounded to 32-bit floats")
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.ascontiguousarray(array, dtype=np.float32)
    messages += _fill_non_finite(values, name)
    if all(channel.min() == channel.max() for channel in values):
        raise InputError(
            f"{name} must contain an image",
            f"every voxel is {', '.join(f'{channel.flat[0]:g}' for channel in values)}",
            "Check that the right file was exported",
        )
    _check_plausible(affine, name)
    checked = check_affine(affine, name, allow_shear=bool(meta.get("sheared", False)))
    complete = VolumeMeta(**{**meta, "source_name": readable(name), "reader_warnings": list(map(readable, messages))})
    return LoadedVolume(values, checked, complete)


def _check_plausible(affine: NDArray[np.float64], name: str) -> None:
    if np.isfinite(affine).all() and np.abs(affine).max() > _FARTHEST_MM:
        raise InputError(
            f"The affine of {name} must be in millimetres",
            f"a value of {np.abs(affine).max():.3g} mm",
            "Repair the header (sform/qform) or convert the file again",
        )


def _exact_in_float32(array: NDArray[np.generic]) -> bool:
    limit = 2**24
    return bool(int(array.min()) >= -limit and int(array.max()) <= limit)


def _fill_non_finite(values: NDArray[np.float32], name: str) -> list[str]:
    """Replace NaN and Inf by the finite minimum in place; return the warning about it."""
    finite = np.isfinite(values)
    count = values.size - int(finite.sum())
    if count == 0:
        return []
    if count == values.size:
        raise InputError(f"{name} must contain finite values", "only NaN or Inf", _EXPORT_AGAIN)
    lowest = values[finite].min()
    values[~finite] = lowest
    return [f"{count} of {values.size} voxels were NaN or Inf and are read as the minimum {lowest:g}"]


def check_size(shape: Iterable[float], name: str) -> None:
    """Refuse a header that claims too much, before anything is decoded.

    Args:
        shape: Sizes along all axes.
        name: What to call the file in the message.

    Raises:
        InputError: an empty array, or one of more than 4 GiB.
    """
    sizes = [int(n) for n in shape]
    if any(n < 1 for n in sizes):
        raise InputError(f"{name} must contain voxels", f"the shape {tuple(sizes)}", _EXPORT_AGAIN)
    voxels = 1
    for n in sizes:
        voxels *= n
    if voxels > MAX_VOXELS:
        raise InputError(
            f"{name} must fit in 4 GiB as 32-bit floats",
            f"a header that claims {' × '.join(map(str, sizes))} = {voxels * 4 / 2**30:.1f} GiB",
            "Crop or resample it first, or repair the header",
        )


def pick_time(count: int, time: int | None, name: str) -> int:
    """Choose the time point or component to read, which is asked for only where there are several.

    Args:
        count: How many there are.
        time: The chosen one, from 0, or None.
        name: What to call the file in the message.

    Returns:
        Index from 0 to ``count`` − 1.

    Raises:
        InputError: several and no choice, or a choice beyond them.
    """
    if time is None and count > 1:
        raise InputError(
            f"{name} must be one volume",
            f"{count} volumes or pages (4-D)",
            f"Choose one of 0 to {count - 1} with time= (command line: --time)",
        )
    chosen = 0 if time is None else int(time)
    if not 0 <= chosen < count:
        raise InputError(f"The time point of {name} must be between 0 and {count - 1}", chosen)
    return chosen


def sha256_of_files(paths: Sequence[Path]) -> str:
    """Digest the content of files, in whatever order they are given.

    Args:
        paths: One file or more.

    Returns:
        sha256 of one file's bytes, of several files that of their sorted hex digests.
    """
    digests = sorted(sha256_file(path) for path in paths)
    return digests[0] if len(digests) == 1 else sha256_of_digests(digests)


def sha256_of_digests(digests: Iterable[str]) -> str:
    """Digest hex digests in the order given, which is to be sorted first where the order means nothing.

    Args:
        digests: 64 hexadecimal digits each.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@contextmanager
def refuse_damage(name: str, kind: str, do: str = _EXPORT_AGAIN) -> Iterator[None]:
    """Turn whatever a third-party parser raises on a damaged file into one :class:`InputError`.

    The parser's own text may hold paths or patient data, so only the kind of problem is repeated.

    Args:
        name: What to call the file in the message.
        kind: Its format in words.
        do: What the user can do.

    Raises:
        InputError: the parser failed.
    """
    try:
        yield
    except HeadclipError:
        raise
    except Exception as problem:
        raise InputError(
            f"{name} must be a readable {kind} file",
            f"a damaged, truncated or unsupported file ({type(problem).__name__})",
            do,
        ) from problem


def check_leftover(name: str, size: int, more: int) -> None:
    """Refuse data that are a multiple of what the header says: its type or a dimension is wrong, not their end.

    Args:
        name: What to call the file in the message.
        size: Bytes that the header says.
        more: Bytes beyond these.

    Raises:
        InputError: they are whole multiples.
    """
    if more % size == 0:
        given = f"{size} by type and dimensions, which go {more // size + 1} times into them"
        raise contradiction(name, f"the {more + size} bytes of its data", given)


def contradiction(name: str, must: str, given: object) -> InputError:
    """Make the error for a header that contradicts its format, or itself.

    Args:
        name: What to call the file in the message.
        must: What the header must name.
        given: What it names.

    Returns:
        The error to raise.
    """
    return InputError(f"The header of {name} must name {must}", given, "Repair the header or convert the file again")


@contextmanager
def collected_warnings(notes: list[str], library: str, logger: str | None = None) -> Iterator[None]:
    """Move a library's warnings and log lines into ``notes`` instead of the user's screen and logs.

    They may quote values of the file (names, dates), so only the words before a quotation are kept.

    Args:
        notes: Written to at the end.
        library: What to call it in a note.
        logger: Name of its logger, if it has one.
    """
    lines, caught = _Lines(), list[str]()
    with WARNINGS, warnings.catch_warnings(), _diverted(logger, lines):
        warnings.simplefilter("always")
        warnings.showwarning = _noting(caught, warnings.showwarning)
        yield
    said = Counter(map(_short, caught))
    logged = Counter(_short(line) for line in lines.seen)
    for text, count in (said | logged).items():  # pydicom says everything both ways
        notes.append(f"{library}: {text}" + (f" ({count} times)" if count > 1 else ""))


def _noting(notes: list[str], otherwise: Callable[..., None]) -> Callable[..., None]:
    """What Python calls to show a warning: those of this thread become notes."""
    own = threading.get_ident()

    def show(message: Warning | str, *place: Any, **more: Any) -> None:
        if threading.get_ident() == own:
            notes.append(str(message))
        else:
            otherwise(message, *place, **more)

    return show


def _short(text: str) -> str:
    text = re.sub(r"^<[^>]*>\s*", "", text)  # tifffile begins with what it is about, the file's name in it
    return re.split(r"[:'\"(\n]", text)[0].strip()[:120]


@contextmanager
def _diverted(name: str | None, handler: logging.Handler) -> Iterator[None]:
    """Send a library's log lines to ``handler`` only."""
    if name is None:
        yield
        return
    logger = logging.getLogger(name)
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before


class _Lines(logging.Handler):
    """A log handler that remembers messages of the thread that made it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []
        self._own = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._own:
            self.seen.append(record.getMessage())


def stack(volumes: Sequence[LoadedVolume]) -> LoadedVolume:
    """Stack sequences of one patient as the channels of one volume, in the order given.

    Args:
        volumes: ``(C, I, J, K)`` each, on one grid.

    Returns:
        ``(ΣC, I, J, K)``.

    Raises:
        InputError: a colour image among them, or grids (shape, affine) that differ.
    """
    first = volumes[0]
    if len(volumes) == 1:
        return first
    for volume in volumes:
        _check_same_grid(first, volume)
    metas = [volume.meta for volume in volumes]
    check_size([len(volumes), *first.array.shape[1:]], "The stack of sequences")
    meta = VolumeMeta(**first.meta)
    meta["source_name"] = " + ".join(m["source_name"] for m in metas)
    meta["content_sha256"] = sha256_of_digests(m["content_sha256"] for m in metas)
    meta["reader_warnings"] = [f"{m['source_name']}: {note}" for m in metas for note in m["reader_warnings"]]
    if any(m.get("sequence") for m in metas):
        meta["sequence"] = " + ".join(m.get("sequence") or "" for m in metas)
    meta["default_window"] = None  # one window cannot serve several sequences
    empty = {tuple(place): place for m in metas for place in m.get("empty_positions", [])}
    if empty:
        meta["empty_positions"] = list(empty.values())
    if len({m.get("modality") for m in metas}) > 1:
        meta["modality"] = None
    return replace(first, array=np.concatenate([volume.array for volume in volumes]), meta=meta)


def _check_same_grid(first: LoadedVolume, other: LoadedVolume) -> None:
    names = f"{first.meta['source_name']} and {other.meta['source_name']}"
    if first.meta["is_rgb"] or other.meta["is_rgb"]:
        raise InputError(f"{names} must be grey to be stacked as sequences", "a colour image")
    if first.meta.get("display_inverted") != other.meta.get("display_inverted"):
        raise InputError(f"{names} must both be MONOCHROME1 or both MONOCHROME2", "one of each")
    advice = "Resample them to one grid first (for a DICOM series give its folder, not its files)"
    shapes = [volume.array.shape[1:] for volume in (first, other)]
    if shapes[0] != shapes[1]:
        raise InputError(f"{names} must have the same shape", f"{shapes[0]} and {shapes[1]}", advice)
    apart = float(np.abs(first.affine - other.affine).max())
    if apart > GRID_TOLERANCE:
        raise InputError(f"{names} must lie on the same grid", f"affines {apart:.3g} mm apart", advice)
