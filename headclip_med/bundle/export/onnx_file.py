"""``.onnx``: the detector as one ONNX file with its weights and its card in it."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headclip_med.base.errors import MissingExtraError, ModelError
from headclip_med.bundle.export.formats import Runner
from headclip_med.bundle.export.graph import ExportGraph
from headclip_med.engine.card import CARD_KEY, ScoreCard, card_text, parse_card

OPSET = 18
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
# A protobuf file cannot be larger; what is not weights stays far below the rest.
_LARGEST_BYTES = 2**31 - 2**24


def check() -> None:
    """Refuse where a package is missing.

    Raises:
        MissingExtraError: with the command that installs them.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            "Export to ONNX must have its packages installed",
            f"no {', '.join(missing)}",
            "Run: pip install 'headclip-med[onnx]'",
        )


def runtime() -> str:
    """Name ONNX Runtime, with its version.

    Returns:
        One line.
    """
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}, CPUExecutionProvider"


def build(graph: ExportGraph) -> Any:
    """Make an ONNX program of the graph, which refers to its weights and copies none.

    Args:
        graph: float32 on the CPU.

    Returns:
        A ``torch.onnx.ONNXProgram`` of opset 18 with a dynamic batch.

    Raises:
        ModelError: weights of 2 GB or more, which no single ONNX file can hold.
    """
    size = sum(t.numel() * t.element_size() for t in (*graph.parameters(), *graph.buffers()))
    if size > _LARGEST_BYTES:
        raise ModelError(
            "The weights must stay below 2 GB to lie inside one ONNX file", f"{size / 2**30:.1f} GiB", "Export pt2"
        )
    with torch.no_grad(), warnings.catch_warnings():
        # both inputs share one batch axis, and the exporter says so
        warnings.filterwarnings("ignore", r"# The axis name: batch will not be used", UserWarning)
        built = torch.onnx.export(
            graph,
            graph.example(2),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["pixels", "valid"],
            output_names=["anomaly_map", "slice_score"],
            dynamic_shapes=({0: "batch"}, {0: "batch"}),
        )
    for node in built.model.graph.all_nodes():
        node.metadata_props.clear()  # traces that name source files of this machine
    return built


def write(built: Any, path: Path, card: ScoreCard) -> None:
    """Save the program as one file, with the card among its metadata.

    Args:
        built: of :func:`build`.
        path: of the new file.
        card: of the model.
    """
    built.model.metadata_props[CARD_KEY] = card_text(card)
    built.save(path, external_data=False)


def reopen(path: Path) -> tuple[Runner, ScoreCard]:
    """Load an exported ``.onnx`` file into ONNX Runtime on the CPU.

    Args:
        path: of the file.

    Returns:
        ``(pixels, valid) → (maps, scores)``, and the card.

    Raises:
        ModelError: not a file that :func:`write` made.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NoSuchFile

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf, NoSuchFile) as error:
        raise ModelError(
            "An ONNX model must be a readable .onnx file", f"{path.name}: {type(error).__name__}", "Export it again"
        ) from error
    card = parse_card(session.get_modelmeta().custom_metadata_map.get(CARD_KEY, ""), path.name)

    def run(pixels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        maps, scores = session.run(None, {"pixels": pixels.numpy(), "valid": valid.numpy()})
        return torch.from_numpy(maps), torch.from_numpy(scores)

    return run, card
