"""Slices through an exported model: onnxruntime or OpenVINO and numpy, no torch; the same numbers in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headclip_med.base.errors import InputError
from headclip_med.engine.card import ScoreCard
from headclip_med.engine.onnx_graph import OnnxGraph
from headclip_med.engine.result import AnomalyResult
from headclip_med.engine.scan_run import Piece
from headclip_med.engine.scorer import Batching, Setup
from headclip_med.models.domains import get_domain
from headclip_med.models.speed import SPEEDS
from headclip_med.slicing.intensity import Preprocessing, PreprocessingKind
from headclip_med.slicing.pixels_numpy import from_square, slice_limits, slice_pixels
from headclip_med.slicing.scan import Floats
from headclip_med.slicing.view import other_preprocessing

OnnxBatch = list[tuple[Floats, Floats]]  # maps and scores of each piece: a graph gives them at once


class OnnxScorer:
    """An exported model on a device: a :class:`headclip_med.engine.scorer.Scorer`.

    What the graph leaves open (window, channels, smoothing, threshold) comes from its score card.

    Args:
        graph: Of :func:`headclip_med.engine.onnx_graph.open_graph`.
        batch_size: Slices at once, default 1 on a CPU, 16 on a GPU.

    Raises:
        InputError: A batch below 1.
    """

    speed = SPEEDS["exact"]

    def __init__(self, graph: OnnxGraph, *, batch_size: int | None = None) -> None:
        on_cpu = graph.device == "cpu"
        size = (1 if on_cpu else 16) if batch_size is None else batch_size
        self.batching = Batching(size, graph.device, across=not on_cpu)
        self.graph = graph

    @property
    def card(self) -> ScoreCard:
        """What the model says about itself."""
        return self.graph.card

    def setup(self, domain: str | None, preprocessing: PreprocessingKind | None = None) -> Setup:
        """Give what the model was exported with, by either preprocessing, as pixels are made outside the graph.

        Args:
            domain: By name, the model's own or None.
            preprocessing: ``own`` or ``released``, None for the model's own.

        Returns:
            The graph, and what its card says.

        Raises:
            InputError: Another domain than the model's own.
        """
        self.check_domain(domain)
        card = self.card
        kind = preprocessing or card.pixels.kind
        return Setup(
            domain=card.domain,
            preprocessing=Preprocessing(**{**card.pixels.model_dump(), "kind": kind}),
            detector=self.graph,
            configuration=card.detector,
            smoothing_mm=card.slice_smoothing_mm,
            threshold=(card.threshold.value, card.threshold.origin),
            device=self.graph.device,
            warnings=other_preprocessing(kind, card.pixels.kind),
            expected=[(f"{card.model} is for", card.scope or get_domain(card.domain).scope)],
        )

    def check_domain(self, domain: str | None) -> None:
        """Refuse any domain but the model's own, whose class features are in the graph.

        Args:
            domain: By name, None for the model's own.

        Raises:
            InputError: Another domain.
        """
        if domain is not None and get_domain(domain).name != self.card.domain:
            raise InputError(
                f"The domain must be {self.card.domain}, for which {self.graph.name} was exported",
                domain,
                "Leave the domain out, or export the model for that one",
            )

    def submit(self, graph: OnnxGraph, pieces: Sequence[Piece]) -> OnnxBatch | None:
        """Score the slices of ``pieces``, or give None when the device's memory ran out.

        Args:
            graph: Of :meth:`setup`.
            pieces: Slices of one batch.

        Returns:
            Maps ``(n, H, W)`` and scores ``(n,)`` of each piece.
        """
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
        return list(zip(own, scores, strict=True))

    def collect(self, batch: OnnxBatch) -> list[tuple[Floats, Floats]]:
        """Give what has come of a batch.

        Args:
            batch: Of :meth:`submit`.

        Returns:
            Maps ``(n, H, W)`` in display orientation and scores ``(n,)`` of each piece, both in [0, 1].
        """
        return batch

    def foreseen(self, graph: OnnxGraph, map_bytes: int) -> list[str]:
        """Give no warning, as what a graph takes is not known before it runs.

        Args:
            graph: Of :meth:`setup`.
            map_bytes: Size of the case's map of one plane.

        Returns:
            An empty list.
        """
        return []

    def handed_out(self, result: AnomalyResult) -> AnomalyResult:
        """Give the result as it is, with numpy arrays.

        Args:
            result: With the map as a numpy array.

        Returns:
            The same result.
        """
        return result

    def identity(self) -> dict[str, Any]:
        """Give what decides the numbers, under the names of a result's provenance: names, hashes, precision.

        Returns:
            Plain JSON values.
        """
        facts = {"precision": self.graph.precision, "speed": self.speed.name}
        return {**self.card.provenance(), "export_sha256": self.graph.sha256, **facts}

    def setting(self) -> dict[str, Any]:
        """Give where and how it runs, which changes no number but by rounding.

        Returns:
            Plain JSON values.
        """
        return {"device": self.graph.device, "runtime": self.graph.runtime, "batch_size": self.batching.size}
