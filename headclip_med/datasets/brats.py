"""BraTS and its like: a folder per case, a file per sequence, ``seg`` for the truth.

``<case>_flair.nii.gz`` (until 2022), ``<case>-t2f.nii.gz`` (since 2023), or plain ``flair.nii.gz``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.datasets.listing import Listing, no_such_sequence
from headclip_med.datasets.names import VOLUME_ENDINGS, files_in, folders_in, stem_of

# What one sequence is called, old and new.
_SAME = {"flair": "t2f", "t1ce": "t1c", "t1gd": "t1c", "t1": "t1n", "t2": "t2w"}
_SEQUENCES = ("t2f", "t1c", "t2w", "t1n")
_TRUTH = ("seg", "mask", "label", "lesion", "consensus_gt")
_LOOKED_AT = 20  # folders that are enough to recognise a set by
_TIMEPOINT = re.compile(r"^(BraTS-[A-Za-z]+-\d+)-\d{3}$")


def recognise(root: Path) -> bool:
    """Some folder (or this one) holds a sequence that can be told by its name."""
    found = (_parts(folder) for folder in _case_folders(root)[:_LOOKED_AT])
    return any("t2f" in parts or len(parts) >= 2 for parts in found)


def list_cases(root: Path, sequences: Sequence[str] | None = None) -> Listing:
    """A case for every folder with sequences.

    Raises:
        InputError: a sequence that is unknown, or that no case has.
    """
    found = {folder: _parts(folder) for folder in _case_folders(root)}
    chosen, notes = _choose(found, sequences)
    cases = []
    for folder, parts in found.items():
        missing = [name for name in chosen if name not in parts]
        name = folder.resolve().name
        if missing:
            notes.append(f"{name}: left out, it has no {', '.join(missing)}")
            continue
        truth = parts.get("seg")
        if truth is None:
            notes.append(f"{name}: no seg, so it has no truth")
        match = _TIMEPOINT.match(name)
        cases.append(
            Case(
                name=name,
                images=tuple(parts[sequence] for sequence in chosen),
                masks=() if truth is None else (truth,),
                patient=match[1] if match else name,
            )
        )
    return Listing(cases, notes)


def _case_folders(root: Path) -> list[Path]:
    """Folders with sequences: this one and those in it, or a level below (HGG and LGG, until 2019)."""
    near = [folder for folder in (root, *folders_in(root)) if _has_images(folder)]
    deep = [folder for grade in folders_in(root) for folder in folders_in(grade) if folder.name != "anat"]  # BIDS
    return near or [folder for folder in deep if _has_images(folder)]


def _choose(found: dict[Path, dict[str, Path]], sequences: Sequence[str] | None) -> tuple[list[str], list[str]]:
    there = [name for name in _SEQUENCES if any(name in parts for parts in found.values())]
    if sequences:
        chosen = [_SAME.get(name.lower(), name.lower()) for name in sequences]
        wrong = [name for name in chosen if name not in there]
        if wrong:
            raise no_such_sequence(wrong, there)
        return chosen, []
    usual = next((n for n in there if all(n in parts for parts in found.values())), there[0] if there else "t2f")
    return [usual], [f"sequence {usual} is used, of {', '.join(there)}"]


def _parts(folder: Path) -> dict[str, Path]:
    """Sequence or ``seg`` → file, by the last part of its name."""
    parts: dict[str, Path] = {}
    for path in files_in(folder, VOLUME_ENDINGS):
        last = re.split(r"[-_]", stem_of(path).lower())[-1]
        word = "seg" if stem_of(path).lower() in _TRUTH or last == "seg" else _SAME.get(last, last)
        if word == "seg" or word in _SEQUENCES:
            parts.setdefault(word, path)
    return parts


def _has_images(folder: Path) -> bool:
    return any(name != "seg" for name in _parts(folder))
