"""BIDS: ``sub-*/[ses-*/]anat/*_FLAIR.nii.gz`` with lesion masks beside the images or among the derivatives."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib

from headclip_med.datasets.case import Case
from headclip_med.datasets.layouts.lists import Listing, Tree, counted, split_in
from headclip_med.datasets.layouts.patterns import folder_of
from headclip_med.datasets.layouts.sequences import choose_sequences
from headclip_med.datasets.names import VOLUME_ENDINGS, stem_of

_NAME = re.compile(r"(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?((?:_[^_]+)*?)_([A-Za-z0-9]+)")
_ENTITIES = re.compile(r"(?:_[A-Za-z0-9]+-[^_]*)*")
_MASK = re.compile(r"mask|msk|dseg|rois?|lesions?|seg|segmentation", re.IGNORECASE)
_LESION = re.compile(r"lesion|tumou?r|stroke|infarct|wmh|_label-[LR](?:_|$)|_msk$", re.IGNORECASE)
# Masks of what is healthy: the brain, tissues, regions of an atlas.
_ANATOMY = re.compile(
    r"desc-(?:brain|aseg|aparc\w*|head|tissue\w*)(?:_|$)|label-(?:brain|GM|WM|CSF|[A-Z]?GM|BS|regmask|head)(?:_|$)|aseg|"
    r"aparc|brain_?mask|probseg",
    re.IGNORECASE,
)
_NOT_IMAGES = re.compile(r"mask|msk|dseg|probseg|rois?|lesions?|seg|segmentation|bold|sbref|epi", re.IGNORECASE)
_OTHER_FOLDERS = ("func", "fmap", "perf", "pet", "eeg", "meg", "ieeg", "beh", "figures", "xfm")
_ORDER = ("FLAIR", "T1w", "T2w", "dwi", "adc", "ADC", "T1ce", "ce-T1w", "PDw", "T2star", "SWI")

_Visit = tuple[str, str]  # subject, session or nothing


@dataclass(frozen=True)
class _File:
    """A file by the parts of its name; ``space`` is empty for the subject's own."""

    file: str
    visit: _Visit
    space: str
    suffix: str
    plain: bool  # nothing but entities before the suffix

    @property
    def is_lesion(self) -> bool:
        """Whether its name says that it shows lesions."""
        return _LESION.search(stem_of(Path(self.file))) is not None


def recognise(tree: Tree) -> bool:
    """Tell whether a subject folder has images in it.

    Args:
        tree: What lies in the folder.

    Returns:
        True where one has.
    """
    return any(_scans(tree).values())


def list_cases(tree: Tree, sequences: Sequence[str] | None = None) -> Listing:
    """List a case per subject and session with the chosen suffixes (FLAIR, T1w, …) as its channels.

    Args:
        tree: What lies in the folder.
        sequences: Suffixes to read, the usual one by default.

    Returns:
        The cases.

    Raises:
        InputError: a suffix that no subject has.
    """
    scans, masks = _scans(tree), _masks(tree)
    parts = {visit: _by_suffix(files) for visit, files in scans.items()}
    known = [tree.path(file.file) for files in scans.values() for file in files]
    truths, strays = _by_visit(masks, list(parts))
    order = _usual_order(tree, parts, truths)
    chosen, notes = choose_sequences(parts, sequences, order, {})
    cases, short, without, several = [], [], [], []
    for visit, files in sorted(parts.items()):
        name = "_".join(part for part in visit if part)
        if any(suffix not in files for suffix in chosen):
            short.append(name)
            continue
        images = [files[suffix] for suffix in chosen]
        truth = _ranked(truths.get(visit, []), images[0])
        several += [mask.file for mask in truth[1:]]
        without += [] if truth else [name]
        cases.append(
            Case(
                name=name,
                images=tuple(tree.path(image.file) for image in images),
                masks=tuple(tree.path(mask.file) for mask in truth[:1]),
                patient=visit[0],
                split=split_in(folder_of(images[0].file))[0],
            )
        )
    runs = [file.file for visit, group in scans.items() for file in group if parts[visit][file.suffix] is not file]
    notes += [counted(runs, "{} passed over: another run or space of the same suffix is used")] if runs else []
    notes += [counted(short, f"{{}} left out: no {', '.join(chosen)}", "case")] if short else []
    notes += [counted(without, "{} without a lesion mask, and so without truth", "case")] if without else []
    notes += [counted(several, "{} further of a case not used", "mask")] if several else []
    known += [tree.path(mask.file) for mask in masks]
    first = next((case for case in cases if case.masks), None)
    why = f"{first.images[0].name} with {first.masks[0].name}" if first and first.masks[0] else "subject folders"
    return Listing(cases, notes, [tree.path(mask.file) for mask in strays], known, why)


def _files(tree: Tree) -> list[_File]:
    """Volumes of subjects, by the parts of their names."""
    found = []
    for file in tree.files:
        match = _NAME.fullmatch(stem_of(Path(file)))
        if match and file.lower().endswith(VOLUME_ENDINGS) and f"{match[1]}/" in file:
            space = re.search(r"_space-([^_]+)", match[3])
            visit = (match[1], match[2] or "")
            own = space is None or space[1] in _OWN
            plain = _ENTITIES.fullmatch(match[3]) is not None
            found.append(_File(file, visit, "" if own or space is None else space[1], match[4], plain))
    return found


_OWN = ("orig", "native", "individual", "scanner", "T1w", "FLAIR", "T2w")


def _is_mask(file: _File) -> bool:
    stem = stem_of(Path(file.file))
    return bool(_MASK.fullmatch(file.suffix)) and not (_ANATOMY.search(stem) and not file.is_lesion)


def _scans(tree: Tree) -> dict[_Visit, list[_File]]:
    """Images of every visit, derived ones only where there are no others."""
    images = [
        file
        for file in _files(tree)
        if file.plain and not _NOT_IMAGES.fullmatch(file.suffix) and file.file.split("/")[-2] not in _OTHER_FOLDERS
    ]
    raw = [file for file in images if "derivatives" not in file.file.split("/")]
    scans: dict[_Visit, list[_File]] = defaultdict(list)
    for file in raw or images:
        scans[file.visit].append(file)
    return dict(sorted(scans.items()))


def _masks(tree: Tree) -> list[_File]:
    """Masks that may show lesions, wherever they lie; where some names say lesion, only those of their subject."""
    masks = [file for file in _files(tree) if _is_mask(file)]
    said = {file.visit for file in masks if file.is_lesion}
    return [file for file in masks if file.is_lesion or file.visit not in said]


def _by_suffix(files: Sequence[_File]) -> dict[str, _File]:
    """The first file of each suffix; the subject's own space before others."""
    found: dict[str, _File] = {}
    for file in sorted(files, key=lambda file: (file.space != "", file.file)):
        found.setdefault(file.suffix, file)
    return found


def _by_visit(masks: Sequence[_File], visits: Sequence[_Visit]) -> tuple[dict[_Visit, list[_File]], list[_File]]:
    """Masks by visit, and those of none; a mask without a session belongs to the only one of its subject."""
    found: dict[_Visit, list[_File]] = defaultdict(list)
    strays = []
    for mask in masks:
        own = [visit for visit in visits if visit[0] == mask.visit[0]]
        fits = [visit for visit in own if visit == mask.visit] or (
            own if len(own) == 1 and "" in (own[0][1], mask.visit[1]) else []
        )
        if fits:
            found[fits[0]].append(mask)
        else:
            strays.append(mask)
    return found, strays


def _ranked(masks: Sequence[_File], image: _File) -> list[_File]:
    """Masks of a visit: in the image's space first, then those that are called after lesions, then by name."""
    return sorted(masks, key=lambda mask: (mask.space != image.space, not mask.is_lesion, mask.file))


def _usual_order(
    tree: Tree, parts: Mapping[_Visit, Mapping[str, _File]], truths: Mapping[_Visit, Sequence[_File]]
) -> list[str]:
    """Suffixes by preference; those that lie on the grid of the first mask come first (ISLES draws on the DWI)."""
    for visit, masks in truths.items():
        fits = [
            suffix for suffix in _ORDER if suffix in parts[visit] and _one_grid(tree, parts[visit][suffix], masks[0])
        ]
        return [*fits, *(suffix for suffix in _ORDER if suffix not in fits)]
    return list(_ORDER)


def _one_grid(tree: Tree, image: _File, mask: _File) -> bool:
    """Whether two files have one shape; what cannot be read is told when it is read."""
    try:
        shapes = [nib.load(tree.path(file.file)).shape[:3] for file in (image, mask)]
    except Exception:
        return False
    return bool(shapes[0] == shapes[1])
