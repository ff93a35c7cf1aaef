"""Sets of volumes with a file per sequence: BraTS and its like, WMH, ISBI 2015, MSLesSeg, nnU-Net without its JSON."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from headclip_med.datasets.case import Case
from headclip_med.datasets.layouts.lists import Listing, Tree, counted, no_such_sequence, split_in, told_apart
from headclip_med.datasets.layouts.patterns import ABOVE, Groups, Key, folder_of, key_of, matches
from headclip_med.datasets.layouts.pictures import pairs_of
from headclip_med.datasets.names import VOLUME_ENDINGS, split_of
from headclip_med.datasets.values import EVERY_VALUE, NOT_KNOWN, MaskValues

Pattern = tuple[str, str]
Any_ = TypeVar("Any_", bound=Hashable)


@dataclass(frozen=True)
class SequenceSet:
    """How a kind of set calls its files.

    Attributes:
        images: patterns with the group ``seq``.
        masks: patterns.
        case: groups of both that tell cases apart.
        named: which groups name a case.
        patient: which say who it is.
        order: sequences to read, by preference.
        same: other names of theirs.
        rank: a group of images and its values by preference: of several files of a sequence the first counts.
        values: what the values of a case's masks mean, from its name and what its sequences are called.
        flat: pictures are meant too, not volumes alone.
    """

    images: tuple[Pattern, ...]
    masks: tuple[Pattern, ...]
    case: tuple[str, ...]
    named: tuple[str, ...]
    patient: tuple[str, ...]
    order: tuple[str, ...] = ("t2f", "t1c", "t2w", "t1n")
    same: Mapping[str, str] = field(default_factory=dict)
    rank: tuple[str, tuple[str, ...]] = ("", ("",))
    values: Callable[[str, set[str]], MaskValues] = lambda _name, _called: NOT_KNOWN
    flat: bool = False


def recognise_sequences(tree: Tree, kind: SequenceSet) -> bool:
    """Tell whether some case has an image and a mask.

    Args:
        tree: What lies in the folder.
        kind: How the set calls its files.

    Returns:
        True where one has both.
    """
    images = _images(tree, kind)
    return any(key in images for key in _masks(tree, kind))


def recognise_brats(tree: Tree) -> bool:
    """Tell whether some folder holds a sequence and a mask, or, where no image has one, FLAIR or several sequences.

    Args:
        tree: What lies in the folder.

    Returns:
        True where one does.
    """
    if recognise_sequences(tree, BRATS):
        return True
    parts = [_best(group, BRATS) for group in _images(tree, BRATS).values()]
    return any("t2f" in files or len(files) > 1 for files in parts) and not pairs_of(tree)


def list_sequences(tree: Tree, kind: SequenceSet, sequences: Sequence[str] | None = None) -> Listing:
    """List a case for everything that has the chosen sequences.

    Args:
        tree: What lies in the folder.
        kind: How the set calls its files.
        sequences: Which to read, the usual one by default.

    Returns:
        The cases.

    Raises:
        InputError: a sequence that no case has.
    """
    images, masks = _images(tree, kind), _masks(tree, kind)
    parts = {key: _best(group, kind) for key, group in images.items()}
    called = {key: {groups["seq"].lower() for _, groups in group} for key, group in images.items()}
    chosen, notes = choose_sequences(parts, sequences, kind.order, kind.same)
    names = _names(tree, images, kind)
    cases, without, short, raters = [], [], [], []
    for key, files in parts.items():
        name, patient, split = names[key]
        if any(sequence not in files for sequence in chosen):
            short.append(name)
            continue
        truth = masks.get(key, [])[:1]
        raters += [file for file, _ in masks.get(key, [])[1:]]
        without += [] if truth else [name]
        cases.append(
            Case(
                name=name,
                images=tuple(tree.path(files[sequence]) for sequence in chosen),
                masks=tuple(tree.path(file) for file, _ in truth),
                patient=patient,
                split=split,
                values=kind.values(name, called[key]),
            )
        )
    notes += [counted(short, f"{{}} left out: not every one of {', '.join(chosen)} is there", "case")] if short else []
    notes += [counted(without, "{} without a mask, and so without truth", "case")] if without else []
    notes += [counted(raters, "{} of further readers not used: the first reader's counts", "mask")] if raters else []
    strays = [tree.path(file) for key, group in masks.items() if key not in parts for file, _ in group]
    known = [tree.path(file) for group in images.values() for file, _ in group] + [tree.path(file) for file in raters]
    return Listing(cases, notes, strays, known, _why(parts, masks))


def choose_sequences(
    parts: Mapping[Any_, Mapping[str, object]],
    asked: Sequence[str] | None,
    order: Sequence[str],
    same: Mapping[str, str],
) -> tuple[list[str], list[str]]:
    """Choose the sequences to read: those asked for, else the first that all cases have.

    Args:
        parts: By case, files by sequence.
        asked: Sequences, or None.
        order: By preference.
        same: Other names of sequences.

    Returns:
        The sequences, and what to say about the choice.

    Raises:
        InputError: a sequence that no case has.
    """
    there = {name for files in parts.values() for name in files}
    known = [*(name for name in order if name in there), *sorted(there - set(order))]
    if asked:
        by_lower = {name.lower(): name for name in known}
        chosen = [same.get(name.lower(), by_lower.get(name.lower(), name)) for name in asked]
        wrong = [name for name in chosen if name not in there]
        if wrong:
            raise no_such_sequence(wrong, known)
        return chosen, []
    usual = next((n for n in known if all(n in files for files in parts.values())), known[0] if known else "")
    return [usual], [f"sequence {usual} is used, of {', '.join(known)}"] if len(known) > 1 else []


def _images(tree: Tree, kind: SequenceSet) -> dict[Key, list[tuple[str, Groups]]]:
    return _by_case(tree, kind, kind.images)


def _masks(tree: Tree, kind: SequenceSet) -> dict[Key, list[tuple[str, Groups]]]:
    return _by_case(tree, kind, kind.masks)


def _by_case(tree: Tree, kind: SequenceSet, patterns: Sequence[Pattern]) -> dict[Key, list[tuple[str, Groups]]]:
    found: dict[Key, dict[str, Groups]] = defaultdict(dict)
    for pattern in patterns:
        for file, groups in matches(tree, pattern):
            if not (kind.flat or file.lower().endswith(VOLUME_ENDINGS)):
                continue
            found[key_of(groups, kind.case)].setdefault(file, groups)
    return {key: sorted(group.items()) for key, group in sorted(found.items())}


def _best(group: Sequence[tuple[str, Groups]], kind: SequenceSet) -> dict[str, str]:
    """Sequence → its file, the one that ranks first."""
    name, order = kind.rank
    ranked = sorted(group, key=lambda item: _place(order, (item[1].get(name) or "").lower()))
    found: dict[str, str] = {}
    for file, groups in ranked:
        called = groups["seq"].lower()
        found.setdefault(kind.same.get(called, called), file)
    return found


def _place(order: Sequence[str], value: str) -> int:
    return order.index(value) if value in order else len(order)


def _names(
    tree: Tree, images: Mapping[Key, Sequence[tuple[str, Groups]]], kind: SequenceSet
) -> dict[Key, tuple[str, str, str]]:
    """Name, patient and split of every case; the name of the folder where no group says more."""
    firsts = {key: group[0] for key, group in images.items()}
    said = [split_in(_joined(groups, kind.named))[1] or tree.root.resolve().name for _, groups in firsts.values()]
    often = Counter(said)
    longer = [_joined(groups, ("above", *kind.named, "pre")) for _, groups in firsts.values()]
    names = [text.replace("/", "_") for text in said]
    if len(often) < len(said):  # cases of one name in several folders, or several in one folder
        names = told_apart([text if often[text] == 1 else more for text, more in zip(said, longer, strict=True)])
    found = {}
    for (key, (file, groups)), name in zip(firsts.items(), names, strict=True):
        patient = split_in(_joined(groups, kind.patient))[1].replace("/", "_") if kind.patient else name
        part = groups.get("part", "")
        found[key] = (name, patient_of(patient or name), split_of(part) if part else split_in(folder_of(file))[0])
    return found


def _joined(groups: Groups, names: Sequence[str]) -> str:
    return "/".join(text for name in names if (text := groups.get(name, "").strip("/-_. ")))


def _why(parts: Mapping[Key, Mapping[str, str]], masks: Mapping[Key, Sequence[tuple[str, Groups]]]) -> str:
    for key, files in parts.items():
        if key in masks:
            return f"{next(iter(files.values()))} with {masks[key][0][0]}"
    return ", ".join(next(iter(parts.values()), {}).values())


# --- the sets ----------------------------------------------------------------------------------------------------

_TIME_POINT = re.compile(r"(BraTS-[A-Za-z-]+-\d+)-\d{1,3}")
_AFTER_TREATMENT = re.compile(r"BraTS-(?:GLI|MET)-\d+-\d+", re.IGNORECASE)
_BRATS_WORDS = {"t2f", "t1c", "t2w", "t1n", "t1ce", "t1gd"}
_RESECTION_CAVITY = 4


def patient_of(name: str) -> str:
    """Find the patient in a name such as ``BraTS-GLI-00005-100``.

    Args:
        name: Of a case.

    Returns:
        The patient, any other name as it is.
    """
    match = _TIME_POINT.fullmatch(name)
    return match[1] if match else name


def _brats_values(name: str, called: set[str]) -> MaskValues:
    """All labels of BraTS are tumour, but the cavity that surgery left, since 2024, is neither that nor normal."""
    if _AFTER_TREATMENT.fullmatch(name):
        return MaskValues((), (_RESECTION_CAVITY,), {})
    return EVERY_VALUE if called & _BRATS_WORDS else NOT_KNOWN


_CASE = rf"{ABOVE}(?P<case>(?!anat/)[^/]+/)?"
_SEQ = r"(?P<seq>t2f|t1c|t2w|t1n|flair|t1ce|t1gd|t1w|t1|t2)"
_PRE = r"(?P<pre>(?!sub-)(?:.*[-_. ])?)"
_NO_ANATOMY = r"(?!sub-|.*(?:brain|skull|head|lung|tissue|foreground)[-_ ]*(?:mask|seg|label))"
_TRUTH = "seg|segmentation|gtv|masks?|labels?|lesions?|gt|consensus"
_QUALIFIED = r"(?:(?:lesions?|tumou?r|ms|manual|expert|consensus|binary|gt)[-_ ])*"
_SAME = {"flair": "t2f", "t1ce": "t1c", "t1gd": "t1c", "t1": "t1n", "t1w": "t1n", "t2": "t2w"}

BRATS = SequenceSet(
    images=(
        (_CASE, rf"{_PRE}{_SEQ}"),
        (_CASE, rf"(?P<pre>){_SEQ}[-_].*"),  # DeepMedic: Flair_subtrMeanDivStd
        (rf"{_CASE}[^/]+/", r"(?P<pre>)VSD\.Brain\.XX\.O\.MR_(?P<seq>flair|t1c|t1|t2)\.\d+"),
    ),
    masks=(
        (_CASE, rf"(?P<pre>{_NO_ANATOMY}(?:.*?[-_. ])??){_QUALIFIED}(?:{_TRUTH})"),
        (_CASE, r"(?P<pre>)OTMultiClass"),
        (rf"{_CASE}[^/]+/", r"(?P<pre>)VSD\.Brain_3more\.XX\.O\.OT\.\d+"),
    ),
    case=("above", "case", "pre"),
    named=("case",),
    patient=(),
    same=_SAME,
    values=_brats_values,
)
WMH = SequenceSet(
    images=((r"(?P<patient>(?:[^/]+/)*)(?P<stage>pre|orig)/", r"(?P<seq>flair|t1|3dt1)"),),
    masks=((r"(?P<patient>(?:[^/]+/)*)", "wmh"),),
    case=("patient",),
    named=("patient",),
    patient=("patient",),
    order=("t2f", "t1n", "3dt1"),
    same=_SAME,
    rank=("stage", ("pre", "orig")),
    values=lambda _name, _called: MaskValues((1,), (2,), {1: "WMH", 2: "other pathology"}),
)
_ISBI = r"(?P<patient>(?P<part>training|test)\d\d)_(?P<time>\d\d)_"
ISBI = SequenceSet(
    images=((r"(?:[^/]+/)*", rf"{_ISBI}(?P<seq>flair|mprage|pd|t2)(?P<stage>(?:_pp)?)"),),
    masks=((r"(?:[^/]+/)*", rf"{_ISBI}mask\d"),),
    case=("patient", "time"),
    named=("patient", "time"),
    patient=("patient",),
    order=("t2f", "t1n", "t2w", "pd"),
    same={**_SAME, "mprage": "t1n"},
    rank=("stage", ("_pp", "")),
)
_MSLESSEG = (r"(?:[^/]+/)*?(?P<patient>P\d+)/(?:(?P<time>T\d)/)?", r"(?P<patient>P\d+)(?:_(?P<time>T\d))?_")
MSLESSEG = SequenceSet(
    images=((_MSLESSEG[0], rf"{_MSLESSEG[1]}(?P<seq>flair|t1|t2)"),),
    masks=((_MSLESSEG[0], rf"{_MSLESSEG[1]}mask"),),
    case=("patient", "time"),
    named=("patient", "time"),
    patient=("patient",),
    same=_SAME,
)
NNUNET = SequenceSet(
    images=((rf"{ABOVE}images(?P<part>tr|ts|val)/", r"(?P<stem>.+)_(?P<seq>\d{4})"),),
    masks=((rf"{ABOVE}labels(?P<part>tr|ts|val)/", r"(?P<stem>.+)"),),
    case=("above", "part", "stem"),
    named=("stem",),
    patient=("stem",),
    order=(),
    flat=True,
)
