"""A plane's run → what is said about each of its slices: place, score, identity."""

from __future__ import annotations

from collections.abc import Sequence

from headclip_med.base.geometry import slice_centres
from headclip_med.job import Job
from headclip_med.result import SliceScore
from headclip_med.scan_run import PlaneRun
from headclip_med.slicing.places import source_slices

_MANY_FINDINGS = 1000


def slice_scores(run: PlaneRun, job: Job) -> tuple[SliceScore, ...]:
    """One entry for every slice along the plane's axis, background too."""
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
    """What to know of slices that were not scored."""
    left_out = sum(int(plane.interpolated.sum()) for plane in planes)
    seen = sum(int((~plane.background).sum()) for plane in planes)
    return [f"{left_out} of {seen} slices were not scored but interpolated, as the speed preset says"] * bool(left_out)


def many_findings(count: int) -> list[str]:
    """A warning about more findings than anybody reads."""
    return [f"{count} findings: the threshold may be too low for this image"] if count > _MANY_FINDINGS else []
