"""Augmented copies of a training slice: MONAI transforms, decided by seed, slice and copy alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    ScaleIntensityRanged,
)
from torch import Tensor

from headclip_med.detectors.losses import IGNORED
from headclip_med.training.slices import TrainingSlice

_SPATIAL = ("levels", "mask", "valid")


def augmentation() -> Compose:
    """Assemble mirror image, a little rotation, scaling and shift, then contrast, bias field and noise.

    Returns:
        A transform of ``levels`` in [0, 1], ``mask`` and ``valid``, all ``(C, S, S)``.
    """
    return Compose(
        [
            RandFlipd(_SPATIAL, prob=0.5, spatial_axis=1),
            RandAffined(
                _SPATIAL,
                prob=0.8,
                rotate_range=0.2,
                scale_range=(0.1, 0.1),
                translate_range=(12, 12),
                mode=("bilinear", "nearest", "nearest"),
                padding_mode="zeros",
            ),
            RandAdjustContrastd("levels", prob=0.5, gamma=(0.7, 1.5)),
            RandBiasFieldd("levels", prob=0.3, coeff_range=(0.0, 0.1)),
            RandGaussianNoised("levels", prob=0.3, std=0.03),
            ScaleIntensityRanged("levels", 0, 1, 0, 1, clip=True),
        ]
    )


def augmented(
    part: TrainingSlice, copy: int, seed: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> TrainingSlice:
    """Make the ``copy``-th copy of a slice, always the same from the same arguments.

    Args:
        part: The slice.
        copy: Number of the copy.
        seed: Of the run.
        mean, std: Of the three channels, as ``part.pixels`` are normalised.

    Returns:
        A slice of the same size, with its mask and its limits moved along.
    """
    centre, spread = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
    transform = augmentation()
    transform.set_random_state(seed=_seed(part, copy, seed))
    out = transform(
        {
            "levels": part.pixels.float() * spread + centre,
            "mask": part.mask[None].float(),
            "valid": part.valid[None].float(),
        }
    )
    mask, valid = _plain(out["mask"])[0].round().to(torch.uint8), _plain(out["valid"])[0] >= 0.5
    lesion, valid = mask == 1, valid & (mask != IGNORED)
    pixels = (_plain(out["levels"]) - centre) / spread
    return replace(part, pixels=pixels.half(), mask=mask, valid=valid | lesion, label=bool(lesion.any()))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor


def _seed(part: TrainingSlice, copy: int, seed: int) -> int:
    content = hashlib.sha256(part.pixels.numpy().tobytes()).hexdigest()
    digest = hashlib.sha256(f"{seed} {copy} {content}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
