"""Whether layers are still as they were made: what others have done to them would be seen and judged."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from .volume import LayerTuple

_NOTES = ("Points", "Shapes", "Vectors", "Tracks")  # layers that a reader marks and measures with


def is_as_made(layer: Any, made: LayerTuple) -> bool:
    """Tell whether a layer has its own array in its own place.

    Args:
        layer: of napari.
        made: what it was made of.

    Returns:
        True for the same array, not a copy, neither moved nor turned.
    """
    return layer.data is made[0] and _is_in_place(layer, made)


def can_be_kept(layer: Any, made: LayerTuple) -> bool:
    """Tell whether what is painted lies on the case's grid: its array may be another one that holds every number.

    Args:
        layer: of labels.
        made: what it was made of.

    Returns:
        True for an array of the same shape whose integers hold every number of the first one, neither moved nor turned.
    """
    data, dtype = layer.data, np.asarray(layer.data).dtype
    is_wide = dtype.kind in "ui" and np.can_cast(made[0].dtype, dtype)
    return np.shape(data) == made[0].shape and is_wide and _is_in_place(layer, made)


def is_upright(layer: Any) -> bool:
    """Tell whether nobody has turned, sheared or moved a layer by hand.

    Args:
        layer: of napari.

    Returns:
        True where its rotation, shear and affine matrix change nothing.
    """
    turned = np.allclose(layer.rotate, np.eye(layer.ndim)) and np.allclose(layer.shear, 0)
    return turned and np.allclose(layer.affine.affine_matrix, np.eye(layer.ndim + 1))


def is_foreign(layer: Any, ours: Collection[Any]) -> bool:
    """Tell whether a layer is another's picture in sight: above ours it covers them, below it shines through.

    Args:
        layer: of napari.
        ours: the layers of the case.

    Returns:
        True for a visible layer that is not ours and holds no points, shapes, vectors or tracks.
    """
    is_seen = layer.visible and layer.opacity > 0 and layer not in ours
    return is_seen and type(layer).__name__ not in _NOTES


def is_thick(dims: Any, ours: Collection[Any]) -> bool:
    """Tell whether napari shows several slices as one.

    Args:
        dims: the viewer's.
        ours: the layers of the case that are there.

    Returns:
        True where the sliders have a margin and one of our layers is projected over it.
    """
    modes = (str(getattr(layer, "projection_mode", "none")) for layer in ours)
    return any((*dims.margin_left, *dims.margin_right)) and any(mode != "none" for mode in modes)


def _is_in_place(layer: Any, made: LayerTuple) -> bool:
    near = all(np.allclose(getattr(layer, name), made[1][name]) for name in ("scale", "translate"))
    return near and is_upright(layer)
