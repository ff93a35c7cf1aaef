"""A batch of slices through a detector on torch: stored values → pixels → maps in the slices' own size."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headclip_med.base.geometry import SliceFrame
from headclip_med.detectors import Detector
from headclip_med.engine.batches import Collect, Piece
from headclip_med.models.domains import Domain, window_of
from headclip_med.slicing.intensity import Preprocessing, PreprocessingKind, released_levels
from headclip_med.slicing.pixels import from_square, normalise, rescale, three_channels, to_square
from headclip_med.slicing.scan import Floats, Scan

_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory", re.IGNORECASE)


def own_preprocessing(detector: Detector, domain: Domain, kind: PreprocessingKind = "own") -> Preprocessing:
    """What the detector's tower and the domain say, before a case says more."""
    return Preprocessing(
        image_size=detector.image_size,
        mean=detector.tower.mean,
        std=detector.tower.std,
        window=window_of(domain),
        fit=domain.fit,
        channels=domain.channels,
        kind=kind,
    )


def slice_pixels(scan: Scan, frame: SliceFrame, indices: Sequence[int], device: torch.device) -> Tensor:
    """Normalised model input ``(n, 3, S, S)`` of the slices at ``indices``."""
    slices, ranges = scan.cut(frame, indices)
    if scan.preprocessing.kind == "released":
        square = released_levels(slices, scan.preprocessing.image_size, inverted=scan.inverted)
        return normalise(three_channels(_on_device(torch.from_numpy(square), device)), scan.preprocessing)
    levels = rescale(_on_device(torch.from_numpy(slices), device), ranges, inverted=scan.inverted)
    return normalise(three_channels(to_square(levels, scan.placement(frame))), scan.preprocessing)


def slice_limits(scan: Scan, frame: SliceFrame, inside: NDArray[np.bool_], device: torch.device) -> Tensor:
    """Foreground ``(n, H, W)`` of slices → the patient in the model's square input, ``(n, S, S)`` bool."""
    mask = _on_device(torch.from_numpy(inside)[:, None], device).float()
    return to_square(mask, scan.placement(frame))[:, 0] > 0.5


@dataclass(frozen=True)
class SliceScorer:
    """What :func:`headclip_med.engine.batches.score_scans` calls for every batch."""

    detector: Detector
    device: torch.device

    def __call__(self, pieces: Sequence[Piece]) -> Collect | None:
        begun = _begin_batch(self.detector, pieces, self.device)
        if begun is None and self.device.type == "cuda":
            torch.cuda.empty_cache()
        return begun


def _begin_batch(detector: Detector, pieces: Sequence[Piece], device: torch.device) -> Collect | None:
    """Start one batch, or None when the device's memory ran out.

    The caller goes on after this has returned: within the handler the traceback would still hold the tensors.
    """
    insides = [piece.scan.inside(piece.plane.frame, piece.indices) for piece in pieces]
    try:
        pixels = [slice_pixels(piece.scan, piece.plane.frame, piece.indices, device) for piece in pieces]
        limits = [
            slice_limits(piece.scan, piece.plane.frame, inside, device)
            for piece, inside in zip(pieces, insides, strict=True)
        ]
        out = detector.score(torch.cat(pixels), torch.cat(limits))
        sizes = [len(piece.indices) for piece in pieces]
        maps = [
            from_square(part, piece.scan.placement(piece.plane.frame), (inside.shape[1], inside.shape[2]))
            for part, piece, inside in zip(out.maps.split(sizes), pieces, insides, strict=True)
        ]
        arrive = _to_host([*maps, *out.scores.float().split(sizes)])
    except RuntimeError as error:  # only CUDA has a type of its own for it
        if isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)):
            return None
        raise

    def collect() -> list[tuple[Floats, Floats]]:
        arrays = arrive()
        masked = [part * inside for part, inside in zip(arrays[: len(pieces)], insides, strict=True)]
        return list(zip(masked, arrays[len(pieces) :], strict=True))

    return collect


def _on_device(array: Tensor, device: torch.device) -> Tensor:
    """A copy that the CPU does not wait for, where the device can do that."""
    if device.type != "cuda":
        return array.to(device)
    return array.pin_memory().to(device, non_blocking=True)


def _to_host(tensors: Sequence[Tensor]) -> Callable[[], list[Floats]]:
    """Begin to copy ``tensors`` to the CPU; the result waits for them."""
    on_cuda = tensors[0].device.type == "cuda"
    copies = [tensor.to("cpu", non_blocking=on_cuda) for tensor in tensors]  # then into pinned memory
    arrived = torch.cuda.Event() if on_cuda else None
    if arrived is not None:
        arrived.record()

    def wait() -> list[Floats]:
        if arrived is not None:
            arrived.synchronize()
        return [copy.numpy() for copy in copies]

    return wait
