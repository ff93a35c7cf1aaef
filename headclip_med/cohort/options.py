"""What can be asked of every case of a run, checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headclip_med.base.errors import InputError
from headclip_med.base.names import CHANNELS, IRREGULAR, PREPROCESSINGS
from headclip_med.base.types import PLANES
from headclip_med.writing import ALL_FORMATS, FORMATS, DicomOptions, check_formats
from headclip_med.writing.dicom.options import check_dicom_extra

if TYPE_CHECKING:
    from headclip_med.engine.engine import Ask


@dataclass(frozen=True)
class CaseOptions:
    """Options of :meth:`headclip_med.engine.torch_engine.Engine.predict` and of writing; None: the model's or scan's
    own.

    Attributes:
        domain, plane, window, channels: by name; plane also comma-joined or ``all``, window also ``LEVEL/WIDTH`` in HU.
        series, time: choice within the source; on_irregular: what to do with irregular DICOM series.
        threshold: in (0, 1); smooth_mm: sigma along the normal. preprocessing: ``own`` or ``released``.
        formats: files to write; keep_identifiers: SOPInstanceUIDs in ``result.json``.
        keep_empty_frames, deidentify: of DICOM objects, see :class:`headclip_med.writing.DicomOptions`.
    """

    domain: str | None = None
    plane: str | None = None
    window: str | None = None
    channels: str | None = None
    series: str | None = None
    time: int | None = None
    on_irregular: str = "error"
    threshold: float | None = None
    smooth_mm: float | None = None
    preprocessing: str | None = None
    formats: tuple[str, ...] = FORMATS
    keep_identifiers: bool = False
    keep_empty_frames: bool = False
    deidentify: bool = False

    @property
    def dicom(self) -> DicomOptions:
        """How DICOM objects are written."""
        return DicomOptions(keep_empty_frames=self.keep_empty_frames, deidentify=self.deidentify)

    def ask(self) -> Ask:
        """What they say to the engine."""
        from headclip_med.engine.engine import Ask

        channels: Any = self.channels
        kind: Any = self.preprocessing
        return Ask(self.domain, self.plane, self.window, channels, self.threshold, self.smooth_mm, kind)

    def recorded(self) -> dict[str, Any]:
        """The options as plain JSON values without ``series``: it may be an identifier of a study.

        Nothing is lost by that, as the hash of the source already says which series was read.
        """
        facts = asdict(self)
        del facts["series"]
        if self.preprocessing is None:
            del facts["preprocessing"]  # as in results from before there was a choice
        return {**facts, "formats": sorted(set(self.formats))}


def check_options(options: CaseOptions) -> None:
    """Refuse options that no case could be run with.

    Raises:
        InputError, OutputError, MissingExtraError: the first one that is wrong.
    """
    check_formats(options.formats)
    if not options.formats:
        raise InputError(f"At least one format of {', '.join(ALL_FORMATS)} must be named", "none")
    check_dicom_extra(options.formats)
    _check_planes(options.plane)
    if options.threshold is not None and not 0 < options.threshold < 1:
        raise InputError("The threshold must lie between 0 and 1", options.threshold, "The map holds probabilities")
    if options.smooth_mm is not None and not (math.isfinite(options.smooth_mm) and options.smooth_mm >= 0):
        raise InputError("The smoothing must be 0 mm or more", options.smooth_mm, "0 switches it off")
    if options.time is not None and options.time < 0:
        raise InputError("The time point must be 0 or more", options.time, "Time points are counted from 0")
    if options.domain is not None:
        from headclip_med.models.domains import get_domain

        get_domain(options.domain)
    check_name("channels", options.channels, CHANNELS)
    check_name("preprocessing", options.preprocessing, PREPROCESSINGS)
    check_name("policy for irregular series", options.on_irregular, IRREGULAR)
    if options.window is not None:
        from headclip_med.slicing.intensity import parse_window

        parse_window(options.window)
    if options.preprocessing == "released":
        from headclip_med.slicing.view import check_released

        check_released(options.window, options.channels)


def check_batch_size(batch_size: int | None) -> None:
    """Refuse a batch of less than one slice."""
    if batch_size is not None and batch_size < 1:
        raise InputError("The batch size must be at least 1", batch_size, "Leave it out for the default")


def check_name(kind: str, name: str | None, known: Sequence[str]) -> None:
    """Refuse a ``name`` that is not among the ``known`` ones, naming the nearest; None is a default."""
    from difflib import get_close_matches

    if name is None or name in known:
        return
    near = get_close_matches(name, known, 1)
    hint = f"Did you mean {near[0]}" if near else "Choose one of them"
    raise InputError(f"The {kind} must be one of {', '.join(known)}", name, hint)


def _check_planes(plane: str | None) -> None:
    if plane is None or plane.strip() == "all":
        return
    for name in plane.split(","):
        check_name("plane", name.strip(), (*PLANES, "all"))
        if name.strip() == "all":
            raise InputError("The plane 'all' must stand alone", plane, "Write --plane all")
