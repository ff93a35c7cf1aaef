"""What every engine does alike: a volume → a case → its slices scored → a result. Needs no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headclip_med.base.errors import InputError
from headclip_med.base.types import Affine
from headclip_med.base.versions import package_versions
from headclip_med.base.volume import AnyVolume
from headclip_med.engine.batches import Arrived, Batching, Cancel, Progress, ScanRun, ScorePieces, score_scans
from headclip_med.engine.case import (
    CaseRun,
    Clock,
    Job,
    begin_case,
    chosen_smoothing,
    chosen_threshold,
    finish_case,
    make_job,
)
from headclip_med.engine.result import AnomalyResult
from headclip_med.models.scope import Scope, out_of_scope
from headclip_med.models.speed import SPEEDS, Speed
from headclip_med.reading.sources import Source, load_source
from headclip_med.slicing.intensity import Channels, Preprocessing, PreprocessingKind


@dataclass(frozen=True)
class Ask:
    """What a user may ask of one case; None: the model's or the scan's own. See :meth:`ScanEngine.predict`."""

    domain: str | None = None
    plane: str | Sequence[str] | None = None
    window: str | tuple[float, float] | None = None
    channels: Channels | None = None
    threshold: float | None = None
    smooth_mm: float | None = None
    preprocessing: PreprocessingKind | None = None


@dataclass(frozen=True)
class Setup:
    """What an engine brings for a domain.

    Attributes:
        domain: name; preprocessing: with the domain's window, fit and channels; score: scores slices.
        smoothing_mm, threshold: unless the user says otherwise; warnings: of the model. detector: its configuration.
        expected: the images that it is for, see :func:`headclip_med.models.scope.out_of_scope`.
    """

    domain: str
    preprocessing: Preprocessing
    score: ScorePieces
    smoothing_mm: float
    threshold: tuple[float, str]
    detector: dict[str, Any]
    warnings: Sequence[str] = ()
    expected: Sequence[tuple[str, Scope]] = ()


class ScanEngine(ABC):
    """A model on a device, ready to score any number of cases."""

    speed: Speed = SPEEDS["exact"]

    def __init__(self, batching: Batching) -> None:
        if batching.size < 1:
            raise InputError("The batch size must be at least 1", batching.size)
        self._batching = batching

    @property
    def batch_size(self) -> int:
        """Slices that go to the device at once; lowered for good when its memory ran out."""
        return self._batching.size

    def predict(
        self,
        source: Source,
        *,
        affine: Affine | None = None,
        modality: str | None = None,
        is_rgb: bool = False,
        domain: str | None = None,
        plane: str | Sequence[str] | None = None,
        window: str | tuple[float, float] | None = None,
        channels: Channels | None = None,
        series: str | None = None,
        time_index: int | None = None,
        on_irregular: str = "error",
        threshold: float | None = None,
        smooth_mm: float | None = None,
        preprocessing: PreprocessingKind | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        arrived: Arrived | None = None,
    ) -> AnomalyResult:
        """Score one case.

        Args:
            source: a file or folder, several files of one grid (sequences), a loaded volume
                ``(C, I, J, K)``, or an array ``(I, J, K)`` / ``(C, I, J, K)`` with ``affine``.
            affine, modality, is_rgb: of an array: voxel → RAS mm, DICOM code such as CT, colours in [0, 255].
            domain: see ``headclip_med.models.domains``; default the model's own. An exported model has no other.
            plane: axial, coronal, sagittal, several of them (their maps are averaged), or ``all``; default the
                acquisition plane.
            window: CT window by name or ``(level, width)``. channels: ``repeat`` the slice, or ``neighbours`` (2.5-D);
                default the domain's. series, time_index: choice within the source. on_irregular: what to do with an
                irregular DICOM series, see :func:`headclip_med.reading.read_volume`.
            threshold: cut on the map in [0, 1]; default the pack's. smooth_mm: Gaussian along the normal, from 0 to
                the volume's extent; default the pack's.
            preprocessing: ``own``, or ``released``: 8-bit pictures as the published codes feed them, for numbers that
                are to be compared with published ones (docs/methods.md); default the pack's, or ``own``.
            progress: called with slices done and slices in all; cancel: asked before each batch;
                arrived: given the maps and scores of each batch, see :mod:`headclip_med.engine.batches`.

        Returns:
            A result whose volumes are MetaTensors, or :class:`headclip_med.base.volume.LoadedVolume` from an exported
            model.

        Raises:
            InputError: an unusable source or option; CancelledError: ``cancel`` returned True.
            ModelError: not even one slice fits the device's memory.
        """
        clock = Clock()
        volume = load_source(
            source,
            affine=affine,
            modality=modality,
            is_rgb=is_rgb,
            series=series,
            time_index=time_index,
            on_irregular=on_irregular,
        )
        ask = Ask(domain, plane, window, channels, threshold, smooth_mm, preprocessing)
        case = self.begin(volume, ask, clock=clock, progress=progress, arrived=arrived)
        return self._handed_out(self.finish(next(self.score_each([case], cancel=cancel))))

    def begin(
        self,
        volume: AnyVolume,
        ask: Ask,
        *,
        clock: Clock | None = None,
        progress: Progress | None = None,
        arrived: Arrived | None = None,
    ) -> CaseRun:
        """Everything before a case's first slice. May run in another thread, ahead of :meth:`score_each`."""
        clock = clock or Clock()
        setup = self.setup(ask.domain, ask.preprocessing)
        job = make_job(
            volume,
            setup.domain,
            setup.preprocessing,
            plane=ask.plane,
            window=ask.window,
            channels=ask.channels,
            warnings=(*out_of_scope(setup.expected, volume), *setup.warnings),
        )
        sigma = chosen_smoothing(ask.smooth_mm, setup.smoothing_mm, job)
        clock.lap("read")
        case = begin_case(
            job,
            setup.score,
            sigma_mm=sigma,
            threshold=chosen_threshold(ask.threshold, setup.threshold),
            stride_mm=self.speed.stride_mm,
            clock=clock,
            provenance=self._provenance(setup, job, sigma),
            progress=progress,
            arrived=arrived,
        )
        case.warnings += self._foreseen(case, setup)
        return case

    def score_each(
        self,
        cases: Iterable[CaseRun],
        *,
        cancel: Cancel | None = None,
        ready: Callable[[], bool] = lambda: True,
    ) -> Iterator[CaseRun]:
        """Score the slices of cases, in order; on a GPU a batch that one does not fill is filled from the next.

        A case that cannot be scored says so in :meth:`finish`. ``ready``: whether the next case is there.

        Raises:
            CancelledError: ``cancel`` returned True.
        """
        taken: deque[CaseRun] = deque()

        def slices() -> Iterator[ScanRun]:
            for case in cases:
                taken.append(case)
                case.clock.restart()
                yield case.slices

        for _ in score_scans(slices(), self._batching, cancel=cancel, ready=ready):
            case = taken.popleft()
            case.warnings += self._batching.take_warnings()
            case.clock.lap("detect")
            yield case

    def finish(self, case: CaseRun) -> AnomalyResult:
        """The result of a scored case. May run in another thread, behind :meth:`score_each`."""
        case.clock.restart()
        result = finish_case(case)
        return replace(result, provenance={**result.provenance, **self._where()})

    def _foreseen(self, case: CaseRun, setup: Setup) -> list[str]:
        """Warnings before the first slice, such as of too little memory."""
        return []

    def _where(self) -> dict[str, Any]:
        """Where and how a case ran, for its provenance: a batch may have shrunk meanwhile."""
        return self.setting()

    def _handed_out(self, result: AnomalyResult) -> AnomalyResult:
        """The result as :meth:`predict` gives it back."""
        return result

    @abstractmethod
    def setup(self, domain: str | None, preprocessing: PreprocessingKind | None = None) -> Setup:
        """What this engine brings for a domain and a preprocessing, its own by default."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides this engine's numbers, under the names of a result's provenance: names, hashes, precision."""

    @abstractmethod
    def setting(self) -> dict[str, Any]:
        """Where and how it runs; changes no number but by rounding."""

    def _provenance(self, setup: Setup, job: Job, sigma_mm: float) -> dict[str, Any]:
        return {
            **self.identity(),
            "detector": setup.detector,
            **job.provenance(sigma_mm),
            "versions": package_versions(),
        }
