"""What is wrong with a labelled set, before anybody believes a number from it; one case in memory at a time."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from headclip_med.base.errors import HeadclipError, InputError, internal_error
from headclip_med.datasets.case import Case
from headclip_med.datasets.dataset import CaseDataset
from headclip_med.datasets.fingerprints import Fingerprint, meaning_question
from headclip_med.datasets.loading import CONTRADICTION
from headclip_med.datasets.mask_pictures import NOT_BINARY, TOO_DARK
from headclip_med.datasets.truth import GridError, Mask, MaskError, MeaningError
from headclip_med.datasets.values import value_text
from headclip_med.reading.content import existing_path

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # cases done, cases in all

_SPLIT_AGAIN = "Split by patient: `headclip-med data split`"
_REPORT = "Report it: this is a fault of the program"
_LARGE_SHARE, _HALF = 0.9, 0.5  # a mask of more than this share of its image is rather upside down than a lesion
_INVERTED = "If 0 means lesion, say --lesion-values 0"


@dataclass(frozen=True)
class Problem:
    """One kind of trouble.

    Attributes:
        severity: ``error`` makes numbers wrong, ``warning`` is worth a look.
        kind: missing_file, unreadable_image, unreadable_mask, mask_grid, mask_meaning (nothing says which values are
            lesions), mask_values, mask_dark, mask_full, contradiction, no_mask, no_label, stray_mask, copies,
            copies_across_labels, copies_across_splits, patients_across_splits, or reader (what it found odd).
        what, mend: in words.
        cases: names, of copies ``a = b``, of stray masks the files, of patients in several splits the patients.
    """

    severity: Literal["error", "warning"]
    kind: str
    what: str
    cases: tuple[str, ...]
    mend: str


@dataclass(frozen=True)
class DataReport:
    """What was found.

    Attributes:
        name, layout: of the set.
        counts: cases, readable, unique, patients, volumes, images, normal, abnormal, unlabelled, with_mask.
        splits, categories: cases by name.
        notes: of the listing.
        problems: errors first, each kind once.
        why: what the layout was recognised by.
        mask_values: by value: its name, what it means, and in how many cases it occurs.
    """

    name: str
    layout: str
    counts: dict[str, int]
    splits: dict[str, int]
    categories: dict[str, int]
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]
    why: str
    mask_values: dict[str, dict[str, str | int]]

    @property
    def ok(self) -> bool:
        """Whether nothing would make numbers wrong."""
        return not any(problem.severity == "error" for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """Turn the report into plain JSON values.

        Returns:
            By field, and ``ok``.
        """
        return {**asdict(self), "ok": self.ok}


@dataclass(frozen=True)
class _Facts:
    """What is kept of one case that could be read."""

    case: Case
    image_sha256: str
    label: bool | None
    is_volume: bool
    lesion_share: float | None
    looks_inverted: bool
    values: tuple[int, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def check_dataset(dataset: CaseDataset, progress: Progress | None = None) -> DataReport:
    """Read every case and report what is missing or inconsistent, and how to mend it.

    Args:
        dataset: A labelled set.
        progress: Told how many cases are done and of how many.

    Returns:
        What was found.
    """
    facts: list[_Facts] = []
    asked: list[Fingerprint] = []
    problems: list[Problem] = []
    for done, case in enumerate(dataset, start=1):
        missing = [path.name for path in _files(case) if not _exists(path)]
        if missing:
            what = f"{len(missing)} of its files are missing, such as {missing[0]}"
            problems.append(Problem("error", "missing_file", what, (case.name,), "Add the files or delete the entry"))
        else:
            try:
                facts.append(_facts(dataset, case))
            except MeaningError as error:
                asked.append(Fingerprint(case.name, values=error.values, meaning=case.values))
            except HeadclipError as error:
                what = f"{_general(error.must, case)}; given: {_general(error.given, case)}"
                problems.append(Problem("error", _kind_of(error), what, (case.name,), error.do))
            except Exception as error:  # the other cases are worth a look all the same
                log.debug("case %s", case.name, exc_info=True)
                problems.append(Problem("error", "unreadable_image", internal_error(error), (case.name,), _REPORT))
        if progress is not None:
            progress(done, len(dataset))
    asked += [Fingerprint(fact.case.name, values=fact.values, meaning=fact.case.values) for fact in facts]
    problems += [*_meaning(asked), *_masks(dataset, facts), *_said(facts), *_copies(facts), *_torn_patients(dataset)]
    return DataReport(
        name=dataset.name,
        layout=dataset.layout,
        counts=_counts(dataset, facts),
        splits=dict(Counter(case.split for case in dataset if case.split)),
        categories=dict(Counter(case.category for case in dataset if case.category)),
        notes=dataset.notes,
        problems=tuple(sorted(_gathered(problems), key=lambda problem: problem.severity)),
        why=dataset.why,
        mask_values=_mask_values(asked),
    )


def _files(case: Case) -> list[Path]:
    return [path for path in (*case.images, *case.masks) if path is not None]


def _exists(path: Path) -> bool:
    try:
        existing_path(path)
    except InputError:
        return False
    return True


def _facts(dataset: CaseDataset, case: Case) -> _Facts:
    labelled = dataset.load(case)
    truth, volume = labelled.gt_mask, labelled.volume
    return _Facts(
        case=case,
        image_sha256=labelled.image_sha256,
        label=labelled.gt_label,
        is_volume=not volume.meta.get("is_2d", False),
        lesion_share=None if truth is None or not case.has_mask else float(truth.mean()),
        looks_inverted=truth is not None and case.has_mask and _looks_inverted(truth),
        values=labelled.mask_values,
        warnings=labelled.warnings,
        notes=tuple(volume.meta.get("reader_warnings", ())),
    )


def _looks_inverted(truth: Mask) -> bool:
    """Whether the mask covers the whole edge of the image and more than half of the rest, as a background does."""
    inner = truth[1:-1, 1:-1]
    edge = truth.sum() - inner.sum() == truth.size - inner.size
    return bool(edge and truth.mean() > _HALF)


def _meaning(asked: list[Fingerprint]) -> Iterable[Problem]:
    question = meaning_question(asked)
    if question is not None:
        cases = tuple(found.case for found in asked if found.values)
        yield Problem("error", "mask_meaning", f"{question.must}; given: {question.given}", cases, question.do)


def _mask_values(asked: list[Fingerprint]) -> dict[str, dict[str, str | int]]:
    """Every value that some mask holds, rising; the only value of unknown meaning is the lesion."""
    only = "lesion" if meaning_question(asked) is None else "not known"
    cases = Counter(value for found in asked for value in found.values)
    meanings = {value: found.meaning for found in asked for value in found.values}
    return {
        value_text(value): {
            "name": meanings[value].names.get(value, ""),
            "means": only if meanings[value].meaning(value) == "not known" else meanings[value].meaning(value),
            "cases": count,
        }
        for value, count in sorted(cases.items())
    }


def _kind_of(error: HeadclipError) -> str:
    if isinstance(error, GridError):
        return "mask_grid"
    return "unreadable_mask" if isinstance(error, MaskError) else "unreadable_image"


def _counts(dataset: CaseDataset, facts: list[_Facts]) -> dict[str, int]:
    labels = Counter(fact.label for fact in facts)
    return {
        "cases": len(dataset),
        "readable": len(facts),
        "unique": len({fact.image_sha256 for fact in facts}),
        "patients": len({case.patient or case.name for case in dataset}),
        "volumes": sum(fact.is_volume for fact in facts),
        "images": sum(not fact.is_volume for fact in facts),
        "normal": labels[False],
        "abnormal": labels[True],
        "unlabelled": labels[None],
        "with_mask": sum(fact.case.has_mask for fact in facts),
    }


def _masks(dataset: CaseDataset, facts: list[_Facts]) -> Iterable[Problem]:
    shares = {fact.case.name: fact.lesion_share for fact in facts if fact.lesion_share is not None}
    full = tuple(name for name, share in shares.items() if share == 1)
    if full:
        yield Problem("error", "mask_full", "the mask covers the whole image", full, _INVERTED)
    inverted = {fact.case.name for fact in facts if fact.looks_inverted}
    large = tuple(name for name, share in shares.items() if share < 1 and (share > _LARGE_SHARE or name in inverted))
    if large:
        what = (
            f"the mask looks inverted: it covers the edge of the image and most of it, or more than {_LARGE_SHARE:.0%}"
        )
        yield Problem("warning", "mask_full", what, large, _INVERTED)
    without = tuple(fact.case.name for fact in facts if fact.label is not False and not fact.case.has_mask)
    if dataset.has_masks and without:
        mend = "Add the masks, or take these cases out; without one a case counts at image level only"
        yield Problem("warning", "no_mask", "no mask in a set with masks", without, mend)
    unknown = tuple(fact.case.name for fact in facts if fact.label is None)
    if unknown:
        what = "nothing says whether the case is normal"
        yield Problem("warning", "no_label", what, unknown, "Add a mask, or a label in a CSV")
    if dataset.strays:
        what = "masks that belong to no image"
        yield Problem("warning", "stray_mask", what, dataset.strays, "Add the images, or give both the same name")


def _said(facts: list[_Facts]) -> Iterable[Problem]:
    """Warnings of loading and of the reader."""
    for fact in facts:
        name = (fact.case.name,)
        for words in fact.warnings:
            if words.startswith(CONTRADICTION):
                yield Problem("error", "contradiction", words, name, "Correct the label or the mask")
            elif words.startswith(NOT_BINARY):
                mend = "Lossy and smoothed masks count from half of their range; better save 0 and 1"
                yield Problem("warning", "mask_values", NOT_BINARY, name, mend)
            elif words.startswith(TOO_DARK):
                mend = "Look at one of them; if its faint values mean lesion, save it as PNG with 0 and 255"
                yield Problem("warning", "mask_dark", TOO_DARK, name, mend)
            else:
                yield Problem("warning", "mask", _general(words, fact.case), name, "Look at one of them")
        for words in fact.notes:
            yield Problem("warning", "reader", _general(words, fact.case), name, "Look at one of them")


def _general(words: str, case: Case) -> str:
    """``words`` without names of this case's files, so that they are the same for the next one."""
    for path in sorted(_files(case), key=lambda path: -len(path.name)):
        words = words.replace(f"mask {path.name}", "mask").replace(path.name, "the file")
    return words


def _gathered(problems: Iterable[Problem]) -> list[Problem]:
    """Problems that differ in nothing but their cases as one."""
    cases: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for problem in problems:
        cases[problem.severity, problem.kind, problem.what, problem.mend] += problem.cases
    return [
        Problem(severity, kind, what, tuple(dict.fromkeys(names)), mend)
        for (severity, kind, what, mend), names in cases.items()
    ]


def _copies(facts: list[_Facts]) -> Iterable[Problem]:
    groups: dict[str, list[_Facts]] = defaultdict(list)
    for fact in facts:
        groups[fact.image_sha256].append(fact)
    for group in groups.values():
        if len(group) == 1:
            continue
        same = (" = ".join(fact.case.name for fact in group),)
        labels, splits = {fact.label for fact in group} - {None}, {fact.case.split for fact in group}
        if len(labels) > 1:
            what, mend = "the same image under different labels", "Find out which is right"
            yield Problem("error", "copies_across_labels", what, same, mend)
        if len(splits) > 1:
            yield Problem("error", "copies_across_splits", "the same image in different splits", same, _SPLIT_AGAIN)
        if len(labels) < 2 and len(splits) < 2:
            mend = "Evaluation counts it once; delete the copies"
            yield Problem("warning", "copies", "the same image more than once", same, mend)


def _torn_patients(dataset: CaseDataset) -> Iterable[Problem]:
    splits: Mapping[str, set[str]] = defaultdict(set)
    for case in dataset:
        if case.split:
            splits[case.patient or case.name].add(case.split)
    torn = tuple(patient for patient, found in splits.items() if len(found) > 1)
    if torn:
        what = "patients with cases in different splits"
        yield Problem("error", "patients_across_splits", what, torn, _SPLIT_AGAIN)
