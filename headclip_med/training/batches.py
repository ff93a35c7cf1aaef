"""Which slices a step sees: a function of seed and step alone, so that a resumed run sees the same ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def batch_indices(labels: Sequence[bool], step: int, batch: int, seed: int) -> list[int]:
    """Half slices with lesion and half without (as far as both exist), each class in a shuffled order without repeats
    until it is used up.

    Args:
        labels: of all training slices; step: from 0; batch: slices of one step over all processes.
    """
    classes = [[i for i, label in enumerate(labels) if label is wanted] for wanted in (True, False)]
    if not classes[0] or not classes[1]:
        return _take(classes[0] or classes[1], step * batch, batch, seed, 0)
    lesions = (batch + 1) // 2
    chosen = _take(classes[0], step * lesions, lesions, seed, 1)
    free = _take(classes[1], step * (batch - lesions), batch - lesions, seed, 2)
    mixed = [index for pair in zip(chosen, free, strict=False) for index in pair]
    return [*mixed, *chosen[len(free) :]]


def shard(indices: Sequence[int], rank: int, world: int) -> list[int]:
    """The part of a batch that one of ``world`` processes works on; all parts have one size."""
    size = len(indices) // world
    return list(indices[rank * size : (rank + 1) * size])


def _take(pool: Sequence[int], begin: int, count: int, seed: int, stream: int) -> list[int]:
    """``count`` entries from ``begin`` on of an endless row of shuffled copies of ``pool``."""
    taken: list[int] = []
    while len(taken) < count:
        turn, place = divmod(begin + len(taken), len(pool))
        order = np.random.default_rng([seed, stream, turn]).permutation(len(pool))
        taken += [pool[i] for i in order[place : place + count - len(taken)]]
    return taken
