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
from headclip_med.geometry import check_affine, directions, slice_centres, slice_frame, spacing
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
from headclip_med.types import Affine, Plane, Vector
from headclip_med.versions import package_versions
from headclip_med.volume_map import find_components, fuse_planes, smooth_along, volume_score

_PARALLEL = 0.9999  # cosine: 0.8 degrees
_SAME_SLICE_MM = 0.05
_MANY_FINDINGS = 1000


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
    plane_reason: str
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
        self._batching = Batching(batch_size or (1 if self.device.type == "cpu" else 16))
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
        threshold: float | None = None,
        smooth_mm: float | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> AnomalyResult:
        """Score one case.

        Args:
            source: a file or folder, several files of one grid (sequences), a MetaTensor ``(C, I, J, K)``, or an
                array ``(I, J, K)`` / ``(C, I, J, K)`` with ``affine``.
            affine, modality, is_rgb: of an array: voxel → RAS mm, DICOM code such as CT, colours in [0, 255].
            domain: see ``headclip_med.packs.domains``; default the pack's own.
            plane: axial, coronal, sagittal, several of them (their maps are averaged), or ``all``; default the
                acquisition plane.
            window: CT window by name or ``(level, width)``. channels: ``repeat`` the slice, or ``neighbours`` (2.5-D);
                default the domain's. series, time_index: choice within the source.
            threshold: cut on the map in [0, 1]; default the pack's. smooth_mm: Gaussian along the normal, from 0 to
                the volume's extent; default the pack's.
            progress: called with slices done and slices in all; cancel: asked before each batch.

        Raises:
            InputError: an unusable source or option; CancelledError: ``cancel`` returned True.
        """
        clock = _Clock()
        volume = to_volume(
            source, affine=affine, modality=modality, is_rgb=is_rgb, series=series, time_index=time_index
        )
        job = self._prepare(volume, domain, plane, window, channels)
        sigma = self._smoothing(smooth_mm, job)
        threshold, origin = self._threshold(threshold)
        clock.lap("read")
        mask, ranges = self._ranges(job)
        clock.lap("intensity")
        scan = SliceSource(job.volume.as_tensor(), mask, job.affine, ranges, job.preprocessing, _inverted(job.volume))
        frames = [slice_frame(job.affine, plane) for plane in job.planes]
        runs = run_planes(job.detector, scan, frames, self._batching, self.device, progress=progress, cancel=cancel)
        clock.lap("detect")
        maps = [smooth_along(r.volume_map, r.frame.axis, job.affine, sigma) for r in runs]
        volume_map = fuse_planes(maps)
        findings = find_components(volume_map, job.affine, threshold, frames[0].axis)
        clock.lap("map")
        return AnomalyResult(
            volume=job.volume,
            volume_map=with_meta(torch.from_numpy(volume_map[None]), job.affine, job.volume.meta),
            pred_score=float(np.mean([volume_score(run.scores[~run.background].tolist()) for run in runs])),
            threshold=threshold,
            threshold_origin=origin,
            planes=job.planes,
            slices=_slice_scores(runs[0], job),
            findings=findings,
            display_window=ranges[0],
            timings=clock.laps,
            warnings=(*job.warnings, *self._batching.take_warnings(), *_many_findings(len(findings))),
            provenance=self._provenance(job, sigma),
        )

    def score_pixels(self, pixels: torch.Tensor, *, domain: str | None = None) -> SliceBatch:
        """Maps and scores of ready model input ``(N, 3, S, S)``, in batches, on the CPU; the seam for other readers."""
        detector = self._detector(get_domain(domain) if domain else self.model.domain)
        parts = [detector.score(part.to(self.device)) for part in pixels.split(self.batch_size)]
        return SliceBatch(torch.cat([p.maps.cpu() for p in parts]), torch.cat([p.scores.cpu() for p in parts]))

    def _prepare(
        self,
        volume: MetaTensor,
        domain_name: str | None,
        plane: str | Sequence[str] | None,
        window: str | tuple[float, float] | None,
        channels: Channels | None,
    ) -> _Job:
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
        warnings = [*volume.meta.get("reader_warnings", []), *self.model.warnings, window_warning]
        array = np.asarray(volume.as_tensor().numpy(), dtype=np.float32)
        return _Job(
            volume,
            array,
            matrix,
            domain,
            detector,
            preprocessing,
            planes,
            plane_reason,
            tuple(w for w in warnings if w),
        )

    def _detector(self, domain: Domain) -> Detector:
        if domain.name not in self._detectors:
            self._detectors[domain.name] = detector_for(self.model, domain)
        return self._detectors[domain.name]

    def _ranges(self, job: _Job) -> tuple[NDArray[np.bool_], list[Range]]:
        meta = job.volume.meta
        is_rgb = bool(meta.get("is_rgb", False))
        mask = foreground(
            job.array,
            modality=meta.get("modality"),
            is_rgb=is_rgb,
            is_2d=bool(meta.get("is_2d", False)),
            inverted=_inverted(job.volume),
        )
        return mask, intensity_ranges(job.array, mask, job.preprocessing, is_rgb=is_rgb)

    def _threshold(self, threshold: float | None) -> tuple[float, str]:
        if threshold is None:
            return self.model.threshold.value, self.model.threshold.origin
        if not 0 < threshold < 1:
            raise InputError("The threshold must lie between 0 and 1", threshold, "The map holds probabilities")
        return threshold, "chosen by the user"

    def _smoothing(self, smooth_mm: float | None, job: _Job) -> float:
        """Sigma along the normal in mm: the caller's, or the pack's."""
        if smooth_mm is None:
            return self.model.pack.record.slice_smoothing_mm if self.model.pack else 0.0
        extent = float((spacing(job.affine) * job.array.shape[1:]).max())
        if not 0 <= smooth_mm <= extent:
            raise InputError(f"The smoothing must lie between 0 mm and the volume's {extent:.0f} mm", smooth_mm)
        return smooth_mm

    def _provenance(self, job: _Job, sigma_mm: float) -> dict[str, Any]:
        spec = job.preprocessing
        return {
            **self.model.provenance(),
            "detector": job.detector.describe(),
            "domain": job.domain.name,
            "plane_reason": job.plane_reason,
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
    uids = _uids_by_position(job.volume, centres, directions(job.affine)[:, run.frame.axis])
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


def _uids_by_position(volume: MetaTensor, centres: NDArray[np.float64], along: Vector) -> list[str | None]:
    """SOPInstanceUIDs by position along the acquisition's normal, so that flips, crops and reorientations keep them
    right; none for slices that are not the acquired ones (``along``: unit vector of the slices' axis)."""
    meta = volume.meta
    if not meta.get("slice_uids") or meta.get("slice_normal") is None:
        return [None] * len(centres)
    normal = np.asarray(meta["slice_normal"], dtype=float)
    if abs(float(normal @ along)) < _PARALLEL:
        return [None] * len(centres)
    stored = np.asarray(meta["slice_positions"], dtype=float) @ normal
    distance = np.abs((centres @ normal)[:, None] - stored[None])
    nearest = distance.argmin(axis=1)
    return [str(meta["slice_uids"][n]) if distance[i, n] < _SAME_SLICE_MM else None for i, n in enumerate(nearest)]


def _many_findings(count: int) -> list[str]:
    return [f"{count} findings: the threshold may be too low for this image"] if count > _MANY_FINDINGS else []


def _inverted(volume: MetaTensor) -> bool:
    return bool(volume.meta.get("display_inverted", False))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


__all__ = ["Engine", "load_engine"]
