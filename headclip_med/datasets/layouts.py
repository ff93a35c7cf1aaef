"""A name or a path → a labelled set: the registry of layouts, and which of them fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from headclip_med.datasets import bids, bmad, brats, folders, json_lists, msd, mvtec, pairs, tables
from headclip_med.datasets.case import CaseDataset
from headclip_med.datasets.listing import Listing
from headclip_med.datasets.names import split_of, uniquely_named
from headclip_med.errors import InputError
from headclip_med.reading.content import existing_path

_HOW = "Name it, as in pairs:FOLDER; `headclip-med data layouts` lists them"

# How particular a layout is: a list of files says more than a tree of folders, and that more than words like good.
_LIST, _TREE, _WORDS = 3, 2, 1


@dataclass(frozen=True)
class Layout:
    """A way to lay out a labelled set.

    Attributes:
        words: one line for help. recognise: whether it fits a path. list_cases: what lies there.
        rank: of several that fit, the one of the highest rank is meant.
        is_list: a file that lists the cases may be given. has_sequences: cases have sequences to choose from.
    """

    words: str
    recognise: Callable[[Path], bool]
    list_cases: Callable[..., Listing]
    rank: int
    is_list: bool = False
    has_sequences: bool = False


LAYOUTS: dict[str, Layout] = {
    "brats": Layout(
        "a folder per case, a file per sequence, and seg", brats.recognise, brats.list_cases, _TREE, has_sequences=True
    ),
    "bids": Layout(
        "BIDS with lesion masks among the derivatives", bids.recognise, bids.list_cases, _TREE, has_sequences=True
    ),
    "msd": Layout(
        "dataset.json of the Decathlon or nnU-Net", msd.recognise, msd.list_cases, _LIST, True, has_sequences=True
    ),
    "pairs": Layout("images/ and masks/, as ColonDB and Kvasir", pairs.recognise, pairs.list_cases, _TREE),
    "folders": Layout(
        "normal and abnormal folders: yes/no, good/Ungood", folders.recognise, folders.list_cases, _WORDS
    ),
    "mvtec": Layout("OBJECT/{train,test,ground_truth}", mvtec.recognise, mvtec.list_cases, _TREE),
    "bmad": Layout(
        "{train,valid,test}/{good,Ungood}/img, slices of volumes by name", bmad.recognise, bmad.list_cases, _TREE
    ),
    "meta": Layout("AnomalyCLIP's meta.json", json_lists.recognise_meta, json_lists.list_meta, _LIST, True),
    "jsonl": Layout(
        "one JSON object a line: image_path, label, mask_path",
        json_lists.recognise_lines,
        json_lists.list_lines,
        _LIST,
        True,
    ),
    "csv": Layout("a CSV of paths: image, mask, label, patient, …", tables.recognise, tables.list_cases, _LIST, True),
}


def open_dataset(
    spec: str | Path,
    *,
    name: str | None = None,
    sequences: Sequence[str] | None = None,
    split: str | None = None,
    category: str | None = None,
) -> CaseDataset:
    """A labelled set from ``LAYOUT:PATH``, or from a path whose layout is recognised.

    Args:
        name: in tables; default the folder's. sequences: which become channels, where a case has several.
        split: only cases of this split (train, val, test), where the layout knows any. category: only cases of it.

    Raises:
        InputError: no such path or layout, a layout that cannot be told, or no case.
    """
    given, root = _parse(str(spec))
    try:
        layout = given or _recognised(root)
        listing = _listed(layout, root, sequences)
    except OSError as error:
        raise InputError(f"{root.name} must be readable", error.strerror or "", "Check the permissions") from error
    wanted = None if split is None else split_of(split)
    cases = tuple(
        case
        for case in uniquely_named(listing.cases)  # before any are left out: a case has one name, whatever is chosen
        if wanted in (None, case.split) and category in (None, case.category)
    )
    if not cases:
        raise _empty(layout, root, listing, split, category)
    shown = name or (root.resolve().name if root.is_dir() else root.stem) or layout
    notes = tuple(dict.fromkeys(listing.notes))
    return CaseDataset(shown, layout, root, cases, notes, tuple(path.name for path in listing.strays))


def _parse(spec: str) -> tuple[str | None, Path]:
    """Layout (None: to be recognised) and the path, which must exist."""
    head, colon, tail = spec.partition(":")
    if head in LAYOUTS and colon:
        if not tail:
            raise InputError(f"The layout {head} must be given a path", "nothing", f"Write {head}:FOLDER")
        return head, existing_path(tail)
    try:
        return None, existing_path(spec)
    except InputError:
        if not colon or len(head) == 1 or "/" in head:  # C:\data names no layout
            raise
    near = get_close_matches(head.lower(), LAYOUTS, 1)
    hint = f"Did you mean {near[0]}:{Path(tail).name}" if near else _HOW
    raise InputError(f"A layout must be one of {', '.join(LAYOUTS)}", head, hint)


def _recognised(root: Path) -> str:
    """The layout of the highest rank that fits; another one of the same rank would make it a guess."""
    fits = [name for name, layout in LAYOUTS.items() if (root.is_dir() or layout.is_list) and layout.recognise(root)]
    if not fits:
        raise InputError(f"The layout of {root.name} must be one of {', '.join(LAYOUTS)}", "none that fits", _HOW)
    highest = max(LAYOUTS[name].rank for name in fits)
    best = [name for name in fits if LAYOUTS[name].rank == highest]
    if len(best) > 1:
        hint = f"Name the one that is meant, as in {best[0]}:{root.name}"
        raise InputError(f"{root.name} must have one layout", f"it fits {' and '.join(best)}", hint)
    return best[0]


def _listed(layout: str, root: Path, sequences: Sequence[str] | None) -> Listing:
    chosen = LAYOUTS[layout]
    if root.is_file() and not chosen.is_list:
        raise InputError(f"The layout {layout} must be given a folder", root.name)
    if chosen.has_sequences:
        return chosen.list_cases(root, sequences)
    if sequences:
        able = ", ".join(name for name, other in LAYOUTS.items() if other.has_sequences)
        raise InputError(f"Sequences can be chosen in the layouts {able}", layout, "Leave the sequences out")
    return chosen.list_cases(root)


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
