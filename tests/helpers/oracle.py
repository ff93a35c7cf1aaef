"""A detector whose answer is known: the anomaly map is the brightness of the pixels it is given."""

from __future__ import annotations

from typing import Any

import torch
from towers import timm_tower

from headclip_med.detectors import Capabilities, SliceBatch
from headclip_med.encoders.build import BuiltTower
from headclip_med.engine.engine import Engine
from headclip_med.engine.torch_scorer import TorchScorer
from headclip_med.models.load import Model


class BrightnessDetector:
    """Undoes the normalisation, so that map = level in [0, 1]; score = the map's maximum inside the patient."""

    name = "brightness"
    capabilities = Capabilities(zero_shot=True, uses_text=False, localises=True)
    image_size = 64

    def __init__(self, memory: int | None = None) -> None:
        self.tower = timm_tower()
        self.memory = memory  # slices that fit; more raise what CUDA raises
        self.batches: list[int] = []

    def score(self, pixels: torch.Tensor, valid: torch.Tensor | None = None) -> SliceBatch:
        if self.memory is not None and len(pixels) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append(len(pixels))
        return self.compute(pixels, valid)

    def compute(self, pixels: torch.Tensor, valid: torch.Tensor | None = None) -> SliceBatch:
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.tower.mean, self.tower.std))
        maps = (pixels * std + mean).mean(dim=1).clamp(0, 1)
        inside = maps if valid is None else maps * valid
        return SliceBatch(maps, inside.flatten(1).amax(dim=1))

    def describe(self) -> dict[str, Any]:
        return {"method": self.name}


def oracle_engine(detector: BrightnessDetector | None = None, *, batch_size: int = 4) -> Engine:
    """An engine around the oracle, for every domain."""
    detector = detector or BrightnessDetector()
    built = BuiltTower(detector.tower, "timm", "tiny", "test", "0" * 64)
    engine = Engine(
        TorchScorer(Model("oracle", "brightness", built), device="cpu", precision="float32", batch_size=batch_size)
    )
    engine.scorer._detectors = _Always(detector)
    return engine


class _Always(dict):  # type: ignore[type-arg]
    def __init__(self, detector: BrightnessDetector) -> None:
        super().__init__()
        self.detector = detector

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: object) -> BrightnessDetector:
        return self.detector
