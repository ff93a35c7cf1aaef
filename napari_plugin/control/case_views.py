"""A case into the views: what each part of the dock shows of it. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headclip_med.review import OpenCase, Session
from headclip_med.review.sources import SourceMatch

from ..layers.case import CaseLayers
from ..layers.orientation import Orientation
from ..layers.picture import Picture
from ..layers.windows import presets
from ..views import lines
from ..views.notes import NOTHING_OPEN
from ..views.parts import DockViews


@dataclass(frozen=True, eq=False)
class ShownCase:
    """The case that is on the screen, with all that it was made of.

    Attributes:
        session: the one that it belongs to.
        case: open in it.
        source: its image, or why there is none.
        picture: what its layers show.
    """

    session: Session
    case: OpenCase
    source: SourceMatch
    picture: Picture


class CaseViews:
    """The views, filled with one case at a time.

    Args:
        viewer: napari's.
        views: the parts of the dock.
        layers: on which the case lies.
        orientation: of the viewer.
        place_opinion: told whether the opinion is asked for before everything else.
    """

    def __init__(
        self,
        viewer: Any,
        views: DockViews,
        layers: CaseLayers,
        orientation: Orientation,
        place_opinion: Callable[[bool], None],
    ) -> None:
        self.views = views
        self._viewer, self._layers, self._orientation = viewer, layers, orientation
        self._place_opinion = place_opinion

    def show_all(self, shown: ShownCase) -> None:
        """Fill the views for a case whose picture has just been put on the screen, and go to where it begins.

        Args:
            shown: the case with its source and picture.
        """
        self.views.opinion.forget()
        self.views.findings.forget()
        self.views.heads.forget()
        case, record, volume = shown.case, shown.case.record, shown.source.volume
        plain, grid = record.source.is_2d, shown.picture.grid
        self._orientation.follow(None if plain else grid.world_to_ras)
        self._orientation.show_plane(record.planes[0])
        self.views.display.show_case(record.planes[0], plain)
        self.views.display.legend.show_range(*self._layers.map_range)
        names = [layer.name for layer in self._layers.sources]
        self.views.display.show_sequences(names, [layer.visible for layer in self._layers.sources])
        self.views.display.show_windows(presets(record.source.modality))
        reason = "Give your first opinion, then the case can be exported" if case.concealed else None
        self.views.export.show_case(reason, volume is not None and volume.meta.get("source_format") == "dicom")
        self.views.provenance.show_provenance(lines.provenance(case))
        self.views.footer.show_provenance(lines.provenance(case))
        self.views.warnings.show_warnings(record.warnings)
        self.views.findings.show_units(plain)
        self.views.slices.show_slices(lines.slice_lines(case))
        self.show(shown)
        self._viewer.reset_view()
        self.go_to_start(case)

    def go_to_start(self, case: OpenCase) -> None:
        """Go to the most suspicious slice and, in the other planes, to the slices through the highest peak.

        Args:
            case: the one on the screen.
        """
        if case.findings:
            self._layers.go_to(lines.place_of(case, case.findings[0].id))
        self._layers.jump(case.start_slice())
        self.views.slices.mark(self._layers.current_index())

    def show(self, shown: ShownCase) -> None:
        """Fill what an action can change.

        Args:
            shown: the case with its source and picture.
        """
        case = shown.case
        self.views.cases.show_cases(lines.case_lines(shown.session), case.key)
        reason = "Give your first opinion, then the findings are shown" if case.concealed else None
        self.views.findings.show_findings(lines.finding_lines(case), reason or "There is no finding at this threshold")
        self.views.threshold.setEnabled(not case.concealed)
        self.views.threshold.show_threshold(case.threshold, reason or lines.threshold_words(case))
        self.views.display.legend.show_threshold(case.threshold)
        said = case.review.first_opinion if case.concealed else case.review.opinion
        rating, confidence = (None, None) if said is None else (said.rating, said.confidence)
        self.views.opinion.setEnabled(True)
        self.views.opinion.show_opinion(case.concealed, rating, confidence, lines.opinion_words(case))
        self._place_opinion(case.concealed)
        self.views.footer.show_history(case.can_undo, case.can_redo)
        self.show_contours(case)

    def show_nothing(self) -> None:
        """Empty everything: no case is open, and there is nothing to decide on."""
        reason = "Open a case first"
        self.views.slices.show_slices(())
        self.views.findings.show_findings((), reason)
        self.views.threshold.setEnabled(False)
        self.views.threshold.show_threshold(0.5, reason)
        self.views.opinion.show_opinion(False, None, None)
        self.views.opinion.setEnabled(False)
        self.views.display.show_sequences((), ())
        self.views.export.show_case(reason, False)
        self.views.heads.forget()
        self.views.provenance.show_provenance(())
        self.views.footer.show_provenance(())
        self.views.footer.show_history(False, False)
        self.views.warnings.show_warnings(())
        self.views.footer.status.say(NOTHING_OPEN)

    def show_cases(self, session: Session | None, current: str | None) -> None:
        """Fill the list of cases.

        Args:
            session: whose cases they are, None: no cases.
            current: key of the case that is open.
        """
        self.views.cases.show_cases(() if session is None else lines.case_lines(session), current)

    def show_contours(self, case: OpenCase) -> None:
        """Draw the contours of a case, where its overlay may be seen.

        Args:
            case: the one on the screen.
        """
        if not case.concealed:
            self._layers.show_findings(case.components.labels, case.findings, self.views.findings.current)
