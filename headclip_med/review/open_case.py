"""The case on the screen: its findings at the threshold, its slices, and every action of the reader, safe on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import InputError, OutputError
from headclip_med.review.cases import CaseData, check_unaltered
from headclip_med.review.components import Components, Mask, from_runs, slice_mask, to_runs
from headclip_med.review.decisions import (
    Regions,
    ReviewFinding,
    accepted_mask,
    centre_mark,
    checked_mask,
    drawn_finding,
    drawn_number,
    judged_patch,
    masks_of_labels,
    next_number,
    standing,
)
from headclip_med.review.history import Event, History, Kind, Patch
from headclip_med.review.lists import SliceRow, is_concealed, neighbour, slice_rows, suspicious_order
from headclip_med.review.model import (
    CaseReview,
    DrawnFinding,
    FindingReview,
    Mark,
    Opinion,
    Rating,
    ResultLink,
    Status,
    values_in_words,
)
from headclip_med.review.signals import Change, Signal, What
from headclip_med.review.store import ReviewStore
from headclip_med.writing.record import ResultRecord


class _Keep:
    """Stands for: leave it as it is."""


KEEP: Any = _Keep()

_WHAT: dict[Kind, What] = {
    "judge": "findings", "draw": "drawn", "threshold": "threshold", "opinion": "opinion", "note": "note",
    "done": "done", "first_opinion": "opinion", "show_overlay": "overlay", "undo": "case", "redo": "case",
}  # fmt: skip


def utc_now() -> str:
    """Tell the time as reviews record it.

    Returns:
        UTC in ISO 8601, to the millisecond.
    """
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


class OpenCase:
    """One case under review. Actions raise :class:`InputError` where they make no sense, or where the reader looks at
    something else, and :class:`OutputError` where they could not be kept. Nothing has changed then.

    Args:
        data: map, affine, record.
        history: the review and what led to it, which counts where there is no store.
        store: keeps every action, None for looking only.
        unaided_first: conceal scores, findings and map until the first opinion, whatever the review says.
        read_only: why nothing can be kept, in words, None where all is well.
        messages: what was odd on opening, in words.
        screen: tells whose result the reader sees when an action is kept, by default this one.
        clock: tells the time as reviews record it.
        before: an open case of the same review, whose store goes on in this one.

    Attributes:
        data: map, affine, record.
        read_only: why nothing can be kept, in words, None where all is well.
        changed: calls everyone who connected after every action.
        messages: what was odd on opening, in words.
    """

    def __init__(
        self,
        data: CaseData,
        history: History,
        store: ReviewStore | None,
        *,
        unaided_first: bool = False,
        read_only: str | None = None,
        messages: Sequence[str] = (),
        screen: Callable[[], ResultLink | None] | None = None,
        clock: Callable[[], str] = utc_now,
        before: OpenCase | None = None,
    ) -> None:
        self.before = before
        self.data, self.read_only, self.messages, self.changed = data, read_only, tuple(messages), Signal()
        self.regions = Regions(data)
        self._shown: tuple[dict[str, FindingReview], float, tuple[ReviewFinding, ...]] | None = None
        self._history, self._store, self._clock = history, store, clock
        self._screen = screen or (lambda: data.link)
        self._unaided_first = unaided_first or self.review.unaided_first

    # -- what is known

    @property
    def key(self) -> str:
        """Return its key in the list of cases."""
        return self.data.key

    @property
    def record(self) -> ResultRecord:
        """Return what the prediction recorded, provenance among it."""
        return self.data.record

    @property
    def review(self) -> CaseReview:
        """Return everything that the reader has said, frozen."""
        return (self._store.history if self._store else self._history).review

    @property
    def concealed(self) -> bool:
        """Tell whether the machine's opinion is still hidden: map, findings, scores and their order."""
        return is_concealed(self.review, self._unaided_first)

    @property
    def may_show_overlay(self) -> bool:
        """Tell whether the overlay may be shown: it was, nothing forbids it, or the first opinion has been given."""
        return not self.concealed or self.review.first_opinion is not None

    @property
    def overlay(self) -> Literal["hidden", "shown"]:
        """Tell whether the overlay has been shown to this reader."""
        return "hidden" if self.review.overlay_shown is None else "shown"

    @property
    def threshold(self) -> float:
        """Return the threshold that counts: the last one set, else the result's own."""
        return self.review.threshold

    # -- findings

    @property
    def components(self) -> Components:
        """Return the components at the threshold, with labels of the whole grid, computed when first asked for."""
        return self.regions.at(self.threshold)

    @property
    def findings(self) -> tuple[ReviewFinding, ...]:
        """Return the findings at the threshold with their decisions, by falling peak, none while concealed."""
        if self.concealed:
            return ()
        said, threshold = self.review.findings, self.threshold
        if self._shown is None or self._shown[0] is not said or self._shown[1] != threshold:
            self._shown = said, threshold, tuple(standing(self.regions, self.components, said))
        return self._shown[2]

    @property
    def unseen(self) -> tuple[FindingReview, ...]:
        """Return the decisions on regions that the present threshold leaves nothing of. They are kept and exported."""
        peak = self.data.volume_map
        return tuple(f for f in self.review.findings.values() if not peak[f.peak_voxel] >= self.threshold)

    def finding(self, finding_id: str) -> ReviewFinding:
        """Find one finding at the threshold.

        Args:
            finding_id: its name at the present threshold.

        Returns:
            The finding with what was decided about it.

        Raises:
            InputError: there is none of that name now.
        """
        for row in self.findings:
            if row.id == finding_id:
                return row
        raise InputError("A finding must be one of those at the present threshold", finding_id, "Choose another")

    def mask_of(self, finding_id: str) -> Mask:
        """Cut out a finding at the threshold, or a drawn one (``d1``).

        Args:
            finding_id: its name at the present threshold, or that of a drawn one.

        Returns:
            ``(I, J, K)``, true inside.

        Raises:
            InputError: there is none of that name now.
        """
        if finding_id in self.review.drawn:
            return from_runs(self.review.drawn[finding_id].runs, self.data.shape)
        return self.components.mask(self.finding(finding_id).finding.label)

    def slice_mask(self, index: int, threshold: float | None = None, axis: int | None = None) -> Mask:
        """Find where one slice reaches a threshold, at once.

        Args:
            index: of the slice along the cut axis.
            threshold: in [0, 1], by default the one that counts.
            axis: array axis that is cut, by default the primary plane's.

        Returns:
            The slice in array order, true where the map is at or above the threshold, false everywhere while concealed.
        """
        axis = self.data.axis if axis is None else axis
        mask = slice_mask(self.data.volume_map, axis, index, self.threshold if threshold is None else threshold)
        return np.zeros_like(mask) if self.concealed else mask

    def accepted_mask(self) -> Mask:
        """Join the accepted regions, as they were judged, and the drawn ones.

        Returns:
            ``(I, J, K)``, true inside.
        """
        return accepted_mask(self.regions, self.review.findings.values(), self.review.drawn.values())

    # -- slices

    def slices(self, sort: Literal["position", "score"] = "position") -> tuple[SliceRow, ...]:
        """List the slices of the primary plane.

        Args:
            sort: ``position`` for by index, ``score`` for by falling score with background slices last.

        Returns:
            A row for each slice, without scores while concealed.
        """
        rows = slice_rows(self.record, self.concealed)
        if sort == "position":
            return rows
        return tuple(sorted(rows, key=lambda r: (r.background, -(r.score or 0.0), r.index)))

    def start_slice(self) -> int:
        """Choose the slice to begin with.

        Returns:
            Index of the most suspicious slice, or of the middle one while concealed or where none has a score.
        """
        rows = self.slices()
        order = suspicious_order(rows)
        return order[0] if order else rows[len(rows) // 2].index if rows else self.data.shape[self.data.axis] // 2

    def suspicious_slice(self, here: int | None, step: int = 1) -> int | None:
        """Step through the slices by falling score.

        Args:
            here: index of the slice to count from, None for an end.
            step: how far, backwards where negative.

        Returns:
            Index of the slice ``step`` after this one, None beyond the ends or while concealed.
        """
        return neighbour(suspicious_order(self.slices()), here, step)

    def next_finding(self, here: str | None, step: int = 1) -> str | None:
        """Step through the findings, drawn ones last.

        Args:
            here: id of the finding to count from, None for an end.
            step: how far, backwards where negative.

        Returns:
            Id of the finding ``step`` after this one, None beyond the ends.
        """
        return neighbour([row.id for row in self.findings] + sorted(self.review.drawn, key=drawn_number), here, step)

    def slice_of(self, finding_id: str) -> int:
        """Choose the slice of the primary plane that shows a finding best.

        Args:
            finding_id: its name at the present threshold, or that of a drawn one.

        Returns:
            Index of the slice through its peak, or through the middle of a drawn one.

        Raises:
            InputError: there is none of that name now.
        """
        if finding_id in self.review.drawn:
            first, last = self.review.drawn[finding_id].finding.slices
            return (first + last) // 2
        return self.finding(finding_id).peak_voxel[self.data.axis]

    # -- actions

    def set_threshold(self, threshold: float, components: Components | None = None) -> None:
        """Keep a new threshold: the end of a drag, not every step of it.

        Args:
            threshold: in [0, 1].
            components: what a thread computed for it with :func:`components_at`, so that nobody waits.

        Raises:
            InputError: beyond [0, 1], or before the first opinion in a case that is to be read unaided first.
        """
        self._must_be_open("The threshold")
        if not 0 <= threshold <= 1:
            raise InputError("The threshold must lie between 0 and 1", threshold)
        if components is not None and components.threshold == threshold:
            self.regions.keep(components)
        self._act("threshold", {"threshold": float(threshold)})

    def judge(
        self,
        finding_id: str,
        status: Status | None = KEEP,
        *,
        label: str = KEEP,
        note: str = KEEP,
        confidence: int | None = KEEP,
    ) -> None:
        """Accept, reject or doubt a finding at the threshold, or name it. None takes it back, the rest stays.

        Args:
            finding_id: its name at the present threshold.
            status: the decision, None to take it back.
            label: a name for it.
            note: free text.
            confidence: in percent, 0 to 100.
        """
        self._must_be_open("A finding")
        changes = _given(status=status, label=label, note=note, confidence=confidence)
        row, found = self.finding(finding_id), self.review.findings
        with values_in_words():
            patch = judged_patch(
                self.regions, self.components, found, row, changes, self.review.reader, self._clock()
            )  # fmt: skip
        self._act("judge", {"findings": patch})

    def draw(
        self,
        mask: NDArray[Any],
        drawn_id: str | None = None,
        *,
        label: str = KEEP,
        note: str = KEEP,
        confidence: int | None = KEEP,
    ) -> str:
        """Keep a region that the reader drew: a new one, or a new shape for ``drawn_id``. Allowed while concealed.

        Args:
            mask: ``(I, J, K)`` in the source's own grid. What is not 0 is drawn.
            drawn_id: which region gets the new shape, None for a new region.
            label: a name for it.
            note: free text.
            confidence: in percent, 0 to 100.

        Returns:
            Its id: ``d1``, ``d2``, …
        """
        found = checked_mask(mask, self.data.shape)
        if drawn_id is None:
            drawn_id = f"d{next_number(self.review.drawn)}"
        changes = _given(label=label, note=note, confidence=confidence)
        self._act("draw", {"drawn": {drawn_id: self._drawn(drawn_id, found, changes)}})
        return drawn_id

    def edit_drawn(self, drawn_id: str, *, label: str = KEEP, note: str = KEEP, confidence: int | None = KEEP) -> None:
        """Name a drawn region. What is not given stays.

        Args:
            drawn_id: its name, such as ``d1``.
            label: a name for it.
            note: free text.
            confidence: in percent, 0 to 100.
        """
        old = self._drawn_before(drawn_id)
        changes = _given(label=label, note=note, confidence=confidence)
        with values_in_words():
            new = DrawnFinding.model_validate({**dict(old), **changes, "when": self._clock()})
        self._act("draw", {"drawn": {} if dict(new) | {"when": old.when} == dict(old) else {drawn_id: new}})

    def erase(self, drawn_id: str) -> None:
        """Remove a drawn region.

        Args:
            drawn_id: its name, such as ``d1``.
        """
        self._drawn_before(drawn_id)
        self._act("draw", {"drawn": {drawn_id: None}})

    def drawn_labels(self) -> NDArray[np.uint16]:
        """Paint the drawn regions into a new array.

        Returns:
            ``(I, J, K)``, n inside the drawn region ``dn``, 0 elsewhere. Where two overlap, the later one in the
            review.
        """
        labels = np.zeros(self.data.shape, dtype=np.uint16)
        for name, one in self.review.drawn.items():
            labels[from_runs(one.runs, self.data.shape)] = drawn_number(name)
        return labels

    def set_drawn_labels(self, labels: NDArray[Any]) -> None:
        """Keep what was painted into :meth:`drawn_labels`: one action, whatever changed.

        Args:
            labels: ``(I, J, K)``, n inside the drawn region ``dn``.
        """
        present = masks_of_labels(labels, self.data.shape)
        patch: dict[str, DrawnFinding | None] = {name: None for name in self.review.drawn if name not in present}
        for name, mask in present.items():
            old = self.review.drawn.get(name)
            if old is None or old.runs != to_runs(mask):
                patch[name] = self._drawn(name, mask, {})
        self._act("draw", {"drawn": patch})

    def give_opinion(
        self, rating: Rating, confidence: int, marks: Sequence[Mark | tuple[float, float, float]] = ()
    ) -> None:
        """Keep the opinion on the whole case: the first one before the overlay for good, later the one with it.

        In a case that is to be read unaided first, the overlay is shown from then on.

        Args:
            rating: ``normal``, ``abnormal`` or ``uncertain``.
            confidence: in percent, 0 to 100.
            marks: places in RAS mm, with or without a confidence of their own. What was drawn before the overlay is
                added, so that it stays whatever becomes of the drawing.

        Raises:
            InputError: a first opinion was given already, and the overlay has not been shown since.
        """
        with values_in_words():
            places = [m if isinstance(m, Mark) else Mark(position_mm=m) for m in marks]
            if self.overlay == "hidden":
                places += [centre_mark(one, self.data) for one in self.review.drawn.values()]
            opinion = Opinion(rating=rating, confidence=confidence, marks=tuple(places), when=self._clock())
        if self.overlay == "shown":
            self._act("opinion", {"opinion": opinion})
            return
        if self.review.first_opinion is not None:
            raise InputError("A first opinion must stay as it was given", "another one", "Show the overlay first")
        self._act("first_opinion", {"first_opinion": opinion, "unaided_first": self._unaided_first})
        if self._unaided_first:
            self.show_overlay()

    def show_overlay(self) -> None:
        """Say that the overlay is shown to the reader. The first time is recorded. Call it whenever it is.

        Raises:
            InputError: a case to be read unaided first, before its first opinion.
        """
        if self.overlay == "shown":
            return
        if not self.may_show_overlay:
            raise InputError(
                "The first opinion must be given before the overlay is shown", "none yet", "Give your opinion first"
            )
        self._act("show_overlay", {"overlay_shown": self._clock()})

    def set_note(self, note: str) -> None:
        """Keep a free text on the whole case.

        Args:
            note: free text.
        """
        self._act("note", {"note": note})

    def set_done(self, done: bool = True) -> None:
        """Say that the case is finished, or not.

        Args:
            done: whether it is.
        """
        if done:
            self._must_be_open("A case")
        self._act("done", {"done": bool(done)})

    @property
    def can_undo(self) -> bool:
        """Tell whether there is an action of this case to take back."""
        return self._store is not None and self._store.history.can_undo

    @property
    def can_redo(self) -> bool:
        """Tell whether one was taken back."""
        return self._store is not None and self._store.history.can_redo

    def undo(self) -> None:
        """Take the last action back. No opinion given before the overlay, and nothing before it."""
        if self.can_undo:
            self._follow("undo", None)

    def redo(self) -> None:
        """Do again what was taken back."""
        if self.can_redo:
            self._follow("redo", None)

    def save(self) -> None:
        """Bring the compact review file up to date. The journal always is."""
        if self._store is not None:
            self._store.save()

    @property
    def store(self) -> ReviewStore | None:
        """Return where the review is kept, None where nothing can be kept."""
        return self._store

    def let_go(self) -> ReviewStore | None:
        """Keep nothing from now on, and give back what has kept it. The session closes or discards that.

        Returns:
            The store, None where nothing was kept.
        """
        store, self._store = self._store, None
        if store is not None:
            self._history = store.history
        self.read_only = self.read_only or "the case is closed"
        return store

    # -- inside

    def _act(self, do: Kind, fields: dict[str, Any]) -> None:
        with values_in_words():
            patch = Patch(**fields)
        if all(_same(self.review, name, getattr(patch, name)) for name in patch.model_fields_set):
            return
        self._follow(do, patch)

    def _follow(self, do: Kind, patch: Patch | None) -> None:
        if self._store is None:
            reason = (self.read_only or "a closed case").rstrip(".")
            raise OutputError("A review must be kept somewhere", reason, "Choose --session DIR")
        seen = self._seen()
        fields: dict[str, Any] = {"n": self.review.actions + 1, "when": self._clock(), "do": do}
        fields |= {"map_sha256": seen.map_sha256} | ({} if patch is None else {"patch": patch})
        self._store.append(Event(**fields))
        self.changed.emit(Change(_WHAT[do]))

    def _seen(self) -> ResultLink:
        """The result whose map the reader sees: this one, as it still lies on the disk."""
        seen = self._screen()
        if seen is None or seen != self.data.link:
            given = "nothing, or not all of it" if seen is None else f"the map of '{seen.name}'"
            raise InputError(
                f"What is decided about '{self.key}' must be on the screen", given, f"Choose '{self.key}' in the list"
            )
        check_unaltered(self.data)
        return seen

    def _must_be_open(self, what: str) -> None:
        if self.concealed:
            raise InputError(
                f"{what} must wait for the first opinion", "a case to be read unaided first", "Give your opinion first"
            )

    def _drawn_before(self, drawn_id: str) -> DrawnFinding:
        if drawn_id not in self.review.drawn:
            raise InputError("A drawn region must be one of those drawn", drawn_id)
        return self.review.drawn[drawn_id]

    def _drawn(self, drawn_id: str, mask: Mask, changes: dict[str, Any]) -> DrawnFinding:
        old = self.review.drawn.get(drawn_id)
        kept = {"label": old.label, "note": old.note, "confidence": old.confidence} if old else {}
        unaided = (old is None or old.unaided) and self.overlay == "hidden"
        facts = {"who": self.review.reader, "when": self._clock(), "unaided": unaided, **kept, **changes}
        with values_in_words():
            return drawn_finding(self.data, drawn_id, mask, facts)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not KEEP}


def _same(review: CaseReview, name: str, new: Any) -> bool:
    old = getattr(review, name)
    if isinstance(new, dict):
        return all(old.get(key) == value for key, value in new.items())
    return bool(old == new)
