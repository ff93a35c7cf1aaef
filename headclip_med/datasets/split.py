"""Splits that no patient and no copied image crosses."""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headclip_med.datasets.case import CaseDataset
from headclip_med.errors import InputError
from headclip_med.writing.atomic import atomic_path

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def split_patients(
    dataset: CaseDataset,
    labels: Mapping[str, bool | None],
    images: Mapping[str, str],
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, str]:
    """A split for every case.

    Args:
        labels, images: label and content hash by case name; patients who share an image go together.
        fractions: by split; those of 0 stay empty. They are kept as nearly as whole patients allow, for patients with
            and without anything abnormal alike.

    Raises:
        InputError: fractions that do not add up to 1, or fewer patients than splits.
    """
    shares = dict(fractions or FRACTIONS)
    if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise InputError("Fractions must be 0 or more and add up to 1", ", ".join(f"{s:g}" for s in shares.values()))
    groups = _groups(dataset, images)
    wanted = [name for name, share in shares.items() if share > 0]
    if len(groups) < len(wanted):
        raise InputError(
            f"There must be at least one patient for each of {', '.join(wanted)}",
            f"{len(groups)} patient(s) that share no image",
            "Ask for fewer splits",
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    shuffled = [groups[i] for i in order]
    is_abnormal = [any(labels.get(name) for name in group) for group in shuffled]
    found: dict[str, str] = {}
    sizes = dict.fromkeys(wanted, 0)
    for abnormal in (True, False):
        chosen = [group for group, label in zip(shuffled, is_abnormal, strict=True) if label is abnormal]
        within = dict.fromkeys(wanted, 0)
        for group in chosen:
            split = max(wanted, key=lambda name: _need(name, shares, within, sizes))
            within[split] += 1
            sizes[split] += 1
            found |= dict.fromkeys(group, split)
    _fill_empty(found, shuffled, sizes)
    return found


def write_split(dataset: CaseDataset, splits: Mapping[str, str], labels: Mapping[str, bool | None], path: Path) -> None:
    """Write a CSV that the layout ``csv`` reads; image paths relative to it.

    Raises:
        InputError: slices of volumes, which a CSV of paths cannot list; OutputError: it cannot be written.
    """
    stacked = [case.name for case in dataset if case.stacked]
    if stacked:
        raise InputError(
            "A CSV of paths must list whole images or volumes",
            f"{stacked[0]}, a volume of single slices",
            "This layout has splits of its own",
        )
    columns = sorted({name for case in dataset for name in case.columns})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "mask", "label", "patient", "name", "category", "split", *columns])
    for case in dataset:
        label = labels.get(case.name)
        mask = next((m for m in case.masks if m is not None), None)
        writer.writerow(
            [
                ";".join(_relative(image, path) for image in case.images),
                "" if mask is None else _relative(mask, path),
                "" if label is None else int(label),
                case.patient or case.name,
                case.name,
                case.category,
                splits[case.name],
                *(case.columns.get(name, "") for name in columns),
            ]
        )
    with atomic_path(path) as draft:
        draft.write_text(out.getvalue(), encoding="utf-8", newline="\n")


def _need(
    name: str, shares: Mapping[str, float], within: Mapping[str, int], sizes: Mapping[str, int]
) -> tuple[float, float]:
    """How far a split is behind its share, first among its kind of patients, then among all."""
    kind, whole = sum(within.values()) + 1, sum(sizes.values()) + 1
    return shares[name] * kind - within[name], shares[name] * whole - sizes[name]


def _fill_empty(found: dict[str, str], groups: list[list[str]], sizes: dict[str, int]) -> None:
    """Give a split without a patient one of the largest split's."""
    for name in [name for name, size in sizes.items() if size == 0]:
        largest = max(sizes, key=lambda other: sizes[other])
        group = next(group for group in groups if found[group[0]] == largest)
        found |= dict.fromkeys(group, name)
        sizes[largest] -= 1
        sizes[name] += 1


def _groups(dataset: CaseDataset, images: Mapping[str, str]) -> list[list[str]]:
    """Case names of patients; patients with an image in common are one group."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for case in dataset:
        patient = root(f"patient {case.patient or case.name}")
        if case.name in images:
            parent[root(f"image {images[case.name]}")] = patient
    groups: dict[str, list[str]] = defaultdict(list)
    for case in dataset:
        groups[root(f"patient {case.patient or case.name}")].append(case.name)
    return list(groups.values())


def _relative(image: Path, table: Path) -> str:
    try:
        return Path(os.path.relpath(image.absolute(), table.absolute().parent)).as_posix()
    except ValueError:  # another drive
        return str(image.absolute())
