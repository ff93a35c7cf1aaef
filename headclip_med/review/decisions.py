"""Which decision holds for which finding when the threshold moves.

A decision is about a region: the component that was on the screen when it was judged. Judged regions never overlap.
At another threshold a finding takes

1. the decision on exactly its voxels,
2. else that of the judged region it is a part of (the threshold rose),
3. else that of the judged regions inside it (the threshold fell) where they agree. Where they differ it is ``mixed``
   and has no status of its own until somebody judges it as a whole.

Judging a finding replaces the decisions inside it. Judging a part of a judged region leaves its other parts, at this
threshold, with the decision that they had. A decision whose region is not on the screen is kept all the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import voxel_to_world
from headclip_med.engine.result import Finding
from headclip_med.engine.volume_map import connected_components
from headclip_med.review.cases import CaseData
from headclip_med.review.components import (
    Components,
    Mask,
    Region,
    Voxel,
    components_at,
    from_runs,
    measure_region,
    to_runs,
)
from headclip_med.review.model import DrawnFinding, FindingReview, Mark, Status
from headclip_med.writing.record import FindingRecord

_MOST = 65535  # drawn regions of one case: uint16


_KEPT = 4  # thresholds; each holds labels of the whole grid


def checked_mask(mask: NDArray[Any], shape: Voxel) -> Mask:
    """Check a drawn mask.

    Args:
        mask: ``(I, J, K)``, whatever is not 0 is inside.
        shape: voxels along the array axes.

    Returns:
        ``(I, J, K)``, true where the mask is not 0.

    Raises:
        InputError: another grid, or nothing drawn.
    """
    found = np.asarray(mask) != 0
    if found.shape != shape:
        raise InputError(f"A drawn region must have the shape {shape}", found.shape)
    if not found.any():
        raise InputError("A drawn region must hold a voxel", "none", "Erase it instead")
    return found


def masks_of_labels(labels: NDArray[Any], shape: Voxel) -> dict[str, Mask]:
    """Separate painted labels into masks.

    Args:
        labels: ``(I, J, K)`` of whole numbers, 0 outside.
        shape: voxels along the array axes.

    Returns:
        ``(I, J, K)``, true where n is painted, by ``dn`` with n rising. Labels without a voxel are left out.

    Raises:
        InputError: another grid, or other than whole numbers from 0 to 65535.
    """
    if labels.shape != shape or labels.dtype.kind not in "bui" or not 0 <= labels.min() <= labels.max() <= _MOST:
        given = f"{labels.dtype} {labels.shape}"
        raise InputError(f"Drawn labels must be whole numbers from 0 to {_MOST} in the shape {shape}", given)
    numbers = np.flatnonzero(np.bincount(labels.ravel().astype(np.uint16)))
    return {f"d{n}": np.asarray(labels == n) for n in numbers if n > 0}


def drawn_finding(data: CaseData, drawn_id: str, mask: Mask, facts: Mapping[str, Any]) -> DrawnFinding:
    """Measure a drawn region and record it.

    Args:
        data: the case in memory.
        drawn_id: its name, such as ``d1``.
        mask: ``(I, J, K)``, true inside.
        facts: who drew it, when, and what was said of it.

    Returns:
        The region as the review keeps it, with its runs and measures.
    """
    finding = measure_region(mask, data.volume_map, data.affine, data.axis, drawn_number(drawn_id), data.is_plain)
    return DrawnFinding(id=drawn_id, runs=to_runs(mask), finding=finding_record(finding), **facts)


def drawn_number(drawn_id: str) -> int:
    """Read the number in the name of a drawn region.

    Args:
        drawn_id: its name, such as ``d1``.

    Returns:
        n of ``dn``, 0 for anything else.
    """
    return int(drawn_id[1:]) if drawn_id[1:].isdecimal() else 0


def next_number(drawn: Collection[str]) -> int:
    """Choose the number of the next drawn region.

    Args:
        drawn: names of the drawn findings.

    Returns:
        One above all others, or the lowest free one where that exceeds 65535.

    Raises:
        InputError: there is no free number.
    """
    taken = {drawn_number(name) for name in drawn}
    number = max(taken, default=0) + 1
    if number > _MOST:
        number = next((n for n in range(1, _MOST + 1) if n not in taken), 0)
    if not number:
        raise InputError(f"A case must have at most {_MOST} drawn regions", len(taken), "Remove one first")
    return number


def centre_mark(drawn: DrawnFinding, data: CaseData) -> Mark:
    """Mark the place of a drawn region.

    Args:
        drawn: the drawn finding.
        data: the case in memory.

    Returns:
        Its centroid in RAS mm, with the region's confidence and name.
    """
    x, y, z = voxel_to_world(data.affine, np.asarray(data.centre(drawn.finding)))
    return Mark(position_mm=(float(x), float(y), float(z)), confidence=drawn.confidence, drawn=drawn.id)


@dataclass(frozen=True)
class ReviewFinding:
    """A finding at the current threshold and what was decided about it.

    Attributes:
        id: named after its peak voxel, so that it stays while the threshold moves.
        carried: the decision was made on a region of another size.
        mixed: decisions inside it differ.
    """

    id: str
    finding: Finding
    peak_voxel: Voxel
    status: Status | None = None
    label: str = ""
    note: str = ""
    confidence: int | None = None
    carried: bool = False
    mixed: bool = False


class Regions:
    """Components and judged regions of one map, computed once and kept.

    Args:
        case: whose map it is.
    """

    def __init__(self, case: CaseData) -> None:
        self.case = case
        self._components: OrderedDict[float, Components] = OrderedDict()
        self._judged: dict[tuple[Voxel, float], Region] = {}
        self._other: tuple[float, NDArray[np.int32]] | None = None

    def keep(self, components: Components) -> None:
        """Take what somebody else computed with :func:`components_at`.

        Args:
            components: those at the threshold.
        """
        self._components[components.threshold] = components
        self._components.move_to_end(components.threshold)
        while len(self._components) > _KEPT:
            self._components.popitem(last=False)

    def at(self, threshold: float) -> Components:
        """Find the components at a threshold. The four thresholds used last are kept.

        Args:
            threshold: in [0, 1].

        Returns:
            The findings there, with their labels.
        """
        if threshold not in self._components:
            case = self.case
            self.keep(components_at(case.volume_map, case.affine, threshold, case.axis, case.is_plain))
        self._components.move_to_end(threshold)
        return self._components[threshold]

    def judged(self, decision: FindingReview) -> Region:
        """Cut out the region that a decision is about.

        Args:
            decision: on the region.

        Returns:
            The region at the threshold at which it was judged.

        Raises:
            InputError: the map has no such region. The decision is of another map.
        """
        key = decision.peak_voxel, decision.threshold
        if key not in self._judged:
            self._judged[key] = self._cut(decision)
        return self._judged[key]

    def _cut(self, decision: FindingReview) -> Region:
        voxel, measures, shape = decision.peak_voxel, decision.finding, self.case.shape
        corners = zip(measures.voxel_min, voxel, measures.voxel_max, shape, strict=True)
        if all(0 <= low <= v <= high < n for low, v, high, n in corners):
            labels = self._labels_at(decision.threshold)
            box = tuple(slice(a, b + 1) for a, b in zip(measures.voxel_min, measures.voxel_max, strict=True))
            inside = labels[box] == labels[voxel]
            if labels[voxel] > 0 and int(inside.sum()) == measures.voxels:
                return Region((box[0], box[1], box[2]), inside)
        raise InputError("A decision must fit the map that it was made on", decision.id)

    def _labels_at(self, threshold: float) -> NDArray[np.int32]:
        """Labels of the whole grid in any order. Those of the last other threshold are kept."""
        if threshold in self._components:
            return self._components[threshold].labels
        if self._other is None or self._other[0] != threshold:
            self._other = threshold, connected_components(self.case.volume_map, threshold)[0]
        return self._other[1]


def finding_id(peak: Voxel) -> str:
    """Name a finding after its peak voxel.

    Args:
        peak: its highest voxel.

    Returns:
        Such as ``f12-40-7``.
    """
    return "f" + "-".join(str(v) for v in peak)


def standing(regions: Regions, components: Components, decisions: Mapping[str, FindingReview]) -> list[ReviewFinding]:
    """List the findings at one threshold with the decisions that hold for them, by the rule at the top.

    Args:
        regions: of the case's map.
        components: those at the threshold.
        decisions: those of the review, by region.

    Returns:
        All findings in the order of ``components``, judged or not.
    """
    inside, covering = _related(regions, components, decisions)
    rows = []
    for finding, peak in zip(components.findings, components.peaks, strict=True):
        related = covering.get(finding.label) or inside.get(finding.label) or []
        rows.append(_row(finding, peak, related))
    return rows


def judged_patch(
    regions: Regions,
    components: Components,
    decisions: Mapping[str, FindingReview],
    row: ReviewFinding,
    changes: Mapping[str, Any],
    who: str,
    when: str,
) -> dict[str, FindingReview | None]:
    """Find what a new decision on ``row`` changes among the decisions.

    Args:
        regions: of the case's map.
        components: those at the threshold.
        decisions: those of the review, by region.
        row: the finding.
        changes: the fields that change.
        who: the reader.
        when: the time, as reviews record it.

    Returns:
        By id the new decisions, and None for those that they replace. What stays the same is left out.

    Raises:
        InputError: a region whose parts were judged differently, without a status for the whole.
    """
    if row.mixed and "status" not in changes:
        raise InputError(
            "A finding whose parts were judged differently must get a status of its own first",
            "a label, note or confidence only",
            "Accept or reject it as a whole, or raise the threshold",
        )
    inside, covering = _related(regions, components, decisions)
    label = row.finding.label
    patch: dict[str, FindingReview | None] = {old.id: None for old in inside.get(label, ())}
    for old in covering.get(label, ()):
        patch[old.id] = None
        parts = [r for r in standing(regions, components, {old.id: old}) if r.finding.label != label]
        patch |= {r.id: _decision(r, components, {}, old.who, old.when) for r in parts if r.carried}
    new = _decision(row, components, changes, who, when)
    patch[new.id] = new if (new.status or new.label or new.note or new.confidence is not None) else None
    return {key: value for key, value in patch.items() if not _says_the_same(decisions.get(key), value)}


def accepted_mask(
    regions: Regions,
    decisions: Iterable[FindingReview],
    drawn: Iterable[DrawnFinding],
    statuses: tuple[Status, ...] = ("accepted",),
) -> Mask:
    """Join the judged regions of these statuses, as they were judged, and what was drawn.

    Args:
        regions: of the case's map.
        decisions: those of the review, by region.
        drawn: the drawn findings.
        statuses: which decisions count.

    Returns:
        ``(I, J, K)``, true inside.

    Raises:
        InputError: a decision that does not fit the map.
    """
    mask = np.zeros(regions.case.shape, dtype=bool)
    for decision in sorted(decisions, key=lambda d: d.threshold):
        if decision.status in statuses:
            region = regions.judged(decision)
            mask[region.box] |= region.inside
    for one in drawn:
        mask |= from_runs(one.runs, regions.case.shape)
    return mask


def finding_record(finding: Finding) -> FindingRecord:
    """Convert a finding to the form that is stored.

    Args:
        finding: as it was measured.

    Returns:
        The same measures as a record.
    """
    return FindingRecord(**asdict(finding))


def _says_the_same(old: FindingReview | None, new: FindingReview | None) -> bool:
    """Whether nothing but the clock has moved."""
    if old is None or new is None:
        return old is new
    return old.model_copy(update={"when": new.when}) == new


def _related(
    regions: Regions, components: Components, decisions: Mapping[str, FindingReview]
) -> tuple[dict[int, list[FindingReview]], dict[int, list[FindingReview]]]:
    """By a finding's label: decisions on it or inside it, and the decision on a region that it is a part of."""
    inside: dict[int, list[FindingReview]] = {}
    covering: dict[int, list[FindingReview]] = {}
    for decision in sorted(decisions.values(), key=lambda d: d.threshold):  # labels are made once a threshold
        if components.threshold <= decision.threshold:
            inside.setdefault(int(components.labels[decision.peak_voxel]), []).append(decision)
            continue
        region = regions.judged(decision)
        for label in np.unique(components.labels[region.box][region.inside]):
            if label > 0:
                same = components.findings[label - 1].voxels == decision.finding.voxels
                (inside if same else covering).setdefault(int(label), []).append(decision)
    return inside, covering


def _row(finding: Finding, peak: Voxel, related: list[FindingReview]) -> ReviewFinding:
    row = ReviewFinding(finding_id(peak), finding, peak)
    if not related:
        return row
    first = max(related, key=lambda d: d.finding.peak)
    whole = len(related) == 1 and first.finding.voxels == finding.voxels
    if len({decision.status for decision in related}) > 1:
        return ReviewFinding(row.id, finding, peak, carried=True, mixed=True)
    return ReviewFinding(
        row.id, finding, peak, first.status, first.label, first.note, first.confidence, carried=not whole
    )


def _decision(
    row: ReviewFinding, components: Components, changes: Mapping[str, Any], who: str, when: str
) -> FindingReview:
    kept = {"status": row.status, "label": row.label, "note": row.note, "confidence": row.confidence}
    return FindingReview(
        id=row.id,
        who=who,
        when=when,
        threshold=components.threshold,
        peak_voxel=row.peak_voxel,
        finding=finding_record(row.finding),
        **{**kept, **changes},
    )
