"""A job → slices to score → its result: maps, one map, scores and findings, whatever engine scores them. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headclip_med.base.geometry import slice_frame
from headclip_med.base.volume import LoadedVolume
from headclip_med.job import Clock, Job
from headclip_med.result import AnomalyResult
from headclip_med.run_slices import ScorePieces
from headclip_med.scan_run import Arrived, Progress, ScanRun, Stride
from headclip_med.slice_scores import few_scored, many_findings, slice_scores
from headclip_med.volume_map import find_components, fuse_planes, smooth_along, volume_score


@dataclass
class CaseRun:
    """A case on its way: what was decided, and its slices.

    Attributes:
        sigma_mm: Gaussian along each plane's normal; threshold: cut on the map in (0, 1), and where it came from.
        provenance: of the result; warnings: what happened while it was scored.
    """

    job: Job
    slices: ScanRun
    sigma_mm: float
    threshold: tuple[float, str]
    clock: Clock
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


def begin_case(
    job: Job,
    score: ScorePieces,
    *,
    sigma_mm: float,
    threshold: tuple[float, str],
    stride_mm: float,
    clock: Clock,
    provenance: dict[str, Any],
    progress: Progress | None = None,
    arrived: Arrived | None = None,
) -> CaseRun:
    """Everything that comes before the first slice: foreground, black and white, an empty map.

    Args:
        score: scores slices; stride_mm: 0 for every slice, see :class:`headclip_med.scan_run.Stride`.
        clock: goes on from where the engine left it.
    """
    scan = job.scan()
    frames = [slice_frame(job.affine, plane) for plane in job.planes]
    stride = Stride(stride_mm, threshold[0]) if stride_mm > 0 else None
    slices = ScanRun(scan, frames, score, stride=stride, progress=progress, arrived=arrived)
    clock.lap("intensity")
    return CaseRun(job, slices, sigma_mm, threshold, clock, provenance)


def finish_case(case: CaseRun) -> AnomalyResult:
    """Put the maps of a case together, once its slices are scored.

    Returns:
        A result with a :class:`LoadedVolume` ``(1, I, J, K)`` as its map.

    Raises:
        HeadclipError, or whatever else kept its slices from being scored.
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
