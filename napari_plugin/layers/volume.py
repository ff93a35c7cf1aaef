"""A loaded volume → image layers: one a channel, with a window that shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import readable
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.base.volume import AnyVolume, volume_array

from .grid import display_grid
from .windows import first_window

LayerTuple = tuple[Any, dict[str, Any], str]

# What leads back to the source; nothing that names a patient but the DICOM UIDs, which writers need.
_KEPT = ("source_format", "modality", "qform_code", "sform_code", "slice_uids", "slice_positions", "content_sha256")


def volume_layers(volume: AnyVolume, is_plain: bool | None = None) -> list[LayerTuple]:
    """Make the image layers of a volume: colour as one layer, sequences as one each, the first one shown.

    Args:
        volume: ``(C, I, J, K)`` with its affine and metadata.
        is_plain: whether it is a picture without a patient, by default what the volume says of itself.

    Returns:
        Array, keyword arguments and kind of each layer, as napari takes them.
    """
    array, meta = volume_array(volume), dict(volume.meta)
    names = channel_names(meta, len(array))
    shape = (array.shape[1], array.shape[2], array.shape[3])
    is_plain = bool(meta.get("is_2d", False)) if is_plain is None else is_plain
    grid = display_grid(np.asarray(volume.affine, dtype=np.float64), shape, is_plain)
    kept = {key: meta[key] for key in _KEPT if meta.get(key) is not None}
    place = grid.layer_kwargs(source=_source_name(meta), research_use_only=RESEARCH_ONLY, **kept)
    if meta.get("is_rgb", False):
        return [(_colours(array, grid.view), {"name": names[0], "rgb": True, **place}, "image")]
    layers: list[LayerTuple] = []
    for number, (channel, name) in enumerate(zip(array, names, strict=True)):
        look = {
            "name": name,
            "colormap": "gray_r" if meta.get("display_inverted", False) else "gray",
            "contrast_limits": first_window(channel, meta),
            "visible": number == 0,
        }
        layers.append((grid.view(channel), {**look, **place}, "image"))
    return layers


def channel_names(meta: dict[str, Any], channels: int) -> list[str]:
    """Name each channel: by the file's own where several were stacked, else by the source's with a number.

    Args:
        meta: the volume's own.
        channels: how many.

    Returns:
        A name a channel, a single one for colour.
    """
    source = _source_name(meta)
    parts = source.split(" + ")
    if channels == 1 or meta.get("is_rgb", False):
        return [source]
    return parts if len(parts) == channels else [f"{source} {number + 1}" for number in range(channels)]


def _source_name(meta: dict[str, Any]) -> str:
    return readable(str(meta.get("source_name") or "volume"))


def _colours(array: NDArray[np.float32], view: Any) -> NDArray[np.uint8]:
    """``(3, I, J, K)`` in [0, 255] → ``(..., 3)`` uint8 in display order."""
    return np.stack([view(channel) for channel in array[:3]], axis=-1).clip(0, 255).astype(np.uint8)
