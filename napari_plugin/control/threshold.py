"""The threshold while it is dragged: the slice follows at once, the volume later, and what counts is what is seen."""

from __future__ import annotations

from collections.abc import Callable

from headclip_med.review import Components, OpenCase, components_at

from ..layers.case import CaseLayers
from ..views import lines
from ..views.parts import DockViews, told
from .background import Background
from .worker import in_words

_STEP = 0.01  # by key


class ThresholdControl:
    """Keeps the threshold that is on the screen before anything else is done.

    Args:
        views: the parts of the dock.
        layers: on which the case lies.
        background: computes the findings of the volume.
        case: gives the case that is open, or None.
        mend: puts right what others changed of its layers.
        show_again: shows the case as it is kept.
    """

    def __init__(
        self,
        views: DockViews,
        layers: CaseLayers,
        background: Background,
        case: Callable[[], OpenCase | None],
        mend: Callable[[], None],
        show_again: Callable[[], None],
    ) -> None:
        self.views, self._layers, self._background = views, layers, background
        self._case, self._mend, self._show_again = case, mend, show_again
        self.dragged: float | None = None

    def preview(self, threshold: float) -> None:
        """Let the slice on the screen follow the threshold at once.

        Args:
            threshold: in [0, 1].
        """
        case = self._case()
        if case is not None and not case.concealed:
            self.dragged = threshold
            self._layers.preview(threshold)
            self.views.display.legend.show_threshold(threshold)

    def preview_again(self) -> None:
        """Let the slice that has come on the screen follow as well."""
        if self.dragged is not None:
            self._layers.preview(self.dragged)

    def settle(self, threshold: float) -> None:
        """Let the volume follow, whose findings are computed in a thread.

        Args:
            threshold: in [0, 1].
        """
        case = self._case()
        if case is not None and not case.concealed:
            data = case.data
            self._background.run(
                components_at,
                (data.volume_map, data.affine, threshold, data.axis, data.is_plain),
                lambda found: self._settled(case, found),
                lambda error: self._unsettled(case, error),
            )

    def step(self, by: int) -> None:
        """Move the threshold by a hundredth.

        Args:
            by: how often, downwards where negative.
        """
        case = self._case()
        if case is not None and not case.concealed:
            self.views.threshold.step(by * _STEP)

    @told
    def settle_now(self) -> None:
        """Keep the threshold that is on the screen: it counts from here on."""
        case = self._case()
        if self.dragged is not None and case is not None and not case.concealed:
            self._keep(case, self.dragged)

    @told
    def _settled(self, case: OpenCase, found: Components) -> None:
        if self._case() is case and abs(found.threshold - self.views.threshold.value) < 1e-6:
            self._mend()
            if self._case() is case:
                self._keep(case, found.threshold, found)
                self.views.footer.status.say(lines.score_words(case))

    def _unsettled(self, case: OpenCase, error: BaseException) -> None:
        if self._case() is case:
            self.dragged = None
            self._show_again()
        self.views.footer.status.say(in_words(error), is_wrong=True)

    def _keep(self, case: OpenCase, threshold: float, components: Components | None = None) -> None:
        """Keep what was dragged. Where it cannot be kept, the one before is shown again."""
        self.dragged = None
        actions = case.review.actions
        try:
            case.set_threshold(threshold, components)
        finally:
            if case.review.actions == actions:
                self._show_again()
