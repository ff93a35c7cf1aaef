"""The main job: a scan in, an anomaly map in the scan's own grid out.

engine = headclip_med.load_engine("headclip-tiny")
result = engine.predict("flair.nii.gz")
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from headclip_med.detectors import Detector, SliceBatch
from headclip_med.device import Precision, choose_device, choose_dtype
from headclip_med.errors import InputError
from headclip_med.geometry import check_affine, slice_centres, slice_frame
from headclip_med.intensity import Channels, Preprocessing, Range, foreground, intensity_ranges
from headclip_med.models import DEFAULT_MODEL, Model, detector_for, load_model, place_model
from headclip_med.packs.domains import Domain, get_domain
from headclip_med.prepare import (
    Source,
    choose_channels,
    choose_planes,
    choose_window,
    source_name,
    to_volume,
    with_meta,
)
from headclip_med.result import AnomalyResult, SliceScore
from headclip_med.run_slices import Batching, Cancel, PlaneRun, Progress, SliceSource, run_planes
from headclip_med.types import Affine, Plane
from headclip_med.versions import package_versions
from headclip_med.volume_map import find_components, fuse_planes, smooth_along, volume_score


@dataclass(frozen=True)
class _Job:
    """Everything decided before the first slice runs."""

    volume: MetaTensor
    array: NDArray[np.float32]
    affine: Affine
    domain: Domain
    detector: Detector
    preprocessing: Preprocessing
    planes: tuple[Plane, ...]
    warnings: tuple[str, ...]


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
        self.batch_size = batch_size or (1 if self.device.type == "cpu" else 16)
        self._detectors: dict[str, Detector] = {}

    def predict(
        self,
        source: Source,
        *,
        affine: Affine | None = None,
        domain: str | None = None,
        plane: str | Sequence[str] | None = None,
        window: str | tuple[float, float] | None = None,
        channels: Channels | None = None,
        series: str | None = None,
        time_index: int | None = None,
        threshold: float | None = None,
        smooth_mm: float | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> AnomalyResult:
        """Score one case.

        Args:
            source: a file or folder, several files of one grid (sequences), a MetaTensor ``(C, I, J, K)``, or an
                array ``(I, J, K)`` / ``(C, I, J, K)`` with ``affine``.
            affine: voxel → RAS mm of an array.
            domain: see ``headclip_med.packs.domains``; default the pack's own.
            plane: axial, coronal, sagittal, several of them (their maps are averaged), or ``all``; default the
                acquisition plane.
            window: CT window by name or ``(level, width)``. channels: ``repeat`` the slice, or ``neighbours`` (2.5-D);
                default the domain's. series, time_index: choice within the source.
            threshold: cut on the map in [0, 1]; default the pack's. smooth_mm: Gaussian along the normal.
            progress: called with slices done and slices in all; cancel: asked before each batch.

        Raises:
            InputError: an unusable source or option; CancelledError: ``cancel`` returned True.
        """
        clock = _Clock()
        job = self._prepare(source, affine, domain, plane, window, channels, series, time_index)
        threshold, origin = self._threshold(threshold)
        clock.lap("read")
        mask, ranges = self._ranges(job)
        clock.lap("intensity")
        scan = SliceSource(job.volume.as_tensor(), mask, job.affine, ranges, job.preprocessing, _inverted(job.volume))
        frames = [slice_frame(job.affine, plane) for plane in job.planes]
        batching = Batching(self.batch_size)
        runs = run_planes(job.detector, scan, frames, batching, self.device, progress=progress, cancel=cancel)
        clock.lap("detect")
        sigma = smooth_mm if smooth_mm is not None else self._pack_smoothing
        maps = [smooth_along(r.volume_map, r.frame.axis, job.affine, sigma) for r in runs]
        volume_map = fuse_planes(maps)
        findings = find_components(volume_map, job.affine, threshold, frames[0].axis)
        clock.lap("map")
        return AnomalyResult(
            volume=job.volume,
            volume_map=with_meta(torch.from_numpy(volume_map[None]), job.affine, job.volume.meta),
            pred_score=volume_score([s for s, b in zip(runs[0].scores, runs[0].background, strict=True) if not b]),
            threshold=threshold,
            threshold_origin=origin,
            planes=job.planes,
            slices=_slice_scores(runs[0], job),
            findings=findings,
            display_window=ranges[0],
            timings=clock.laps,
            warnings=(*job.warnings, *batching.warnings),
            provenance=self._provenance(job, sigma),
        )

    def score_pixels(self, pixels: torch.Tensor, *, domain: str | None = None) -> SliceBatch:
        """Maps and scores of ready model input ``(N, 3, S, S)``, in batches, on the CPU; the seam for other readers."""
        detector = self._detector(get_domain(domain) if domain else self.model.domain)
        parts = [detector.score(part.to(self.device)) for part in pixels.split(self.batch_size)]
        return SliceBatch(torch.cat([p.maps.cpu() for p in parts]), torch.cat([p.scores.cpu() for p in parts]))

    def _prepare(
        self,
        source: Source,
        affine: Affine | None,
        domain_name: str | None,
        plane: str | Sequence[str] | None,
        window: str | tuple[float, float] | None,
        channels: Channels | None,
        series: str | None,
        time_index: int | None,
    ) -> _Job:
        volume = to_volume(source, affine, series, time_index)
        matrix = check_affine(np.asarray(volume.affine, dtype=np.float64), source_name(volume))
        domain = get_domain(domain_name) if domain_name else self.model.domain
        planes, plane_reason = choose_planes(matrix, volume, plane)
        level_width, window_warning = choose_window(window, domain, volume)
        detector = self._detector(domain)
        preprocessing = Preprocessing(
            image_size=detector.image_size,
            mean=detector.tower.mean,
            std=detector.tower.std,
            window=level_width,
            fit=domain.fit,
            channels=choose_channels(channels, domain),
        )
        warnings = [
            *volume.meta.get("reader_warnings", []),
            *self.model.warnings,
            window_warning,
            plane_reason,
        ]
        array = np.asarray(volume.as_tensor().numpy(), dtype=np.float32)
        return _Job(volume, array, matrix, domain, detector, preprocessing, planes, tuple(w for w in warnings if w))

    def _detector(self, domain: Domain) -> Detector:
        if domain.name not in self._detectors:
            self._detectors[domain.name] = detector_for(self.model, domain)
        return self._detectors[domain.name]

    def _ranges(self, job: _Job) -> tuple[NDArray[np.bool_], list[Range]]:
        is_rgb = bool(job.volume.meta.get("is_rgb", False))
        mask = foreground(job.array, modality=job.volume.meta.get("modality"), is_rgb=is_rgb)
        return mask, intensity_ranges(job.array, mask, job.preprocessing, is_rgb=is_rgb)

    def _threshold(self, threshold: float | None) -> tuple[float, str]:
        if threshold is None:
            return self.model.threshold.value, self.model.threshold.origin
        if not 0 < threshold < 1:
            raise InputError("The threshold must lie between 0 and 1", threshold, "The map holds probabilities")
        return threshold, "chosen by the user"

    @property
    def _pack_smoothing(self) -> float:
        return self.model.pack.record.slice_smoothing_mm if self.model.pack else 0.0

    def _provenance(self, job: _Job, sigma_mm: float) -> dict[str, Any]:
        spec = job.preprocessing
        return {
            **self.model.provenance(),
            "detector": job.detector.describe(),
            "domain": job.domain.name,
            "preprocessing": {k: v for k, v in asdict(spec).items() if k not in ("mean", "std", "image_size")},
            "slice_smoothing_mm": sigma_mm,
            "device": _device_name(self.device),
            "precision": str(self.dtype).removeprefix("torch."),
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


class _Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 4), now


def _slice_scores(run: PlaneRun, job: _Job) -> tuple[SliceScore, ...]:
    shape = (job.array.shape[1], job.array.shape[2], job.array.shape[3])
    centres = slice_centres(job.affine, shape, run.frame.axis)
    uids = _uids_by_position(job.volume, centres)
    return tuple(
        SliceScore(
            index=i,
            position_mm=(float(c[0]), float(c[1]), float(c[2])),
            score=float(run.scores[i]),
            background=bool(run.background[i]),
            uid=uids[i],
        )
        for i, c in enumerate(centres)
    )


def _uids_by_position(volume: MetaTensor, centres: NDArray[np.float64]) -> list[str | None]:
    """SOPInstanceUIDs matched by world position, so that a reoriented volume keeps them right."""
    uids, positions = volume.meta.get("slice_uids"), volume.meta.get("slice_positions")
    if not uids or not positions:
        return [None] * len(centres)
    distance = np.linalg.norm(centres[:, None] - np.asarray(positions)[None], axis=-1)
    nearest = distance.argmin(axis=1)
    return [str(uids[n]) if distance[i, n] < 0.1 else None for i, n in enumerate(nearest)]


def _inverted(volume: MetaTensor) -> bool:
    return bool(volume.meta.get("display_inverted", False))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


__all__ = ["Engine", "load_engine"]
