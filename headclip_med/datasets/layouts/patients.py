"""Who an image is of, as the folders above it say."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.datasets.layouts.lists import UNKNOWN_PATIENTS, split_in
from headclip_med.datasets.names import IMAGE_PART, SPLITS, label_of, split_of, stem_of

# Names of images that say nothing; folders that are called patients, and those that are studies of some.
_WORD_NAME = re.compile(r"(?:image|img|imaging|volume|original|orig|input|scan|raw|flair|t1|t2|ct|mri?)", re.IGNORECASE)
_PATIENT = re.compile(r"(?:p|pat|patient|case|sub|subject|id)[-_ ]?\d+\w*", re.IGNORECASE)
_STUDY = re.compile(r"(?:study|series|seq|sequence|video)[-_ ]?\d+\w*", re.IGNORECASE)
_SAYS_WHO = re.compile(r"[a-z].*\d|\d{3}", re.IGNORECASE)


def with_patients(
    root: Path, cases: Sequence[Case], notes: list[str], classes: Collection[Path] = (), *, by_numbers: bool = True
) -> list[Case]:
    """Add patients where the folders say them, and call images whose names say nothing after their folder.

    A folder is a patient where it is called one, where its image has a name such as image or flair, or where several
    folders are such that their images are called after them or, ``by_numbers``, alike in all of them.

    Args:
        root: The set's folder.
        cases: In order.
        notes: That nothing says the patients is added to them.
        classes: Folders that say a class and no patient.
        by_numbers: Images that are called alike in all folders make these patients.

    Returns:
        The same cases.
    """
    folders = {case.images[0].parent for case in cases}
    called = {folder: _called_patient(root, folder) for folder in folders}
    said = [called[case.images[0].parent] for case in cases]
    alike = _alike_folders(root, cases, classes, by_numbers)
    found = []
    for case, folder in zip(cases, said, strict=True):
        own = _own_folder(root, case)
        if folder is not None and (_PATIENT.fullmatch(folder.name) or len(set(said)) > 1):
            found.append(_of_patient(root, case, folder))
        else:
            found.append(_of_patient(root, case, own) if own in alike else case)
    if not any(case.patient for case in found):
        notes.append(UNKNOWN_PATIENTS)
    return found


def _called_patient(root: Path, folder: Path) -> Path | None:
    """The outermost folder that is called a patient, else a study or a series; this one or one above it."""
    above = [one for one in (*reversed(folder.parents), folder) if root in one.parents]
    above = above or ([] if folder == root else [folder])  # a list may name images elsewhere
    kinds = ([folder for folder in above if kind.fullmatch(folder.name)] for kind in (_PATIENT, _STUDY))
    return next((folders[0] for folders in kinds if folders), None)


def _alike_folders(root: Path, cases: Sequence[Case], classes: Collection[Path], by_numbers: bool) -> set[Path]:
    """Folders of one patient each: their images have the folder's name, a name that says nothing, or all the same."""
    by_folder: dict[Path, list[Case]] = defaultdict(list)
    for case in cases:
        folder = _own_folder(root, case)
        is_word = label_of(folder.name) is not None or split_of(folder.name) in SPLITS
        if not is_word and folder not in (root, *classes):
            by_folder[folder].append(case)
    stems = {folder: [stem_of(case.images[0]).casefold() for case in group] for folder, group in by_folder.items()}
    often = Counter(stem for group in stems.values() for stem in set(group))
    who = [folder for folder in stems if by_numbers and _SAYS_WHO.search(folder.name)]
    named = {folder for folder in who if all(stem.startswith(folder.name.casefold()) for stem in stems[folder])}
    direct = [folder for folder in stems if folder == by_folder[folder][0].images[0].parent]
    alike = {f for f in direct if all(_WORD_NAME.fullmatch(s) or (by_numbers and often[s] > 2) for s in stems[f])}
    return {folder for folders in (named, alike) if len(folders) > 1 for folder in folders}


def _of_patient(root: Path, case: Case, folder: Path) -> Case:
    """The case of the patient whose folder this is."""
    name = folder.name
    own = case.name if case.name.casefold().startswith(name.casefold()) else f"{name}_{case.name}"
    longer = split_in(folder.relative_to(root).as_posix())[1] if folder.is_relative_to(root) else name
    return replace(
        case,
        name=name if _WORD_NAME.fullmatch(stem_of(case.images[0])) else own,
        patient=name if _SAYS_WHO.search(name) else longer,
        category="/".join(part for part in case.category.split("/") if part != name),
    )


def _own_folder(root: Path, case: Case) -> Path:
    """The folder that an image's folder of images lies in."""
    folder = case.images[0].parent
    while folder != root and IMAGE_PART.fullmatch(folder.name):
        folder = folder.parent
    return folder
