"""What stands around the steps of every training: taking up, stopping, progress, validation, checkpoints.

The steps themselves are :func:`headclip_med.detectors.descent.optimise`. The same seed gives the same weights,
interrupted or not.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from headclip_med.base.errors import CancelledError
from headclip_med.training.checkpoint import NAME, RunState, load_checkpoint, save_checkpoint
from headclip_med.training.objective import Quality, is_defined

log = logging.getLogger(__name__)

Batch = TypeVar("Batch")


class TrainWatcher:
    """What a caller can see of a run while it lasts, to be overridden where needed."""

    def stage(self, words: str) -> None:
        """Note that a stage begins.

        Args:
            words: What it is.
        """

    def step(self, step: int, steps: int, loss: float) -> None:
        """Note that a step is done.

        Args:
            step: From 1.
            steps: How many there are in all.
            loss: Of this step.
        """

    def validated(self, step: int, quality: Quality, best: bool) -> None:
        """Note that a state was validated.

        Args:
            step: Steps that the state has done.
            quality: On slices held back.
            best: Whether it is the best state so far.
        """


@dataclass(frozen=True)
class Fitted:
    """The best state of a run: its validation quality and step, the history, and the loss of the last step."""

    best_step: int
    best_score: float
    history: list[dict[str, float]]
    last_loss: float


class Run(Generic[Batch]):
    """One training: in the order of its methods, begun or taken up, step by step, and finished.

    Args:
        out: Folder of the checkpoint.
        identity: What the run rests on. A checkpoint of another run is refused.
        batch: Number of a step, from 0 → what it learns from.
        steps: After which the run ends.
        every: Steps between validations and checkpoints.
        seed: For a method that draws numbers of its own.
        judge: Gives the quality of the present state on slices held back, and the best state wins. None: the last one
            does, and the history has mean losses.
        start: Puts what is learned into the state that a new run begins with, once there is a checkpoint.
        stage: What to call the training.
        planned: Steps that are told of as all of them. None: ``steps``.
        resume: Go on with the checkpoint in ``out``. Without one, begin.
        watcher: Is told of the run.
        cancel: Asked before each step. True keeps what was done and ends the run.
    """

    def __init__(
        self,
        out: Path,
        identity: dict[str, Any],
        batch: Callable[[int], Batch],
        *,
        steps: int,
        every: int,
        seed: int,
        judge: Callable[[], Quality] | None = None,
        start: Callable[[], None] | None = None,
        stage: str = "training",
        planned: int | None = None,
        resume: bool = False,
        watcher: TrainWatcher | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> None:
        self.steps, self.seed, self._every, self._planned = steps, seed, every, planned or steps
        self._path, self._identity, self._resume = out / NAME, identity, resume
        self._batch, self._judge, self._start, self._stage = batch, judge, start, stage
        self._watcher, self._cancel = watcher or TrainWatcher(), cancel
        self._state, self._loss = RunState(), math.nan
        self._learned: nn.Module = nn.Module()
        self._optimiser: torch.optim.Optimizer | None = None

    def begin(self, learned: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """Take up the checkpoint, or keep and validate the state that learning begins with.

        Args:
            learned: What learns, set in place from a checkpoint.
            optimiser: Of its parameters.

        Returns:
            The step to go on with, from 0.

        Raises:
            InputError: A checkpoint that is damaged or of another run.
        """
        self._learned, self._optimiser = learned, optimiser
        if self._resume and self._path.is_file():
            self._state = load_checkpoint(self._path, learned, optimiser, self._identity)
        is_new = not self._state.history
        if is_new:
            self._keep()
            if self._start is not None:
                self._start()
        self._watcher.stage(self._stage)
        if is_new and self._judge is not None:
            self._validate(self._judge)
            self._keep()
        return self._state.step

    def batch(self, step: int) -> Batch:
        """Give what a step learns from, after asking whether to stop.

        Args:
            step: From 0.

        Returns:
            Whatever the run's ``batch`` makes for it.

        Raises:
            CancelledError: The run is to stop. What was done is kept.
        """
        if self._cancel is not None and self._cancel():
            self._keep()
            raise CancelledError("The run was stopped by the caller", f"after step {step} of {self._planned}")
        return self._batch(step)

    def done(self, step: int, loss: float) -> None:
        """Report ``step`` steps, and every so many of them and at the end validate and keep.

        Args:
            step: Steps done so far.
            loss: Of the last one.
        """
        self._state.step, self._loss = step, loss
        if self._judge is None:
            self._state.recent.append(loss)
        self._watcher.step(step, self._planned, loss)
        if step % self._every and step != self.steps:
            return
        if self._judge is None:
            self._average()
        else:
            self._validate(self._judge)
        self._keep()

    def finish(self) -> Fitted:
        """Put the state back that validated best, where states were validated.

        Returns:
            The best state, which is the last one where none was validated.
        """
        state = self._state
        if state.best:
            self._learned.load_state_dict(state.best)
        return Fitted(state.best_step, state.best_score, state.history, self._loss)

    def _keep(self) -> None:
        assert self._optimiser is not None
        save_checkpoint(self._path, self._state, self._learned, self._optimiser, self._identity)

    def _validate(self, judge: Callable[[], Quality]) -> None:
        """Enter the present state's quality, and remember the state if it is the best so far."""
        state, quality = self._state, judge()
        score = quality.average_precision if is_defined(quality) else -math.inf
        best = score > state.best_score or not state.best
        if best:
            state.best_score, state.best_step = score, state.step
            state.best = {name: value.detach().clone() for name, value in self._learned.state_dict().items()}
        entry = {"step": state.step, "auroc": quality.auroc, "average_precision": quality.average_precision}
        state.history.append({**entry, "loss": self._loss} if math.isfinite(self._loss) else entry)
        self._watcher.validated(state.step, quality, best)

    def _average(self) -> None:
        """Enter the mean loss since the last entry."""
        state = self._state
        state.history.append({"step": state.step, "loss": sum(state.recent) / len(state.recent)})
        state.recent = []
        log.info("step %d of %d: loss %.4f", state.step, self._planned, state.history[-1]["loss"])
