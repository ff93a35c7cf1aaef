"""Labelled cases from the folder layouts that are in use; shared by training and evaluation."""

from __future__ import annotations

from headclip_med.datasets.case import Case, LabelledVolume
from headclip_med.datasets.dataset import CaseDataset
from headclip_med.datasets.layouts.registry import LAYOUTS, open_dataset

__all__ = ["LAYOUTS", "Case", "CaseDataset", "LabelledVolume", "open_dataset"]
