"""Synthetic slices with lesions for training, windowed exactly as inference windows them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headclip_med.base.geometry import slice_frame, spacing
from headclip_med.base.types import PLANES
from headclip_med.datasets.phantom import CONTRASTS, Phantom, centred_affine, make_phantom, random_lesions
from headclip_med.slicing.intensity import Preprocessing, foreground, intensity_ranges, place
from headclip_med.slicing.pixels import normalise, rescale, three_channels, to_square
from headclip_med.slicing.slices import cut_slices

log = logging.getLogger(__name__)

# Seeds of phantoms: training below the first, calibration below the second, demos and tests above it.
TRAINING_SEED_LIMIT = 1_000_000
CALIBRATION_SEED_LIMIT = 2_000_000


@dataclass(frozen=True)
class SliceBank:
    """Slices: ``images (N, S, S)`` uint8 in display orientation, ``masks`` likewise (0 or 1)."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]


def build_slice_bank(seed: int, volumes: Iterable[int], slices_per_volume: int, spec: Preprocessing) -> SliceBank:
    """Make synthetic slices of all planes, contrasts and resolutions.

    Args:
        seed: Of all heads, together with their numbers.
        volumes: Numbers of the heads.
        slices_per_volume: A third of them of each plane.
        spec: Gives the input size and how slices are fitted to it.

    Returns:
        Images and masks ``(N, S, S)`` uint8.
    """
    images, masks = [], []
    for number in volumes:
        rng = np.random.default_rng([seed, number])
        phantom = random_phantom(rng, int(rng.integers(TRAINING_SEED_LIMIT)))
        image, mask = _volume_slices(phantom, rng, slices_per_volume, spec)
        images.append(image)
        masks.append(mask)
        if number % 20 == 19:
            log.info("made volume %d", number + 1)
    return SliceBank(np.concatenate(images), np.concatenate(masks))


def random_phantom(rng: np.random.Generator, seed: int) -> Phantom:
    """Make a head of random resolution, contrast, noise and bias with none to four lesions.

    Args:
        rng: Draws resolution, contrast, lesions and the amounts of noise and bias.
        seed: Of :func:`headclip_med.datasets.phantom.make_phantom`.

    Returns:
        An array ``(I, J, K)`` with its affine and the lesions' mask.
    """
    step = rng.uniform(1.3, 2.2, 3) if rng.random() < 0.5 else np.full(3, rng.uniform(1.2, 2.0))
    shape = tuple(int(n) for n in np.ceil(np.array([176.0, 212, 184]) / step))
    return make_phantom(
        seed,
        shape=shape,  # type: ignore[arg-type]
        affine=centred_affine(shape, tuple(step)),  # type: ignore[arg-type]
        contrast=_random_contrast(rng),
        lesions=random_lesions(rng, int(rng.choice(5, p=[0.25, 0.2, 0.25, 0.15, 0.15])), (3.5, 20.0)),
        skull=bool(rng.random() < 0.5),
        noise=float(rng.uniform(0.005, 0.05)),
        bias=float(rng.uniform(0.0, 0.35)),
    )


def _volume_slices(
    phantom: Phantom, rng: np.random.Generator, count: int, spec: Preprocessing
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    volume = phantom.array[None]
    mask = foreground(volume, modality=None, is_rgb=False)
    ranges = intensity_ranges(volume, mask, spec, is_rgb=False)
    both = torch.from_numpy(np.concatenate([volume, phantom.truth[None].astype(np.float32)]))
    images, masks = [], []
    for plane in PLANES:
        frame = slice_frame(phantom.affine, plane)
        share = mask.mean(axis=tuple(a for a in range(3) if a != frame.axis))
        cut = cut_slices(both, frame, _choose_slices(rng, share, phantom.truth, frame.axis, count // 3).tolist())
        steps = spacing(phantom.affine)
        where = place(cut.shape[2:], (steps[frame.row_axis], steps[frame.col_axis]), spec.image_size, spec.fit)
        images.append(to_square(rescale(cut[:, :1], ranges), where)[:, 0])
        masks.append(to_square(cut[:, 1:], where)[:, 0] > 0.5)
    stacked = (torch.cat(images) * 255).round().to(torch.uint8).numpy()
    return stacked, torch.cat(masks).to(torch.uint8).numpy()


def _choose_slices(
    rng: np.random.Generator, share: NDArray[np.float64], truth: NDArray[np.uint8], axis: int, count: int
) -> NDArray[np.int64]:
    """Half of the slices through a lesion where there is one, the rest anywhere in the head."""
    lesion = truth.any(axis=tuple(a for a in range(3) if a != axis))
    anywhere = rng.choice(np.flatnonzero(share > 0.02), count)
    if lesion.any():
        anywhere[: count // 2] = rng.choice(np.flatnonzero(lesion), count // 2)
    return anywhere


def _random_contrast(rng: np.random.Generator) -> str | tuple[float, ...]:
    if rng.random() < 0.75:
        return str(rng.choice(list(CONTRASTS), p=[0.5, 0.25, 0.25]))
    return tuple(float(v) for v in rng.uniform(0.1, 1.0, 6))


def sample_batch(
    bank: SliceBank, rng: np.random.Generator, count: int, crop: int, spec: Preprocessing
) -> tuple[Tensor, Tensor]:
    """Draw random crops, flips, gamma and noise.

    Args:
        bank: Synthetic slices.
        rng: Draws all of it.
        count: N slices.
        crop: Side of a crop in pixels, at most that of the slices.
        spec: Gives mean and spread.

    Returns:
        Pixels ``(N, 3, crop, crop)``, normalised, and masks ``(N, crop, crop)`` of 0 and 1.
    """
    size = bank.images.shape[1]
    images = np.empty((count, crop, crop), dtype=np.float32)
    masks = np.empty((count, crop, crop), dtype=np.float32)
    for i, pick in enumerate(rng.integers(len(bank.images), size=count)):
        top, left = _crop_corner(rng, bank.masks[pick], size - crop)
        window = (slice(top, top + crop), slice(left, left + crop))
        image, mask = bank.images[pick][window], bank.masks[pick][window]
        if rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        images[i] = _augment(image.astype(np.float32) / 255, rng)
        masks[i] = mask
    pixels = three_channels(torch.from_numpy(images).clamp(0, 1)[:, None])
    return normalise(pixels, spec), torch.from_numpy(masks)


def _crop_corner(rng: np.random.Generator, mask: NDArray[np.uint8], room: int) -> tuple[int, int]:
    """A crop's corner within ``[0, room]``; two times in three near a lesion pixel when there is one."""
    top, left = (int(n) for n in rng.integers(room + 1, size=2))
    rows, cols = np.nonzero(mask)
    if room and len(rows) and rng.random() < 2 / 3:
        i = rng.integers(len(rows))
        half = (mask.shape[0] - room) // 2
        jitter = rng.integers(-half // 2, half // 2 + 1, size=2)
        top = int(np.clip(rows[i] - half + jitter[0], 0, room))
        left = int(np.clip(cols[i] - half + jitter[1], 0, room))
    return top, left


def _augment(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    tissue = image > 0
    levels = np.power(image, np.exp(rng.uniform(-0.4, 0.4)))
    levels = levels * rng.uniform(0.75, 1.1) + rng.uniform(-0.03, 0.05)
    noise = rng.normal(0, rng.uniform(0, 0.03), image.shape)
    return np.asarray((levels + noise) * tissue, dtype=np.float32)
