"""Training: steps, validation and checkpoints; the same seed gives the same pack, interrupted or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headclip_med.base.errors import CancelledError, ModelError
from headclip_med.detectors import Detector, LabelledPixels, Parts
from headclip_med.evaluation.metrics.counts import CountSum, count_scores
from headclip_med.evaluation.metrics.curves import auroc, average_precision
from headclip_med.training.adapter import Adapter
from headclip_med.training.batches import Ranks, average_gradients, batch_indices, mean_over_ranks, shard
from headclip_med.training.checkpoint import NAME, RunState, load_checkpoint, save_checkpoint
from headclip_med.training.config import Schedule, TrainConfig
from headclip_med.training.features import FeatureBank
from headclip_med.training.objective import Quality, batch_loss, is_defined, lesion_share, validate
from headclip_med.training.slices import IGNORED, TrainingSlice

# Validation goes through the slices in groups of this size.
_AT_ONCE = 4


_BETAS = (0.5, 0.999)  # of the AnomalyCLIP recipe


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


class TrainWatcher:
    """What a caller can see of a run while it lasts; override what is needed."""

    def stage(self, words: str) -> None:
        """A stage begins, in words."""

    def step(self, step: int, steps: int, loss: float) -> None:
        """Step ``step`` of ``steps`` is done."""

    def validated(self, step: int, quality: Quality, best: bool) -> None:
        """The state after ``step`` steps was validated."""


@dataclass(frozen=True)
class Fitted:
    """The best state of a run: its validation quality and step, the history, and the loss of the last step."""

    best_step: int
    best_score: float
    history: list[dict[str, float]]
    last_loss: float


def fit(
    adapter: Adapter,
    train: FeatureBank,
    held_out: FeatureBank,
    config: TrainConfig,
    identity: dict[str, Any],
    *,
    resume: bool = False,
    start: Callable[[], None] | None = None,
    ranks: Ranks | None = None,
    watcher: TrainWatcher | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Fitted:
    """Train ``adapter`` in place; it ends in the state that validated best.

    Args:
        identity: what the run rests on; a checkpoint of another run is refused.
        start: puts the adapter into the state that a new run begins with, between its first two checkpoints.

    Raises:
        ModelError: a loss that is not finite; CancelledError: ``cancel`` returned True. The last checkpoint is kept.
    """
    ranks, watcher = ranks or Ranks(), watcher or TrainWatcher()
    groups = adapter.groups()
    optimiser = _optimiser(groups, config)
    path = config.out / NAME
    state = RunState()
    if resume and path.is_file():
        state = load_checkpoint(path, adapter, optimiser, identity)
    share = lesion_share(train) if config.loss.balanced else None
    loss = float("nan")

    def keep() -> None:
        if ranks.first:
            save_checkpoint(path, state, adapter, optimiser, identity)

    if not state.history:
        keep()
        if start is not None:
            start()
    watcher.stage("training")
    if not state.history:
        _consider(state, adapter, held_out, float("nan"), watcher)
        keep()
    while state.step < config.steps:
        if cancel is not None and cancel():
            keep()
            raise CancelledError("The run was stopped by the caller", f"after step {state.step} of {config.steps}")
        active = active_groups(config.schedule, state.step, config.steps, _epoch(train, config, ranks))
        indices = batch_indices(train.labels, state.step, config.batch * ranks.world, config.seed)
        loss = _step(
            adapter, optimiser, groups, active, train, shard(indices, ranks.rank, ranks.world), config, share, ranks
        )
        state.step += 1
        watcher.step(state.step, config.steps, loss)
        if state.step % config.validate_every == 0 or state.step == config.steps:
            _consider(state, adapter, held_out, loss, watcher)
            keep()
    adapter.load_state_dict(state.best)
    return Fitted(state.best_step, state.best_score, state.history, loss)


def active_groups(schedule: Schedule, step: int, steps: int, epoch: int) -> tuple[str, ...]:
    """Which parameters move in a step: both; in turn, an epoch each; or prompts in the first half, then heads."""
    if schedule == "joint":
        return ("classes", "heads")
    if schedule == "alternate":
        return ("classes",) if (step // max(1, epoch)) % 2 == 0 else ("heads",)
    return ("classes",) if step < steps // 2 else ("heads",)


def _step(
    adapter: Adapter,
    optimiser: torch.optim.Optimizer,
    groups: dict[str, list[nn.Parameter]],
    active: tuple[str, ...],
    train: FeatureBank,
    indices: list[int],
    config: TrainConfig,
    share: float | None,
    ranks: Ranks,
) -> float:
    optimiser.zero_grad(set_to_none=True)
    loss = batch_loss(adapter, train, indices, config, share)
    value = mean_over_ranks(float(loss.detach()), ranks)
    if not math.isfinite(value):
        raise ModelError(
            "The loss must stay a finite number",
            value,
            "Lower the learning rates (heads.lr, classes.lr); the last checkpoint is kept",
        )
    loss.backward()
    for name, parameters in groups.items():
        if name not in active:
            for parameter in parameters:
                parameter.grad = None  # the optimiser passes over it, its moments included
    average_gradients((p for parameters in groups.values() for p in parameters), ranks)
    optimiser.step()
    return value


def _consider(state: RunState, adapter: Adapter, held_out: FeatureBank, loss: float, watcher: TrainWatcher) -> None:
    """Validate, and keep the state if it is the best so far."""
    quality = validate(adapter, held_out)
    score = quality.average_precision if is_defined(quality) else float("-inf")
    best = score > state.best_score or not state.best
    if best:
        state.best_score, state.best_step = score, state.step
        state.best = {name: value.detach().clone() for name, value in adapter.state_dict().items()}
    entry = {"step": state.step, "auroc": quality.auroc, "average_precision": quality.average_precision}
    state.history.append({**entry, "loss": loss} if math.isfinite(loss) else entry)
    watcher.validated(state.step, quality, best)


def _optimiser(groups: dict[str, list[nn.Parameter]], config: TrainConfig) -> torch.optim.Optimizer:
    rates = {"classes": config.classes.lr, "heads": config.heads.lr}
    used = [{"params": parameters, "lr": rates[name]} for name, parameters in groups.items() if parameters]
    if not used:
        raise ModelError("A training run must have something to learn", "neither head weights nor classes")
    return torch.optim.Adam(used, betas=_BETAS)


def _epoch(train: FeatureBank, config: TrainConfig, ranks: Ranks) -> int:
    return math.ceil(len(train) / (config.batch * ranks.world))


def checkpoint_path(out: Path) -> Path:
    """Where a run in ``out`` keeps its state."""
    return out / NAME
