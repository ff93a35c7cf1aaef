"""BIDS: ``sub-*/[ses-*/]anat/*_FLAIR.nii.gz`` with lesion masks among the derivatives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.datasets.listing import Listing, no_such_sequence
from headclip_med.datasets.names import files_in, folders_in, named, stem_of

_NIFTI = (".nii.gz", ".nii")
_NAME = re.compile(r"^(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?.*_([A-Za-z0-9]+)$")
_MASK = re.compile(r"_(mask|dseg|roi|lesions?|seg)$|label-(lesions?|tumou?r|L)_", re.IGNORECASE)
_LESION = re.compile(r"lesion|tumou?r|label-L_", re.IGNORECASE)
# Masks of what is healthy: the brain, tissues, regions of an atlas.
_ANATOMY = re.compile(
    r"desc-(brain|aseg|aparc\w*|head)_|label-(brain|GM|WM|CSF|[A-Z]?GM|BS)_|aseg|aparc", re.IGNORECASE
)
_NOT_IMAGES = ("mask", "dseg", "roi", "lesion", "lesions", "seg", "bold", "dwi", "sbref")

_Visit = tuple[str, str]  # subject, session or nothing


def recognise(root: Path) -> bool:
    """A subject folder with anatomy in it."""
    return bool(list(root.glob("sub-*/anat")) or list(root.glob("sub-*/ses-*/anat")))


def list_cases(root: Path, sequences: Sequence[str] | None = None) -> Listing:
    """A case per subject and session with the chosen suffixes (FLAIR, T1w, …) as its channels.

    Raises:
        InputError: a suffix that no subject has.
    """
    scans, notes = _scans(root)
    chosen, said = _choose(scans, sequences)
    notes += said
    masks, cases = _masks(root), []
    for visit, parts in sorted(scans.items()):
        name = "_".join(part for part in visit if part)
        missing = [suffix for suffix in chosen if suffix not in parts]
        if missing:
            notes.append(f"{name}: left out, it has no {', '.join(missing)}")
            continue
        truth = masks.get(visit, [])
        if len(truth) > 1:
            notes.append(f"{name}: {len(truth)} masks; {truth[0].name} is used")
        if not truth:
            notes.append(f"{name}: no lesion mask among the derivatives")
        cases.append(Case(name, tuple(parts[suffix] for suffix in chosen), tuple(truth[:1]), patient=visit[0]))
    strays = [path for visit, paths in masks.items() if visit not in scans for path in paths]
    return Listing(cases, notes, strays)


def _scans(root: Path) -> tuple[dict[_Visit, dict[str, Path]], list[str]]:
    """Suffix → file for every visit, and a note where a suffix has several files (runs)."""
    scans: dict[_Visit, dict[str, Path]] = {}
    notes = []
    subjects = [folder for folder in folders_in(root) if folder.name.startswith("sub-")]
    for path in [path for folder in subjects for path in files_in(folder, _NIFTI, deep=True)]:
        match = _NAME.match(stem_of(path))
        if not match or path.parent.name != "anat" or match[3].lower() in _NOT_IMAGES:
            continue
        parts = scans.setdefault((match[1], match[2] or ""), {})
        if match[3] in parts:
            notes.append(f"{path.name} is passed over: {parts[match[3]].name} is used")
        parts.setdefault(match[3], path)
    return scans, notes


def _choose(scans: dict[_Visit, dict[str, Path]], sequences: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Suffixes to read: those asked for; else FLAIR where any has it; else the first that all have."""
    there = sorted({suffix for parts in scans.values() for suffix in parts})
    by_lower = {suffix.lower(): suffix for suffix in there}
    if sequences:
        wrong = [name for name in sequences if name.lower() not in by_lower]
        if wrong:
            raise no_such_sequence(wrong, there)
        return [by_lower[name.lower()] for name in sequences], []
    common = [suffix for suffix in there if all(suffix in parts for parts in scans.values())]
    usual = [by_lower["flair"]] if "flair" in by_lower else (common or there)[:1]
    return usual, [f"suffix {usual[0]} is used, of {', '.join(there)}"] if len(there) > 1 else []


def _masks(root: Path) -> dict[_Visit, list[Path]]:
    """Masks that may show lesions; those that say so in their names come first."""
    found: dict[_Visit, list[Path]] = {}
    folder = named(root, "derivatives")
    for path in files_in(folder, _NIFTI, deep=True) if folder else []:
        stem = stem_of(path)
        match = _NAME.match(stem)
        if match and _MASK.search(stem) and (_LESION.search(stem) or not _ANATOMY.search(stem)):
            found.setdefault((match[1], match[2] or ""), []).append(path)
    return {visit: sorted(paths, key=lambda path: not _LESION.search(path.name)) for visit, paths in found.items()}
