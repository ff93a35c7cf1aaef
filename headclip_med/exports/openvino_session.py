"""An exported ONNX file on OpenVINO: the same graph, in 16 bits where the hardware multiplies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headclip_med.base.errors import MissingExtraError, ModelError
from headclip_med.slicing.scan import Floats

if TYPE_CHECKING:
    from openvino import CompiledModel

OPENVINO = "openvino"  # a device is openvino, or openvino:GPU and the like
_PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class OpenVinoSession:
    """A compiled model with the one method that :class:`headclip_med.exports.onnx_graph.OnnxGraph` asks for.

    Attributes:
        device: ``cpu``, ``gpu`` and the like; precision: in which OpenVINO multiplies matrices there.
    """

    def __init__(self, compiled: CompiledModel, device: str) -> None:
        self.device = device.lower()
        self.precision = _PRECISIONS.get(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(), "float32")
        self._request = compiled.create_infer_request()

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Floats]) -> list[Floats]:
        """Arrays of the named outputs."""
        self._request.infer(dict(inputs), share_inputs=True)
        return [self._request.get_tensor(name).data.copy() for name in outputs]


def open_session(file: Path, device: str, precision: str) -> OpenVinoSession:
    """Compile ``file`` for ``openvino`` (its CPU) or ``openvino:DEVICE``.

    Args:
        precision: ``auto`` is what OpenVINO takes for the hardware, or ``float32``.

    Raises:
        MissingExtraError: no OpenVINO here; ModelError: no such device, or a graph that it cannot compile.
    """
    openvino = _openvino()
    core, name = openvino.Core(), device.partition(":")[2].upper() or "CPU"
    if name.partition(".")[0] not in {known.partition(".")[0] for known in core.available_devices}:
        raise ModelError(
            "The device must be one that OpenVINO finds here", device, f"It finds {', '.join(core.available_devices)}"
        )
    hint: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if precision == "float32":
        hint["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        compiled = core.compile_model(str(file), name, hint)
    except Exception as error:  # the text may hold paths
        raise ModelError(
            f"{file.name} must be a graph that OpenVINO {openvino.__version__.partition('-')[0]} can compile",
            f"an error of the kind {type(error).__name__}",
            "Use --device cpu",
        ) from error
    return OpenVinoSession(compiled, name)


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            "The device openvino must have OpenVINO installed",
            "no openvino",
            "Run: pip install 'headclip-med[openvino]'",
        ) from error
    return openvino
