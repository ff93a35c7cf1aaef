"""Loss and validation of a run in TensorBoard or MLflow, through MONAI's handlers.

The handlers listen to an Ignite engine. Training has its own loop, so an engine is kept beside it: its state is set and
its events are fired as steps end. Everything stays in the run's folder, but for an MLflow server that the environment
variable MLFLOW_TRACKING_URI names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from headclip_med.base.errors import CancelledError, MissingExtraError
from headclip_med.training.config import TrainConfig
from headclip_med.training.loop import TrainWatcher
from headclip_med.training.objective import Quality

TENSORBOARD_FOLDER = "tensorboard"
MLFLOW_FILE = "mlflow.db"

# Modules by choice, and what may differ between a run and its resumption or names places on the machine.
_NEEDED = {"tensorboard": ("ignite", "tensorboard"), "mlflow": ("ignite", "mlflow")}
_NO_PARAMETER = {"data", "out", "model", "weights", "steps", "track", "cache_gib", "cache_dir"}


class TrackingWatcher(TrainWatcher):
    """Passes everything on to another watcher and tells handlers on ``engine`` of losses and validations.

    Args:
        inner: Is told of everything.
        engine: Of Ignite, whose events the handlers listen to.
    """

    def __init__(self, inner: TrainWatcher, engine: Any) -> None:
        self._inner, self._engine = inner, engine

    def stage(self, words: str) -> None:
        self._inner.stage(words)

    def step(self, step: int, steps: int, loss: float) -> None:
        from ignite.engine import Events

        self._engine.state.iteration, self._engine.state.output = step, {"train/loss": loss}
        self._engine.fire_event(Events.ITERATION_COMPLETED)
        self._inner.step(step, steps, loss)

    def validated(self, step: int, quality: Quality, best: bool) -> None:
        from ignite.engine import Events

        found = {"validation/auroc": quality.auroc, "validation/average_precision": quality.average_precision}
        self._engine.state.epoch = step  # what handlers take as the step of metrics
        self._engine.state.metrics = {name: value for name, value in found.items() if value == value}
        self._engine.fire_event(Events.EPOCH_COMPLETED)
        self._inner.validated(step, quality, best)


@contextmanager
def tracked(watcher: TrainWatcher, config: TrainConfig) -> Iterator[TrainWatcher]:
    """Track a run as ``config.track`` says, in ``config.out``.

    Tags are ``train/loss``, ``validation/auroc`` and ``validation/average_precision``, by step. An MLflow run is called
    as the pack. It ends as finished, failed or killed, and a resumed one goes on with one that is not finished.

    Args:
        watcher: Is told of everything.
        config: Of the run.

    Yields:
        ``watcher`` itself, or one that also tracks.

    Raises:
        MissingExtraError: The packages for it are not installed.
    """
    if config.track == "none":
        yield watcher
        return
    _check_installed(config.track)
    from ignite.engine import Engine, Events

    handler = _tensorboard(config) if config.track == "tensorboard" else _mlflow(config)
    engine = Engine(lambda engine, batch: None)
    handler.attach(engine)
    try:
        engine.fire_event(Events.STARTED)
        yield TrackingWatcher(watcher, engine)
    except BaseException as error:
        handler.run_finish_status = "KILLED" if isinstance(error, (CancelledError, KeyboardInterrupt)) else "FAILED"
        raise
    finally:
        handler.close()


def _check_installed(track: str) -> None:
    missing = [name for name in _NEEDED[track] if find_spec(name) is None]
    if missing:
        names = ", ".join("pytorch-ignite" if name == "ignite" else name for name in missing)
        raise MissingExtraError(
            f"Tracking with {track} must have its packages installed",
            f"no {names}",
            "Run: pip install headclip-med[track], or set track: none",
        )


def _tensorboard(config: TrainConfig) -> Any:
    from monai.handlers import TensorBoardStatsHandler

    folder = str(config.out / TENSORBOARD_FOLDER)
    return TensorBoardStatsHandler(log_dir=folder, output_transform=lambda output: output)


def _mlflow(config: TrainConfig) -> Any:
    # Read when mlflow is imported: a run tells nobody outside of it.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from monai.handlers import MLFlowHandler

    return MLFlowHandler(
        tracking_uri=f"sqlite:///{(config.out / MLFLOW_FILE).resolve()}",
        output_transform=lambda output: output,
        experiment_name="headclip_med",
        run_name=config.name,
        experiment_param=_parameters(config),
    )


def _parameters(config: TrainConfig) -> dict[str, Any]:
    """Fields of the run, sections with dots."""
    found: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json", exclude=_NO_PARAMETER).items():
        found |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return found
