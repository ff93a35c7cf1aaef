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
    """Scale stored values to levels between black and white, clipped.

    Args:
        slices: Stored values ``(N, C, H, W)``.
        ranges: ``(low, high)`` of each of the C channels, in stored units.
        inverted: MONOCHROME1, where low is bright.

    Returns:
        ``(N, C, H, W)`` in [0, 1].
    """
    low = slices.new_tensor([r[0] for r in ranges]).view(1, -1, 1, 1)
    high = slices.new_tensor([r[1] for r in ranges]).view(1, -1, 1, 1)
    scaled = ((slices - low) / (high - low)).clamp(0, 1)
    return 1 - scaled if inverted else scaled


def three_channels(slices: Tensor) -> Tensor:
    """Repeat a single channel three times, and leave three as they are.

    Args:
        slices: ``(N, 1 or 3, H, W)``.

    Returns:
        ``(N, 3, H, W)``, which shares its memory.

    Raises:
        InputError: any other number of channels.
    """
    check_channels(slices.shape[1])
    return slices.expand(-1, 3, -1, -1)


def to_square(slices: Tensor, placement: Placement) -> Tensor:
    """Resize slices to their place in the model's square input, bicubic with antialiasing, padded with 0.

    Args:
        slices: ``(N, C, H, W)`` in [0, 1].
        placement: Where the slice lies in the square.

    Returns:
        ``(N, C, size, size)`` in [0, 1].
    """
    resized = F.interpolate(
        slices, size=(placement.height, placement.width), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)
    bottom = placement.size - placement.top - placement.height
    right = placement.size - placement.left - placement.width
    return F.pad(resized, (placement.left, right, placement.top, bottom))


def from_square(maps: Tensor, placement: Placement, shape: tuple[int, int]) -> Tensor:
    """Bring maps of the square back to the slice's own pixels: crop, then bilinear.

    Args:
        maps: ``(N, size, size)``.
        placement: Where the slice lies in the square.
        shape: ``(H, W)`` of the slice.

    Returns:
        ``(N, H, W)``.
    """
    cropped = maps[:, None, placement.rows, placement.columns]
    return F.interpolate(cropped, size=shape, mode="bilinear", align_corners=False)[:, 0]


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Scale pixels as the tower was trained: (x − mean) / std per channel.

    Args:
        pixels: ``(N, 3, S, S)`` in [0, 1].
        preprocessing: The tower's mean and std.

    Returns:
        ``(N, 3, S, S)``.
    """
    mean = pixels.new_tensor(preprocessing.mean).view(1, -1, 1, 1)
    std = pixels.new_tensor(preprocessing.std).view(1, -1, 1, 1)
    return (pixels - mean) / std


def slice_pixels(scan: Scan, frame: SliceFrame, indices: Sequence[int], device: torch.device) -> Tensor:
    """Make the normalised model input of some slices.

    Args:
        scan: The volume, with black and white and preprocessing.
        frame: The plane and its orientation.
        indices: Slices along the frame's axis, n of them.
        device: Where the pixels are made.

    Returns:
        ``(n, 3, S, S)`` float32.
    """
    slices, ranges = scan.cut(frame, indices)
    if scan.preprocessing.kind == "released":
        square = released_levels(slices, scan.preprocessing.image_size, inverted=scan.inverted)
        return normalise(three_channels(_on_device(torch.from_numpy(square), device)), scan.preprocessing)
    levels = rescale(_on_device(torch.from_numpy(slices), device), ranges, inverted=scan.inverted)
    return normalise(three_channels(to_square(levels, scan.placement(frame))), scan.preprocessing)


def slice_limits(scan: Scan, frame: SliceFrame, inside: NDArray[np.bool_], device: torch.device) -> Tensor:
    """Bring the foreground of slices into the model's square input.

    Args:
        scan: The volume that the slices are of.
        frame: The plane and its orientation.
        inside: Foreground ``(n, H, W)`` in display orientation.
        device: Where the limits are made.

    Returns:
        ``(n, S, S)`` bool, the patient.
    """
    mask = _on_device(torch.from_numpy(inside)[:, None], device).float()
    return to_square(mask, scan.placement(frame))[:, 0] > 0.5


def _on_device(array: Tensor, device: torch.device) -> Tensor:
    """A copy that the CPU does not wait for, where the device can do that."""
    if device.type != "cuda":
        return array.to(device)
    return array.pin_memory().to(device, non_blocking=True)
