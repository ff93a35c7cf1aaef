"""One stored image that tiles many slices (Siemens mosaic, United Imaging grid) → one header a slice, in its place."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.filereader import read_sequence

from headclip_med.base.types import Vector
from headclip_med.reading.dicom.header import (
    NUMBER_IN_GRID,
    NUMBER_IN_MOSAIC,
    SIEMENS_CREATOR,
    UIH_CREATOR,
    ImageHeader,
    Tile,
)
from headclip_med.reading.dicom.values import element, finite_number, image_type, integer, numbers, values

_SIEMENS, _CSA, _UIH = "SIEMENS MR HEADER", "SIEMENS CSA HEADER", "Image Private Header"
_FRAMES_OF_GRID = 0x00651051

# No scanner tiles more; a damaged count must not become as many headers.
_MOST_TILES = 4096

# A stated normal runs along that of rows and columns, forth or back.
_PARALLEL = 0.999

# How Siemens numbers slices along each LPS axis unless told otherwise: with the axis.
_DEFAULT_ORDER = ("right to left", "front to back", "feet to head")


class _UnsaidError(Exception):
    """What a mosaic does not say about its slices."""


def is_mosaic(dataset: Any) -> bool:
    """Tell whether an image tiles slices: by its type, or by a private count of them.

    Args:
        dataset: Elements of a file.

    Returns:
        True for a mosaic of Siemens or a grid of United Imaging.
    """
    kinds = set(image_type(dataset, "ImageType").upper().split("/"))
    siemens = element(dataset, SIEMENS_CREATOR) == _SIEMENS and _whole(element(dataset, NUMBER_IN_MOSAIC)) > 1
    return bool(kinds & {"MOSAIC", "VFRAME"}) or siemens or _is_grid(dataset)


def tile_headers(header: ImageHeader, dataset: Any) -> list[ImageHeader]:
    """Make one header a tile, each at its position.

    Args:
        header: Of the stored image.
        dataset: All elements but the pixels.

    Returns:
        The tiles' headers, else the image's own, of a kind that is not read, which names what it does not say.
    """
    is_grid, csa = _is_grid(dataset), _csa_values(dataset)
    try:
        if header.frames > 1:
            raise _UnsaidError("where each of its frames lies")
        count = _count(dataset, csa, is_grid)
        if count == 1:
            return [header]
        tile = _layout(header, count, prefers_square=not is_grid)
        header = replace(header, rows=header.rows // tile.down, columns=header.columns // tile.across, tile=tile)
        positions, remark = _grid_positions(dataset, count) if is_grid else _mosaic_positions(header, dataset, csa)
    except _UnsaidError as problem:
        do = "export it again with its private elements, or as single slices"
        return [replace(header, kind=f"mosaic that does not say {problem} ({do})")]
    return [
        replace(header, position=tuple(float(x) for x in position), tile=tile._replace(number=n), remark=remark)
        for n, position in enumerate(positions)
    ]


def _is_grid(dataset: Any) -> bool:
    """Whether United Imaging tiled the slices, rather than Siemens."""
    if "VFRAME" in image_type(dataset, "ImageType").upper().split("/"):
        return True
    return element(dataset, UIH_CREATOR) == _UIH and (integer(dataset, NUMBER_IN_GRID) or 0) > 1


def _csa_values(dataset: Any) -> dict[str, Any]:
    """The items of Siemens' private image header by name; empty where there is none that can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nibabel's word that its own DICOM readers are experimental
            from nibabel.nicom import csareader
        content = dataset.private_block(0x0029, _CSA)[0x10].value
        return {name: tag["items"] for name, tag in csareader.read(content)["tags"].items()}
    except Exception:  # no such element, or whatever the parser makes of damaged bytes
        return {}


def _count(dataset: Any, csa: dict[str, Any], is_grid: bool) -> int:
    """How many slices are tiled."""
    if is_grid:
        count = integer(dataset, NUMBER_IN_GRID) or 0
    else:
        count = _whole(element(dataset, NUMBER_IN_MOSAIC)) or _whole(csa.get("NumberOfImagesInMosaic"))
    if not 0 < count <= _MOST_TILES:
        raise _UnsaidError("how many slices it tiles")
    return count


def _whole(value: Any) -> int:
    """A count of slices, which anonymisers leave as two bare bytes; 0 where it is none."""
    if isinstance(value, bytes) and len(value) == 2 and not value.strip().isdigit():
        return int.from_bytes(value, "little")
    found = values(value)
    return int(found[0]) if len(found) == 1 and found[0] == found[0] // 1 > 0 else 0


def _layout(header: ImageHeader, count: int, *, prefers_square: bool) -> Tile:
    """How many tiles lie down and across: as many across as down, or only as many rows of them as it takes."""
    across = isqrt(count - 1) + 1
    downs = [across, -(-count // across)]
    fits = [down for down in downs if not header.rows % down and not header.columns % across]
    if not fits:
        raise _UnsaidError(f"how its size is shared by {count} slices")
    same_sides = [down for down in fits if header.rows // down == header.columns // across]
    return Tile(0, count, fits[0] if prefers_square else (same_sides or fits[::-1])[0], across)


def _grid_positions(dataset: Any, count: int) -> tuple[NDArray[np.float64], str]:
    """The position of every slice, which United Imaging states one by one."""
    frames = element(dataset, _FRAMES_OF_GRID)
    if isinstance(frames, bytes):  # a private element of a representation that is not said: always implicit
        try:
            frames = read_sequence(BytesIO(frames), True, True, len(frames), "iso8859")
        except Exception:  # pydicom raises whatever the damaged bytes provoke
            frames = None
    found = [numbers(frame, "ImagePositionPatient", 3) for frame in frames] if isinstance(frames, Sequence) else []
    positions = [position for position in found if position is not None]
    if len(positions) != count:
        raise _UnsaidError("where each slice lies")
    return np.array(positions), ""


def _mosaic_positions(header: ImageHeader, dataset: Any, csa: dict[str, Any]) -> tuple[NDArray[np.float64], str]:
    """The position of every slice ``(N, 3)`` LPS, and what was assumed.

    Siemens states the corner that a single slice of the mosaic's size would have round the first slice's centre.
    """
    tile = header.tile
    if tile is None or header.orientation is None or header.position is None or header.pixel_spacing is None:
        raise _UnsaidError("where it lies in the patient")
    step = finite_number(dataset, "SpacingBetweenSlices") or 0.0
    if step <= 0:
        raise _UnsaidError("how far its slices lie apart (SpacingBetweenSlices)")
    along, down = np.array(header.orientation[:3]), np.array(header.orientation[3:])
    sign, remark = _direction(np.cross(along, down), csa)
    first = np.array(header.position)
    first = first + along * header.pixel_spacing[1] * header.columns * (tile.across - 1) / 2
    first = first + down * header.pixel_spacing[0] * header.rows * (tile.down - 1) / 2
    return first + np.arange(tile.total)[:, None] * sign * step * np.cross(along, down), remark


def _direction(normal: Vector, csa: dict[str, Any]) -> tuple[int, str]:
    """1 where slices follow one another along ``normal``, −1 against it, and what was assumed."""
    stated = values(csa.get("SliceNormalVector"))
    if len(stated) == 3:
        cosine = float(normal @ np.array(stated))
        if not _PARALLEL < abs(cosine) < 1 / _PARALLEL:
            raise _UnsaidError("which way its slices run: their normal contradicts their orientation")
        return 1 if cosine > 0 else -1, ""
    axis = int(np.argmax(np.abs(normal)))
    if normal[axis] < 0:  # the scanner's default and the plane's normal disagree
        raise _UnsaidError("which way its slices run")
    return 1, f"the order of the mosaic's slices is not in its header: {_DEFAULT_ORDER[axis]} is assumed"
