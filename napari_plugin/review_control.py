"""What happens when: a session's state into the views and layers, and the reader's actions into the session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from headclip_med.errors import HeadclipError
from headclip_med.reading.base import AnyVolume, volume_array
from headclip_med.review import Change, Components, OpenCase, Session, components_at

from . import rows
from .background import Background
from .case_layers import CaseLayers
from .orientation import Orientation
from .source_of_case import find_source
from .views_cases import CaseList
from .views_display import DisplayBox
from .views_findings import DrawBox, FindingList, ThresholdBox
from .views_notes import Footer, ProvenanceBox
from .views_reading import OpinionBox
from .views_slices import SliceList
from .windows import preset_limits, presets
from .worker import in_words

F = TypeVar("F", bound=Callable[..., Any])

_STEP = 0.01  # of the threshold, by key


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
class Views:
    """The parts of the dock that show a review."""

    cases: CaseList
    opinion: OpinionBox
    slices: SliceList
    threshold: ThresholdBox
    findings: FindingList
    draw: DrawBox
    display: DisplayBox
    footer: Footer
    provenance: ProvenanceBox


class ReviewControl:
    """One session in one viewer; None of either is needed to make it.

    Args:
        place_opinion: told whether the opinion is asked for before everything else.
    """

    def __init__(
        self,
        viewer: Any,
        views: Views,
        layers: CaseLayers,
        orientation: Orientation,
        background: Background,
        place_opinion: Callable[[bool], None],
    ) -> None:
        self.views, self.layers, self.session = views, layers, cast("Session | None", None)
        self._viewer, self._orientation, self._background = viewer, orientation, background
        self._place_opinion = place_opinion
        self._volume: AnyVolume | None = None
        self._drawing: int | None = None
        self._preview: float | None = None
        self._was_concealed = False
        self._paint: Any = None
        viewer.dims.events.current_step.connect(self._moved)
        viewer.dims.events.order.connect(self._moved)

    # -- session and case

    @property
    def case(self) -> OpenCase | None:
        """The case that is open."""
        return None if self.session is None else self.session.case

    def use(self, session: Session, key: str | None = None) -> None:
        """Review this session from now on, beginning with its first case or the one named."""
        self.close_session()
        self.session = session
        session.changed.connect(self._changed)
        first = next((entry.key for entry in session.cases if entry.problem is None), None)
        self.views.cases.show_cases(rows.case_rows(session), None)
        wanted = key or first
        if wanted is None:
            self.views.footer.status.say("None of these results can be reviewed; the list says why.", is_wrong=True)
        else:
            self.open_case(wanted)

    @told
    def open_folder(self, folder: str, reader: str, unaided_first: bool) -> None:
        """Find the results in a folder and review them."""
        self.use(Session.open([folder], reader, unaided_first=unaided_first, sources=[Path(folder)]))

    @told
    def open_case(self, key: str) -> None:
        """Open a case: its source, its map, its findings, at the most suspicious slice."""
        if self.session is None or (self.case is not None and self.case.key == key):
            return
        self._end_drawing()
        case = self.session.open_case(key)
        self._volume, problem = find_source(case, self.session.sources)
        if not case.concealed and case.read_only is None:
            case.show_overlay()
        self._show_layers(case)
        if problem:
            self.session.tell(problem)
        elif case.read_only is None:
            self.views.footer.status.say(rows.score_words(case))

    def step_case(self, by: int) -> None:
        """Open the case ``by`` further down the list."""
        key = None if self.session is None else self.session.step_case(by)
        if key is not None:
            self.open_case(key)

    def close_session(self) -> None:
        """Save, unlock and forget the session; the layers go with it."""
        self._end_drawing()
        if self.session is not None:
            self.session.changed.disconnect(self._changed)
            self.session.close()
            self.session = None
        self.layers.close()
        self._volume = None

    def close(self) -> None:
        """The dock goes: let go of session and viewer."""
        self._viewer.dims.events.current_step.disconnect(self._moved)
        self._viewer.dims.events.order.disconnect(self._moved)
        if self.session is not None:
            self.session.changed.disconnect(self._changed)
            self.session.close()
            self.session = None

    # -- going through slices and findings

    def jump(self, index: int) -> None:
        """Show a slice of the primary plane."""
        if self.case is not None:
            if self.layers.current_index() is None:
                self._orientation.show_plane(self.case.record.planes[0])
            self.layers.jump(index)

    def step_suspicious(self, by: int) -> None:
        """The slice that comes next by score."""
        if self.case is not None:
            index = self.case.suspicious_slice(self.layers.current_index(), by)
            if index is not None:
                self.jump(index)

    @told
    def go_to_finding(self, key: str) -> None:
        """Show the slices through a finding, and mark it."""
        case = self.case
        if case is not None:
            drawn = case.review.drawn.get(key)
            place = drawn.finding.centroid_mm if drawn else case.finding(key).finding.peak_mm
            self.layers.go_to(rows.vector(place))
            self.jump(case.slice_of(key)) if self.layers.current_index() is not None else None
            self._show_contours(case)

    # -- the reader's actions

    @told
    def decide(self, key: str, status: Any) -> None:
        """Accept, reject or doubt a finding."""
        if self.case is not None:
            self.case.judge(key, status)

    @told
    def describe(self, key: str, label: str, note: str) -> None:
        """Name a finding."""
        if self.case is None:
            return
        if key in self.case.review.drawn:
            self.case.edit_drawn(key, label=label, note=note)
        else:
            self.case.judge(key, label=label, note=note)

    def preview(self, threshold: float) -> None:
        """The slice on the screen follows the threshold at once."""
        if self.case is not None and not self.case.concealed:
            self._preview = threshold
            self.layers.preview(threshold)
            self.views.display.legend.show_threshold(threshold)

    def settle(self, threshold: float) -> None:
        """The volume follows: its findings are computed in a thread."""
        case = self.case
        if case is not None and not case.concealed:
            data = case.data
            self._background.run(
                components_at,
                (data.volume_map, data.affine, threshold, data.axis),
                lambda found: self._settled(case, found),
                lambda error: self.views.footer.status.say(in_words(error), is_wrong=True),
            )

    def step_threshold(self, by: int) -> None:
        """A little more or less."""
        if self.case is not None and not self.case.concealed:
            self.views.threshold.step(by * _STEP)

    @told
    def give_opinion(self, rating: Any, confidence: int) -> None:
        """The opinion on the whole case; the first one brings the overlay."""
        if self.case is not None:
            self.case.give_opinion(rating, confidence)
            self.case.save()
            self.views.footer.status.say(f"Opinion kept: {rating}, {confidence} % sure.")

    @told
    def set_done(self, is_done: bool) -> None:
        """Mark the case as read."""
        if self.case is not None:
            try:
                self.case.set_done(is_done)
                self.case.save()
            finally:
                self._show_cases()

    def toggle_done(self) -> None:
        """Read, or not read."""
        if self.case is not None:
            self.set_done(not self.case.review.done)

    @told
    def undo(self) -> None:
        """Take the last action of this case back."""
        if self.case is not None:
            self.case.undo()

    @told
    def redo(self) -> None:
        """Do again what was taken back."""
        if self.case is not None:
            self.case.redo()

    # -- drawing

    def begin_drawing(self) -> None:
        """Paint a new region; each stroke is kept at once."""
        case = self.case
        if case is None or self._drawing is not None or case.read_only is not None:
            return
        labels = self.layers.drawn_labels()
        self._drawing = 1 + max([int(name[1:]) for name in case.review.drawn] or [0])
        if labels is not None:
            self.layers.begin_drawing(self._drawing)
            self._paint = self.layers.drawn.events.paint
            self._paint.connect(self._painted)
            self.views.footer.status.say("Paint the region, in one slice or several; every stroke is kept at once.")
        self._show_drawing()

    def keep_drawing(self) -> None:
        """The drawing is finished."""
        if self._drawing is not None:
            self._painted()
            self._end_drawing()

    @told
    def drop_drawing(self) -> None:
        """Throw the drawing away; undo brings it back."""
        key = f"d{self._drawing}"
        self._end_drawing()
        if self.case is not None and key in self.case.review.drawn:
            self.case.erase(key)

    @told
    def erase(self, key: str) -> None:
        """Remove a drawn finding."""
        if self.case is not None:
            self.case.erase(key)

    # -- display

    def show_plane(self, plane: Any) -> None:
        """Turn the view."""
        self._orientation.show_plane(plane)

    def choose_window(self, name: str) -> None:
        """A window by name, for the sequence on top."""
        if self._volume is not None:
            channel = volume_array(self._volume)[self.layers.shown_sequence()]
            self.layers.set_limits(preset_limits(name, channel, self._volume.meta))

    # -- inside

    def _changed(self, change: Change) -> None:
        case = self.case
        if change.what == "message":
            self.views.footer.status.say(change.message, is_wrong=True)
        if change.what in ("message", "cases") or case is None:
            return
        if self._was_concealed and not case.concealed:
            self._show_layers(case)
            return
        self._show_case(case, is_new_drawing=change.what in ("case", "drawn"))

    def _show_layers(self, case: OpenCase) -> None:
        """Everything of a case that has just been opened, or whose overlay has just been shown."""
        self._preview = None
        self.layers.open_case(case, self._volume)
        if self.layers.grid is not None:
            self._orientation.follow(self.layers.grid.world_to_ras)
        self._orientation.show_plane(case.record.planes[0])
        self.views.display.show_plane(case.record.planes[0])
        self.views.display.legend.show_range(*self.layers.map_range)
        names = [layer.name for layer in self.layers.sources]
        self.views.display.show_sequences(names, [layer.visible for layer in self.layers.sources])
        self.views.display.show_windows(presets(case.record.source.modality))
        self.views.provenance.show_provenance(rows.provenance(case.record))
        self.views.footer.show_provenance(rows.provenance(case.record))
        self.views.slices.show_slices(rows.slice_rows(case))
        self._show_case(case, is_new_drawing=False)
        self._viewer.reset_view()
        self.jump(case.start_slice())
        self.views.slices.mark(self.layers.current_index())

    def _show_case(self, case: OpenCase, is_new_drawing: bool) -> None:
        """Everything that an action can change."""
        self._was_concealed = case.concealed
        self._show_cases()
        reason = "Give your first opinion, then the findings are shown" if case.concealed else None
        self.views.findings.show_findings(rows.finding_rows(case), reason or "There is no finding at this threshold")
        self.views.threshold.setEnabled(not case.concealed)
        self.views.threshold.show_threshold(case.threshold, reason or rows.threshold_words(case))
        self.views.display.legend.show_threshold(case.threshold)
        said = case.review.first_opinion if case.concealed else case.review.opinion
        rating, confidence = (None, None) if said is None else (said.rating, said.confidence)
        self.views.opinion.show_opinion(case.concealed, rating, confidence, rows.opinion_words(case))
        self._place_opinion(case.concealed)
        self.views.footer.show_history(case.can_undo, case.can_redo)
        if is_new_drawing and self._drawing is None:
            self.layers.show_drawn(case.drawn_labels())
        self._show_drawing()
        self._show_contours(case)

    def _show_cases(self) -> None:
        if self.session is not None:
            self.views.cases.show_cases(rows.case_rows(self.session), None if self.case is None else self.case.key)

    def _show_contours(self, case: OpenCase) -> None:
        if not case.concealed:
            self._preview = None
            self.layers.show_findings(case.components.labels, case.findings, self.views.findings.current)

    def _show_drawing(self) -> None:
        reason = "Open a case first" if self.case is None else self.case.read_only
        self.views.draw.show_drawing(self._drawing is not None, reason)

    @told
    def _settled(self, case: OpenCase, found: Components) -> None:
        if self.case is case and abs(found.threshold - self.views.threshold.value) < 1e-6:
            case.set_threshold(found.threshold, found)
            self.views.footer.status.say(rows.score_words(case))

    @told
    def _painted(self, event: object = None) -> None:
        """Keep what was painted for the number in the brush; an eraser may have changed others."""
        labels, case = self.layers.drawn_labels(), self.case
        if labels is None or case is None or self._drawing is None:
            return
        if getattr(self.layers.drawn, "mode", "") == "erase":
            case.set_drawn_labels(labels)
        elif (mask := labels == self._drawing).any():
            case.draw(mask, f"d{self._drawing}")

    def _end_drawing(self) -> None:
        if self._paint is not None:
            self._paint.disconnect(self._painted)
            self._paint = None
        if self._drawing is not None:
            self._drawing = None
            self.layers.end_drawing()
            self._show_drawing()

    def _moved(self, event: object = None) -> None:
        self.views.slices.mark(self.layers.current_index())
        if self._preview is not None:
            self.layers.preview(self._preview)
