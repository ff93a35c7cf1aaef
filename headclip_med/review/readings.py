"""Review files and truth on disk → readings for the tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from headclip_med.base.errors import InputError
from headclip_med.base.files import RECORD_NAME, sha256_file
from headclip_med.datasets.values import NOT_KNOWN, MaskValues, Words, chosen_values
from headclip_med.reading.inputs import case_name
from headclip_med.review.cases import CaseData, find_results, load_found
from headclip_med.review.exports import EXPORT_NAME
from headclip_med.review.model import CaseReview, ResultLink
from headclip_med.review.reviewed import ReviewedCase, case_names
from headclip_med.review.store import ReviewFiles, load_review, read_files
from headclip_med.review.tables import Lesions, Reading, lesions_of_reader, read_lesions

_TRUTH_ENDINGS = ("", "_seg", "_mask", "_truth")
_TRUTH_FILES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".tif", ".tiff", ".bmp")


def gather(
    places: Sequence[Path],
    *,
    results: Sequence[Path] = (),
    reference: str | None = None,
    truth: Sequence[Path] = (),
    lesion_values: Words | None = None,
    ignore_values: Words | None = None,
) -> list[Reading]:
    """Gather the reviews in files and folders, each with its result and, where asked for, with the truth of its case.

    Args:
        places: review files, or folders with them at any depth.
        results: folders with the results, for reviews that do not lie beside theirs.
        reference: a reader whose findings are the truth for the others. Not among the readings then.
        truth: mask files, or folders of them, named after the case or its source (``_seg``, ``_mask``, ``_truth``), or
            in a folder of the case's name. One mask is the truth of one image.
        lesion_values, ignore_values: what the values of the masks mean. See :func:`headclip_med.open_dataset`.

    Returns:
        One reading for each reader and case.

    Raises:
        InputError: no review, two of one reader and case, one without its result, no truth where it was asked for, or
            one that fits several cases.
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
    masks = _Masks([place.expanduser() for place in truth])
    values = chosen_values(NOT_KNOWN, lesion_values, ignore_values)
    return list(_with_truth(list(readings.values()), reference, masks, values))


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
            return load_found(result)
    raise InputError(
        f"The result of {path.name} must be at hand, unaltered",
        f"no folder with the result '{review.result.name}' that it belongs to",
        "Give the folder of results with --results",
    )


def _with_truth(readings: list[Reading], reference: str | None, masks: _Masks, values: MaskValues) -> Iterator[Reading]:
    if reference is not None:
        others = [r for r in readings if r.review.reader.casefold() != reference.casefold()]
        theirs = {r.sha: lesions_of_reader(r.reviewed) for r in readings if r not in others}
        if not theirs:
            raise InputError("The reference must be one of the readers", reference)
        yield from (replace(r, lesions=theirs[r.sha]) for r in others if _known(r, theirs))
        return
    cases = {reading.sha: reading for reading in readings} if masks.places else {}
    paths = {sha: masks.of(reading) for sha, reading in cases.items()}
    _check_apart(paths, cases)
    lesions = {sha: read_lesions(path, cases[sha].reviewed, cases[sha].case, values) for sha, path in paths.items()}
    yield from (replace(reading, lesions=lesions.get(reading.sha)) for reading in readings)


def _known(reading: Reading, theirs: dict[str, Lesions]) -> bool:
    if reading.sha not in theirs:
        raise InputError("The reference must have reviewed every case", f"not {reading.case}")
    return True


def _check_apart(paths: dict[str, Path], cases: dict[str, Reading]) -> None:
    """One mask is the truth of one image. Several results may have been made from that."""
    images: dict[Path, tuple[str, Reading]] = {}
    for sha, path in paths.items():
        reading = cases[sha]
        image, first = images.setdefault(path.resolve(), (_image_of(reading), reading))
        if image != _image_of(reading):
            raise InputError(
                f"The truth {path.name} must fit one case only",
                f"{first.case} and {reading.case}, which are not of one image",
                f"Put each into a folder named after its case, such as {reading.case}/{path.name}",
            )


def _image_of(reading: Reading) -> str:
    return reading.review.result.content_sha256 or reading.sha


class _Masks:
    """The files among ``places`` that may be a truth."""

    def __init__(self, places: Sequence[Path]) -> None:
        self.places = places
        self._files = [(file, folders) for place in places for file, folders in _truth_files(place)]

    def of(self, reading: Reading) -> Path:
        """Return the mask of a case: by the case's own name, by its patient's folder, else by the name of its source.

        Raises:
            InputError: none, or several.
        """
        link, patient = reading.review.result, reading.reviewed.data.folder.resolve().parent.name
        source = case_name(Path(link.source_name))
        # a number behind the source's name says that several sources have that name
        sources = set() if re.fullmatch(re.escape(source) + r"_\d+", link.name) else _endings(source)
        names = _endings(link.name) | sources
        rules: tuple[Callable[[str, set[str]], bool], ...] = (
            lambda stem, folders: stem in _endings(reading.case) and reading.case != link.name,
            lambda stem, folders: stem in names and reading.case in folders,
            lambda stem, folders: reading.case in folders,
            lambda stem, folders: stem in names and patient in folders,
            lambda stem, folders: stem in _endings(link.name),
            lambda stem, folders: stem in sources,
        )
        for rule in rules:
            fitting = [file for file, folders in self._files if rule(case_name(file), folders)]
            masks = [file for file in fitting if not _is_source(file, link)] if len(fitting) > 1 else fitting
            if len(masks) == 1:
                return masks[0]
            if masks:
                break
        raise InputError(
            f"There must be one truth mask for the case {reading.case}",
            f"{len(masks)} named after it",
            f"Name it {reading.case}_mask, or put it into a folder called {reading.case}",
        )


def _endings(stem: str) -> set[str]:
    return {stem + ending for ending in _TRUTH_ENDINGS}


def _truth_files(place: Path) -> Iterator[tuple[Path, set[str]]]:
    """Files with the names of the folders that they lie in, the place itself among them."""
    if not place.is_dir():
        yield place, {place.absolute().parent.name}
        return
    for path in sorted(place.rglob("*")):
        is_own = (path.parent / RECORD_NAME).exists() or (path.parent / EXPORT_NAME).exists()
        if path.name.lower().endswith(_TRUTH_FILES) and path.is_file() and not is_own:
            yield path, {place.resolve().name, *path.relative_to(place).parts[:-1]}


def _is_source(path: Path, link: ResultLink) -> bool:
    """Whether it is the image itself, which may lie beside its mask."""
    return link.content_sha256 is not None and sha256_file(path) == link.content_sha256
