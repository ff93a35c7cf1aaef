"""Volume ↔ slices: cutting in radiological display orientation, and putting maps back voxel by voxel.

Arrays and tensors are cut alike; ``_array`` names the form that needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.geometry import SliceFrame

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")


Value = TypeVar("Value", bound=np.generic)


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Choose some of the items in their order, spread evenly, the first and the last among them.

    Args:
        items: Anything in order.
        most: How many at most.

    Returns:
        All of them where they are few enough.
    """
    if len(items) <= most:
        return list(items)
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, most).round()]


def cut_array(volume: NDArray[Value], frame: SliceFrame, indices: Sequence[int] | None = None) -> NDArray[Value]:
    """Cut slices from a numpy array of any type, as :func:`cut_slices`.

    Args:
        volume: ``(C, I, J, K)``.
        frame: The plane and its orientation.
        indices: Slices along the frame's axis, all by default.

    Returns:
        ``(N, C, H, W)``, contiguous.
    """
    stacked = volume.transpose(1 + frame.axis, 0, 1 + frame.row_axis, 1 + frame.col_axis)
    chosen = stacked if indices is None else stacked[list(indices)]
    return np.ascontiguousarray(np.flip(chosen, tuple(_flipped(frame))))


def put_back_array(
    maps: NDArray[np.float32], volume_map: NDArray[np.float32], frame: SliceFrame, indices: Sequence[int]
) -> None:
    """Write maps into a volume in place, as :func:`put_back` of numpy arrays.

    Args:
        maps: ``(N, H, W)``.
        volume_map: ``(I, J, K)``, written to.
        frame: The plane and its orientation.
        indices: The slices that the maps are of, N of them.
    """
    stacked = volume_map.transpose(frame.axis, frame.row_axis, frame.col_axis)
    stacked[list(indices)] = np.flip(maps, tuple(d - 1 for d in _flipped(frame)))


def cut_slices(volume: Tensor, frame: SliceFrame, indices: Sequence[int] | None = None) -> Tensor:
    """Cut a volume into slices as they are displayed in radiology.

    Args:
        volume: ``(C, I, J, K)``.
        frame: The plane and its orientation.
        indices: Slices along the frame's axis, all by default.

    Returns:
        ``(N, C, H, W)``.
    """
    stacked = volume.permute(1 + frame.axis, 0, 1 + frame.row_axis, 1 + frame.col_axis)
    if indices is not None:
        stacked = stacked[list(indices)]
    return stacked.flip(_flipped(frame)) if _flipped(frame) else stacked


def put_back(maps: Tensor, volume_map: Tensor, frame: SliceFrame, indices: Sequence[int]) -> None:
    """Write maps into a volume in place, at the slices that they were cut from.

    Args:
        maps: ``(N, H, W)``.
        volume_map: ``(I, J, K)``, written to.
        frame: The plane and its orientation.
        indices: The slices that the maps are of, N of them.
    """
    stacked = volume_map.permute(frame.axis, frame.row_axis, frame.col_axis)
    restored = maps.flip([d - 1 for d in _flipped(frame)]) if _flipped(frame) else maps
    stacked[list(indices)] = restored.to(volume_map)


def slices_to_volume(maps: Tensor, frame: SliceFrame) -> Tensor:
    """Put the maps of all slices together: the inverse of :func:`cut_slices` for one channel.

    Args:
        maps: ``(N, H, W)``, one for each slice along the frame's axis.
        frame: The plane and its orientation.

    Returns:
        ``(I, J, K)``.
    """
    shape = [0, 0, 0]
    shape[frame.axis], shape[frame.row_axis], shape[frame.col_axis] = maps.shape
    volume_map = maps.new_zeros(shape)
    put_back(maps, volume_map, frame, range(len(maps)))
    return volume_map


def _flipped(frame: SliceFrame) -> list[int]:
    """Dimensions of ``(N, C, H, W)`` that run against the display direction."""
    return [dim for dim, flip in ((2, frame.flip_rows), (3, frame.flip_cols)) if flip]
