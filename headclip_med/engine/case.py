"""A job → slices to score → its result: maps, one map, scores and findings, whatever engine scores them. No torch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import check_affine, slice_centres, slice_frame, spacing
from headclip_med.base.types import Affine, Plane
from headclip_med.base.versions import package_versions
from headclip_med.base.volume import AnyVolume, LoadedVolume, volume_array
from headclip_med.engine.ask import Ask
from headclip_med.engine.result import AnomalyResult, SliceScore
from headclip_med.engine.scan_run import Arrived, PlaneRun, ScanRun, SlicesDone, Stride
from headclip_med.engine.scorer import Scorer, Setup
from headclip_med.engine.volume_map import find_components, fuse_planes, smooth_along, volume_score
from headclip_med.models.scope import out_of_scope
from headclip_med.slicing.intensity import Preprocessing, as_released, foreground, intensity_ranges
from headclip_med.slicing.places import empty_slices, source_slices
from headclip_med.slicing.scan import Scan
from headclip_med.slicing.view import check_released, choose_channels, choose_planes, source_name, window_or_own

_MANY_FINDINGS = 1000


def slice_scores(run: PlaneRun, job: Job) -> tuple[SliceScore, ...]:
    """List a score for every slice along the plane's axis, background too.

    Args:
        run: A plane whose slices were scored.
        job: The case that it belongs to.

    Returns:
        As many entries as slices, in the order of their indices.
    """
    shape, meta = (job.array.shape[1], job.array.shape[2], job.array.shape[3]), job.volume.meta
    centres = slice_centres(job.affine, shape, run.frame.axis)
    sources = source_slices(job.volume, job.affine, run.frame.axis)
    found = []
    for i, (centre, source) in enumerate(zip(centres, sources, strict=True)):
        place = meta["slice_positions"][source] if meta.get("uneven") and source is not None else centre
        uids = meta.get("slice_uids")
        found.append(
            SliceScore(
                index=i,
                position_mm=None if meta.get("is_2d") else (float(place[0]), float(place[1]), float(place[2])),
                score=float(run.scores[i]),
                background=bool(run.background[i]),
                uid=(str(uids[source]) or None) if uids and source is not None else None,
                interpolated=bool(run.interpolated[i]),
            )
        )
    return tuple(found)


def few_scored(planes: Sequence[PlaneRun]) -> list[str]:
    """Say how many slices were not scored.

    Args:
        planes: Planes whose slices were scored.

    Returns:
        One sentence, or none where all were scored.
    """
    left_out = sum(int(plane.interpolated.sum()) for plane in planes)
    seen = sum(int((~plane.background).sum()) for plane in planes)
    return [f"{left_out} of {seen} slices were not scored but interpolated, as the speed preset says"] * bool(left_out)


def many_findings(count: int) -> list[str]:
    """Warn about more findings than anybody reads.

    Args:
        count: Number of findings.

    Returns:
        One sentence above 1000 findings, else none.
    """
    return [f"{count} findings: the threshold may be too low for this image"] if count > _MANY_FINDINGS else []


@dataclass(frozen=True)
class Job:
    """A volume and how it is looked at.

    Attributes:
        volume: As it was loaded.
        array: Its values ``(C, I, J, K)`` float32.
        affine: Checked.
        domain: Name.
        preprocessing: With the window and the channels of this case.
        planes: The primary one first.
        plane_reason: Why these.
        warnings: What was odd or assumed, in words.
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
        """Find the foreground and the black and white of the volume, so that it can be cut.

        Returns:
            The volume ready to be cut, with a mask ``(I, J, K)``.
        """
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
        """Give what was decided, as plain JSON values.

        Args:
            sigma_mm: Gaussian along the normal that the map is smoothed with.

        Returns:
            Domain, reason of the planes, preprocessing and smoothing.
        """
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
    ask: Ask | None = None,
    warnings: Sequence[str] = (),
) -> Job:
    """Decide what was left open: planes, window, channels, each with its reason.

    Args:
        volume: ``(C, I, J, K)``, as it was loaded.
        domain: Name of the domain.
        own: The model's preprocessing, with the window, fit and channels of its ``domain``.
        ask: Its plane, window and channels, default none of them.
        warnings: Of the model, put before those of the scan.

    Returns:
        The job, with a warning for everything that was assumed.

    Raises:
        InputError: An unusable affine or option.
    """
    ask = ask or Ask()
    allow_shear = bool(volume.meta.get("sheared", False))
    affine = check_affine(np.asarray(volume.affine, dtype=np.float64), source_name(volume), allow_shear=allow_shear)
    planes, plane_reason = choose_planes(affine, volume, ask.plane)
    _check_planes(volume, affine, planes)
    array = np.asarray(volume_array(volume), dtype=np.float32)
    spec, assumed = _decided(own, array, volume, ask)
    notes = [*warnings, *volume.meta.get("reader_warnings", []), assumed]
    return Job(volume, array, affine, domain, spec, planes, plane_reason, tuple(note for note in notes if note))


def _decided(
    own: Preprocessing,
    array: NDArray[np.float32],
    volume: AnyVolume,
    ask: Ask,
) -> tuple[Preprocessing, str]:
    """The model's preprocessing with what was asked of this case, and what was assumed in words."""
    if own.kind == "released":
        check_released(ask.window, ask.channels)
        return as_released(own, array, source_name(volume)), ""
    level_width, assumed = window_or_own(ask.window, own.window, volume)
    return replace(own, window=level_width, channels=choose_channels(ask.channels, own.channels)), assumed


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
    """Choose the asked cut on the map, or the model's own, and say where it came from.

    Args:
        threshold: In (0, 1), None for the model's own.
        own: The model's cut and its origin in words.

    Returns:
        The cut in (0, 1) and its origin in words.

    Raises:
        InputError: A threshold outside of (0, 1).
    """
    if threshold is None:
        return own
    if not 0 < threshold < 1:
        raise InputError("The threshold must lie between 0 and 1", threshold, "The map holds probabilities")
    return threshold, "chosen by the user"


def chosen_smoothing(smooth_mm: float | None, own: float, job: Job) -> float:
    """Choose the asked sigma along the normal, or the model's own, or none between independent pictures.

    Args:
        smooth_mm: In mm, from 0 to the volume's largest extent, None for the model's own.
        own: The model's sigma in mm.
        job: The case.

    Returns:
        Sigma in mm.

    Raises:
        InputError: A negative sigma, or one beyond the volume.
    """
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
        """End the step ``name`` and begin the next one.

        Args:
            name: Key of its seconds in ``laps``.
        """
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 4), now


def timed(volumes: Iterable[AnyVolume]) -> Iterator[tuple[Clock, AnyVolume]]:
    """Give each volume with the clock that began when it was asked for, so that reading it counts.

    Args:
        volumes: Taken one at a time, when asked for.

    Yields:
        Clock and volume, in order.
    """
    given = iter(volumes)
    while True:
        clock = Clock()
        try:
            volume = next(given)
        except StopIteration:
            return
        yield clock, volume


@dataclass
class CaseRun:
    """A case on its way: what was decided, and its slices.

    Attributes:
        sigma_mm: Gaussian along each plane's normal.
        threshold: Cut on the map in (0, 1), and where it came from.
        device: Its name.
        provenance: Of the result.
        warnings: What happened while it was scored.
    """

    job: Job
    slices: ScanRun
    sigma_mm: float
    threshold: tuple[float, str]
    clock: Clock
    device: str
    provenance: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    @property
    def map_bytes(self) -> int:
        """Of the map of one plane."""
        return int(self.slices.planes[0].volume_map.nbytes)

    @property
    def bytes(self) -> int:
        """What it holds: the volume, its mask and a map for every plane."""
        maps = len(self.slices.planes) * self.map_bytes
        return int(self.job.array.nbytes + self.slices.scan.mask.nbytes + maps)

    def started(self) -> ScanRun:
        """Give its slices, which are scored from now on.

        Returns:
            The slices.
        """
        self.clock.restart()
        return self.slices


def begin_case(
    volume: AnyVolume,
    ask: Ask,
    setup: Setup,
    scorer: Scorer[Any],
    clock: Clock,
    progress: SlicesDone | None = None,
    arrived: Arrived | None = None,
) -> CaseRun:
    """Do everything that comes before the first slice: view, foreground, black and white, an empty map.

    Args:
        volume: ``(C, I, J, K)``, as it was loaded.
        ask: What is asked of it.
        setup: Of the ``scorer`` for the domain that is asked for.
        scorer: Gives its identity and the stride of its speed.
        clock: Began when the volume was read.
        progress: Told of slices done and slices in all after each batch.
        arrived: Given maps and scores of each batch.

    Returns:
        The case with no slice scored yet.

    Raises:
        InputError: A volume or an option that cannot be used.
    """
    warnings = (*out_of_scope(setup.expected, volume), *setup.warnings)
    job = make_job(volume, setup.domain, setup.preprocessing, ask, warnings)
    sigma_mm = chosen_smoothing(ask.smooth_mm, setup.smoothing_mm, job)
    clock.lap("read")
    threshold = chosen_threshold(ask.threshold, setup.threshold)
    stride = Stride(scorer.speed.stride_mm, threshold[0]) if scorer.speed.stride_mm > 0 else None
    frames = [slice_frame(job.affine, plane) for plane in job.planes]
    slices = ScanRun(job.scan(), frames, setup.detector, stride=stride, progress=progress, arrived=arrived)
    clock.lap("intensity")
    provenance = {**scorer.identity(), "detector": setup.configuration, **job.provenance(sigma_mm)}
    provenance["versions"] = package_versions()
    return CaseRun(job, slices, sigma_mm, threshold, clock, setup.device, provenance)


def finish_case(case: CaseRun) -> AnomalyResult:
    """Put the maps of a case together, once its slices are scored.

    Args:
        case: With its slices scored or given up.

    Returns:
        A result with a :class:`LoadedVolume` ``(1, I, J, K)`` as its map.

    Raises:
        HeadclipError: What kept its slices from being scored, which may be an error of another kind.
    """
    if case.slices.error is not None:
        raise case.slices.error
    job, planes = case.job, case.slices.planes
    maps = [smooth_along(plane.volume_map, plane.frame.axis, job.affine, case.sigma_mm) for plane in planes]
    volume_map = fuse_planes(maps)
    is_plain = bool(job.volume.meta.get("is_2d", False))
    findings = find_components(volume_map, job.affine, case.threshold[0], planes[0].frame.axis, is_plain)
    case.clock.lap("map")
    notes = (*case.warnings, *few_scored(planes), *many_findings(len(findings)))
    return AnomalyResult(
        volume=job.volume,
        volume_map=LoadedVolume(volume_map[None], job.affine, job.volume.meta),
        pred_score=float(np.mean([volume_score(plane.scores[~plane.background].tolist()) for plane in planes])),
        threshold=case.threshold[0],
        threshold_origin=case.threshold[1],
        planes=job.planes,
        slices=slice_scores(planes[0], job),
        findings=findings,
        display_window=case.slices.scan.ranges[0],
        timings=case.clock.laps,
        warnings=(*job.warnings, *notes),
        provenance=case.provenance,
    )
