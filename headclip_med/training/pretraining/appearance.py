"""How a slice might look on another scanner: geometry, gain, contrast, noise and resolution, a batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med.training.pretraining.lesions import smooth_noise


def random_view(
    images: Tensor, masks: Tensor, centre: Tensor, size: int, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Take a turned, scaled and maybe mirrored window of ``size`` pixels of every slice.

    Args:
        images: ``(N, 1, S, S)``.
        masks: ``(N, C, S, S)`` of zeros and ones.
        centre: ``(N, 2)`` row and column of the source that the window's middle shows.
        size: Side of the window.
        draw: Source of chance.

    Returns:
        Images, bilinear, and masks, nearest, both 0 outside the source.
    """
    n, side = len(images), images.shape[-1]
    angle, zoom = _spread(draw, n, -0.25, 0.25), torch.exp(_spread(draw, n, -0.22, 0.22))
    mirror = 1 - 2 * (torch.rand(n, generator=draw) < 0.5).float()
    steps = (torch.arange(size) - (size - 1) / 2).expand(n, size)
    rows, cols = steps[:, :, None], steps[:, None, :] * mirror[:, None, None]
    cosine, sine = (zoom * angle.cos()).view(-1, 1, 1), (zoom * angle.sin()).view(-1, 1, 1)
    at_row = centre[:, 0].view(-1, 1, 1) + cosine * rows - sine * cols
    at_col = centre[:, 1].view(-1, 1, 1) + sine * rows + cosine * cols
    grid = torch.stack([(2 * at_col + 1) / side - 1, (2 * at_row + 1) / side - 1], dim=-1)
    seen = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return seen, F.grid_sample(masks, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def random_look(images: Tensor, draw: torch.Generator) -> Tensor:
    """Change resolution, contrast (sometimes inverted), gain field, brightness and noise, and keep the background 0.

    Args:
        images: ``(N, 1, H, W)`` in [0, 1], 0 outside the patient.
        draw: Source of chance.

    Returns:
        ``(N, 1, H, W)`` in [0, 1].
    """
    n, size = len(images), images.shape[-2:]
    tissue = images > 0.01
    blurred = F.interpolate(
        F.interpolate(images, scale_factor=0.5, mode="area"), size=size, mode="bilinear", align_corners=False
    )
    images = torch.where(_often(draw, n, 0.25), torch.lerp(images, blurred, _column(draw, n, 0.3, 1.0)), images)
    images = images.clamp(0, 1).pow(torch.exp(_column(draw, n, -0.25, 0.25)))
    images = torch.where(_often(draw, n, 0.03), 1 - images, images)
    gain = 1 + _column(draw, n, 0.0, 0.18) * smooth_noise(draw, n, size, max(size) // 2)
    images = images * torch.where(_often(draw, n, 0.5), gain, torch.ones_like(gain))
    images = images * torch.exp(_column(draw, n, -0.2, 0.3)) + _column(draw, n, -0.03, 0.03)
    images = images + _column(draw, n, 0.0, 0.03) * torch.randn(images.shape, generator=draw)
    return (images * tissue).clamp(0, 1)


def _spread(draw: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=draw)


def _column(draw: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return _spread(draw, count, low, high).view(-1, 1, 1, 1)


def _often(draw: torch.Generator, count: int, chance: float) -> Tensor:
    return (torch.rand(count, generator=draw) < chance).view(-1, 1, 1, 1)
