"""headclip_med: zero-shot anomaly detection for medical images. Research use only, not a medical device.

The public names are loaded on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "load_engine": "headclip_med.engine.load",
    "load_onnx_engine": "headclip_med.engine.load",
    "Engine": "headclip_med.engine.engine",
    "AnomalyResult": "headclip_med.engine.result",
    "Finding": "headclip_med.engine.result",
    "SliceScore": "headclip_med.engine.result",
    "read_volume": "headclip_med.reading",
    "HeadclipError": "headclip_med.base.errors",
    "open_dataset": "headclip_med.datasets",
    "evaluate": "headclip_med.evaluation.run",
    "EvaluationResult": "headclip_med.evaluation.run",
}

__all__ = [
    "AnomalyResult",
    "Engine",
    "EvaluationResult",
    "Finding",
    "HeadclipError",
    "SliceScore",
    "evaluate",
    "load_engine",
    "load_onnx_engine",
    "open_dataset",
    "read_volume",
]

if TYPE_CHECKING:
    from headclip_med.base.errors import HeadclipError
    from headclip_med.datasets import open_dataset
    from headclip_med.engine.engine import Engine
    from headclip_med.engine.load import load_engine, load_onnx_engine
    from headclip_med.engine.result import AnomalyResult, Finding, SliceScore
    from headclip_med.evaluation.run import EvaluationResult, evaluate
    from headclip_med.reading import read_volume


def keep_triton_out() -> None:
    """Have torch do without triton where Mesa's OpenGL is open, such as in a process with a napari window.

    triton brings an LLVM of its own. Loaded after Mesa's, it ends the process. An engine never compiles, so that
    nothing is lost. Windows and macOS have no Mesa. It must be called before torch's compiler is loaded.
    """
    if "triton" in sys.modules or not sys.platform.startswith("linux"):
        return
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:  # noqa: PTH123
        if any(name in line for line in maps for name in ("libLLVM", "libgallium", "_dri.so")):
            sys.modules["triton"] = None  # type: ignore[assignment]


keep_triton_out()


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        keep_triton_out()
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'headclip_med' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
