"""Published methods behind one protocol, by name: ours, and those of other packages through their entry points."""

from __future__ import annotations

from difflib import get_close_matches

from headclip_med.base.errors import ModelError
from headclip_med.base.names import entry_point_methods
from headclip_med.detectors.anomalyclip import AnomalyCLIP
from headclip_med.detectors.base import Detector, Parts
from headclip_med.detectors.clip import Clip, ClipVV
from headclip_med.detectors.crane.crane import Crane
from headclip_med.detectors.crane.crane_plus import CranePlus
from headclip_med.detectors.data import Auxiliary, Capabilities, ClassFeatures, LabelledPixels, NormalPixels, SliceBatch
from headclip_med.detectors.headclip.config import HeadCLIPConfig
from headclip_med.detectors.headclip.detector import HeadCLIP
from headclip_med.detectors.memory import Memory
from headclip_med.detectors.mvfa.mvfa import MVFA
from headclip_med.detectors.vectors import Vectors
from headclip_med.detectors.winclip.winclip import WinCLIP

_OURS: tuple[type[Detector], ...] = (
    HeadCLIP,
    AnomalyCLIP,
    Crane,
    CranePlus,
    MVFA,
    Vectors,
    WinCLIP,
    ClipVV,
    Clip,
    Memory,
)
DETECTORS: dict[str, type[Detector]] = {method.name: method for method in _OURS}


def get_method(name: str) -> type[Detector]:
    """Find the class of a method by its name: one of ours, or of an entry point ``headclip_med.detectors``.

    Args:
        name: Of the method.

    Returns:
        Its class.

    Raises:
        ModelError: no such method, with the nearest name, or another package's that cannot be loaded.
    """
    if name in DETECTORS:
        return DETECTORS[name]
    outside = entry_point_methods()
    if name not in outside:
        known = [*DETECTORS, *outside]
        near = get_close_matches(name, known, 1)
        raise ModelError(
            f"The method must be one of {', '.join(known)}", name, f"Did you mean {near[0]}" if near else ""
        )
    try:
        found = outside[name].load()
    except Exception as error:
        raise ModelError(
            f"The method {name} must load from its package", f"{type(error).__name__}: {error}", "Install it again"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Detector)) or found.name != name:
        raise ModelError(
            f"The entry point {name} must name a subclass of headclip_med.detectors.Detector with that name",
            getattr(found, "__name__", type(found).__name__),
        )
    return found


__all__ = [
    "DETECTORS",
    "Auxiliary",
    "Capabilities",
    "ClassFeatures",
    "Detector",
    "HeadCLIP",
    "HeadCLIPConfig",
    "LabelledPixels",
    "NormalPixels",
    "Parts",
    "SliceBatch",
    "get_method",
]
