"""The slice table and the next of something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from headclip_med.writing.record import ResultRecord

T = TypeVar("T")


@dataclass(frozen=True)
class SliceRow:
    """A slice of the primary plane; ``index`` along its array axis. ``score`` is None while it is concealed."""

    index: int
    position_mm: tuple[float, float, float] | None
    score: float | None
    background: bool


def slice_rows(record: ResultRecord, concealed: bool) -> tuple[SliceRow, ...]:
    """All slices by index."""
    rows = [SliceRow(s.index, s.position_mm, None if concealed else s.score, s.background) for s in record.slices]
    return tuple(sorted(rows, key=lambda row: row.index))


def suspicious_order(rows: Sequence[SliceRow]) -> list[int]:
    """Indices of scored slices, highest score first; of equal scores the lower index."""
    scored = [row for row in rows if not row.background and row.score is not None]
    return [row.index for row in sorted(scored, key=lambda row: (-(row.score or 0.0), row.index))]


def neighbour(items: Sequence[T], here: T | None, step: int) -> T | None:
    """The item ``step`` away from ``here``; the first (or last) where ``here`` is none of them; None beyond an end."""
    if not items:
        return None
    if here is None or here not in items:
        return items[0] if step > 0 else items[-1]
    place = items.index(here) + step
    return items[place] if 0 <= place < len(items) else None
