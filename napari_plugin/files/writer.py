"""Layers → NIfTI files on exactly the grid of the volume that they lie over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import OutputError
from headclip_med.writing.nifti import grid_image, save_image

from ..layers.grid import DisplayGrid


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """napari's hook: a labels layer as NIfTI with the labels' own numbers.

    Raises:
        OutputError: a layer whose place in the patient is not known, or a file that cannot be written.
    """
    largest = int(np.max(data)) if np.size(data) else 0
    return _write(path, data, attributes, np.uint8 if largest < 256 else np.int32, "labels")


def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """napari's hook: an image layer, such as an anomaly map, as NIfTI in float32; errors as :func:`write_labels`."""
    return _write(path, data, attributes, np.float32, "image")


def grid_of(attributes: dict[str, Any]) -> DisplayGrid | None:
    """The grid that a layer of ours was laid out by, from its metadata; None for any other layer."""
    kept = (attributes.get("metadata") or {}).get("headclip_med")
    if not kept or "affine" not in kept or "display_to_voxel" not in kept:
        return None
    is_plain = bool(kept.get("is_2d", False))
    return DisplayGrid(np.asarray(kept["affine"]), np.asarray(kept["display_to_voxel"]), is_plain)


def _write(path: str, data: Any, attributes: dict[str, Any], dtype: type, what: str) -> list[str]:
    grid = grid_of(attributes)
    if grid is None:
        raise OutputError(
            "A layer must know its place in the patient to be written as NIfTI",
            f"'{attributes.get('name', 'a layer')}', which was not made on a volume of this plugin",
            "Use the command 'headclip_med: new labels on this volume' and draw there",
        )
    array: NDArray[Any] = np.ascontiguousarray(grid.to_source(np.asarray(data)), dtype=dtype)
    kept = attributes["metadata"]["headclip_med"]
    save_image(grid_image(array, grid.affine, kept, what), Path(path))
    return [path]
