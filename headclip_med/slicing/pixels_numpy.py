"""The steps of :mod:`headclip_med.slicing.pixels` in numpy, for machines without torch; equal within rounding.

Resizing is linear in each image axis, so each axis is one small matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.geometry import SliceFrame
from headclip_med.slicing.intensity import Placement, Preprocessing, Range, check_channels, released_levels
from headclip_med.slicing.scan import Floats, Scan

# Keys' cubic kernel with a = −0.5 (Catmull-Rom), as torch and Pillow use it with antialiasing.
_CUBIC_A = -0.5


def slice_pixels(scan: Scan, frame: SliceFrame, indices: Sequence[int]) -> Floats:
    """Make the normalised model input of some slices.

    Args:
        scan: The volume and how its slices become pixels.
        frame: The plane and its orientation.
        indices: Slices along the frame's axis, n of them.

    Returns:
        ``(n, 3, S, S)`` float32, normalised.
    """
    slices, ranges = scan.cut(frame, indices)
    if scan.preprocessing.kind == "released":
        square = released_levels(slices, scan.preprocessing.image_size, inverted=scan.inverted)
        return normalise(three_channels(square), scan.preprocessing)
    levels = rescale(slices, ranges, inverted=scan.inverted)
    return normalise(three_channels(to_square(levels, scan.placement(frame))), scan.preprocessing)


def slice_limits(scan: Scan, frame: SliceFrame, inside: NDArray[np.bool_]) -> Floats:
    """Bring the foreground of slices into the model's square input.

    Args:
        scan: The volume and how its slices become pixels.
        frame: The plane and its orientation.
        inside: Foreground ``(n, H, W)``.

    Returns:
        ``(n, S, S)`` float32, 1 in the patient and 0 elsewhere.
    """
    square = to_square(inside[:, None].astype(np.float32), scan.placement(frame))
    return (square[:, 0] > 0.5).astype(np.float32)


def rescale(slices: Floats, ranges: Sequence[Range], *, inverted: bool = False) -> Floats:
    """Scale stored values to levels between black and white, clipped.

    Args:
        slices: Stored values ``(N, C, H, W)``.
        ranges: ``(low, high)`` of each of the C channels, in stored units.
        inverted: MONOCHROME1, where low is bright.

    Returns:
        ``(N, C, H, W)`` in [0, 1].
    """
    low, high = (_by_channel([r[end] for r in ranges]) for end in (0, 1))
    scaled = np.clip((slices - low) / (high - low), 0, 1)
    return 1 - scaled if inverted else scaled


def three_channels(slices: Floats) -> Floats:
    """Repeat a single channel three times, and leave three as they are.

    Args:
        slices: ``(N, 1 or 3, H, W)``.

    Returns:
        ``(N, 3, H, W)``, a view that cannot be written to.

    Raises:
        InputError: any other number of channels.
    """
    check_channels(slices.shape[1])
    return np.broadcast_to(slices, (len(slices), 3, *slices.shape[2:]))


def to_square(slices: Floats, placement: Placement) -> Floats:
    """Resize slices to their place in the model's square input, bicubic with antialiasing, padded with 0.

    Args:
        slices: ``(N, C, H, W)`` in [0, 1].
        placement: Where the slice lies in the square.

    Returns:
        ``(N, C, size, size)`` in [0, 1].
    """
    rows = cubic_matrix(slices.shape[2], placement.height)
    cols = cubic_matrix(slices.shape[3], placement.width)
    square = np.zeros((*slices.shape[:2], placement.size, placement.size), dtype=np.float32)
    square[:, :, placement.rows, placement.columns] = np.clip(rows @ slices @ cols.T, 0, 1)
    return square


def from_square(maps: Floats, placement: Placement, shape: tuple[int, int]) -> Floats:
    """Bring maps of the square back to the slice's own pixels: crop, then bilinear.

    Args:
        maps: ``(N, size, size)``.
        placement: Where the slice lies in the square.
        shape: ``(H, W)`` of the slice.

    Returns:
        ``(N, H, W)``.
    """
    rows = linear_matrix(placement.height, shape[0])
    cols = linear_matrix(placement.width, shape[1])
    return np.asarray(rows @ maps[:, placement.rows, placement.columns] @ cols.T)


def normalise(pixels: Floats, preprocessing: Preprocessing) -> Floats:
    """Scale pixels as the tower was trained: (x − mean) / std per channel.

    Args:
        pixels: ``(N, 3, S, S)`` in [0, 1].
        preprocessing: The tower's mean and std.

    Returns:
        ``(N, 3, S, S)``.
    """
    return np.asarray((pixels - _by_channel(preprocessing.mean)) / _by_channel(preprocessing.std))


@lru_cache(maxsize=64)
def cubic_matrix(source: int, target: int) -> Floats:
    """Compute torch's ``bicubic`` with ``antialias`` along one axis as a matrix.

    The kernel is stretched by the scale where the image shrinks, cut off at the edges and divided by its sum.

    Args:
        source, target: Pixels before and after.

    Returns:
        ``(target, source)`` float32, every row of which sums to 1.
    """
    scale = float(np.float32(source) / np.float32(target))
    stretch = max(scale, 1.0)
    centres = _float32(scale * (np.arange(target) + 0.5))[:, None]
    weights = _cubic((np.arange(source) + 0.5 - centres) / stretch)
    return _frozen(weights / weights.sum(axis=1, keepdims=True))


@lru_cache(maxsize=64)
def linear_matrix(source: int, target: int) -> Floats:
    """Compute torch's ``bilinear`` without ``align_corners`` along one axis as a matrix, the edges repeated.

    Args:
        source, target: Pixels before and after.

    Returns:
        ``(target, source)`` float32, every row of which sums to 1.
    """
    scale = float(np.float32(source) / np.float32(target))
    places = np.maximum(_float32(scale * (np.arange(target) + 0.5) - 0.5), 0)
    below, row = np.floor(places).astype(np.intp), np.arange(target)
    matrix = np.zeros((target, source))
    np.add.at(matrix, (row, np.minimum(below, source - 1)), 1 - (places - below))
    np.add.at(matrix, (row, np.minimum(below + 1, source - 1)), places - below)
    return _frozen(matrix)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel: 1 at 0, 0 at the other integers and from 2 on."""
    a, x = _CUBIC_A, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _float32(places: NDArray[np.floating]) -> NDArray[np.float64]:
    """Places as torch rounds them; in a large image that is more than the rounding of the values."""
    return places.astype(np.float32).astype(np.float64)


def _frozen(matrix: NDArray[np.float64]) -> Floats:
    """Read-only, since every caller gets the same one."""
    fixed = matrix.astype(np.float32)
    fixed.setflags(write=False)
    return fixed


def _by_channel(values: Sequence[float]) -> Floats:
    return np.asarray(values, dtype=np.float32).reshape(1, -1, 1, 1)
