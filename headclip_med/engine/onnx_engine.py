"""The main job with an exported model: onnxruntime or OpenVINO and numpy, no torch; the engine's numbers in float32.

engine = headclip_med.load_onnx_engine("model.onnx")
result = engine.predict("flair.nii.gz")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headclip_med.base.errors import InputError, ModelError
from headclip_med.engine.batches import Batching, Collect, Piece
from headclip_med.engine.card import ScoreCard
from headclip_med.engine.engine import ScanEngine, Setup
from headclip_med.engine.onnx_graph import OnnxGraph, open_graph
from headclip_med.models.domains import get_domain
from headclip_med.slicing.intensity import Preprocessing, PreprocessingKind
from headclip_med.slicing.pixels_numpy import from_square, slice_limits, slice_pixels
from headclip_med.slicing.view import other_preprocessing

ONNX_ENDING = ".onnx"


class OnnxEngine(ScanEngine):
    """An exported model on a device, ready to score any number of cases. Made by :func:`load_onnx_engine`.

    What the graph leaves open (window, channels, smoothing, threshold) comes from its score card.
    """

    def __init__(self, graph: OnnxGraph, *, batch_size: int | None = None) -> None:
        on_cpu = graph.device == "cpu"
        super().__init__(Batching(batch_size or (1 if on_cpu else 16), graph.device, across=not on_cpu))
        self._graph = graph
        card = graph.card
        self._setup = Setup(
            domain=card.domain,
            preprocessing=Preprocessing(**card.pixels.model_dump()),
            score=partial(_score, graph),
            smoothing_mm=card.slice_smoothing_mm,
            threshold=(card.threshold.value, card.threshold.origin),
            detector=card.detector,
            expected=[(f"{card.model} is for", card.scope or get_domain(card.domain).scope)],
        )

    @property
    def card(self) -> ScoreCard:
        """What the model says about itself."""
        return self._graph.card

    def setup(self, domain: str | None, preprocessing: PreprocessingKind | None = None) -> Setup:
        """What the model was exported with; pixels are made outside the graph, hence by either preprocessing."""
        self.check_domain(domain)
        own = self._setup.preprocessing
        kind = preprocessing or own.kind
        told = other_preprocessing(kind, own.kind)
        return replace(self._setup, preprocessing=replace(own, kind=kind), warnings=(*self._setup.warnings, *told))

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
        facts = {"precision": self._graph.precision, "speed": self.speed.name}
        return {**self.card.provenance(), "export_sha256": self._graph.sha256, **facts}

    def setting(self) -> dict[str, Any]:
        """Where and how it runs; changes no number but by rounding."""
        return {"device": self._graph.device, "runtime": self._graph.runtime, "batch_size": self.batch_size}


def load_onnx_engine(
    path: str | Path, *, device: str = "auto", batch_size: int | None = None, precision: str = "auto"
) -> OnnxEngine:
    """Open an exported model and put it on a device; needs onnxruntime and no torch.

    Args:
        path: an ``.onnx`` file with a score card in it.
        device: ``auto`` (CUDA where this onnxruntime has it), ``cpu``, ``cuda``, ``cuda:1``; ``openvino`` (its CPU, in
            16 bits where the hardware multiplies them), ``openvino:GPU``.
        batch_size: slices at once; default 1 on a CPU, 16 on a GPU, halved when memory runs out.
        precision: of OpenVINO: ``auto`` or ``float32``.

    Raises:
        MissingExtraError: no onnxruntime or OpenVINO; ModelError: a file or device that cannot be used.
    """
    return OnnxEngine(open_graph(path, device, precision), batch_size=batch_size)


def check_onnx_options(
    *,
    weights: object = None,
    method: str | None = None,
    precision: str = "auto",
    speed: str = "exact",
    normals: object = None,
) -> None:
    """Refuse what only the engine on torch can be asked for.

    Raises:
        ModelError: weights, a method, normal images, another precision than float32, or another speed than exact.
    """
    kind = "An exported .onnx model must be used as it is"
    if weights is not None:
        raise ModelError(kind, "--weights", "Leave it out: the weights are in the file")
    if method is not None:
        raise ModelError(kind, f"--method {method}", "Leave it out: the method is in the file")
    if normals is not None:
        raise ModelError(kind, "--normals", "Compare with normal images in the model that it was exported from")
    if precision not in ("auto", "float32"):
        raise ModelError(kind, f"--precision {precision}", "Leave it out: the graph computes in float32")
    if speed != "exact":
        raise ModelError(kind, f"--speed {speed}", "Leave it out: the graph has one input size")


def _score(graph: OnnxGraph, pieces: Sequence[Piece]) -> Collect | None:
    """What :func:`headclip_med.engine.batches.score_scans` calls for every batch."""
    frames = [piece.plane.frame for piece in pieces]
    insides = [piece.scan.inside(frame, piece.indices) for piece, frame in zip(pieces, frames, strict=True)]
    pixels = [slice_pixels(p.scan, frame, p.indices) for p, frame in zip(pieces, frames, strict=True)]
    limits = [slice_limits(p.scan, frame, i) for p, frame, i in zip(pieces, frames, insides, strict=True)]
    found = graph.run(np.concatenate(pixels), np.concatenate(limits))
    if found is None:
        return None
    ends = np.cumsum([len(piece.indices) for piece in pieces])[:-1]
    maps, scores = (np.split(part, ends) for part in found)
    own = [
        from_square(part, piece.scan.placement(frame), (inside.shape[1], inside.shape[2])) * inside
        for part, piece, frame, inside in zip(maps, pieces, frames, insides, strict=True)
    ]
    return lambda: list(zip(own, scores, strict=True))


__all__ = ["ONNX_ENDING", "OnnxEngine", "check_onnx_options", "load_onnx_engine"]
