"""All that the layers of a case show, as arrays and napari's keyword arguments, before any layer is made.

The arrays are views of the session's own where nobody writes into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.types import RESEARCH_ONLY, Affine
from headclip_med.base.volume import AnyVolume

from .contours import contour_look
from .grid import DisplayGrid, display_grid, map_colours
from .volume import LayerTuple, volume_layers
from .windows import Limits

if TYPE_CHECKING:
    from headclip_med.review import OpenCase
    from headclip_med.review.model import ResultLink

_DRAWN_COLOUR = "#7dff5a"
_RUN_RANGE = (0.3, 1.0)  # of the map's colours while the threshold is not known yet


@dataclass(frozen=True, eq=False)
class Picture:
    """All that the layers of a case show, made before anything on the screen changes.

    Attributes:
        link: the result whose map it is, None of a run, whose map is still being made.
        grid: how the case is laid out.
        axis: array axis of the primary plane's slices.
        map_array: ``(I, J, K)`` in the source's order.
        map_range: values that the map's colours span.
        is_overlay_shown: whether map and contours may be seen.
        sources, map, contours, drawn: what each layer is made of, ``drawn`` None of a run.
    """

    link: ResultLink | None
    grid: DisplayGrid
    axis: int
    map_array: NDArray[np.float32]
    map_range: Limits
    is_overlay_shown: bool
    sources: tuple[LayerTuple, ...]
    map: LayerTuple
    contours: LayerTuple
    drawn: LayerTuple | None


def picture_of(case: OpenCase, volume: AnyVolume | None) -> Picture:
    """Make the picture of a case, whose map is empty while it is concealed.

    Args:
        case: the open case.
        volume: the source on the same grid, None where there is none.

    Returns:
        What the layers show, before any of them is made.
    """
    data, record, is_shown = case.data, case.record, case.may_show_overlay
    # while it is concealed, not even a thumbnail or a value below the cursor may tell
    seen = data.volume_map if is_shown else np.zeros_like(data.volume_map)
    grid = display_grid(data.affine, data.shape, record.source.is_2d)
    facts = {
        "source": record.source.name,
        "pred_score": record.pred_score if is_shown else None,
        "threshold": record.threshold,
        **data.codes,
    }
    colours = map_range(seen, record.threshold) if is_shown else (0.0, 1.0)
    labels = np.array(grid.view(case.drawn_labels()), order="C")
    drawn = _labels_layer(grid, labels, {"name": "drawn findings", "colormap": _drawn_colours(), "opacity": 0.5}, facts)
    return _picture(data.link, volume, grid, data.axis, seen, colours, is_shown, drawn, facts)


def picture_of_run(volume: AnyVolume, affine: Affine, axis: int) -> Picture:
    """Make the picture of a source and a map that is still to come. See :meth:`.case.CaseLayers.put_maps`.

    Args:
        volume: the source, ``(C, I, J, K)``.
        affine: voxel index → RAS mm, 4×4.
        axis: array axis of the primary plane's slices.

    Returns:
        What the layers show, with a map of zeros and nothing drawn.
    """
    _, i, j, k = volume.shape
    grid = display_grid(affine, (i, j, k), bool(volume.meta.get("is_2d", False)))
    empty = np.zeros((i, j, k), dtype=np.float32)
    return _picture(None, volume, grid, axis, empty, _RUN_RANGE, True, None, {})


def _picture(
    link: ResultLink | None,
    volume: AnyVolume | None,
    grid: DisplayGrid,
    axis: int,
    map_array: NDArray[np.float32],
    colours: Limits,
    is_shown: bool,
    drawn: LayerTuple | None,
    facts: dict[str, Any],
) -> Picture:
    shown = grid.view(map_array)
    look = {"name": "anomaly map", "contrast_limits": colours, **_map_look()}
    place = grid.layer_kwargs(research_use_only=RESEARCH_ONLY, **facts)
    contours = _labels_layer(grid, np.zeros(shown.shape, dtype=np.uint8), contour_look(), facts)
    sources = [] if volume is None else [unwritable(made) for made in volume_layers(volume, grid.is_plain)]
    return Picture(
        link, grid, axis, map_array, colours, is_shown, tuple(sources), (shown, {**look, **place}, "image"), contours,
        drawn,
    )  # fmt: skip


def unwritable(made: LayerTuple) -> LayerTuple:
    """Protect a layer's values from being changed in place.

    Args:
        made: what the layer is made of.

    Returns:
        The same layer, shown one slice at a time, over a read-only view of its array.
    """
    data, kwargs, kind = made[0].view(), made[1], made[2]
    data.setflags(write=False)
    return data, {**kwargs, "projection_mode": "none"}, kind


def _labels_layer(grid: DisplayGrid, labels: NDArray[Any], look: dict[str, Any], facts: dict[str, Any]) -> LayerTuple:
    return labels, {**look, **grid.layer_kwargs(research_use_only=RESEARCH_ONLY, **facts)}, "labels"


def map_range(volume_map: NDArray[np.float32], threshold: float) -> Limits:
    """Choose the values that the map's colours span: from half the threshold to the peak, or to twice the threshold.

    The upper end keeps a map without a finding from glowing like one with a finding.

    Args:
        volume_map: probabilities in [0, 1], ``(I, J, K)``.
        threshold: in [0, 1].

    Returns:
        The lowest and the highest value, in [0, 1].
    """
    low = threshold / 2
    high = min(1.0, max(float(volume_map.max()), 2 * threshold))
    return low, max(high, low + 1e-3)


def _map_look() -> dict[str, Any]:
    from napari.utils import Colormap

    colours = Colormap(map_colours(), name="headclip_med map")
    return {"colormap": colours, "blending": "translucent_no_depth", "projection_mode": "none"}


def _drawn_colours() -> Any:
    from napari.utils import DirectLabelColormap

    return DirectLabelColormap(color_dict={None: _DRAWN_COLOUR, 0: "transparent"})
