"""Slices of a volume → maps in its grid and a score per slice, batch by batch in bounded memory. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from headclip_med.errors import CancelledError, ModelError
from headclip_med.geometry import SliceFrame, spacing
from headclip_med.intensity import Placement, Preprocessing, Range, neighbour_indices, place
from headclip_med.slices import cut_array, put_back_array
from headclip_med.types import Affine

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]  # slices done, slices in all
Cancel = Callable[[], bool]
# A plane's frame, the indices of a batch of its slices, their maps (n, H, W) in display orientation and scores (n,).
Arrived = Callable[[SliceFrame, Sequence[int], Floats, Floats], None]


@dataclass(frozen=True)
class Scan:
    """A volume and how its slices become pixels.

    Attributes:
        volume: ``(C, I, J, K)`` float32; mask: its foreground ``(I, J, K)``.
        ranges: black and white per channel; inverted: MONOCHROME1.
    """

    volume: Floats
    mask: NDArray[np.bool_]
    affine: Affine
    ranges: Sequence[Range]
    preprocessing: Preprocessing
    inverted: bool = False

    def foreground_slices(self, frame: SliceFrame) -> list[int]:
        """Indices of the slices that show more than background."""
        share = self.mask.mean(axis=tuple(a for a in range(3) if a != frame.axis))
        return [int(i) for i in np.flatnonzero(share >= self.preprocessing.min_foreground)]

    def placement(self, frame: SliceFrame) -> Placement:
        """Where slices of ``frame`` lie in the model's square input."""
        rows, cols = frame.row_axis, frame.col_axis
        shape, steps = (self.mask.shape[rows], self.mask.shape[cols]), spacing(self.affine)
        return place(shape, (steps[rows], steps[cols]), self.preprocessing.image_size, self.preprocessing.fit)

    def cut(self, frame: SliceFrame, indices: Sequence[int]) -> tuple[Floats, Sequence[Range]]:
        """The slices at ``indices``, stored values ``(n, C, H, W)``, and black and white of each of their channels.

        With 2.5-D, ``C`` is 3 for a volume of one channel: the slice between its neighbours.
        """
        if self.preprocessing.channels == "repeat" or len(self.volume) != 1:
            return cut_array(self.volume, frame, indices), self.ranges
        step = max(1, round(self.preprocessing.neighbour_mm / float(spacing(self.affine)[frame.axis])))
        count = self.mask.shape[frame.axis]
        around = cut_array(self.volume, frame, [n for i in indices for n in neighbour_indices(i, count, step)])
        return around.reshape(len(indices), 3, *around.shape[2:]), list(self.ranges) * 3

    def inside(self, frame: SliceFrame, indices: Sequence[int]) -> NDArray[np.bool_]:
        """Foreground ``(n, H, W)`` with its holes filled, so that a dark lesion counts as patient."""
        masks = cut_array(self.mask[None], frame, indices)[:, 0]
        return np.stack([ndimage.binary_fill_holes(mask) for mask in masks])


# Slices of a frame at some indices → maps (n, H, W) and scores (n,), or None when the device's memory ran out.
ScoreBatch = Callable[[SliceFrame, list[int]], "tuple[Floats, Floats] | None"]


@dataclass
class Batching:
    """How many slices go to the device at once; halved when its memory runs out, and kept so for later cases."""

    size: int
    device: str = "cpu"
    warnings: list[str] = field(default_factory=list)

    def halve(self, failed: int) -> None:
        """Go on with half of the batch that ``failed``, or raise :class:`ModelError` when it was a single slice."""
        if failed == 1:
            raise ModelError(
                "One slice must fit the memory of the device",
                f"{self.device} ran out of memory",
                "Use --device cpu",
            )
        self.size = failed // 2
        self.warnings.append(f"out of memory on {self.device}: batch size lowered to {self.size}")

    def take_warnings(self) -> list[str]:
        """What happened since the last call."""
        taken, self.warnings = self.warnings, []
        return taken


@dataclass(frozen=True)
class PlaneRun:
    """One plane's outcome: ``volume_map (I, J, K)`` float32 in [0, 1]; ``scores``, ``background`` per slice."""

    frame: SliceFrame
    volume_map: Floats
    scores: Floats
    background: NDArray[np.bool_]


def score_slices(
    score: ScoreBatch, scan: Scan, frame: SliceFrame, batching: Batching
) -> Iterator[tuple[list[int], Floats, Floats]]:
    """Batches of ``(indices, maps (n, H, W), scores (n,))`` of every foreground slice, as they come."""
    indices = scan.foreground_slices(frame)
    done = 0
    while done < len(indices):
        batch = indices[done : done + batching.size]
        scored = score(frame, batch)
        if scored is None:
            batching.halve(len(batch))
            continue
        done += len(batch)
        yield batch, *scored


def run_planes(
    score: ScoreBatch,
    scan: Scan,
    frames: Sequence[SliceFrame],
    batching: Batching,
    *,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    arrived: Arrived | None = None,
) -> list[PlaneRun]:
    """Run every plane; memory grows with nothing but the maps themselves. ``arrived`` is told of every batch.

    Raises:
        CancelledError: ``cancel`` returned True before a batch.
        ModelError: not even one slice fits the device's memory.
    """
    total = sum(len(scan.foreground_slices(frame)) for frame in frames)
    done, runs = 0, []
    for frame in frames:
        count = scan.mask.shape[frame.axis]
        run = PlaneRun(
            frame,
            volume_map=np.zeros(scan.mask.shape, dtype=np.float32),
            scores=np.zeros(count, dtype=np.float32),
            background=np.ones(count, dtype=bool),
        )
        batches = score_slices(score, scan, frame, batching)
        while True:
            if cancel is not None and cancel():
                raise CancelledError("The run was stopped by the caller", f"{done} of {total} slices done")
            if (scored := next(batches, None)) is None:
                break
            batch, maps, scores = scored
            put_back_array(maps, run.volume_map, frame, batch)
            run.scores[batch], run.background[batch] = scores, False
            done += len(batch)
            if arrived is not None:
                arrived(frame, batch, maps, scores)
            if progress is not None:
                progress(done, total)
        runs.append(run)
    return runs
