"""ColonDB-style sets: a folder of images beside a folder of masks of the same names."""

from __future__ import annotations

from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.datasets.listing import UNKNOWN_PATIENTS, Listing
from headclip_med.datasets.names import MASK_FOLDERS, files_in, named, stem_of

# Folders of images, of their masks, and the split that they say; TN3K names its folders after splits.
_FOLDERS = (
    (("images", "image", "imgs", "img", "original"), MASK_FOLDERS, ""),
    (("trainval-image",), ("trainval-mask",), "train"),
    (("test-image",), ("test-mask",), "test"),
)
_SUFFIXES = ("", "_mask", "-mask", "_segmentation", "-segmentation", "_seg", "-seg", "_gt", "-gt", "_label", "-label")


def recognise(root: Path) -> bool:
    """Both folders are there."""
    return bool(_pairs(root))


def list_cases(root: Path) -> Listing:
    """A case per image, whose mask says whether it is normal; one without a mask has no truth."""
    cases: list[Case] = []
    strays: list[Path] = []
    for images, masks, split in _pairs(root):
        by_stem = {stem_of(path).lower(): path for path in files_in(masks)}
        used = set()
        for path in files_in(images):
            stem = stem_of(path)
            mask = next((by_stem[stem.lower() + s] for s in _SUFFIXES if stem.lower() + s in by_stem), None)
            used.add(mask)
            cases.append(Case(name=stem, images=(path,), masks=() if mask is None else (mask,), split=split))
        strays += [path for path in files_in(masks) if path not in used]
    return Listing(cases, [UNKNOWN_PATIENTS], strays)


def _pairs(root: Path) -> list[tuple[Path, Path, str]]:
    found = ((named(root, *images), named(root, *masks), split) for images, masks, split in _FOLDERS)
    return [(images, masks, split) for images, masks, split in found if images is not None and masks is not None]
