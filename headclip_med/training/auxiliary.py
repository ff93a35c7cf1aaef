"""Auxiliary sets → training and validation cases: read once, copies counted once, no patient on both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from headclip_med.base.errors import InputError
from headclip_med.datasets import Case, CaseDataset, open_dataset
from headclip_med.datasets.fingerprints import Fingerprint, Inventory, take_inventory
from headclip_med.datasets.split import split_patients
from headclip_med.encoders.build import BuiltTower
from headclip_med.models.domains import get_domain
from headclip_med.models.record import SHORT_HASH, LedgerEntry
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.training.config import DataConfig, TrainConfig
from headclip_med.training.feature_store import kept_folder
from headclip_med.training.slices import SlicesOfCase, TrainingSlice, training_slices

Progress = Callable[[str], None]


def slices_of(parts: Sequence[Part], which: str, config: TrainConfig, spec: Preprocessing) -> list[TrainingSlice]:
    """Cut the ``train`` or the ``held_out`` cases of every part.

    The slices are kept on disk at least until the run is done.

    Args:
        parts: Auxiliary sets.
        which: ``train`` or ``held_out``.
        config: Gives domain, choice of slices and place on disk.
        spec: Gives input size, mean and spread.

    Returns:
        Slices of all cases, in order.
    """
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
    """Refuse slices that show only one class.

    Args:
        words: What the slices are for, for messages.
        slices: All of them.

    Raises:
        InputError: No slice, no lesion, or nothing but lesion.
    """
    lesions = sum(part.label for part in slices)
    whole = any(bool((part.mask == 0).logical_and(part.valid).any()) for part in slices)
    if not slices or not lesions or not whole:
        given = "no slice" if not slices else "no lesion at all" if not lesions else "nothing but lesion"
        raise InputError(
            f"The {words} slices must show lesions and something else", given, "Give more patients, or other data"
        )


def run_identity(config: TrainConfig, built: BuiltTower, parts: Sequence[Part]) -> dict[str, Any]:
    """Give what a checkpoint rests on.

    The number of steps may grow, but not where the schedule is made of it.

    Args:
        config: Of the run.
        built: The tower.
        parts: Auxiliary sets.

    Returns:
        Plain JSON values, equal for runs that may go on from one another's checkpoint.
    """
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


@dataclass(frozen=True)
class Part:
    """One auxiliary set: cases for training and for validation, and its line in the ledger."""

    dataset: CaseDataset
    train: tuple[Case, ...]
    held_out: tuple[Case, ...]
    entry: LedgerEntry


def check_masks(config: TrainConfig) -> None:
    """Refuse, before a tower is loaded, a set that does not say where lesions are.

    Args:
        config: Names the sets.

    Raises:
        InputError: A set without masks.
    """
    for data in config.data:
        _opened(data)


def _opened(data: DataConfig) -> CaseDataset:
    dataset = open_dataset(
        data.path,
        name=data.name,
        sequences=list(data.sequences) or None,
        split=data.split,
        lesion_values=data.lesion_values,
        ignore_values=data.ignore_values,
    )
    if not dataset.has_masks:
        raise InputError(
            "Auxiliary data must say where lesions are",
            f"{dataset.name} has no masks",
            "Choose a set with masks; labels alone cannot train a map",
        )
    return dataset


def auxiliary_parts(config: TrainConfig, done: Progress | None = None) -> list[Part]:
    """Open and split every auxiliary set.

    Args:
        config: Names the sets and the share held back.
        done: Is told the name of each case that was read.

    Returns:
        One part for each set, in order.

    Raises:
        InputError: A set without masks or without usable cases, one in which everything or nothing is abnormal, or too
            few patients to hold any back.
    """
    seen: set[str] = set()
    parts = []
    for data in config.data:
        dataset = _opened(data)
        fingerprints = [_fingerprint(dataset, case, done) for case in dataset]
        inventory = take_inventory(fingerprints, seen)
        seen |= {found.image_sha256 for found in fingerprints if found.case in set(inventory.counted)}
        parts.append(_part(dataset, data, fingerprints, inventory, config))
    _check_both_classes(parts)
    return parts


def _part(
    dataset: CaseDataset,
    data: DataConfig,
    fingerprints: Sequence[Fingerprint],
    inventory: Inventory,
    config: TrainConfig,
) -> Part:
    counted = set(inventory.counted)
    by_name = {found.case: found for found in fingerprints}
    usable = [case for case in dataset if case.name in counted and by_name[case.name].has_mask]
    if not usable:
        reasons = list(inventory.failed.values())
        raise InputError(
            f"{dataset.name} must have a case with a mask that can be read",
            reasons[0] if reasons else "none",
            "Run `headclip-med data check`",
        )
    chosen = CaseDataset(dataset.name, dataset.layout, dataset.root, tuple(usable), dataset.notes)
    labels = {case.name: by_name[case.name].label for case in usable}
    images = {case.name: by_name[case.name].image_sha256 for case in usable}
    shares = {"train": 1 - config.validation, "val": config.validation}
    if len({case.patient or case.name for case in usable}) == 1:
        splits = dict.fromkeys(labels, "train")  # nobody can be held back from a set of one patient
    else:
        splits = split_patients(chosen, labels, images, shares, config.seed)
    hashes = tuple(sorted(by_name[case.name].image_sha256[:SHORT_HASH] for case in usable))
    entry = LedgerEntry(
        name=dataset.name,
        licence=data.licence,
        count=len(usable),
        content_sha256=inventory.content_sha256,
        image_sha256=hashes,
    )
    train, held_out = (tuple(case for case in usable if splits[case.name] == name) for name in ("train", "val"))
    return Part(dataset, train, held_out, entry)


def _fingerprint(dataset: CaseDataset, case: Case, done: Progress | None) -> Fingerprint:
    from headclip_med.datasets.fingerprints import fingerprint_case

    found = fingerprint_case(dataset, case)
    if done is not None:
        done(case.name)
    return found


def _check_both_classes(parts: Sequence[Part]) -> None:
    for words, cases in (("training", "train"), ("validation", "held_out")):
        if not any(getattr(part, cases) for part in parts):
            raise InputError(f"The {words} part must not be empty", "no case", "Give more patients, or another share")
