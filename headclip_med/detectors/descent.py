"""Gradient descent on a method's own loss: the loop that every method that learns shares."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from headclip_med.base.errors import ModelError
from headclip_med.detectors.data import Auxiliary, LabelledPixels


def descend(
    learned: nn.Module,
    loss: Callable[[LabelledPixels], Tensor],
    auxiliary: Auxiliary,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.5, 0.999),
) -> None:
    """Adam on ``loss`` for the steps of ``auxiliary``; the defaults are AnomalyCLIP's (arXiv 2310.18961).

    Raises:
        ModelError: nothing to learn, or a loss that is not finite; what was kept before stays.
    """
    parameters = [parameter for parameter in learned.parameters() if parameter.requires_grad]
    if not parameters:
        raise ModelError("A training run must have something to learn", "no parameter")
    optimiser = torch.optim.Adam(parameters, lr=lr, betas=betas)
    for step in range(auxiliary.begin(learned, optimiser), auxiliary.steps):
        optimiser.zero_grad(set_to_none=True)
        value = loss(auxiliary.batch(step))
        if not math.isfinite(float(value.detach())):
            raise ModelError(
                "The loss must stay a finite number",
                float(value.detach()),
                "Lower the method's learning rate (options.lr); the last checkpoint is kept",
            )
        value.backward()
        optimiser.step()
        auxiliary.done(step + 1, float(value.detach()))
