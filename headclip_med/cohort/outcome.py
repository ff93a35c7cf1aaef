"""What becomes of cases, and what a caller is told while they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headclip_med.base.geometry import SliceFrame, displayed_pixel

if TYPE_CHECKING:
    from headclip_med.engine.result import Finding
    from headclip_med.writing.record import FindingRecord

Status = Literal["done", "skipped", "failed", "stopped"]


@dataclass(frozen=True)
class TopFinding:
    """The finding with the highest peak: its size and centre.

    Attributes:
        volume_mm3, centroid_mm: Size, and RAS mm of the centre, None in a plain picture.
        voxels: How many, of a plain picture its pixels.
        centroid_px: Column and row as displayed, from 0 in the top left corner, None in a volume.
    """

    peak: float
    volume_mm3: float | None
    voxels: int
    centroid_mm: tuple[float, float, float] | None
    centroid_px: tuple[float, float] | None


@dataclass(frozen=True)
class CaseOutcome:
    """What became of one case.

    Attributes:
        name: Of the case and of its result folder.
        folder: That folder, None where nothing was written.
        status: ``skipped`` is finished by an earlier run, ``stopped`` was cancelled.
        seconds: Spent on it now.
        findings: How many.
        error: The whole message in words.
    """

    name: str
    status: Status
    seconds: float
    folder: Path | None = None
    pred_score: float | None = None
    findings: int | None = None
    top_finding: TopFinding | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Give it as plain JSON values, the folder as the caller wrote it.

        Returns:
            Fields by name.
        """
        return {**asdict(self), "folder": None if self.folder is None else str(self.folder)}


@dataclass(frozen=True)
class CohortSummary:
    """A whole run, where ``unrecorded`` says why ``run.json`` could not be written, if it could not."""

    outcomes: tuple[CaseOutcome, ...]
    cases: int
    seconds: float
    unrecorded: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Cases by status."""
        return dict(Counter(outcome.status for outcome in self.outcomes))

    @property
    def ok(self) -> bool:
        """Whether every case has its result and the run is recorded."""
        finished = self.counts.get("done", 0) + self.counts.get("skipped", 0)
        return finished == self.cases and self.unrecorded is None


class Watcher:
    """What a caller can see of a run while it lasts, to be overridden where needed."""

    def case_started(self, number: int, cases: int, name: str) -> None:
        """Note that a case begins.

        Args:
            number: From 1.
            cases: How many there are in all.
            name: Of the case.
        """

    def slices_done(self, done: int, total: int) -> None:
        """Note progress within the case.

        Args:
            done: Slices done.
            total: Slices in all.
        """

    def case_ended(self, outcome: CaseOutcome) -> None:
        """Note that a case is over, whatever became of it.

        Called from another thread, maybe after the next one has begun.

        Args:
            outcome: What became of it.
        """


def top_finding(
    findings: Sequence[Finding | FindingRecord], frame: SliceFrame, shape: tuple[int, ...]
) -> TopFinding | None:
    """Take the first finding, as both the engine and the record list them by falling peak.

    Args:
        findings: By falling peak.
        frame: The primary plane.
        shape: ``(I, J, K)`` of the volume.

    Returns:
        Its size and centre, None where nothing was found.
    """
    if not findings:
        return None
    first, pixel = findings[0], None
    if first.volume_mm3 is None and first.centroid_voxel is not None:
        pixel = displayed_pixel(frame, shape, first.centroid_voxel)
    return TopFinding(first.peak, first.volume_mm3, first.voxels, first.centroid_mm, pixel)
