"""Sets whose folders say what is normal: yes / no, good / Ungood, NORMAL / COVID; nothing says where lesions are."""

from __future__ import annotations

from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.datasets.listing import UNKNOWN_PATIENTS, Listing
from headclip_med.datasets.names import MASK_FOLDERS, SPLITS, files_in, folders_in, label_of, split_of, stem_of

_LUNG_MASKS = "masks in the class folders are not used: they need not show lesions"


def recognise(root: Path) -> bool:
    """A folder of a normal name stands beside others with images in them."""
    return any(_classes(place) for place, _ in _places(root))


def list_cases(root: Path) -> Listing:
    """A case per image; every folder beside the normal one is abnormal."""
    cases, notes = [], [UNKNOWN_PATIENTS]
    for place, split in _places(root):
        for folder, label in _classes(place):
            columns = {"kind": folder.name} if label_of(folder.name) is None else {}
            paths = files_in(folder, deep=True)
            images = [path for path in paths if not _is_mask(path, folder)]
            if len(images) < len(paths):
                notes.append(_LUNG_MASKS)  # COVID-19 Radiography has lungs in NORMAL/masks
            for path in images:
                name = f"{folder.name}_{stem_of(path)}"
                cases.append(Case(name=name, images=(path,), label=label, split=split, columns=columns))
    return Listing(cases, notes)


def _places(root: Path) -> list[tuple[Path, str]]:
    """Where class folders may lie: here, or below folders named after splits."""
    below = [(folder, split_of(folder.name)) for folder in folders_in(root) if folder.name.lower() in SPLITS]
    return below or [(root, "")]


def _classes(place: Path) -> list[tuple[Path, bool]]:
    """Class folders and whether they are abnormal; none where no folder has a normal name."""
    folders = [folder for folder in folders_in(place) if files_in(folder, deep=True)]
    labels = [label_of(folder.name) for folder in folders]
    if len(folders) < 2 or False not in labels:
        return []
    return [(folder, label is not False) for folder, label in zip(folders, labels, strict=True)]


def _is_mask(path: Path, folder: Path) -> bool:
    return any(part.lower() in MASK_FOLDERS for part in path.relative_to(folder).parts[:-1])
