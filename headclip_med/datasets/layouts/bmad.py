"""The BMAD tree: ``{train,valid,test}/{good,Ungood}/{img,anomaly_mask}``; slices become volumes again by their names.

Files are called ``<ID>_<slice>.png``: all slices of an ID are one volume of one patient, so that no patient is torn
apart and volume metrics mean something. Sets without masks (OCT2017, chest films, tissue tiles) hold single images, of
which an ID may have several: they are not stacked.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from headclip_med.datasets.case import Case
from headclip_med.datasets.layouts.lists import Listing, Tree
from headclip_med.datasets.names import IMAGE_ENDINGS, files_in, folders_in, named, split_of, stem_of
from headclip_med.datasets.values import EVERY_VALUE

_SLICE = re.compile(r"^(.+)_(\d+)$")
_MASKS = ("anomaly_mask", "label", "mask", "masks")


class _Slice(NamedTuple):
    """One file: the ID and number in its name (the whole name and -1 where it has none)."""

    identity: str
    number: int
    image: Path
    mask: Path | None
    abnormal: bool
    split: str


def recognise(tree: Tree) -> bool:
    """Tell whether a split has ``good`` or ``Ungood`` with an ``img`` folder below.

    Args:
        tree: What lies in the folder.

    Returns:
        True where one has.
    """
    return any(named(kind, "img") is not None for folder in _splits(tree.root) for kind in folders_in(folder))


def list_cases(tree: Tree) -> Listing:
    """List a case per ID and split, its slices by their numbers, where names without a number stay single images.

    Args:
        tree: What lies in the folder.

    Returns:
        The cases.
    """
    root = tree.root
    slices = [part for folder in _splits(root) for part in _slices(folder)]
    notes: list[str] = []
    has_masks = any(part.mask is not None for part in slices)
    if not has_masks:
        notes.append("no masks: every image is a case, and images are not stacked to volumes")
    stacks: dict[tuple[str, str], list[_Slice]] = defaultdict(list)
    cases = []
    for part in slices:
        if has_masks and part.number >= 0:
            stacks[part.split, part.identity].append(part)
        else:
            cases.append(_single(part))
    for (split, identity), found in stacks.items():
        ordered = sorted(found, key=lambda part: part.number)
        notes += [f"{identity} ({split}): {words}" for words in _doubts(ordered)]
        cases.append(_stack(ordered))
    why = next((part.image.relative_to(root).as_posix() for part in slices if part.mask), "")
    return Listing(cases, notes, _strays(root, slices), why=why)


def _splits(root: Path) -> list[Path]:
    return [folder for folder in folders_in(root) if split_of(folder.name) in ("train", "val", "test")]


def _slices(folder: Path) -> list[_Slice]:
    found: list[_Slice] = []
    for kind in folders_in(folder):
        images, masks = named(kind, "img"), named(kind, *_MASKS)
        abnormal = kind.name.lower() != "good"
        by_stem = {stem_of(path): path for path in files_in(masks, IMAGE_ENDINGS)} if masks else {}
        for path in files_in(images or kind, IMAGE_ENDINGS, deep=images is None):
            match = _SLICE.match(stem_of(path))
            identity, number = (match[1], int(match[2])) if match else (stem_of(path), -1)
            mask = by_stem.get(stem_of(path)) if abnormal else None
            found.append(_Slice(identity, number, path, mask, abnormal, split_of(folder.name)))
    return found


def _single(part: _Slice) -> Case:
    return Case(
        name=stem_of(part.image),
        images=(part.image,),
        masks=() if part.mask is None else (part.mask,),
        label=part.abnormal,
        patient=part.identity,
        split=part.split,
        values=EVERY_VALUE,
    )


def _stack(slices: list[_Slice]) -> Case:
    first = slices[0]
    abnormal = any(part.abnormal for part in slices)
    masks = tuple(part.mask for part in slices)
    known = not abnormal or any(mask is not None for mask in masks)
    return Case(
        name=first.identity,
        images=tuple(part.image for part in slices),
        masks=masks if known else (),
        label=abnormal,
        patient=first.identity,
        stacked=True,
        split=first.split,
        values=EVERY_VALUE,
    )


def _doubts(slices: list[_Slice]) -> list[str]:
    """What is odd about the slices of one volume, which are in order."""
    steps = {after.number - before.number for before, after in pairwise(slices)}
    doubts = []
    if 0 in steps:
        doubts.append("a slice number occurs twice")
    elif len(steps) > 1:
        doubts.append("slice numbers have gaps; what there is stands one after the other")
    blank = sum(part.abnormal and part.mask is None for part in slices)
    if blank and any(part.mask is not None for part in slices):
        doubts.append(f"{blank} abnormal slices have no mask and count as without lesion")
    return doubts


def _strays(root: Path, slices: list[_Slice]) -> list[Path]:
    used = {part.mask for part in slices}
    kinds = [kind for folder in _splits(root) for kind in folders_in(folder) if kind.name.lower() != "good"]
    folders = [masks for kind in kinds if (masks := named(kind, *_MASKS))]
    return [path for masks in folders for path in files_in(masks, IMAGE_ENDINGS) if path not in used]
