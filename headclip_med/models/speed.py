"""Presets that trade quality for time. What each costs is in docs/performance.md. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from headclip_med.base.errors import InputError


@dataclass(frozen=True)
class Speed:
    """How much of the work is done.

    Attributes:
        name: of the preset.
        scale: side of the model input, as a share of the model's own.
        stride_mm: distance of the slices that are scored first, while those around suspicious ones follow, and the
            others are interpolated. 0: every slice is scored.
        early_exit: of a model that taps several layers, leave out the last one and the blocks up to it.
    """

    name: str
    scale: float = 1.0
    stride_mm: float = 0.0
    early_exit: bool = False


SPEEDS = {
    "exact": Speed("exact"),
    "balanced": Speed("balanced", stride_mm=3.0),
    "fast": Speed("fast", scale=0.75, stride_mm=5.0, early_exit=True),
}


def get_speed(name: str) -> Speed:
    """Find a preset by its name.

    Args:
        name: As given to ``--speed``.

    Returns:
        The preset.

    Raises:
        InputError: no such preset.
    """
    if name not in SPEEDS:
        raise InputError(f"The speed must be one of {', '.join(SPEEDS)}", name)
    return SPEEDS[name]
