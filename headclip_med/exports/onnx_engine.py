"""The main job with an exported model: onnxruntime and numpy, no torch; the same numbers as the engine in float32.

engine = headclip_med.load_onnx_engine("model.onnx")
result = engine.predict("flair.nii.gz")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from headclip_med.errors import InputError, ModelError
from headclip_med.exports.card import ScoreCard
from headclip_med.exports.onnx_graph import OnnxGraph, open_graph
from headclip_med.exports.pixels_numpy import from_square, slice_limits, slice_pixels
from headclip_med.geometry import SliceFrame
from headclip_med.intensity import Channels, Preprocessing
from headclip_med.job import Clock, Job, chosen_smoothing, chosen_threshold, make_job
from headclip_med.packs.domains import get_domain
from headclip_med.result import AnomalyResult
from headclip_med.run_job import run_job
from headclip_med.run_slices import Arrived, Batching, Cancel, Floats, Progress, Scan, ScoreBatch
from headclip_med.sources import Source, load_source
from headclip_med.types import Affine
from headclip_med.versions import package_versions

ONNX_ENDING = ".onnx"


class OnnxEngine:
    """An exported model on a device, ready to score any number of cases. Made by :func:`load_onnx_engine`.

    What the graph leaves open (window, channels, smoothing, threshold) comes from its score card.
    """

    def __init__(self, graph: OnnxGraph, *, batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise InputError("The batch size must be at least 1", batch_size)
        self._graph = graph
        self._own = Preprocessing(**graph.card.pixels.model_dump())
        self._batching = Batching(batch_size or (1 if graph.device == "cpu" else 16), graph.device)

    @property
    def card(self) -> ScoreCard:
        """What the model says about itself."""
        return self._graph.card

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
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        arrived: Arrived | None = None,
    ) -> AnomalyResult:
        """Score one case.

        Args:
            domain: the one that the model was exported for, or None.
            others: as of :meth:`headclip_med.engine.Engine.predict`; a default of the pack is the score card's.

        Returns:
            A result whose volumes are :class:`headclip_med.reading.base.LoadedVolume`.

        Raises:
            InputError: an unusable source or option; CancelledError: ``cancel`` returned True.
        """
        clock = Clock()
        self.check_domain(domain)
        volume = load_source(
            source,
            affine=affine,
            modality=modality,
            is_rgb=is_rgb,
            series=series,
            time_index=time_index,
            on_irregular=on_irregular,
        )
        job = make_job(volume, self.card.domain, self._own, plane=plane, window=window, channels=channels)
        sigma = chosen_smoothing(smooth_mm, self.card.slice_smoothing_mm, job)
        cut = chosen_threshold(threshold, (self.card.threshold.value, self.card.threshold.origin))
        clock.lap("read")
        result = run_job(
            job,
            partial(_scorer, self._graph),
            self._batching,
            sigma_mm=sigma,
            threshold=cut,
            clock=clock,
            progress=progress,
            cancel=cancel,
            arrived=arrived,
        )
        return replace(result, provenance=self._provenance(job, sigma))

    def check_domain(self, domain: str | None) -> None:
        """Refuse any domain but the model's own, whose class features are in the graph."""
        if domain is not None and get_domain(domain).name != self.card.domain:
            raise InputError(
                f"The domain must be {self.card.domain}, for which {self._graph.name} was exported",
                domain,
                "Leave the domain out, or export the model for that one",
            )

    def identity(self) -> dict[str, Any]:
        """What decides this engine's numbers, under the names of a result's provenance: names, hashes, precision."""
        return {**self.card.provenance(), "export_sha256": self._graph.sha256, "precision": "float32"}

    def setting(self) -> dict[str, Any]:
        """Where and how it runs; changes no number but by rounding."""
        return {"device": self._graph.device, "batch_size": self.batch_size}

    def _provenance(self, job: Job, sigma_mm: float) -> dict[str, Any]:
        return {
            **self.identity(),
            "detector": self.card.detector,
            **job.provenance(sigma_mm),
            **self.setting(),
            "versions": package_versions(),
        }


def load_onnx_engine(path: str | Path, *, device: str = "auto", batch_size: int | None = None) -> OnnxEngine:
    """Open an exported model and put it on a device; needs onnxruntime and no torch.

    Args:
        path: an ``.onnx`` file with a score card in it.
        device: ``auto`` (CUDA where this onnxruntime has it), ``cpu``, ``cuda``, ``cuda:1``.
        batch_size: slices at once; default 1 on a CPU, 16 on a GPU, halved when memory runs out.

    Raises:
        MissingExtraError: no onnxruntime; ModelError: a file or device that cannot be used.
    """
    return OnnxEngine(open_graph(path, device), batch_size=batch_size)


def check_onnx_options(*, weights: object = None, method: str | None = None, precision: str = "auto") -> None:
    """Refuse what only the engine on torch can be asked for.

    Raises:
        ModelError: weights, a method, or another precision than float32.
    """
    kind = "An exported .onnx model must be used as it is"
    if weights is not None:
        raise ModelError(kind, "--weights", "Leave it out: the weights are in the file")
    if method is not None:
        raise ModelError(kind, f"--method {method}", "Leave it out: the method is in the file")
    if precision not in ("auto", "float32"):
        raise ModelError(kind, f"--precision {precision}", "Leave it out: the graph computes in float32")


def _scorer(graph: OnnxGraph, scan: Scan) -> ScoreBatch:
    """What :func:`headclip_med.run_slices.run_planes` calls for every batch."""

    def score(frame: SliceFrame, batch: list[int]) -> tuple[Floats, Floats] | None:
        inside = scan.inside(frame, batch)
        found = graph.run(slice_pixels(scan, frame, batch), slice_limits(scan, frame, inside))
        if found is None:
            return None
        maps, scores = found
        return from_square(maps, scan.placement(frame), (inside.shape[1], inside.shape[2])) * inside, scores

    return score


__all__ = ["ONNX_ENDING", "OnnxEngine", "check_onnx_options", "load_onnx_engine"]
