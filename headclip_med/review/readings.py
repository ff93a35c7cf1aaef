"""Review files and truth on disk → readings for the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from headclip_med.base.errors import InputError
from headclip_med.base.files import RECORD_NAME
from headclip_med.reading.inputs import case_name
from headclip_med.review.cases import CaseData, find_results, load_case
from headclip_med.review.model import CaseReview
from headclip_med.review.reviewed import ReviewedCase, case_names
from headclip_med.review.store import ReviewFiles, load_review, read_files
from headclip_med.review.tables import Lesions, Reading, lesions_of_reader, read_truth

_TRUTH_ENDINGS = ("", "_seg", "_mask", "_truth")


def gather(
    places: Sequence[Path],
    *,
    results: Sequence[Path] = (),
    reference: str | None = None,
    truth: Sequence[Path] = (),
) -> list[Reading]:
    """Reviews in files and folders, each with its result and, where asked for, with the truth of its case.

    Args:
        results: folders with the results, for reviews that do not lie beside theirs.
        reference: a reader whose findings are the truth for the others; not among the readings then.
        truth: mask files, or folders of them, named after the case or its source (``_seg``, ``_mask``, ``_truth``).

    Raises:
        InputError: no review, two of one reader and case, one without its result, or no truth where it was asked for.
    """
    if reference is not None and truth:
        raise InputError("The truth must be a reader's or masks", "both", "Leave one of them out")
    found = [pair for place in places for pair in _reviews(place.expanduser())]
    if not found:
        raise InputError("There must be at least one review", "none", "Give review files, or folders with them")
    loaded: dict[str, CaseData] = {}
    for path, review in found:
        sha = review.result.result_sha256
        if sha not in loaded:
            loaded[sha] = _data_of(path, review, [folder.expanduser() for folder in results])
    names = case_names(review for _, review in found)
    readings: dict[tuple[str, str], Reading] = {}
    for _, review in found:
        sha = review.result.result_sha256
        key = sha, review.reader.casefold()
        if key in readings:
            raise InputError(f"A reader must have one review of a case, {names[sha]}", f"two by {review.reader}")
        readings[key] = Reading(ReviewedCase(loaded[sha], review), names[sha])
    return list(_with_truth(list(readings.values()), reference, [place.expanduser() for place in truth]))


def _reviews(place: Path) -> Iterator[tuple[Path, CaseReview]]:
    if place.is_file() and not (place.name.startswith("review_") and place.suffix in (".json", ".journal")):
        yield place, load_review(place)
        return
    if not place.exists():
        raise InputError("A review must be a file or a folder that exists", place.name)
    files = [place] if place.is_file() else [p for p in sorted(place.rglob("review_*")) if p.is_file()]
    for path in sorted({file.with_suffix(".json") for file in files if file.suffix in (".json", ".journal")}):
        history = read_files(ReviewFiles(path.parent, path.stem.removeprefix("review_"))).history
        if history is not None:
            yield path, history.review


def _data_of(path: Path, review: CaseReview, results: Sequence[Path]) -> CaseData:
    beside = [path.parent] if (path.parent / RECORD_NAME).is_file() else []
    for result in find_results([*beside, *results]) if beside or results else ():
        if result.link is not None and result.link.result_sha256 == review.result.result_sha256:
            return load_case(result)
    raise InputError(
        f"The result of {path.name} must be at hand, unaltered",
        f"no folder with the result '{review.result.name}' that it belongs to",
        "Give the folder of results with --results",
    )


def _with_truth(readings: list[Reading], reference: str | None, truth: Sequence[Path]) -> Iterator[Reading]:
    if reference is not None:
        others = [r for r in readings if r.review.reader.casefold() != reference.casefold()]
        theirs = {r.sha: lesions_of_reader(r.reviewed) for r in readings if r not in others}
        if not theirs:
            raise InputError("The reference must be one of the readers", reference)
        yield from (replace(r, lesions=theirs[r.sha]) for r in others if _known(r, theirs))
        return
    masks = [file for place in truth for file in (_files(place) if place.is_dir() else [place])]
    by_case: dict[str, Lesions] = {}
    for reading in readings:
        if truth and reading.case not in by_case:
            by_case[reading.case] = read_truth(_mask_of(reading, masks), reading.reviewed, reading.case)
        yield replace(reading, lesions=by_case.get(reading.case))


def _known(reading: Reading, theirs: dict[str, Lesions]) -> bool:
    if reading.sha not in theirs:
        raise InputError("The reference must have reviewed every case", f"not {reading.case}")
    return True


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.nii*")) if not (path.parent / RECORD_NAME).exists()]


def _mask_of(reading: Reading, masks: Sequence[Path]) -> Path:
    link = reading.review.result
    stems = (link.name, case_name(Path(link.source_name)))
    wanted = {stem + ending for stem in stems for ending in _TRUTH_ENDINGS}
    fitting = [mask for mask in masks if case_name(mask) in wanted]
    if len(fitting) != 1:
        raise InputError(
            f"There must be one truth mask for the case {reading.case}",
            f"{len(fitting)} named after it",
            "Name it as the case or its source",
        )
    return fitting[0]
