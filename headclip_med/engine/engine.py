"""The main job: a scan in, an anomaly map in the scan's own grid out, by whatever scores the slices. Needs no torch.

engine = headclip_med.load_engine("headclip-tiny")
result = engine.predict("flair.nii.gz", plane="axial")
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

from headclip_med.base.types import Affine
from headclip_med.base.volume import AnyVolume
from headclip_med.engine.ask import Ask
from headclip_med.engine.batches import Cancel, score_scans
from headclip_med.engine.case import CaseRun, Clock, begin_case, finish_case, timed
from headclip_med.engine.result import AnomalyResult
from headclip_med.engine.scan_run import Arrived, ScanRun, SlicesDone
from headclip_med.engine.scorer import Scorer
from headclip_med.reading.sources import Source, load_source

AnyScorer = TypeVar("AnyScorer", bound=Scorer[Any])


class Engine(Generic[AnyScorer]):
    """A model on a device, ready to score any number of cases.

    Made by :func:`headclip_med.load_engine` and :func:`headclip_med.load_onnx_engine`.

    Args:
        scorer: What it scores slices with. Knows the model, the device and the batch size.
    """

    def __init__(self, scorer: AnyScorer) -> None:
        self.scorer = scorer

    @property
    def batch_size(self) -> int:
        """Slices that go to the device at once. Lowered for good when its memory ran out."""
        return self.scorer.batching.size

    def predict(
        self,
        source: Source,
        ask: Ask | None = None,
        *,
        affine: Affine | None = None,
        modality: str | None = None,
        is_rgb: bool = False,
        progress: SlicesDone | None = None,
        cancel: Cancel | None = None,
        arrived: Arrived | None = None,
        **options: Any,
    ) -> AnomalyResult:
        """Score one case.

        Args:
            source: A file or folder, several files of one grid (sequences), a loaded volume ``(C, I, J, K)``, or an
                array ``(I, J, K)`` / ``(C, I, J, K)`` with ``affine``.
            ask: What is asked of it, default nothing.
            affine, modality, is_rgb: Of an array: voxel → RAS mm, DICOM code such as CT, colours in [0, 255].
            progress: Called with slices done and slices in all.
            cancel: Asked before each batch.
            arrived: Given the maps and scores of each batch, see :mod:`headclip_med.engine.scan_run`.
            options: Fields of :class:`headclip_med.engine.ask.Ask` by name, such as ``plane="axial"``, over those of
                ``ask``.

        Returns:
            A result whose volumes are MetaTensors, or :class:`headclip_med.base.volume.LoadedVolume` from an exported
            model.

        Raises:
            InputError: An unusable source or option.
            CancelledError: ``cancel`` returned True.
            ModelError: Not even one slice fits the device's memory.
        """
        ask = replace(ask or Ask(), **options)
        load = partial(
            load_source,
            affine=affine,
            modality=modality,
            is_rgb=is_rgb,
            series=ask.series,
            time_index=ask.time_index,
            on_irregular=ask.on_irregular,
        )
        results = self.predict_each(map(load, [source]), ask, progress=progress, cancel=cancel, arrived=arrived)
        return next(results)

    def predict_each(
        self,
        volumes: Iterable[AnyVolume],
        ask: Ask | None = None,
        *,
        progress: SlicesDone | None = None,
        cancel: Cancel | None = None,
        arrived: Arrived | None = None,
    ) -> Iterator[AnomalyResult]:
        """Score loaded volumes one after the other, each taken when it is needed, as :meth:`predict` does.

        Args:
            volumes: Each ``(C, I, J, K)``.
            ask: Asked of all of them.
            progress, arrived: Told of whichever volume is scored.
            cancel: Asked before each batch.

        Returns:
            An iterator of a result for each volume, in order.

        Raises:
            InputError, ModelError: The first volume that cannot be scored.
            CancelledError: ``cancel`` returned True.
        """
        begin = partial(self.begin, ask=ask, progress=progress, arrived=arrived)
        cases = (begin(volume, clock=clock) for clock, volume in timed(volumes))
        for case in self.score_each(cases, cancel=cancel):
            yield self.scorer.handed_out(self.finish(case))

    def begin(
        self,
        volume: AnyVolume,
        ask: Ask | None = None,
        *,
        clock: Clock | None = None,
        progress: SlicesDone | None = None,
        arrived: Arrived | None = None,
    ) -> CaseRun:
        """Do everything before a case's first slice, maybe in another thread and ahead of :meth:`score_each`.

        Args:
            volume: ``(C, I, J, K)``.
            ask: What is asked of it, default nothing.
            clock: Began when the volume was read, default one that begins now.
            progress, arrived: As of :meth:`predict`.

        Returns:
            The case with no slice scored yet.

        Raises:
            InputError: A volume or an option that cannot be used.
            ModelError: The model cannot be used for the domain.
        """
        asked = ask or Ask()
        setup = self.scorer.setup(asked.domain, asked.preprocessing)
        case = begin_case(volume, asked, setup, self.scorer, clock or Clock(), progress, arrived)
        case.warnings += self.scorer.foreseen(setup.detector, case.map_bytes)
        return case

    def score_each(
        self,
        cases: Iterable[CaseRun],
        *,
        cancel: Cancel | None = None,
        ready: Callable[[], bool] = lambda: True,
    ) -> Iterator[CaseRun]:
        """Score the slices of cases, in order. On a GPU a batch that one does not fill is filled from the next.

        Args:
            cases: Of :meth:`begin`. One that cannot be scored raises in :meth:`finish`.
            cancel: Asked before each batch.
            ready: Whether the next case is there.

        Yields:
            The cases in order, scored or given up.

        Raises:
            CancelledError: ``cancel`` returned True.
        """
        taken: deque[CaseRun] = deque()  # no longer than what is open: itertools.tee would keep scored cases alive

        def started() -> Iterator[ScanRun]:
            for case in cases:
                taken.append(case)
                yield case.started()

        for _ in score_scans(started(), self.scorer, cancel=cancel, ready=ready):
            case = taken.popleft()
            case.warnings += self.scorer.batching.take_warnings()
            case.clock.lap("detect")
            yield case

    def finish(self, case: CaseRun) -> AnomalyResult:
        """Make the result of a scored case, maybe in another thread and behind :meth:`score_each`.

        Args:
            case: Of :meth:`score_each`.

        Returns:
            Its result, with the map as a numpy array.

        Raises:
            HeadclipError: What kept its slices from being scored, which may be an error of another kind.
        """
        case.clock.restart()
        result = finish_case(case)
        # a batch may have shrunk meanwhile
        return replace(result, provenance={**result.provenance, **self.scorer.setting(), "device": case.device})
