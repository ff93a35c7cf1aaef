"""Labelled cases and models → metrics with intervals, tables and a report. Loaded on first use: importing is cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headclip_med.evaluation.record import EvaluationRecord
    from headclip_med.evaluation.run import EvaluationResult, EvaluationWatcher, evaluate
    from headclip_med.evaluation.scorers import ModelSpec
    from headclip_med.evaluation.settings import Settings

_LAZY = {
    "EvaluationRecord": "headclip_med.evaluation.record",
    "EvaluationResult": "headclip_med.evaluation.run",
    "EvaluationWatcher": "headclip_med.evaluation.run",
    "ModelSpec": "headclip_med.evaluation.scorers",
    "Settings": "headclip_med.evaluation.settings",
    "evaluate": "headclip_med.evaluation.run",
}

__all__ = ["EvaluationRecord", "EvaluationResult", "EvaluationWatcher", "ModelSpec", "Settings", "evaluate"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'headclip_med.evaluation' has no attribute {name!r}")
