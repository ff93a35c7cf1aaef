"""Pure affine maths: planes ↔ array axes, slices ↔ patient space. Everything is RAS and millimetres.

An affine maps a voxel's *centre* index ``(i, j, k)`` to RAS millimetres: ``x = A[:3, :3] @ ijk + A[:3, 3]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import InputError
from headclip_med.base.types import PLANES, Affine, Plane, Vector

# RAS axis that a plane's normal follows.
_NORMAL: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}

# On screen, radiological convention: direction (RAS) in which rows go down and columns go right.
# Axial: rows towards posterior, columns towards the patient's left (the patient's right is on the viewer's left).
_DOWN: dict[Plane, Vector] = {
    "axial": np.array([0.0, -1.0, 0.0]),
    "coronal": np.array([0.0, 0.0, -1.0]),
    "sagittal": np.array([0.0, 0.0, -1.0]),
}

# Direction cosines of real scans are stored rounded; 0.01 is an angle of 0.6 degrees, below any gantry tilt.
SHEAR_TOLERANCE = 1e-2

# A through-plane step must exceed the others by this factor before it decides the acquisition axis.
_ANISOTROPY = 1.05

RAS_TO_LPS: Affine = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class SliceFrame:
    """How slices of one plane are cut from a volume's array, and put back.

    Attributes:
        plane: anatomical name, by the nearest patient axis.
        axis: array axis (0–2) along which slices are stacked.
        row_axis, col_axis: array axes that become a slice's rows and columns.
        flip_rows, flip_cols: whether these axes run against the display direction.
    """

    plane: Plane
    axis: int
    row_axis: int
    col_axis: int
    flip_rows: bool
    flip_cols: bool


def spacing(affine: Affine) -> Vector:
    """Voxel sizes in mm along the array axes, shape ``(3,)``."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def directions(affine: Affine) -> Affine:
    """Unit vectors (RAS) of the array axes as columns of a ``(3, 3)`` matrix."""
    return np.asarray(affine[:3, :3] / spacing(affine))


def axis_order(affine: Affine) -> tuple[int, int, int]:
    """For each RAS axis (R, A, S) the array axis that is nearest to it; a permutation of 0, 1, 2.

    The assignment maximises the sum of absolute direction cosines, so obliques of any angle get one.
    """
    from itertools import permutations

    cosines = np.abs(directions(affine))
    best = max(permutations(range(3)), key=lambda p: sum(cosines[r, p[r]] for r in range(3)))
    return best[0], best[1], best[2]


def ras_axis(plane: Plane) -> int:
    """RAS axis (0–2) along which slices of ``plane`` are stacked: its normal."""
    return _NORMAL[plane]


def plane_axis(affine: Affine, plane: Plane) -> int:
    """Array axis along which slices of ``plane`` are stacked."""
    return axis_order(affine)[ras_axis(plane)]


def axis_plane(affine: Affine, axis: int) -> Plane:
    """Anatomical name of the plane whose slices are stacked along array axis ``axis``."""
    ras = axis_order(affine).index(axis)
    return next(plane for plane in PLANES if ras_axis(plane) == ras)


def acquisition_plane(
    affine: Affine, normal: Vector | None = None, shape: Sequence[int] | None = None
) -> tuple[Plane, str]:
    """The plane in which slices were acquired, and the reason in words.

    ``normal`` (RAS unit vector) is used when the format states it; otherwise the only axis of ``shape (I, J, K)``
    with one voxel; otherwise the axis with a distinctly larger step; otherwise axial.
    """
    if normal is not None:
        axis = int(np.argmax(np.abs(np.asarray(normal, dtype=float) @ directions(affine))))
        return axis_plane(affine, axis), "slice normal stated by the source"
    single = [axis for axis, size in enumerate(shape or ()) if size == 1]
    if len(single) == 1:
        return axis_plane(affine, single[0]), "a single slice"
    steps = spacing(affine)
    axis = int(np.argmax(steps))
    if steps[axis] > _ANISOTROPY * np.delete(steps, axis).max():
        return axis_plane(affine, axis), "largest voxel spacing"
    return "axial", "isotropic voxels: axial by default"


def slice_frame(affine: Affine, plane: Plane) -> SliceFrame:
    """Cutting instructions that show ``plane`` in radiological display orientation."""
    axis = plane_axis(affine, plane)
    cosines = directions(affine)
    down = _DOWN[plane]
    in_plane = [a for a in range(3) if a != axis]
    row_axis = max(in_plane, key=lambda a: abs(float(cosines[:, a] @ down)))
    col_axis = next(a for a in in_plane if a != row_axis)
    right = _right(plane)
    return SliceFrame(
        plane=plane,
        axis=axis,
        row_axis=row_axis,
        col_axis=col_axis,
        flip_rows=bool(cosines[:, row_axis] @ down < 0),
        flip_cols=bool(cosines[:, col_axis] @ right < 0),
    )


def _right(plane: Plane) -> Vector:
    """Screen-right direction (RAS): the patient's left, or posterior for a sagittal slice seen from the left."""
    return np.array([0.0, -1.0, 0.0]) if plane == "sagittal" else np.array([-1.0, 0.0, 0.0])


def displayed_pixel(frame: SliceFrame, shape: Sequence[int], index: Sequence[float]) -> tuple[float, float]:
    """Column and row of a voxel index in its slice as displayed, from 0 in the top left corner."""
    column, row = float(index[frame.col_axis]), float(index[frame.row_axis])
    return (
        shape[frame.col_axis] - 1 - column if frame.flip_cols else column,
        shape[frame.row_axis] - 1 - row if frame.flip_rows else row,
    )


def voxel_to_world(affine: Affine, ijk: NDArray[np.floating | np.integer]) -> NDArray[np.float64]:
    """Voxel indices ``(..., 3)`` → RAS mm ``(..., 3)``."""
    return np.asarray(np.asarray(ijk, dtype=float) @ affine[:3, :3].T + affine[:3, 3])


def world_to_voxel(affine: Affine, ras_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """RAS mm ``(..., 3)`` → fractional voxel indices ``(..., 3)``."""
    return np.asarray((np.asarray(ras_mm, dtype=float) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T)


def slice_centres(affine: Affine, shape: tuple[int, int, int], axis: int) -> NDArray[np.float64]:
    """RAS mm position of every slice's centre along ``axis``, shape ``(shape[axis], 3)``."""
    centres = np.tile((np.asarray(shape, dtype=float) - 1) / 2, (shape[axis], 1))
    centres[:, axis] = np.arange(shape[axis])
    return voxel_to_world(affine, centres)


def slices_normal(affine: Affine, axis: int) -> Vector:
    """Unit vector (RAS) at right angles to the slices along ``axis``: the axis itself unless the affine is sheared."""
    row = np.linalg.inv(affine[:3, :3])[axis]
    return np.asarray(row / np.linalg.norm(row))


def voxel_volume(affine: Affine) -> float:
    """Volume of one voxel in mm³."""
    return float(abs(np.linalg.det(affine[:3, :3])))


def check_affine(affine: NDArray[np.float64], source: str, *, allow_shear: bool = False) -> Affine:
    """Return ``affine`` as float64, or raise :class:`InputError` when it cannot place voxels in space.

    Refused: wrong shape, NaN/Inf, a last row other than ``0 0 0 1``, singular, axes that are not orthogonal
    (shear, such as a gantry tilt) within 0.6 degrees unless ``allow_shear``.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise InputError(f"The affine of {source} must be a 4×4 matrix", f"shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise InputError(
            f"The affine of {source} must be finite",
            "NaN or Inf in it",
            "Repair the header (sform/qform) or convert the file again",
        )
    if not np.allclose(matrix[3], [0, 0, 0, 1]):
        raise InputError(f"The affine of {source} must end in the row 0 0 0 1", matrix[3].tolist())
    steps = np.linalg.norm(matrix[:3, :3], axis=0)
    if steps.min() < 1e-6 or abs(np.linalg.det(matrix[:3, :3] / np.maximum(steps, 1e-12))) < 1e-6:
        raise InputError(
            f"The affine of {source} must be invertible",
            f"a singular matrix with voxel sizes {np.round(steps, 6).tolist()} mm",
            "Repair the header (sform/qform) or convert the file again",
        )
    cosines = matrix[:3, :3] / steps
    shear = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if shear > SHEAR_TOLERANCE and not allow_shear:
        raise InputError(
            f"The voxel axes of {source} must be orthogonal",
            f"a shear of {np.degrees(np.arcsin(min(shear, 1.0))):.1f} degrees (gantry tilt or an affine registration)",
            "Resample the volume to an orthogonal grid first",
        )
    return matrix
