"""The open case as napari layers: the only place that makes, changes and removes them.

From below: the source's sequences, the anomaly map, the contours of the threshold, what the reader drew. All of them
lie on one :class:`.layers.DisplayGrid`; the arrays are views of the session's own where nobody writes into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.geometry import SliceFrame
from headclip_med.reading.base import AnyVolume, LoadedVolume
from headclip_med.slices import put_back_array
from headclip_med.types import RESEARCH_ONLY, Affine, Vector, VolumeMeta

from .layers import DisplayGrid, display_grid, map_colours
from .volume_layers import LayerTuple, volume_layers
from .windows import Limits

if TYPE_CHECKING:
    from headclip_med.review import OpenCase, ReviewFinding

# Contour colours by decision: apart in lightness and hue for every kind of colour vision, none of them in the map.
_COLOURS = {
    None: "#35e0ff",
    "accepted": "#5bf08a",
    "rejected": "#9aa3ad",
    "uncertain": "#ffffff",
    "mixed": "#c9a0ff",
}
_CODES = {status: number for number, status in enumerate(_COLOURS, start=1)}
_CHOSEN = 10  # added to the code of the finding that is chosen
_CHOSEN_COLOUR = "#ff4fd8"
_DRAWN_COLOUR = "#7dff5a"
_BRUSH = 6
_RUN_RANGE = (0.3, 1.0)  # of the map's colours while the threshold is not known yet


class CaseLayers:
    """Layers of one case in a viewer; made anew when another one opens."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self.grid: DisplayGrid | None = None
        self.sources: list[Any] = []
        self.map: Any = None
        self.contours: Any = None
        self.drawn: Any = None
        self.map_range: Limits = (0.0, 1.0)
        self._axis = 0
        self._map_array: NDArray[np.float32] | None = None
        self._labels: NDArray[np.int32] | None = None
        self._codes: dict[int, int] = {}
        self._hidden: list[Any] = []
        self._is_run = self._has_drawing = False
        self._opacity, self._is_shown, self._is_peeking = 0.6, True, False

    # -- opening and closing

    def open_case(self, case: OpenCase, volume: AnyVolume | None) -> None:
        """Show a case; ``volume`` is its source on the same grid, None where there is none."""
        data, seen = case.data, case.data.volume_map
        if case.concealed:  # not even a thumbnail or a value below the cursor may tell
            seen = np.zeros_like(seen)
        facts = {
            "source": case.record.source.name,
            "pred_score": case.record.pred_score if not case.concealed else None,
            "threshold": case.record.threshold,
            **data.codes,
        }
        self.map_range = (0.0, 1.0) if case.concealed else map_range(seen, case.record.threshold)
        self._open(volume, seen, data.affine, data.axis, facts)
        labels = case.drawn_labels()
        self._add_drawn(labels, facts)
        self._has_drawing = bool(labels.any())
        self.show_overlay(not case.concealed)

    def open_run(self, volume: AnyVolume, affine: Affine, axis: int) -> None:
        """Show a source and a map that is still to come; see :meth:`put_maps`."""
        shape = tuple(volume.shape[1:])
        self.map_range = _RUN_RANGE
        self._open(volume, np.zeros(shape, dtype=np.float32), affine, axis, {})
        self._is_run = True
        self.show_overlay(True)

    def close(self) -> None:
        """Remove every layer of ours, and show again what was hidden for them."""
        for layer in (*self.sources, self.map, self.contours, self.drawn):
            self._remove(layer)
        self.sources, self.map, self.contours, self.drawn = [], None, None, None
        self.grid, self._map_array, self._labels, self._is_run = None, None, None, False
        for layer in self._hidden:
            layer.visible = True
        self._hidden = []

    # -- going somewhere

    def current_index(self) -> int | None:
        """The slice of the primary plane that is shown; None in another plane or in 3-D."""
        if self.grid is None or self._map_array is None:
            return None
        display_axis = self.grid.display_axis(self._axis)
        if display_axis in self._viewer.dims.displayed:
            return None
        size = self._map_array.shape[self._axis]
        return self.grid.display_index(self._axis, self._step(display_axis, size), size)

    def jump(self, index: int) -> None:
        """Show a slice of the primary plane, by its index in the source."""
        if self.grid is None or self._map_array is None:
            return
        axis = self.grid.display_axis(self._axis)
        step = self.grid.display_index(self._axis, index, self._map_array.shape[self._axis])
        self._viewer.dims.set_point(axis, float(self.grid.translate[axis] + step * self.grid.scale[axis]))

    def go_to(self, ras_mm: Vector) -> None:
        """Show the slices through a place of the patient, in every plane."""
        if self.grid is not None:
            self._viewer.dims.set_point(range(3), tuple(float(v) for v in self.grid.world_of(ras_mm)))

    # -- the overlay

    def show_overlay(self, is_shown: bool) -> None:
        """Show or hide map and contours."""
        self._is_shown = is_shown
        self._set_visible()

    def peek(self, is_peeking: bool) -> None:
        """Hide everything above the source for a moment."""
        self._is_peeking = is_peeking
        self._set_visible()

    def set_opacity(self, opacity: float) -> None:
        """Of the map, in [0, 1]; contours and drawings stay as they are."""
        self._opacity = opacity
        if self._is_there(self.map):
            self.map.opacity = opacity

    def preview(self, threshold: float) -> None:
        """Contours of the slice on the screen at a threshold, at once; the rest of the volume follows later."""
        displayed = self._viewer.dims.displayed
        if self.grid is None or self._map_array is None or len(displayed) != 2 or not self._is_there(self.contours):
            return
        axis = next(a for a in range(3) if a not in displayed)
        shown = self.grid.view(self._map_array)
        here = (slice(None),) * axis + (self._step(axis, shown.shape[axis]),)
        self.contours.data[here] = shown[here] >= threshold
        self._labels = None
        _redraw(self.contours)

    def show_findings(
        self, labels: NDArray[np.int32], findings: Sequence[ReviewFinding], chosen: str | None = None
    ) -> None:
        """Contours of all findings in the colours of their decisions.

        Args:
            labels: ``(I, J, K)`` of :class:`headclip_med.review.Components`.
        """
        if self.grid is None or not self._is_there(self.contours):
            return
        codes = {row.finding.label: _code(row, chosen) for row in findings}
        if labels is not self._labels:
            table = np.zeros(len(findings) + 1, dtype=np.uint8)
            table[list(codes)] = list(codes.values())
            self.contours.data[...] = table[self.grid.view(labels)]
        else:
            painted = self.grid.to_source(self.contours.data)
            for row in findings:
                label = row.finding.label
                if codes[label] != self._codes.get(label):
                    box = tuple(
                        slice(a, b + 1) for a, b in zip(row.finding.voxel_min, row.finding.voxel_max, strict=True)
                    )
                    painted[box][labels[box] == label] = codes[label]
        self._labels, self._codes = labels, codes
        _redraw(self.contours)

    def put_maps(self, frame: SliceFrame, indices: Sequence[int], maps: NDArray[np.float32]) -> None:
        """Maps ``(n, H, W)`` of a run, as they come; nothing where a case has been opened meanwhile."""
        if self._map_array is not None and self._is_run:
            put_back_array(maps, self._map_array, frame, indices)
            if self._is_there(self.map):
                _redraw(self.map)

    # -- drawing

    def begin_drawing(self, number: int) -> None:
        """Hand the reader a brush that paints ``number``."""
        if self._is_there(self.drawn):
            self._viewer.layers.selection.active = self.drawn
            self._has_drawing = True
            self._set_visible()
            self.drawn.selected_label = number
            self.drawn.brush_size = _BRUSH
            self.drawn.mode = "paint"

    def end_drawing(self) -> None:
        """Back to looking."""
        if self._is_there(self.drawn):
            self.drawn.mode = "pan_zoom"
            self._has_drawing = bool(np.asarray(self.drawn.data).any())
            self._set_visible()
            if self.sources and self._is_there(self.sources[0]):
                self._viewer.layers.selection.active = self.sources[0]

    def drawn_labels(self) -> NDArray[Any] | None:
        """What is painted now, ``(I, J, K)`` in the source's grid; a view."""
        return None if self.grid is None or self.drawn is None else self.grid.to_source(np.asarray(self.drawn.data))

    def show_drawn(self, labels: NDArray[Any]) -> None:
        """Show these labels ``(I, J, K)`` instead of what is painted."""
        if self.grid is not None and self._is_there(self.drawn):
            self.drawn.data[...] = self.grid.view(labels)
            self._has_drawing = bool(labels.any())  # an empty layer costs time with every slice
            self._set_visible()
            _redraw(self.drawn)

    # -- the source's window

    @property
    def limits(self) -> Limits | None:
        """Black and white of the uppermost sequence that is shown; None without a grey one."""
        layer = self._shown_source()
        return None if layer is None else (float(layer.contrast_limits[0]), float(layer.contrast_limits[1]))

    def set_limits(self, limits: Limits) -> None:
        """Set black and white of the uppermost sequence that is shown."""
        layer = self._shown_source()
        if layer is not None:
            low, high = layer.contrast_limits_range
            layer.contrast_limits_range = (min(low, limits[0]), max(high, limits[1]))
            layer.contrast_limits = limits

    def shown_sequence(self) -> int:
        """Number of the uppermost sequence that is shown."""
        layer = self._shown_source()
        return self.sources.index(layer) if layer is not None else 0

    def show_sequence(self, number: int, is_shown: bool) -> None:
        """Show or hide one of several sequences."""
        if number < len(self.sources) and self._is_there(self.sources[number]):
            self.sources[number].visible = is_shown

    def add_sequence(self, name: str, array: NDArray[np.float32]) -> None:
        """Another image of the patient on the same grid, ``(I, J, K)`` or in colour ``(I, J, K, 3)``; just above."""
        if self.grid is None:
            return
        volume = LoadedVolume(
            np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None],
            self.grid.affine,
            VolumeMeta(source_name=name, is_rgb=array.ndim == 4),
        )
        place = max(
            (self._viewer.layers.index(layer) + 1 for layer in self.sources if self._is_there(layer)), default=0
        )
        self.sources.append(self._add(*volume_layers(volume)[0]))
        self._viewer.layers.move(len(self._viewer.layers) - 1, place)

    # -- inside

    def _open(
        self, volume: AnyVolume | None, map_array: NDArray[np.float32], affine: Affine, axis: int, facts: dict[str, Any]
    ) -> None:
        ours = (*self.sources, self.map, self.contours, self.drawn)
        for layer in self._viewer.layers:
            if layer.visible and layer not in ours:
                layer.visible = False  # whatever else is open would lie over the case
                self._hidden.append(layer)
        self._remove(self.drawn)
        i, j, k = map_array.shape
        self.grid, self._map_array, self._axis = display_grid(affine, (i, j, k)), map_array, axis
        self.drawn, self._labels, self._is_run = None, None, False
        self._put_sources([] if volume is None else volume_layers(volume))
        place = self.grid.layer_kwargs(research_use_only=RESEARCH_ONLY, **facts)
        shown = self.grid.view(map_array)
        look: dict[str, Any] = {"name": "anomaly map", "contrast_limits": self.map_range}
        self.map = self._put(self.map, shown, {**look, **_map_look(), "opacity": self._opacity, **place}, "image")
        codes = np.zeros(shown.shape, dtype=np.uint8)
        self.contours = self._put(self.contours, codes, {**_contour_look(), **place}, "labels")
        self.contours.contour = 1
        self.contours.editable = False
        if self.sources:
            self._viewer.layers.selection.active = self.sources[0]

    def _put_sources(self, wanted: Sequence[LayerTuple]) -> None:
        """Layers of these sequences; those that are there are used again, since napari takes long to remove one."""
        olds, self.sources = self.sources, []
        fitting = len(olds) == len(wanted) and all(self._is_there(old) for old in olds)
        if not fitting:
            for layer in (*olds, *((self.map, self.contours) if wanted else ())):
                self._remove(layer)  # the map lies above the sequences
        for place, (data, kwargs, kind) in enumerate(wanted):
            self.sources.append(self._put(olds[place] if fitting else None, data, kwargs, kind))

    def _put(self, old: Any, data: Any, kwargs: dict[str, Any], kind: str) -> Any:
        """A layer with this content: ``old`` where it can be used again, else a new one."""
        if not self._is_there(old) or getattr(old, "rgb", False) != kwargs.get("rgb", False):
            self._remove(old)
            return self._add(data, kwargs, kind)
        old.data = data
        for name in ("scale", "translate", "metadata", "name"):
            setattr(old, name, kwargs[name])
        if "contrast_limits" in kwargs:
            old.contrast_limits_range = old.contrast_limits = kwargs["contrast_limits"]
        old.visible = kwargs.get("visible", True)
        return old

    def _add_drawn(self, labels: NDArray[Any], facts: dict[str, Any]) -> None:
        if self.grid is None:
            return
        place = self.grid.layer_kwargs(research_use_only=RESEARCH_ONLY, **facts)
        look = {"name": "drawn findings", "colormap": _drawn_colours(), "opacity": 0.5}
        self.drawn = self._add(np.ascontiguousarray(self.grid.view(labels)), {**look, **place}, "labels")
        if self.sources:
            self._viewer.layers.selection.active = self.sources[0]

    def _add(self, data: Any, kwargs: dict[str, Any], kind: str) -> Any:
        from napari.layers import Layer

        return self._viewer.add_layer(Layer.create(data, kwargs, kind))

    def _remove(self, layer: Any) -> None:
        if self._is_there(layer):
            self._viewer.layers.remove(layer)

    def _is_there(self, layer: Any) -> bool:
        """A user may have deleted it."""
        return layer is not None and layer in self._viewer.layers

    def _set_visible(self) -> None:
        for layer in (self.map, self.contours):
            if self._is_there(layer):
                layer.visible = self._is_shown and not self._is_peeking
        if self._is_there(self.drawn):
            self.drawn.visible = self._has_drawing and not self._is_peeking

    def _step(self, axis: int, size: int) -> int:
        """Index along a displayed array's axis of what is on the screen."""
        if self.grid is None:
            return 0
        step = (self._viewer.dims.point[axis] - self.grid.translate[axis]) / self.grid.scale[axis]
        return int(np.clip(np.rint(step), 0, size - 1))

    def _shown_source(self) -> Any:
        shown = [layer for layer in self.sources if self._is_there(layer) and layer.visible and not layer.rgb]
        return shown[-1] if shown else None


def _code(row: ReviewFinding, chosen: str | None) -> int:
    return _CODES["mixed" if row.mixed else row.status] + (_CHOSEN if row.id == chosen else 0)


def map_range(volume_map: NDArray[np.float32], threshold: float) -> Limits:
    """The values that the map's colours span: from half the threshold to the peak, or to twice the threshold.

    The upper end keeps a map without a finding from glowing like one with a finding.
    """
    low = threshold / 2
    high = min(1.0, max(float(volume_map.max()), 2 * threshold))
    return low, max(high, low + 1e-3)


def _redraw(layer: Any) -> None:
    """Show changed values; extent and thumbnail stay as they are, which is what takes time."""
    layer.refresh(extent=False, thumbnail=False, highlight=False)


def _map_look() -> dict[str, Any]:
    from napari.utils import Colormap

    colours = Colormap(map_colours(), name="headclip_med map")
    return {"colormap": colours, "blending": "translucent_no_depth"}


def _contour_look() -> dict[str, Any]:
    from napari.utils import DirectLabelColormap

    colours: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    for status, colour in _COLOURS.items():
        colours[_CODES[status]] = colour
        colours[_CODES[status] + _CHOSEN] = _CHOSEN_COLOUR
    return {"name": "threshold contours", "colormap": DirectLabelColormap(color_dict=colours), "opacity": 1.0}


def _drawn_colours() -> Any:
    from napari.utils import DirectLabelColormap

    return DirectLabelColormap(color_dict={None: _DRAWN_COLOUR, 0: "transparent"})
