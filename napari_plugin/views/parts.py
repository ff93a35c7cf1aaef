"""The parts of the dock that show a review, and how an action that fails is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

from headclip_med.base.errors import HeadclipError

from .cases import CaseList
from .display import DisplayBox
from .export import ExportBox
from .findings import DrawBox, FindingList, ThresholdBox
from .heads import HeadsBox
from .notes import Footer, ProvenanceBox, WarningLine
from .reading import OpinionBox
from .slices import SliceList

F = TypeVar("F", bound=Callable[..., Any])


def told(action: F) -> F:
    """Wrap an action so that its errors are told in the status line. Nothing has changed then.

    Args:
        action: a method of something with ``views``.

    Returns:
        The action, which returns None where it failed.
    """

    @wraps(action)
    def tried(self: Any, *given: Any) -> Any:
        try:
            return action(self, *given)
        except HeadclipError as error:
            self.views.footer.status.say(str(error), is_wrong=True)
            return None

    return cast(F, tried)


@dataclass
class DockViews:
    """The parts of the dock that show a review.

    Attributes:
        warnings: of the result.
        cases: to be read.
        opinion: on the whole case.
        slices: by score.
        threshold: of the map.
        findings: at the threshold.
        draw: what was missed.
        display: how the case is shown.
        footer: history, messages and provenance.
        provenance: all of it.
        export: of the case.
        heads: that raise a score.
    """

    warnings: WarningLine
    cases: CaseList
    opinion: OpinionBox
    slices: SliceList
    threshold: ThresholdBox
    findings: FindingList
    draw: DrawBox
    display: DisplayBox
    footer: Footer
    provenance: ProvenanceBox
    export: ExportBox
    heads: HeadsBox
