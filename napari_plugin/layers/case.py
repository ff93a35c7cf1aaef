"""The open case as napari layers: the only place that makes, changes and removes them.

From below: the source's sequences, the anomaly map, the contours of the threshold, what the reader drew. All of them
lie on one :class:`.grid.DisplayGrid`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.geometry import SliceFrame
from headclip_med.base.types import Vector, VolumeMeta
from headclip_med.base.volume import LoadedVolume
from headclip_med.slicing.slices import put_back_array

from ..compat import lock, world_steps
from .checks import can_be_kept, is_as_made, is_foreign, is_thick, is_upright
from .contours import Contours
from .grid import DisplayGrid
from .navigation import Navigation
from .picture import Picture, unwritable
from .volume import LayerTuple, volume_layers
from .windows import Limits

if TYPE_CHECKING:
    from headclip_med.review import ReviewFinding
    from headclip_med.review.model import ResultLink

_BRUSH = 6
_LOOK = (  # what a reader may set, and what must not stay for another patient
    *(
        "opacity",
        "blending",
        "gamma",
        "projection_mode",
        "interpolation2d",
        "interpolation3d",
        "rendering",
        "depiction",
    ),
    *("iso_threshold", "attenuation", "experimental_clipping_planes", "show_selected_label"),
)
_PLACE = ("scale", "translate", "units", "axis_labels", "metadata", "name", "colormap")


class CaseLayers:
    """Layers of one case in a viewer. Others' are only hidden while one is open.

    Args:
        viewer: napari's.

    Attributes:
        picture: what is on the screen, all of it, None while it is not.
        lost: called when somebody else has removed one of the layers.
        painted: when the drawn layer may have changed.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self.picture: Picture | None = None
        self.grid: DisplayGrid | None = None
        self.sources: list[Any] = []
        self.map: Any = None
        self.contours: Any = None
        self.drawn: Any = None
        self.map_range: Limits = (0.0, 1.0)
        self.lost: Callable[[], None] = _nothing
        self.painted: Callable[[], None] = _nothing
        self._axis = 0
        self._map_array: NDArray[np.float32] | None = None
        self._kept: NDArray[Any] | None = None
        self._painted: Contours | None = None
        self._hidden: list[Any] = []
        self._has_drawing = self._is_changing = False
        self._opacity, self._is_shown, self._is_peeking = 0.6, True, False
        viewer.layers.events.removed.connect(self._removed)

    # -- opening and closing

    def open(self, picture: Picture) -> None:
        """Show a picture instead of the one before, and hide whatever else is open, which would lie over it.

        Args:
            picture: what the layers show.
        """
        for layer in self._viewer.layers:
            if layer.visible and layer not in self._ours():
                layer.visible = False
                self._hidden.append(layer)
        for side in ("margin_left", "margin_right"):  # of thick slices
            setattr(self._viewer.dims, side, (0.0,) * self._viewer.dims.ndim)
        self.show(picture)

    def show(self, picture: Picture) -> None:
        """Show all of a picture. Until it is, nothing counts as shown. Layers that are there are used again.

        Args:
            picture: what the layers show.
        """
        self.picture = None
        with self._changing():
            self._remove(self.drawn)  # with its history, and whatever stroke is going on
            self.drawn = None
            self._painted = Contours(picture.grid, picture.map_array, picture.contours[0])
            self.grid, self._map_array, self._axis = picture.grid, picture.map_array, picture.axis
            self.map_range = picture.map_range
            for layer in self._ours():  # napari draws at once, and complains where mm lie beside pixels
                layer.units = picture.map[1]["units"]
            self._put_sources(picture.sources)
            self.map = self._put(self.map, picture.map)
            self.map.opacity = self._opacity
            self.contours = self._put(self.contours, picture.contours)
            self.contours.contour = 1
            self.contours.editable = False
            self._put_drawn(picture.drawn)
            self._stack()
            if self.sources:
                self._viewer.layers.selection.active = self.sources[0]
        self.picture = picture
        self.show_overlay(picture.is_overlay_shown)

    def close(self) -> None:
        """Remove every layer of ours, and show again what was hidden for them."""
        self.picture = None
        with self._changing():
            for layer in self._ours():
                self._remove(layer)
        self.sources, self.map, self.contours, self.drawn = [], None, None, None
        self.grid, self._map_array, self._painted, self._kept = None, None, None, None
        for layer in self._hidden:
            layer.visible = True
        self._hidden = []

    def let_go(self) -> None:
        """Leave the viewer as it is, and listen to it no more."""
        self.lost = self.painted = _nothing
        self._viewer.layers.events.removed.disconnect(self._removed)

    @property
    def is_run(self) -> bool:
        """Tell whether it is a run that is on the screen."""
        return self.picture is not None and self.picture.link is None

    def is_there(self) -> bool:
        """Tell whether every layer of the picture is in the viewer.

        Returns:
            False where one is missing, or there is no picture.
        """
        return self.picture is not None and all(self._is_there(layer) for layer in self._ours())

    def is_whole(self) -> bool:
        """Tell whether the picture is on the screen as it was made.

        Returns:
            True where every layer is there, with its own values in its own place, and nothing else is in sight.
        """
        return self.is_there() and not self.is_altered() and not self.is_out_of_sight()

    def is_altered(self) -> bool:
        """Tell whether a layer that is there holds other values or lies in another place: something else is seen.

        Returns:
            True also where several slices are shown as one, False without a picture.
        """
        picture = self.picture
        if picture is None:
            return False
        made = (*picture.sources, picture.map, picture.contours)
        pairs = zip((*self.sources, self.map, self.contours), made, strict=True)
        if picture.drawn is not None and self._is_there(self.drawn) and not can_be_kept(self.drawn, picture.drawn):
            return True
        if any(self._is_there(layer) and not is_as_made(layer, one) for layer, one in pairs):
            return True
        return self._is_thick() or (self._is_there(self.contours) and not self._are_contours_ours())

    def is_out_of_sight(self) -> bool:
        """Tell whether the picture is hidden, as by another case in the same viewer, or another one is shown with it.

        Returns:
            True where all that should be visible is hidden though nobody peeks, or a picture of others is in sight.
        """
        if self.picture is not None and any(is_foreign(layer, self._ours()) for layer in self._viewer.layers):
            return True
        layers = (*self.sources, *((self.map, self.contours) if self._is_shown else ()))
        there = [layer for layer in layers if self._is_there(layer)]
        return bool(there) and not self._is_peeking and not any(layer.visible for layer in there)

    def shown(self) -> ResultLink | None:
        """Tell which result's map is on the screen, whole.

        Returns:
            The result, None where there is none, and during a run.
        """
        return self.picture.link if self.picture is not None and self.is_whole() else None

    # -- going somewhere

    def current_index(self) -> int | None:
        """Find the slice of the primary plane that is shown.

        Returns:
            Its index along the source's own axis, None in another plane, in 3-D, beyond the volume, or without a
            picture.
        """
        return None if self._view is None else self._view.current_index()

    def is_beyond(self) -> bool:
        """Tell whether the screen cuts beyond the volume, where another layer reaches further.

        Returns:
            True where the volume has no slice there, False in 3-D and without a picture.
        """
        return self.picture is not None and self._view is not None and self._view.is_beyond()

    def jump(self, index: int) -> None:
        """Show a slice of the primary plane.

        Args:
            index: along the source's own axis.
        """
        if self._view is not None:
            self._view.jump(index)

    def go_to(self, ras_mm: Vector) -> None:
        """Show the slices through a place of the patient, in every plane.

        Args:
            ras_mm: the place, ``(3,)``.
        """
        if self._view is not None:
            self._view.go_to(ras_mm)

    # -- the overlay

    def show_overlay(self, is_shown: bool) -> None:
        """Show or hide map and contours.

        Args:
            is_shown: whether it may be seen.
        """
        self._is_shown = is_shown
        self._set_visible()

    def peek(self, is_peeking: bool) -> None:
        """Hide everything above the source for a moment.

        Args:
            is_peeking: whether the bare slice is wanted.
        """
        self._is_peeking = is_peeking
        self._set_visible()

    def set_opacity(self, opacity: float) -> None:
        """Set the opacity of the map. Contours and drawings stay as they are.

        Args:
            opacity: in [0, 1].
        """
        self._opacity = opacity
        if self._is_there(self.map):
            self.map.opacity = opacity

    def preview(self, threshold: float) -> None:
        """Show contours of the slice on the screen at a threshold, at once. The rest of the volume follows later.

        Args:
            threshold: in [0, 1].
        """
        here = None if self._view is None else self._view.here()
        if self.picture is None or self._painted is None or here is None or self.is_beyond():
            return
        if self._is_there(self.contours):
            self._painted.preview(here, threshold)
            _redraw(self.contours)

    def show_findings(
        self, labels: NDArray[np.int32], findings: Sequence[ReviewFinding], chosen: str | None = None
    ) -> None:
        """Show contours of all findings in the colours of their decisions.

        Args:
            labels: ``(I, J, K)`` of :class:`headclip_med.review.Components`.
            findings: the finding of each label.
            chosen: key of the one that stands out.
        """
        if self.picture is not None and self._painted is not None and self._is_there(self.contours):
            self._painted.paint(labels, findings, chosen)
            _redraw(self.contours)

    def put_maps(self, frame: SliceFrame, indices: Sequence[int], maps: NDArray[np.float32]) -> None:
        """Put maps of a run in place, as they come. Nothing where a case has been opened meanwhile.

        Args:
            frame: how the slices lie in the volume.
            indices: of the slices, ``n`` of them.
            maps: probabilities in [0, 1], ``(n, H, W)`` in display orientation.
        """
        if self._map_array is not None and self.is_run:
            put_back_array(maps, self._map_array, frame, indices)
            if self._is_there(self.map):
                _redraw(self.map)

    # -- drawing

    def begin_drawing(self, number: int) -> None:
        """Hand the reader a brush that paints ``number``.

        Args:
            number: of the finding.
        """
        if self._is_there(self.drawn):
            self._viewer.layers.selection.active = self.drawn
            self._has_drawing = True
            self._set_visible()
            self.drawn.editable = True
            self.drawn.selected_label = number
            self.drawn.brush_size = _BRUSH
            self.drawn.mode = "paint"

    def end_drawing(self) -> None:
        """Go back to looking."""
        if self._is_there(self.drawn):
            self.drawn.mode = "pan_zoom"
            if self.sources and self._is_there(self.sources[0]):
                self._viewer.layers.selection.active = self.sources[0]

    def allow_drawing(self, is_allowed: bool) -> None:
        """Let the drawn layer be painted on, or not.

        Args:
            is_allowed: whether it may be painted on.
        """
        if self._is_there(self.drawn) and self.drawn.editable != is_allowed:
            self.drawn.editable = is_allowed

    def painted_labels(self) -> NDArray[Any] | None:
        """Look for what is painted and not kept yet.

        Returns:
            ``(I, J, K)`` of the drawn layer, a view, None where nothing differs from what is kept, or the layer is gone
            or does not lie on the case's grid.
        """
        if self.grid is None or not self._is_there(self.drawn) or self.picture is None or self.picture.drawn is None:
            return None
        if self._kept is None or not can_be_kept(self.drawn, self.picture.drawn):
            return None
        if np.array_equal(self.drawn.data, self._kept):
            return None
        return self.grid.to_source(np.asarray(self.drawn.data))

    def show_drawn(self, labels: NDArray[Any]) -> None:
        """Show these labels ``(I, J, K)``, which are kept, instead of what is painted.

        Args:
            labels: ``(I, J, K)`` of the drawn findings' numbers.
        """
        made = None if self.picture is None else self.picture.drawn
        if self.grid is None or made is None or not self._is_there(self.drawn) or not can_be_kept(self.drawn, made):
            return
        self._kept = np.array(self.grid.view(labels), order="C")
        if not np.array_equal(self.drawn.data, self._kept):
            self.drawn.data[...] = self._kept
            _forget_strokes(self.drawn)
            _redraw(self.drawn)
        if not self._has_drawing and self._kept.any():
            self._has_drawing = True  # and stays it, even empty: a hidden layer tells nobody of napari's redo
            self._set_visible()

    # -- the source's window

    @property
    def limits(self) -> Limits | None:
        """Return black and white of the uppermost sequence that is shown, None without a grey one."""
        layer = self._shown_source()
        return None if layer is None else (float(layer.contrast_limits[0]), float(layer.contrast_limits[1]))

    def set_limits(self, limits: Limits) -> None:
        """Set black and white of the uppermost sequence that is shown.

        Args:
            limits: black and white.
        """
        layer = self._shown_source()
        if layer is not None:
            low, high = layer.contrast_limits_range
            layer.contrast_limits_range = (min(low, limits[0]), max(high, limits[1]))
            layer.contrast_limits = limits

    def shown_sequence(self) -> int:
        """Find the uppermost grey sequence that is shown.

        Returns:
            Its number, from 0. Also 0 where there is none.
        """
        layer = self._shown_source()
        return self.sources.index(layer) if layer is not None else 0

    def show_sequence(self, number: int, is_shown: bool) -> None:
        """Show or hide one of several sequences.

        Args:
            number: of the sequence, from 0.
            is_shown: whether it may be seen.
        """
        if number < len(self.sources) and self._is_there(self.sources[number]):
            self.sources[number].visible = is_shown

    def add_sequence(self, name: str, array: NDArray[np.float32]) -> None:
        """Add another image of the patient on the same grid, ``(I, J, K)`` or in colour ``(I, J, K, 3)``, just above.

        Args:
            name: of its layer.
            array: ``(I, J, K)``, or ``(I, J, K, 3)`` in colour.
        """
        if self.picture is None:
            return
        volume = LoadedVolume(
            np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None],
            self.picture.grid.affine,
            VolumeMeta(source_name=name, is_rgb=array.ndim == 4),
        )
        made = unwritable(*volume_layers(volume, self.picture.grid.is_plain))
        place = max(
            (self._viewer.layers.index(layer) + 1 for layer in self.sources if self._is_there(layer)), default=0
        )
        self.sources.append(self._add(made))
        self._viewer.layers.move(len(self._viewer.layers) - 1, place)
        self.picture = replace(self.picture, sources=(*self.picture.sources, made))

    # -- inside

    def _ours(self) -> tuple[Any, ...]:
        return tuple(layer for layer in (*self.sources, self.map, self.contours, self.drawn) if layer is not None)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """What is removed meanwhile is removed by us."""
        self._is_changing = True
        try:
            yield
        finally:
            self._is_changing = False

    def _removed(self, event: Any) -> None:
        if not self._is_changing and event.value in self._ours():
            self.lost()

    def _put_sources(self, wanted: Sequence[LayerTuple]) -> None:
        """Layers of these sequences. Those that are there are used again, since napari takes long to remove one."""
        olds, self.sources = self.sources, []
        for old in olds[len(wanted) :]:
            self._remove(old)
        for place, made in enumerate(wanted):
            self.sources.append(self._put(olds[place] if place < len(olds) else None, made))

    def _put(self, old: Any, made: LayerTuple) -> Any:
        """A layer with this content and look: ``old`` where it can be used again, else a new one."""
        from napari.layers import Layer

        data, kwargs, _ = made
        is_fitting = self._is_there(old) and getattr(old, "rgb", False) == kwargs.get("rgb", False)
        if not is_fitting or not is_upright(old):
            self._remove(old)
            return self._add(made)
        old.data = data
        for name in _PLACE:
            if name in kwargs:
                setattr(old, name, kwargs[name])
        if "contrast_limits" in kwargs:
            old.contrast_limits_range = old.contrast_limits = kwargs["contrast_limits"]
        fresh = Layer.create(*made)
        for name in _LOOK:
            if hasattr(fresh, name):
                setattr(old, name, getattr(fresh, name))
        old.visible = kwargs.get("visible", True)
        lock(old)
        return old

    def _put_drawn(self, made: LayerTuple | None) -> None:
        if made is None:
            return
        self.drawn, self._kept = self._add(made), made[0].copy()
        self._has_drawing = bool(made[0].any())  # an empty layer costs time with every slice
        for event in (self.drawn.events.paint, self.drawn.events.set_data, self.drawn.events.data):
            event.connect(self._was_painted)

    def _was_painted(self, event: Any) -> None:
        self.painted()

    def _stack(self) -> None:
        """Put our layers in their order, above all others, where they are not."""
        layers = self._viewer.layers
        places = [layers.index(layer) for layer in self._ours()]
        if places != sorted(places):
            for layer in self._ours():
                layers.move(layers.index(layer), len(layers))

    def _add(self, made: LayerTuple) -> Any:
        from napari.layers import Layer

        layer = self._viewer.add_layer(Layer.create(*made))
        lock(layer)
        return layer

    def _remove(self, layer: Any) -> None:
        if self._is_there(layer):
            self._viewer.layers.remove(layer)

    def _is_there(self, layer: Any) -> bool:
        """A user may have deleted it."""
        return layer is not None and layer in self._viewer.layers

    def _is_thick(self) -> bool:
        return is_thick(self._viewer.dims, [layer for layer in self._ours() if self._is_there(layer)])

    def _are_contours_ours(self) -> bool:
        """Whether the contours on the screen are those that we have put there: anybody can write into their array."""
        view = self._view
        return view is None or self._painted is None or view.is_beyond() or self._painted.is_as_painted(view.here())

    def _set_visible(self) -> None:
        for layer in (self.map, self.contours):
            if self._is_there(layer):
                layer.visible = self._is_shown and not self._is_peeking
        if self._is_there(self.drawn):
            self.drawn.visible = self._has_drawing and not self._is_peeking

    @property
    def _view(self) -> Navigation | None:
        """The screen in the terms of the case, None where there is none."""
        if self.grid is None:
            return None
        layer = next((layer for layer in self._ours() if self._is_there(layer)), None)
        steps = np.ones(3) if layer is None else world_steps(self._viewer, layer)
        return Navigation(self._viewer.dims, self.grid, self._axis, steps)

    def _shown_source(self) -> Any:
        shown = [layer for layer in self.sources if self._is_there(layer) and layer.visible and not layer.rgb]
        return shown[-1] if shown else None


def _nothing() -> None:
    pass


def _redraw(layer: Any) -> None:
    """Show changed values. Extent and thumbnail stay as they are, which is what takes time."""
    layer.refresh(extent=False, thumbnail=False, highlight=False)


def _forget_strokes(layer: Any) -> None:
    """Empty napari's own history of a labels layer: its steps lead back from what is no longer there."""
    mode, label = layer.mode, layer.selected_label
    layer.editable = False
    layer.editable = True
    layer.mode, layer.selected_label = mode, label
