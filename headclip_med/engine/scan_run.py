"""A scan on its way: which slices to score next, and what has come of each plane. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.geometry import SliceFrame, spacing
from headclip_med.slicing.rounds import between, first_round, second_round
from headclip_med.slicing.scan import Floats, Scan
from headclip_med.slicing.slices import cut_array, put_back_array

SlicesDone = Callable[[int, int], None]  # slices done, slices in all
# A plane's frame, the indices of a batch of its slices, their maps (n, H, W) in display orientation and scores (n,).
Arrived = Callable[[SliceFrame, Sequence[int], Floats, Floats], None]


@dataclass(frozen=True, eq=False)
class PlaneRun:
    """One plane's outcome: ``volume_map (I, J, K)`` float32 in [0, 1], and the others per slice.

    ``interpolated``: not scored, but filled in between scored ones.
    """

    frame: SliceFrame
    volume_map: Floats
    scores: Floats
    background: NDArray[np.bool_]
    interpolated: NDArray[np.bool_]


@dataclass(frozen=True)
class Stride:
    """Score a slice at least every ``mm`` first, then those around slices whose map reaches ``threshold``."""

    mm: float
    threshold: float

    def step(self, distance_mm: float) -> int:
        """Count the slices from one scored slice to the next.

        Args:
            distance_mm: Between neighbouring slices.

        Returns:
            At least 1.
        """
        return max(1, int(self.mm / distance_mm + 1e-6))


class ScanRun:
    """A scan whose planes are scored round by round.

    Args:
        scan: Cut into slices.
        frames: Planes that are scored.
        detector: What its slices are scored with.
        stride: Passes over slices in the first round, None scores all at once.
        progress: Told of slices done and slices in all after each batch.
        arrived: Given maps and scores of each batch.

    Attributes:
        scan: Cut into slices.
        planes: What has come of each.
        detector: What its slices are scored with.
        done, total: Slices.
        error: Why it was given up, if it was.
    """

    def __init__(
        self,
        scan: Scan,
        frames: Sequence[SliceFrame],
        detector: Any,
        *,
        stride: Stride | None = None,
        progress: SlicesDone | None = None,
        arrived: Arrived | None = None,
    ) -> None:
        self.scan, self.detector = scan, detector
        self._stride, self._progress, self._arrived = stride, progress, arrived
        self.error: Exception | None = None
        self.planes = [_empty_plane(scan, frame) for frame in frames]
        self._slices = [scan.foreground_slices(frame) for frame in frames]
        self.done, self.total = 0, sum(map(len, self._slices))
        self._outstanding, self._asked_all = 0, False
        self._rounds = self._plan()

    @property
    def idle(self) -> bool:
        """Whether all slices that were asked for have come."""
        return self._outstanding == 0

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.error is not None or (self._asked_all and self.idle)

    def next_round(self) -> list[tuple[PlaneRun, int]]:
        """List the slices to score next, to be asked for only when :attr:`idle`.

        Returns:
            Plane and index of each, none when all is done.
        """
        found = next(self._rounds, None)
        self._asked_all = found is None
        self._outstanding = len(found or [])
        return found or []

    def deliver(self, plane: PlaneRun, indices: Sequence[int], maps: Floats, scores: Floats) -> None:
        """Take the maps and scores of slices that were asked for.

        Args:
            plane: One of ``planes``.
            indices: Slices along the plane's axis, n of them.
            maps: ``(n, H, W)`` in display orientation, in [0, 1].
            scores: ``(n,)`` in [0, 1].
        """
        put_back_array(maps, plane.volume_map, plane.frame, indices)
        plane.scores[list(indices)], plane.background[list(indices)] = scores, False
        self._outstanding -= len(indices)
        if self._arrived is not None:
            self._arrived(plane.frame, indices, maps, scores)
        self._advance(len(indices))

    def _plan(self) -> Iterator[list[tuple[PlaneRun, int]]]:
        """Rounds of slices; what was asked for in one is there when the next one is made."""
        if self._stride is None:
            yield [(plane, i) for plane, indices in zip(self.planes, self._slices, strict=True) for i in indices]
            return
        distances = spacing(self.scan.affine)
        steps = [self._stride.step(float(distances[plane.frame.axis])) for plane in self.planes]
        chosen = [first_round(indices, step) for indices, step in zip(self._slices, steps, strict=True)]
        yield [(plane, i) for plane, indices in zip(self.planes, chosen, strict=True) for i in indices]
        closer = []
        for plane, indices in zip(self.planes, self._slices, strict=True):
            closer += [(plane, i) for i in self._suspicious(plane, indices)]
        if closer:
            yield closer
        for plane, indices in zip(self.planes, self._slices, strict=True):
            self._fill_between(plane, indices)

    def _suspicious(self, plane: PlaneRun, indices: Sequence[int]) -> list[int]:
        assert self._stride is not None
        axes = tuple(a for a in range(3) if a != plane.frame.axis)
        peaks = plane.volume_map.max(axis=axes)
        scored = [i for i in indices if not plane.background[i]]
        return second_round(
            indices,
            {i: float(plane.scores[i]) for i in scored},
            {i: float(peaks[i]) for i in scored},
            self._stride.threshold,
        )

    def _fill_between(self, plane: PlaneRun, indices: Sequence[int]) -> None:
        """Maps and scores of the slices that were passed over, linear in their place between scored ones."""
        scored = [i for i in indices if not plane.background[i]]
        left_out = [i for i in indices if plane.background[i]]
        for index in left_out:
            below, above, share = between(index, scored)
            pair = cut_array(plane.volume_map[None], plane.frame, [below, above])[:, 0]
            blended = (1 - share) * pair[0] + share * pair[1]
            inside = self.scan.inside(plane.frame, [index])
            put_back_array(blended[None] * inside, plane.volume_map, plane.frame, [index])
            plane.scores[index] = (1 - share) * plane.scores[below] + share * plane.scores[above]
        plane.background[left_out], plane.interpolated[left_out] = False, True
        if left_out:
            self._advance(len(left_out))

    def _advance(self, count: int) -> None:
        self.done += count
        if self._progress is not None:
            self._progress(self.done, self.total)


def _empty_plane(scan: Scan, frame: SliceFrame) -> PlaneRun:
    count = scan.mask.shape[frame.axis]
    return PlaneRun(
        frame,
        volume_map=np.zeros(scan.mask.shape, dtype=np.float32),
        scores=np.zeros(count, dtype=np.float32),
        background=np.ones(count, dtype=bool),
        interpolated=np.zeros(count, dtype=bool),
    )


@dataclass(frozen=True)
class Piece:
    """Slices of one plane of one scan, in one batch."""

    run: ScanRun
    plane: PlaneRun
    indices: list[int]

    @property
    def scan(self) -> Scan:
        """The scan they are cut from."""
        return self.run.scan
