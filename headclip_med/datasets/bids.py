"""BIDS: ``sub-*/[ses-*/]anat/*_FLAIR.nii.gz`` with lesion masks among the derivatives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.datasets.listing import Listing
from headclip_med.datasets.names import files_in, named, stem_of
from headclip_med.errors import InputError

_NIFTI = (".nii.gz", ".nii")
_IMAGE = re.compile(r"^(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?.*_([A-Za-z0-9]+)$")
_TRUTH = re.compile(r"(_(mask|dseg|roi|lesions?|seg)$)|label-(lesions?|tumou?r|L)_", re.IGNORECASE)
_NOT_IMAGES = ("mask", "dseg", "roi", "lesion", "lesions", "seg", "bold", "dwi", "sbref")


def recognise(root: Path) -> bool:
    """A subject folder with anatomy in it."""
    return bool(list(root.glob("sub-*/anat")) or list(root.glob("sub-*/ses-*/anat")))


def list_cases(root: Path, sequences: Sequence[str] | None = None) -> Listing:
    """A case per subject and session with the chosen suffixes (FLAIR, T1w, …) as its channels."""
    scans: dict[tuple[str, str], dict[str, Path]] = {}
    for path in [p for folder in root.glob("sub-*") for p in files_in(folder, _NIFTI, deep=True)]:
        match = _IMAGE.match(stem_of(path))
        if match and path.parent.name == "anat" and match[3].lower() not in _NOT_IMAGES:
            scans.setdefault((match[1], match[2] or ""), {}).setdefault(match[3], path)
    there = sorted({suffix for parts in scans.values() for suffix in parts})
    by_lower = {suffix.lower(): suffix for suffix in there}
    wrong = [name for name in sequences or () if name.lower() not in by_lower]
    if wrong:
        raise InputError(f"A sequence must be one of {', '.join(there) or 'none here'}", ", ".join(wrong))
    usual = [by_lower["flair"]] if "flair" in by_lower else there[:1]
    chosen = [by_lower[name.lower()] for name in sequences] if sequences else usual
    notes = [] if sequences or len(there) < 2 else [f"suffix {chosen[0]} is used, of {', '.join(there)}"]
    masks = _masks(root)
    cases = []
    for (subject, session), parts in sorted(scans.items()):
        name = f"{subject}_{session}" if session else subject
        if any(suffix not in parts for suffix in chosen):
            notes.append(f"{name}: left out, it has no {', '.join(s for s in chosen if s not in parts)}")
            continue
        truth = masks.get((subject, session), [])
        if len(truth) > 1:
            notes.append(f"{name}: {len(truth)} masks; {truth[0].name} is used")
        if not truth:
            notes.append(f"{name}: no mask among the derivatives")
        cases.append(Case(name, tuple(parts[suffix] for suffix in chosen), tuple(truth[:1]), patient=subject))
    return Listing(cases, notes)


def _masks(root: Path) -> dict[tuple[str, str], list[Path]]:
    found: dict[tuple[str, str], list[Path]] = {}
    folder = named(root, "derivatives")
    for path in files_in(folder, _NIFTI, deep=True) if folder else []:
        match = _IMAGE.match(stem_of(path))
        if match and _TRUTH.search(stem_of(path)):
            found.setdefault((match[1], match[2] or ""), []).append(path)
    return found
