"""Hand-made results for the tests of writing: a small volume, one bright voxel block, known millimetres."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from headclip_med.base.geometry import plane_axis, slice_centres
from headclip_med.base.types import Plane
from headclip_med.engine.result import AnomalyResult, Finding, SliceScore

SHAPE = (12, 10, 6)
UID = "1.2.826.0.1.3680043.8.498"


def oblique_affine() -> np.ndarray:
    """Voxels of 1 × 1.5 × 4 mm, turned by 20 degrees about the patient's S axis, origin off zero."""
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([1.0, 1.5, 4.0])
    affine[:3, 3] = [-12.25, 7.5, -30.125]
    return affine


def tensor(array: np.ndarray, affine: np.ndarray, meta: dict[str, Any] | None = None) -> MetaTensor:
    data = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    return MetaTensor(data, affine=torch.from_numpy(np.asarray(affine, dtype=np.float64)), meta=meta or {})


def make_result(
    affine: np.ndarray | None = None,
    amap: np.ndarray | None = None,
    meta: dict[str, Any] | None = None,
    plane: Plane = "axial",
    image: np.ndarray | None = None,
    window: tuple[float, float] = (0.0, 100.0),
) -> AnomalyResult:
    """A result whose map is ``amap`` ``(I, J, K)``; default: a block of 2 × 3 × 2 voxels at 0.8 in 0.1."""
    affine = oblique_affine() if affine is None else affine
    if amap is None:
        amap = np.full(SHAPE, 0.1)
        amap[2:4, 5:8, 3:5] = 0.8
    image = 50 * np.ones((1, *amap.shape)) if image is None else image
    plain = bool((meta or {}).get("is_2d"))
    axis = plane_axis(affine, plane)
    scores = amap.max(axis=tuple(a for a in range(3) if a != axis))
    centres = slice_centres(affine, amap.shape, axis)
    slices = tuple(
        SliceScore(i, None if plain else (float(c[0]), float(c[1]), float(c[2])), float(scores[i]), uid=f"{UID}.{i}")
        for i, c in enumerate(centres)
    )
    return AnomalyResult(
        volume=tensor(image, affine, {"source_name": "case.nii.gz", "source_format": "nifti"} | (meta or {})),
        volume_map=tensor(amap[None], affine),
        pred_score=float(amap.max()),
        threshold=0.5,
        threshold_origin="test",
        planes=(plane,),
        slices=slices,
        findings=(replace(FINDING, **NO_MILLIMETRES) if plain else FINDING,),
        display_window=window,
        timings={"encode": 1.25},
        warnings=("one odd thing",),
        provenance={"model": {"name": "headclip-tiny", "weights_sha256": "ab" * 32}, "layers": (5, 11)},
    )


NO_MILLIMETRES: dict[str, Any] = dict.fromkeys(("volume_mm3", "centroid_mm", "peak_mm", "extent_mm"))
FINDING = Finding(
    label=1,
    peak=0.8,
    mean=0.7,
    volume_mm3=72.0,
    voxels=12,
    centroid_mm=(-23.1, 10.2, 33.0),
    peak_mm=(1.0, -2.0, -3.0),
    extent_mm=(2.0, 4.5, 8.0),
    centroid_voxel=(2.5, 6.0, 3.5),
    peak_voxel=(3, 7, 4),
    voxel_min=(2, 5, 3),
    voxel_max=(3, 7, 4),
    slices=(3, 4),
)


def without_finding(result: AnomalyResult) -> AnomalyResult:
    flat = tensor(np.full(result.volume_map.shape, 0.1), result.affine)
    return replace(result, volume_map=flat, findings=(), pred_score=0.1)
