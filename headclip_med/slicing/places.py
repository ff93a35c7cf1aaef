"""Which slice of an array is which slice of the source: by position, so that flips and crops change nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.geometry import directions, slice_centres, slices_normal
from headclip_med.base.types import Affine, Vector
from headclip_med.base.volume import AnyVolume

_PARALLEL = 0.9999  # cosine: 0.8 degrees
_SAME_SLICE_MM = 0.05


def empty_slices(volume: AnyVolume, affine: Affine) -> tuple[int, list[int]]:
    """Find the slices of the source that hold nothing.

    Args:
        volume: Metadata of it name the places of empty slices.
        affine: Voxel index → RAS mm, ``(4, 4)``.

    Returns:
        The array axis of the acquired slices, and the indices along it of those that hold nothing, rising.
    """
    places, normal = volume.meta.get("empty_positions"), volume.meta.get("slice_normal")
    if not places:
        return 2, []
    along = np.asarray([0.0, 0.0, 1.0] if normal is None else normal, dtype=float)
    axis = int(np.argmax(np.abs(along @ directions(affine))))
    matches = match_slices(slice_centres(affine, _shape(volume), axis), along, places)
    return axis, [index for index, match in enumerate(matches) if match is not None]


def source_slices(volume: AnyVolume, affine: Affine, axis: int) -> list[int | None]:
    """Find for every slice along an axis its place in the metadata's lists of source slices.

    Args:
        volume: Its metadata hold the positions of the source slices, RAS mm.
        affine: Voxel index → RAS mm, ``(4, 4)``.
        axis: Array axis, 0 to 2.

    Returns:
        One place per slice, None for one that is no slice of the source, such as after resampling.
    """
    meta = volume.meta
    places, normal = meta.get("slice_nominal_positions") or meta.get("slice_positions"), meta.get("slice_normal")
    centres = slice_centres(affine, _shape(volume), axis)
    if not places or normal is None or meta.get("resampled"):
        return [None] * len(centres)
    along = np.asarray(normal, dtype=float)
    if abs(float(along @ slices_normal(affine, axis))) < _PARALLEL:
        return [None] * len(centres)
    return match_slices(centres, along, places)


def match_slices(centres: NDArray[np.float64], normal: Vector, places: Sequence[Sequence[float]]) -> list[int | None]:
    """Match slices by the plane they lie in.

    Args:
        centres: ``(n, 3)`` of the slices, RAS mm.
        normal: Unit vector ``(3,)`` across the slices.
        places: ``(m, 3)`` positions of the source slices, RAS mm.

    Returns:
        Index into ``places`` for each centre, None where none lies in its plane.
    """
    stored = np.asarray(places, dtype=float) @ normal
    distance = np.abs((centres @ normal)[:, None] - stored[None])
    nearest = distance.argmin(axis=1)
    return [int(n) if distance[i, n] < _SAME_SLICE_MM else None for i, n in enumerate(nearest)]


def _shape(volume: AnyVolume) -> tuple[int, int, int]:
    return volume.shape[1], volume.shape[2], volume.shape[3]
