"""Slices → model pixels: levels, channels, size and normalisation; and a map's way back to its slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from headclip_med.base.geometry import SliceFrame
from headclip_med.slicing.intensity import Placement, Preprocessing, Range, check_channels, released_levels
from headclip_med.slicing.scan import Scan


def rescale(slices: Tensor, ranges: Sequence[Range], *, inverted: bool = False) -> Tensor:
    """Stored values ``(N, C, H, W)`` → [0, 1], clipped; ``inverted`` for MONOCHROME1."""
    low = slices.new_tensor([r[0] for r in ranges]).view(1, -1, 1, 1)
    high = slices.new_tensor([r[1] for r in ranges]).view(1, -1, 1, 1)
    scaled = ((slices - low) / (high - low)).clamp(0, 1)
    return 1 - scaled if inverted else scaled


def three_channels(slices: Tensor) -> Tensor:
    """``(N, 1 or 3, H, W)`` → ``(N, 3, H, W)``.

    Raises:
        InputError: any other number of channels.
    """
    check_channels(slices.shape[1])
    return slices.expand(-1, 3, -1, -1)


def to_square(slices: Tensor, placement: Placement) -> Tensor:
    """Slices in [0, 1] ``(N, C, H, W)`` → ``(N, C, size, size)``, bicubic with antialiasing, padded with 0."""
    resized = F.interpolate(
        slices, size=(placement.height, placement.width), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    bottom = placement.size - placement.top - placement.height
    right = placement.size - placement.left - placement.width
    return F.pad(resized, (placement.left, right, placement.top, bottom))


def from_square(maps: Tensor, placement: Placement, shape: tuple[int, int]) -> Tensor:
    """Maps of the square ``(N, size, size)`` → the slice's own pixels ``(N, H, W)``: crop, then bilinear."""
    cropped = maps[:, None, placement.rows, placement.columns]
    return F.interpolate(cropped, size=shape, mode="bilinear", align_corners=False)[:, 0]


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """[0, 1] → the tower's own scale: (x − mean) / std per channel."""
    mean = pixels.new_tensor(preprocessing.mean).view(1, -1, 1, 1)
    std = pixels.new_tensor(preprocessing.std).view(1, -1, 1, 1)
    return (pixels - mean) / std


def slice_pixels(scan: Scan, frame: SliceFrame, indices: Sequence[int], device: torch.device) -> Tensor:
    """Normalised model input ``(n, 3, S, S)`` of the slices at ``indices``."""
    slices, ranges = scan.cut(frame, indices)
    if scan.preprocessing.kind == "released":
        square = released_levels(slices, scan.preprocessing.image_size, inverted=scan.inverted)
        return normalise(three_channels(_on_device(torch.from_numpy(square), device)), scan.preprocessing)
    levels = rescale(_on_device(torch.from_numpy(slices), device), ranges, inverted=scan.inverted)
    return normalise(three_channels(to_square(levels, scan.placement(frame))), scan.preprocessing)


def slice_limits(scan: Scan, frame: SliceFrame, inside: NDArray[np.bool_], device: torch.device) -> Tensor:
    """Foreground ``(n, H, W)`` of slices → the patient in the model's square input, ``(n, S, S)`` bool."""
    mask = _on_device(torch.from_numpy(inside)[:, None], device).float()
    return to_square(mask, scan.placement(frame))[:, 0] > 0.5


def _on_device(array: Tensor, device: torch.device) -> Tensor:
    """A copy that the CPU does not wait for, where the device can do that."""
    if device.type != "cuda":
        return array.to(device)
    return array.pin_memory().to(device, non_blocking=True)
