"""Slices of scans → maps in their grids and a score per slice, batch by batch in bounded memory. Needs no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import CancelledError, ModelError
from headclip_med.base.geometry import SliceFrame, spacing
from headclip_med.slicing.rounds import between, first_round, second_round
from headclip_med.slicing.scan import Floats, Scan
from headclip_med.slicing.slices import cut_array, put_back_array

Progress = Callable[[int, int], None]  # slices done, slices in all
# A plane's frame, the indices of a batch of its slices, their maps (n, H, W) in display orientation and scores (n,).
Arrived = Callable[[SliceFrame, Sequence[int], Floats, Floats], None]


Cancel = Callable[[], bool]

# Maps (n, H, W) in display orientation and scores (n,) of each piece, once they are there.
Collect = Callable[[], list[tuple[Floats, Floats]]]


@dataclass(frozen=True, eq=False)
class PlaneRun:
    """One plane's outcome: ``volume_map (I, J, K)`` float32 in [0, 1]; the others per slice.

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
        """From one scored slice to the next, counted in slices that are ``distance_mm`` apart."""
        return max(1, int(self.mm / distance_mm + 1e-6))


class ScanRun:
    """A scan whose planes are scored round by round.

    Attributes:
        scan: cut into slices; planes: what has come of each; score: what scores its slices.
        done, total: slices; error: why it was given up, if it was.
    """

    def __init__(
        self,
        scan: Scan,
        frames: Sequence[SliceFrame],
        score: ScorePieces,
        *,
        stride: Stride | None = None,
        progress: Progress | None = None,
        arrived: Arrived | None = None,
    ) -> None:
        self.scan, self.score = scan, score
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
        """The slices to score next, by plane and index; none when all is done. Ask only when :attr:`idle`."""
        found = next(self._rounds, None)
        self._asked_all = found is None
        self._outstanding = len(found or [])
        return found or []

    def deliver(self, plane: PlaneRun, indices: Sequence[int], maps: Floats, scores: Floats) -> None:
        """Take maps ``(n, H, W)`` and scores ``(n,)`` of slices that were asked for."""
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


# Begins to score the pieces of a batch; None when the device's memory ran out.
ScorePieces = Callable[[Sequence[Piece]], "Collect | None"]


@dataclass
class Batching:
    """How many slices go to the device at once; halved when its memory runs out, and kept so for later cases.

    Attributes:
        size: slices at once; device: for messages.
        in_flight: batches that the device is given before the first one's maps are waited for.
        across: a batch that one case does not fill is filled from the next. Nothing is won by that on a CPU.
    """

    size: int
    device: str = "cpu"
    in_flight: int = 1
    across: bool = True
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


def score_scans(
    runs: Iterable[ScanRun],
    batching: Batching,
    *,
    cancel: Cancel | None = None,
    ready: Callable[[], bool] = lambda: True,
) -> Iterator[ScanRun]:
    """Score scans one after the other, in order; a batch that one does not fill is filled from the next.

    A scan that cannot be scored is given back with its ``error``, and the others go on.

    Args:
        runs: taken as late as possible; ready: whether the next one is there, so that nothing waits for it.

    Raises:
        CancelledError: ``cancel`` returned True before a batch.
    """
    return _Scheduler(iter(runs), batching, cancel, ready).work()


class _Scheduler:
    """Open scans, slices that wait for a batch, and batches on the device; all three first in, first out."""

    def __init__(
        self, runs: Iterator[ScanRun], batching: Batching, cancel: Cancel | None, ready: Callable[[], bool]
    ) -> None:
        self.runs, self.batching, self.cancel, self.ready = runs, batching, cancel, ready
        self.open: deque[ScanRun] = deque()
        self.waiting: deque[tuple[ScanRun, PlaneRun, int]] = deque()
        self.on_device: deque[tuple[list[Piece], Collect]] = deque()
        self.all_taken = False

    def work(self) -> Iterator[ScanRun]:
        while True:
            self._fill()
            if self.waiting and len(self.on_device) < self.batching.in_flight:
                self._launch(self._take())
            elif self.on_device:
                self._collect()
            while self.open and self.open[0].finished:
                yield self.open.popleft()
            if self.all_taken and not self.open:
                return

    def _fill(self) -> None:
        """Have a batch of slices wait: of the open scans first, then of the next ones."""
        while len(self.waiting) < self.batching.size:
            asked = next((run for run in self.open if run.idle and not run.finished), None)
            if asked is not None:
                self.waiting.extend((asked, plane, index) for plane, index in asked.next_round())
            elif not self._open_next():
                return

    def _open_next(self) -> bool:
        busy = bool(self.open)
        if self.all_taken or (busy and (not self.batching.across or not self.ready())):
            return False
        run = next(self.runs, None)
        self.all_taken = run is None
        if run is not None:
            self.open.append(run)
        return run is not None

    def _take(self) -> list[Piece]:
        """The next batch: slices of one scorer, those of a plane together."""
        scorer = self.waiting[0][0].score
        pieces: list[Piece] = []
        for _ in range(self.batching.size):
            if not self.waiting or self.waiting[0][0].score != scorer:
                break
            run, plane, index = self.waiting.popleft()
            if not pieces or pieces[-1].plane is not plane:
                pieces.append(Piece(run, plane, []))
            pieces[-1].indices.append(index)
        return pieces

    def _launch(self, pieces: list[Piece]) -> None:
        if self.cancel is not None and self.cancel():
            run = self.open[0]
            raise CancelledError("The run was stopped by the caller", f"{run.done} of {run.total} slices done")
        try:
            collect = pieces[0].run.score(pieces)
            if collect is None:
                self.batching.halve(sum(len(piece.indices) for piece in pieces))
        except Exception as error:
            self._blame(pieces, error)
            return
        if collect is None:
            self._put_back(pieces)
        else:
            self.on_device.append((pieces, collect))

    def _collect(self) -> None:
        pieces, collect = self.on_device.popleft()
        try:
            found = collect()
        except Exception as error:
            self._blame(pieces, error)
            return
        for piece, (maps, scores) in zip(pieces, found, strict=True):
            piece.run.deliver(piece.plane, piece.indices, maps, scores)

    def _put_back(self, pieces: list[Piece]) -> None:
        for piece in reversed(pieces):
            self.waiting.extendleft((piece.run, piece.plane, index) for index in reversed(piece.indices))

    def _blame(self, pieces: list[Piece], error: Exception) -> None:
        """Give up the scan of the batch; where it is of several, score each alone to know which one it is."""
        runs = list(dict.fromkeys(piece.run for piece in pieces))
        if len(runs) == 1:
            runs[0].error = error
            self.waiting = deque(item for item in self.waiting if item[0] is not runs[0])
            return
        for run in runs:
            own = [piece for piece in pieces if piece.run is run]
            self._launch(own)
            while self.on_device:
                self._collect()
