"""The run around a method's own fit: batches, validation on patients held back, checkpoints, the best state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headclip_med.base.errors import CancelledError
from headclip_med.detectors import Detector, LabelledPixels, Parts
from headclip_med.evaluation.metrics.counts import CountSum, count_scores
from headclip_med.evaluation.metrics.curves import auroc, average_precision
from headclip_med.training.batches import batch_indices
from headclip_med.training.checkpoint import NAME, RunState, load_checkpoint, save_checkpoint
from headclip_med.training.config import TrainConfig
from headclip_med.training.fit import Fitted, TrainWatcher
from headclip_med.training.objective import Quality, is_defined
from headclip_med.training.slices import IGNORED, TrainingSlice

# Validation goes through the slices in groups of this size.
_AT_ONCE = 4


class MethodRun:
    """Auxiliary data of a fit (:class:`headclip_med.detectors.Auxiliary`) that validates and keeps what was learned.

    Args:
        detector: that learns; parts: that it was made of. train, held_out: slices.
        identity: what the run rests on; a checkpoint of another run is refused.
    """

    def __init__(
        self,
        detector: Detector,
        parts: Parts,
        train: Sequence[TrainingSlice],
        held_out: Sequence[TrainingSlice],
        config: TrainConfig,
        identity: dict[str, Any],
        *,
        resume: bool = False,
        watcher: TrainWatcher | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> None:
        self.steps, self.seed = config.steps, config.seed
        self._detector, self._parts, self._config = detector, parts, config
        self._train, self._held_out = train, held_out
        self._identity, self._resume = identity, resume
        self._watcher, self._cancel = watcher or TrainWatcher(), cancel
        self._labels = [part.label for part in train]
        self._state, self._loss = RunState(), float("nan")
        self._learned: nn.Module = nn.Module()
        self._optimiser: torch.optim.Optimizer | None = None

    def begin(self, learned: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """Take up the checkpoint in the run's folder, or validate the state that learning begins with."""
        self._learned, self._optimiser = learned, optimiser
        path = self._config.out / NAME
        if self._resume and path.is_file():
            self._state = load_checkpoint(path, learned, optimiser, self._identity)
        if not self._state.history:
            self._keep()
            self._consider()
            self._keep()
        return self._state.step

    def batch(self, step: int) -> LabelledPixels:
        """Half slices with lesion, half without; asks first whether to stop, and then keeps what was done."""
        if self._cancel is not None and self._cancel():
            self._keep()
            raise CancelledError("The run was stopped by the caller", f"after step {step} of {self.steps}")
        indices = batch_indices(self._labels, step, self._config.batch, self.seed)
        return collate([self._train[i] for i in indices])

    def done(self, step: int, loss: float) -> None:
        """Report; every so many steps validate and keep."""
        self._state.step, self._loss = step, loss
        self._watcher.step(step, self.steps, loss)
        if step % self._config.validate_every == 0 or step == self.steps:
            self._consider()
            self._keep()

    def finish(self) -> Fitted:
        """Put the state back that validated best."""
        state = self._state
        self._learned.load_state_dict(state.best)
        return Fitted(state.best_step, state.best_score, state.history, self._loss)

    def _keep(self) -> None:
        assert self._optimiser is not None
        save_checkpoint(self._config.out / NAME, self._state, self._learned, self._optimiser, self._identity)

    def _consider(self) -> None:
        """Validate what a pack of the present state would say, and keep the state if it is the best so far."""
        state = self._state
        scorer = type(self._detector).from_parts(replace(self._parts, tensors=self._detector.state()))
        quality = validate_maps(scorer, self._held_out)
        score = quality.average_precision if is_defined(quality) else float("-inf")
        best = score > state.best_score or not state.best
        if best:
            state.best_score, state.best_step = score, state.step
            state.best = {name: value.detach().clone() for name, value in self._learned.state_dict().items()}
        entry = {"step": state.step, "auroc": quality.auroc, "average_precision": quality.average_precision}
        state.history.append({**entry, "loss": self._loss} if np.isfinite(self._loss) else entry)
        self._watcher.validated(state.step, quality, best)


def collate(slices: Sequence[TrainingSlice]) -> LabelledPixels:
    """Training slices as one batch."""
    return LabelledPixels(
        pixels=torch.stack([part.pixels for part in slices]).float(),
        mask=torch.stack([part.mask == 1 for part in slices]).float(),
        valid=torch.stack([part.valid for part in slices]).bool(),
        labels=torch.tensor([float(part.label) for part in slices]),
        known=torch.stack([part.mask != IGNORED for part in slices]),
    )


def validate_maps(detector: Detector, slices: Sequence[TrainingSlice]) -> Quality:
    """Pixel AUROC and average precision of a detector's maps within the patient, pooled over all slices."""
    total = CountSum()
    for begin in range(0, len(slices), _AT_ONCE):
        batch = collate(slices[begin : begin + _AT_ONCE])
        maps: Tensor = detector.score(batch.pixels, batch.valid).maps
        found = maps[batch.valid].clamp(0, 1).numpy()
        total.add(count_scores(found, (batch.mask[batch.valid] > 0.5).numpy()))
    counts = total.counts()
    return Quality(
        float(auroc(counts.negatives, counts.positives)), float(average_precision(counts.negatives, counts.positives))
    )
