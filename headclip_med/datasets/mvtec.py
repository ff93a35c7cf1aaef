"""The MVTec-AD tree: ``<object>/{train/good,test/<defect>,ground_truth/<defect>}``; the object is the category."""

from __future__ import annotations

from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.datasets.listing import UNKNOWN_PATIENTS, Listing
from headclip_med.datasets.names import IMAGE_ENDINGS, files_in, folders_in, named, stem_of


def recognise(root: Path) -> bool:
    """An object folder has both ``test`` and ``ground_truth``."""
    return any(_is_object(folder) for folder in (root, *folders_in(root)))


def list_cases(root: Path, sequences: object = None) -> Listing:
    """A case per image of every object, with its split."""
    objects = [folder for folder in (root, *folders_in(root)) if _is_object(folder)]
    cases = [case for folder in objects for split in ("train", "test") for case in _cases(folder, split)]
    missing = sum(bool(case.label) and not case.masks for case in cases)
    notes = [UNKNOWN_PATIENTS, *([f"{missing} abnormal images have no mask"] if missing else [])]
    return Listing(cases, notes)


def _is_object(folder: Path) -> bool:
    test = named(folder, "test")
    return test is not None and named(folder, "ground_truth") is not None and named(test, "good") is not None


def _cases(folder: Path, split: str) -> list[Case]:
    place, truth = named(folder, split), named(folder, "ground_truth")
    found = []
    for kind in folders_in(place) if place else []:
        normal = kind.name.lower() == "good"
        masks = {} if truth is None else _masks(truth / kind.name)
        for path in files_in(kind, IMAGE_ENDINGS):
            mask = None if normal else masks.get(stem_of(path)) or masks.get(f"{stem_of(path)}_mask")
            found.append(
                Case(
                    name=f"{folder.resolve().name}_{split}_{kind.name}_{stem_of(path)}",
                    images=(path,),
                    masks=() if mask is None else (mask,),
                    label=not normal,
                    category=folder.resolve().name,
                    split=split,
                    columns={} if normal else {"kind": kind.name},
                )
            )
    return found


def _masks(folder: Path) -> dict[str, Path]:
    return {stem_of(path): path for path in files_in(folder, IMAGE_ENDINGS)} if folder.is_dir() else {}
