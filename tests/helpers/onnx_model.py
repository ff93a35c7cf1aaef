"""Small exported models for tests: any detector that has ``compute`` as an ONNX file with a score card in it."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from headclip_med.detectors import HeadCLIP
from headclip_med.engine.card import CARD_KEY, Cut, Pixels, Port, ScoreCard, card_text
from headclip_med.engine.engine import Engine
from headclip_med.models.domains import Domain, window_of
from headclip_med.slicing.intensity import Preprocessing


class Graph(nn.Module):
    """Pixels and valid → map and score, as the contract names them."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        out = self.detector.compute(pixels, valid)
        return out.maps[:, None], out.scores


def export(engine: Engine, path: Path, **changes: Any) -> Path:
    """Write the engine's detector for its model's own domain; ``changes`` go into the score card."""
    domain = engine.scorer.model.domain
    detector = engine.scorer.detector(domain)
    if isinstance(detector, HeadCLIP):
        detector.config = replace(detector.config, kernel="fused")
    size = detector.image_size
    inputs = (torch.rand(2, 3, size, size), torch.ones(2, size, size))
    slices = torch.export.Dim("slices")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names of axes
        program = torch.onnx.export(
            Graph(detector).eval(),
            inputs,
            input_names=["pixels", "valid"],
            output_names=["anomaly_map", "slice_score"],
            dynamic_shapes={"pixels": {0: slices}, "valid": {0: slices}},
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)
    add_card(path, card_of(engine, domain, detector).model_copy(update=changes))
    return path


def add_card(path: Path, card: ScoreCard | str | None) -> None:
    """Put a card among the file's metadata, or take it out."""
    model = onnx.load(str(path))
    del model.metadata_props[:]
    if card is not None:
        text = card if isinstance(card, str) else card_text(card)
        onnx.helper.set_model_props(model, {CARD_KEY: text})
    onnx.save(model, str(path))


def card_of(engine: Engine, domain: Domain, detector: Any) -> ScoreCard:
    """The card of an engine's model, as an exporter fills it in."""
    tower, model = detector.tower, engine.scorer.model
    spec = Preprocessing(
        detector.image_size, tower.mean, tower.std, window_of(domain), fit=domain.fit, channels=domain.channels
    )
    facts = model.provenance()
    return ScoreCard(
        kind="onnx",
        **facts,
        domain=domain.name,
        detector=detector.describe(),
        pixels=Pixels(**asdict(spec)),
        threshold=Cut(value=model.threshold.value, origin=model.threshold.origin),
        slice_smoothing_mm=model.pack.record.slice_smoothing_mm if model.pack else 0.0,
        inputs=(Port(name="pixels", shape="N×3×S×S", meaning="pixels"),),
        outputs=(Port(name="anomaly_map", shape="N×1×S×S", meaning="map"),),
        versions={},
    )
