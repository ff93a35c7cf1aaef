"""The list of cases as a reader sees it: scores first, but no score before an unaided opinion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headclip_med.review.cases import FoundResult
from headclip_med.review.model import CaseReview


@dataclass(frozen=True)
class CaseEntry:
    """One line of the case list.

    Attributes:
        score, findings: of the result, at its own threshold; None while they are concealed or unknown.
        judged: decisions so far; drawn: regions drawn. begun: anything was done. done: said by the reader.
        concealed: unaided first, and the reader has not given an opinion yet.
        problem: why the case cannot be reviewed; None for a good one.
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
    """The line of one result; ``review`` is None where nobody has begun."""
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
    """Whether the machine's opinion must stay hidden: unaided first, and the overlay was never shown."""
    wanted = unaided_first or (review is not None and review.unaided_first)
    return wanted and (review is None or review.overlay_shown is None)


def in_order(entries: Sequence[CaseEntry]) -> list[CaseEntry]:
    """Highest score first; by name where any score is concealed, since an order tells; unusable ones last."""
    by_name = any(entry.concealed for entry in entries)
    return sorted(
        entries,
        key=lambda e: (e.problem is not None, 0.0 if by_name or e.score is None else -e.score, e.key.casefold(), e.key),
    )
