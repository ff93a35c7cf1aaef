"""Commands of the palette and the menus, each on the viewer that is in front."""

from __future__ import annotations

from typing import Any

import numpy as np

from headclip_med.base.errors import InputError

from .compat import front_viewer
from .files.writer import grid_of
from .launch import dock_of


def review_results() -> None:
    """Choose a folder of results and review them."""
    dock_of(front_viewer()).choose_folder()


def run_model() -> None:
    """Bring the tab for running a model to the front."""
    dock_of(front_viewer()).tabs.setCurrentIndex(1)


def switch_sides() -> None:
    """Switch from radiological to neurological, or back."""
    dock_of(front_viewer()).switch_sides()


def new_labels() -> Any:
    """Add an empty labels layer on the grid of the chosen volume, which can be saved as NIfTI on that grid.

    Returns:
        napari's labels layer, uint16 in display order.

    Raises:
        InputError: no volume of ours is chosen.
    """
    viewer = front_viewer()
    layer = viewer.layers.selection.active
    grid = None if layer is None else grid_of({"metadata": layer.metadata})
    if grid is None:
        raise InputError(
            "A volume must be chosen in the layer list for labels to lie on",
            "none that this plugin has opened",
            "Open one with the headclip_med reader and choose its layer",
        )
    kept = {key: value for key, value in layer.metadata["headclip_med"].items() if key not in _OF_THE_GRID}
    kwargs = grid.layer_kwargs(**kept)
    return viewer.add_labels(np.zeros(grid.displayed_shape, dtype=np.uint16), name=f"{layer.name} labels", **kwargs)


_OF_THE_GRID = ("affine", "display_to_voxel", "shape", "world_to_ras")
