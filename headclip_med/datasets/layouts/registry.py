"""A name or a path → a labelled set: the registry of layouts, and which of them fits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from headclip_med.base.errors import InputError
from headclip_med.datasets.case import Case
from headclip_med.datasets.dataset import CaseDataset
from headclip_med.datasets.layouts import benchmarks, bids, bmad, json_lists, msd, pictures, tables
from headclip_med.datasets.layouts import sequences as seq
from headclip_med.datasets.layouts.lists import Listing, Tree, left_over, read_tree
from headclip_med.datasets.names import split_of, uniquely_named
from headclip_med.datasets.values import Words, ask_for_values, chosen_values
from headclip_med.reading.content import existing_path

_HOW = "Name it, as in pairs:FOLDER; `headclip-med data layouts` lists them"

# How particular a layout is: a list of files says more than names that one set alone has, those more than a tree of
# folders, and that more than words like good.
_LIST, _NAMES, _TREE, _WORDS = 4, 3, 2, 1


@dataclass(frozen=True)
class Layout:
    """A way to lay out a labelled set.

    Attributes:
        words: one line for help.
        trees: examples of its files, image and mask.
        recognise: whether it fits a path (lists) or a :class:`Tree` (all others).
        list_cases: what lies there.
        rank: of several that fit, the one of the highest rank is meant.
        is_list: a file that lists the cases may be given.
        has_sequences: cases have sequences to choose from.
        options: what may stand behind ``?`` in ``LAYOUT:PATH?option=value``.
    """

    words: str
    trees: tuple[str, ...]
    recognise: Callable[..., bool]
    list_cases: Callable[..., Listing]
    rank: int
    is_list: bool = False
    has_sequences: bool = False
    options: tuple[str, ...] = ()


def _sequences(words: str, kind: seq.SequenceSet, *trees: str, rank: int = _NAMES) -> Layout:
    recognise = partial(seq.recognise_sequences, kind=kind)
    return Layout(words, trees, recognise, partial(_list_sequences, kind=kind), rank, has_sequences=True)


def _list_sequences(tree: Tree, sequences: Sequence[str] | None = None, *, kind: seq.SequenceSet) -> Listing:
    return seq.list_sequences(tree, kind, sequences)


LAYOUTS: dict[str, Layout] = {
    "brats": Layout(
        "a folder per case, a file per sequence, and seg",
        (
            "BraTS20_001/BraTS20_001_flair.nii.gz + BraTS20_001_seg.nii.gz",
            "BraTS-GLI-00001-000/BraTS-GLI-00001-000-t2f.nii.gz + BraTS-GLI-00001-000-seg.nii.gz",
            "BraTS-MEN-RT-0000-1/BraTS-MEN-RT-0000-1_t1c.nii.gz + BraTS-MEN-RT-0000-1_gtv.nii.gz",
            "patient07/flair.nii.gz + seg.nii.gz",
        ),
        seq.recognise_brats,
        partial(_list_sequences, kind=seq.BRATS),
        _TREE,
        has_sequences=True,
    ),
    "wmh": _sequences(
        "WMH 2017; other pathology (2) is ignored", seq.WMH, "Utrecht/0/pre/FLAIR.nii.gz + Utrecht/0/wmh.nii.gz"
    ),
    "isbi": _sequences(
        "ISBI 2015, multiple sclerosis over time; the first reader counts",
        seq.ISBI,
        "training01/preprocessed/training01_01_flair_pp.nii + training01/masks/training01_01_mask1.nii",
    ),
    "mslesseg": _sequences(
        "MSLesSeg, multiple sclerosis over time",
        seq.MSLESSEG,
        "train/P1/T1/P1_T1_FLAIR.nii.gz + P1_T1_MASK.nii.gz",
        "test/P54/P54_FLAIR.nii.gz + P54_MASK.nii.gz",
    ),
    "nnunet": _sequences(
        "nnU-Net's folders of channels without their dataset.json",
        seq.NNUNET,
        "imagesTr/case_0000.nii.gz + labelsTr/case.nii.gz",
    ),
    "bids": Layout(
        "BIDS with lesion masks beside the images or among the derivatives",
        (
            "sub-1/anat/sub-1_FLAIR.nii.gz + derivatives/x/sub-1/sub-1_label-lesion_mask.nii.gz",
            "sub-1/ses-1/anat/sub-1_ses-1_space-X_T1w.nii.gz + sub-1_ses-1_space-X_label-L_desc-T1lesion_mask.nii.gz",
            "sub-1/ses-1/dwi/sub-1_ses-1_dwi.nii.gz + derivatives/sub-1/ses-1/sub-1_ses-1_msk.nii.gz",
        ),
        bids.recognise,
        bids.list_cases,
        _NAMES,
        has_sequences=True,
    ),
    "msd": Layout(
        "dataset.json of the Decathlon or nnU-Net; its labels say what is lesion",
        ("dataset.json, imagesTr/liver_0.nii.gz + labelsTr/liver_0.nii.gz",),
        msd.recognise,
        msd.list_cases,
        _LIST,
        is_list=True,
        has_sequences=True,
    ),
    "pairs": Layout(
        "images and masks of the same names, in two folders or one",
        (
            "images/1.png + masks/1.png, Original/1.tif + Ground Truth/1.tif, bbdd/1.bmp + gtpolyp/1.bmp",
            "train/images/1.png + train/masks/1.png, images/train/1.png + masks/train/1.png",
            "TestDataset/CVC-300/images/1.png + TestDataset/CVC-300/masks/1.png",
            "data_C1/images_C1/1.jpg + data_C1/masks_C1/1_mask.jpg",
            "ISIC-2017_Test_v2_Data/I_1.jpg + ISIC-2017_Test_v2_Part1_GroundTruth/I_1_segmentation.png",
            "ETIS-LaribPolypDB/1.tif + Ground Truth/p1.tif, CVC-ColonDB/1.bmp + p1.bmp",
            "TCGA_CS_1/TCGA_CS_1_1.tif + TCGA_CS_1_1_mask.tif, x.png + x_mask.png, x.png + x_mask_1.png",
            "case/image.nii.gz + case/mask.nii.gz, volume-0.nii + segmentation-0.nii",
            "'pairs:ROOT?image=*.jpg&mask=*_mask*.png' with patterns of your own, and normal=healthy/*.jpg",
        ),
        pictures.recognise_pairs,
        pictures.list_pairs,
        _TREE,
        options=("image", "mask", "normal"),
    ),
    "folders": Layout(
        "folders that say what is normal; lesion masks are found as in pairs",
        (
            "yes/1.jpg, no/1.jpg",
            "Training/glioma_tumor/1.jpg, Testing/no_tumor/1.jpg",
            "benign/benign (1).png + benign (1)_mask.png, normal/normal (1).png",
            "'folders:ROOT?normal=A,B&abnormal=C' where names do not say it",
        ),
        pictures.recognise_folders,
        pictures.list_folders,
        _WORDS,
        options=("normal", "abnormal"),
    ),
    "mvtec": Layout(
        "OBJECT/{train,test,ground_truth}; the object is the category",
        ("bottle/test/crack/000.png + bottle/ground_truth/crack/000_mask.png",),
        benchmarks.recognise_mvtec,
        benchmarks.list_mvtec,
        _NAMES,
    ),
    "visa": Layout(
        "VisA; the object is the category, split_csv/1cls.csv the split",
        ("candle/Data/Images/Anomaly/000.JPG + candle/Data/Masks/Anomaly/000.png",),
        benchmarks.recognise_visa,
        benchmarks.list_visa,
        _NAMES,
    ),
    "mosmed": Layout(
        "MosMed COVID-19; CT-0 is normal",
        ("studies/CT-1/study_0255.nii.gz + masks/study_0255_mask.nii.gz",),
        benchmarks.recognise_mosmed,
        benchmarks.list_mosmed,
        _NAMES,
    ),
    "bmad": Layout(
        "{train,valid,test}/{good,Ungood}/img, slices of volumes by name",
        ("test/Ungood/img/00003_10.png + test/Ungood/anomaly_mask/00003_10.png",),
        bmad.recognise,
        bmad.list_cases,
        _NAMES,
    ),
    "meta": Layout(
        "AnomalyCLIP's meta.json",
        ("meta.json",),
        json_lists.recognise_meta,
        json_lists.list_meta,
        _LIST,
        is_list=True,
    ),
    "jsonl": Layout(
        "one JSON object a line: image_path, label, mask_path",
        ("list.jsonl",),
        json_lists.recognise_lines,
        json_lists.list_lines,
        _LIST,
        is_list=True,
    ),
    "csv": Layout(
        "a CSV of paths: image, mask, label, patient, …; or of names and labels",
        ("list.csv with a column image", "labels.csv with id and hemorrhage, head_ct/000.png"),
        tables.recognise,
        tables.list_cases,
        _LIST,
        is_list=True,
    ),
}


def open_dataset(
    spec: str | Path,
    *,
    name: str | None = None,
    sequences: Sequence[str] | None = None,
    split: str | None = None,
    category: str | None = None,
    lesion_values: Words | None = None,
    ignore_values: Words | None = None,
) -> CaseDataset:
    """Open a labelled set from ``LAYOUT:PATH``, or from a path whose layout is recognised.

    Args:
        spec: ``LAYOUT:PATH`` or a path.
        name: In tables, default the folder's.
        sequences: Which become channels, where a case has several.
        split: Only cases of this split (train, val, test), where the layout knows any.
        category: Only cases of it.
        lesion_values: Values of the masks that are lesion: ``"2,4"``, ``[2, 4]``, colours such as ``#ff0000``, names
            that the set has, or ``all``. Default what the layout knows, else the only value there is.
        ignore_values: Values of voxels that enter no metric and no training.

    Returns:
        The cases, of which nothing is read yet.

    Raises:
        InputError: no such path or layout, a layout that cannot be told, no case, or labels that name no lesion.
    """
    given, root, options = _parse(str(spec))
    try:
        layout, listing = _listed(given, root, options, sequences)
    except OSError as error:
        raise InputError(f"{root.name} must be readable", error.strerror or "", "Check the permissions") from error
    wanted = None if split is None else split_of(split)
    cases = tuple(
        _with_values(case, lesion_values, ignore_values)
        for case in uniquely_named(listing.cases)  # before any are left out: a case has one name, whatever is chosen
        if wanted in (None, case.split) and category in (None, case.category)
    )
    if not cases:
        raise _empty(layout, root, listing, split, category)
    shown = name or (root.resolve().name if root.is_dir() else root.stem) or layout
    notes = tuple(dict.fromkeys((*listing.notes, *_said_of_values(cases))))
    strays = tuple(path.name for path in listing.strays)
    return CaseDataset(shown, layout, root, cases, notes, strays, "" if given else listing.why)


# --- the values of masks -----------------------------------------------------------------------------------------


def _with_values(case: Case, lesion: Words | None, ignored: Words | None) -> Case:
    values = chosen_values(case.values, lesion, ignored)
    if values.names and values.lesion is None and case.has_mask:
        raise ask_for_values(values, values.names, "the masks")
    return replace(case, values=values)


def _said_of_values(cases: Sequence[Case]) -> list[str]:
    """A note on what the values of the masks mean, where that is more than black and white."""
    notes = []
    for values in {repr(case.values): case.values for case in cases if case.has_mask}.values():
        if values.lesion is None or not (values.chosen or values.names or values.ignored):
            continue
        every = "every value but 0" if not values.lesion else values.shown(values.lesion)
        rest = (
            [value for value in values.names if value not in (*values.lesion, *values.ignored)] if values.lesion else []
        )
        parts = [f"lesion: {every}"]
        parts += [f"no lesion: {values.shown(rest)}"] if rest else []
        parts += [f"ignored: {values.shown(values.ignored)}"] if values.ignored else []
        notes.append(f"values of the masks: {'; '.join(parts)}")
    return notes


# --- which layout ------------------------------------------------------------------------------------------------

_OPTIONS = re.compile(r"^(.*?)\?((?:[a-z]+=[^&]*)(?:&[a-z]+=[^&]*)*)$", re.DOTALL)


def _parse(spec: str) -> tuple[str | None, Path, dict[str, list[str]]]:
    """Layout (None: to be recognised), the path, which must exist, and what stands behind ``?``."""
    head, colon, tail = spec.partition(":")
    if head in LAYOUTS and colon:
        match = _OPTIONS.match(tail)
        options = _options(head, match[2]) if match else {}
        path = match[1] if match else tail
        if not path:
            raise InputError(f"The layout {head} must be given a path", "nothing", f"Write {head}:FOLDER")
        return head, existing_path(path), options
    try:
        return None, existing_path(spec), {}
    except InputError:
        if not colon or len(head) == 1 or "/" in head:  # C:\data names no layout
            raise
    near = get_close_matches(head.lower(), LAYOUTS, 1)
    hint = f"Did you mean {near[0]}:{Path(tail).name}" if near else _HOW
    raise InputError(f"A layout must be one of {', '.join(LAYOUTS)}", head, hint)


def _options(layout: str, text: str) -> dict[str, list[str]]:
    able = LAYOUTS[layout].options
    found: dict[str, list[str]] = {}
    for part in text.split("&"):
        key, _, value = part.partition("=")
        if key not in able:
            able_words = f"one of {', '.join(able)}" if able else "none"
            raise InputError(f"What stands behind ? must be {able_words} in the layout {layout}", key)
        if not value:
            raise InputError(f"{key} must be given a value", part)
        found.setdefault(key, []).extend(value.split(",") if layout == "folders" else [value])
    for needed in ("image", "mask") if {"image", "mask"} & found.keys() else ():
        if needed not in found:
            raise InputError("Patterns must be given for image and mask", text, "As in image=*.jpg&mask=*_mask.png")
    return found


def _listed(
    given: str | None, root: Path, options: Mapping[str, list[str]], sequences: Sequence[str] | None
) -> tuple[str, Listing]:
    """The layout and what it finds; a tree of folders is read once and its files are all accounted for."""
    tree = read_tree(root) if root.is_dir() and (given is None or not LAYOUTS[given].is_list) else None
    layout = given or _recognised(root, tree)
    chosen = LAYOUTS[layout]
    if root.is_file() and not chosen.is_list:
        raise InputError(f"The layout {layout} must be given a folder", root.name)
    if sequences and not chosen.has_sequences:
        able = ", ".join(name for name, other in LAYOUTS.items() if other.has_sequences)
        raise InputError(f"Sequences can be chosen in the layouts {able}", layout, "Leave the sequences out")
    place = root if chosen.is_list else tree
    listing = chosen.list_cases(place, *((sequences,) if chosen.has_sequences else ()), **options)
    if tree is not None and not chosen.is_list:
        listing = replace(listing, notes=[*listing.notes, *left_over(tree, listing)])
    return layout, listing


def _recognised(root: Path, tree: Tree | None) -> str:
    """The layout of the highest rank that fits; another one of the same rank would make it a guess."""
    fits: list[str] = []
    for name, layout in sorted(LAYOUTS.items(), key=lambda item: -item[1].rank):
        if fits and layout.rank < LAYOUTS[fits[0]].rank:
            break
        place = root if layout.is_list else tree
        if place is not None and layout.recognise(place):
            fits.append(name)
    if not fits:
        raise tables.open_question(root) or _unknown(root, tree)
    if len(fits) > 1:
        hint = f"Name the one that is meant, as in {fits[0]}:{root.name}"
        raise InputError(f"{root.name} must have one layout", f"it fits {' and '.join(fits)}", hint)
    return fits[0]


def _unknown(root: Path, tree: Tree | None) -> InputError:
    """What lies there, where no layout fits."""
    must = f"The layout of {root.name} must be one of {', '.join(LAYOUTS)}"
    if tree is None:
        return InputError(must, "none that fits", _HOW)
    files = tree.files
    there = f"{len(files)} images and volumes, such as {files[0]}" if files else "no image or volume"
    others = ", ".join(f"{count} {ending}" for ending, count in sorted(tree.others.items(), key=lambda o: -o[1])[:4])
    given = f"none that fits {there}{f' ({others})' if others else ''}"
    hint = "Name it, or say how files are called: 'pairs:FOLDER?image=*.jpg&mask=*_mask.png'"
    return InputError(must, given, f"{hint}; `headclip-med data layouts` lists them with their trees")


def _empty(layout: str, root: Path, listing: Listing, split: str | None, category: str | None) -> InputError:
    """Which cases there would be, where only the choice among them leaves none."""
    if not listing.cases:
        hint = "Check the folder, or name another layout"
        return InputError(f"The layout {layout} must find at least one case", f"none in {root.name}", hint)
    wanted = [f"the split {split}"] * (split is not None) + [f"the category {category}"] * (category is not None)
    splits = sorted({case.split for case in listing.cases if case.split})
    categories = sorted({case.category for case in listing.cases if case.category})
    there = f"splits: {', '.join(splits) or 'none'}; categories: {', '.join(categories) or 'none'}"
    return InputError(f"There must be a case of {' and '.join(wanted)}", there, "Choose one of these")
