"""Lesions painted into slices: blobs, rims, textures, mass effect and foreign tissue, a batch at a time.

Everything is decided by the generator that is passed in, and drawn by plain tensor operations, so that the same
generator paints the same lesions whatever the batch is made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

# How often a lesion is bright, dark, a rim, a texture or foreign tissue, by sequence: oedema and gliosis are bright on
# FLAIR and T2 and dark on T1, and what takes up contrast is bright or a rim on T1c.
KINDS = {
    "t2f": (0.70, 0.06, 0.06, 0.06, 0.12),
    "t2w": (0.60, 0.10, 0.08, 0.08, 0.14),
    "t1n": (0.08, 0.60, 0.08, 0.10, 0.14),
    "t1c": (0.30, 0.25, 0.25, 0.06, 0.14),
}
SEQUENCES = tuple(KINDS)
_FOREIGN = 4
_SMOOTHING_STEPS = 60  # of the membrane under a foreign patch: enough for what lies within a crop


@dataclass(frozen=True)
class Painted:
    """Slices ``(N, 1, H, W)`` in [0, 1] and where lesions were painted, ``(N, 1, H, W)`` bool."""

    images: Tensor
    lesions: Tensor


def paint_lesions(
    images: Tensor,
    brain: Tensor,
    known: Tensor,
    sequence: Tensor,
    draw: torch.Generator,
    *,
    most: int = 3,
    radius: tuple[float, float] = (1.5, 24.0),
) -> Painted:
    """Paint up to ``most`` lesions a slice, beside those that are known.

    Args:
        images: ``(N, 1, H, W)`` in [0, 1].
        brain: ``(N, 1, H, W)`` bool, where a lesion may lie.
        known: ``(N, 1, H, W)`` bool, lesions that are there already.
        sequence: ``(N,)`` index into SEQUENCES.
        draw: Source of chance.
        most: Lesions a slice.
        radius: Smallest and largest in pixels, drawn evenly on a logarithmic scale.

    Returns:
        Slices with lesions in them, the known ones among those marked.
    """
    lesions = known
    for turn in range(most):
        wanted = torch.rand(len(images), generator=draw) < 0.5**turn * 0.7
        wanted &= brain.flatten(1).any(dim=1)
        if wanted.any():
            chosen = torch.nonzero(wanted)[:, 0]
            painted = _paint_one(images[chosen], brain[chosen], lesions[chosen], sequence[chosen], draw, radius)
            images = images.index_copy(0, chosen, painted.images)
            lesions = lesions.index_copy(0, chosen, painted.lesions)
    return Painted(images, lesions)


def _paint_one(
    images: Tensor,
    brain: Tensor,
    known: Tensor,
    sequence: Tensor,
    draw: torch.Generator,
    radius: tuple[float, float],
) -> Painted:
    """One lesion in every slice."""
    n = len(images)
    size = torch.exp(_uniform(draw, n, log(radius[0]), log(radius[1])))
    offset = _offsets(brain, draw)
    depth = _depth(offset, size, draw)
    push = _uniform(draw, n, -0.3, 0.6) * (_uniform(draw, n, 0, 1) < 0.4)
    images, known = _displaced(images, known, offset, size, push)
    cover = torch.sigmoid(depth / _uniform(draw, n, 0.4, 1.6)) * brain
    kinds = torch.multinomial(torch.tensor(list(KINDS.values()))[sequence], 1, generator=draw).view(-1, 1, 1, 1)
    drawn = _drawn(images, cover, depth, size, kinds, draw)
    result = (images + cover * (drawn - images)).clamp(0, 1)
    seen = (result - images).abs().amax(dim=(2, 3), keepdim=True) > 0.05  # white on white is no lesion
    return Painted(torch.where(seen, result, images), known | ((cover > 0.5) & seen))


def _drawn(images: Tensor, cover: Tensor, depth: Tensor, size: Tensor, kinds: Tensor, draw: torch.Generator) -> Tensor:
    """What each lesion looks like where it covers all."""
    n = len(images)
    strength, flat = _uniform(draw, n, 0.12, 0.6), _uniform(draw, n, 0.0, 0.8)
    mean = (images * cover).sum(dim=(2, 3), keepdim=True) / cover.sum(dim=(2, 3), keepdim=True).clamp(min=1e-3)
    even = images + flat * (mean - images)  # a lesion evens out the tissue under it
    rim = torch.exp(-((depth - 1.5) / (0.15 * size + 1)).square())
    ring = (images - 0.5 * strength) * (1 - rim) + (images + strength) * rim
    mottled = images + 1.6 * strength * smooth_noise(draw, n, images.shape[-2:], 5)
    drawn = images
    for number, look in enumerate((even + strength, even - strength, ring, mottled)):
        drawn = torch.where(kinds == number, look, drawn)
    foreign = torch.nonzero((kinds == _FOREIGN).flatten())[:, 0]
    if len(foreign):
        other = images.roll(1, dims=0)[foreign].flip(-1)
        drawn = drawn.index_copy(0, foreign, _blended(images[foreign], other, cover[foreign] > 0.5))
    return drawn


def _offsets(inside: Tensor, draw: torch.Generator) -> Tensor:
    """From a random pixel of ``inside`` to every pixel, ``(N, 2, H, W)`` rows and columns."""
    n, _, height, width = inside.shape
    centre = torch.multinomial(inside.flatten(1).float(), 1, generator=draw)
    rows = torch.arange(height).view(1, height, 1) - (centre // width).view(n, 1, 1)
    cols = torch.arange(width).view(1, 1, width) - (centre % width).view(n, 1, 1)
    return torch.stack([rows.expand(n, height, width), cols.expand(n, height, width)], dim=1).float()


def _depth(offset: Tensor, size: Tensor, draw: torch.Generator) -> Tensor:
    """Pixels below the surface of an irregular ellipse, ``(N, 1, H, W)``."""
    n = len(offset)
    angle, stretch = _uniform(draw, n, 0, torch.pi)[:, 0], torch.exp(_uniform(draw, n, -0.5, 0.5))[:, 0]
    along = offset[:, 0] * angle.cos() + offset[:, 1] * angle.sin()
    across = offset[:, 1] * angle.cos() - offset[:, 0] * angle.sin()
    distance = ((along * stretch).square() + (across / stretch).square()).sqrt()[:, None]
    border = _uniform(draw, n, 0.0, 0.5) * size * smooth_noise(draw, n, offset.shape[-2:], 12)
    return size - distance + border


def _displaced(images: Tensor, known: Tensor, offset: Tensor, size: Tensor, push: Tensor) -> tuple[Tensor, Tensor]:
    """Mass effect: tissue within two radii is pushed away from the centre (or drawn to it) by ``push`` radii, and the
    lesions known in it with it; a slice whose push is 0 stays as it is to the bit."""
    height, width = images.shape[-2:]
    distance = offset.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-3)
    shift = push * size * torch.exp(-((distance / (1.5 * size)).square())) * offset / distance
    rows = torch.arange(height).view(1, height, 1) - shift[:, 0]
    cols = torch.arange(width).view(1, 1, width) - shift[:, 1]
    grid = torch.stack([(2 * cols + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    lesions = F.grid_sample(known.float(), grid, mode="nearest", padding_mode="border", align_corners=False) > 0.5
    return torch.where(push == 0, images, moved), torch.where(push == 0, known, lesions)


def _blended(host: Tensor, patch: Tensor, where: Tensor) -> Tensor:
    """``patch`` in ``host`` so that they meet without an edge.

    Poisson blending (Pérez et al., SIGGRAPH 2003): the patch plus the membrane that fits its border to the host's,
    which solves Laplace's equation inside; by Jacobi's iteration.
    """
    gap = torch.where(where, torch.zeros_like(host), host - patch)
    kernel = torch.tensor([[0.0, 0.25, 0.0], [0.25, 0.0, 0.25], [0.0, 0.25, 0.0]]).view(1, 1, 3, 3)
    for _ in range(_SMOOTHING_STEPS):
        gap = torch.where(where, F.conv2d(F.pad(gap, (1, 1, 1, 1), mode="replicate"), kernel), gap)
    return (patch + gap).clamp(0, 1)


def smooth_noise(draw: torch.Generator, count: int, size: tuple[int, int] | torch.Size, spacing: int) -> Tensor:
    """Draw random fields of about unit spread that vary over ``spacing`` pixels.

    Args:
        draw: Source of chance.
        count: How many fields.
        size: Height and width in pixels.
        spacing: Pixels from one random number to the next.

    Returns:
        ``(count, 1, H, W)``.
    """
    height, width = size
    lattice = torch.randn(count, 1, height // spacing + 3, width // spacing + 3, generator=draw)
    return F.interpolate(lattice, size=(height, width), mode="bicubic", align_corners=False)


def _uniform(draw: torch.Generator, count: int, low: float, high: float) -> Tensor:
    """``(count, 1, 1, 1)`` numbers between ``low`` and ``high``."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=draw)
