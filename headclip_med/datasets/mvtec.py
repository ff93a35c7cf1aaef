"""The MVTec-AD tree: ``<object>/{train/good,test/<defect>,ground_truth/<defect>}``; the object is the category."""

from __future__ import annotations

from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.datasets.listing import UNKNOWN_PATIENTS, Listing
from headclip_med.datasets.names import IMAGE_ENDINGS, files_in, folders_in, named, stem_of


def recognise(root: Path) -> bool:
    """An object folder has both ``test`` and ``ground_truth``."""
    return bool(_objects(root))


def list_cases(root: Path) -> Listing:
    """A case per image of every object, with its split."""
    cases = [case for folder in _objects(root) for split in ("train", "test") for case in _cases(folder, split)]
    used = {mask for case in cases for mask in case.masks}
    truths = [truth for folder in _objects(root) if (truth := named(folder, "ground_truth"))]
    kinds = [kind for truth in truths for kind in folders_in(truth) if kind.name.lower() != "good"]
    masks = [path for kind in kinds for path in files_in(kind, IMAGE_ENDINGS)]
    return Listing(cases, [UNKNOWN_PATIENTS], [path for path in masks if path not in used])


def _objects(root: Path) -> list[Path]:
    """The object folders of a set, or the one that was given."""
    return [folder for folder in (root, *folders_in(root)) if _is_object(folder)]


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
                    name=f"{kind.name}_{stem_of(path)}",
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
