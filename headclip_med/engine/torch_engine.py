"""The main job: a scan in, an anomaly map in the scan's own grid out.

engine = headclip_med.load_engine("headclip-tiny")
result = engine.predict("flair.nii.gz")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from headclip_med.detectors import Detector, SliceBatch
from headclip_med.detectors.memory import adapted
from headclip_med.engine.batches import Batching
from headclip_med.engine.case import CaseRun
from headclip_med.engine.device import Precision, choose_device, choose_dtype
from headclip_med.engine.engine import ScanEngine, Setup
from headclip_med.engine.memory import fitting_batch, shortage
from headclip_med.engine.normals import Normals, normal_pixels, read_normals
from headclip_med.engine.result import AnomalyResult, to_metatensors
from headclip_med.engine.torch_scorer import SliceScorer, own_preprocessing
from headclip_med.models.domains import Domain, get_domain
from headclip_med.models.load import DEFAULT_MODEL, Model, detector_for, load_model, place_model
from headclip_med.models.record import UNCALIBRATED
from headclip_med.models.scope import Scope
from headclip_med.models.speed import get_speed
from headclip_med.slicing.intensity import PreprocessingKind
from headclip_med.slicing.view import other_preprocessing


class Engine(ScanEngine):
    """A model on a device, ready to score any number of cases. Made by :func:`load_engine`."""

    def __init__(
        self,
        model: Model,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int | None = None,
        speed: str = "exact",
        normals: Normals | None = None,
    ) -> None:
        self.device, self.speed, self.normals = choose_device(device), get_speed(speed), normals
        self.dtype = choose_dtype(self.device, precision)
        self.model = place_model(model, self.device, self.dtype)
        self._detectors: dict[tuple[str, str | None], Detector] = {}
        self._batch_size = batch_size
        in_flight, across = 2 if self.device.type == "cuda" else 1, self.device.type != "cpu"
        super().__init__(Batching(1 if batch_size is None else batch_size, self.device.type, in_flight, across))
        if normals is not None or (model.pack is not None and model.pack.tensors):
            self._detector(model.domain)  # what does not fit is refused now, not at the first case

    def setup(self, domain: str | None, preprocessing: PreprocessingKind | None = None) -> Setup:
        """What this engine brings for a domain and a preprocessing, by default the model's."""
        chosen = get_domain(domain) if domain else self.model.domain
        kind = preprocessing or self.model.preprocessing
        detector = self._detector(chosen, kind)
        return Setup(
            domain=chosen.name,
            preprocessing=own_preprocessing(detector, chosen, kind),
            score=SliceScorer(detector, self.device),
            smoothing_mm=self.model.pack.record.slice_smoothing_mm if self.model.pack else 0.0,
            threshold=self.threshold,
            detector=detector.describe(),
            warnings=(
                *self.model.warnings,
                *_limits(detector),
                *_few(self.normals),
                *other_preprocessing(kind, self.model.preprocessing),
            ),
            expected=[*self.model.expected(chosen), *_alike(self.normals)],
        )

    @property
    def threshold(self) -> tuple[float, str]:
        """Cut on the map and where it came from; what was chosen without normal images says nothing with them."""
        own = UNCALIBRATED if self.normals is not None else self.model.threshold
        return own.value, own.origin

    def identity(self) -> dict[str, Any]:
        """What decides this engine's numbers, under the names of a result's provenance: names, hashes, precision."""
        precision = str(self.dtype).removeprefix("torch.")
        seen = self.normals
        facts = {} if seen is None else {"normals": len(seen.sources), "normals_sha256": seen.sha256}
        return {**self.model.provenance(), **facts, "precision": precision, "speed": self.speed.name}

    def setting(self) -> dict[str, Any]:
        """Where and how it runs; changes no number but by rounding."""
        return {"device": self.device.type, "batch_size": self.batch_size}

    def score_pixels(self, pixels: torch.Tensor, *, domain: str | None = None) -> SliceBatch:
        """Maps and scores of ready model input ``(N, 3, S, S)``, in batches, on the CPU; the seam for other readers."""
        detector = self._detector(get_domain(domain) if domain else self.model.domain)
        parts = [detector.score(part.to(self.device)) for part in pixels.split(self.batch_size)]
        return SliceBatch(torch.cat([p.maps.cpu() for p in parts]), torch.cat([p.scores.cpu() for p in parts]))

    def _detector(self, domain: Domain, preprocessing: PreprocessingKind | None = None) -> Detector:
        """The detector for a domain, and for normal images that were prepared as a case will be."""
        kind = preprocessing or self.model.preprocessing
        key = domain.name, kind if self.normals is not None else None
        if key not in self._detectors:
            detector = detector_for(self.model, domain, self.speed)
            if self.normals is not None:
                detector = adapted(detector, normal_pixels(self.normals, detector, domain, kind))
            if self._batch_size is None and not self._detectors:
                self._batching.size = fitting_batch(detector, self.device)
            self._detectors[key] = detector
        return self._detectors[key]

    def _foreseen(self, case: CaseRun, setup: Setup) -> list[str]:
        detector = self._detector(get_domain(setup.domain), setup.preprocessing.kind)
        note = shortage(case, detector, self.batch_size, self.device)
        return [] if note is None else [note]

    def _where(self) -> dict[str, Any]:
        return {**self.setting(), "device": _device_name(self.device)}

    def _handed_out(self, result: AnomalyResult) -> AnomalyResult:
        return to_metatensors(result)


def load_engine(
    name_or_path: str | Path = DEFAULT_MODEL,
    device: str = "auto",
    *,
    method: str | None = None,
    precision: Precision = "auto",
    batch_size: int | None = None,
    weights: str | Path | None = None,
    speed: str = "exact",
    normals: str | Path | None = None,
) -> Engine:
    """Load a model and put it on a device.

    Args:
        name_or_path: ``headclip-tiny``, a pack folder, a weight file, ``ARCH/TAG`` of open_clip, ``timm:ARCH``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        method: detector by name, default the pack's or ``headclip``.
        precision: of the matrix products; ``auto`` takes 16 bits where the hardware has them.
        batch_size: slices at once; default 1 to 8 on a CPU, what fits its memory on a GPU; halved when that runs out.
        weights: weight file or name of the tower of a pack that carries none.
        speed: ``exact``, ``balanced``, ``fast``, see :mod:`headclip_med.models.speed`.
        normals: folder of normal images of the task, which the method then also compares with.

    Raises:
        ModelError: the model or the device cannot be had; InputError: an unknown speed, a batch below 1.
    """
    seen = None if normals is None else read_normals(normals)
    model = load_model(name_or_path, method=method, weights=weights, has_normals=seen is not None)
    return Engine(model, device=device, precision=precision, batch_size=batch_size, speed=speed, normals=seen)


def _limits(detector: Detector) -> tuple[str, ...]:
    """What a reader of the map must know of the method."""
    if detector.capabilities.localises:
        return ()
    return (f"{detector.name} does not localise: its map is the slice's score everywhere",)


def _few(normals: Normals | None) -> tuple[str, ...]:
    """What a reader must know of a memory of one patient."""
    if normals is None or len(normals.sources) > 1:
        return ()
    return ("the normal images are one alone: another patient or scanner may look abnormal all over",)


def _alike(normals: Normals | None) -> list[tuple[str, Scope]]:
    """Scans must be of the kind of the normal images."""
    return [] if normals is None else [(f"the normal images of {normals.name} are", normals.scope)]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


__all__ = ["Engine", "load_engine"]
