"""How slices get to the device: batches across cases, rounds around suspicious slices, one bad case among others."""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
from oracle import BrightnessDetector, oracle_engine

from headclip_med.base.errors import ModelError
from headclip_med.base.geometry import slice_frame
from headclip_med.base.threads import Ahead
from headclip_med.base.volume import LoadedVolume
from headclip_med.engine.ask import Ask
from headclip_med.engine.batches import score_scans
from headclip_med.engine.scan_run import Piece, ScanRun, Stride
from headclip_med.engine.scorer import Batching, Scorer
from headclip_med.reading.checks import collected_warnings
from headclip_med.reading.sources import load_source
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.slicing.rounds import between, first_round, second_round
from headclip_med.slicing.scan import Floats, Scan, fill_holes


def _scan(levels: Sequence[float], spacing_mm: float = 1.0) -> Scan:
    """Slices of 4 × 4 voxels along K, each of one value."""
    volume = np.broadcast_to(np.asarray(levels, dtype=np.float32), (1, 4, 4, len(levels))).copy()
    affine = np.diag([1.0, 1.0, spacing_mm, 1.0])
    return Scan(volume, np.ones((4, 4, len(levels)), bool), affine, [(0, 1)], Preprocessing(8, (0.5,) * 3, (0.5,) * 3))


class Levels:
    """Scores a slice with its own value, and writes down which slices came together."""

    def __init__(self, batching: Batching | None = None, memory: int = 100, bad: float | None = None) -> None:
        self.batching, self.memory, self.bad = batching or Batching(1), memory, bad
        self.batches: list[list[float]] = []

    def submit(self, detector: object, pieces: Sequence[Piece]) -> list[tuple[Floats, Floats]] | None:
        cut = [piece.scan.cut(piece.plane.frame, piece.indices)[0][:, 0] for piece in pieces]
        values = [float(v) for part in cut for v in part[:, 0, 0]]
        if len(values) > self.memory:
            return None
        if self.bad in values:
            raise ZeroDivisionError("a bug")
        self.batches.append(values)
        return [(part, part.max(axis=(1, 2))) for part in cut]

    def collect(self, batch: list[tuple[Floats, Floats]]) -> list[tuple[Floats, Floats]]:
        return batch


def scored(runs: Iterable[ScanRun], score: Levels, **more: Any) -> Iterator[ScanRun]:
    return score_scans(runs, cast("Scorer[Any]", score), **more)


def _run(levels: Sequence[float], stride: Stride | None = None, spacing_mm: float = 1.0) -> ScanRun:
    scan = _scan(levels, spacing_mm)
    return ScanRun(scan, [slice_frame(scan.affine, "axial")], "levels", stride=stride)


def _profile(run: ScanRun) -> Floats:
    """The map's value along K, the same all over a slice."""
    volume_map = run.planes[0].volume_map
    assert (volume_map == volume_map[:1, :1]).all()
    return volume_map[0, 0]


def test_a_batch_that_one_case_does_not_fill_is_filled_from_the_next() -> None:
    score = Levels(Batching(4))
    runs = [_run([0.1, 0.2, 0.3]), _run([0.4]), _run([0.5, 0.6])]
    done = list(scored(iter(runs), score))
    assert done == runs
    assert [len(batch) for batch in score.batches] == [4, 2]
    np.testing.assert_allclose(_profile(runs[0]), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(runs[2].planes[0].scores, [0.5, 0.6])


def test_a_cpus_batches_end_with_their_case() -> None:
    score = Levels(Batching(4, across=False))
    runs = [_run([0.1, 0.2, 0.3]), _run([0.4])]
    assert list(scored(runs, score)) == runs
    assert [len(batch) for batch in score.batches] == [3, 1]


def test_a_batch_does_not_wait_for_a_case_that_is_not_there_yet() -> None:
    score = Levels(Batching(4))
    runs = iter([_run([0.1]), _run([0.2])])
    done = scored(runs, score, ready=lambda: False)
    next(done)
    assert score.batches == [[pytest.approx(0.1)]]
    next(done)
    assert len(score.batches) == 2


@pytest.mark.parametrize("in_flight", [1, 2])
def test_batches_in_flight_change_nothing(in_flight: int) -> None:
    score = Levels(Batching(2, in_flight=in_flight))
    runs = [_run(np.linspace(0.1, 0.9, 7).tolist()), _run([0.2, 0.3, 0.4])]
    assert list(scored(runs, score)) == runs
    np.testing.assert_allclose(_profile(runs[0]), np.linspace(0.1, 0.9, 7), rtol=1e-6)
    np.testing.assert_allclose(_profile(runs[1]), [0.2, 0.3, 0.4], rtol=1e-6)


def test_one_bad_case_in_a_shared_batch_does_not_take_the_others_with_it() -> None:
    score = Levels(Batching(3), bad=0.5)
    runs = [_run([0.1]), _run([0.5, 0.6]), _run([0.2])]
    assert list(scored(runs, score)) == runs
    assert [type(run.error) for run in runs] == [type(None), ZeroDivisionError, type(None)]
    np.testing.assert_allclose(_profile(runs[2]), [0.2])


def test_a_batch_that_does_not_fit_is_halved_across_cases() -> None:
    score = Levels(batching := Batching(4), memory=2)
    runs = [_run([0.1, 0.2, 0.3]), _run([0.4, 0.5])]
    assert list(scored(runs, score)) == runs
    assert batching.size == 2
    assert [len(batch) for batch in score.batches] == [2, 2, 1]
    too_small = _run([0.1])
    next(scored([too_small], Levels(Batching(2), memory=0)))
    assert isinstance(too_small.error, ModelError)


def test_first_round_takes_every_nth_slice_and_the_last() -> None:
    assert first_round([2, 3, 4, 5, 6, 7, 8], 3) == [2, 5, 8]
    assert first_round([2, 3, 4, 5, 6, 7], 3) == [2, 5, 7]
    assert first_round([], 3) == []


def test_second_round_takes_what_lies_beside_suspicious_slices() -> None:
    scores = dict.fromkeys(range(0, 36, 3), 0.1) | {6: 0.9, 9: 0.8, 12: 0.7, 15: 0.6}

    def wanted(threshold: float) -> list[int]:
        return second_round(range(34), scores, scores, threshold)

    assert wanted(0.85) == [4, 5, 7, 8]
    assert wanted(0.75) == [4, 5, 7, 8, 10, 11]
    assert wanted(0.05) == [4, 5, 7, 8, 10, 11, 13, 14], "a quarter of the twelve at most, the highest"
    assert wanted(1.0) == [4, 5, 7, 8], "a tenth at least, the highest"


def test_between_two_scored_slices_is_linear() -> None:
    assert between(4, [0, 3, 6]) == (3, 6, pytest.approx(1 / 3))


def test_slices_far_from_anything_suspicious_are_interpolated_and_marked() -> None:
    levels = [0.0, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.9, 0.8, 0.7, 0.6]
    score = Levels(Batching(1))
    run = _run(levels, Stride(3.0, threshold=0.5))
    next(scored([run], score))
    np.testing.assert_allclose(_profile(run), [0, 0.1, 0.2, 0.3, 0.2, 0.1, 0, 0, 0, 0.9, 0.8, 0.7, 0.6], atol=1e-6)
    plane = run.planes[0]
    assert np.flatnonzero(plane.interpolated).tolist() == [1, 2, 4, 5]
    np.testing.assert_allclose(plane.scores, _profile(run), atol=1e-6)
    assert (run.done, run.total) == (13, 13)
    assert len(score.batches) == 9


def test_thick_slices_are_all_scored() -> None:
    score = Levels(Batching(1))
    run = _run([0.1, 0.2, 0.3], Stride(3.0, threshold=0.5), spacing_mm=5.0)
    next(scored([run], score))
    assert len(score.batches) == 3
    assert not run.planes[0].interpolated.any()


def test_holes_are_filled_slice_by_slice() -> None:
    ring = np.ones((2, 5, 5), bool)
    ring[:, 2, 2] = False
    ring[1, 2, 3:] = False  # a way out, in this slice only
    filled = fill_holes(ring)
    assert filled[0].all()
    np.testing.assert_array_equal(filled[1], ring[1])


def test_cases_of_an_engine_share_batches_and_equal_single_predictions() -> None:
    engine = oracle_engine(detector := BrightnessDetector(), batch_size=8)
    engine.scorer.batching.across = True  # as on a GPU
    rng = np.random.default_rng(0)
    arrays = [rng.random((12, 10, n)).astype(np.float32) for n in (3, 1, 4)]
    volumes = [load_source(array, affine=np.eye(4)) for array in arrays]
    found = [engine.finish(case) for case in engine.score_each(engine.begin(v, Ask()) for v in volumes)]
    assert detector.batches == [8]
    for array, result in zip(arrays, found, strict=True):
        alone = oracle_engine().predict(array, affine=np.eye(4))
        np.testing.assert_array_equal(result.map_array, alone.map_array)
        assert result.slices == alone.slices


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_a_case_that_was_handed_on_is_not_kept(across: bool, whole: bool) -> None:
    """Bug found before the first release: the last 57 cases of a run were kept in memory."""
    engine, alive, most = oracle_engine(batch_size=2), set[int](), 0
    engine.scorer.batching.across = across

    def volumes() -> Iterator[LoadedVolume]:
        for number in range(12):
            array = np.linspace(0, 1 + number, 72, dtype=np.float32).reshape(6, 6, 2)
            volume = load_source(array, affine=np.eye(4))
            del array
            alive.add(number)
            weakref.finalize(volume.array, alive.discard, number)
            yield volume

    cases = (engine.begin(volume) for volume in volumes())
    results = engine.predict_each(volumes()) if whole else map(engine.finish, engine.score_each(cases))
    for result in results:
        most = max(most, len(alive))
        del result
    assert most <= 4, "the case that is handed on, the next one, and what the loops still name"


@pytest.mark.parametrize(("budget", "most_at_once"), [(5, 3), (30, 4), (10**6, 7)])
def test_ahead_keeps_the_order_and_stays_within_its_budget(budget: int, most_at_once: int) -> None:
    taken, given = 0, []

    def items() -> Iterator[int]:
        nonlocal taken
        for taken in range(1, 21):
            assert taken - len(given) <= most_at_once, "begun and not yet given, the one that is waited for among them"
            yield taken

    def square(n: int) -> int:
        time.sleep(0.002 * (n % 3))
        return n * n

    with Ahead(square, items(), most=5, weight=lambda _: 10, budget=budget) as squares:
        for value in squares:
            given.append(value)
    assert given == [n * n for n in range(1, 21)]
    assert squares.ready


def test_the_next_one_is_read_while_the_caller_works_however_heavy_it_is() -> None:
    """Bug found before the first release: of volumes larger than the budget every other one was read ahead only."""
    begun: list[int] = []

    def read(n: int) -> int:
        begun.append(n)
        return n

    with Ahead(read, range(5), most=3, weight=lambda _: 1000, budget=10) as volumes:
        for n in volumes:
            deadline = time.monotonic() + 20
            while len(begun) < min(5, n + 2) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(begun) >= min(5, n + 2)
    assert begun == [0, 1, 2, 3, 4]


def test_ahead_ends_its_work_when_the_caller_stops() -> None:
    finished: list[int] = []

    def work(n: int) -> int:
        time.sleep(0.05)
        finished.append(n)
        return n

    def interrupted() -> None:
        with Ahead(work, range(10), most=3) as results:
            next(results)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert finished in ([0, 1], [0]), "what was being worked on is finished, the rest is not begun"


def test_a_readers_warnings_are_those_of_its_own_thread() -> None:
    """Bug found while cases were first read ahead: another thread's warning became a note of the case being read."""
    notes: list[str] = []
    started, said = threading.Event(), threading.Event()

    def other() -> None:
        started.wait()
        warnings.warn("from elsewhere", stacklevel=1)
        said.set()

    thread = threading.Thread(target=other)
    thread.start()
    with warnings.catch_warnings(record=True) as elsewhere:
        warnings.simplefilter("always")
        with collected_warnings(notes, "reader"):
            started.set()
            said.wait()
            warnings.warn("from here", stacklevel=1)
    thread.join()
    assert notes == ["reader: from here"]
    assert [str(warning.message) for warning in elsewhere] == ["from elsewhere"]
