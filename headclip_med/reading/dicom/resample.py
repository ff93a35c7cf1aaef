"""An irregular or tilted stack of slices → a regular, orthogonal grid, by linear interpolation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from headclip_med.base.types import Affine, Vector
from headclip_med.reading.checks import check_size
from headclip_med.reading.dicom.grid import Stack, ras_affine

# Nothing is made up inside a gap wider than this many typical steps.
_WIDEST_GAP = 1.5

_SAME_MM = 0.01
_SAME_PIXELS = 1e-3


def resample(array: NDArray[np.float32], stack: Stack, name: str) -> tuple[NDArray[np.float32], Affine]:
    """Resample slices to a grid that starts and ends at their ends, with the typical step along the normal.

    The step is the typical one, stretched so that a whole number of steps fits between the first and the last slice.
    Every slice is moved within its plane onto the first one's grid, which grows where slices reach beyond it.

    Args:
        array: ``(C, I, J, N)``, NaN where there is nothing.
        stack: The N slices in order.
        name: What to call the series in the message.

    Returns:
        ``(C, I', J', K)``, NaN outside all slices and inside gaps of more than 1.5 steps, and its affine to RAS mm.

    Raises:
        InputError: a grid that is too large.
    """
    offsets, low, grown = _offsets(stack)
    along = stack.along - stack.along[0]
    count = max(1, round(float(along[-1]) / stack.typical))
    step = float(along[-1]) / count
    shape = (array.shape[0], array.shape[1] + grown[0], array.shape[2] + grown[1], count + 1)
    check_size(shape, name)
    out = np.full(shape, np.nan, dtype=np.float32)
    moved = _Moved(array, offsets - low, shape[1:3])
    for k in range(count + 1):
        place = k * step
        above = int(np.clip(np.searchsorted(along, place - _SAME_MM), 0, len(along) - 1))
        if abs(along[above] - place) <= _SAME_MM:
            out[..., k] = moved[above]
            continue
        below = above - 1
        gap = float(along[above] - along[below])
        if gap <= _WIDEST_GAP * stack.typical:
            part = np.float32((place - along[below]) / gap)
            out[..., k] = (1 - part) * moved[below] + part * moved[above]
    return out, _affine(stack, low, step)


def _offsets(stack: Stack) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[int, int]]:
    """In-plane place ``(N, 2)`` of every slice in voxels of the first, the least of it, how much the plane grows."""
    first = stack.headers[0]
    orientation, (rows, columns) = np.array(first.orientation), first.pixel_spacing or (1.0, 1.0)
    moves = stack.positions - stack.positions[0]
    offsets = np.stack([moves @ orientation[:3] / columns, moves @ orientation[3:] / rows], axis=1)
    if not stack.kinds & {"tilt", "shift"}:
        offsets[:] = 0  # rounded positions
    whole = np.round(offsets)
    offsets = np.where(np.abs(offsets - whole) <= _SAME_PIXELS, whole, offsets)
    low = np.floor(offsets.min(axis=0))
    grown = np.ceil(offsets.max(axis=0)) - low
    return offsets, low, (int(grown[0]), int(grown[1]))


def _affine(stack: Stack, low: NDArray[np.float64], step: float) -> Affine:
    first = stack.headers[0]
    affine = ras_affine(replace(first, position=tuple(stack.positions[0])), _along(stack, step))
    affine[:3, 3] += affine[:3, :2] @ low
    return affine


def _along(stack: Stack, step: float) -> Vector:
    return np.asarray(stack.normal * step)


class _Moved:
    """Slices moved within their plane; the last two are remembered, as neighbours are asked for again."""

    def __init__(self, array: NDArray[np.float32], offsets: NDArray[np.float64], shape: tuple[int, ...]) -> None:
        self._array, self._offsets, self._shape = array, offsets, shape
        self._done: dict[int, NDArray[np.float32]] = {}

    def __getitem__(self, n: int) -> NDArray[np.float32]:
        if n not in self._done:
            self._done = {m: plane for m, plane in self._done.items() if m == n - 1}
            self._done[n] = self._move(n)
        return self._done[n]

    def _move(self, n: int) -> NDArray[np.float32]:
        whole = np.floor(self._offsets[n]).astype(int)
        rest = self._offsets[n] - whole
        plane = self._array[..., n]
        canvas = np.full((plane.shape[0], *self._shape), np.nan, dtype=np.float32)
        canvas[:, whole[0] : whole[0] + plane.shape[1], whole[1] : whole[1] + plane.shape[2]] = plane
        if not rest.any():
            return canvas
        shifted = ndimage.shift(canvas, (0, *rest), order=1, mode="constant", cval=np.nan)
        return np.asarray(shifted, dtype=np.float32)
