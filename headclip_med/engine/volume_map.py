"""2-D maps → one map in the source's grid; a volume's score; findings in millimetres or pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from headclip_med.base.geometry import spacing, voxel_to_world, voxel_volume
from headclip_med.base.types import Affine
from headclip_med.engine.result import Finding

Map = NDArray[np.float32]

# A volume's score is the mean of this share of its highest slice scores, at least one slice.
_TOP_SHARE = 0.05
_FULL_CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)


def smooth_along(volume_map: Map, axis: int, affine: Affine, sigma_mm: float) -> Map:
    """Smooth a map by a Gaussian along one array axis.

    Args:
        volume_map: ``(I, J, K)``.
        axis: Array axis from 0.
        affine: Voxel → RAS mm.
        sigma_mm: Sigma in mm, 0 leaves the map as it is.

    Returns:
        ``(I, J, K)``.
    """
    if sigma_mm <= 0:
        return volume_map
    sigma = sigma_mm / float(spacing(affine)[axis])
    return np.asarray(ndimage.gaussian_filter1d(volume_map, sigma, axis=axis, mode="nearest"))


def fuse_planes(maps: Sequence[Map]) -> Map:
    """Average the maps of several planes on one grid.

    Args:
        maps: At least one, each ``(I, J, K)``.

    Returns:
        ``(I, J, K)``.
    """
    if len(maps) == 1:
        return maps[0]
    fused = maps[0].copy()
    for other in maps[1:]:
        fused += other
    fused /= len(maps)
    return fused


def volume_score(slice_scores: Sequence[float]) -> float:
    """Average the top 5 % of the slice scores, at least one of them.

    Args:
        slice_scores: Of the slices with foreground, in [0, 1].

    Returns:
        In [0, 1], 0 for a volume without any foreground.
    """
    if not slice_scores:
        return 0.0
    top = max(1, round(_TOP_SHARE * len(slice_scores)))
    return float(np.mean(sorted(slice_scores, reverse=True)[:top]))


def find_components(
    volume_map: Map, affine: Affine, threshold: float, axis: int, is_plain: bool = False
) -> tuple[Finding, ...]:
    """Find the 26-connected components of ``volume_map >= threshold``.

    Args:
        volume_map: ``(I, J, K)`` in [0, 1].
        affine: Voxel → RAS mm.
        threshold: Cut on the map in (0, 1).
        axis: Array axis of the primary plane.
        is_plain: A picture, which has no millimetres.

    Returns:
        Findings, the highest peak first.
    """
    return _ranked(volume_map, affine, threshold, axis, is_plain)[0]


def labelled_components(
    volume_map: Map, affine: Affine, threshold: float, axis: int, is_plain: bool = False
) -> tuple[tuple[Finding, ...], NDArray[np.int32]]:
    """Find components as :func:`find_components`, and label their voxels.

    Args:
        volume_map, affine, threshold, axis, is_plain: As of :func:`find_components`.

    Returns:
        Findings, and ``(I, J, K)`` with a finding's ``label`` inside it, 0 outside.
    """
    findings, order, labels = _ranked(volume_map, affine, threshold, axis, is_plain)
    rank = np.zeros(len(findings) + 1, dtype=np.int32)
    rank[order] = np.arange(1, len(findings) + 1)
    return findings, rank[labels]


def _ranked(
    volume_map: Map, affine: Affine, threshold: float, axis: int, is_plain: bool
) -> tuple[tuple[Finding, ...], list[int], NDArray[np.int32]]:
    """Findings, highest peak first; which of the labels each is; labels in no order."""
    labels = connected_components(volume_map, threshold)[0]
    found = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        index = np.argwhere(labels[box] == label) + [s.start for s in box]
        found.append((label, measures(volume_map, index, affine, axis, is_plain)))
    found.sort(key=lambda f: (-f[1]["peak"], -f[1]["voxels"], f[1]["voxel_min"]))
    findings = tuple(Finding(label=rank + 1, **facts) for rank, (_, facts) in enumerate(found))
    return findings, [label for label, _ in found], labels


def connected_components(volume_map: Map, threshold: float) -> tuple[NDArray[np.int32], int]:
    """Label the 26-connected components of ``volume_map >= threshold``.

    Args:
        volume_map: ``(I, J, K)``.
        threshold: Cut on the map.

    Returns:
        Labels ``(I, J, K)`` from 1 in no order of importance, 0 outside, and how many there are.
    """
    labels, count = ndimage.label(volume_map >= threshold, structure=_FULL_CONNECTIVITY)
    return labels, int(count)


def measures(
    volume_map: Map, index: NDArray[np.integer], affine: Affine, axis: int, is_plain: bool, *, is_weighted: bool = True
) -> dict[str, Any]:
    """Measure everything of one :class:`Finding` but its label.

    Args:
        volume_map: ``(I, J, K)``.
        index: ``(n, 3)`` voxel indices of the finding.
        affine: Voxel → RAS mm.
        axis: Array axis of the primary plane.
        is_plain: A picture, whose millimetres are None.
        is_weighted: The centroid follows the map, where that is not 0 everywhere.

    Returns:
        Fields of :class:`Finding` by name.
    """
    values = volume_map[tuple(index.T)].astype(np.float64)
    low, high = index.min(axis=0), index.max(axis=0)
    weights = values if is_weighted and values.sum() > 0 else np.ones(len(index))
    centroid, peak = (index * weights[:, None]).sum(axis=0) / weights.sum(), index[values.argmax()]
    millimetres = {
        "volume_mm3": len(index) * voxel_volume(affine),
        "centroid_mm": _triple(voxel_to_world(affine, centroid)),
        "peak_mm": _triple(voxel_to_world(affine, peak)),
        "extent_mm": _triple((high - low + 1) * spacing(affine)),
    }
    return {
        "peak": float(values.max()),
        "mean": float(values.mean()),
        **(dict.fromkeys(millimetres) if is_plain else millimetres),
        "voxels": len(index),
        "centroid_voxel": _triple(centroid),
        "peak_voxel": _whole(peak),
        "voxel_min": _whole(low),
        "voxel_max": _whole(high),
        "slices": (int(low[axis]), int(high[axis])),
    }


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _whole(values: NDArray[np.integer]) -> tuple[int, int, int]:
    return int(values[0]), int(values[1]), int(values[2])
