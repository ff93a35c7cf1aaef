"""Published methods behind one protocol, by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from headclip_med.detectors.anomalyclip import anomalyclip
from headclip_med.detectors.base import Capabilities, ClassFeatures, Detector, SliceBatch
from headclip_med.detectors.headclip import HeadCLIP, HeadCLIPConfig
from headclip_med.errors import ModelError

DETECTORS: dict[str, Callable[..., Detector]] = {"headclip": HeadCLIP, "anomalyclip": anomalyclip}


def make_detector(method: str, *args: Any, **kwargs: Any) -> Detector:
    """Build a detector by its registered name; arguments as for :class:`HeadCLIP`."""
    if method not in DETECTORS:
        near = get_close_matches(method, DETECTORS, 1)
        raise ModelError(
            f"The method must be one of {', '.join(DETECTORS)}",
            method,
            f"Did you mean {near[0]}" if near else "",
        )
    return DETECTORS[method](*args, **kwargs)


__all__ = [
    "DETECTORS",
    "Capabilities",
    "ClassFeatures",
    "Detector",
    "HeadCLIP",
    "HeadCLIPConfig",
    "SliceBatch",
    "make_detector",
]
