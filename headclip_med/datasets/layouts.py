"""A name or a path → a labelled set: the registry of layouts, and which of them fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from headclip_med.datasets import bids, bmad, brats, labels, manifests, mvtec, pairs
from headclip_med.datasets.case import CaseDataset
from headclip_med.datasets.listing import Listing
from headclip_med.datasets.names import uniquely_named
from headclip_med.errors import InputError

HOW = "Name it, as in pairs:FOLDER; `headclip-med data layouts` lists them"


@dataclass(frozen=True)
class Layout:
    """A way to lay out a labelled set: ``words`` for help, whether it fits a path, and how to list it."""

    words: str
    recognise: Callable[[Path], bool]
    list_cases: Callable[..., Listing]
    takes_file: bool = False


# In the order in which they are tried: the particular ones first.
LAYOUTS: dict[str, Layout] = {
    "meta": Layout("AnomalyCLIP's meta.json", manifests.recognise_meta, manifests.list_meta, True),
    "jsonl": Layout(
        "one JSON object a line: image_path, label, mask_path", manifests.recognise_jsonl, manifests.list_jsonl, True
    ),
    "msd": Layout("dataset.json of the Decathlon or nnU-Net", manifests.recognise_msd, manifests.list_msd, True),
    "csv": Layout("a CSV of paths: image, mask, label, patient, …", manifests.recognise_csv, manifests.list_csv, True),
    "bids": Layout("BIDS with lesion masks among the derivatives", bids.recognise, bids.list_cases),
    "bmad": Layout("{train,valid,test}/{good,Ungood}/img, slices of volumes by name", bmad.recognise, bmad.list_cases),
    "mvtec": Layout("OBJECT/{train,test,ground_truth}", mvtec.recognise, mvtec.list_cases),
    "pairs": Layout("images/ and masks/, as ColonDB and Kvasir", pairs.recognise, pairs.list_cases),
    "brats": Layout("a folder per case, a file per sequence, and seg", brats.recognise, brats.list_cases),
    "folders": Layout("normal and abnormal folders: yes/no, good/Ungood", labels.recognise, labels.list_cases),
}


def open_dataset(
    spec: str | Path,
    *,
    name: str | None = None,
    sequences: Sequence[str] | None = None,
    split: str | None = None,
) -> CaseDataset:
    """A labelled set from ``LAYOUT:PATH``, or from a path whose layout is recognised.

    Args:
        name: in tables; default the folder's. sequences: which become channels, where a case has several.
        split: only cases of this split (train, val, test), where the layout knows any.

    Raises:
        InputError: no such path or layout, a layout that cannot be told, or no case.
    """
    layout, root = _parse(str(spec))
    if layout is None:
        layout = _recognised(root)
    chosen = LAYOUTS[layout]
    if root.is_file() and not chosen.takes_file:
        raise InputError(f"The layout {layout} must be given a folder", root.name)
    listing = chosen.list_cases(root, sequences)
    cases = [case for case in listing.cases if split is None or case.split == split]
    if not cases:
        splits = sorted({case.split for case in listing.cases if case.split})
        wanted = f" of the split {split}" if split and listing.cases else ""
        there = f"splits {', '.join(splits)}" if splits else f"none in {root.name}"
        raise InputError(
            f"The layout {layout} must find at least one case{wanted}",
            there,
            "Check the folder, or name another layout",
        )
    shown = name or (root.resolve().name if root.is_dir() else root.stem)
    return CaseDataset(shown, layout, root, uniquely_named(cases), tuple(dict.fromkeys(listing.notes)))


def _parse(spec: str) -> tuple[str | None, Path]:
    """Layout (None: to be recognised) and the path, which must exist."""
    head, colon, tail = spec.partition(":")
    whole = Path(spec).expanduser()
    if not colon or len(head) == 1 or whole.exists():  # C:\data is no layout
        if not whole.exists():
            raise InputError("The data must be an existing file or folder", whole.name, "Check the path")
        return None, whole
    if head not in LAYOUTS:
        near = get_close_matches(head, LAYOUTS, 1)
        hint = f"Did you mean {near[0]}:{Path(tail).name}" if near else HOW
        raise InputError(f"A layout must be one of {', '.join(LAYOUTS)}", head, hint)
    root = Path(tail).expanduser()
    if not tail or not root.exists():
        raise InputError("The data must be an existing file or folder", root.name or "nothing", "Check the path")
    return head, root


def _recognised(root: Path) -> str:
    for layout, how in LAYOUTS.items():
        if (root.is_dir() or how.takes_file) and _fits(how, root):
            return layout
    raise InputError(f"The layout of {root.name} must be one of {', '.join(LAYOUTS)}", "none that fits", HOW)


def _fits(layout: Layout, root: Path) -> Any:
    try:
        return layout.recognise(root)
    except InputError:  # a list that cannot be read is told when it is named
        return False
