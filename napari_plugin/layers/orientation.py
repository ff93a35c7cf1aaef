"""Which way is up: letters at the edges of a 2-D view, and the side on which the patient's right is shown.

The world of our layers runs inferior, posterior, left (:mod:`.layers`), so every plane is radiological as it is. The
neurological convention mirrors the camera of axial and coronal views, never the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from headclip_med.base.types import Affine, Plane
from headclip_med.writing.panels import direction_letters

from ..compat import camera_of, canvas_overlay
from .grid import PATIENT_WORLD

Convention = Literal["radiological", "neurological"]
CONVENTIONS: tuple[Convention, ...] = ("radiological", "neurological")

LEFT_AXIS = 2  # of the world: grows towards the patient's left

# Order of the axes that shows a plane; the last two are rows and columns.
PLANE_ORDER: dict[Plane, tuple[int, int, int]] = {
    "axial": (0, 1, 2),
    "coronal": (1, 0, 2),
    "sagittal": (2, 0, 1),
}


def own_order(dims: Any) -> tuple[int, ...]:
    """Pick the axes of our layers, which are the last three of a viewer, whatever lies before them.

    The last ``dims.ndisplay`` of them are on the screen: napari leaves out what a layer does not have.

    Args:
        dims: the viewer's.

    Returns:
        0, 1 and 2 in the viewer's order, empty for a viewer with fewer axes, where none of our layers is open.
    """
    before = dims.ndim - 3
    return tuple(axis - before for axis in dims.order if axis >= before) if before >= 0 else ()


def own_displayed(dims: Any) -> tuple[int, ...]:
    """Pick the axes of our layers that are on the screen.

    Args:
        dims: the viewer's.

    Returns:
        The axes of rows and columns, all three in 3-D, empty for a viewer with fewer axes.
    """
    return own_order(dims)[-dims.ndisplay :]


def patient_world(viewer: Any) -> Affine | None:
    """Find the world of the volume on the screen, the chosen one first.

    Args:
        viewer: napari's.

    Returns:
        napari world mm → RAS mm, 4×4, None where no volume on the screen is a patient's.
    """
    layers = (viewer.layers.selection.active, *reversed(viewer.layers))
    shown = (layer.metadata.get("headclip_med") or {} for layer in layers if layer is not None and layer.visible)
    return next((kept["world_to_ras"] for kept in shown if "world_to_ras" in kept), None)


_EDGES = ("middle_left", "middle_right", "top_center", "bottom_center")


def edge_letters(
    world_to_ras: Affine, displayed: Sequence[int], orientation: Sequence[str] = ("down", "right")
) -> tuple[str, str, str, str]:
    """Name the edges of a 2-D view by the patient's letters.

    Args:
        world_to_ras: napari world mm → RAS mm, of the layers shown.
        displayed: world axes that run along rows' and columns' direction, as ``viewer.dims.displayed``.
        orientation: where these two grow on the screen, as ``viewer.camera.orientation2d``.

    Returns:
        The letters of the left, right, top and bottom edge.
    """
    vertical, horizontal = displayed
    down = world_to_ras[:3, vertical] * (1 if str(orientation[0]) == "down" else -1)
    right = world_to_ras[:3, horizontal] * (1 if str(orientation[1]) == "right" else -1)
    return direction_letters(-right), direction_letters(right), direction_letters(-down), direction_letters(down)


def camera_orientation(displayed: Sequence[int], convention: Convention) -> tuple[str, str]:
    """Choose where the two displayed axes grow.

    Args:
        displayed: world axes that run along rows and columns, as ``viewer.dims.displayed``.
        convention: radiological or neurological.

    Returns:
        Where rows and columns grow. In the neurological convention columns are mirrored where the patient's left and
        right run across the screen.
    """
    is_mirrored = convention == "neurological" and displayed[-1] == LEFT_AXIS
    return "down", "left" if is_mirrored else "right"


class Orientation:
    """Keeps a viewer's letters and its camera right, whatever planes are chosen.

    Args:
        viewer: napari's.
        convention: radiological or neurological.
    """

    def __init__(self, viewer: Any, convention: Convention = "radiological") -> None:
        self._viewer = viewer
        self.convention = convention
        self._camera = camera_of(viewer)
        self.world_to_ras: Affine | None = PATIENT_WORLD
        self._overlays = [canvas_overlay(viewer, f"headclip_med_{edge}", edge) for edge in _EDGES]
        self._events = (viewer.dims.events.order, viewer.dims.events.ndisplay, self._camera.events.orientation)
        for event in self._events:
            event.connect(self._update)
        self._update()

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """Return what stands at each edge (left, right, top, bottom), empty in 3-D and where there is no patient."""
        displayed = own_displayed(self._viewer.dims)
        if len(displayed) != 2 or self.world_to_ras is None:
            return "", "", "", ""
        return edge_letters(self.world_to_ras, displayed, self._camera.orientation2d)

    def follow(self, world_to_ras: Affine | None) -> None:
        """Take the letters from another volume's world, None: a picture, which has no sides and is never mirrored.

        Args:
            world_to_ras: napari world mm → RAS mm, 4×4, None for a picture.
        """
        self.world_to_ras = world_to_ras
        self._update()

    def set_convention(self, convention: Convention) -> None:
        """Show the patient's right on the viewer's left (radiological) or right (neurological).

        Args:
            convention: radiological or neurological.
        """
        self.convention = convention
        self._update()

    def show_plane(self, plane: Plane) -> None:
        """Turn the 2-D view to ``plane``. Axes of other layers stay before ours.

        Args:
            plane: axial, coronal or sagittal.
        """
        before = self._viewer.dims.ndim - 3
        if before >= 0:
            self._viewer.dims.ndisplay = 2
            self._viewer.dims.order = (*range(before), *(axis + before for axis in PLANE_ORDER[plane]))

    def close(self) -> None:
        """Let go of the viewer."""
        for event in self._events:
            event.disconnect(self._update)
        for overlay in self._overlays:
            overlay.visible = False

    def _update(self, event: object = None) -> None:
        displayed = own_displayed(self._viewer.dims)
        if len(displayed) == 2:
            convention = "radiological" if self.world_to_ras is None else self.convention
            wanted = camera_orientation(displayed, convention)
            if tuple(str(side) for side in self._camera.orientation2d) != wanted:
                self._camera.orientation2d = wanted  # comes back here
                return
        for overlay, text in zip(self._overlays, self.letters, strict=True):
            overlay.text = text
            overlay.visible = bool(text)
