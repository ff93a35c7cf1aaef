"""The source image of a result, found by its content. And further sequences to look at beside it.

A result knows its source's base name and content hash, never a path. Files of that name are tried first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import HeadclipError, InputError, readable
from headclip_med.base.files import RECORD_NAME, sha256_file
from headclip_med.base.types import Affine
from headclip_med.base.volume import LoadedVolume
from headclip_med.reading.checks import GRID_TOLERANCE
from headclip_med.review.cases import CaseData
from headclip_med.writing.record import ResultRecord

_JOIN = " + "  # of the names of stacked sequences

# Folders of another name are tried as well, but not a whole archive of them.
_MOST_FOLDERS = 50


@dataclass(frozen=True, eq=False)
class SourceMatch:
    """What was found of a source.

    Attributes:
        volume: the source as it was read for the prediction, None where no file fits.
        paths: its file, folder, or files of stacked sequences.
        message: what to tell the reader, empty where all is well.
    """

    volume: LoadedVolume | None
    paths: tuple[Path, ...] = ()
    message: str = ""


@dataclass(frozen=True, eq=False)
class LinkedImage:
    """Another image of the same patient, on the result's grid, to look at.

    Attributes:
        array: ``(I, J, K)`` float32, or ``(I, J, K, 3)`` in [0, 255] of a colour image.
        resampled: it had a grid of its own: what is shown is interpolated, for the eye only.
        outside: share of the result's grid that it does not cover.
    """

    name: str
    array: NDArray[np.float32]
    resampled: bool
    outside: float
    message: str = ""


def match_source(record: ResultRecord, places: Sequence[str | Path]) -> SourceMatch:
    """Find the file or series among ``places`` (files, folders) whose content is that of the result's source.

    Reads whole images: for a thread. Never raises for what it finds. The reason is in ``message``.

    Args:
        record: what the prediction recorded.
        places: where the image may be, files or folders.

    Returns:
        The source, or why there is none.
    """
    wanted = record.source.content_sha256
    if wanted is None:
        return SourceMatch(None, message="the result names no content hash: the map alone is shown")
    if not places:
        return SourceMatch(None, message="no source image was given: the map alone is shown; give one with --source")
    options = record.provenance.get("options")
    options = options if isinstance(options, dict) else {}
    changed = False
    for paths in _candidates(record, wanted, [Path(place).expanduser() for place in places]):
        for volume in _volumes(paths, options):
            if volume.meta.get("content_sha256") == wanted:
                return _checked(record, volume, paths)
        changed = changed or readable(_JOIN.join(path.resolve().name for path in paths)) == record.source.name
    name = record.source.name
    if changed:
        words = f"'{name}' was found, but its content is another than the result was made from"
    else:
        words = f"no image with the content of '{name}' was found: it was moved or changed"
    return SourceMatch(None, message=f"{words}; the map alone is shown")


def linked_image(path: str | Path, data: CaseData) -> LinkedImage:
    """Read another image and bring it onto the result's grid where it has one of its own.

    Positions in the patient decide, nothing is registered. Nothing is measured on a resampled image.

    Args:
        path: of the image.
        data: the open case.

    Returns:
        The image on the result's grid.

    Raises:
        InputError: unreadable, several images in one, nowhere near the result, or a picture of other size.
    """
    from headclip_med.reading import load_volume

    volume = load_volume(Path(path).expanduser())
    name = str(volume.meta.get("source_name") or Path(path).name)
    array = np.moveaxis(volume.array, 0, -1) if volume.meta.get("is_rgb") else volume.array[0]
    if array.shape[:3] == data.shape and same_grid(volume.affine, data.affine):
        return LinkedImage(name, array, False, 0.0)
    if data.record.source.is_2d or volume.meta.get("is_2d", False):
        raise InputError(
            f"{name} must have the size of the case: a picture has no place in a patient to align it by",
            " × ".join(map(str, array.shape[:3])),
            f"Choose a picture of {' × '.join(map(str, data.shape))} pixels",
        )
    moved, inside = _onto(array, volume.affine, data)
    if not inside.any():
        raise InputError(f"{name} must lie where the result lies", "no voxel in common", "Choose an image of this scan")
    outside = 1 - float(inside.mean())
    words = f"{name} has a grid of its own: it is resampled for display, and nothing is measured on it"
    return LinkedImage(name, moved, True, outside, words)


def same_grid(one: Affine, other: Affine) -> bool:
    """Tell whether two affines place all voxels of a grid alike, to a thousandth of a millimetre a voxel.

    Args:
        one: voxel index → RAS mm, 4×4.
        other: voxel index → RAS mm, 4×4.

    Returns:
        True where no entry of the one differs from that of the other by more than 0.001.
    """
    return bool(np.abs(one - other).max() <= GRID_TOLERANCE)


def _checked(record: ResultRecord, volume: LoadedVolume, paths: tuple[Path, ...]) -> SourceMatch:
    affine = np.array(record.source.affine)
    if volume.array.shape[1:] != record.source.shape or not same_grid(volume.affine, affine):
        return SourceMatch(None, paths, f"'{record.source.name}' is read on another grid now: the map alone is shown")
    notes = volume.meta.get("reader_warnings") or []
    return SourceMatch(volume, paths, "; ".join(notes))


def _candidates(record: ResultRecord, wanted: str, places: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """What could be the source: whatever has its name, then what was given, then what has its content by another name.

    Files of another name are not read as images, only their bytes are compared: that finds all single-file formats.
    """
    parts = record.source.name.split(_JOIN)
    if len(parts) > 1:
        stacked = [next(_named(part, places), None) for part in parts]
        if all(stacked):
            yield tuple(path for path in stacked if path is not None)
        return
    seen: set[Path] = set()
    others = _folders(places) if record.source.format == "dicom" else _same_bytes(places, wanted)
    for path in (*_named(record.source.name, places), *(p for p in places if p.is_file()), *others):
        if path not in seen:
            seen.add(path)
            yield (path,)


def _named(name: str, places: Sequence[Path]) -> Iterator[Path]:
    name = readable(name)
    for place in places:
        if readable(place.name) == name or (place.is_dir() and readable(place.resolve().name) == name):
            yield place
        if place.is_dir():
            yield from (
                path for path in sorted(place.rglob("*")) if readable(path.name) == name and not _is_result(path)
            )


def _folders(places: Sequence[Path]) -> Iterator[Path]:
    """Folders of files, which may be series, the given ones first. A limited number."""
    below = (sub for place in places if place.is_dir() for sub in (place, *sorted(place.rglob("*"))))
    holding = (path for path in below if path.is_dir() and any(child.is_file() for child in path.iterdir()))
    yield from islice((path for path in holding if not (path / RECORD_NAME).exists()), _MOST_FOLDERS)


def _same_bytes(places: Sequence[Path], wanted: str) -> Iterator[Path]:
    files = (path for place in places if place.is_dir() for path in sorted(place.rglob("*")))
    for path in files:
        if path.is_file() and not path.name.startswith(".") and not _is_result(path):
            with suppress(OSError):
                if sha256_file(path) == wanted:
                    yield path


def _is_result(path: Path) -> bool:
    return (path.parent / RECORD_NAME).exists()


def _volumes(paths: tuple[Path, ...], options: dict[str, Any]) -> Iterator[LoadedVolume]:
    """What can be read of a candidate. A folder's series one by one."""
    from headclip_med.reading import list_series, load_volume

    time, irregular = options.get("time"), options.get("on_irregular") or "error"
    source: Path | list[Path] = paths[0] if len(paths) == 1 else list(paths)
    try:
        yield load_volume(source, time=time, on_irregular=irregular)
    except HeadclipError:
        pass
    except (OSError, ValueError, MemoryError):
        return
    if isinstance(source, Path) and source.is_dir():
        try:
            count = len(list_series(source))
            for number in range(1, count + 1 if count > 1 else 1):
                yield load_volume(source, series=f"#{number}", on_irregular=irregular)
        except (HeadclipError, OSError, ValueError):
            return


def _onto(array: NDArray[np.float32], affine: Affine, data: CaseData) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Linear interpolation on the result's voxel centres, the minimum outside, and where it was inside."""
    from scipy import ndimage

    to_other = np.linalg.inv(affine) @ data.affine
    channels = array[..., None] if array.ndim == 3 else array
    moved = np.stack(
        [
            ndimage.affine_transform(channel, to_other[:3, :3], to_other[:3, 3], data.shape, order=1, mode="nearest")
            for channel in np.moveaxis(channels, -1, 0)
        ],
        axis=-1,
    ).astype(np.float32)
    inside = _covered(to_other, array.shape[:3], data.shape)
    moved[~inside] = array.min()
    return (moved[..., 0] if array.ndim == 3 else moved), inside


def _covered(to_other: Affine, size: tuple[int, ...], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Voxels of the result's grid whose centre lies in the other image, a half voxel's border included."""
    inside = np.ones(shape, dtype=bool)
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    for row, length in zip(to_other[:3], size, strict=True):
        place = row[0] * i + row[1] * j + row[2] * k + row[3]
        inside &= (place >= -0.5) & (place <= length - 0.5)
    return inside
