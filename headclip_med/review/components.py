"""A threshold → the mask of one slice at once, the findings of the volume in a thread, and a judged region again.

Regions of different thresholds of one map are nested or apart, never half over each other: everything that has to do
with decisions under a moving threshold rests on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.types import Affine
from headclip_med.engine.result import Finding
from headclip_med.engine.volume_map import Map, labelled_components, measures

Voxel = tuple[int, int, int]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Components:
    """All findings at one threshold.

    Attributes:
        findings: highest peak first, ``label`` from 1.
        peaks: their voxels.
        labels: ``(I, J, K)`` int32, a finding's ``label`` inside it, 0 outside.
    """

    threshold: float
    findings: tuple[Finding, ...]
    peaks: tuple[Voxel, ...]
    labels: NDArray[np.int32]

    def mask(self, label: int) -> Mask:
        """Cut out one finding.

        Args:
            label: of the component, from 1.

        Returns:
            ``(I, J, K)``, true inside, false everywhere for a label that is not there.
        """
        return self.labels == label


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the grid: a box of voxels and which of them are in it.

    Attributes:
        box: a slice along each array axis.
        inside: which voxels of the box are in it.
    """

    box: tuple[slice, slice, slice]
    inside: Mask

    def holds(self, voxel: Voxel) -> bool:
        """Tell whether a voxel lies in it.

        Args:
            voxel: index along the array axes.

        Returns:
            True where it is in the box and inside.
        """
        place = tuple(v - s.start for v, s in zip(voxel, self.box, strict=True))
        within = all(0 <= p < n for p, n in zip(place, self.inside.shape, strict=True))
        return within and bool(self.inside[place])

    def mask(self, shape: Voxel) -> Mask:
        """Lay the region into the whole grid.

        Args:
            shape: voxels along the array axes.

        Returns:
            ``shape``, true inside.
        """
        full = np.zeros(shape, dtype=bool)
        full[self.box] = self.inside
        return full


def slice_mask(volume_map: Map, axis: int, index: int, threshold: float) -> Mask:
    """Find where one slice reaches the threshold. Looks at nothing but that slice.

    Args:
        volume_map: probabilities in [0, 1], ``(I, J, K)``.
        axis: array axis, 0 to 2.
        index: of the slice along ``axis``.
        threshold: in [0, 1].

    Returns:
        The slice in array order, without ``axis``, true where the map is at or above the threshold.
    """
    return np.asarray(volume_map[(slice(None),) * axis + (index,)] >= threshold)


def components_at(volume_map: Map, affine: Affine, threshold: float, axis: int, is_plain: bool = False) -> Components:
    """Find the components at a threshold. Pure, for a thread.

    Args:
        volume_map: probabilities in [0, 1], ``(I, J, K)``.
        affine: voxel index → RAS mm, 4×4.
        threshold: in [0, 1].
        axis: array axis along which the slices are stacked.
        is_plain: whether it is a picture without millimetres and patient.

    Returns:
        The findings, highest peak first, with their peaks and labels.
    """
    findings, labels = labelled_components(volume_map, affine, threshold, axis, is_plain)
    return Components(threshold, findings, tuple(finding.peak_voxel for finding in findings), labels)


def region_of(mask: Mask) -> Region:
    """Cut a mask with at least one voxel down to its bounding box.

    Args:
        mask: ``(I, J, K)``, true inside.

    Returns:
        The smallest box that holds all of it, with a copy of what is inside.
    """
    spans = [np.flatnonzero(mask.any(axis=tuple(b for b in range(3) if b != axis))) for axis in range(3)]
    i, j, k = (slice(int(span[0]), int(span[-1]) + 1) for span in spans)
    return Region((i, j, k), mask[i, j, k].copy())


def measure_region(
    mask: Mask, volume_map: Map, affine: Affine, axis: int, label: int = 1, is_plain: bool = False
) -> Finding:
    """Measure a drawn or cut region with at least one voxel as one :class:`Finding`, whatever its parts.

    The centroid is the mean of the voxel centres: what was drawn may lie where the map is 0.

    Args:
        mask: ``(I, J, K)``, true inside.
        volume_map: probabilities in [0, 1], ``(I, J, K)``.
        affine: voxel index → RAS mm, 4×4.
        axis: array axis along which the slices are stacked.
        label: number of the finding.
        is_plain: whether it is a picture without millimetres and patient.

    Returns:
        The finding with the number ``label``.
    """
    region = region_of(mask)
    index = np.argwhere(region.inside) + [s.start for s in region.box]
    return Finding(label=label, **measures(volume_map, index, affine, axis, is_plain, is_weighted=False))


def to_runs(mask: Mask) -> tuple[tuple[int, int], ...]:
    """Encode a mask as the runs of its voxels in C order.

    Args:
        mask: ``(I, J, K)``, true inside.

    Returns:
        ``(first, length)`` of each run, in flat order from 0, none of an empty mask.
    """
    inside = np.flatnonzero(mask)
    if not len(inside):
        return ()
    ends = np.flatnonzero(np.diff(inside) != 1)
    first = inside[np.concatenate(([0], ends + 1))]
    last = inside[np.concatenate((ends, [len(inside) - 1]))]
    return tuple((int(a), int(b - a + 1)) for a, b in zip(first, last, strict=True))


def from_runs(runs: Sequence[tuple[int, int]], shape: Voxel) -> Mask:
    """Decode a mask from its runs. What lies beyond the grid is left out.

    Args:
        runs: first voxel and length of each, in flat order.
        shape: voxels along the array axes.

    Returns:
        ``shape``, true inside.
    """
    flat = np.zeros(int(np.prod(shape)), dtype=bool)
    for first, length in runs:
        flat[first : first + length] = True
    return flat.reshape(shape)
