"""A job → its result: slices, maps, one map, scores and findings, whatever engine scores the slices. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from headclip_med.geometry import slice_frame
from headclip_med.job import Clock, Job
from headclip_med.reading.base import LoadedVolume
from headclip_med.result import AnomalyResult
from headclip_med.run_slices import Arrived, Batching, Cancel, Progress, Scan, ScoreBatch, run_planes
from headclip_med.slice_scores import many_findings, slice_scores
from headclip_med.volume_map import find_components, fuse_planes, smooth_along, volume_score


def run_job(
    job: Job,
    scorer: Callable[[Scan], ScoreBatch],
    batching: Batching,
    *,
    sigma_mm: float,
    threshold: tuple[float, str],
    clock: Clock,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    arrived: Arrived | None = None,
) -> AnomalyResult:
    """Score every slice of every plane and put the maps together.

    Args:
        scorer: makes, for the job's scan, what scores a batch of its slices. batching: slices at once.
        sigma_mm: Gaussian along each plane's normal. threshold: cut on the map in (0, 1), and where it came from.
        clock: goes on from where the engine left it.

    Returns:
        A result with a :class:`LoadedVolume` ``(1, I, J, K)`` as its map; its provenance is the engine's to add.

    Raises:
        CancelledError: ``cancel`` returned True. ModelError: not even one slice fits the device's memory.
    """
    scan = job.scan()
    clock.lap("intensity")
    frames = [slice_frame(job.affine, plane) for plane in job.planes]
    runs = run_planes(scorer(scan), scan, frames, batching, progress=progress, cancel=cancel, arrived=arrived)
    clock.lap("detect")
    volume_map = fuse_planes([smooth_along(r.volume_map, r.frame.axis, job.affine, sigma_mm) for r in runs])
    findings = find_components(volume_map, job.affine, threshold[0], frames[0].axis)
    clock.lap("map")
    return AnomalyResult(
        volume=job.volume,
        volume_map=LoadedVolume(volume_map[None], job.affine, job.volume.meta),
        pred_score=float(np.mean([volume_score(run.scores[~run.background].tolist()) for run in runs])),
        threshold=threshold[0],
        threshold_origin=threshold[1],
        planes=job.planes,
        slices=slice_scores(runs[0], job),
        findings=findings,
        display_window=scan.ranges[0],
        timings=clock.laps,
        warnings=(*job.warnings, *batching.take_warnings(), *many_findings(len(findings))),
    )
