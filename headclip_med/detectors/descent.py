"""The training loop: head weights, methods and pretraining all go through :func:`optimise`.

It lies in this room, the lowest of those that learn, because :meth:`headclip_med.detectors.Detector.fit` runs it too
and no detector may import ``training``. What stands around the steps (checkpoints, validation, progress, a stop) is
a :class:`headclip_med.detectors.data.TrainingSteps`; ours is :class:`headclip_med.training.loop.Run`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from headclip_med.base.errors import ModelError
from headclip_med.detectors.data import Auxiliary, LabelledPixels, TrainingSteps

Batch = TypeVar("Batch")


def optimise(
    learned: nn.Module,
    loss: Callable[[Batch], Tensor],
    run: TrainingSteps[Batch],
    optimiser: torch.optim.Optimizer,
    *,
    before_step: Callable[[int], None] | None = None,
    rates: str,
) -> None:
    """Train ``learned`` in place, from the step at which ``run`` takes up to its last one.

    Args:
        learned: what ``optimiser`` changes, for ``run`` to keep.
        loss: a batch → a scalar, differentiable in ``learned``.
        run: gives each step its batch and is told of each that is done.
        optimiser: of the parameters of ``learned``.
        before_step: called with the number of the step, from 0, once its gradients are there.
        rates: what to lower, in words, when the loss is not finite.

    Raises:
        ModelError: a loss that is not finite. What was kept before stays.
    """
    for step in range(run.begin(learned, optimiser), run.steps):
        optimiser.zero_grad(set_to_none=True)
        value = loss(run.batch(step))
        number = float(value.detach())
        if not math.isfinite(number):
            raise ModelError(
                "The loss must stay a finite number", number, f"Lower {rates}; the last checkpoint is kept"
            )
        value.backward()
        if before_step is not None:
            before_step(step)
        optimiser.step()
        run.done(step + 1, number)


def descend(
    learned: nn.Module,
    loss: Callable[[LabelledPixels], Tensor],
    auxiliary: Auxiliary,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.5, 0.999),
) -> None:
    """Train a method with Adam. The defaults are AnomalyCLIP's (arXiv 2310.18961).

    Args:
        learned, loss, auxiliary: as of :func:`optimise`.
        lr: learning rate, above 0.
        betas: of Adam, from 0 to below 1.

    Raises:
        ModelError: nothing to learn, or a loss that is not finite.
    """
    parameters = [parameter for parameter in learned.parameters() if parameter.requires_grad]
    if not parameters:
        raise ModelError("A training run must have something to learn", "no parameter")
    optimiser = torch.optim.Adam(parameters, lr=lr, betas=betas)
    optimise(learned, loss, auxiliary, optimiser, rates="the method's learning rate (options.lr)")
