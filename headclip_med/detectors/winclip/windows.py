"""WinCLIP's windows (arXiv 2303.14814): features of square groups of patches, and their scores back on the patch grid.

A window's feature is that of the class token where the transformer sees nothing else but the window's patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med.encoders.image import run_block
from headclip_med.encoders.tower import ImageTower

# Windows that go through the blocks at once: their sequences are short, and more gain nothing on a CPU.
_SEQUENCES = 128


@dataclass(frozen=True)
class WindowFeatures:
    """What WinCLIP knows of a batch of images, all features L2-normalised float32.

    Attributes:
        image: ``(N, D)``, of the whole image.
        windows: by side in patches, ``(N, W, D)``, window by window along the rows.
        patches: ``(N, P, width)``, the patch tokens after the last block, not projected.
        grid: ``(Hp, Wp)``, P = Hp·Wp.
    """

    image: Tensor
    windows: dict[int, Tensor]
    patches: Tensor
    grid: tuple[int, int]


def encode_windows(tower: ImageTower, pixels: Tensor, sizes: Sequence[int], *, patch_norm: bool) -> WindowFeatures:
    """Run the tower once for the image, and once for each window.

    Args:
        tower: A frozen image tower.
        pixels: ``(N, 3, S, S)``, normalised.
        sizes: Sides of the windows in patches.
        patch_norm: The tower's final norm on patch tokens.

    Returns:
        Features of the image, its windows and its patches.
    """
    grid = tower.grid(pixels)
    tokens = tower.embed(pixels.to(tower.device))
    windows = {size: _window_features(tower, tokens, window_places(grid, size)) for size in sizes}
    whole = _run(tower, tokens)
    patches = whole[:, tower.prefix :]
    return WindowFeatures(
        image=_class_feature(tower, whole),
        windows=windows,
        patches=F.normalize(tower.norm_post(patches) if patch_norm else patches, dim=-1),
        grid=grid,
    )


def window_places(grid: tuple[int, int], size: int) -> Tensor:
    """List the patches of every window, one patch apart.

    Args:
        grid: ``(Hp, Wp)``.
        size: Side of the windows in patches.

    Returns:
        ``(W, size²)`` numbers of patches, by rows.
    """
    numbers = torch.arange(grid[0] * grid[1]).view(grid)
    return numbers.unfold(0, size, 1).unfold(1, size, 1).reshape(-1, size * size)


def _window_features(tower: ImageTower, tokens: Tensor, places: Tensor) -> Tensor:
    """``(N, prefix + P, width)`` → ``(N, W, D)``; the tokens hold their positions, so that a window keeps its place."""
    prefix = torch.arange(tower.prefix).expand(len(places), -1)
    kept = torch.cat([prefix, places + tower.prefix], dim=1).to(tokens.device)
    features = []
    for part in kept.split(max(1, _SEQUENCES // len(tokens))):
        sequences = tokens[:, part]
        done = _class_feature(tower, _run(tower, sequences.flatten(0, 1)))
        features.append(done.unflatten(0, sequences.shape[:2]))
    return torch.cat(features, dim=1)


def _run(tower: ImageTower, tokens: Tensor) -> Tensor:
    for block in tower.blocks:
        tokens = run_block(block, tokens)
    return tokens


def _class_feature(tower: ImageTower, tokens: Tensor) -> Tensor:
    return F.normalize(tower.project(tokens[:, 0]), dim=-1)


def harmonic_map(scores: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Compute for every patch the harmonic mean of the windows that cover it: one low score makes it low.

    Args:
        scores: ``(N, W)`` in [0, 1].
        grid: ``(Hp, Wp)``.
        size: Side of the windows in patches.

    Returns:
        ``(N, Hp, Wp)`` in [0, 1].
    """
    inverse = torch.stack([scores.reciprocal(), torch.ones_like(scores)], dim=1)
    blocks = inverse.repeat_interleave(size * size, dim=1)
    total, count = F.fold(blocks, grid, size).unbind(dim=1)
    return count / total


def harmonic_mean(maps: Sequence[Tensor]) -> Tensor:
    """Compute the harmonic mean element by element.

    Args:
        maps: Maps of one shape, in [0, 1].

    Returns:
        Of the same shape, in [0, 1].
    """
    return torch.stack(list(maps)).reciprocal().mean(dim=0).reciprocal()
