"""Slices of scans through a scorer, batch by batch in bounded memory. Needs no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from headclip_med.base.errors import CancelledError
from headclip_med.engine.scan_run import Piece, PlaneRun, ScanRun
from headclip_med.engine.scorer import Scorer

Cancel = Callable[[], bool]


def score_scans(
    runs: Iterable[ScanRun],
    scorer: Scorer[Any],
    *,
    cancel: Cancel | None = None,
    ready: Callable[[], bool] = lambda: True,
) -> Iterator[ScanRun]:
    """Score scans one after the other, in order. A batch that one does not fill is filled from the next.

    A scan that cannot be scored is given back with its ``error``, and the others go on.

    Args:
        runs: Scans in the order to be scored, each taken as late as possible.
        scorer: Scores their slices and says how many go at once.
        cancel: Asked before each batch, None never stops.
        ready: Whether the next run is there, so that nothing waits for it.

    Returns:
        An iterator of the scans in order, each with all its slices scored or with its ``error``.

    Raises:
        CancelledError: ``cancel`` returned True before a batch.
    """
    return _Scheduler(iter(runs), scorer, cancel, ready).work()


class _Scheduler:
    """Open scans, slices that wait for a batch, and batches on the device; all three first in, first out."""

    def __init__(
        self, runs: Iterator[ScanRun], scorer: Scorer[Any], cancel: Cancel | None, ready: Callable[[], bool]
    ) -> None:
        self.runs, self.scorer, self.batching = runs, scorer, scorer.batching
        self.cancel, self.ready = cancel, ready
        self.open: deque[ScanRun] = deque()
        self.waiting: deque[tuple[ScanRun, PlaneRun, int]] = deque()
        self.on_device: deque[tuple[list[Piece], Any]] = deque()
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
        """The next batch: slices of one detector, those of a plane together."""
        detector = self.waiting[0][0].detector
        pieces: list[Piece] = []
        for _ in range(self.batching.size):
            if not self.waiting or self.waiting[0][0].detector is not detector:
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
            batch = self.scorer.submit(pieces[0].run.detector, pieces)
            if batch is None:
                self.batching.halve(sum(len(piece.indices) for piece in pieces))
        except Exception as error:
            self._blame(pieces, error)
            return
        if batch is None:
            self._put_back(pieces)
        else:
            self.on_device.append((pieces, batch))

    def _collect(self) -> None:
        pieces, batch = self.on_device.popleft()
        try:
            found = self.scorer.collect(batch)
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
