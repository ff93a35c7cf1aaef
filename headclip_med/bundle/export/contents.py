"""What the score card of an exported model says, gathered from the model."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from headclip_med.base.versions import package_versions
from headclip_med.bundle.export.kinds import Kind
from headclip_med.detectors import HeadCLIP
from headclip_med.engine.card import Cut, Pixels, Port, ScoreCard
from headclip_med.models.load import Model, own_preprocessing

# Packages beside the usual ones that decide what an ONNX file computes.
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def card_of(model: Model, detector: HeadCLIP, kind: Kind) -> ScoreCard:
    """The card of ``model`` exported as ``kind``, before its parity is measured."""
    record = model.pack.record if model.pack else None
    return ScoreCard(
        kind=kind.name,
        **_origin(model),
        domain=model.domain.name,
        scope=model.expected(model.domain)[0][1],
        detector=json.loads(json.dumps(detector.describe())),  # lists for tuples, as they come back from a file
        pixels=_pixels(model, detector),
        threshold=Cut(value=model.threshold.value, origin=model.threshold.origin),
        slice_smoothing_mm=record.slice_smoothing_mm if record else 0.0,
        inputs=_inputs(detector.image_size, with_valid=kind.gives_scores),
        outputs=_outputs(detector.image_size, with_score=kind.gives_scores),
        ledger=tuple(e.model_dump(mode="json", exclude={"image_sha256"}) for e in record.ledger) if record else (),
        versions=package_versions() | (_onnx_versions() if kind.name == "onnx" else {}),
    )


def _origin(model: Model) -> dict[str, Any]:
    """Names and hashes; without a pack's where the pack is only the prompts of a domain."""
    facts = model.provenance()
    if model.pack is not None and model.pack.folder == Path():
        facts = {key: value for key, value in facts.items() if not key.startswith("pack")}
    return {key: value or None for key, value in facts.items()}


def _pixels(model: Model, detector: HeadCLIP) -> Pixels:
    spec = own_preprocessing(detector, model.domain, model.preprocessing)
    return Pixels.model_validate({field.name: getattr(spec, field.name) for field in fields(spec)})


def _inputs(size: int, *, with_valid: bool) -> tuple[Port, ...]:
    pixels = Port(
        name="pixels",
        shape=f"(batch, 3, {size}, {size}) float32",
        meaning="slices scaled to [0, 1], then (value - mean) / std per channel",
    )
    valid = Port(
        name="valid",
        shape=f"(batch, {size}, {size}) float32",
        meaning="1 inside the patient, 0 elsewhere; limits the score, not the map",
    )
    return (pixels, valid) if with_valid else (pixels,)


def _outputs(size: int, *, with_score: bool) -> tuple[Port, ...]:
    maps = Port(
        name="anomaly_map",
        shape=f"(batch, 1, {size}, {size}) float32",
        meaning="probability of abnormal per pixel, in [0, 1]",
    )
    score = Port(name="slice_score", shape="(batch,) float32", meaning="score of the slice, in [0, 1]")
    return (maps, score) if with_score else (maps,)


def _onnx_versions() -> dict[str, str]:
    found = {}
    for package in _ONNX_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
