"""Which slices of a case are on the screen, and going to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.types import Vector

from .grid import DisplayGrid
from .orientation import own_order


@dataclass(frozen=True, eq=False)
class Navigation:
    """A viewer's sliders in the terms of one case, whose axes are the viewer's last three.

    Attributes:
        dims: the viewer's.
        grid: how the case is laid out.
        axis: array axis of the primary plane's slices.
        steps: world units of the viewer in one of the case's, ``(3,)``.
    """

    dims: Any
    grid: DisplayGrid
    axis: int
    steps: NDArray[np.float64]

    def current_index(self) -> int | None:
        """Find the slice of the primary plane that is shown.

        Returns:
            Its index along the source's own axis, None in another plane, in 3-D, or beyond the volume.
        """
        axis, size = self.grid.display_axis(self.axis), self.grid.shape[self.axis]
        if self.cut_axis() != axis or self.is_beyond():
            return None
        return self.grid.display_index(self.axis, self._step(axis), size)

    def here(self) -> tuple[Any, ...] | None:
        """Find the slice on the screen.

        Returns:
            An index into a displayed array, None in 3-D.
        """
        axis = self.cut_axis()
        return None if axis is None else ((slice(None),) * axis + (self._step(axis),))

    def is_beyond(self) -> bool:
        """Tell whether the screen cuts beyond the volume, where another layer reaches further.

        Returns:
            True where the volume has no slice there, False in 3-D.
        """
        axis = self.cut_axis()
        return axis is not None and not 0 <= self._step(axis) < self.grid.displayed_shape[axis]

    def jump(self, index: int) -> None:
        """Show a slice of the primary plane.

        Args:
            index: along the source's own axis.
        """
        axis = self.grid.display_axis(self.axis)
        step = self.grid.display_index(self.axis, index, self.grid.shape[self.axis])
        place = self.grid.translate[axis] + step * self.grid.scale[axis]
        self.dims.set_point(self.dims.ndim - 3 + axis, float(place * self.steps[axis]))

    def go_to(self, ras_mm: Vector) -> None:
        """Show the slices through a place of the patient, in every plane.

        Args:
            ras_mm: the place, ``(3,)``.
        """
        place = self.grid.world_of(ras_mm) * self.steps
        self.dims.set_point(range(self.dims.ndim - 3, self.dims.ndim), tuple(float(value) for value in place))

    def cut_axis(self) -> int | None:
        """Find the displayed array's axis across which the screen cuts.

        Returns:
            The axis, 0 to 2, None in 3-D and in a viewer with fewer axes.
        """
        order = own_order(self.dims)
        return order[0] if order and self.dims.ndisplay == 2 else None

    def _step(self, axis: int) -> int:
        """Index along a displayed array's axis of what is on the screen, which may lie beyond the array."""
        if self.dims.ndim < 3:
            return -1
        place = self.dims.point[axis - 3] / self.steps[axis]
        return int(np.rint((place - self.grid.translate[axis]) / self.grid.scale[axis]))
