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
    """Says how slices of one plane are cut from a volume's array, and put back.

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
    """Measure the voxels.

    Args:
        affine: voxel index → RAS mm, ``(4, 4)``.

    Returns:
        Sizes in mm along the array axes, ``(3,)``.
    """
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def directions(affine: Affine) -> Affine:
    """Find where the array axes point.

    Args:
        affine: voxel index → RAS mm, ``(4, 4)``.

    Returns:
        Unit vectors (RAS) as the columns of a ``(3, 3)`` matrix.
    """
    return np.asarray(affine[:3, :3] / spacing(affine))


def axis_order(affine: Affine) -> tuple[int, int, int]:
    """Assign an array axis to each RAS axis.

    The assignment maximises the sum of absolute direction cosines, so obliques of any angle get one.

    Args:
        affine: voxel index → RAS mm, ``(4, 4)``.

    Returns:
        For R, A and S the array axis that is nearest, a permutation of 0, 1, 2.
    """
    from itertools import permutations

    cosines = np.abs(directions(affine))
    best = max(permutations(range(3)), key=lambda p: sum(cosines[r, p[r]] for r in range(3)))
    return best[0], best[1], best[2]


def ras_axis(plane: Plane) -> int:
    """Give the RAS axis along which slices are stacked.

    Args:
        plane: whose normal it is.

    Returns:
        0, 1 or 2.
    """
    return _NORMAL[plane]


def plane_axis(affine: Affine, plane: Plane) -> int:
    """Find the array axis along which slices are stacked.

    Args:
        affine: voxel index → RAS mm, ``(4, 4)``.
        plane: of the slices.

    Returns:
        0, 1 or 2.
    """
    return axis_order(affine)[ras_axis(plane)]


def axis_plane(affine: Affine, axis: int) -> Plane:
    """Name the plane of slices by the nearest patient axis.

    Args:
        affine: voxel index → RAS mm, ``(4, 4)``.
        axis: array axis (0–2) along which they are stacked.

    Returns:
        The anatomical name.
    """
    ras = axis_order(affine).index(axis)
    return next(plane for plane in PLANES if ras_axis(plane) == ras)


def acquisition_plane(
    affine: Affine, normal: Vector | None = None, shape: Sequence[int] | None = None
) -> tuple[Plane, str]:
    """Find the plane in which slices were acquired.

    The source's own ``normal`` comes first, then the only axis with one voxel, then the axis with a distinctly larger
    step, then axial.

    Args:
        affine: voxel index → RAS mm, ``(4, 4)``.
        normal: RAS unit vector ``(3,)``, where the format states it.
        shape: ``(I, J, K)``.

    Returns:
        The plane, and the reason in words.
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
    """Cut a plane so that it shows in radiological display orientation.

    Args:
        affine: voxel index → RAS mm, ``(4, 4)``.
        plane: of the slices.

    Returns:
        How to cut it from the array.
    """
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
    """Find a voxel in its slice as displayed.

    Args:
        frame: how the slice is cut.
        shape: ``(I, J, K)``.
        index: voxel index ``(i, j, k)``, which may be fractional.

    Returns:
        Column and row, from 0 in the top left corner.
    """
    column, row = float(index[frame.col_axis]), float(index[frame.row_axis])
    return (
        shape[frame.col_axis] - 1 - column if frame.flip_cols else column,
        shape[frame.row_axis] - 1 - row if frame.flip_rows else row,
    )


def voxel_to_world(affine: Affine, ijk: NDArray[np.floating | np.integer]) -> NDArray[np.float64]:
    """Place voxels in patient space.

    Args:
        affine: voxel index → RAS mm, ``(4, 4)``.
        ijk: voxel indices ``(..., 3)``.

    Returns:
        RAS mm ``(..., 3)``.
    """
    return np.asarray(np.asarray(ijk, dtype=float) @ affine[:3, :3].T + affine[:3, 3])


def world_to_voxel(affine: Affine, ras_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the voxels of points in patient space.

    Args:
        affine: voxel index → RAS mm, ``(4, 4)``.
        ras_mm: ``(..., 3)``.

    Returns:
        Fractional voxel indices ``(..., 3)``.
    """
    return np.asarray((np.asarray(ras_mm, dtype=float) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T)


def slice_centres(affine: Affine, shape: tuple[int, int, int], axis: int) -> NDArray[np.float64]:
    """Place every slice's centre in patient space.

    Args:
        affine: voxel index → RAS mm, ``(4, 4)``.
        shape: ``(I, J, K)``.
        axis: array axis (0–2) along which slices are stacked.

    Returns:
        RAS mm, ``(shape[axis], 3)``.
    """
    centres = np.tile((np.asarray(shape, dtype=float) - 1) / 2, (shape[axis], 1))
    centres[:, axis] = np.arange(shape[axis])
    return voxel_to_world(affine, centres)


def slices_normal(affine: Affine, axis: int) -> Vector:
    """Find the direction at right angles to slices: their axis itself unless the affine is sheared.

    Args:
        affine: voxel index → RAS mm, ``(4, 4)``.
        axis: array axis (0–2) along which slices are stacked.

    Returns:
        Unit vector (RAS), ``(3,)``.
    """
    row = np.linalg.inv(affine[:3, :3])[axis]
    return np.asarray(row / np.linalg.norm(row))


def voxel_volume(affine: Affine) -> float:
    """Measure one voxel.

    Args:
        affine: voxel index → RAS mm, ``(4, 4)``.

    Returns:
        Its volume in mm³.
    """
    return float(abs(np.linalg.det(affine[:3, :3])))


def check_affine(affine: NDArray[np.float64], source: str, *, allow_shear: bool = False) -> Affine:
    """Check that an affine places voxels in space.

    Args:
        affine: of any kind.
        source: name of what it belongs to, for the error.
        allow_shear: whether axes may be other than orthogonal (a gantry tilt) by more than 0.6 degrees.

    Returns:
        The affine as float64.

    Raises:
        InputError: a wrong shape, NaN or Inf, a last row other than ``0 0 0 1``, a singular matrix, or a shear.
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
