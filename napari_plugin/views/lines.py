"""A review as lines of the tables and words of the dock. Knows neither Qt nor napari."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headclip_med.base.geometry import displayed_pixel, voxel_to_world
from headclip_med.base.types import Vector
from headclip_med.writing.panels import coordinate_text, position_text

if TYPE_CHECKING:
    from headclip_med.review import OpenCase, Session


@dataclass(frozen=True)
class CaseLine:
    """One case in the list.

    Attributes:
        key: in the session.
        score: None while it must not be seen.
        is_done: whether it is read.
        is_started: whether anything was decided or drawn.
        problem: why it is no case, empty for a good one.
    """

    key: str
    score: float | None = None
    is_done: bool = False
    is_started: bool = False
    problem: str = ""


@dataclass(frozen=True)
class SliceLine:
    """One slice in the list.

    Attributes:
        index: its key, along the source's own axis.
        position: in words, empty for a picture.
        score: None while it must not be seen.
        background: whether nothing of the patient is on it.
    """

    index: int
    position: str
    score: float | None
    background: bool = False


@dataclass(frozen=True)
class FindingLine:
    """One finding in the list.

    Of a volume ``size`` is in ml and ``place`` in mm with the patient's letters, of a picture both are in pixels.

    Attributes:
        key: in the case.
        status: accepted, rejected, uncertain, mixed or None.
        peak: the highest value of the map in it, in [0, 1].
        size: in ml, of a picture in pixels.
        place: in mm with the patient's letters, of a picture in pixels.
        words: size and place in a sentence.
        slices: the first and the last one.
        label: a name for it.
        note: free text.
        is_drawn: whether the reader drew it.
    """

    key: str
    status: str | None
    peak: float
    size: str
    place: str
    words: str
    slices: str
    label: str = ""
    note: str = ""
    is_drawn: bool = False


def case_lines(session: Session) -> list[CaseLine]:
    """List the cases in the session's own order.

    Args:
        session: what is reviewed.

    Returns:
        A line for each case.
    """
    return [
        CaseLine(entry.key, entry.score, entry.done, entry.judged + entry.drawn > 0, entry.problem or "")
        for entry in session.cases
    ]


def slice_lines(case: OpenCase) -> list[SliceLine]:
    """List the slices of the primary plane, most suspicious first, by position while scores are concealed.

    Args:
        case: the open case.

    Returns:
        A line for each slice.
    """
    plane, plain = case.record.planes[0], case.record.source.is_2d
    rows = case.slices("position" if case.concealed else "score")
    return [
        SliceLine(row.index, "" if plain else position_text(row.position_mm, plane), row.score, row.background)
        for row in rows
    ]


def finding_lines(case: OpenCase) -> list[FindingLine]:
    """List the findings at the threshold, highest peak first, then what was drawn.

    Args:
        case: the open case.

    Returns:
        A line for each finding.
    """
    found = [
        _finding_line(case, row.id, "mixed" if row.mixed else row.status, row.finding, row.label, row.note, False)
        for row in case.findings
    ]
    drawn = case.review.drawn.items()
    return found + [_finding_line(case, key, None, one.finding, one.label, one.note, True) for key, one in drawn]


def _finding_line(
    case: OpenCase, key: str, status: str | None, finding: Any, label: str, note: str, is_drawn: bool
) -> FindingLine:
    first, last = finding.slices
    slices = f"{first}" if first == last else f"{first}–{last}"
    if case.data.is_plain:
        x, y = displayed_pixel(case.data.frame, case.data.shape, case.data.centre(finding))
        size, place = f"{finding.voxels}", f"{x:.0f}, {y:.0f}"
        words = f"{finding.voxels} pixels, centre at column {x:.0f}, row {y:.0f}"
    else:
        letters = [coordinate_text(value, axis).split() for axis, value in enumerate(finding.centroid_mm)]
        place = " ".join(f"{letter}{float(millimetres):.0f}" for letter, millimetres in letters)
        size, words = f"{finding.volume_mm3 / 1000:.2f}", f"{finding.volume_mm3:.0f} mm³, centre {place} mm"
    return FindingLine(key, status, finding.peak, size, place, words, slices, label, note, is_drawn)


def threshold_words(case: OpenCase) -> str:
    """Tell where the threshold came from.

    Args:
        case: the open case.

    Returns:
        Words for the dock.
    """
    own = case.record.threshold
    origin = case.record.threshold_origin
    if abs(case.threshold - own) < 1e-9:
        return f"the result's own: {origin}"
    return f"moved by the reader; the result's own is {own:.3f}"


def opinion_words(case: OpenCase) -> str:
    """Tell the opinion that was given before the overlay.

    Args:
        case: the open case.

    Returns:
        A sentence, empty without one.
    """
    first = case.review.first_opinion
    return "" if first is None else f"First opinion, without it: {first.rating}, {first.confidence} % sure."


def provenance(case: OpenCase) -> list[tuple[str, str]]:
    """List what a reader should know about the numbers.

    Args:
        case: the open case.

    Returns:
        Pairs of name and value, without those that the result does not tell.
    """
    record = case.record
    facts, source = record.provenance, record.source
    hashes = (facts.get("weights_sha256"), facts.get("export_sha256"), facts.get("pack_sha256"))
    preprocessing = facts.get("preprocessing") or {}
    window = preprocessing.get("window")
    pairs = [
        ("case", case.key),
        ("model", " · ".join(str(facts[key]) for key in ("model", "method") if facts.get(key))),
        ("tower", str(facts.get("tower") or "")),
        ("weights", " · ".join(f"{str(sha)[:12]}…" for sha in hashes if sha)),
        ("domain", str(facts.get("domain") or "")),
        ("window", "percentiles" if not window else f"{window[0]:g}/{window[1]:g}"),
        ("planes", ", ".join(record.planes)),
        ("threshold", f"{record.threshold:.3f}, {record.threshold_origin}"),
        ("source", source.name),
        ("content", f"{source.content_sha256[:12]}…" if source.content_sha256 else ""),
        ("warnings", "; ".join(record.warnings)),
    ]
    return [(name, value) for name, value in pairs if value]


def score_words(case: OpenCase) -> str:
    """Describe the case for the status line.

    Args:
        case: the open case.

    Returns:
        One line, without score and findings while they are concealed.
    """
    if case.concealed:
        return f"{case.key}: look at the bare volume and give a first opinion."
    count = len(case.findings)
    found = f"{count} finding{'' if count == 1 else 's'}"
    return f"{case.key}: score {case.record.pred_score:.3f}, {found} at {case.threshold:.3f}."


def place_of(case: OpenCase, key: str) -> Vector:
    """Find where a finding is shown: its peak, or the middle of a drawn one.

    Args:
        case: the open case.
        key: of the finding.

    Returns:
        The place in the millimetres of the case's layers, ``(3,)``.
    """
    drawn = case.review.drawn.get(key)
    voxel = case.data.centre(drawn.finding) if drawn else case.finding(key).peak_voxel
    return voxel_to_world(case.data.affine, np.asarray(voxel))
