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
    """An action whose errors go into the status line; nothing has changed then."""

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
    """The parts of the dock that show a review."""

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
