"""``.pt2``: the detector as an exported PyTorch program."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from headclip_med.base.errors import ModelError
from headclip_med.bundle.export.formats import Runner
from headclip_med.bundle.export.graph import ExportGraph
from headclip_med.engine.card import CARD_KEY, ScoreCard, card_text, parse_card


def check() -> None:
    """Do nothing: PyTorch is always there."""


def runtime() -> str:
    """Name PyTorch, with its version.

    Returns:
        One line.
    """
    return f"torch {torch.__version__}, cpu"


def build(graph: ExportGraph) -> ExportedProgram:
    """Trace the graph for any batch.

    Args:
        graph: float32 on the CPU.

    Returns:
        The program without example inputs, which would be stored in the file.
    """
    batch, example = Dim("batch", min=1), graph.example(2)
    with torch.no_grad():
        program = torch.export.export(graph, example, dynamic_shapes=tuple({0: batch} for _ in example), strict=False)
    program.example_inputs = None
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)  # traces that name source files of this machine
    return program


def write(built: ExportedProgram, path: Path, card: ScoreCard) -> None:
    """Save the program, through an open file, so that the archive does not take the draft's name.

    Args:
        built: of :func:`build`.
        path: of the new file.
        card: of the model.
    """
    with path.open("wb") as file:
        torch.export.save(built, file, extra_files={CARD_KEY: card_text(card)})


def reopen(path: Path) -> tuple[Runner, ScoreCard]:
    """Load an exported ``.pt2`` file.

    PyTorch unpickles parts of such a file: load none from a source that you do not trust.

    Args:
        path: of the file.

    Returns:
        ``(pixels, valid) → (maps, scores)``, and the card.

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
