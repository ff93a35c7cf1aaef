"""headclip_med: zero-shot anomaly detection for medical images. Research use only, not a medical device.

The public names are loaded on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_engine": "headclip_med.engine",
    "load_onnx_engine": "headclip_med.exports.onnx_engine",
    "Engine": "headclip_med.engine",
    "AnomalyResult": "headclip_med.result",
    "Finding": "headclip_med.result",
    "SliceScore": "headclip_med.result",
    "read_volume": "headclip_med.reading",
    "HeadclipError": "headclip_med.errors",
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
    from headclip_med.datasets import open_dataset
    from headclip_med.engine import Engine, load_engine
    from headclip_med.errors import HeadclipError
    from headclip_med.evaluation.run import EvaluationResult, evaluate
    from headclip_med.exports.onnx_engine import load_onnx_engine
    from headclip_med.reading import read_volume
    from headclip_med.result import AnomalyResult, Finding, SliceScore


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'headclip_med' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
