"""Slices of the shared data, maps of them, and what the maps are worth: what the studies of this folder share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headclip_med.datasets import CaseDataset, open_dataset
from headclip_med.detectors.vectors import ClassVectors
from headclip_med.encoders.build import BuiltTower
from headclip_med.evaluation.metrics import curves
from headclip_med.evaluation.metrics.counts import CountSum, ScoreCounts, count_map, count_scores
from headclip_med.models.domains import get_domain
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.training.adapter import Adapter
from headclip_med.training.config import SliceConfig
from headclip_med.training.features import FeatureBank
from headclip_med.training.fusion import Fusion, fused, pixel_features
from headclip_med.training.run import start_vectors
from headclip_med.training.slices import SlicesOfCase, TrainingSlice, training_slices

SHARED = Path(os.environ.get("HEADCLIP_SHARED", "../shared"))
TOWER = SHARED / "weights" / "dinov2_vits14_timm_fp16.safetensors"
METRICS = ("auroc", "average_precision", "f1_max", "aupro", "image_auroc", "image_average_precision")
SIGMA = 4.0


@dataclass(frozen=True)
class Fold:
    """Slices to adapt on and slices to test on; no patient is in both."""

    name: str
    train: list[TrainingSlice]
    test: list[TrainingSlice]


# Labelled sets with FLAIR, and their sequences.
_FLAIR_SETS = {"ms_flair": ("t2f", "t2w", "t1n"), "brats/TCGA-DU-7294": ("t2f", "t2w", "t1n", "t1c")}


def flair_folds(built: BuiltTower, image_size: int, sequence: str = "t2f") -> list[Fold]:
    """One fold per patient with FLAIR, tested on that patient and adapted on the others."""
    data = SHARED / "data"
    config = SliceConfig(lesion=24, free=12, copies=0)
    slices = [
        part
        for path, sequences in _FLAIR_SETS.items()
        if sequence in sequences
        for part in cut_slices_of(
            open_dataset(f"brats:{data / path}", sequences=[sequence]), "brain-mri", built, image_size, config
        )
    ]
    patients = dict.fromkeys(part.patient for part in slices)
    return [
        Fold(name, [s for s in slices if s.patient != name], [s for s in slices if s.patient == name])
        for name in patients
    ]


def cut_slices_of(
    dataset: CaseDataset, domain: str, built: BuiltTower, image_size: int, config: SliceConfig
) -> list[TrainingSlice]:
    spec = Preprocessing(image_size, built.tower.mean, built.tower.std)
    return training_slices(SlicesOfCase(dataset, get_domain(domain), spec, config), dataset.cases)


Scorer = Callable[[FeatureBank, int], tuple[NDArray[np.float32], float]]


def map_scorer(adapter: Adapter, fusion: Fusion | None = None) -> Scorer:
    """Smoothed map of one slice, and its maximum inside the patient."""

    def score(bank: FeatureBank, index: int) -> tuple[NDArray[np.float32], float]:
        smooth, levels, inside, _ = pixel_features(adapter, bank, index, SIGMA)
        found = fused(smooth, levels, fusion) * inside
        return found.numpy(), float(found.max())

    return score


def fit_vectors(adapter: Adapter, bank: FeatureBank, seed: int) -> None:
    """Class vectors to convergence on the features under the present head weights."""
    assert isinstance(adapter.classes, ClassVectors)
    start_vectors(adapter, adapter.classes, bank, seed)


def control_scorer(kind: str, mean: Sequence[float], std: Sequence[float]) -> Scorer:
    """Brightness or redness alone."""
    centre, spread = (torch.tensor(tuple(v)).view(3, 1, 1) for v in (mean, std))

    def score(bank: FeatureBank, index: int) -> tuple[NDArray[np.float32], float]:
        part = bank.slices[index]
        levels = (part.pixels.float() * spread + centre).clamp(0, 1)
        grey = levels[0] / (levels.sum(dim=0) + 1e-3) if kind == "redness" else levels.mean(dim=0)
        found = grey.clamp(0, 1) * part.valid
        if not part.valid.any():
            return found.numpy(), 0.0
        top = found[part.valid].sort().values[-max(1, int(0.01 * part.valid.sum())) :]
        return found.numpy(), float(top.mean())

    return score


@dataclass
class Tally:
    """Counts of one variant under one seed, by case, over all folds or within one."""

    pixels: list[tuple[str, ScoreCounts]]
    images: list[tuple[str, ScoreCounts]]


def measure(scorer: Scorer, bank: FeatureBank) -> Tally:
    """Score every slice of a test bank."""
    tally = Tally([], [])
    for index, part in enumerate(bank.slices):
        found, image = scorer(bank, index)
        counts = count_map(found, part.mask.numpy() > 0, inside=part.valid.numpy())
        label = np.array([part.label])
        tally.pixels.append((part.case, counts))
        tally.images.append((part.case, count_scores(np.array([min(max(image, 0), 1)]), label)))
    return tally


def numbers(tally: Tally) -> dict[str, float]:
    """The metrics of one seed on all slices of a tally."""
    pixels, images = (pooled(part) for part in (tally.pixels, tally.images))
    return {
        **pixel_metrics(pixels.negatives, pixels.positives, pixels.regions, pixels.n_regions),
        "image_auroc": float(curves.auroc(images.negatives, images.positives)),
        "image_average_precision": float(curves.average_precision(images.negatives, images.positives)),
    }


def pixel_metrics(negatives: Any, positives: Any, regions: Any, n_regions: Any) -> dict[str, Any]:
    return {
        "auroc": curves.auroc(negatives, positives),
        "average_precision": curves.average_precision(negatives, positives),
        "f1_max": curves.f1_max(negatives, positives),
        "aupro": curves.aupro(negatives, regions, n_regions),
    }


def pooled(parts: Sequence[tuple[str, ScoreCounts]]) -> ScoreCounts:
    total = CountSum()
    for _, counts in parts:
        total.add(counts)
    return total.counts()
