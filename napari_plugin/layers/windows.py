"""Black and white of a picture: the file's own window, CT presets, percentiles for everything else. Knows no Qt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.slicing.intensity import WINDOWS

Limits = tuple[float, float]

_SAMPLE = 500_000  # values that decide percentiles: enough for them, and fast
_WIDE, _SOFT, _BRIGHT = (0.5, 99.5), (2.0, 98.0), (30.0, 99.9)

PERCENTILES: dict[str, tuple[float, float]] = {"full": (0.0, 100.0), "wide": _WIDE, "soft": _SOFT, "bright": _BRIGHT}


def first_window(channel: NDArray[np.float32], meta: Mapping[str, Any]) -> Limits:
    """Choose how a channel is shown at first: the file's window, the brain window for CT, else percentiles.

    Args:
        channel: values ``(I, J, K)``.
        meta: the volume's own.

    Returns:
        Black and white, in stored units.
    """
    own = meta.get("default_window")
    if own:
        return level_to_limits(float(own[0]), float(own[1]))
    if meta.get("modality") == "CT":
        return level_to_limits(*WINDOWS["brain"])
    return percentile_limits(channel, *_WIDE)


def presets(modality: str | None) -> list[str]:
    """List the windows that make sense for a modality.

    Args:
        modality: as DICOM writes it, None where it is not known.

    Returns:
        Their names, ``as opened`` first.
    """
    return ["as opened", *(WINDOWS if modality == "CT" else PERCENTILES)]


def preset_limits(name: str, channel: NDArray[np.float32], meta: Mapping[str, Any]) -> Limits:
    """Compute black and white of a preset by name.

    Args:
        name: of the preset.
        channel: values ``(I, J, K)``.
        meta: the volume's own.

    Returns:
        Black and white, in stored units, as at first for a name that is no window.
    """
    if name in WINDOWS:
        return level_to_limits(*WINDOWS[name])
    if name in PERCENTILES:
        return percentile_limits(channel, *PERCENTILES[name])
    return first_window(channel, meta)


def level_to_limits(level: float, width: float) -> Limits:
    """Convert level and width to black and white.

    Args:
        level: the middle.
        width: from black to white.

    Returns:
        Black and white.
    """
    return level - width / 2, level + width / 2


def percentile_limits(channel: NDArray[np.float32], low: float, high: float) -> Limits:
    """Take percentiles of what is brighter than the darkest value, so that air does not decide.

    Args:
        channel: values ``(I, J, K)``.
        low: the lower end, in percent.
        high: the upper end, in percent.

    Returns:
        Black and white, white above black in any case.
    """
    values = channel.ravel()[:: max(1, channel.size // _SAMPLE)]
    values = values[values > values.min()] if values.min() < values.max() else values
    black, white = (float(value) for value in np.percentile(values, (low, high)))
    return black, max(white, black + 1e-6 * max(1.0, abs(black)))


def dragged(limits: Limits, right: float, down: float, full: float) -> Limits:
    """Move black and white by a drag: to the right widens, down raises the level, which darkens.

    Args:
        limits: black and white before.
        right, down: the drag as a share of the canvas.
        full: the range of values that one canvas stands for.

    Returns:
        Black and white after it.
    """
    low, high = limits
    level, width = (low + high) / 2, high - low
    return level_to_limits(level + down * full, max(width + right * full, full * 1e-3))
