"""A batch of slices through a detector on torch: stored values → pixels → maps in the slices' own size."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headclip_med.detectors import Detector
from headclip_med.geometry import SliceFrame
from headclip_med.intensity import Preprocessing
from headclip_med.packs.domains import Domain, window_of
from headclip_med.pixels import from_square, normalise, rescale, three_channels, to_square
from headclip_med.run_slices import Floats, Scan, ScoreBatch

_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory", re.IGNORECASE)


def own_preprocessing(detector: Detector, domain: Domain) -> Preprocessing:
    """What the detector's tower and the domain say, before a case says more."""
    return Preprocessing(
        image_size=detector.image_size,
        mean=detector.tower.mean,
        std=detector.tower.std,
        window=window_of(domain),
        fit=domain.fit,
        channels=domain.channels,
    )


def slice_pixels(scan: Scan, frame: SliceFrame, indices: Sequence[int], device: torch.device) -> Tensor:
    """Normalised model input ``(n, 3, S, S)`` of the slices at ``indices``."""
    slices, ranges = scan.cut(frame, indices)
    levels = rescale(torch.from_numpy(slices).to(device), ranges, inverted=scan.inverted)
    return normalise(three_channels(to_square(levels, scan.placement(frame))), scan.preprocessing)


def slice_limits(scan: Scan, frame: SliceFrame, inside: NDArray[np.bool_], device: torch.device) -> Tensor:
    """Foreground ``(n, H, W)`` of slices → the patient in the model's square input, ``(n, S, S)`` bool."""
    mask = torch.from_numpy(inside)[:, None].to(device, torch.float32)
    return to_square(mask, scan.placement(frame))[:, 0] > 0.5


def scorer(detector: Detector, device: torch.device, scan: Scan) -> ScoreBatch:
    """What :func:`headclip_med.run_slices.run_planes` calls for every batch."""

    def score(frame: SliceFrame, batch: list[int]) -> tuple[Floats, Floats] | None:
        scored = _score_batch(detector, scan, frame, batch, device)
        if scored is None and device.type == "cuda":
            torch.cuda.empty_cache()
        return scored

    return score


def _score_batch(
    detector: Detector, scan: Scan, frame: SliceFrame, batch: list[int], device: torch.device
) -> tuple[Floats, Floats] | None:
    """Maps and scores of one batch, or None when the device's memory ran out.

    The caller goes on after this has returned: within the handler the traceback would still hold the tensors.
    """
    inside = scan.inside(frame, batch)
    try:
        limits = slice_limits(scan, frame, inside, device)
        out = detector.score(slice_pixels(scan, frame, batch, device), limits)
        maps = from_square(out.maps, scan.placement(frame), (inside.shape[1], inside.shape[2])).cpu().numpy()
        return maps * inside, out.scores.float().cpu().numpy()
    except RuntimeError as error:  # only CUDA has a type of its own for it
        if isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)):
            return None
        raise
