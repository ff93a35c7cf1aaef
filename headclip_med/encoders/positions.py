"""Position embeddings on any grid, computed afresh: the stored parameter never changes."""

from __future__ import annotations

from math import isqrt
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def interpolate_positions(
    positions: Tensor, grid: tuple[int, int], *, prefix: int, mode: Literal["bicubic", "bilinear"] = "bicubic"
) -> Tensor:
    """Resample position embeddings to ``grid``.

    Args:
        positions: ``(1, prefix + side², width)`` of the square grid that the weights were trained on.
        grid: wanted patch rows and columns.
        prefix: leading entries (class, registers) that are kept as they are.
        mode: ``bicubic`` with antialiasing as open_clip and timm do on loading; ``bilinear`` without, as
            AnomalyCLIP's released code does.

    Returns:
        ``(1, prefix + grid[0]·grid[1], width)``; the very same tensor when the grid is the stored one.
    """
    side = isqrt(positions.shape[1] - prefix)
    if grid == (side, side):
        return positions
    head, body = positions[:, :prefix], positions[:, prefix:]
    image = body.reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    image = F.interpolate(image, size=grid, mode=mode, antialias=mode == "bicubic", align_corners=False)
    body = image.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1).to(positions.dtype)
    return torch.cat([head, body], dim=1)
