"""``.pt2``: the detector as an exported PyTorch program."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from headclip_med.base.errors import ModelError
from headclip_med.bundle.export.graph import ExportGraph
from headclip_med.bundle.export.kinds import Runner
from headclip_med.engine.card import CARD_KEY, ScoreCard, card_text, parse_card


def check() -> None:
    """PyTorch is always there."""


def runtime() -> str:
    """PyTorch's version."""
    return f"torch {torch.__version__}, cpu"


def build(graph: ExportGraph) -> ExportedProgram:
    """The program of ``graph`` for any batch, without example inputs."""
    return trace(graph, graph.example(2))


def trace(module: nn.Module, example: tuple[Tensor, ...]) -> ExportedProgram:
    """``module`` as a program whose inputs share a dynamic batch axis."""
    batch = Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(module, example, dynamic_shapes=tuple({0: batch} for _ in example), strict=False)
    program.example_inputs = None  # they would be stored in the file, and so would the places of the source files
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)
    return program


def write(built: ExportedProgram, path: Path, card: ScoreCard) -> None:
    """Save the program; through an open file, so that the archive does not take the draft's name."""
    with path.open("wb") as file:
        torch.export.save(built, file, extra_files={CARD_KEY: card_text(card)})


def reopen(path: Path) -> tuple[Runner, ScoreCard]:
    """As :func:`load_program`, for inputs of any batch."""
    return load_program(path)


def load_program(path: Path) -> tuple[Runner, ScoreCard]:
    """An exported ``.pt2`` file: ``(pixels, valid) → (maps, scores)``, and its card.

    PyTorch unpickles parts of such a file: load none from a source that you do not trust.

    Raises:
        ModelError: not a file that :func:`write` made.
    """
    extra = {CARD_KEY: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except (OSError, RuntimeError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(
            "An exported program must be a readable .pt2 file",
            f"{path.name}: {type(error).__name__}",
            "Export it again",
        ) from error
    return program.module(), parse_card(extra[CARD_KEY], path.name)
