"""Measure how far an exported file is from the eager detector, on the same slices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from headclip_med.base.errors import InputError, ModelError
from headclip_med.base.geometry import slice_frame
from headclip_med.bundle.export.formats import Runner
from headclip_med.datasets.phantom import Lesion, centred_affine, make_phantom
from headclip_med.detectors import HeadCLIP
from headclip_med.engine.card import Parity
from headclip_med.slicing.intensity import Preprocessing, foreground, intensity_ranges
from headclip_med.slicing.pixels import normalise, rescale, three_channels, to_square
from headclip_med.slicing.scan import Scan

BATCHES = (1, 3)
TOLERANCE = 1e-4
IMAGES = 8

# The synthetic head: 4 mm voxels are enough for a check of numbers, and made in a moment.
_SEED, _SHAPE, _SPACING_MM = 2_000_023, (48, 56, 48), 4.0
_LESION = Lesion(centre_mm=(24.0, -10.0, 12.0), radii_mm=(16.0, 16.0, 20.0), strength=0.5)


@dataclass(frozen=True)
class Reference:
    """Inputs in batches of several sizes, and what the eager detector says about each.

    Attributes:
        batches: pixels ``(N, 3, S, S)`` and valid ``(N, S, S)``.
        answers: maps ``(N, S, S)`` and scores ``(N,)``.
        images: slices in all batches together.
    """

    batches: tuple[tuple[Tensor, Tensor], ...]
    answers: tuple[tuple[Tensor, Tensor], ...]
    images: int

    def measure(self, run: Runner, runtime: str) -> Parity:
        """Measure the largest absolute difference from the eager detector.

        Args:
            run: the file, loaded.
            runtime: what runs it, for the record.

        Returns:
            Differences of probabilities, infinite where shapes differ or a number is none.
        """
        map_errors, score_errors = [], []
        for (pixels, valid), (maps, scores) in zip(self.batches, self.answers, strict=True):
            with torch.inference_mode():
                got_maps, got_scores = run(pixels, valid)
            map_errors.append(_distance(got_maps[:, 0], maps))
            score_errors.append(_distance(got_scores, scores))
        return Parity(
            map_error=max(map_errors),
            score_error=max(score_errors),
            images=self.images,
            batches=BATCHES,
            runtime=runtime,
        )


def reference(detector: HeadCLIP, preprocessing: Preprocessing, images: int = IMAGES) -> Reference:
    """Ask the eager detector about slices: half of noise, half of a synthetic head with a lesion.

    Args:
        detector: on the CPU, in float32.
        preprocessing: that its slices go through.
        images: number of slices, at least 3.

    Returns:
        The slices in batches of 1 and of 3, and the answers.

    Raises:
        InputError: too few slices to fill a batch of each size.
    """
    if images < max(BATCHES):
        raise InputError(f"Parity must be measured on at least {max(BATCHES)} slices", images)
    noise, heads = _noise(images // 2, preprocessing.image_size), _heads(images - images // 2, preprocessing)
    pixels, valid = (torch.cat(pair) for pair in zip(noise, heads, strict=True))
    batches = tuple(b for size in BATCHES for b in zip(pixels.split(size), valid.split(size), strict=True))
    return Reference(batches, tuple(_answers(detector, batches)), images)


def check_parity(parity: Parity, tolerance: float, name: str) -> None:
    """Refuse a file whose numbers differ too much.

    Args:
        parity: as measured.
        tolerance: largest difference of a probability that passes.
        name: of the file.

    Raises:
        ModelError: with the largest difference.
    """
    worst = max(parity.map_error, parity.score_error)
    if not worst <= tolerance:
        raise ModelError(
            f"The exported {name} must give the detector's probabilities within {tolerance:g}",
            f"a difference of {worst:.2g} in {parity.runtime}",
            "Nothing was written; raise the tolerance if this is near enough",
        )


def _distance(got: Tensor, wanted: Tensor) -> float:
    """Infinite where shapes differ or a number is none."""
    if got.shape != wanted.shape or not bool(got.isfinite().all()):
        return float("inf")
    return float((got - wanted).abs().max())


def _answers(detector: HeadCLIP, batches: tuple[tuple[Tensor, Tensor], ...]) -> Iterator[tuple[Tensor, Tensor]]:
    for pixels, valid in batches:
        out = detector.score(pixels, valid)
        yield out.maps, out.scores


def _noise(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Pixels of the usual spread, and a ``valid`` that leaves out a part of each, another one each time."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, 3, size, size, generator=generator)
    valid = torch.ones(count, size, size)
    for index in range(count):
        valid[index, : (index + 1) * size // (count + 1)] = 0
    return pixels, valid


def _heads(count: int, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Axial slices around the lesion, through the package's own preprocessing by percentiles."""
    phantom = make_phantom(_SEED, shape=_SHAPE, affine=centred_affine(_SHAPE, (_SPACING_MM,) * 3), lesions=(_LESION,))
    spec = replace(preprocessing, window=None, kind="own")  # synthetic signal is not in HU, nor in 8 bits
    volume = phantom.array[None]
    mask = foreground(volume, modality="MR")
    ranges = intensity_ranges(volume, mask, spec, is_rgb=False)
    scan, frame = Scan(volume, mask, phantom.affine, ranges, spec), slice_frame(phantom.affine, "axial")
    shown = scan.foreground_slices(frame)
    chosen = [shown[int(i)] for i in np.linspace(len(shown) // 3, len(shown) * 3 // 4, count)]
    stored, stored_ranges = scan.cut(frame, chosen)
    levels = rescale(torch.from_numpy(stored), stored_ranges)
    pixels = normalise(three_channels(to_square(levels, scan.placement(frame))), spec)
    inside = torch.from_numpy(scan.inside(frame, chosen))[:, None].float()
    valid = (to_square(inside, scan.placement(frame))[:, 0] > 0.5).float()
    return pixels, valid
