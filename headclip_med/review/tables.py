"""Several readers' reviews → tables for statistics: findings, cases before and after the overlay, marks.

* ``findings.csv``: reader × case × finding, long.
* ``cases.csv``: reader × case with both opinions. ``roc_*`` from 0 (surely normal) to 100 (surely abnormal).
* ``marks.csv``: reader × case × condition × mark with rating, place in RAS mm and the lesion it hits: for JAFROC.
* ``lesions.csv``: every lesion of the truth, where there is one: JAFROC counts those without a mark too.

A plain picture has no millimetres: its places are columns and rows (``px``), and what is in ``mm`` is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from headclip_med.base.errors import InputError, OutputError
from headclip_med.base.files import check_writable, remove_file
from headclip_med.base.geometry import voxel_to_world, voxel_volume, world_to_voxel
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.base.volume import LoadedVolume
from headclip_med.datasets.values import NOT_KNOWN, MaskValues
from headclip_med.review.components import Mask, from_runs
from headclip_med.review.exports import EXPORT_NAME, place_cells, write_csv, write_findings
from headclip_med.review.model import CaseReview, Mark, Opinion
from headclip_med.review.reviewed import ReviewedCase, ReviewedFinding
from headclip_med.writing.record import Millimetres

_CASES = (
    *("reader", "case", "content_sha256", "result_sha256", "unaided_first", "done"),
    *("first_rating", "first_confidence", "roc_first", "first_when", "overlay_shown"),
    *("rating", "confidence", "roc", "when", "seconds_unaided", "threshold"),
    *("accepted", "rejected", "uncertain", "drawn", "model_score", "lesions", "research_use_only"),
)
_MARKS = (
    *("reader", "case", "result_sha256", "condition", "mark", "status", "rating", "rating_from"),
    *("x_mm", "y_mm", "z_mm", "x_px", "y_px", "lesion", "ignored", "research_use_only"),
)
_LESIONS = (
    *("case", "result_sha256", "lesion", "x_mm", "y_mm", "z_mm", "x_px", "y_px", "volume_mm3", "voxels"),
    "research_use_only",
)

_FULL_CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class Lesions:
    """The truth of one case.

    Attributes:
        labels: ``(I, J, K)`` from 1, on the result's grid.
        names: by label.
        ignored: ``(I, J, K)``, where nothing is known, None: nowhere.
        notes: what was odd about the mask, in words.
    """

    labels: NDArray[np.int32]
    names: Mapping[int, str]
    ignored: Mask | None = None
    notes: tuple[str, ...] = ()

    def hit(self, mask: Mask) -> str:
        """Find the lesion that a region shares most voxels with.

        Args:
            mask: ``(I, J, K)``, true inside.

        Returns:
            Its name, empty where the region shares none.
        """
        counts = np.bincount(self.labels[mask], minlength=1)
        counts[0] = 0
        return self.names[int(counts.argmax())] if counts.any() else ""

    def is_unknown(self, mask: Mask) -> bool:
        """Tell whether nothing is known about most of a region.

        Args:
            mask: ``(I, J, K)``, true inside.

        Returns:
            True where more than half of its voxels are ignored.
        """
        return self.ignored is not None and bool(mask.any()) and bool(self.ignored[mask].mean() > 0.5)

    def around(self, position_mm: Millimetres, affine: NDArray[np.float64]) -> Mask:
        """Find the voxel around a point.

        Args:
            position_mm: RAS mm, ``(3,)``.
            affine: voxel index → RAS mm, 4×4.

        Returns:
            ``(I, J, K)``, true in that voxel, false everywhere where the point lies outside.
        """
        region = np.zeros(self.labels.shape, dtype=bool)
        voxel = np.rint(world_to_voxel(affine, np.asarray(position_mm))).astype(int)
        if (voxel >= 0).all() and (voxel < self.labels.shape).all():
            region[tuple(voxel)] = True
        return region


@dataclass(frozen=True, eq=False)
class Reading:
    """One reader's review of one case.

    Attributes:
        case: its name in the tables, which no other result has.
        lesions: None where no truth was given.
    """

    reviewed: ReviewedCase
    case: str
    lesions: Lesions | None = field(default=None)

    @property
    def review(self) -> CaseReview:
        """Return what was said."""
        return self.reviewed.review

    @property
    def sha(self) -> str:
        """Return the hash of the result, which is the case in every table."""
        return self.review.result.result_sha256


def write_tables(readings: Sequence[Reading], folder: Path) -> dict[str, Path]:
    """Write all tables into a folder. Earlier ones are replaced, and go where there are none now.

    Args:
        readings: one for each review.
        folder: for the tables.

    Returns:
        Paths by the table's name: ``findings``, ``cases``, ``marks``, and ``lesions`` where there is a truth.

    Raises:
        OutputError: nothing to write, a folder with the export of a case, or a file that cannot be written.
    """
    if not readings:
        raise OutputError("Tables must be made of at least one review", "none")
    if (folder / EXPORT_NAME).exists():
        raise OutputError("Tables must have a folder of their own", f"the export of a case in '{folder.name}'")
    check_writable(folder)
    ordered = sorted(readings, key=lambda r: (r.case, r.review.reader))
    files = {name: folder / f"{name}.csv" for name in ("findings", "cases", "marks")}
    names = {reading.sha: reading.case for reading in ordered}
    write_findings((reading.reviewed for reading in ordered), files["findings"], names)
    write_csv(files["cases"], _CASES, (_case_row(reading) for reading in ordered))
    write_csv(files["marks"], _MARKS, (row for reading in ordered for row in _mark_rows(reading)))
    if any(reading.lesions is not None for reading in ordered):
        files["lesions"] = folder / "lesions.csv"
        first = {reading.sha: reading for reading in reversed(ordered)}
        write_csv(files["lesions"], _LESIONS, (row for sha in names for row in _lesion_rows(first[sha])))
    else:
        _remove_lesions(folder / "lesions.csv")
    return files


def _remove_lesions(path: Path) -> None:
    """Lesions of an earlier truth do not lie beside tables without one. A file of somebody else stays."""
    try:
        with path.open("rb") as file:
            is_ours = file.readline().startswith(b"case,") and path.is_file()
    except OSError:
        return
    if is_ours:
        remove_file(path)


def roc_score(opinion: Opinion | None) -> float | None:
    """Score an opinion for an ROC curve.

    Args:
        opinion: on the whole case, None where none was given.

    Returns:
        0 (surely normal) over 50 (uncertain) to 100 (surely abnormal), None where there is no opinion.
    """
    if opinion is None:
        return None
    return 50 + {"normal": -1, "uncertain": 0, "abnormal": 1}[opinion.rating] * opinion.confidence / 2


def lesions_of_mask(mask: NDArray[Any], name: str) -> Lesions:
    """Separate a truth mask into lesions, its 26-connected components.

    Args:
        mask: ``(I, J, K)``, whatever is not 0 is a lesion.
        name: of the case.

    Returns:
        The lesions, called ``name-1`` on.
    """
    labels, count = ndimage.label(np.asarray(mask) != 0, structure=_FULL_CONNECTIVITY)
    return Lesions(labels.astype(np.int32), {n: f"{name}-{n}" for n in range(1, count + 1)})


def lesions_of_reader(reviewed: ReviewedCase) -> Lesions:
    """Take what another reader accepted or drew as the truth.

    Args:
        reviewed: the case with its review.

    Returns:
        The lesions, named after the reader and the finding.
    """
    names = {n: f"{reviewed.review.reader}:{row.id}" for n, (row, _) in enumerate(reviewed.found(), start=1)}
    return Lesions(reviewed.labels().astype(np.int32), names)


def read_lesions(path: Path, reviewed: ReviewedCase, name: str, values: MaskValues = NOT_KNOWN) -> Lesions:
    """Read a truth mask from a file, as the masks of a dataset are read: NaN is no lesion, 0 neither.

    Args:
        path: of the mask.
        reviewed: the case with its review, whose grid the mask must have.
        name: of the case.
        values: what the values of the mask mean.

    Returns:
        The lesions, with what is ignored and notes on the mask.

    Raises:
        InputError: unreadable, not on the result's grid, or with several values of which nobody says what they mean.
    """
    from headclip_med.datasets.case import Case
    from headclip_med.datasets.truth import GridError, read_case_truth

    data, notes = reviewed.data, list[str]()
    grid = LoadedVolume(np.broadcast_to(np.float32(0), (1, *data.shape)), data.affine, {})
    try:
        truth = read_case_truth(Case(name, (), (path,), values=values), grid, notes)
    except GridError as error:
        raise InputError(
            f"The truth {path.name} must lie on the grid of its case, {name}", error.given, error.do
        ) from error
    return replace(lesions_of_mask(truth.lesion, name), ignored=truth.ignored, notes=tuple(notes))


def _case_row(reading: Reading) -> dict[str, Any]:
    review, rows = reading.review, reading.reviewed.rows()
    first, last = review.first_opinion, review.opinion
    return {
        "reader": review.reader,
        "case": reading.case,
        "content_sha256": review.result.content_sha256,
        "result_sha256": reading.sha,
        "unaided_first": review.unaided_first,
        "done": review.done,
        "first_rating": first and first.rating,
        "first_confidence": first and first.confidence,
        "roc_first": roc_score(first),
        "first_when": first and first.when,
        "overlay_shown": review.overlay_shown,
        "rating": last and last.rating,
        "confidence": last and last.confidence,
        "roc": roc_score(last),
        "when": last and last.when,
        "seconds_unaided": first and _seconds(review.started, first.when),
        "threshold": review.threshold,
        **{name: sum(row.status == name for row in rows) for name in ("accepted", "rejected", "uncertain", "drawn")},
        "model_score": reading.reviewed.data.record.pred_score,
        "lesions": None if reading.lesions is None else len(reading.lesions.names),
        "research_use_only": RESEARCH_ONLY,
    }


def _mark_rows(reading: Reading) -> Iterator[dict[str, Any]]:
    """Marks before the overlay, and marks with it: accepted, uncertain and drawn regions, and points."""
    review, last = reading.review, reading.review.opinion
    if review.first_opinion is not None:
        yield from _points(reading, "unaided", review.first_opinion)
    if review.overlay_shown is not None:
        for row in reading.reviewed.rows():
            if row.counts or row.status == "uncertain":
                yield _region(reading, row, last)
        if last is not None:
            yield from _points(reading, "aided", last)


def _region(reading: Reading, row: ReviewedFinding, opinion: Opinion | None) -> dict[str, Any]:
    peak = round(100 * row.measures.peak, 2) if row.kind == "map" else None
    hit = _hit(reading.lesions, reading.reviewed.mask_of(row)) if reading.lesions is not None else {}
    place = place_cells(reading.reviewed, row.measures.centroid_mm, row.measures.centroid_voxel)
    named, rated = _named(reading, "aided", row.id, row.status), _rated(row.confidence, opinion, peak)
    return {**named, **rated, **place, **hit, "research_use_only": RESEARCH_ONLY}


def _hit(lesions: Lesions, mask: Mask) -> dict[str, Any]:
    """What a region hits, and whether it is no mark at all, since nothing is known there."""
    lesion = lesions.hit(mask)
    return {"lesion": lesion, "ignored": True if not lesion and lesions.is_unknown(mask) else None}


def _points(reading: Reading, condition: str, opinion: Opinion) -> Iterator[dict[str, Any]]:
    """Marks of an opinion. One that was a region hits with the region while that is as it was."""
    number = 0
    for mark in opinion.marks:
        number += mark.drawn is None
        named = _named(reading, condition, mark.drawn or f"p{number}", "drawn" if mark.drawn else "point")
        rated = _rated(mark.confidence, opinion, None)
        voxel = world_to_voxel(reading.reviewed.data.affine, np.asarray(mark.position_mm)).tolist()
        place = place_cells(reading.reviewed, mark.position_mm, voxel)
        hit = _hit(reading.lesions, _region_of(reading, reading.lesions, mark)) if reading.lesions is not None else {}
        yield {**named, **rated, **place, **hit, "research_use_only": RESEARCH_ONLY}


def _region_of(reading: Reading, lesions: Lesions, mark: Mark) -> Mask:
    drawn = reading.review.drawn.get(mark.drawn or "")
    if drawn is not None and drawn.unaided:
        return from_runs(drawn.runs, reading.reviewed.data.shape)
    return lesions.around(mark.position_mm, reading.reviewed.data.affine)


def _named(reading: Reading, condition: str, mark: str, status: str) -> dict[str, Any]:
    return {
        "reader": reading.review.reader,
        "case": reading.case,
        "result_sha256": reading.sha,
        "condition": condition,
        "mark": mark,
        "status": status,
    }


def _rated(own: int | None, opinion: Opinion | None, peak: float | None) -> dict[str, Any]:
    """A mark's rating, 0 to 100: its own confidence, else that its case is abnormal, else the map's peak."""
    if own is not None:
        return {"rating": own, "rating_from": "mark"}
    if opinion is not None:
        return {"rating": roc_score(opinion), "rating_from": "case"}
    return {"rating": peak, "rating_from": "none" if peak is None else "map"}


def _lesion_rows(reading: Reading) -> Iterator[dict[str, Any]]:
    lesions, data = reading.lesions, reading.reviewed.data
    for label, name in (lesions.names if lesions else {}).items():
        index = np.argwhere(lesions.labels == label) if lesions else np.empty((0, 3))
        if not len(index):  # hidden below another one
            continue
        centre = index.mean(axis=0)
        x, y, z = (float(v) for v in voxel_to_world(data.affine, centre))
        yield {
            "case": reading.case,
            "result_sha256": reading.sha,
            "lesion": name,
            **place_cells(reading.reviewed, (x, y, z), centre.tolist()),
            "volume_mm3": None if data.is_plain else round(len(index) * voxel_volume(data.affine), 4),
            "voxels": len(index),
            "research_use_only": RESEARCH_ONLY,
        }


def _seconds(start: str, end: str) -> float:
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 1)
