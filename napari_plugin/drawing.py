"""Drawing what the map missed: every stroke is an action of the session, so that nothing is lost and undo goes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headclip_med.review import OpenCase

from .case_layers import CaseLayers
from .dock_parts import Views, told


class Drawing:
    """One region at a time is drawn, with a number of its own.

    Args:
        case: gives the case that is open, or None.
    """

    def __init__(self, views: Views, layers: CaseLayers, case: Callable[[], OpenCase | None]) -> None:
        self.views, self._layers, self._case = views, layers, case
        self._number: int | None = None
        self._paint: Any = None

    @property
    def is_going_on(self) -> bool:
        """Whether a region is being drawn."""
        return self._number is not None

    def begin(self) -> None:
        """Hand the reader a brush."""
        case = self._case()
        if case is None or self.is_going_on or case.read_only is not None or self._layers.drawn is None:
            return
        self._number = 1 + max([int(name[1:]) for name in case.review.drawn] or [0])
        self._layers.begin_drawing(self._number)
        self._paint = self._layers.drawn.events.paint
        self._paint.connect(self._painted)
        self.views.footer.status.say("Paint the region, in one slice or several; every stroke is kept at once.")
        self.show()

    def keep(self) -> None:
        """The drawing is finished."""
        if self.is_going_on:
            self._painted()
            self.end()

    @told
    def drop(self) -> None:
        """Throw the drawing away; undo brings it back."""
        key, case = f"d{self._number}", self._case()
        self.end()
        if case is not None and key in case.review.drawn:
            case.erase(key)

    @told
    def erase(self, key: str) -> None:
        """Remove a drawn finding."""
        case = self._case()
        if case is not None:
            case.erase(key)

    def end(self) -> None:
        """Take the brush back; what was kept stays."""
        if self._paint is not None:
            self._paint.disconnect(self._painted)
            self._paint = None
        if self.is_going_on:
            self._number = None
            self._layers.end_drawing()
            self.show()

    def show(self) -> None:
        """What can be drawn now."""
        case = self._case()
        reason = "Open a case first" if case is None else case.read_only
        self.views.draw.show_drawing(self.is_going_on, reason)

    @told
    def _painted(self, event: object = None) -> None:
        """Keep what was painted for the number in the brush; an eraser may have changed others."""
        labels, case = self._layers.drawn_labels(), self._case()
        if labels is None or case is None or self._number is None:
            return
        if getattr(self._layers.drawn, "mode", "") == "erase":
            case.set_drawn_labels(labels)
            return
        key, mask = f"d{self._number}", labels == self._number
        if mask.any() and not (key in case.review.drawn and bool((case.mask_of(key) == mask).all())):
            case.draw(mask, key)
