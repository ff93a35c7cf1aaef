"""What a user may ask of a case: every front (command line, cohort, evaluation, MONAI, napari) passes it whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headclip_med.base.errors import InputError
from headclip_med.base.names import CHANNELS, IRREGULAR, PREPROCESSINGS, check_name
from headclip_med.base.types import PLANES

if TYPE_CHECKING:
    from headclip_med.slicing.intensity import Channels, PreprocessingKind


@dataclass(frozen=True)
class Ask:
    """What a user may ask of one case. None leaves it to the model or the scan.

    Attributes:
        domain: see ``headclip_med.models.domains``, default the model's own. An exported model has no other.
        plane: axial, coronal, sagittal, several of them in a list or joined by commas (their maps are averaged), or
            ``all``, default the acquisition plane.
        window: CT window by name, ``LEVEL/WIDTH`` or ``(level, width)`` in HU, default the domain's.
        channels: ``repeat`` the slice, or ``neighbours`` (2.5-D), default the domain's.
        series, time_index: choice within the source, the second from 0.
        on_irregular: what to do with an irregular DICOM series, see :func:`headclip_med.reading.read_volume`.
        threshold: cut on the map in (0, 1), default the pack's.
        smooth_mm: sigma in mm of a Gaussian along the normal, from 0 to the volume's extent, default the pack's.
        preprocessing: ``own``, or ``released``: 8-bit pictures as the published codes feed them, for numbers that are
            to be compared with published ones (docs/methods.md), default the pack's, or ``own``.
    """

    domain: str | None = None
    plane: str | Sequence[str] | None = None
    window: str | tuple[float, float] | None = None
    channels: Channels | None = None
    series: str | None = None
    time_index: int | None = None
    on_irregular: str = "error"
    threshold: float | None = None
    smooth_mm: float | None = None
    preprocessing: PreprocessingKind | None = None

    def recorded(self) -> dict[str, Any]:
        """Give it as plain JSON values without ``series``, which may be an identifier of a study.

        Nothing is lost by that, as the hash of the source already says which series was read.

        Returns:
            Fields by name with ``time_index`` as ``time``, and ``preprocessing`` only where it was asked for.
        """
        facts = {"time" if name == "time_index" else name: value for name, value in asdict(self).items()}
        del facts["series"]
        if self.preprocessing is None:
            del facts["preprocessing"]  # as in results from before there was a choice
        return facts


def check_ask(ask: Ask) -> None:
    """Refuse what no case could be run with, before anything is loaded.

    Args:
        ask: What was asked. None in a field is always allowed.

    Raises:
        InputError: The first thing that is wrong.
    """
    _check_planes(ask.plane)
    if ask.threshold is not None and not 0 < ask.threshold < 1:
        raise InputError("The threshold must lie between 0 and 1", ask.threshold, "The map holds probabilities")
    if ask.smooth_mm is not None and not (math.isfinite(ask.smooth_mm) and ask.smooth_mm >= 0):
        raise InputError("The smoothing must be 0 mm or more", ask.smooth_mm, "0 switches it off")
    if ask.time_index is not None and ask.time_index < 0:
        raise InputError("The time point must be 0 or more", ask.time_index, "Time points are counted from 0")
    if ask.domain is not None:
        from headclip_med.models.domains import get_domain

        get_domain(ask.domain)
    check_name("channels", ask.channels, CHANNELS)
    check_name("preprocessing", ask.preprocessing, PREPROCESSINGS)
    check_name("policy for irregular series", ask.on_irregular, IRREGULAR)
    if isinstance(ask.window, str):
        from headclip_med.slicing.intensity import parse_window

        parse_window(ask.window)
    if ask.preprocessing == "released":
        from headclip_med.slicing.view import check_released

        check_released(ask.window, ask.channels)


def _check_planes(plane: str | Sequence[str] | None) -> None:
    names = plane.split(",") if isinstance(plane, str) else plane or ()
    if [name.strip() for name in names] == ["all"]:
        return
    for name in names:
        check_name("plane", name.strip(), (*PLANES, "all"))
        if name.strip() == "all":
            raise InputError("The plane 'all' must stand alone", plane, "Write --plane all")
