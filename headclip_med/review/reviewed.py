"""A case and what a reader said about it, ready to be written out: rows, masks, and a result of what was accepted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import displayed_pixel
from headclip_med.base.volume import LoadedVolume
from headclip_med.engine.result import AnomalyResult, Finding, SliceScore
from headclip_med.review.cases import CaseData, find_results, load_found
from headclip_med.review.components import Mask, from_runs
from headclip_med.review.decisions import Regions, drawn_number
from headclip_med.review.model import CaseReview, DrawnFinding, FindingReview
from headclip_med.review.open_case import OpenCase
from headclip_med.review.store import load_review
from headclip_med.slicing.places import source_slices
from headclip_med.writing.record import FindingRecord


@dataclass(frozen=True)
class ReviewedFinding:
    """One line of an export: a decision on a region of the map, or a drawn region.

    Attributes:
        status: of a drawn region ``drawn``. A finding with a label or note but without a status has an empty one.
        threshold: at which the region was judged, None for a drawn one.
    """

    id: str
    kind: Literal["map", "drawn"]
    status: str
    label: str
    note: str
    confidence: int | None
    threshold: float | None
    unaided: bool
    who: str
    when: str
    measures: FindingRecord

    @property
    def counts(self) -> bool:
        """Tell whether it is part of what the reader found: accepted or drawn."""
        return self.status in ("accepted", "drawn")


@dataclass(frozen=True, eq=False)
class ReviewedCase:
    """A case, its review, and the source where it is at hand (for pictures and DICOM).

    Attributes:
        data: the case in memory.
        review: what the reader said.
        source: the image, None where it is not at hand.
    """

    data: CaseData
    review: CaseReview
    source: LoadedVolume | None = None

    @classmethod
    def of(cls, case: OpenCase, source: LoadedVolume | None = None) -> ReviewedCase:
        """Take the open case as it stands.

        Args:
            case: the open case.
            source: the image from :func:`headclip_med.review.sources.match_source`, None where it is not at hand.

        Returns:
            The case with its review so far.

        Raises:
            InputError: a case to be read unaided first, before its first opinion: exports tell scores and findings.
        """
        if case.concealed:
            raise InputError(
                "An export must wait for the first opinion",
                "a case to be read unaided first",
                "Give your opinion first",
            )
        return cls(case.data, case.review, source)

    @classmethod
    def load(cls, folder: Path, review: Path, source: LoadedVolume | None = None) -> ReviewedCase:
        """Load a result folder and a review file.

        Args:
            folder: of the result.
            review: its file.
            source: the image, None where it is not at hand.

        Returns:
            The case with its review.

        Raises:
            InputError: unusable, or they do not belong together.
        """
        found, said = find_results([folder])[0], load_review(review)
        if found.link is None:
            raise InputError("A review must be of a complete, unaltered result", found.problem or "")
        if said.result.result_sha256 != found.link.result_sha256:
            raise InputError(f"{review.name} must belong to the result in '{folder.name}'", "another one's review")
        return cls(load_found(found), said, source)

    @cached_property
    def regions(self) -> Regions:
        """Return the judged regions of the map."""
        return Regions(self.data)

    def rows(self) -> list[ReviewedFinding]:
        """List the judged regions and the drawn ones.

        Returns:
            Judged regions by falling peak, then drawn ones by number.
        """
        judged = sorted(self.review.findings.values(), key=lambda f: (-f.finding.peak, f.id))
        drawn = sorted(self.review.drawn.values(), key=lambda d: drawn_number(d.id))
        rows = [_of_map(one) for one in judged] + [_of_drawn(one) for one in drawn]
        return [replace(row, measures=self.data.present(row.measures)) for row in rows]

    def mask_of(self, row: ReviewedFinding) -> Mask:
        """Cut out the region of one row.

        Args:
            row: the finding.

        Returns:
            ``(I, J, K)``, true inside.
        """
        if row.kind == "drawn":
            return from_runs(self.review.drawn[row.id].runs, self.data.shape)
        return self.regions.judged(self.review.findings[row.id]).mask(self.data.shape)

    def found(self) -> list[tuple[ReviewedFinding, Mask]]:
        """List what was accepted or drawn, and where.

        Returns:
            Rows with their masks ``(I, J, K)``, in the order of :meth:`rows`.
        """
        return [(row, self.mask_of(row)) for row in self.rows() if row.counts]

    def labels(self) -> np.ndarray[Any, np.dtype[np.uint16]]:
        """Label what was accepted or drawn.

        Returns:
            ``(I, J, K)``, n inside the n-th of :meth:`found`, 0 elsewhere. Where two overlap, the later one.
        """
        labels = np.zeros(self.data.shape, dtype=np.uint16)
        for number, (_, mask) in enumerate(self.found(), start=1):
            labels[mask] = number
        return labels

    def result(self) -> AnomalyResult:
        """Make a result whose findings are what was accepted or drawn, for the writers of results.

        Its threshold is the lowest that an accepted region was judged at. Without the source, its voxels are 0.

        Returns:
            The result, with the reader among its provenance.
        """
        data, record, found = self.data, self.data.record, self.found()
        source = self.source or LoadedVolume(np.zeros((1, *data.shape), np.float32), data.affine, self._meta())
        review = {"reader": self.review.reader, "actions": self.review.actions, "updated": self.review.updated}
        return AnomalyResult(
            volume=source,
            volume_map=LoadedVolume(data.volume_map[None], data.affine, {}),
            pred_score=record.pred_score,
            threshold=min(
                (row.threshold for row, _ in found if row.threshold is not None), default=self.review.threshold
            ),
            threshold_origin=f"reader {self.review.reader}",
            planes=tuple(record.planes),
            slices=self._slices(source),
            findings=tuple(Finding(**{**dict(row.measures), "label": n}) for n, (row, _) in enumerate(found, start=1)),
            display_window=record.display_window,
            warnings=tuple(record.warnings),
            provenance={**record.provenance, "review": review},
            finding_labels=self.labels(),
        )

    def pixel(self, index: Sequence[float]) -> tuple[float, float]:
        """Convert a voxel index to the place where it is displayed.

        Args:
            index: of the voxel.

        Returns:
            Column and row, from 0 in the top left corner.
        """
        return displayed_pixel(self.data.frame, self.data.shape, index)

    def _slices(self, source: LoadedVolume) -> tuple[SliceScore, ...]:
        """Scores of the record, with the images' UIDs where the source knows them slice by slice."""
        uids = source.meta.get("slice_uids") or []
        axis = self.data.axis
        places = source_slices(source, self.data.affine, axis) if uids else [None] * self.data.shape[axis]
        return tuple(
            SliceScore(s.index, s.position_mm, s.score, s.background, _uid(uids, places[s.index]) or s.uid)
            for s in self.data.record.slices
        )

    def _meta(self) -> Any:
        source = self.data.record.source
        return {
            "source_name": source.name,
            "source_format": source.format,
            "modality": source.modality,
            "is_2d": source.is_2d,
            "is_rgb": False,
        }


def case_names(reviews: Iterable[CaseReview]) -> dict[str, str]:
    """Name the cases of reviews so that each name is that of one result.

    Args:
        reviews: of one or several readers.

    Returns:
        Names by the hash of the result. Of several results of one name each gets the beginning of its hash.
    """
    names = {review.result.result_sha256: review.result.name for review in reviews}
    taken = [name.casefold() for name in names.values()]
    return {sha: name if taken.count(name.casefold()) == 1 else f"{name}-{sha[:8]}" for sha, name in names.items()}


def _uid(uids: list[str], place: int | None) -> str | None:
    return None if place is None else str(uids[place]) or None


def _of_map(one: FindingReview) -> ReviewedFinding:
    return ReviewedFinding(
        one.id, "map", one.status or "", one.label, one.note, one.confidence, one.threshold, False, one.who, one.when,
        one.finding,
    )  # fmt: skip


def _of_drawn(one: DrawnFinding) -> ReviewedFinding:
    return ReviewedFinding(
        one.id, "drawn", "drawn", one.label, one.note, one.confidence, None, one.unaided, one.who, one.when,
        one.finding,
    )  # fmt: skip
