"""Drawing what the map missed: what is kept is what is painted, whatever painted it, and every stroke can be undone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QTimer

from headclip_med.base.errors import HeadclipError
from headclip_med.review import OpenCase
from headclip_med.review.decisions import next_number

from ..layers.case import CaseLayers
from ..views.parts import DockViews, told


class Drawing:
    """Keeps what is painted on the drawn layer: by the dock's brush, by napari's own tools, by its undo.

    Args:
        views: the parts of the dock.
        layers: on which the case lies.
        case: gives the case that is on the screen, or None.
        mend: puts right what others changed of its layers.
        settle: keeps the threshold that is being dragged.
    """

    def __init__(
        self,
        views: DockViews,
        layers: CaseLayers,
        case: Callable[[], OpenCase | None],
        mend: Callable[[], None],
        settle: Callable[[], None],
    ) -> None:
        self.views, self._layers, self._case, self._mend, self._settle = views, layers, case, mend, settle
        self._before: tuple[OpenCase, NDArray[np.uint16]] | None = None
        self._is_following = False
        self._soon = QTimer()  # napari tells of some strokes before they are in the array
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self.follow)
        layers.painted = self._painted

    @property
    def is_going_on(self) -> bool:
        """Tell whether a region is being drawn."""
        return self._before is not None

    @told
    def begin(self) -> None:
        """Hand the reader a brush with a number of its own."""
        self._mend()
        case = self._case()
        if case is None or self.is_going_on or case.read_only is not None:
            return
        number = next_number(case.review.drawn)
        self._before = case, case.drawn_labels()
        self._layers.begin_drawing(number)
        self.views.footer.status.say("Paint the region, in one slice or several; every stroke is kept at once.")
        self.show(case)

    def keep(self) -> None:
        """Finish the drawing."""
        if self.is_going_on:
            self.end()

    @told
    def drop(self) -> None:
        """Throw away whatever was painted since the drawing began. Undo brings it back."""
        before = self._before
        self.end()
        if before is not None and before[0] is self._case():
            case, labels = before
            case.set_drawn_labels(labels)

    def end(self) -> None:
        """Take the brush back. What is painted stays."""
        self.follow()
        if self.is_going_on:
            self._before = None
            self._layers.end_drawing()
            self.show(self._case())

    def show(self, case: OpenCase | None) -> None:
        """Show what can be drawn now in this case. What was begun in another one ends with that.

        Args:
            case: the open case, None where there is none.
        """
        if self._before is not None and self._before[0] is not case:
            self._before = None
        reason = "Open a case first" if case is None else case.read_only
        self._layers.allow_drawing(reason is None)
        self.views.draw.show_drawing(self.is_going_on, reason)

    def follow(self) -> None:
        """Keep what is painted now. What cannot be kept is not shown either."""
        case, labels = self._case(), self._layers.painted_labels()
        if case is None or labels is None or self._is_following:
            return
        self._is_following = True
        self._settle()
        try:
            case.set_drawn_labels(labels)
        except HeadclipError as error:
            self._layers.show_drawn(case.drawn_labels())
            self.views.footer.status.say(str(error), is_wrong=True)
        finally:
            self._is_following = False

    def close(self) -> None:
        """Let go of the layers."""
        self._soon.stop()
        self._layers.painted = lambda: None

    def _painted(self) -> None:
        self.follow()
        self._soon.start()
