"""Sets whose folders say what is normal: yes / no, good / Ungood, NORMAL / COVID; nothing says where lesions are."""

from __future__ import annotations

from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.datasets.listing import UNKNOWN_PATIENTS, Listing
from headclip_med.datasets.names import files_in, folders_in, label_of, stem_of

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"} | {
    "test": "test",
    "testing": "test",
}


def recognise(root: Path) -> bool:
    """A folder of a normal name stands beside others with images in them."""
    return any(_classes(place) for place, _ in _places(root))


def list_cases(root: Path, sequences: object = None) -> Listing:
    """A case per image; every folder beside the normal one is abnormal."""
    cases = []
    for place, split in _places(root):
        for folder, label in _classes(place):
            kind = folder.name if label_of(folder.name) is None else ""
            for path in files_in(folder, deep=True):
                columns = {"kind": kind} if kind else {}
                name = f"{folder.name}_{stem_of(path)}"
                cases.append(Case(name=name, images=(path,), label=label, split=split, columns=columns))
    return Listing(cases, [UNKNOWN_PATIENTS])


def _places(root: Path) -> list[tuple[Path, str]]:
    """Where class folders may lie: here, or below folders named after splits."""
    split = [(folder, _SPLITS[folder.name.lower()]) for folder in folders_in(root) if folder.name.lower() in _SPLITS]
    return split or [(root, "")]


def _classes(place: Path) -> list[tuple[Path, bool]]:
    folders = [folder for folder in folders_in(place) if files_in(folder, deep=True)]
    labels = [label_of(folder.name) for folder in folders]
    if len(folders) < 2 or False not in labels:
        return []
    return [(folder, label is not False) for folder, label in zip(folders, labels, strict=True)]
