"""A model's name or file → an engine on a device. Importing this is cheap: torch is loaded with a model of torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headclip_med.base.errors import ModelError
from headclip_med.base.names import DEFAULT_MODEL
from headclip_med.engine.engine import Engine

if TYPE_CHECKING:
    from headclip_med.engine.device import Precision
    from headclip_med.engine.onnx_scorer import OnnxScorer
    from headclip_med.engine.torch_scorer import TorchScorer

ONNX_ENDING = ".onnx"


def load_engine(
    name_or_path: str | Path = DEFAULT_MODEL,
    device: str = "auto",
    *,
    method: str | None = None,
    precision: Precision = "auto",
    batch_size: int | None = None,
    weights: str | Path | None = None,
    speed: str = "exact",
    normals: str | Path | None = None,
) -> Engine[TorchScorer]:
    """Load a model and put it on a device.

    Args:
        name_or_path: ``headclip-tiny``, a pack folder, a weight file, ``ARCH/TAG`` of open_clip, ``timm:ARCH``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        method: Detector by name, default the pack's or ``headclip``.
        precision: Of the matrix products. ``auto`` takes 16 bits where the hardware has them.
        batch_size: Slices at once, default 1 to 8 on a CPU, what fits its memory on a GPU. Halved when that runs out.
        weights: Weight file or name of the tower of a pack that carries none.
        speed: ``exact``, ``balanced``, ``fast``, see :mod:`headclip_med.models.speed`.
        normals: Folder of normal images of the task, which the method then also compares with.

    Returns:
        An engine that is ready to score.

    Raises:
        ModelError: The model or the device cannot be had.
        InputError: An unknown speed, a batch below 1.
    """
    from headclip_med.engine.normals import read_normals
    from headclip_med.engine.torch_scorer import TorchScorer
    from headclip_med.models.load import load_model

    seen = None if normals is None else read_normals(normals)
    model = load_model(name_or_path, method=method, weights=weights, has_normals=seen is not None)
    scorer = TorchScorer(model, device=device, precision=precision, batch_size=batch_size, speed=speed, normals=seen)
    return Engine(scorer)


def load_onnx_engine(
    path: str | Path, *, device: str = "auto", batch_size: int | None = None, precision: str = "auto"
) -> Engine[OnnxScorer]:
    """Open an exported model and put it on a device. Needs onnxruntime and no torch.

    Args:
        path: An ``.onnx`` file with a score card in it.
        device: ``auto`` (CUDA where this onnxruntime has it), ``cpu``, ``cuda``, ``cuda:1``, ``openvino`` (its CPU, in
            16 bits where the hardware multiplies them), ``openvino:GPU``.
        batch_size: Slices at once, default 1 on a CPU, 16 on a GPU, halved when memory runs out.
        precision: Of OpenVINO: ``auto`` or ``float32``.

    Returns:
        An engine that is ready to score.

    Raises:
        MissingExtraError: No onnxruntime or OpenVINO.
        ModelError: A file or device that cannot be used.
    """
    from headclip_med.engine.onnx_graph import open_graph
    from headclip_med.engine.onnx_scorer import OnnxScorer

    return Engine(OnnxScorer(open_graph(path, device, precision), batch_size=batch_size))


def check_onnx_options(
    *,
    weights: object = None,
    method: str | None = None,
    precision: str = "auto",
    speed: str = "exact",
    normals: object = None,
) -> None:
    """Refuse what only a model on torch can be asked for.

    Args:
        weights: Of a tower, must be None.
        method: Must be None.
        precision: Must be ``auto`` or ``float32``.
        speed: Must be ``exact``.
        normals: Normal images, must be None.

    Raises:
        ModelError: Weights, a method, normal images, another precision than float32, or another speed than exact.
    """
    kind = "An exported .onnx model must be used as it is"
    if weights is not None:
        raise ModelError(kind, "--weights", "Leave it out: the weights are in the file")
    if method is not None:
        raise ModelError(kind, f"--method {method}", "Leave it out: the method is in the file")
    if normals is not None:
        raise ModelError(kind, "--normals", "Compare with normal images in the model that it was exported from")
    if precision not in ("auto", "float32"):
        raise ModelError(kind, f"--precision {precision}", "Leave it out: the graph computes in float32")
    if speed != "exact":
        raise ModelError(kind, f"--speed {speed}", "Leave it out: the graph has one input size")
