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
    """Write a labels layer as NIfTI with the labels' own numbers.

    Args:
        path: of the file.
        data: the layer's, in display order.
        attributes: the layer's, as napari gives them.

    Returns:
        ``path`` in a list, as napari wants it.

    Raises:
        OutputError: a layer whose place in the patient is not known or not its volume's any more, a label beyond 32
            bits, or a file that cannot be written.
    """
    grid, values = _grid_of_layer(data, attributes), np.asarray(data)
    smallest, largest = int(values.min(initial=0)), int(values.max(initial=0))
    if smallest < _INT32.min or largest > _INT32.max:
        must = f"Labels must lie between {_INT32.min} and {_INT32.max} to be written as NIfTI"
        raise OutputError(must, smallest if smallest < _INT32.min else largest, "Give them smaller numbers")
    return _write(path, values, grid, attributes, np.uint8 if smallest >= 0 and largest < 256 else np.int32, "labels")


def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an image layer, such as an anomaly map, as NIfTI in float32.

    Args:
        path: of the file.
        data: the layer's, in display order.
        attributes: the layer's, as napari gives them.

    Returns:
        ``path`` in a list, as napari wants it.

    Raises:
        OutputError: a layer whose place in the patient is not known or not its volume's any more, values that are not
            real numbers, or a file that cannot be written.
    """
    grid, values = _grid_of_layer(data, attributes), np.asarray(data)
    if values.dtype.kind not in "buif":
        raise OutputError("An image must hold real numbers to be written as NIfTI", values.dtype.name)
    return _write(path, values, grid, attributes, np.float32, "image")


def grid_of(attributes: dict[str, Any]) -> DisplayGrid | None:
    """Find the grid that a layer of ours was laid out by, from its metadata.

    Args:
        attributes: the layer's, as napari gives them.

    Returns:
        The grid, None for any other layer.
    """
    kept = (attributes.get("metadata") or {}).get("headclip_med")
    if not kept or not {"affine", "display_to_voxel", "shape"} <= set(kept):
        return None
    i, j, k = (int(size) for size in kept["shape"])
    is_plain = bool(kept.get("is_2d", False))
    return DisplayGrid(np.asarray(kept["affine"]), np.asarray(kept["display_to_voxel"]), (i, j, k), is_plain)


def _grid_of_layer(data: Any, attributes: dict[str, Any]) -> DisplayGrid:
    """The grid that a layer lies on exactly: other plugins hand metadata on to crops, projections and the like."""
    grid, name = grid_of(attributes), attributes.get("name", "a layer")
    if grid is None:
        raise OutputError(
            "A layer must know its place in the patient to be written as NIfTI",
            f"'{name}', which was not made on a volume of this plugin",
            "Use the command 'headclip_med: new labels on this volume' and draw there",
        )
    must = "A layer must lie on exactly the grid of its volume to be written as NIfTI"
    do = "Save it with another writer, or put its values into new labels on the volume"
    if attributes.get("multiscale") or np.shape(data) != grid.displayed_shape:
        shown = "several resolutions" if attributes.get("multiscale") else " × ".join(map(str, np.shape(data)))
        raise OutputError(must, f"'{name}' of {shown} for {' × '.join(map(str, grid.displayed_shape))} voxels", do)
    wanted = {"scale": grid.scale, "translate": grid.translate, **_UNTURNED}
    moved = [key for key, value in wanted.items() if not _is_near(attributes.get(key), value)]
    if moved:
        raise OutputError(must, f"'{name}' with another {' and '.join(moved)}", do)
    return grid


_INT32 = np.iinfo(np.int32)
_UNTURNED = {"rotate": np.eye(3), "shear": np.zeros(3), "affine": np.eye(4)}


def _is_near(given: Any, wanted: NDArray[np.float64]) -> bool:
    """Whether a layer says this of its place, or nothing."""
    return given is None or (np.shape(given) == wanted.shape and np.allclose(given, wanted, atol=1e-4))


def _write(
    path: str, values: NDArray[Any], grid: DisplayGrid, attributes: dict[str, Any], dtype: type, what: str
) -> list[str]:
    array: NDArray[Any] = np.ascontiguousarray(grid.to_source(values), dtype=dtype)
    kept = attributes["metadata"]["headclip_med"]
    save_image(grid_image(array, grid.affine, kept, what), Path(path))
    return [path]
