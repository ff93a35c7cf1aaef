"""Names of files, cases and classes, as the layouts need them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from headclip_med.datasets.case import Case

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def word_set(text: str) -> frozenset[str]:
    """Split a text into its words, which blanks part.

    Args:
        text: Any text.

    Returns:
        The words.
    """
    return frozenset(text.split())


_NORMAL = word_set("no normal normals good healthy negative negatives neg control controls ok uninfected unremarkable")
_ABNORMAL = word_set(
    """yes abnormal abnormals abnormality abnormalities ungood bad unhealthy nonhealthy notnormal nonnormal
    ko defect defects defective anomaly anomalies anomalous positive positives pos
    disease diseased diseases sick pathological pathology lesion lesions finding findings infected parasitized tumor
    tumors tumour tumours cancer cancers cancerous benign malignant carcinoma adenocarcinoma squamous glioma gliomas
    glioblastoma meningioma pituitary schwannoma melanoma nevus metastasis metastases lymphoma hemorrhage haemorrhage
    hemorrhagic haemorrhagic bleeding stroke ischemic ischaemic infarct infarction aneurysm edema oedema pneumonia
    bacteria bacterial viral virus covid covid19 tuberculosis tb effusion opacity atelectasis cardiomegaly consolidation
    emphysema fibrosis hernia infiltration pneumothorax nodule nodules mass cyst cysts stone stones fracture fractured
    fractures cataract glaucoma retinopathy dr amd drusen cnv dme myopia polyp polyps ulcer ulcerative colitis
    esophagitis demented dementia alzheimer alzheimers sclerosis arthritis osteoarthritis crack scratch hole broken
    contamination blowhole fray uneven"""
)
_DENYING = word_set("no non not without")  # what follows
_LACKING = word_set("free absent absence none lacking")  # what stands before or behind
_SETS = word_set("data dataset datasets database db archive")  # brain_tumor_dataset is no class
_DENIED = re.compile("^(?:non?|not|un|without)|(?:free|less|absent)$")
_SPLIT = re.compile(
    r"(?:[a-z]\. )?(?:(train(?:ing|val)?)|(val(?:id(?:ation)?)?)|(test(?:ing)?))[-_ ]?(?:data)?(?:set)?"
)
_SPLIT_PREFIX = re.compile(r"^(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)[-_ ](?=.)")

SPLITS = ("train", "val", "test")

IMAGE_FOLDER = r"original[ _-]images?|originals?|images?|imgs?|bbdd|inputs?|frames|jpegimages|pictures|photos"
MASK_FOLDER = (
    r"masks?|anomaly[ _-]?masks?|ground[ _-]?truths?|gts?|labels?|annotations?|annots?|segs?|segmentations?|gtpolyp|"
    r"(?:segmentation|seg|binary|lesion|gt|ground[ _-]?truth)[ _-](?:masks?|labels?|images?)|mask[ _-]images?"
)
# What may stand before and behind such a word: train_images, images_C1.
PART = r"(?:(?P<part>train\w*|test\w*|val\w*)[-_ ])?"
TAG = r"(?:[-_ ](?P<tag>[^/]+))?"
IMAGE_PART = re.compile(rf"{PART}(?:{IMAGE_FOLDER}){TAG}", re.IGNORECASE)
MASK_PART = re.compile(rf"{PART}(?:{MASK_FOLDER}){TAG}", re.IGNORECASE)
# Folders of what is neither an image nor its truth.
NO_IMAGES = re.compile(
    r"(?:pred(?:icted|ictions?|s)?|results?|outputs?|overlays?|visuali[sz]ations?|edges?|contours?|boundar(?:y|ies)|"
    r"b?box(?:es)?|bbox.*|bounding[ _-]?box.*|heat[ _-]?maps?|super[ _-]?pixels?|thumb(?:nail)?s?|previews?|gtlumen|"
    r"gtspecular|gtvoid|border|cache|tmp|logs?)",
    re.IGNORECASE,
)

_LONGEST_NAME, _MOST_BYTES = 80, 200  # file systems take 255 bytes; suffixes need room


def stem_of(path: Path) -> str:
    """Cut the ending off a file name, ``.nii.gz`` being one.

    Args:
        path: A file.

    Returns:
        Its name without the ending.
    """
    lowered = path.name.lower()
    ending = next((e for e in (*VOLUME_ENDINGS, *IMAGE_ENDINGS) if lowered.endswith(e)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def files_in(
    folder: Path, endings: Sequence[str] = (*IMAGE_ENDINGS, *VOLUME_ENDINGS), *, deep: bool = False
) -> list[Path]:
    """List the images and volumes of a folder, without hidden ones.

    Args:
        folder: Where to look.
        endings: Of the files wanted.
        deep: Look in all folders below too.

    Returns:
        Their paths, sorted.
    """
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(
        path
        for path in found
        if path.name.lower().endswith(tuple(endings))
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def folders_in(folder: Path) -> list[Path]:
    """List the folders of a folder, without hidden ones.

    Args:
        folder: Where to look.

    Returns:
        Their paths, sorted.
    """
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def named(folder: Path, *names: str) -> Path | None:
    """Find the first folder of one of some names, whatever its case.

    Args:
        folder: Where to look.
        names: In lower case, by preference.

    Returns:
        The folder, or None.
    """
    if not folder.is_dir():
        return None
    by_name = {path.name.lower(): path for path in folders_in(folder)}
    return next((by_name[name] for name in names if name in by_name), None)


def split_of(name: str) -> str:
    """Tell the split by what sets call it, such as Training or TestDataset.

    Args:
        name: Of a folder or a column.

    Returns:
        ``train``, ``val`` or ``test``, else the name itself.
    """
    match = _SPLIT.fullmatch(name.lower())
    if name.lower() in ("tr", "ts"):  # of imagesTr and imagesTs
        return "train" if name.lower() == "tr" else "test"
    return name if match is None else ("train", "val", "test")[(match.lastindex or 1) - 1]


def label_of(name: str) -> bool | None:
    """Tell a class by its name.

    ``no_tumor``, ``tumor_free`` and ``tumor_absent`` are normal, ``glioma_tumor`` and ``not_normal`` are not.

    Args:
        name: Of a folder or a class.

    Returns:
        True abnormal, False normal, None where a name says neither or both.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower().replace("ab normal", "abnormal")
    tokens = re.findall(r"[a-z0-9]+", spaced)
    if not _SETS.isdisjoint(tokens):
        return None
    told = {place: said for place, token in enumerate(tokens) if (said := _said(token)) is not None}
    denied = [place for i, token in enumerate(tokens) for place in _denied(token, i, told)]
    if len(set(denied)) < len(denied):
        return None  # not_lesion_free
    found = {said != (place in denied) for place, said in told.items()}
    return found.pop() if len(found) == 1 else None


def _said(token: str) -> bool | None:
    """What one word says by itself: ``tumor`` True, ``healthy`` and ``nontumor`` False."""
    if token in _ABNORMAL:
        return True
    return False if token in _NORMAL or _DENIED.sub("", token) in _ABNORMAL else None


def _denied(token: str, i: int, told: Mapping[int, bool]) -> list[int]:
    """Places of the words that a word at place ``i`` turns round: the nearest ones that follow one another."""
    after, before = sorted(p for p in told if p > i), sorted((p for p in told if p < i), reverse=True)
    if token in _DENYING:
        return after[:1] if token == "non" else _run(after)
    if token in _LACKING:
        return [place for place in _run(before) or _run(after) if told[place]]
    return [i - 1] if token == "false" and told.get(i - 1) else []


def _run(places: Sequence[int]) -> list[int]:
    return [place for n, place in enumerate(places) if abs(place - places[0]) == n]


def without_split(name: str) -> tuple[str, str]:
    """Take the split off the name of a class folder, such as ``train_normal`` → ``train`` and ``normal``.

    Args:
        name: Of the folder.

    Returns:
        The split, empty where it begins with none, and the rest.
    """
    match = _SPLIT_PREFIX.match(name.lower())
    return (split_of(match[1]), name[match.end() :]) if match else ("", name)


def uniquely_named(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Rename cases so that names are safe as file names and differ whatever their case.

    Where several cases have one name, category and split go into it if they tell the cases apart, and then a number.

    Args:
        cases: In order.

    Returns:
        The same cases in the same order.
    """
    listed = list(cases)
    alike: dict[str, list[Case]] = defaultdict(list)
    for case in listed:
        alike[_plain(case.name).casefold()].append(case)
    taken: set[str] = set()
    done = []
    for case in listed:
        plain = _plain(_told_apart(case, alike[_plain(case.name).casefold()]))
        name, number = plain, 2
        while name.casefold() in taken:
            name, number = f"{plain}_{number}", number + 1
        taken.add(name.casefold())
        done.append(replace(case, name=name))
    return tuple(done)


def _plain(name: str) -> str:
    plain = re.sub(r"[^\w.+() -]+", "_", name).strip(". ")[:_LONGEST_NAME]
    return plain.encode()[:_MOST_BYTES].decode(errors="ignore").rstrip(". ") or "case"


def _told_apart(case: Case, alike: Sequence[Case]) -> str:
    parts = [case.name]
    if len({other.category for other in alike}) > 1:
        parts.insert(0, case.category)
    if len({other.split for other in alike}) > 1:
        parts.append(case.split)
    return "_".join(part for part in parts if part)
