"""Names of files, cases and classes, as the layouts need them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from headclip_med.datasets.case import Case

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

NORMAL_WORDS = ("no", "normal", "good", "healthy", "negative", "control", "controls", "notumor")
ABNORMAL_WORDS = ("yes", "abnormal", "ungood", "defect", "anomaly", "tumor", "tumour", "positive", "diseased", "lesion")

MASK_FOLDERS = ("mask", "masks", "anomaly_mask", "ground_truth", "ground truth", "groundtruth", "gt", "label", "labels")

# What splits are called; the values are ours.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

_LONGEST_NAME, _MOST_BYTES = 80, 200  # file systems take 255 bytes; suffixes need room


def stem_of(path: Path) -> str:
    """File name without its ending, ``.nii.gz`` being one."""
    lowered = path.name.lower()
    ending = next((e for e in (*VOLUME_ENDINGS, *IMAGE_ENDINGS) if lowered.endswith(e)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def files_in(
    folder: Path, endings: Sequence[str] = (*IMAGE_ENDINGS, *VOLUME_ENDINGS), *, deep: bool = False
) -> list[Path]:
    """Images and volumes of a folder, sorted, without hidden ones."""
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(
        path
        for path in found
        if path.name.lower().endswith(tuple(endings))
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def folders_in(folder: Path) -> list[Path]:
    """Folders of a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def named(folder: Path, *names: str) -> Path | None:
    """The first folder of one of these names, whatever its case."""
    if not folder.is_dir():
        return None
    by_name = {path.name.lower(): path for path in folders_in(folder)}
    return next((by_name[name] for name in names if name in by_name), None)


def split_of(name: str) -> str:
    """``train``, ``val`` or ``test`` for what sets call them; any other name as it is."""
    return SPLITS.get(name.lower(), name)


def label_of(folder_name: str) -> bool | None:
    """True abnormal, False normal, None for a name that says neither."""
    name = folder_name.lower()
    return False if name in NORMAL_WORDS else True if name in ABNORMAL_WORDS else None


def uniquely_named(cases: Iterable[Case]) -> tuple[Case, ...]:
    """The same cases with names that are safe as file names and differ whatever their case.

    Where several cases have one name, category and split go into it if they tell the cases apart, and then a number.
    """
    listed = list(cases)
    alike: dict[str, list[Case]] = defaultdict(list)
    for case in listed:
        alike[_plain(case.name).casefold()].append(case)
    taken: set[str] = set()
    done = []
    for case in listed:
        plain = _plain(_told_apart(case, alike[_plain(case.name).casefold()]))
        name, number = plain, 2
        while name.casefold() in taken:
            name, number = f"{plain}_{number}", number + 1
        taken.add(name.casefold())
        done.append(replace(case, name=name))
    return tuple(done)


def _plain(name: str) -> str:
    plain = re.sub(r"[^\w.+() -]+", "_", name).strip(". ")[:_LONGEST_NAME]
    return plain.encode()[:_MOST_BYTES].decode(errors="ignore").rstrip(". ") or "case"


def _told_apart(case: Case, alike: Sequence[Case]) -> str:
    parts = [case.name]
    if len({other.category for other in alike}) > 1:
        parts.insert(0, case.category)
    if len({other.split for other in alike}) > 1:
        parts.append(case.split)
    return "_".join(part for part in parts if part)
