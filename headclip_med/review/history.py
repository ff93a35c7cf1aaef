"""Actions on a review: patches that can be turned round, and the undo and redo stacks. Pure: no file, no clock."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from headclip_med.review.model import CaseReview, DrawnFinding, FindingReview, Opinion, Sha256, _Record

Kind = Literal[
    "judge", "draw", "threshold", "opinion", "note", "done", "first_opinion", "show_overlay", "undo", "redo"
]  # fmt: skip

# What the reader has seen cannot be unseen: nothing before these can be undone, nor they themselves.
_BARRIERS = ("first_opinion", "show_overlay")


class Patch(_Record):
    """New values of some fields of a review. Of findings and drawn regions only those that change, None removes.

    Attributes:
        unaided_first: as in :class:`~headclip_med.review.model.CaseReview`, like all others.
        first_opinion: the first opinion.
        overlay_shown: when the overlay was shown.
        opinion: the later opinion.
        threshold: in [0, 1].
        findings: decisions that change, None removes one.
        drawn: drawn regions that change, None removes one.
        note: on the whole case.
        done: whether it is read.
    """

    unaided_first: bool | None = None
    first_opinion: Opinion | None = None
    overlay_shown: str | None = None
    opinion: Opinion | None = None
    threshold: float | None = None
    findings: dict[str, FindingReview | None] = Field(default_factory=dict)
    drawn: dict[str, DrawnFinding | None] = Field(default_factory=dict)
    note: str | None = None
    done: bool | None = None


class Event(_Record):
    """One line of the journal.

    ``map_sha256`` is of the map that was on the screen. Journals of the first version do not have it.

    Attributes:
        n: counted from 1.
        when: the time in UTC.
        do: what was done.
        map_sha256: of the map that was on the screen.
        patch: the fields that changed, None for undo and redo.
    """

    n: int
    when: str
    do: Kind
    map_sha256: Sha256 | None = None
    patch: Patch | None = None


def apply_patch(review: CaseReview, patch: Patch) -> tuple[CaseReview, Patch]:
    """Apply a patch to a review, which stays as it is.

    Args:
        review: what the reader said.
        patch: the fields that change.

    Returns:
        The changed review, and the patch that leads back.
    """
    changes: dict[str, object] = {}
    back: dict[str, Any] = {}
    for name in sorted(patch.model_fields_set):
        new, old = getattr(patch, name), getattr(review, name)
        if isinstance(new, dict):
            merged = {**old, **new}
            changes[name] = {key: merged[key] for key in sorted(merged) if merged[key] is not None}
            back[name] = {key: old.get(key) for key in new}
        else:
            changes[name], back[name] = new, old
    return review.model_copy(update=changes), Patch.model_construct(_fields_set=set(back), **back)


class History:
    """A review and what led to it. The same events always lead to the same state.

    Args:
        review: before the first event.
    """

    def __init__(self, review: CaseReview) -> None:
        self.review = review
        self._undo: list[Patch] = []
        self._redo: list[Patch] = []

    @property
    def can_undo(self) -> bool:
        """Tell whether there is an action to take back."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """Tell whether an action was taken back and nothing was done since."""
        return bool(self._redo)

    def apply(self, event: Event) -> None:
        """Follow one event.

        Args:
            event: one line of the journal.

        Raises:
            ValueError: an event that does not follow the one before, one about another map, or undo or redo without
                anything to take.
        """
        if event.map_sha256 not in (None, self.review.result.map_sha256):
            raise ValueError("an event about another map")
        if event.n != self.review.actions + 1:
            raise ValueError(f"event {event.n} after {self.review.actions}")
        if event.do == "undo":
            self._move(self._undo, self._redo)
        elif event.do == "redo":
            self._move(self._redo, self._undo)
        else:
            if event.patch is None:
                raise ValueError("an action without a patch")
            self.review, back = apply_patch(self.review, event.patch)
            self._redo.clear()
            if event.do in _BARRIERS:
                self._undo.clear()
            else:
                self._undo.append(back)
        self.review = self.review.model_copy(update={"actions": event.n, "updated": event.when})

    def after(self, event: Event) -> History:
        """Copy the history and let the copy follow ``event``. This one stays as it is.

        Args:
            event: one line of the journal.

        Returns:
            The copy.

        Raises:
            ValueError: as :meth:`apply`.
        """
        copy = History(self.review)
        copy._undo, copy._redo = list(self._undo), list(self._redo)
        copy.apply(event)
        return copy

    def _move(self, taken: list[Patch], given: list[Patch]) -> None:
        if not taken:
            raise ValueError("nothing to undo or redo")
        self.review, back = apply_patch(self.review, taken.pop())
        given.append(back)
