"""Foreground, black and white of a volume, and where its slices lie in the model's square input. In numpy alone;
:mod:`headclip_med.slicing.pixels` makes the pixels with torch, :mod:`headclip_med.slicing.pixels_numpy` without."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from headclip_med.base.errors import InputError

Fit = Literal["pad", "stretch"]
Channels = Literal["repeat", "neighbours"]
Range = tuple[float, float]

CHANNELS: tuple[Channels, ...] = ("repeat", "neighbours")

# own: black and white of the volume's patient, shape kept; released: as the published codes feed their models.
PreprocessingKind = Literal["own", "released"]

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
# A volume that reaches from air to bone is CT, whether it says so or not.
_AIR_HU, _BONE_HU = -900.0, 300.0
# Padding fills more than half of at least this many of the six faces (a circular field of view: four), and values
# within this share of the robust range of it are at most this share as frequent as it is.
_PADDED_FACES = 4
_NEAR_PADDING, _NEAR_PADDING_SHARE = 0.01, 0.1
# Air is a peak at the bottom of the range (this share of it) and narrow (this many of its own standard deviations
# below Otsu's threshold). In stripped brains the darker class lies above 0.17 and within 3.5; in scans with air below
# 0.10 and beyond 5.
_AIR_BOTTOM, _AIR_NARROW = 0.125, 4.0
# Air beside padding lies within this share of the range of it, unless the padding lies this share below everything.
_AIR_NEAR_PADDING, _FAR_BELOW = 0.1, 0.3
# The cut lies this share of the way from air to Otsu's threshold, and above this many standard deviations of the noise.
_TOWARDS_OTSU, _ABOVE_NOISE = 0.25, 3.0
_MAD_TO_SD = 1.4826  # median absolute deviation to standard deviation, of normal noise
# Otsu's threshold and percentiles are taken from at most so many voxels.
_OTSU_SAMPLE, _PERCENTILE_SAMPLE = 500_000, 2_000_000


@dataclass(frozen=True)
class Preprocessing:
    """How slices become pixels.

    Attributes:
        image_size: side of the square model input in pixels.
        mean, std: of the tower's pixels, per channel, on the scale [0, 1].
        window: ``(level, width)`` in stored units, or None for percentiles of the foreground.
        percentiles: lower and upper, in percent, of the foreground when there is no window.
        channels: three times the slice, or the slice with a neighbour on each side (2.5-D). A volume of three
            sequences, and a colour image, keep their own three channels.
        neighbour_mm: distance of the 2.5-D neighbours.
        fit: ``pad`` keeps the shape in mm and pads with black, ``stretch`` fills the square.
        min_foreground: a slice with a smaller share of foreground is background and is not sent to the tower.
        kind: ``released`` stretches 8-bit pictures to the square as 8-bit pictures, and divides them by 255. Nothing is
            background there, and ``window``, ``percentiles``, ``channels`` and ``fit`` count for nothing.
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
    kind: PreprocessingKind = "own"


def parse_window(text: str) -> tuple[float, float]:
    """Read a window from its name or from ``LEVEL/WIDTH``.

    Args:
        text: ``brain`` or another name of :data:`WINDOWS`, or ``40/80``.

    Returns:
        ``(level, width)`` in stored units (HU for CT), the width above 0.

    Raises:
        InputError: no known name and no two numbers, or a width of 0 or less.
    """
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


def looks_like_hu(volume: NDArray[np.float32]) -> bool:
    """Tell whether the values of a volume reach from air to bone, as those of CT in HU.

    Args:
        volume: Stored values of any shape.

    Returns:
        True where the lowest value is at or below air and the highest at or above bone.
    """
    return bool(volume.min() <= _AIR_HU and volume.max() >= _BONE_HU)


def foreground(
    volume: NDArray[np.float32],
    *,
    modality: str | None,
    is_rgb: bool = False,
    is_2d: bool = False,
    inverted: bool = False,
) -> NDArray[np.bool_]:
    """Find the voxels that may show something, generously, for nothing is found outside.

    Colour: everything. CT: above −500 HU. A plain 2-D image: everything but a border of exactly the padding value.
    Otherwise: what differs from the padding value, if there is one, and lies clearly above air, if there is any.

    Args:
        volume: Stored values ``(C, I, J, K)``.
        modality: DICOM code or None.
        is_rgb: Three colour channels.
        is_2d: A plain image, not a scan.
        inverted: MONOCHROME1, where air is bright. It changes nothing for CT, whose values are HU all the same.

    Returns:
        ``(I, J, K)``, true where any channel may show something.
    """
    if is_rgb:
        return np.ones(volume.shape[1:], dtype=bool)
    if modality == "CT":
        return np.asarray((volume > _CT_FOREGROUND_HU).any(axis=0))
    of_channel = _image_foreground if is_2d else _scan_foreground
    channels = [of_channel(-channel if inverted else channel) for channel in volume]
    return np.asarray(np.logical_or.reduce(channels))


def _image_foreground(channel: NDArray[np.float32]) -> NDArray[np.bool_]:
    """All but the regions of the corners' value that reach the edge: nothing dark inside is lost."""
    regions, _ = ndimage.label(channel == _corner_value(channel))
    edges = [regions.take((0, -1), axis) for axis in range(3) if regions.shape[axis] > 1]
    return np.isin(regions, np.setdiff1d(np.concatenate([edge.ravel() for edge in edges]), 0), invert=True)


def _scan_foreground(channel: NDArray[np.float32]) -> NDArray[np.bool_]:
    corner = _corner_value(channel)
    padding = channel == corner
    rest = _sample(channel[~padding])
    if _is_padding(padding, rest, corner):
        cut = _air_cut(rest, padding=corner)
        return ~padding if cut is None else ~padding & (channel > cut)
    values = _sample(channel)
    cut = _air_cut(values)
    return channel > (_dark_cut(values) if cut is None else cut)


def _corner_value(channel: NDArray[np.float32]) -> float:
    """The most frequent value of the eight corners."""
    values, counts = np.unique(channel[np.ix_(*[(0, -1)] * 3)], return_counts=True)
    return float(values[counts.argmax()])


def _is_padding(padding: NDArray[np.bool_], rest: NDArray[np.float32], value: float) -> bool:
    """Whether ``value`` was filled in rather than measured: it fills most faces and stands alone.

    A noise floor does neither: its neighbouring values are as frequent as itself.
    """
    faces = [padding.take(end, axis).mean() for axis in range(3) for end in (0, -1)]
    if sum(share > 0.5 for share in faces) < _PADDED_FACES:
        return False
    if rest.size == 0:
        return True
    low, high = np.percentile(rest, (1, 99))
    near = float((np.abs(rest - value) <= _NEAR_PADDING * (high - low)).mean())
    share = float(padding.mean())
    return near * (1 - share) <= _NEAR_PADDING_SHARE * share


def _sample(values: NDArray[np.float32], most: int = _OTSU_SAMPLE) -> NDArray[np.float32]:
    """All values in rising order, or ``most`` evenly spaced ones: the order of storage does not matter."""
    ordered = np.sort(values, axis=None)
    if ordered.size <= most:
        return ordered
    return np.asarray(ordered[np.linspace(0, ordered.size - 1, most).round().astype(np.intp)])


def _air_cut(values: NDArray[np.float32], padding: float | None = None) -> float | None:
    """The value that noise in air stays below, or None where there is no air.

    Beside ``padding`` of a measured value, air has nearly that value itself: anything brighter is an even brain with a
    very bright lesion. A filler far below all measured values (−2048 around a CT) says nothing about air; 0 is none.
    """
    if values.size == 0 or values.min() == values.max():
        return None
    low, otsu, high = _low_otsu_high(values)
    dark = values[values <= otsu]
    level = float(np.median(dark))
    noise = _MAD_TO_SD * float(np.median(np.abs(dark - level)))
    if level - low > _AIR_BOTTOM * (high - low) or otsu - level < _AIR_NARROW * noise:
        return None
    if padding is not None:
        is_filler = padding != 0 and low - padding > _FAR_BELOW * (high - low)
        if not is_filler and level - padding > _AIR_NEAR_PADDING * (high - padding):
            return None
    return level + max(_TOWARDS_OTSU * (otsu - level), _ABOVE_NOISE * noise)


def _dark_cut(values: NDArray[np.float32]) -> float:
    """Without padding and without a clear peak of air: as far towards Otsu's threshold, from the darkest values."""
    if values.min() == values.max():
        return float(values[0])
    low, otsu, _ = _low_otsu_high(values)
    return low + _TOWARDS_OTSU * (otsu - low)


def _low_otsu_high(values: NDArray[np.float32]) -> tuple[float, float, float]:
    """Robust range of values that are not all the same, and Otsu's threshold within it."""
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    otsu = sitk.OtsuThresholdImageFilter()
    clipped = np.clip(values, low, high)
    otsu.Execute(sitk.GetImageFromArray(clipped[None]))
    bright = clipped > otsu.GetThreshold()
    # Half-way between the classes' means: the same, but for a gap between them, where Otsu's is its lower edge.
    return low, float(clipped[bright].mean(dtype=float) + clipped[~bright].mean(dtype=float)) / 2, high


def intensity_ranges(
    volume: NDArray[np.float32], mask: NDArray[np.bool_], preprocessing: Preprocessing, *, is_rgb: bool
) -> list[Range]:
    """Choose the stored values that become black and white.

    They are taken from the whole volume, so that a slice looks the same whatever other slices are asked for.

    Args:
        volume: Stored values ``(C, I, J, K)``.
        mask: Foreground ``(I, J, K)``, from which percentiles are taken.
        preprocessing: Its window or its percentiles decide.
        is_rgb: Three colour channels, which always reach from 0 to 255.

    Returns:
        ``(low, high)`` per channel in stored units, with ``high > low`` always.
    """
    if is_rgb or preprocessing.kind == "released":
        return [(0.0, 255.0)] * len(volume)
    if preprocessing.window is not None:
        level, width = preprocessing.window
        return [(level - width / 2, level + width / 2)] * len(volume)
    return [_percentile_range(channel[mask], preprocessing.percentiles) for channel in volume]


def _percentile_range(values: NDArray[np.float32], percentiles: tuple[float, float]) -> Range:
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(_sample(values, _PERCENTILE_SAMPLE), percentiles))
    return (low, high) if high > low else (low, low + max(1e-6, abs(low) * 1e-6))


def as_released(preprocessing: Preprocessing, volume: NDArray[np.float32], name: str) -> Preprocessing:
    """Give the preprocessing of the published codes, for a volume that they could read.

    Args:
        preprocessing: The model's own, whose size, mean and deviation stay.
        volume: Stored values of any shape, whole numbers from 0 to 255.
        name: What to call the volume in the message.

    Returns:
        The preprocessing of kind ``released``.

    Raises:
        InputError: anything but whole numbers from 0 to 255.
    """
    low, high = float(volume.min()), float(volume.max())
    if not (low >= 0 and high <= 255 and bool((volume == np.round(volume)).all())):
        raise InputError(
            "The released preprocessing must be given 8-bit images, whole numbers from 0 to 255",
            f"{name} with values from {low:g} to {high:g}",
            "Save its slices as 8-bit pictures, or leave --preprocessing released out",
        )
    return replace(preprocessing, kind="released", window=None, channels="repeat", fit="stretch")


def released_levels(slices: NDArray[np.float32], size: int, *, inverted: bool = False) -> NDArray[np.float32]:
    """Resize 8-bit slices to the square by Pillow's bicubic resizing in 8 bits.

    Pillow rounds between its two passes, so that no other resizing gives the published pixels.

    Args:
        slices: ``(N, C, H, W)``, whole numbers from 0 to 255.
        size: Side of the square in pixels.
        inverted: MONOCHROME1, where 255 is black.

    Returns:
        ``(N, C, size, size)`` float32 in [0, 1].
    """
    stored = np.round(255 - slices if inverted else slices).astype(np.uint8)
    planes = [
        Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC)
        for plane in stored.reshape(-1, *stored.shape[2:])
    ]
    levels = np.stack([np.asarray(plane, dtype=np.float32) for plane in planes]) / np.float32(255)
    return levels.reshape(*stored.shape[:2], size, size)


def neighbour_indices(index: int, count: int, step: int) -> tuple[int, int, int]:
    """Choose the slices that become the three channels of a slice in 2.5-D.

    Args:
        index: The slice in the middle, from 0.
        count: Number of slices.
        step: Distance of the neighbours in slices.

    Returns:
        The slice before, the slice itself and the one after, where the outermost slices repeat themselves.
    """
    return max(0, index - step), index, min(count - 1, index + step)


def check_channels(count: int) -> None:
    """Refuse anything but one channel or three.

    Args:
        count: Number of channels.

    Raises:
        InputError: neither one channel nor three.
    """
    if count not in (1, 3):
        raise InputError(
            "A volume must have one channel, or three (sequences or colour)",
            f"{count} channels",
            "Choose one or three of them",
        )


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

    @property
    def rows(self) -> slice:
        """Rows of the square that the slice fills."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Columns of the square that the slice fills."""
        return slice(self.left, self.left + self.width)


def place(shape: tuple[int, int], pixel_mm: tuple[float, float], size: int, fit: Fit) -> Placement:
    """Place a slice in the model's square input, in the middle of it.

    Args:
        shape: ``(H, W)`` of the slice.
        pixel_mm: ``(row, column)`` spacing in mm.
        size: Side of the square in pixels.
        fit: ``pad`` keeps the shape in mm, ``stretch`` fills the square.

    Returns:
        Where the slice lies in the square, in pixels.
    """
    if fit == "stretch":
        return Placement(size, 0, 0, size, size)
    extent = np.asarray(shape) * np.asarray(pixel_mm)
    height, width = (max(1, int(n)) for n in np.round(extent * size / extent.max()))
    return Placement(size, (size - height) // 2, (size - width) // 2, height, width)
