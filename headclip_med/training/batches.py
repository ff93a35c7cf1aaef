"""Which slices a step sees: a function of seed and step alone, so that a resumed run sees the same ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from headclip_med.detectors import LabelledPixels
from headclip_med.detectors.losses import IGNORED
from headclip_med.training.slices import TrainingSlice


def batch_indices(labels: Sequence[bool], step: int, batch: int, seed: int) -> list[int]:
    """Choose half slices with lesion and half without, as far as both exist.

    Each class comes in a shuffled order without repeats until it is used up.

    Args:
        labels: of all training slices, whether there is a lesion in each.
        step: from 0.
        batch: slices of one step.
        seed: of the orders.

    Returns:
        ``batch`` places in ``labels``.
    """
    classes = [[i for i, label in enumerate(labels) if label is wanted] for wanted in (True, False)]
    if not classes[0] or not classes[1]:
        return _take(classes[0] or classes[1], step * batch, batch, seed, 0)
    lesions = (batch + 1) // 2
    chosen = _take(classes[0], step * lesions, lesions, seed, 1)
    free = _take(classes[1], step * (batch - lesions), batch - lesions, seed, 2)
    mixed = [index for pair in zip(chosen, free, strict=False) for index in pair]
    return [*mixed, *chosen[len(free) :]]


def collate(slices: Sequence[TrainingSlice]) -> LabelledPixels:
    """Put training slices into one batch.

    Args:
        slices: N of one size.

    Returns:
        Pixels ``(N, 3, S, S)`` float32, masks, limits and labels.
    """
    return LabelledPixels(
        pixels=torch.stack([part.pixels for part in slices]).float(),
        mask=torch.stack([part.mask == 1 for part in slices]).float(),
        valid=torch.stack([part.valid for part in slices]).bool(),
        labels=torch.tensor([float(part.label) for part in slices]),
        known=torch.stack([part.mask != IGNORED for part in slices]),
    )


def _take(pool: Sequence[int], begin: int, count: int, seed: int, stream: int) -> list[int]:
    """``count`` entries from ``begin`` on of an endless row of shuffled copies of ``pool``."""
    taken: list[int] = []
    while len(taken) < count:
        turn, place = divmod(begin + len(taken), len(pool))
        order = np.random.default_rng([seed, stream, turn]).permutation(len(pool))
        taken += [pool[i] for i in order[place : place + count - len(taken)]]
    return taken
