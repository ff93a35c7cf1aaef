"""The BMAD tree: ``{train,valid,test}/{good,Ungood}/{img,anomaly_mask}``; slices become volumes again by their names.

Files are called ``<ID>_<slice>.png``: all slices of an ID are one volume of one patient, so that no patient is torn
apart and volume metrics mean something.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.datasets.listing import Listing
from headclip_med.datasets.names import IMAGE_ENDINGS, files_in, folders_in, named, stem_of

_SLICE = re.compile(r"^(.+?)[_-](\d+)$")
_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
_MASKS = ("anomaly_mask", "label", "mask", "masks")

Slice = tuple[int, Path, Path | None, bool]  # number, image, mask, abnormal


def recognise(root: Path) -> bool:
    """A split has ``good`` or ``Ungood`` with an ``img`` folder below."""
    return any(
        named(kind, "img") is not None
        for split in folders_in(root)
        if split.name.lower() in _SPLITS
        for kind in folders_in(split)
    )


def list_cases(root: Path, sequences: object = None) -> Listing:
    """A case per ID and split, slices in the order of their numbers; names without a number stay single images."""
    cases, notes = [], []
    for folder in folders_in(root):
        split = _SPLITS.get(folder.name.lower())
        if split is None:
            continue
        stacks: dict[str, list[Slice]] = defaultdict(list)
        for number, path, mask, abnormal in _slices(folder):
            match = _SLICE.match(stem_of(path))
            if match and number >= 0:
                stacks[match[1]].append((number, path, mask, abnormal))
            else:
                masks = () if mask is None else (mask,)
                cases.append(Case(stem_of(path), (path,), masks, label=abnormal, patient=stem_of(path), split=split))
        for identity, slices in sorted(stacks.items()):
            ordered = sorted(slices, key=lambda part: part[0])
            steps = {b[0] - a[0] for a, b in pairwise(ordered)}
            if len(steps) > 1:
                notes.append(f"{identity} ({split}): slices are missing; what there is stands one after the other")
            cases.append(_stack(identity, ordered, split))
    return Listing(cases, notes)


def _slices(split: Path) -> list[Slice]:
    found: list[Slice] = []
    for kind in folders_in(split):
        images, masks = named(kind, "img"), named(kind, *_MASKS)
        abnormal = kind.name.lower() != "good"
        by_stem = {stem_of(path): path for path in files_in(masks, IMAGE_ENDINGS)} if masks else {}
        for path in files_in(images or kind, IMAGE_ENDINGS, deep=images is None):
            match = _SLICE.match(stem_of(path))
            number = int(match[2]) if match else -1
            found.append((number, path, by_stem.get(stem_of(path)) if abnormal else None, abnormal))
    return found


def _stack(identity: str, slices: list[Slice], split: str) -> Case:
    masks = tuple(mask for _, _, mask, _ in slices)
    abnormal = any(part[3] for part in slices)
    known = any(mask is not None for mask in masks) or not abnormal
    return Case(
        name=identity,
        images=tuple(path for _, path, _, _ in slices),
        masks=masks if known else (),
        label=abnormal,
        patient=identity,
        stacked=True,
        split=split,
    )
