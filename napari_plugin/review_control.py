"""What happens when: a session's state into the views and layers, and the reader's actions into the session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from headclip_med.reading.base import volume_array
from headclip_med.review import Change, Components, OpenCase, Session, components_at
from headclip_med.review.sources import SourceMatch, match_source

from . import rows
from .background import Background
from .case_layers import CaseLayers
from .dock_parts import Views, told
from .drawing import Drawing
from .orientation import Orientation
from .windows import preset_limits, presets
from .worker import in_words

_STEP = 0.01  # of the threshold, by key


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
        self.source: SourceMatch | None = None
        self.drawing = Drawing(views, layers, lambda: self.case)
        self._known: SourceMatch | None = None
        self._preview: float | None = None
        self._was_concealed = False
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
    def open_folder(self, folder: Path, reader: str, unaided_first: bool, source: SourceMatch | None = None) -> None:
        """Find the results in a folder and review them; ``source``: of a result that was just made."""
        paths = [folder] if source is None else [*source.paths]
        session = Session.open([folder], reader, unaided_first=unaided_first, sources=paths)
        self._known = source
        try:
            self.use(session)
        finally:
            self._known = None

    @told
    def open_case(self, key: str) -> None:
        """Open a case: its source, its map, its findings, at the most suspicious slice."""
        if self.session is None or (self.case is not None and self.case.key == key):
            return
        self.drawing.end()
        case = self.session.open_case(key)
        self.source = self._known or match_source(case.record, self.session.sources)
        if not case.concealed and case.read_only is None:
            case.show_overlay()
        self._show_layers(case)
        if self.source.message and self.source.volume is None:
            self.session.tell(self.source.message)
        elif case.read_only is None:
            notes = f" Source: {self.source.message}." if self.source.message else ""
            self.views.footer.status.say(rows.score_words(case) + notes)

    def step_case(self, by: int) -> None:
        """Open the case ``by`` further down the list."""
        key = None if self.session is None else self.session.step_case(by)
        if key is not None:
            self.open_case(key)

    def make_room(self) -> None:
        """A run is about to show its own layers; the case stays open."""
        self.drawing.end()
        self._preview = None

    def come_back(self) -> None:
        """A run has ended without a result: show the case again, or nothing."""
        if self.case is not None:
            self._show_layers(self.case)
        else:
            self.layers.close()
            self.views.slices.show_slices(())

    def close_session(self) -> None:
        """Save, unlock and forget the session; the layers go with it."""
        self.drawing.end()
        if self.session is not None:
            self.session.changed.disconnect(self._changed)
            self.session.close()
            self.session = None
        self.layers.close()
        self.views.export.show_case(False, False)
        self.source = None

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
            self.layers.go_to(rows.place_of(case, key))
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
                (data.volume_map, data.affine, threshold, data.axis, data.is_plain),
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

    # -- display

    def show_plane(self, plane: Any) -> None:
        """Turn the view."""
        self._orientation.show_plane(plane)

    def choose_window(self, name: str) -> None:
        """A window by name, for the sequence on top."""
        volume = self.source.volume if self.source else None
        number = self.layers.shown_sequence()
        if volume is not None and number < len(volume.array):
            self.layers.set_limits(preset_limits(name, volume_array(volume)[number], volume.meta))

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
        volume = self.source.volume if self.source else None
        self.layers.open_case(case, volume)
        if self.layers.grid is not None:
            self._orientation.follow(self.layers.grid.world_to_ras)
        self._orientation.show_plane(case.record.planes[0])
        self.views.display.show_plane(case.record.planes[0])
        self.views.display.legend.show_range(*self.layers.map_range)
        names = [layer.name for layer in self.layers.sources]
        self.views.display.show_sequences(names, [layer.visible for layer in self.layers.sources])
        self.views.display.show_windows(presets(case.record.source.modality))
        self.views.export.show_case(True, volume is not None and volume.meta.get("source_format") == "dicom")
        self.views.provenance.show_provenance(rows.provenance(case.record))
        self.views.footer.show_provenance(rows.provenance(case.record))
        self.views.slices.show_slices(rows.slice_rows(case))
        self._show_case(case, is_new_drawing=False)
        self._viewer.reset_view()
        if case.findings:
            self.layers.go_to(rows.place_of(case, case.findings[0].id))  # for the other planes
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
        if is_new_drawing and not self.drawing.is_going_on:
            self.layers.show_drawn(case.drawn_labels())
        self.drawing.show()
        self._show_contours(case)

    def _show_cases(self) -> None:
        if self.session is not None:
            self.views.cases.show_cases(rows.case_rows(self.session), None if self.case is None else self.case.key)

    def _show_contours(self, case: OpenCase) -> None:
        if not case.concealed:
            self._preview = None
            self.layers.show_findings(case.components.labels, case.findings, self.views.findings.current)

    @told
    def _settled(self, case: OpenCase, found: Components) -> None:
        if self.case is case and abs(found.threshold - self.views.threshold.value) < 1e-6:
            case.set_threshold(found.threshold, found)
            self.views.footer.status.say(rows.score_words(case))

    def _moved(self, event: object = None) -> None:
        self.views.slices.mark(self.layers.current_index())
        if self._preview is not None:
            self.layers.preview(self._preview)
