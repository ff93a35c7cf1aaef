"""Slices → model pixels: intensity range, channels, size and normalisation; and a map's way back to its slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from headclip_med.errors import InputError

Fit = Literal["pad", "stretch"]
Channels = Literal["repeat", "neighbours"]
Range = tuple[float, float]

CHANNELS: tuple[Channels, ...] = ("repeat", "neighbours")

# CT display windows as level and width in HU, as radiology texts give them.
WINDOWS: dict[str, tuple[float, float]] = {
    "brain": (40, 80),
    "subdural": (75, 215),
    "stroke": (40, 40),
    "bone": (600, 2800),
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
    "abdomen": (60, 400),
    "liver": (30, 150),
}

# Air is −1000 HU and fat −100 HU: anything above this is body, table or implant.
_CT_FOREGROUND_HU = -500.0
# A value that this share of all voxels has exactly is padding, not tissue.
_PADDING_SHARE = 0.05
# Percentiles are taken from at most this many voxels, at a fixed stride.
_SAMPLE = 2_000_000


@dataclass(frozen=True)
class Preprocessing:
    """How slices become pixels.

    Attributes:
        image_size: side of the square model input in pixels.
        mean, std: of the tower's pixels.
        window: ``(level, width)`` in stored units, or None for percentiles of the foreground.
        percentiles: lower and upper, in percent, of the foreground when there is no window.
        channels: three times the slice, or the slice with a neighbour on each side (2.5-D). A volume of three
            sequences, and a colour image, keep their own three channels.
        neighbour_mm: distance of the 2.5-D neighbours.
        fit: ``pad`` keeps the shape in mm and pads with black, ``stretch`` fills the square.
        min_foreground: a slice with a smaller share of foreground is background and is not sent to the tower.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    channels: Channels = "repeat"
    neighbour_mm: float = 3.0
    fit: Fit = "pad"
    min_foreground: float = 0.002


def parse_window(text: str) -> tuple[float, float]:
    """``brain`` or ``40/80`` (level/width) → ``(level, width)``."""
    if text.lower() in WINDOWS:
        return WINDOWS[text.lower()]
    try:
        level, width = (float(part) for part in text.replace(":", "/").split("/"))
    except ValueError:
        level, width = float("nan"), 0.0
    if not (np.isfinite(level) and np.isfinite(width) and width > 0):
        raise InputError(
            f"A window must be one of {', '.join(WINDOWS)} or LEVEL/WIDTH with a width above 0",
            text,
            "Write for example --window brain or --window 40/80",
        )
    return level, width


def foreground(volume: NDArray[np.float32], *, modality: str | None, is_rgb: bool) -> NDArray[np.bool_]:
    """Voxels that show something, ``(C, I, J, K)`` → ``(I, J, K)``.

    Colour: everything. CT: above −500 HU. Otherwise: unlike the padding value if there is one (skull-stripped
    or reformatted volumes), else above Otsu's threshold.
    """
    if is_rgb:
        return np.ones(volume.shape[1:], dtype=bool)
    channels = [_channel_foreground(channel, modality) for channel in volume]
    return np.asarray(np.logical_or.reduce(channels))


def _channel_foreground(channel: NDArray[np.float32], modality: str | None) -> NDArray[np.bool_]:
    if modality == "CT":
        return channel > _CT_FOREGROUND_HU
    corner = channel[:: max(1, channel.shape[0] - 1), :: max(1, channel.shape[1] - 1), :: max(1, channel.shape[2] - 1)]
    values, counts = np.unique(corner, return_counts=True)
    padding = values[counts.argmax()]
    is_padding = channel == padding
    if is_padding.mean() >= _PADDING_SHARE and not is_padding.all():
        return ~is_padding
    image = sitk.GetImageFromArray(channel)
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.SetInsideValue(0)
    otsu.SetOutsideValue(1)
    return np.asarray(sitk.GetArrayFromImage(otsu.Execute(image)), dtype=bool)


def intensity_ranges(
    volume: NDArray[np.float32], mask: NDArray[np.bool_], preprocessing: Preprocessing, *, is_rgb: bool
) -> list[Range]:
    """``(low, high)`` per channel that become black and white; always ``high > low``.

    Taken from the whole volume, so that a slice looks the same whatever other slices are asked for.
    """
    if is_rgb:
        return [(0.0, 255.0)] * len(volume)
    if preprocessing.window is not None:
        level, width = preprocessing.window
        return [(level - width / 2, level + width / 2)] * len(volume)
    return [_percentile_range(channel[mask], preprocessing.percentiles) for channel in volume]


def _percentile_range(values: NDArray[np.float32], percentiles: tuple[float, float]) -> Range:
    if values.size == 0:
        return 0.0, 1.0
    sample = values[:: max(1, values.size // _SAMPLE)]
    low, high = (float(v) for v in np.percentile(sample, percentiles))
    return (low, high) if high > low else (low, low + max(1e-6, abs(low) * 1e-6))


def rescale(slices: Tensor, ranges: Sequence[Range], *, inverted: bool = False) -> Tensor:
    """Stored values ``(N, C, H, W)`` → [0, 1], clipped; ``inverted`` for MONOCHROME1."""
    low = slices.new_tensor([r[0] for r in ranges]).view(1, -1, 1, 1)
    high = slices.new_tensor([r[1] for r in ranges]).view(1, -1, 1, 1)
    scaled = ((slices - low) / (high - low)).clamp(0, 1)
    return 1 - scaled if inverted else scaled


def neighbour_indices(index: int, count: int, step: int) -> tuple[int, int, int]:
    """The slices that become the three channels of slice ``index``; the outermost slices repeat themselves."""
    return max(0, index - step), index, min(count - 1, index + step)


def three_channels(slices: Tensor) -> Tensor:
    """``(N, 1 or 3, H, W)`` → ``(N, 3, H, W)``.

    Raises:
        InputError: any other number of channels.
    """
    if slices.shape[1] == 3:
        return slices
    if slices.shape[1] != 1:
        raise InputError(
            "A volume must have one channel, or three (sequences or colour)",
            f"{slices.shape[1]} channels",
            "Choose one or three of them",
        )
    return slices.expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class Placement:
    """Where a slice lies in the square model input: the only thing needed for the way back.

    ``(height, width)`` of the slice in the square of side ``size``, its corner at ``(top, left)``.
    """

    size: int
    top: int
    left: int
    height: int
    width: int


def place(shape: tuple[int, int], pixel_mm: tuple[float, float], size: int, fit: Fit) -> Placement:
    """Placement of a slice of ``shape (H, W)`` with pixels of ``(row, column)`` mm in a square of ``size``."""
    if fit == "stretch":
        return Placement(size, 0, 0, size, size)
    extent = np.asarray(shape) * np.asarray(pixel_mm)
    height, width = (max(1, int(n)) for n in np.round(extent * size / extent.max()))
    return Placement(size, (size - height) // 2, (size - width) // 2, height, width)


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
    cropped = maps[
        :,
        placement.top : placement.top + placement.height,
        placement.left : placement.left + placement.width,
    ]
    return F.interpolate(cropped[:, None], size=shape, mode="bilinear", align_corners=False)[:, 0]


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """[0, 1] → the tower's own scale: (x − mean) / std per channel."""
    mean = pixels.new_tensor(preprocessing.mean).view(1, -1, 1, 1)
    std = pixels.new_tensor(preprocessing.std).view(1, -1, 1, 1)
    return (pixels - mean) / std
