"""Which slices a step sees: a function of seed and step alone, so that a resumed run sees the same ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed, nn


@dataclass(frozen=True)
class Ranks:
    """Place of this process among ``world``; only the ``first`` one writes and validates."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the other processes if ``torchrun`` started this one, and leave them at the end."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield Ranks()
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Mean of every gradient over all processes, the same on each; parts of a batch must be of one size."""
    if ranks.world == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
            parameter.grad /= ranks.world


def mean_over_ranks(value: float, ranks: Ranks) -> float:
    """Mean of a number over all processes."""
    if ranks.world == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64)
    distributed.all_reduce(tensor)
    return float(tensor) / ranks.world


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
