"""Sets of images with masks, and sets whose folders say what is normal: told by words in folders and names.

``pairs``: every image has a mask somewhere: beside it, in a folder of masks, in a tree of its own. ``folders``: every
image lies in a folder that says whether it is normal; masks count where they show lesions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from headclip_med.base.errors import InputError
from headclip_med.datasets.case import Case
from headclip_med.datasets.layouts.lists import Listing, Tree, counted, split_in
from headclip_med.datasets.layouts.patients import with_patients
from headclip_med.datasets.layouts.patterns import ABOVE, Found, Rule, folder_of, matches, pair, rules_of_globs
from headclip_med.datasets.names import (
    IMAGE_FOLDER,
    IMAGE_PART,
    MASK_FOLDER,
    MASK_PART,
    NO_IMAGES,
    PART,
    SPLITS,
    TAG,
    label_of,
    split_of,
    stem_of,
    without_split,
)
from headclip_med.datasets.truth import shows_something

# --- how images and masks are called -----------------------------------------------------------------------------

_SUB = r"(?P<sub>(?:[^/]+/)*)"
_ANY_ABOVE = r"(?P<above>(?:[^/]+/)*)"
_ISIC = r"(?:.*/)?IS(?:BI|IC)[^/]*?(?P<year>201\d)[^/]*_(?P<part>training|validation|test)(?:_v\d)?"

# Folders of an image and of its mask: images/ and masks/; one folder; TUMOUR/ and masks/TUMOUR/ or masks/; x/ and
# x/masks/.
_BOTH = (rf"{ABOVE}{PART}(?:{IMAGE_FOLDER}){TAG}/{_SUB}", rf"{ABOVE}{PART}(?:{MASK_FOLDER}){TAG}/{_SUB}")
_ONE = (_ANY_ABOVE, _ANY_ABOVE)
_MIRRORED = (rf"{ABOVE}(?P<sub>[^/]+/)", rf"{ABOVE}(?:{MASK_FOLDER})/(?P<sub>[^/]+/)")
_SIBLING = (rf"{_ANY_ABOVE}(?!(?:{MASK_FOLDER})/)[^/]+/", rf"{_ANY_ABOVE}(?:{MASK_FOLDER})/")
_CHILD = (_ANY_ABOVE, rf"{_ANY_ABOVE}(?:{MASK_FOLDER})/")
_ISIC_FOLDERS = (rf"{_ISIC}_(?:data|input)/(?:[^/]+/)?", rf"{_ISIC}(?:_part1)?_groundtruth/(?:[^/]+/)?")

_DECATHLON = (rf"{ABOVE}images(?P<part>tr|ts|val)/", rf"{ABOVE}labels(?P<part>tr|ts|val)/")

_MASK_WORDS = r"masks?|labels?|segmentations?|segm?|gt|ground[-_ ]?truth|annotations?|roi|lesions?"
_SUFFIX = rf"(?:[-_ ]*masks?|[-_ ]+(?:{_MASK_WORDS}|tumou?r|polyp))(?:[-_ ]?\d+)?"
_POST = r"(?P<post>(?:[-_ ]?\d.*|[-_ ].*)?)"

# Names of an image and of its mask: 7 and 7; 7 and 7_mask_1; img_7 and mask_7; 7 and p7; image-7 and segmentation-7.
_SAME = (r"(?P<stem>.+)", r"(?P<stem>.+)")
_ENDED = (r"(?P<stem>.+?)[-_ ]*", rf"(?P<stem>.+?){_SUFFIX}")
_BEGUN = (r"(?:[a-z]+[-_ ])?(?P<stem>\d.*)", rf"(?:{_MASK_WORDS})[-_ ]?(?P<stem>\d.*)")
_NUMBERED = (r"(?P<stem>\d+)", r"p(?P<stem>\d+)")
_WORDED = (
    rf"(?P<pre>(?:.*[-_ ])?)(?:image|img|imaging|volume|original|orig|input|scan|raw){_POST}",
    rf"(?P<pre>(?:.*[-_ ])?)(?:{_MASK_WORDS}){_POST}",
)

_TOGETHER = (
    (_BOTH, (_SAME, _ENDED, _BEGUN, _NUMBERED, _WORDED)),
    (_ISIC_FOLDERS, (_SAME, _ENDED)),
    (_DECATHLON, (_SAME,)),
    (_ONE, (_ENDED, _BEGUN, _NUMBERED, _WORDED)),
    (_MIRRORED, (_SAME, _ENDED)),
    (_SIBLING, (_SAME, _ENDED, _NUMBERED)),
    (_CHILD, (_SAME, _ENDED, _NUMBERED, _WORDED)),
)
RULES = tuple(
    Rule((folders[0], names[0]), (folders[1], names[1])) for folders, choices in _TOGETHER for names in choices
)

_MASK_NAME = re.compile(rf".+?{_SUFFIX}", re.IGNORECASE | re.DOTALL)
_NO_IMAGE_NAME = re.compile(
    r".*[-_ ](?:super[-_]?pixels?|overlay|bbox|contours?|edges?|pred(?:iction)?|heat_?map|attribute_.*|vis)",
    re.IGNORECASE,
)
_FORMATS = re.compile(r"(?:png|tiff?|jpe?g|bmp|gif)", re.IGNORECASE)
_NO_CLASS = re.compile(rf"{NO_IMAGES.pattern}|(?:un|not?)[-_ ]?label+ed|unknown|unclassified", re.IGNORECASE)
_PLAIN_KINDS = ("yes", "abnormal", "ungood", "bad", "defect", "anomaly", "tumor", "tumour", "positive", "lesion")


Files = Mapping[str, Sequence[str]]  # names by folder


def pairs_of(tree: Tree) -> list[Found]:
    """Find images with masks by any of the rules, once for a tree.

    Args:
        tree: What lies in the folder.

    Returns:
        Images that have a mask.
    """
    if "pairs" not in tree.memory:
        tree.memory["pairs"] = pair(tree, RULES, images_of(tree))
    found: list[Found] = tree.memory["pairs"]
    return found


def images_of(tree: Tree) -> Files:
    """List images and volumes by folder, without folders of predictions, overlays and the like.

    Args:
        tree: What lies in the folder.

    Returns:
        Names by folder.
    """
    return {
        folder: names
        for folder, names in tree.folders.items()
        if not any(NO_IMAGES.fullmatch(part) for part in folder.split("/") if part)
    }


# --- pairs -------------------------------------------------------------------------------------------------------


def recognise_pairs(tree: Tree) -> bool:
    """Tell whether some images have masks, and no folders say what they are.

    Args:
        tree: What lies in the folder.

    Returns:
        True where both hold.
    """
    found = pairs_of(tree)
    return bool(found) and not _covers(_classes(tree).classes, found)


def list_pairs(tree: Tree, image: Sequence[str] = (), mask: Sequence[str] = (), normal: Sequence[str] = ()) -> Listing:
    """List a case per image with a mask, per image beside such ones, and per image in a folder of a normal name.

    The mask says whether an image is normal. One without a mask has no truth, unless its folder says normal.

    Args:
        tree: What lies in the folder.
        image, mask: Patterns of a user, see :func:`headclip_med.datasets.layouts.patterns.rules_of_globs`.
        normal: Patterns of images that are normal and have no mask.

    Returns:
        The cases.

    Raises:
        InputError: a pattern that fits no file, or patterns of which no image and mask belong together.
    """
    if image or mask or normal:
        return _listed_by_user(tree, image, mask, normal)
    files = images_of(tree)
    found = pairs_of(tree)
    _check_one_truth(found)
    used = {entry.image for entry in found} | _masks_of(found)
    strays = [file for file in _mask_files(files, found) if file not in used]
    used.update(strays)
    mates = [file for file in _mates(files, found) if file not in used]
    used.update(mates)
    healthy = [folder for folder in files if any(label_of(part) is False for part in folder.split("/") if part)]
    normal_ones = [folder + name for folder in healthy for name in files[folder] if folder + name not in used]
    return _listing(tree, found, mates, normal_ones, strays)


_KEYS = ("image", "mask", "normal")
_AS_IN = "As in 'pairs:ROOT?image=*.jpg&mask=*_mask*.png'; **/ stands for any folders"


def _listed_by_user(tree: Tree, image: Sequence[str], mask: Sequence[str], normal: Sequence[str]) -> Listing:
    images, masks, healthy = (
        _fitting(tree, what, globs) for what, globs in zip(_KEYS, (image, mask, normal), strict=True)
    )
    found = pair(tree, [rule for ours in image for theirs in mask for rule in rules_of_globs(ours, theirs)])
    if not found and not healthy:
        given = (
            f"{images[0] if images else 'no image'} and {masks[0] if masks else 'no mask'}, which differ where * stands"
        )
        raise InputError("An image and its mask must agree in what * stands for", given, _AS_IN)
    used = {entry.image for entry in found} | _masks_of(found) | set(healthy)
    mates = [file for file in images if file not in used and file not in masks]
    return _listing(tree, found, mates, healthy, [file for file in masks if file not in used])


def _fitting(tree: Tree, what: str, globs: Sequence[str]) -> list[str]:
    """Files that fit the patterns of a user, each of which must fit one."""
    found: dict[str, None] = {}
    for glob in globs:
        fits = [file for file, _ in matches(tree, rules_of_globs(glob, "*")[1].image)]
        if not fits:
            there = counted(tree.files, "{}") if tree.files else "no image in the folder"
            raise InputError(f"The pattern {what}={glob} must fit a file", there, _AS_IN)
        found |= dict.fromkeys(fits)
    return list(found)


def _listing(
    tree: Tree, found: Sequence[Found], mates: Sequence[str], normal: Sequence[str], strays: Sequence[str]
) -> Listing:
    """Images with masks, without any, and normal ones as cases."""
    images, repeated = _without_other_formats(found)
    cases = [
        _case(tree, entry.image, [file for file, _ in entry.masks], entry.groups.get("part", "")) for entry in images
    ]
    cases += [_case(tree, file) for file in mates]
    cases += [replace(_case(tree, file), label=False) for file in normal]
    cases.sort(key=lambda case: case.images)
    notes = [counted(repeated, "{} passed over: the same names in another format")] if repeated else []
    notes += [counted(mates, "{} without a mask beside images that have one", "image")] if mates else []
    said = "{} without a mask count as normal, as their folders or the pattern say"
    notes += [counted(normal, said, "image")] if normal else []
    why = f"{images[0].image} with {images[0].masks[0][0]}" if images else ""
    known = [tree.path(file) for file in repeated]
    cases = _with_categories(with_patients(tree.root, cases, notes))
    return Listing(cases, notes, [tree.path(file) for file in strays], known, why)


def _check_one_truth(found: Iterable[Found]) -> None:
    """Refuse images with masks in several folders: one may show the lesion, another the organ or the field of view."""
    entry = next((entry for entry in found if entry.rivals), None)
    if entry is not None:
        folders = dict.fromkeys(folder_of(file) for file in (entry.masks[0][0], *entry.rivals))
        raise InputError(
            "It must be known which folder of masks shows the lesions",
            " and ".join(folders),
            "Say it, as in 'pairs:ROOT?image=images/*.png&mask=lesions/*.png'",
        )


def _masks_of(found: Iterable[Found]) -> set[str]:
    return {file for entry in found for file, _ in entry.masks}


def _without_other_formats(found: Sequence[Found]) -> tuple[list[Found], list[str]]:
    """The images that count; those of the same name in another format, or in a folder named after one, repeat them."""
    first: dict[str, Found] = {}
    repeated = [file for entry in found for file in entry.alike]
    for entry in found:
        folder = "/".join(part for part in folder_of(entry.image).split("/") if not _FORMATS.fullmatch(part))
        key = f"{folder}/{stem_of(Path(entry.image))}".casefold()
        if key in first:
            repeated += [entry.image, *(file for file, _ in entry.masks)]
        first.setdefault(key, entry)
    return list(first.values()), repeated


def _mask_files(files: Files, found: Sequence[Found]) -> list[str]:
    """Files that are masks by their folder, or by their names in a folder that has masks beside images."""
    beside = {folder_of(file) for entry in found for file, _ in entry.masks}
    masks = []
    for folder, names in files.items():
        if MASK_PART.fullmatch(_last(folder)):
            masks += [folder + name for name in names]
        elif folder in beside:
            masks += [folder + name for name in names if _MASK_NAME.fullmatch(stem_of(Path(name)))]
    return masks


def _mates(files: Files, found: Sequence[Found]) -> list[str]:
    """Images in folders where some have a mask, called as those are."""
    rules = {(folder_of(entry.image), entry.rule): None for entry in found}
    mates: dict[str, None] = {}
    for folder, rule in rules:
        for file, _ in matches(Tree(Path(), {folder: tuple(files[folder])}, {}), rule.image):
            if not _NO_IMAGE_NAME.fullmatch(stem_of(Path(file))):
                mates[file] = None
    return list(mates)


# --- folders -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Class:
    """A folder that says whether its images are normal."""

    folder: str
    label: bool
    split: str
    category: str

    @property
    def name(self) -> str:
        """Of the folder alone."""
        return _last(self.folder)


@dataclass(frozen=True)
class _Classes:
    """What folders say: classes, folders beside them that say nothing, and folders that are surely no class."""

    classes: tuple[_Class, ...] = ()
    unknown: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()


def recognise_folders(tree: Tree) -> bool:
    """Tell whether folders say what is normal, and masks, where there are any, belong to the images in them.

    Args:
        tree: What lies in the folder.

    Returns:
        True where both hold.
    """
    classes = _classes(tree).classes
    if not any(not part.label for part in classes) and len(classes) < 2:
        return False
    found = pairs_of(tree)
    return not found or _covers(classes, found)


def list_folders(tree: Tree, normal: Sequence[str] = (), abnormal: Sequence[str] = ()) -> Listing:
    """List a case per image in a folder that says whether it is normal.

    Args:
        tree: What lies in the folder.
        normal, abnormal: Names of folders that say so because the user says it, where others beside them are passed
            over.

    Returns:
        The cases.

    Raises:
        InputError: a folder of images beside the others that says nothing, or none that says anything.
    """
    told = {name.casefold(): False for name in normal} | {name.casefold(): True for name in abnormal}
    found = _classes(tree, told)
    if not found.classes:
        there = ", ".join(folder.rstrip("/") for folder in tree.children("")[:_NAMED]) or "none"
        raise InputError("A folder must say that its images are normal or abnormal", f"the folders {there}", _SAY_IT)
    if found.unknown and not told:
        say = ", ".join(f"{folder.rstrip('/')} ({len(tree.below(folder))} images)" for folder in found.unknown[:_NAMED])
        raise InputError("Every folder of images must say whether they are normal", say, _SAY_IT)
    pairs = [entry for entry in pairs_of(tree) if _covers(found.classes, [entry])]
    _check_one_truth(pairs)
    pairs += _twins(tree, found.classes, _masks_of(pairs))
    notes = [
        counted(tree.below(folder), f"{{}} in {folder.rstrip('/')} passed over: it is no class")
        for folder in found.apart
    ]
    masks, truths = _lesion_masks(tree, found.classes, pairs, notes)
    apart = {file for folder in found.apart for file in tree.below(folder)}
    strays = [file for file in _mask_files(images_of(tree), pairs) if file not in truths and file not in apart]
    cases = _class_cases(tree, found.classes, masks, truths | set(strays))
    cases = with_patients(tree.root, cases, notes, {tree.path(part.folder) for part in found.classes})
    return Listing(
        _with_categories(cases),
        notes,
        [tree.path(file) for file in strays],
        [tree.path(file) for file in (*apart, *truths)],
        ", ".join(f"{part.folder} is {'abnormal' if part.label else 'normal'}" for part in found.classes),
    )


def _class_cases(
    tree: Tree, classes: Sequence[_Class], masks: Mapping[str, Sequence[str]], no_images: set[str]
) -> list[Case]:
    """A case per image of every class; its kind where there are several abnormal ones, or one of a name of its own."""
    abnormal = {part.name.casefold() for part in classes if part.label}
    cases = []
    for part in classes:
        has_kind = part.label and (len(abnormal) > 1 or part.name.casefold() not in _PLAIN_KINDS)
        for file in _class_images(tree, part, no_images):
            stem = stem_of(Path(file))
            cases.append(
                Case(
                    name=stem if stem.casefold().startswith(part.name.casefold()) else f"{part.name}_{stem}",
                    images=(tree.path(file),),
                    masks=tuple(tree.path(mask) for mask in masks.get(file, ())),
                    label=part.label,
                    split=part.split,
                    category=part.category,
                    columns={"kind": part.name} if has_kind else {},
                )
            )
    return cases


_NAMED = 6  # folders in an error
_DEEPEST = 4  # folders above the class folders
_SAY_IT = (
    "Say it, as in 'folders:ROOT?normal=A,B&abnormal=C' (other folders are then passed over), rename the folder, or "
    "list the images in a CSV"
)

_Told = dict[str, bool]  # what the user says of folders, by name in lower case


def _label(folder: str, told: _Told) -> bool | None:
    name = _last(folder)
    return told.get(name.casefold()) if told else label_of(without_split(name)[1])


def _last(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]


def _classes(tree: Tree, told: _Told | None = None) -> _Classes:
    """The class folders that lie nearest to the root, all at one depth, and what lies beside them."""
    say = told or {}
    level = [""]
    places: list[str] = []
    for _ in range(_DEEPEST):
        places = [folder for folder in level if any(_label(child, say) is not None for child in tree.children(folder))]
        if places:
            break
        level = [child for folder in level for child in tree.children(folder) if not NO_IMAGES.fullmatch(_last(child))]
    found = [_beside(tree, place, say) for place in places]
    if found and all(part.split for one in found for part in one.classes):  # train_normal/ beside test/{normal,...}/
        inner = [child for place in places for child in tree.children(place) if split_of(_last(child)) in SPLITS]
        found += [_beside(tree, child, say) for child in inner if child not in places]
    several = len({part.category for one in found for part in one.classes}) > 1
    classes = [replace(part, category=part.category if several else "") for one in found for part in one.classes]
    within = tuple(part.folder for part in classes)
    return _Classes(
        tuple(classes),
        tuple(folder for one in found for folder in one.unknown),
        tuple(f for one in found for f in one.apart if not any(folder.startswith(f) for folder in within)),
    )


def _beside(tree: Tree, place: str, told: _Told) -> _Classes:
    """The folders of one place: classes, unknown ones, and those that are surely none."""
    split, category = split_in(place)
    classes, unknown, apart = [], [], []
    for child in tree.children(place):
        name, label = _last(child), _label(child, told)
        inner = {_label(grandchild, told) for grandchild in tree.children(child)} - {None}
        if label is not None and (told or inner <= {label}):
            classes.append(_Class(child, label, without_split(name)[0] or split, category))
        elif inner or split_of(name) in SPLITS or _holds_splits(tree, child) or _NO_CLASS.fullmatch(name):
            apart.append(child)  # a set of its own, or images that are not labelled
        elif not MASK_PART.fullmatch(name):
            unknown.append(child)
    return _Classes(tuple(classes), tuple(unknown), tuple(apart))


def _holds_splits(tree: Tree, folder: str) -> bool:
    return any(split_of(_last(child)) in SPLITS for child in tree.children(folder))


def _covers(classes: Sequence[_Class], found: Sequence[Found]) -> bool:
    """Whether every image with a mask lies in a class folder."""
    return bool(classes) and all(any(entry.image.startswith(c.folder) for c in classes) for entry in found)


def _class_images(tree: Tree, part: _Class, truths: set[str]) -> list[str]:
    """Images of a class: not masks, nor what lies in folders of masks, predictions and the like."""
    files = {folder: names for folder, names in images_of(tree).items() if folder.startswith(part.folder)}
    return [
        folder + name
        for folder, names in files.items()
        if not any(MASK_PART.fullmatch(inner) for inner in folder[len(part.folder) :].split("/") if inner)
        for name in names
        if folder + name not in truths and not _NO_IMAGE_NAME.fullmatch(stem_of(Path(name)))
    ]


def _lesion_masks(
    tree: Tree, classes: Sequence[_Class], pairs: Sequence[Found], notes: list[str]
) -> tuple[dict[str, list[str]], set[str]]:
    """Masks by image, and all mask files; masks that show something in normal images show no lesions: none is used."""
    masks = {entry.image: [file for file, _ in entry.masks] for entry in pairs}
    truths = {file for files in masks.values() for file in files}
    healthy = [c.folder for c in classes if not c.label]
    of_normal = [files[0] for image, files in masks.items() if any(image.startswith(folder) for folder in healthy)]
    if any(shows_something(tree.path(file)) for file in of_normal[:_LOOKED_AT]):
        notes.append(
            counted(sorted(truths), "{} not used: normal images have some too, so they show no lesions", "mask")
        )
        return {}, truths
    return masks, truths


def _twins(tree: Tree, classes: Sequence[_Class], known: set[str]) -> list[Found]:
    """Photographs with a mask of the same name beside them, in a format without loss (``exp1.jpg``, ``exp1.png``)."""
    found = []
    for folder, names in images_of(tree).items():
        if not any(folder.startswith(part.folder) for part in classes):
            continue
        masks = {stem_of(Path(name)): name for name in names if name.lower().endswith((".png", ".bmp"))}
        photographs = {stem_of(Path(name)): name for name in names if name.lower().endswith((".jpg", ".jpeg"))}
        for stem in photographs.keys() & masks.keys():
            image, mask = folder + photographs[stem], folder + masks[stem]
            if not {image, mask} & known and _has_few_values(tree.path(mask)):
                found.append(Found(image, {}, RULES[0], [(mask, {})]))
    return sorted(found, key=lambda entry: entry.image)


def _has_few_values(path: Path) -> bool:
    """Whether a picture holds labels rather than a photograph; False where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.convert("L").getcolors(_MOST_LABELS) is not None
    except (OSError, ValueError):
        return False


_LOOKED_AT = 8  # masks of normal images
_MOST_LABELS = 64


# --- what is known about an image --------------------------------------------------------------------------------


def _case(tree: Tree, file: str, masks: Sequence[str] = (), part: str = "") -> Case:
    """An image; its category is its folder, as far as that is no word of ours."""
    folders = [p for p in folder_of(file).split("/") if p and not IMAGE_PART.fullmatch(p) and not _FORMATS.fullmatch(p)]
    folders = [p for p in folders if not (part and part.lower() in p.lower())]
    split, category = split_in("/".join(folders))
    return Case(
        name=stem_of(Path(file)),
        images=(tree.path(file),),
        masks=tuple(tree.path(mask) for mask in masks),
        split=split_of(part) if part else split,
        category=category,
    )


def _with_categories(cases: Sequence[Case]) -> list[Case]:
    """Categories only where there are several."""
    several = len({case.category for case in cases}) > 1
    return [case if several else replace(case, category="") for case in cases]
