"""The list of cases as a reader sees it: scores first, but no score before an unaided opinion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from headclip_med.review.cases import FoundResult
from headclip_med.review.model import CaseReview
from headclip_med.writing.record import ResultRecord

T = TypeVar("T")


@dataclass(frozen=True)
class SliceRow:
    """A slice of the primary plane.

    Attributes:
        index: along the array axis of the primary plane.
        position_mm: centre in RAS mm, None for a picture.
        score: None while it is concealed.
        background: whether nothing of the patient is on it.
    """

    index: int
    position_mm: tuple[float, float, float] | None
    score: float | None
    background: bool


def slice_rows(record: ResultRecord, concealed: bool) -> tuple[SliceRow, ...]:
    """List all slices by index.

    Args:
        record: what the prediction recorded.
        concealed: whether scores must not be seen.

    Returns:
        A row for each slice of the record, without scores where they are concealed.
    """
    rows = [SliceRow(s.index, s.position_mm, None if concealed else s.score, s.background) for s in record.slices]
    return tuple(sorted(rows, key=lambda row: row.index))


def suspicious_order(rows: Sequence[SliceRow]) -> list[int]:
    """Order the scored slices by suspicion.

    Args:
        rows: the slices.

    Returns:
        Indices of the slices that are no background and have a score, highest score first, of equal ones the lower
        index.
    """
    scored = [row for row in rows if not row.background and row.score is not None]
    return [row.index for row in sorted(scored, key=lambda row: (-(row.score or 0.0), row.index))]


def neighbour(items: Sequence[T], here: T | None, step: int) -> T | None:
    """Step through items from one of them.

    Args:
        items: in their order.
        here: the item to count from, None for an end.
        step: how far, backwards where negative.

    Returns:
        The item ``step`` away from ``here``, None beyond an end. Where ``here`` is none of them, the first for a step
        forwards and the last for one backwards.
    """
    if not items:
        return None
    if here is None or here not in items:
        return items[0] if step > 0 else items[-1]
    place = items.index(here) + step
    return items[place] if 0 <= place < len(items) else None


@dataclass(frozen=True)
class CaseEntry:
    """One line of the case list.

    Attributes:
        score, findings: of the result, at its own threshold, None while they are concealed or unknown.
        judged: decisions so far.
        drawn: regions drawn.
        begun: anything was done.
        done: said by the reader.
        concealed: unaided first, and the reader has not given an opinion yet.
        problem: why the case cannot be reviewed, None for a good one.
    """

    key: str
    folder: Path
    score: float | None = None
    findings: int | None = None
    judged: int = 0
    drawn: int = 0
    begun: bool = False
    done: bool = False
    concealed: bool = False
    problem: str | None = None


def entry_of(found: FoundResult, review: CaseReview | None, unaided_first: bool) -> CaseEntry:
    """Make the line of one result in the list of cases.

    Args:
        found: one of those that were found.
        review: what the reader said, None where nobody has begun.
        unaided_first: whether a first opinion is asked for before the overlay.

    Returns:
        The line, with the reason where the result cannot be reviewed.
    """
    if found.record is None:
        return CaseEntry(found.key, found.folder, problem=found.problem)
    concealed = is_concealed(review, unaided_first)
    return CaseEntry(
        key=found.key,
        folder=found.folder,
        score=None if concealed else found.record.pred_score,
        findings=None if concealed else len(found.record.findings),
        judged=0 if review is None else sum(f.status is not None for f in review.findings.values()),
        drawn=0 if review is None else len(review.drawn),
        begun=review is not None and review.actions > 0,
        done=review is not None and review.done,
        concealed=concealed,
    )


def is_concealed(review: CaseReview | None, unaided_first: bool) -> bool:
    """Tell whether the machine's opinion must stay hidden: unaided first, and the overlay was never shown.

    Args:
        review: what the reader said, None where nobody has begun.
        unaided_first: whether a first opinion is asked for before the overlay.

    Returns:
        True until the overlay is shown, where the session or the review is unaided first.
    """
    wanted = unaided_first or (review is not None and review.unaided_first)
    return wanted and (review is None or review.overlay_shown is None)


def in_order(entries: Sequence[CaseEntry]) -> list[CaseEntry]:
    """Sort by falling score, by name where any score is concealed, since an order tells, with unusable ones last.

    Args:
        entries: the cases.

    Returns:
        The same entries in their new order.
    """
    by_name = any(entry.concealed for entry in entries)
    return sorted(
        entries,
        key=lambda e: (e.problem is not None, 0.0 if by_name or e.score is None else -e.score, e.key.casefold(), e.key),
    )
