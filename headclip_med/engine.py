"""The main job: a scan in, an anomaly map in the scan's own grid out.

engine = headclip_med.load_engine("headclip-tiny")
result = engine.predict("flair.nii.gz")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from headclip_med.detect_slices import own_preprocessing, scorer
from headclip_med.detectors import Detector, SliceBatch
from headclip_med.device import Precision, choose_device, choose_dtype
from headclip_med.errors import InputError
from headclip_med.intensity import Channels
from headclip_med.job import Clock, Job, chosen_smoothing, chosen_threshold, make_job
from headclip_med.models import DEFAULT_MODEL, Model, detector_for, load_model, place_model
from headclip_med.packs.domains import Domain, get_domain
from headclip_med.result import AnomalyResult
from headclip_med.run_job import run_job
from headclip_med.run_slices import Arrived, Batching, Cancel, Progress
from headclip_med.sources import Source, to_volume, with_meta
from headclip_med.types import Affine
from headclip_med.versions import package_versions


class Engine:
    """A model on a device, ready to score any number of cases. Made by :func:`load_engine`."""

    def __init__(
        self,
        model: Model,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise InputError("The batch size must be at least 1", batch_size)
        self.device = choose_device(device)
        self.dtype = choose_dtype(self.device, precision)
        self.model = place_model(model, self.device, self.dtype)
        self._batching = Batching(batch_size or (1 if self.device.type == "cpu" else 16), self.device.type)
        self._detectors: dict[str, Detector] = {}
        if model.pack is not None and model.pack.class_features(model.built.tower) is not None:
            self._detector(model.domain)  # a pack that does not fit is refused now, not at the first case

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
            source: a file or folder, several files of one grid (sequences), a loaded volume
                ``(C, I, J, K)``, or an array ``(I, J, K)`` / ``(C, I, J, K)`` with ``affine``.
            affine, modality, is_rgb: of an array: voxel → RAS mm, DICOM code such as CT, colours in [0, 255].
            domain: see ``headclip_med.packs.domains``; default the pack's own.
            plane: axial, coronal, sagittal, several of them (their maps are averaged), or ``all``; default the
                acquisition plane.
            window: CT window by name or ``(level, width)``. channels: ``repeat`` the slice, or ``neighbours`` (2.5-D);
                default the domain's. series, time_index: choice within the source. on_irregular: what to do with an
                irregular DICOM series, see :func:`headclip_med.reading.read_volume`.
            threshold: cut on the map in [0, 1]; default the pack's. smooth_mm: Gaussian along the normal, from 0 to
                the volume's extent; default the pack's.
            progress: called with slices done and slices in all; cancel: asked before each batch;
                arrived: given the maps and scores of each batch, see :mod:`headclip_med.run_slices`.

        Raises:
            InputError: an unusable source or option; CancelledError: ``cancel`` returned True.
        """
        clock = Clock()
        volume = to_volume(
            source,
            affine=affine,
            modality=modality,
            is_rgb=is_rgb,
            series=series,
            time_index=time_index,
            on_irregular=on_irregular,
        )
        chosen = get_domain(domain) if domain else self.model.domain
        detector = self._detector(chosen)
        job = make_job(
            volume,
            chosen.name,
            own_preprocessing(detector, chosen),
            plane=plane,
            window=window,
            channels=channels,
            warnings=self.model.warnings,
        )
        sigma = chosen_smoothing(smooth_mm, self._own_smoothing, job)
        cut = chosen_threshold(threshold, (self.model.threshold.value, self.model.threshold.origin))
        clock.lap("read")
        result = run_job(
            job,
            partial(scorer, detector, self.device),
            self._batching,
            sigma_mm=sigma,
            threshold=cut,
            clock=clock,
            progress=progress,
            cancel=cancel,
            arrived=arrived,
        )
        volume_map = with_meta(torch.from_numpy(result.map_array[None]), job.affine, volume.meta)
        return replace(result, volume_map=volume_map, provenance=self._provenance(job, detector, sigma))

    def identity(self) -> dict[str, Any]:
        """What decides this engine's numbers, under the names of a result's provenance: names, hashes, precision."""
        return {**self.model.provenance(), "precision": str(self.dtype).removeprefix("torch.")}

    def setting(self) -> dict[str, Any]:
        """Where and how it runs; changes no number but by rounding."""
        return {"device": self.device.type, "batch_size": self.batch_size}

    def score_pixels(self, pixels: torch.Tensor, *, domain: str | None = None) -> SliceBatch:
        """Maps and scores of ready model input ``(N, 3, S, S)``, in batches, on the CPU; the seam for other readers."""
        detector = self._detector(get_domain(domain) if domain else self.model.domain)
        parts = [detector.score(part.to(self.device)) for part in pixels.split(self.batch_size)]
        return SliceBatch(torch.cat([p.maps.cpu() for p in parts]), torch.cat([p.scores.cpu() for p in parts]))

    def _detector(self, domain: Domain) -> Detector:
        if domain.name not in self._detectors:
            self._detectors[domain.name] = detector_for(self.model, domain)
        return self._detectors[domain.name]

    @property
    def _own_smoothing(self) -> float:
        return self.model.pack.record.slice_smoothing_mm if self.model.pack else 0.0

    def _provenance(self, job: Job, detector: Detector, sigma_mm: float) -> dict[str, Any]:
        return {
            **self.identity(),
            "detector": detector.describe(),
            **job.provenance(sigma_mm),
            "device": _device_name(self.device),
            "batch_size": self.batch_size,
            "versions": package_versions(),
        }


def load_engine(
    name_or_path: str | Path = DEFAULT_MODEL,
    device: str = "auto",
    *,
    method: str | None = None,
    precision: Precision = "auto",
    batch_size: int | None = None,
    weights: str | Path | None = None,
) -> Engine:
    """Load a model and put it on a device.

    Args:
        name_or_path: ``headclip-tiny``, a pack folder, a weight file, ``ARCH/TAG`` of open_clip, ``timm:ARCH``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        method: detector by name, default the pack's or ``headclip``.
        precision: of the matrix products; ``auto`` takes 16 bits where the hardware has them.
        batch_size: slices at once; default 1 on a CPU, 16 on a GPU, halved when memory runs out.
        weights: weight file or name of the tower of a pack that carries none.

    Raises:
        ModelError: the model or the device cannot be had; the message says what to do.
    """
    model = load_model(name_or_path, method=method, weights=weights)
    return Engine(model, device=device, precision=precision, batch_size=batch_size)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


__all__ = ["Engine", "load_engine"]
