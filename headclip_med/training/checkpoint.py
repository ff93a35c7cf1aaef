"""One file that holds a run as it stands: learned tensors, optimiser, best state so far; no pickles."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from headclip_med.base.errors import InputError, OutputError
from headclip_med.base.files import check_writable, save_tensors

NAME = "checkpoint.safetensors"


@dataclass
class RunState:
    """Where a run stands after ``step`` steps.

    Attributes:
        best_score: Validation score of ``best`` (learned tensors by name).
        history: One entry per validation, none before a run has begun.
        recent: Losses since the last entry, where entries are their means.
    """

    step: int = 0
    best_score: float = float("-inf")
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)


def check_new_run(folder: Path, resume: bool) -> None:
    """Refuse to begin where a run can be taken up, or in a folder not to be written to.

    Args:
        folder: Of the run.
        resume: Whether the run goes on, so that a checkpoint may be there.

    Raises:
        OutputError: A checkpoint is there and ``resume`` is not set, or nothing can be written.
    """
    check_writable(folder)
    if not resume and (folder / NAME).exists():
        raise OutputError(
            "A new run must have a folder without a checkpoint",
            folder.name,
            "Add --resume to go on with it, or choose another folder",
        )


def save_checkpoint(
    path: Path, state: RunState, module: nn.Module, optimiser: torch.optim.Optimizer, identity: dict[str, Any]
) -> None:
    """Write the run, whole or not at all.

    Args:
        path: Of the file.
        state: Where the run stands.
        module: What is learned.
        optimiser: With its moments.
        identity: Must be equal for the run to be taken up again.

    Raises:
        OutputError: The file cannot be written. An earlier one is then still there.
    """
    moments = optimiser.state_dict()["state"]
    tensors = {f"now.{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    tensors |= {f"adam.{i}.{key}": value for i, entry in moments.items() for key, value in entry.items()}
    facts = {
        "identity": identity,
        "step": state.step,
        "best_score": state.best_score,
        "best_step": state.best_step,
        "history": state.history,
        "recent": state.recent,
    }
    copies = {name: value.detach().clone() for name, value in tensors.items()}
    save_tensors(path, copies, {"run": json.dumps(facts)})


def load_checkpoint(
    path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, identity: dict[str, Any]
) -> RunState:
    """Put a saved run back into ``module`` and ``optimiser``.

    Args:
        path: Of the file.
        module: What is learned, set in place.
        optimiser: Whose moments are set in place.
        identity: Of the run that goes on.

    Returns:
        Where the run stands.

    Raises:
        InputError: A damaged file, or a run with another configuration, model, data or set of learned tensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError("A checkpoint must be a readable file of an earlier run", f"{path.name}: {error}") from error
    wanted = json.loads(json.dumps(identity))
    changed = sorted(key for key in {*wanted, *facts["identity"]} if wanted.get(key) != facts["identity"].get(key))
    if changed:
        raise InputError(
            "A run must be resumed with the configuration, model and data that it began with",
            f"{', '.join(changed)} differ",
            "Set them as before, or start anew in another folder",
        )
    try:
        module.load_state_dict(_under(tensors, "now."))
    except RuntimeError as error:
        raise InputError(
            "A checkpoint must hold the tensors that this version learns", path.name, "Start anew in another folder"
        ) from error
    state = optimiser.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "adam.").items():
        number, _, key = name.partition(".")
        entries.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({**state, "state": entries})
    best = _under(tensors, "best.")
    recent = facts.get("recent", [])
    return RunState(facts["step"], facts["best_score"], facts["best_step"], best, facts["history"], recent)


def checkpoint_step(folder: Path) -> int | None:
    """Read how many steps the checkpoint of a run has done.

    Args:
        folder: Of the run.

    Returns:
        Steps, None where there is no checkpoint that can be read.
    """
    try:
        with safe_open(folder / NAME, framework="pt") as file:
            return int(json.loads(file.metadata()["run"])["step"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
