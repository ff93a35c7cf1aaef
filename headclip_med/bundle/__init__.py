"""What a MONAI bundle names, loaded on first use: networks, inferers, data, losses, metrics and handlers."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "AnomalyMetrics": "metrics",
    "CaseEvaluator": "evaluator",
    "CaseLoader": "evaluator",
    "DetectorNetwork": "network",
    "HeadCLIPInferer": "inferer",
    "HeadCLIPNetwork": "network",
    "LedgerSaver": "handlers",
    "LoadCase": "data",
    "MapLoss": "headclip_med.detectors.losses",
    "MethodLoss": "network",
    "MethodNetwork": "network",
    "NameByCased": "data",
    "PackSaver": "handlers",
    "PatchGridInferer": "inferer",
    "PixelsInferer": "inferer",
    "ScoreSaver": "handlers",
    "SetTrainer": "handlers",
    "TakeScoresd": "inferer",
    "TrainingSlices": "data",
    "build_network": "build_model",
    "find_cases": "data",
    "find_images": "data",
    "new_method": "build_model",
    "read_ledger": "handlers",
    "seen_by": "handlers",
    "whole_ledger": "handlers",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        home = _PUBLIC[name]
        return getattr(import_module(home if "." in home else f"headclip_med.bundle.{home}"), name)
    raise AttributeError(f"module 'headclip_med.bundle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
