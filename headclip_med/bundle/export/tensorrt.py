"""``.trt.ts``: the map alone, compiled for one NVIDIA GPU. Untested: it was written without such a machine."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from headclip_med.base.errors import MissingExtraError, ModelError
from headclip_med.bundle.export import program, torchscript
from headclip_med.bundle.export.graph import ExportGraph, MapGraph
from headclip_med.bundle.export.kinds import Runner
from headclip_med.engine.card import ScoreCard

# Batches that the engine is built for: the smallest, the usual one, the largest.
_BATCHES = (1, 4, 16)


def check() -> None:
    """Refuse without Torch-TensorRT or without a CUDA device.

    Raises:
        MissingExtraError, ModelError: what is needed.
    """
    if find_spec("torch_tensorrt") is None:
        raise MissingExtraError(
            "Export to TensorRT must have the package torch_tensorrt",
            "it is not installed",
            "Run: pip install torch-tensorrt",
        )
    if not torch.cuda.is_available():
        raise ModelError(
            "Export to TensorRT must run on the NVIDIA GPU that will run the file",
            "no CUDA device",
            "Export pt2 or onnx here",
        )


def runtime() -> str:
    """Torch-TensorRT's version and the device."""
    import torch_tensorrt

    return f"torch_tensorrt {torch_tensorrt.__version__}, {torch.cuda.get_device_name()}"


def build(graph: ExportGraph) -> Any:
    """The exported program of pixels → map, compiled in float32 and traced as TorchScript."""
    import torch_tensorrt

    traced = program.trace(MapGraph(graph), graph.example(2)[:1])
    moved = torch.export.passes.move_to_device_pass(traced, "cuda")
    side = (3, graph.image_size, graph.image_size)
    low, usual, high = ((count, *side) for count in _BATCHES)
    pixels = torch_tensorrt.Input(min_shape=low, opt_shape=usual, max_shape=high, dtype=torch.float32)
    compiled = torch_tensorrt.dynamo.compile(moved, arg_inputs=[pixels], enabled_precisions={torch.float32})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.ts"
        torch_tensorrt.save(compiled, str(path), output_format="torchscript", arg_inputs=[graph.example(2)[0].cuda()])
        return torch.jit.load(path)


def write(built: Any, path: Path, card: ScoreCard) -> None:
    """As TorchScript."""
    torchscript.write(built, path, card)


def reopen(path: Path) -> tuple[Runner, ScoreCard]:
    """As TorchScript on CUDA; results come back to the CPU."""
    maps_of, card = torchscript.load_torchscript(path, "cuda")

    def run(pixels: Tensor, valid: Tensor) -> tuple[Tensor, None]:
        return maps_of(pixels.cuda()).cpu(), None

    return run, card
