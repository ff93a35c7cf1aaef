"""Splits that no patient and no copied image crosses."""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headclip_med.base.errors import InputError
from headclip_med.base.files import atomic_path
from headclip_med.datasets.dataset import CaseDataset
from headclip_med.datasets.layouts.tables import FIELDS, written_values

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
_SEPARATOR = ";"  # of several images in one field


def split_patients(
    dataset: CaseDataset,
    labels: Mapping[str, bool | None] | None = None,
    images: Mapping[str, str] | None = None,
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, str]:
    """Split a set so that no patient and no copied image crosses.

    Args:
        dataset: A labelled set.
        labels: By case name, where reading the masks has told more than ``case.label``.
        images: Content hash by case name, where patients who share an image go together.
        fractions: By split, default :data:`FRACTIONS`, where those of 0 stay empty. They are kept as nearly as whole
            patients allow, for patients with and without anything abnormal alike.
        seed: Of the draw.

    Returns:
        Split by case name.

    Raises:
        InputError: fractions that do not add up to 1, or fewer patients than splits.
    """
    shares = dict(FRACTIONS if fractions is None else fractions)
    _check_shares(shares)
    groups = _groups(dataset, images or {})
    wanted = [name for name, share in shares.items() if share > 0]
    if len(groups) < len(wanted):
        raise InputError(
            f"There must be at least one patient for each of {', '.join(wanted)}",
            f"{len(groups)} patient(s) that share no image",
            "Ask for fewer splits",
        )
    known = {case.name: case.label for case in dataset} | dict(labels or {})
    order = np.random.default_rng(seed).permutation(len(groups))
    shuffled = [groups[i] for i in order]
    is_abnormal = [any(known[name] for name in group) for group in shuffled]
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


def write_split(
    dataset: CaseDataset, splits: Mapping[str, str], path: Path, labels: Mapping[str, bool | None] | None = None
) -> None:
    """Write a CSV that the layout ``csv`` reads, with paths relative to it where that is possible.

    Args:
        dataset: A labelled set.
        splits: By case name.
        path: Of the CSV.
        labels: As for :func:`split_patients`.

    Raises:
        InputError: what a CSV of paths cannot list: slices of volumes, one of several volumes in a file, or a name with
            the separator of images in it.
        OutputError: it cannot be written.
    """
    check_listable(dataset)
    known = {case.name: case.label for case in dataset} | dict(labels or {})
    columns = sorted({name for case in dataset for name in case.columns})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*FIELDS, *columns])
    for case in dataset:
        label = known[case.name]
        facts = {
            "image": _SEPARATOR.join(_relative(image, path) for image in case.images),
            "mask": _SEPARATOR.join(_relative(mask, path) for mask in case.masks if mask is not None),
            "label": "" if label is None else int(label),
            "patient": case.patient or case.name,
            "name": case.name,
            "category": case.category,
            "split": splits[case.name],
            **written_values(case.values),
        }
        writer.writerow([*(facts[field] for field in FIELDS), *(case.columns.get(name, "") for name in columns)])
    with atomic_path(path) as draft:
        draft.write_text(out.getvalue(), encoding="utf-8", newline="\n")


def check_listable(dataset: CaseDataset) -> None:
    """Refuse what :func:`write_split` would, before anything is read.

    Args:
        dataset: A labelled set.

    Raises:
        InputError: what a CSV of paths cannot list.
    """
    for case in dataset:
        if case.stacked:
            hint = "This layout has splits of its own"
            raise InputError("A CSV of paths must list whole images", f"{case.name}, a volume of slices", hint)
        if case.volumes:
            hint = "Save the sequences as files of their own"
            raise InputError("A CSV of paths must list whole files", f"{case.name}, a volume of a 4-D file", hint)
        files = [file for file in (*case.images, *case.masks) if file is not None]
        if unlisted := [file for file in files if not _is_text(file)]:
            raise InputError("A list must name files whose names are UTF-8", unlisted[0], "Rename files and folders")
        if any(_SEPARATOR in part for file in files for part in file.parts[len(dataset.root.parts) :] or [file.name]):
            raise InputError(f"The files of {case.name} must have no {_SEPARATOR} in their names", "one with it")


def _is_text(file: Path) -> bool:
    try:
        str(file).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_shares(shares: Mapping[str, float]) -> None:
    if not (all(share >= 0 for share in shares.values()) and abs(sum(shares.values()) - 1) <= 1e-6):
        raise InputError("Fractions must be 0 or more and add up to 1", ", ".join(f"{s:g}" for s in shares.values()))


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
