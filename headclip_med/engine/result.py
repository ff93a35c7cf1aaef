"""What a prediction gives back: small frozen records, nothing that computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.types import Affine, Plane
from headclip_med.base.volume import AnyVolume, volume_array
from headclip_med.reading.sources import with_meta, with_monai_meta

if TYPE_CHECKING:
    pass


def to_metatensors(result: AnomalyResult) -> AnomalyResult:
    """Put volume and map into MetaTensors, which share their memory with the arrays.

    Args:
        result: With volumes of any kind.

    Returns:
        The same result with MetaTensors.
    """
    import torch

    volume = with_monai_meta(result.volume)
    volume_map = with_meta(torch.from_numpy(volume_array(result.volume_map)), result.affine, volume.meta)
    return replace(result, volume=volume, volume_map=volume_map)


@dataclass(frozen=True)
class SliceScore:
    """One slice of the primary plane.

    Attributes:
        index: Position along the array axis of the plane, in the source's own voxel grid (0-based).
        position_mm: RAS mm of the slice's centre. None in a plain picture, which has no place in a patient.
        score: Joint anomaly score in [0, 1]. 0 for a background slice, which never enters the tower.
        background: Nothing but background in it.
        uid: SOPInstanceUID where the source is DICOM.
        interpolated: Not scored, but filled in between scored slices (see :mod:`headclip_med.models.speed`).
    """

    index: int
    position_mm: tuple[float, float, float] | None
    score: float
    background: bool = False
    uid: str | None = None
    interpolated: bool = False


@dataclass(frozen=True)
class Finding:
    """One 3-D connected component of the volume map above the threshold.

    Of a plain picture everything in millimetres is None: it has pixels, and no place in a patient.

    Attributes:
        label: 1 for the finding with the highest peak, then descending.
        peak, mean: Of the volume map within the component, in [0, 1].
        volume_mm3, voxels: Size. Voxels of a plain picture are its pixels.
        centroid_mm, centroid_voxel: map-weighted over the component's voxel centres, in RAS mm and in voxel indices.
        peak_mm, peak_voxel: The voxel with the highest value, likewise.
        extent_mm: Size of the bounding box along the array axes, in mm.
        voxel_min, voxel_max: Inclusive bounding box in voxel indices.
        slices: First and last index along the primary plane's axis, inclusive.
    """

    label: int
    peak: float
    mean: float
    volume_mm3: float | None
    voxels: int
    centroid_mm: tuple[float, float, float] | None
    peak_mm: tuple[float, float, float] | None
    extent_mm: tuple[float, float, float] | None
    centroid_voxel: tuple[float, float, float]
    peak_voxel: tuple[int, int, int]
    voxel_min: tuple[int, int, int]
    voxel_max: tuple[int, int, int]
    slices: tuple[int, int]


@dataclass(frozen=True)
class AnomalyResult:
    """Everything that one prediction found.

    ``volume`` and ``volume_map`` are MetaTensors where torch did the work, else
    :class:`headclip_med.base.volume.LoadedVolume`. The properties give the same arrays of both.

    Attributes:
        volume: The source ``(C, I, J, K)``, values as stored on disk after rescale, RAS mm affine.
        volume_map: ``(1, I, J, K)`` float32 in [0, 1] on exactly the source's grid and affine.
        pred_score: Score of the volume (or 2-D image) in [0, 1].
        threshold: Cut on ``volume_map`` used for mask and findings. ``threshold_origin`` says where it came from.
        planes: Planes that were run. The first one is the primary plane of ``slices``.
        display_window: ``(low, high)`` in the source's intensity units that the network saw as black and white.
        timings: Seconds by step.
        provenance: Model, hashes, configuration, versions. No patient data.
        finding_labels: ``(I, J, K)``, n inside ``findings[n - 1]``, where a reader chose or drew the findings. None
            where they are the components of the map at the threshold.
    """

    volume: AnyVolume
    volume_map: AnyVolume
    pred_score: float
    threshold: float
    threshold_origin: str
    planes: tuple[Plane, ...]
    slices: tuple[SliceScore, ...]
    findings: tuple[Finding, ...]
    display_window: tuple[float, float]
    timings: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    finding_labels: NDArray[np.uint16] | None = None

    @property
    def affine(self) -> Affine:
        """Voxel index → RAS mm, ``(4, 4)`` float64."""
        return np.asarray(self.volume_map.affine, dtype=np.float64)

    @property
    def meta(self) -> Mapping[str, Any]:
        """The source's metadata. Keys in :class:`headclip_med.base.types.VolumeMeta`, any of them may be absent."""
        return dict(self.volume.meta)

    @property
    def source_array(self) -> NDArray[np.float32]:
        """The source as a numpy array ``(C, I, J, K)``."""
        return volume_array(self.volume)

    @property
    def map_array(self) -> NDArray[np.float32]:
        """The volume map as a numpy array ``(I, J, K)``."""
        return np.asarray(volume_array(self.volume_map)[0])

    @property
    def pred_mask(self) -> NDArray[np.uint8]:
        """``(I, J, K)`` uint8: 1 where the map reaches the threshold, or in the findings that a reader chose."""
        if self.finding_labels is not None:
            return (self.finding_labels > 0).astype(np.uint8)
        return (self.map_array >= self.threshold).astype(np.uint8)
