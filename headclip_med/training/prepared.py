"""Auxiliary cases → the slices of a run, and what a run rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headclip_med.base.errors import InputError
from headclip_med.encoders.build import BuiltTower
from headclip_med.models.domains import get_domain
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.training.auxiliary import Part
from headclip_med.training.config import TrainConfig
from headclip_med.training.feature_store import kept_folder
from headclip_med.training.slices import SlicesOfCase, TrainingSlice, training_slices


def slices_of(parts: Sequence[Part], which: str, config: TrainConfig, spec: Preprocessing) -> list[TrainingSlice]:
    """Slices of the ``train`` or the ``held_out`` cases of every part; kept on disk at least until the run is done."""
    domain, place = get_domain(config.domain), config.cache_dir or kept_folder(config.out)
    return [
        cut
        for part in parts
        for cut in training_slices(
            SlicesOfCase(part.dataset, domain, spec, config.slices),
            getattr(part, which),
            place,
            part.entry.content_sha256,
        )
    ]


def check_labels(words: str, slices: Sequence[TrainingSlice]) -> None:
    """Refuse slices that show only one class."""
    lesions = sum(part.label for part in slices)
    whole = any(bool((part.mask == 0).logical_and(part.valid).any()) for part in slices)
    if not slices or not lesions or not whole:
        given = "no slice" if not slices else "no lesion at all" if not lesions else "nothing but lesion"
        raise InputError(
            f"The {words} slices must show lesions and something else", given, "Give more patients, or other data"
        )


def run_identity(config: TrainConfig, built: BuiltTower, parts: Sequence[Part]) -> dict[str, Any]:
    """What a checkpoint rests on; the number of steps may grow, but where the schedule is made of it."""
    places = {"out", "name", "model", "weights", "scope", "cache_gib", "cache_dir", "track", "data"}
    fields = config.model_dump(mode="json", exclude=places)
    if config.schedule != "text_then_heads":
        del fields["steps"]
    if config.preprocessing == "own":
        del fields["preprocessing"]  # as in checkpoints that were written before there was another
    return {
        "configuration": fields,
        "tower": built.sha256,
        "data": [part.entry.content_sha256 for part in parts],
    }
