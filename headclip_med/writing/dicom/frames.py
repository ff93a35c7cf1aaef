"""A result's map and findings at the pixels of the source frames: exactly where the grids coincide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from headclip_med.base.errors import OutputError
from headclip_med.base.geometry import RAS_TO_LPS
from headclip_med.base.types import Affine
from headclip_med.engine.result import AnomalyResult
from headclip_med.engine.volume_map import connected_components
from headclip_med.writing.dicom.sources import SourceFrame, SourceImages, check_places

# Voxels: affines that went through DICOM's decimal strings and back differ by less.
_ON_GRID = 1e-3

MOST_SEGMENTS = 50  # findings with a segment of their own; viewers list them all, and nobody reads more


def frame_scores(result: AnomalyResult, sources: SourceImages) -> NDArray[np.float32]:
    """Sample the map at every source pixel: exactly where the grids coincide, else linearly between voxels.

    Args:
        result: Its map is sampled.
        sources: The images that it was made from.

    Returns:
        ``(N, rows, columns)`` in [0, 1], N source frames, 0 outside the volume.

    Raises:
        OutputError: several frames without a place in the patient, or two in one.
    """
    return np.clip(_at_pixels(result.map_array, result, sources, order=1), 0, 1)


def frame_segments(result: AnomalyResult, sources: SourceImages) -> NDArray[np.uint8]:
    """Sample segment numbers at every source pixel, from the nearest voxel.

    Args:
        result: Its findings become segments, see :func:`segment_volume`.
        sources: The images that it was made from.

    Returns:
        ``(N, rows, columns)``, N source frames, 0 in no segment and outside the volume.

    Raises:
        OutputError: several frames without a place in the patient, two in one, or a finding off its map.
    """
    return _at_pixels(segment_volume(result), result, sources, order=0)


def segment_volume(result: AnomalyResult) -> NDArray[np.uint8]:
    """Number the voxels of a result by segment.

    Args:
        result: Its findings, as a reader drew them or as components of the map at the threshold.

    Returns:
        ``(I, J, K)``: 1 to :data:`MOST_SEGMENTS` in the findings in order, one more in all the others together, 0 in
        none.

    Raises:
        OutputError: a finding whose peak is below the threshold, where no reader drew the findings.
    """
    if result.finding_labels is not None:
        return np.minimum(result.finding_labels, MOST_SEGMENTS + 1).astype(np.uint8)
    labels, count = connected_components(result.map_array, result.threshold)
    segments = np.full(count + 1, MOST_SEGMENTS + 1, dtype=np.uint8)
    segments[0] = 0
    for number, finding in enumerate(result.findings[:MOST_SEGMENTS], start=1):
        label = labels[finding.peak_voxel]
        if label == 0:
            raise OutputError("A finding must lie where its map reaches the threshold", f"finding {number} does not")
        segments[label] = number
    return segments[labels]


def read_affine(result: AnomalyResult) -> Affine:
    """Tell where the volume lay as it was read, before any transform turned or cropped it.

    Args:
        result: Its metadata hold the affine as read, where that is another.

    Returns:
        Voxel index → RAS mm, ``(4, 4)`` float64.
    """
    original = result.meta.get("original_affine")
    return result.affine if original is None else np.asarray(original, dtype=np.float64)


def _at_pixels(volume: NDArray[Any], result: AnomalyResult, sources: SourceImages, order: int) -> NDArray[Any]:
    check_places(sources.frames)
    out = np.zeros(sources.shape, dtype=volume.dtype)
    for place, (frame, to_voxel) in enumerate(_mappings(result, sources)):
        if _is_plain_slice(to_voxel, frame.k, volume.shape, sources.shape):
            out[place] = volume[:, :, frame.k].T
        else:
            out[place] = _sampled(volume, to_voxel, sources.shape[1:], order)
    return out


def _mappings(result: AnomalyResult, sources: SourceImages) -> Iterator[tuple[SourceFrame, NDArray[np.float64]]]:
    """For every frame the matrix ``(3, 3)``: (column, row, 1) → voxel of the result.

    As long as the volume has the source's own pixels, slice k *is* frame k, also where an irregular stack has no
    affine that places all of its slices. Positions in the patient decide only after resampling.
    """
    inverse = np.linalg.inv(result.affine)
    as_read = inverse @ read_affine(result)
    for frame in sources.frames:
        if sources.resampled and frame.to_lps is not None:
            lps = np.vstack([frame.to_lps, [0.0, 0.0, 1.0]])
            yield frame, (inverse @ RAS_TO_LPS @ lps)[:3]
        else:
            pixel = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, frame.k], [0, 0, 1]])
            yield frame, (as_read @ pixel)[:3]


def _is_plain_slice(
    to_voxel: NDArray[np.float64], k: int, shape: tuple[int, ...], frames: tuple[int, int, int]
) -> bool:
    expected = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, k]])
    far = np.array([[frames[2]], [frames[1]], [1.0]])
    fits = shape[:2] == (frames[2], frames[1]) and k < shape[2]
    return fits and bool(np.abs((to_voxel - expected) @ far).max() < _ON_GRID)


def _sampled(volume: NDArray[Any], to_voxel: NDArray[np.float64], size: tuple[int, int], order: int) -> NDArray[Any]:
    rows, columns = np.indices(size, dtype=float)
    places = np.tensordot(to_voxel, np.stack([columns, rows, np.ones(size)]), axes=1)
    whole = np.round(places)
    places = np.where(np.abs(places - whole) < _ON_GRID, whole, places)
    last = np.array(volume.shape)[:, None, None] - 1
    outside = ((places < -0.5) | (places > last + 0.5)).any(axis=0)
    found = ndimage.map_coordinates(volume, np.clip(places, 0, last), order=order, mode="nearest")
    found[outside] = 0
    return np.asarray(found)
