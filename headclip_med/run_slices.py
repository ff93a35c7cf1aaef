"""Slices of a volume → maps in its grid and a score per slice, batch by batch in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from headclip_med.detectors import Detector
from headclip_med.errors import CancelledError, ModelError
from headclip_med.geometry import SliceFrame, spacing
from headclip_med.intensity import Placement, Preprocessing, Range, neighbour_indices, place
from headclip_med.pixels import from_square, normalise, rescale, three_channels, to_square
from headclip_med.slices import cut_slices, put_back
from headclip_med.types import Affine

_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory", re.IGNORECASE)

Progress = Callable[[int, int], None]  # slices done, slices in all
Cancel = Callable[[], bool]


@dataclass(frozen=True)
class SliceSource:
    """A volume and how its slices become pixels.

    Attributes:
        volume: ``(C, I, J, K)`` float32 on the CPU; mask: its foreground ``(I, J, K)``.
        ranges: black and white per channel; inverted: MONOCHROME1.
    """

    volume: Tensor
    mask: NDArray[np.bool_]
    affine: Affine
    ranges: Sequence[Range]
    preprocessing: Preprocessing
    inverted: bool = False

    def foreground_slices(self, frame: SliceFrame) -> list[int]:
        """Indices of the slices that show more than background."""
        share = self.mask.mean(axis=tuple(a for a in range(3) if a != frame.axis))
        return [int(i) for i in np.flatnonzero(share >= self.preprocessing.min_foreground)]

    def placement(self, frame: SliceFrame) -> Placement:
        """Where slices of ``frame`` lie in the model's square input."""
        rows, cols = frame.row_axis, frame.col_axis
        shape, steps = (self.mask.shape[rows], self.mask.shape[cols]), spacing(self.affine)
        return place(shape, (steps[rows], steps[cols]), self.preprocessing.image_size, self.preprocessing.fit)

    def pixels(self, frame: SliceFrame, indices: Sequence[int], device: torch.device) -> Tensor:
        """Normalised model input ``(n, 3, S, S)`` of the slices at ``indices``."""
        slices, ranges = cut_slices(self.volume, frame, indices), self.ranges
        if self.preprocessing.channels == "neighbours" and self.volume.shape[0] == 1:
            slices, ranges = self._with_neighbours(frame, indices), list(self.ranges) * 3
        levels = rescale(slices.to(device), ranges, inverted=self.inverted)
        return normalise(three_channels(to_square(levels, self.placement(frame))), self.preprocessing)

    def inside(self, frame: SliceFrame, indices: Sequence[int]) -> Tensor:
        """Foreground ``(n, H, W)`` with its holes filled, so that a dark lesion counts as patient."""
        masks = cut_slices(torch.from_numpy(self.mask)[None], frame, indices)[:, 0].numpy()
        return torch.from_numpy(np.stack([ndimage.binary_fill_holes(mask) for mask in masks]))

    def _with_neighbours(self, frame: SliceFrame, indices: Sequence[int]) -> Tensor:
        step = max(1, round(self.preprocessing.neighbour_mm / float(spacing(self.affine)[frame.axis])))
        count = self.mask.shape[frame.axis]
        around = [n for i in indices for n in neighbour_indices(i, count, step)]
        return cut_slices(self.volume, frame, around).unflatten(0, (len(indices), 3))[:, :, 0]


@dataclass
class Batching:
    """How many slices go to the device at once; halved when its memory runs out, and kept so for later cases."""

    size: int
    warnings: list[str] = field(default_factory=list)

    def halve(self, failed: int, device: torch.device) -> None:
        """Go on with half of the batch that ``failed``, or raise :class:`ModelError` when it was a single slice."""
        if failed == 1:
            raise ModelError(
                "One slice must fit the memory of the device",
                f"{device} ran out of memory",
                "Use --device cpu",
            )
        if device.type == "cuda":
            torch.cuda.empty_cache()
        self.size = failed // 2
        self.warnings.append(f"out of memory on {device.type}: batch size lowered to {self.size}")

    def take_warnings(self) -> list[str]:
        """What happened since the last call."""
        taken, self.warnings = self.warnings, []
        return taken


@dataclass(frozen=True)
class PlaneRun:
    """One plane's outcome: ``volume_map (I, J, K)`` float32 in [0, 1]; ``scores``, ``background`` per slice."""

    frame: SliceFrame
    volume_map: NDArray[np.float32]
    scores: NDArray[np.float32]
    background: NDArray[np.bool_]


def score_slices(
    detector: Detector, source: SliceSource, frame: SliceFrame, batching: Batching, device: torch.device
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Batches of ``(indices, maps (n, H, W), scores (n,))`` of every foreground slice, on the CPU, as they come."""
    indices = source.foreground_slices(frame)
    done = 0
    while done < len(indices):
        batch = indices[done : done + batching.size]
        scored = _score_batch(detector, source, frame, batch, device)
        if scored is None:
            batching.halve(len(batch), device)
            continue
        done += len(batch)
        yield batch, *scored


def _score_batch(
    detector: Detector, source: SliceSource, frame: SliceFrame, batch: list[int], device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """Maps and scores of one batch, or None when the device's memory ran out.

    The caller goes on after this has returned: within the handler the traceback would still hold the tensors.
    """
    inside, where = source.inside(frame, batch), source.placement(frame)
    try:
        limits = to_square(inside[:, None].to(device, torch.float32), where)[:, 0] > 0.5
        out = detector.score(source.pixels(frame, batch, device), limits)
        maps = from_square(out.maps, where, (inside.shape[1], inside.shape[2])).cpu() * inside
        return maps, out.scores.float().cpu()
    except RuntimeError as error:  # only CUDA has a type of its own for it
        if isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)):
            return None
        raise


def run_planes(
    detector: Detector,
    source: SliceSource,
    frames: Sequence[SliceFrame],
    batching: Batching,
    device: torch.device,
    *,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> list[PlaneRun]:
    """Run every plane; memory grows with nothing but the maps themselves.

    Raises:
        CancelledError: ``cancel`` returned True before a batch.
        ModelError: not even one slice fits the device's memory.
    """
    total = sum(len(source.foreground_slices(frame)) for frame in frames)
    done, runs = 0, []
    for frame in frames:
        count = source.mask.shape[frame.axis]
        run = PlaneRun(
            frame,
            volume_map=np.zeros(source.mask.shape, dtype=np.float32),
            scores=np.zeros(count, dtype=np.float32),
            background=np.ones(count, dtype=bool),
        )
        batches = score_slices(detector, source, frame, batching, device)
        while True:
            if cancel is not None and cancel():
                raise CancelledError("The run was stopped by the caller", f"{done} of {total} slices done")
            if (scored := next(batches, None)) is None:
                break
            batch, maps, scores = scored
            put_back(maps, torch.from_numpy(run.volume_map), frame, batch)
            run.scores[batch], run.background[batch] = scores.numpy(), False
            done += len(batch)
            if progress is not None:
                progress(done, total)
        runs.append(run)
    return runs
