"""What a MONAI bundle names: the network, the inferer, data, losses, metrics and handlers; loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "AnomalyMetrics": "metrics",
    "CaseEvaluator": "evaluator",
    "CaseLoader": "evaluator",
    "HeadCLIPInferer": "inferer",
    "HeadCLIPNetwork": "network",
    "LedgerSaver": "handlers",
    "LoadCase": "data",
    "MapLoss": "headclip_med.detectors.losses",
    "MethodLoss": "method_network",
    "MethodNetwork": "method_network",
    "NameByCased": "data",
    "PackSaver": "handlers",
    "PatchGridInferer": "inferer",
    "PixelsInferer": "inferer",
    "ScoreSaver": "handlers",
    "SetTrainer": "handlers",
    "TakeScoresd": "inferer",
    "TrainingSlices": "data",
    "build_network": "network",
    "find_cases": "data",
    "find_images": "data",
    "new_method": "method_network",
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
