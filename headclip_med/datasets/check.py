"""What is wrong with a labelled set, before anybody believes a number from it; one case in memory at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from headclip_med.datasets.case import Case, CaseDataset
from headclip_med.errors import HeadclipError

Progress = Callable[[int, int], None]  # cases done, cases in all

_SPLIT_AGAIN = "Split by patient: `headclip-med data split`"
_FULL_SHARE = 0.9  # a mask of more than this share of its image is rather upside down than a lesion


@dataclass(frozen=True)
class Problem:
    """One kind of trouble: ``error`` makes numbers wrong, ``warning`` is worth a look. ``mend``: what to do."""

    severity: Literal["error", "warning"]
    what: str
    cases: tuple[str, ...]
    mend: str


@dataclass(frozen=True)
class DataReport:
    """What was found.

    Attributes:
        counts: cases, patients, volumes, images, normal, abnormal, unlabelled, with mask, unique.
        splits, categories: cases by name. notes: of the listing.
    """

    name: str
    layout: str
    counts: dict[str, int]
    splits: dict[str, int]
    categories: dict[str, int]
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing would make numbers wrong."""
        return not any(problem.severity == "error" for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "ok": self.ok}


@dataclass(frozen=True)
class Facts:
    """What is kept of one case that could be read."""

    case: Case
    image_sha256: str
    label: bool | None
    is_volume: bool
    lesion_share: float | None
    warnings: tuple[str, ...]


def check_dataset(dataset: CaseDataset, progress: Progress | None = None) -> DataReport:
    """Read every case and report what is missing or inconsistent, and how to mend it."""
    facts: list[Facts] = []
    unreadable: list[Problem] = []
    for done, case in enumerate(dataset, start=1):
        try:
            facts.append(_facts(dataset, case))
        except HeadclipError as error:
            unreadable.append(Problem("error", str(error.must) + f"; given: {error.given}", (case.name,), error.do))
        if progress is not None:
            progress(done, len(dataset))
    problems = [*unreadable, *_masks(dataset, facts), *_warned(facts), *_duplicates(facts), *_patients(dataset)]
    return DataReport(
        name=dataset.name,
        layout=dataset.layout,
        counts=_counts(dataset, facts),
        splits=dict(Counter(case.split for case in dataset if case.split)),
        categories=dict(Counter(case.category for case in dataset if case.category)),
        notes=dataset.notes,
        problems=tuple(sorted(problems, key=lambda problem: problem.severity)),
    )


def _facts(dataset: CaseDataset, case: Case) -> Facts:
    labelled = dataset.load(case)
    truth = labelled.gt_mask
    return Facts(
        case=case,
        image_sha256=labelled.image_sha256,
        label=labelled.gt_label,
        is_volume=min(labelled.volume.shape[1:]) > 1,
        lesion_share=None if truth is None or not case.has_mask else float(truth.mean()),
        warnings=(*labelled.warnings, *labelled.volume.meta.get("reader_warnings", [])),
    )


def _counts(dataset: CaseDataset, facts: list[Facts]) -> dict[str, int]:
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


def _masks(dataset: CaseDataset, facts: list[Facts]) -> Iterable[Problem]:
    full = [f.case.name for f in facts if f.lesion_share is not None and f.lesion_share > _FULL_SHARE]
    if full:
        yield Problem("error", "masks cover nearly the whole image", tuple(full), "Invert them if 0 means lesion")
    without = [f.case.name for f in facts if f.label is not False and not f.case.has_mask]
    if dataset.has_masks and without:
        mend = "Add the masks, or take these cases out; without one a case counts at image level only"
        yield Problem("warning", "cases without a mask in a set with masks", tuple(without), mend)
    unknown = [f.case.name for f in facts if f.label is None]
    if unknown:
        yield Problem("warning", "nothing says whether these are normal", tuple(unknown), "Add a mask or a label (CSV)")


def _warned(facts: list[Facts]) -> Iterable[Problem]:
    """Warnings of loading, gathered by their words without the file's name."""
    by_words: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        for words in fact.warnings:
            by_words[_without_names(words, fact.case)].append(fact.case.name)
    for words, cases in by_words.items():
        contradiction = words.startswith("labelled ")
        mend = "Correct the label or the mask" if contradiction else "Look at one of them"
        yield Problem("error" if contradiction else "warning", words, tuple(dict.fromkeys(cases)), mend)


def _without_names(words: str, case: Case) -> str:
    for path in (*case.images, *case.masks):
        if path is not None:
            words = words.replace(path.name, "the file")
    if " values: from " in words:  # the number of values differs from file to file
        words = "the mask is not binary: " + words.partition(": ")[2]
    return words


def _duplicates(facts: list[Facts]) -> Iterable[Problem]:
    groups: dict[str, list[Facts]] = defaultdict(list)
    for fact in facts:
        groups[fact.image_sha256].append(fact)
    found: dict[str, list[str]] = defaultdict(list)
    for group in groups.values():
        if len(group) == 1:
            continue
        same = " = ".join(fact.case.name for fact in group)
        if len({fact.label for fact in group}) > 1:
            found["labels"].append(same)
        elif len({fact.case.split for fact in group}) > 1:
            found["splits"].append(same)
        else:
            found["copies"].append(same)
    if found["labels"]:
        yield Problem(
            "error", "the same image under different labels", tuple(found["labels"]), "Find out which is right"
        )
    if found["splits"]:
        yield Problem("error", "the same image in different splits", tuple(found["splits"]), _SPLIT_AGAIN)
    if found["copies"]:
        mend = "Evaluation counts it once; delete the copies"
        yield Problem("warning", "the same image more than once", tuple(found["copies"]), mend)


def _patients(dataset: CaseDataset) -> Iterable[Problem]:
    splits: Mapping[str, set[str]] = defaultdict(set)
    for case in dataset:
        if case.split:
            splits[case.patient or case.name].add(case.split)
    torn = tuple(patient for patient, found in splits.items() if len(found) > 1)
    if torn:
        yield Problem("error", "patients with cases in different splits", torn, _SPLIT_AGAIN)
