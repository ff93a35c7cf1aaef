"""One case's job: everything decided before its first slice runs. In numpy alone, for every engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import check_affine, spacing
from headclip_med.base.types import Affine, Plane
from headclip_med.base.volume import AnyVolume, volume_array
from headclip_med.slicing.intensity import Channels, Preprocessing, as_released, foreground, intensity_ranges
from headclip_med.slicing.places import empty_slices
from headclip_med.slicing.scan import Scan
from headclip_med.slicing.view import Window, check_released, choose_channels, choose_planes, source_name, window_or_own


@dataclass(frozen=True)
class Job:
    """A volume and how it is looked at.

    Attributes:
        volume: as it was loaded; array: its values ``(C, I, J, K)`` float32; affine: checked.
        domain: name; preprocessing: with the window and the channels of this case.
        planes: the primary one first; plane_reason: why these. warnings: what was odd or assumed, in words.
    """

    volume: AnyVolume
    array: NDArray[np.float32]
    affine: Affine
    domain: str
    preprocessing: Preprocessing
    planes: tuple[Plane, ...]
    plane_reason: str
    warnings: tuple[str, ...]

    def scan(self) -> Scan:
        """The volume with its foreground and its black and white, ready to be cut."""
        meta = self.volume.meta
        is_rgb, is_2d, inverted = (bool(meta.get(key, False)) for key in ("is_rgb", "is_2d", "display_inverted"))
        axis, empty = empty_slices(self.volume, self.affine)
        filled = np.delete(self.array, empty, axis + 1) if empty else self.array
        if self.preprocessing.kind == "released":
            mask = np.ones(filled.shape[1:], dtype=bool)
        else:
            mask = foreground(filled, modality=meta.get("modality"), is_rgb=is_rgb, is_2d=is_2d, inverted=inverted)
        for index in empty:  # in rising order
            mask = np.insert(mask, index, False, axis)
        ranges = intensity_ranges(self.array, mask, self.preprocessing, is_rgb=is_rgb)
        return Scan(self.array, mask, self.affine, ranges, self.preprocessing, inverted)

    def provenance(self, sigma_mm: float) -> dict[str, Any]:
        """What was decided, as plain JSON values."""
        spec = asdict(self.preprocessing)
        return {
            "domain": self.domain,
            "plane_reason": self.plane_reason,
            "preprocessing": {k: v for k, v in spec.items() if k not in ("mean", "std", "image_size")},
            "slice_smoothing_mm": sigma_mm,
        }


def make_job(
    volume: AnyVolume,
    domain: str,
    own: Preprocessing,
    *,
    plane: str | Sequence[str] | None = None,
    window: str | Window | None = None,
    channels: Channels | None = None,
    warnings: Sequence[str] = (),
) -> Job:
    """Decide what was left open.

    Args:
        own: the model's preprocessing, with the window, fit and channels of its ``domain``.
        plane, window, channels: as asked by the user. warnings: of the model.

    Raises:
        InputError: an unusable affine or option.
    """
    allow_shear = bool(volume.meta.get("sheared", False))
    affine = check_affine(np.asarray(volume.affine, dtype=np.float64), source_name(volume), allow_shear=allow_shear)
    planes, plane_reason = choose_planes(affine, volume, plane)
    _check_planes(volume, affine, planes)
    array = np.asarray(volume_array(volume), dtype=np.float32)
    spec, assumed = _decided(own, array, volume, window, channels)
    notes = [*warnings, *volume.meta.get("reader_warnings", []), assumed]
    return Job(volume, array, affine, domain, spec, planes, plane_reason, tuple(note for note in notes if note))


def _decided(
    own: Preprocessing,
    array: NDArray[np.float32],
    volume: AnyVolume,
    window: str | Window | None,
    channels: Channels | None,
) -> tuple[Preprocessing, str]:
    """The model's preprocessing with what was asked of this case, and what was assumed in words."""
    if own.kind == "released":
        check_released(window, channels)
        return as_released(own, array, source_name(volume)), ""
    level_width, assumed = window_or_own(window, own.window, volume)
    return replace(own, window=level_width, channels=choose_channels(channels, own.channels)), assumed


def _check_planes(volume: AnyVolume, affine: Affine, planes: Sequence[Plane]) -> None:
    """A stack that was kept irregular shows the patient's shape in its own slices only."""
    if not (volume.meta.get("sheared") or volume.meta.get("uneven")):
        return
    own = choose_planes(affine, volume, None)[0]
    if tuple(planes) != own:
        raise InputError(
            f"The plane of {source_name(volume)} must be {own[0]}: its slices are tilted or unevenly spaced",
            ", ".join(planes),
            "Leave the plane out, or read it with --on-irregular resample",
        )


def chosen_threshold(threshold: float | None, own: tuple[float, str]) -> tuple[float, str]:
    """The asked cut on the map, or the model's own; and where it came from."""
    if threshold is None:
        return own
    if not 0 < threshold < 1:
        raise InputError("The threshold must lie between 0 and 1", threshold, "The map holds probabilities")
    return threshold, "chosen by the user"


def chosen_smoothing(smooth_mm: float | None, own: float, job: Job) -> float:
    """Sigma along the normal in mm: the asked one, or the model's own; none between independent pictures."""
    if smooth_mm is None:
        are_pictures = bool(job.volume.meta.get("is_2d", False)) and job.array.shape[3] > 1
        return 0.0 if are_pictures else own
    extent = float((spacing(job.affine) * job.array.shape[1:]).max())
    if not 0 <= smooth_mm <= extent:
        raise InputError(f"The smoothing must lie between 0 mm and the volume's {extent:.0f} mm", smooth_mm)
    return smooth_mm


class Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def restart(self) -> None:
        """Begin the step anew: what passed since the last lap was waiting."""
        self._last = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Spent in all steps."""
        return sum(self.laps.values())

    def lap(self, name: str) -> None:
        """End the step ``name``; the next one begins."""
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 4), now
