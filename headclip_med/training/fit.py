"""Training: steps, validation and checkpoints; the same seed gives the same pack, interrupted or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headclip_med.base.errors import CancelledError, ModelError
from headclip_med.training.adapter import Adapter
from headclip_med.training.batches import batch_indices, shard
from headclip_med.training.checkpoint import NAME, RunState, load_checkpoint, save_checkpoint
from headclip_med.training.config import Schedule, TrainConfig
from headclip_med.training.features import FeatureBank
from headclip_med.training.objective import Quality, batch_loss, is_defined, lesion_share, validate
from headclip_med.training.ranks import Ranks, average_gradients, mean_over_ranks

_BETAS = (0.5, 0.999)  # of the AnomalyCLIP recipe


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
