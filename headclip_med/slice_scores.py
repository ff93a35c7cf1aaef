"""A plane's run → what is said about each of its slices: place, score, identity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headclip_med.geometry import directions, slice_centres
from headclip_med.job import Job
from headclip_med.reading.base import AnyVolume
from headclip_med.result import SliceScore
from headclip_med.run_slices import PlaneRun
from headclip_med.types import Vector

_PARALLEL = 0.9999  # cosine: 0.8 degrees
_SAME_SLICE_MM = 0.05
_MANY_FINDINGS = 1000


def slice_scores(run: PlaneRun, job: Job) -> tuple[SliceScore, ...]:
    """One entry for every slice along the plane's axis, background too."""
    shape = (job.array.shape[1], job.array.shape[2], job.array.shape[3])
    centres = slice_centres(job.affine, shape, run.frame.axis)
    uids = _uids_by_position(job.volume, centres, directions(job.affine)[:, run.frame.axis])
    return tuple(
        SliceScore(
            index=i,
            position_mm=(float(c[0]), float(c[1]), float(c[2])),
            score=float(run.scores[i]),
            background=bool(run.background[i]),
            uid=uids[i],
        )
        for i, c in enumerate(centres)
    )


def _uids_by_position(volume: AnyVolume, centres: NDArray[np.float64], along: Vector) -> list[str | None]:
    """SOPInstanceUIDs by position along the acquisition's normal, so that flips, crops and reorientations keep them
    right; none for slices that are not the acquired ones (``along``: unit vector of the slices' axis)."""
    meta = volume.meta
    if not meta.get("slice_uids") or meta.get("slice_normal") is None:
        return [None] * len(centres)
    normal = np.asarray(meta["slice_normal"], dtype=float)
    if abs(float(normal @ along)) < _PARALLEL:
        return [None] * len(centres)
    stored = np.asarray(meta["slice_positions"], dtype=float) @ normal
    distance = np.abs((centres @ normal)[:, None] - stored[None])
    nearest = distance.argmin(axis=1)
    return [str(meta["slice_uids"][n]) if distance[i, n] < _SAME_SLICE_MM else None for i, n in enumerate(nearest)]


def many_findings(count: int) -> list[str]:
    """A warning about more findings than anybody reads."""
    return [f"{count} findings: the threshold may be too low for this image"] if count > _MANY_FINDINGS else []
