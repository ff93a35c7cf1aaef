"""An exported ONNX file as a function on arrays, through onnxruntime or OpenVINO; what is wrong is said in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headclip_med.base.errors import MissingExtraError, ModelError
from headclip_med.base.files import sha256_file
from headclip_med.engine.card import CARD_KEY, ScoreCard, parse_card
from headclip_med.slicing.scan import Floats

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg
    from openvino import CompiledModel

OPENVINO = "openvino"  # a device is openvino, or openvino:GPU and the like
_PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


# Names and dimensions of what the graph takes and gives; N is any number of slices, S the side of the square input.
INPUTS = {"pixels": ("N", 3, "S", "S"), "valid": ("N", "S", "S")}
OUTPUTS = {"anomaly_map": ("N", 1, "S", "S"), "slice_score": ("N",)}
_OUT_OF_MEMORY = re.compile("out of memory|failed to allocate|bad.?alloc|available memory", re.IGNORECASE)
_ERRORS_ONLY = 3  # onnxruntime's severity: what it would warn of is said in our own words
_EXPORT_AGAIN = "Export the model again with `headclip-med bundle export`"


class OpenVinoSession:
    """A compiled model with the one method that :class:`headclip_med.engine.onnx_graph.OnnxGraph` asks for.

    Args:
        compiled: The model on its device.
        device: OpenVINO's name of it.

    Attributes:
        device: ``cpu``, ``gpu`` and the like.
        precision: In which OpenVINO multiplies matrices there.
    """

    def __init__(self, compiled: CompiledModel, device: str) -> None:
        self.device = device.lower()
        self.precision = _PRECISIONS.get(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(), "float32")
        self._request = compiled.create_infer_request()

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Floats]) -> list[Floats]:
        """Run the graph once.

        Args:
            outputs: Names of what is wanted.
            inputs: Arrays by name.

        Returns:
            Copies of the named outputs, in their order.
        """
        self._request.infer(dict(inputs), share_inputs=True)
        return [self._request.get_tensor(name).data.copy() for name in outputs]


def open_session(file: Path, device: str, precision: str) -> OpenVinoSession:
    """Compile ``file`` for ``openvino`` (its CPU) or ``openvino:DEVICE``.

    Args:
        file: An ONNX file.
        device: ``openvino`` or ``openvino:DEVICE``.
        precision: ``auto`` is what OpenVINO takes for the hardware, or ``float32``.

    Returns:
        A session on that device.

    Raises:
        MissingExtraError: No OpenVINO here.
        ModelError: No such device, or a graph that it cannot compile.
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


@dataclass(frozen=True)
class OnnxGraph:
    """A session on a device, with the card that says what its numbers mean.

    Attributes:
        name: Of the file.
        sha256: Of its bytes.
        device: ``cpu``, ``cuda``, ``gpu``.
        runtime: ``onnxruntime`` or ``openvino``.
        precision: In which matrices are multiplied.
    """

    name: str
    sha256: str
    card: ScoreCard
    device: str
    session: InferenceSession | OpenVinoSession
    runtime: str = "onnxruntime"
    precision: str = "float32"

    def run(self, pixels: Floats, valid: Floats) -> tuple[Floats, Floats] | None:
        """Compute maps and scores of slices.

        Args:
            pixels: ``(n, 3, S, S)`` float32, normalised.
            valid: ``(n, S, S)``, 1 inside the patient, 0 outside.

        Returns:
            Maps ``(n, S, S)`` and scores ``(n,)`` in [0, 1], or None when the device's memory ran out.

        Raises:
            ModelError: The graph cannot be run, or gives something else.
        """
        inputs = {"pixels": np.ascontiguousarray(pixels), "valid": np.ascontiguousarray(valid)}
        try:
            maps, scores = self.session.run(list(OUTPUTS), inputs)
        except Exception as error:  # onnxruntime's kinds of error have no base of their own
            if _OUT_OF_MEMORY.search(str(error)):
                return None
            raise self._unusable(f"an error of the kind {type(error).__name__}") from error
        size = pixels.shape[-2:]
        if maps.shape != (len(pixels), 1, *size) or scores.shape != (len(pixels),):
            raise self._unusable(f"outputs of the shapes {maps.shape} and {scores.shape}")
        if not (np.isfinite(maps).all() and np.isfinite(scores).all()):
            raise self._unusable("values that are not finite")
        return maps[:, 0], scores

    def _unusable(self, given: str) -> ModelError:
        return ModelError(f"The graph in {self.name} must give maps and scores of its pixels", given, _EXPORT_AGAIN)


def open_graph(path: str | Path, device: str = "auto", precision: str = "auto") -> OnnxGraph:
    """Open an exported file on ``auto``, ``cpu``, ``cuda`` or ``cuda:1``, or with OpenVINO on ``openvino[:DEVICE]``.

    Args:
        path: An ``.onnx`` file with a score card in it.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``openvino`` or ``openvino:DEVICE``.
        precision: ``auto`` or ``float32``, for OpenVINO. Without it the graph computes in float32.

    Returns:
        The graph on the device, with its card.

    Raises:
        MissingExtraError: No onnxruntime here, or no OpenVINO where that is asked for.
        ModelError: No such file or device, a damaged file, one without a score card, or another graph.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ModelError("The model must be a file that exists", file.name or str(path), "Check the path")
    runtime = _onnxruntime()
    by_openvino = device.partition(":")[0] == OPENVINO
    provider, options = _provider(runtime, "cpu" if by_openvino else device)
    session = _session(runtime, file, provider, options)
    placed = "cuda" if session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"
    if device.startswith("cuda") and placed == "cpu":
        raise _no_cuda(device, "CUDA's libraries could not be loaded")
    card = _card(session, file.name)
    _check_ports(session, card, file.name)
    digest = sha256_file(file)
    if by_openvino:
        del session  # it only told what the file holds
        compiled = open_session(file, device, precision)
        return OnnxGraph(file.name, digest, card, compiled.device, compiled, OPENVINO, compiled.precision)
    return OnnxGraph(file.name, digest, card, placed, session)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "An .onnx model must have onnxruntime installed", "no onnxruntime", "Run: pip install 'headclip-med[onnx]'"
        ) from error
    return onnxruntime


def _provider(runtime: Any, device: str) -> tuple[str, dict[str, str]]:
    """Name of onnxruntime's provider for a device, and its options."""
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise ModelError(
            "The device of an .onnx model must be auto, cpu, cuda, cuda:N or openvino", device, "Use --device cpu"
        )
    has_cuda = "CUDAExecutionProvider" in runtime.get_available_providers()
    if kind == "cuda" and not has_cuda:
        raise _no_cuda(device, "this onnxruntime is made for the CPU")
    if kind == "cpu" or not has_cuda:
        return "CPUExecutionProvider", {}
    return "CUDAExecutionProvider", {"device_id": number or "0", "use_tf32": "0"}  # TF32 is no float32


def _no_cuda(device: str, why: str) -> ModelError:
    return ModelError(
        "The device must be one that onnxruntime finds here", f"{device}: {why}", "Use --device cpu, or onnxruntime-gpu"
    )


def _session(runtime: Any, file: Path, provider: str, options: dict[str, str]) -> InferenceSession:
    settings = runtime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # between batches numpy has the cores
    providers = [(provider, options), ("CPUExecutionProvider", {})]
    try:
        return runtime.InferenceSession(str(file), settings, providers=providers[: 1 if not options else 2])
    except Exception as error:  # the text may hold paths
        raise ModelError(
            f"{file.name} must be a whole ONNX file that onnxruntime {runtime.__version__} can run",
            f"a damaged, truncated or unsupported file ({type(error).__name__})",
            "Copy or export the model again",
        ) from error


def _card(session: InferenceSession, name: str) -> ScoreCard:
    text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if text is None:
        raise ModelError(
            f"{name} must carry a score card, which says what its numbers mean",
            f"no {CARD_KEY} among its metadata",
            "Export the model with `headclip-med bundle export`",
        )
    return parse_card(text, name)


def _check_ports(session: InferenceSession, card: ScoreCard, name: str) -> None:
    for kind, ports, wanted in (("inputs", session.get_inputs(), INPUTS), ("outputs", session.get_outputs(), OUTPUTS)):
        if {port.name for port in ports} != set(wanted):
            raise ModelError(
                f"The {kind} of {name} must be {' and '.join(wanted)}",
                ", ".join(port.name for port in ports) or "none",
                _EXPORT_AGAIN,
            )
        for port in ports:
            _check_port(port, wanted[port.name], card.pixels.image_size, name)


def _check_port(port: NodeArg, wanted: tuple[str | int, ...], size: int, name: str) -> None:
    """Type and shape; a dimension that the file leaves open fits."""
    expected = [{"N": None, "S": size}.get(str(n), n) for n in wanted]
    fits = len(port.shape) == len(expected) and all(
        not isinstance(given, int) or given == must for given, must in zip(port.shape, expected, strict=True)
    )
    if port.type != "tensor(float)" or not fits:
        shape = ", ".join("N" if n is None else str(n) for n in expected)
        raise ModelError(
            f"{port.name} of {name} must be float32 ({shape}) for any number N of slices",
            f"{port.type} ({', '.join(map(str, port.shape))})",
            _EXPORT_AGAIN,
        )
