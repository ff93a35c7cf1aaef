"""ColonDB-style sets: a folder of images beside a folder of masks of the same names."""

from __future__ import annotations

from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.datasets.listing import UNKNOWN_PATIENTS, Listing
from headclip_med.datasets.names import files_in, named, stem_of

_IMAGES = ("images", "image", "imgs", "img", "original", "test-image", "trainval-image")
_MASKS = ("masks", "mask", "ground truth", "ground_truth", "groundtruth", "gt", "labels", "test-mask", "trainval-mask")
_SUFFIXES = ("", "_mask", "-mask", "_segmentation", "_seg", "_gt", "_label")


def recognise(root: Path) -> bool:
    """Both folders are there."""
    return named(root, *_IMAGES) is not None and named(root, *_MASKS) is not None


def list_cases(root: Path, sequences: object = None) -> Listing:
    """A case per image; one without a mask has no truth, and a mask without an image is noted."""
    images, masks = named(root, *_IMAGES), named(root, *_MASKS)
    if images is None or masks is None:
        return Listing([])
    by_stem = {stem_of(path).lower(): path for path in files_in(masks)}
    cases, used, without = [], set(), 0
    for path in files_in(images):
        stem = stem_of(path)
        mask = next((by_stem[stem.lower() + s] for s in _SUFFIXES if stem.lower() + s in by_stem), None)
        used.add(mask)
        without += mask is None
        cases.append(Case(name=stem, images=(path,), masks=() if mask is None else (mask,)))
    notes = [UNKNOWN_PATIENTS]
    if without:
        notes.append(f"{without} images have no mask")
    left = len(set(by_stem.values()) - used)
    if left:
        notes.append(f"{left} masks have no image")
    return Listing(cases, notes)
