"""Volumes → napari layers: axis-aligned views in one millimetre world that all our layers share.

A plain picture has neither millimetres nor a patient: its world is its own pixels, frames, rows and columns.

napari cannot slice a rotated layer in 2-D, so no layer gets a volume's affine. It gets a view of the array
(no copy) whose axes run as near as can be towards the patient's inferior, posterior and left, with a positive
scale in mm and a shift. World axes are therefore

| axis | label | grows towards | for an axis-aligned volume |
|---|---|---|---|
| 0 | I | inferior | -S mm |
| 1 | P | posterior | -A mm |
| 2 | L | left | -R mm |

Every 2-D view that napari makes of them is radiological (the patient's right on the viewer's left, superior
or anterior up), and the 3-D view is not mirrored. For an oblique volume the world is turned as a whole.
``metadata["headclip_med"]["world_to_ras"]`` always leads back to the patient exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.geometry import directions, slice_frame, spacing, world_to_voxel
from headclip_med.base.types import Affine

AXIS_LABELS = ("I", "P", "L")  # one letter each: napari's sliders have no room for more
UNITS = ("mm", "mm", "mm")
PLAIN_LABELS = ("n", "y", "x")
PLAIN_UNITS = ("pixel", "pixel", "pixel")

# Additive: black where nothing was found, so that anatomy below stays as it is.
MAP_LOOK: dict[str, Any] = {"contrast_limits": (0.0, 1.0), "colormap": "inferno", "blending": "additive"}
MASK_LOOK: dict[str, Any] = {"opacity": 0.4}

_INFERIOR = np.array([0.0, 0.0, -1.0])

PATIENT_WORLD: Affine = np.array([[0.0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
"""napari world mm → RAS mm of every axis-aligned volume."""


@dataclass(frozen=True)
class DisplayGrid:
    """How a volume's array is laid out for display.

    Attributes:
        affine: voxel index → RAS mm, of the volume as it is on disk.
        display_to_voxel: index in the displayed array → voxel index. A signed permutation with a shift.
        shape: voxels along the volume's axes.
        is_plain: a picture without a patient, whose world is its pixels.
    """

    affine: Affine
    display_to_voxel: Affine
    shape: tuple[int, int, int]
    is_plain: bool = False

    @property
    def display_to_ras(self) -> Affine:
        """Return the index in the displayed array → RAS mm."""
        return np.asarray(self.affine @ self.display_to_voxel)

    @property
    def scale(self) -> NDArray[np.float64]:
        """Return positive steps in world units along the displayed axes, ``(3,)``, where oblong pixels stay oblong."""
        steps = spacing(self.display_to_ras)
        return np.array([1.0, *(steps[1:] / steps[1:].min())]) if self.is_plain else steps

    @property
    def world_to_ras(self) -> Affine:
        """Return napari world mm → RAS mm: a rotation, no shift."""
        matrix = np.eye(4)
        matrix[:3, :3] = directions(self.display_to_ras)
        return matrix

    @property
    def translate(self) -> NDArray[np.float64]:
        """Return the world place of the displayed array's first voxel centre, shape ``(3,)``."""
        if self.is_plain:
            return np.zeros(3)
        return np.asarray(np.linalg.solve(self.world_to_ras[:3, :3], self.display_to_ras[:3, 3]))

    def view(self, array: NDArray[Any]) -> NDArray[Any]:
        """Lay an array out for display.

        Args:
            array: ``(I, J, K)`` in the source's order.

        Returns:
            The displayed array, a view, not a copy.
        """
        turn = self.display_to_voxel[:3, :3]
        flips = tuple(slice(None, None, -1 if column.sum() < 0 else 1) for column in turn.T)
        return array.transpose(tuple(np.abs(turn).argmax(axis=0)))[flips]

    def to_source(self, displayed: NDArray[Any]) -> NDArray[Any]:
        """Take a displayed array back into the source's order: the inverse of :meth:`view`.

        Args:
            displayed: an array in display order.

        Returns:
            ``(I, J, K)`` as on disk, a view, not a copy.
        """
        turn = self.display_to_voxel[:3, :3]
        flips = tuple(slice(None, None, -1 if column.sum() < 0 else 1) for column in turn.T)
        return displayed[flips].transpose(tuple(np.abs(turn).argmax(axis=1)))

    @property
    def displayed_shape(self) -> tuple[int, ...]:
        """Return the voxels along the displayed axes."""
        return tuple(self.shape[axis] for axis in np.abs(self.display_to_voxel[:3, :3]).argmax(axis=0))

    def world_of(self, ras_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert places in the patient to napari's world.

        Args:
            ras_mm: RAS mm, ``(..., 3)``.

        Returns:
            ``(..., 3)`` in world mm, of a picture in its pixels.
        """
        if self.is_plain:
            return world_to_voxel(self.display_to_ras, np.asarray(ras_mm, dtype=float)) * self.scale
        return np.asarray(np.asarray(ras_mm, dtype=float) @ self.world_to_ras[:3, :3])

    def display_axis(self, axis: int) -> int:
        """Find the displayed axis that shows an axis of the source's array.

        Args:
            axis: of the source's array.

        Returns:
            The displayed axis, 0 to 2.
        """
        return int(np.abs(self.display_to_voxel[axis, :3]).argmax())

    def display_index(self, axis: int, index: int, size: int) -> int:
        """Find where a slice of the source's array lies along the displayed axis.

        Args:
            axis: of the source's array.
            index: of the slice along that axis.
            size: voxels along that axis.

        Returns:
            The index along the displayed axis.
        """
        is_flipped = self.display_to_voxel[axis, self.display_axis(axis)] < 0
        return size - 1 - index if is_flipped else index

    def layer_kwargs(self, **metadata: object) -> dict[str, Any]:
        """Gather the keyword arguments that place a layer.

        Args:
            **metadata: kept beside the way back to the patient.

        Returns:
            Scale, shift, units, axis labels and metadata, as napari takes them.
        """
        way_back: dict[str, object] = {"affine": self.affine, "display_to_voxel": self.display_to_voxel}
        way_back |= {"shape": self.shape}
        way_back |= {"is_2d": True} if self.is_plain else {"world_to_ras": self.world_to_ras}
        return {
            "scale": tuple(float(step) for step in self.scale),
            "translate": tuple(float(shift) for shift in self.translate),
            "units": PLAIN_UNITS if self.is_plain else UNITS,
            "axis_labels": PLAIN_LABELS if self.is_plain else AXIS_LABELS,
            "metadata": {"headclip_med": {**way_back, **metadata}},
        }


def display_grid(affine: Affine, shape: tuple[int, int, int], is_plain: bool = False) -> DisplayGrid:
    """Choose how a volume is laid out for display.

    Args:
        affine: voxel index → RAS mm, 4×4.
        shape: voxels along the array axes.
        is_plain: whether it is a picture without a patient.

    Returns:
        The grid, whose axes run as near as can be towards the patient's inferior, posterior and left.
    """
    frame = slice_frame(affine, "axial")
    flip_slices = bool(directions(affine)[:, frame.axis] @ _INFERIOR < 0)
    axes = (frame.axis, frame.row_axis, frame.col_axis)
    display_to_voxel = np.zeros((4, 4))
    display_to_voxel[3, 3] = 1
    for column, (axis, flip) in enumerate(zip(axes, (flip_slices, frame.flip_rows, frame.flip_cols), strict=True)):
        display_to_voxel[axis, column] = -1 if flip else 1
        display_to_voxel[axis, 3] = shape[axis] - 1 if flip else 0
    return DisplayGrid(np.asarray(affine, dtype=np.float64), display_to_voxel, shape, is_plain)


def map_colours() -> NDArray[np.float32]:
    """Make the colours of the anomaly map over anatomy.

    Inferno without its near-black end, which would only darken the anatomy. Opacity rises with the value, from 0.

    Returns:
        ``(256, 4)`` RGBA in [0, 1], from the lowest value to the highest.
    """
    from napari.utils.colormaps import ensure_colormap

    share = np.linspace(0, 1, 256)
    colours = np.array(ensure_colormap("inferno").map(0.3 + 0.7 * share), dtype=np.float32)
    colours[:, 3] = np.sqrt(share)
    return colours
