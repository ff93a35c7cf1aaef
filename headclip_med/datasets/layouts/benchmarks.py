"""Benchmarks of anomalies whose folders say category, split and kind: MVTec AD, VisA, MosMed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from headclip_med.base.errors import InputError
from headclip_med.datasets.case import Case
from headclip_med.datasets.layouts.lists import UNKNOWN_PATIENTS, Listing, Tree, counted, read_text
from headclip_med.datasets.layouts.patterns import ABOVE, Groups, Rule, matches, pair
from headclip_med.datasets.names import label_of, split_of, stem_of
from headclip_med.datasets.values import EVERY_VALUE

_STEM = r"(?P<stem>.+)"
_MASK_STEM = r"(?P<stem>.+?)(?:_mask|_gt)?"
_MVTEC = (
    Rule(
        (rf"{ABOVE}test(?:_public)?/(?P<kind>[^/]+)/", _STEM),
        (rf"{ABOVE}(?:test_public/)?ground_truth/(?P<kind>[^/]+)/", _MASK_STEM),
    ),
    Rule(  # LOCO: a folder of masks for every image
        (rf"{ABOVE}test/(?P<kind>[^/]+)/", _STEM),
        (rf"{ABOVE}ground_truth/(?P<kind>[^/]+)/(?P<stem>[^/]+)/", r"\d+"),
    ),
)
_MVTEC_IMAGE = (rf"{ABOVE}(?P<split>train|validation|test(?:_public)?)/(?P<kind>(?!ground_truth)[^/]+)/", _STEM)
_VISA_IMAGE = (rf"{ABOVE}data/images/(?P<kind>normal|anomaly)/", _STEM)
_VISA = (Rule(_VISA_IMAGE, (rf"{ABOVE}data/masks/(?P<kind>anomaly)/", _STEM)),)
_MOSMED_IMAGE = (rf"{ABOVE}studies/(?P<kind>CT-\d)/", r"(?P<stem>study_\d+)")
_MOSMED = (Rule(_MOSMED_IMAGE, (rf"{ABOVE}masks/", r"(?P<stem>study_\d+)_mask")),)
_NORMAL_KINDS = ("good", "ok", "normal", "ct-0")


def recognise_mvtec(tree: Tree) -> bool:
    """Tell whether an image of ``test/KIND`` has a mask in ``ground_truth/KIND``.

    Args:
        tree: What lies in the folder.

    Returns:
        True where it does.
    """
    return bool(pair(tree, _MVTEC))


def list_mvtec(tree: Tree) -> Listing:
    """List a case per image of every object, with the object as the category.

    Args:
        tree: What lies in the folder.

    Returns:
        The cases.
    """
    return _listed(tree, _MVTEC_IMAGE, _MVTEC, lambda file, groups: split_of(groups["split"].split("_")[0]))


def recognise_visa(tree: Tree) -> bool:
    """Tell whether there are ``Data/Images/Normal`` and masks of ``Data/Images/Anomaly``.

    Args:
        tree: What lies in the folder.

    Returns:
        True where they are.
    """
    return bool(pair(tree, _VISA))


def list_visa(tree: Tree) -> Listing:
    """List a case per image of every object, with the splits of ``split_csv/1cls.csv`` where it is there.

    Args:
        tree: What lies in the folder.

    Returns:
        The cases.

    Raises:
        InputError: a table of splits that cannot be read.
    """
    splits = _visa_splits(tree.root)
    return _listed(tree, _VISA_IMAGE, _VISA, lambda file, groups: splits.get(file.casefold(), ""))


def recognise_mosmed(tree: Tree) -> bool:
    """Tell whether a volume of ``studies/CT-1`` has a mask.

    Args:
        tree: What lies in the folder.

    Returns:
        True where one has.
    """
    return bool(pair(tree, _MOSMED))


def list_mosmed(tree: Tree) -> Listing:
    """List a case per study, of which those of CT-0 are normal, and of the others fifty say where the lesions are.

    Args:
        tree: What lies in the folder.

    Returns:
        The cases.
    """
    listing = _listed(tree, _MOSMED_IMAGE, _MOSMED, lambda file, groups: "")
    cases = [Case(**{**vars(case), "patient": case.name, "category": ""}) for case in listing.cases]
    return Listing(cases, [n for n in listing.notes if n != UNKNOWN_PATIENTS], listing.strays, why=listing.why)


def _listed(
    tree: Tree, image: tuple[str, str], rules: tuple[Rule, ...], split: Callable[[str, Groups], str]
) -> Listing:
    """Images by one pattern with the masks that rules find for them; any value but 0 is an anomaly."""
    found = {entry.image: [file for file, _ in entry.masks] for entry in pair(tree, rules)}
    cases, without = [], []
    for file, groups in matches(tree, image):
        kind, normal = groups["kind"], _is_normal(groups["kind"])
        masks = [] if normal else found.get(file, [])
        stem = stem_of(Path(file))
        without += [] if masks or normal else [file]
        cases.append(
            Case(
                name=stem if stem.startswith("study_") else f"{kind}_{stem}",
                images=(tree.path(file),),
                masks=tuple(tree.path(mask) for mask in masks),
                label=not normal,
                category=groups["above"].rstrip("/").rpartition("/")[2] or tree.root.resolve().name,
                split=split(file, groups),
                columns={} if normal else {"kind": kind},
                values=EVERY_VALUE,
            )
        )
    used = {mask for case in cases for mask in case.masks}
    shown = {
        file for rule in rules for file, groups in matches(tree, rule.mask) if not _is_normal(groups.get("kind", ""))
    }
    strays = [tree.path(file) for file in sorted(shown) if tree.path(file) not in used]
    notes = [UNKNOWN_PATIENTS]
    notes += [counted(without, "{} without a mask: abnormal, and nothing says where", "image")] if without else []
    why = next((f"{image} with {masks[0]}" for image, masks in found.items()), "")
    return Listing(cases, notes, strays, why=why)


def _is_normal(kind: str) -> bool:
    return kind.lower() in _NORMAL_KINDS or label_of(kind) is False


def _visa_splits(root: Path) -> dict[str, str]:
    """Split by path in lower case, from the one-class table."""
    path = root / "split_csv" / "1cls.csv"
    if not path.is_file():
        return {}
    rows = csv.DictReader(io.StringIO(read_text(path)))
    if not {"image", "split"} <= set(rows.fieldnames or ()):
        raise InputError(f"{path.name} must have the columns image and split", ", ".join(rows.fieldnames or ()))
    return {(row["image"] or "").casefold(): split_of(row["split"] or "") for row in rows}
