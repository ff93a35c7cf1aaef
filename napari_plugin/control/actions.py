"""What a reader does with the open case: judge, name, rate, mark as read, take back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from headclip_med.review import OpenCase
from headclip_med.review.model import Rating, Status

from ..views.parts import DockViews, told


class Ready(Protocol):
    """Gives the open case when the screen shows it as it is kept, None where the reader has to look again."""

    def __call__(self, is_decision: bool = True) -> OpenCase | None:
        """Put the screen right and keep what is painted or dragged first.

        Args:
            is_decision: whether what is done depends on what is seen.

        Returns:
            The open case, None where there is none, or where the reader has to look again.
        """
        ...


class ReaderActions:
    """Actions on the case that is on the screen. What cannot be done is said in the status line.

    Args:
        views: the parts of the dock.
        ready: gives the case that may be acted on.
        show_cases: brings the list of cases up to date.
    """

    def __init__(self, views: DockViews, ready: Ready, show_cases: Callable[[], None]) -> None:
        self.views, self._ready, self._show_cases = views, ready, show_cases

    @told
    def decide(self, key: str, status: Status | None) -> None:
        """Accept, reject or doubt a finding.

        Args:
            key: of the finding.
            status: the decision, None to take it back.
        """
        case = self._ready()
        if case is not None:
            case.judge(key, status)

    @told
    def describe(self, key: str, label: str, note: str) -> None:
        """Name a finding: words are kept whatever lay on the screen while they were typed.

        Args:
            key: of the finding.
            label: a name for it.
            note: free text.
        """
        case = self._ready(is_decision=False)
        if case is None:
            return
        if key in case.review.drawn:
            case.edit_drawn(key, label=label, note=note)
        else:
            case.judge(key, label=label, note=note)

    @told
    def remove_drawn(self, key: str) -> None:
        """Remove a drawn finding.

        Args:
            key: of the finding.
        """
        case = self._ready()
        if case is not None:
            case.erase(key)

    @told
    def give_opinion(self, rating: Rating, confidence: int) -> None:
        """Keep the opinion on the whole case. The first one brings the overlay.

        Args:
            rating: normal, abnormal or uncertain.
            confidence: in percent.
        """
        case = self._ready()
        if case is not None:
            case.give_opinion(rating, confidence)
            case.save()
            self.views.footer.status.say(f"Opinion kept: {rating}, {confidence} % sure.")

    @told
    def set_done(self, is_done: bool) -> None:
        """Mark the case as read, or as not read.

        Args:
            is_done: whether it is read.
        """
        try:
            case = self._ready()
            if case is not None:
                case.set_done(is_done)
                case.save()
        finally:
            self._show_cases()

    @told
    def toggle_done(self) -> None:
        """Mark the case as read where it is not, else as not read."""
        case = self._ready()
        if case is not None:
            self.set_done(not case.review.done)

    @told
    def undo(self) -> None:
        """Take the last action of this case back."""
        case = self._ready()
        if case is not None:
            case.undo()

    @told
    def redo(self) -> None:
        """Do again what was taken back."""
        case = self._ready()
        if case is not None:
            case.redo()
