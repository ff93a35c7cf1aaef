"""Volume ↔ slices: cutting in radiological display orientation, and putting maps back voxel by voxel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headclip_med.geometry import SliceFrame


def cut_slices(volume: Tensor, frame: SliceFrame, indices: Sequence[int] | None = None) -> Tensor:
    """``(C, I, J, K)`` → ``(N, C, H, W)``: the slices at ``indices`` along the frame's axis (default: all)."""
    stacked = volume.permute(1 + frame.axis, 0, 1 + frame.row_axis, 1 + frame.col_axis)
    if indices is not None:
        stacked = stacked[torch.as_tensor(list(indices), dtype=torch.long)]
    return stacked.flip(_flipped(frame)) if _flipped(frame) else stacked


def put_back(maps: Tensor, volume_map: Tensor, frame: SliceFrame, indices: Sequence[int]) -> None:
    """Write ``maps (N, H, W)`` into ``volume_map (I, J, K)`` in place, at the slices they were cut from."""
    stacked = volume_map.permute(frame.axis, frame.row_axis, frame.col_axis)
    restored = maps.flip([d - 1 for d in _flipped(frame)]) if _flipped(frame) else maps
    stacked[torch.as_tensor(list(indices), dtype=torch.long)] = restored.to(volume_map)


def slices_to_volume(maps: Tensor, frame: SliceFrame) -> Tensor:
    """All slices' maps ``(N, H, W)`` → ``(I, J, K)``: the inverse of :func:`cut_slices` for one channel."""
    shape = [0, 0, 0]
    shape[frame.axis], shape[frame.row_axis], shape[frame.col_axis] = maps.shape
    volume_map = maps.new_zeros(shape)
    put_back(maps, volume_map, frame, range(len(maps)))
    return volume_map


def _flipped(frame: SliceFrame) -> list[int]:
    """Dimensions of ``(N, C, H, W)`` that run against the display direction."""
    return [dim for dim, flip in ((2, frame.flip_rows), (3, frame.flip_cols)) if flip]
