"""A session in a viewer: which case is open, the change from one to another, and the reader's actions on it.

A case is on the screen whole, with its layers, its words and its journal, or no case is open at all. Everything of a
case is prepared before anything of the one before changes, in :meth:`ReviewControl._open` alone. Every action goes
through :meth:`ReviewControl._ready`, which puts right what others changed of the picture meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from qtpy.QtCore import QTimer

from headclip_med.base.errors import HeadclipError
from headclip_med.base.volume import volume_array
from headclip_med.review import Change, OpenCase, Session
from headclip_med.review.sources import SourceMatch, match_source

from ..layers.case import CaseLayers
from ..layers.orientation import Orientation, patient_world
from ..layers.picture import Picture, picture_of
from ..layers.windows import preset_limits
from ..views import lines
from ..views.parts import DockViews, told
from .actions import ReaderActions
from .background import Background
from .case_views import CaseViews, ShownCase
from .drawing import Drawing
from .threshold import ThresholdControl
from .worker import in_words


class ReviewControl:
    """One session at a time in one viewer, none at first.

    Args:
        viewer: napari's.
        views: the parts of the dock.
        layers: on which a case lies.
        orientation: of the viewer.
        background: runs what takes time.
        place_opinion: told whether the opinion is asked for before everything else.
        show_reader: told whose session is open, None: nobody's.
    """

    def __init__(
        self,
        viewer: Any,
        views: DockViews,
        layers: CaseLayers,
        orientation: Orientation,
        background: Background,
        place_opinion: Callable[[bool], None],
        show_reader: Callable[[Session | None], None],
    ) -> None:
        self.views, self.layers, self.session = views, layers, cast("Session | None", None)
        self._viewer, self._orientation, self._show_reader = viewer, orientation, show_reader
        self._filled = CaseViews(viewer, views, layers, orientation, place_opinion)
        self._shown: ShownCase | None = None
        self._aside: tuple[str, SourceMatch] | None = None  # while a run is on the screen
        self._is_changing = False
        self.threshold = ThresholdControl(views, layers, background, lambda: self.case, self.mend, self._show_as_kept)
        self.actions = ReaderActions(views, self._ready, self._show_cases)
        self.drawing = Drawing(views, layers, lambda: self.case, self.mend, self.threshold.settle_now)
        self._was_concealed = False
        self._soon = QTimer()
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self.mend)
        layers.lost = self._soon.start
        viewer.dims.events.current_step.connect(self._moved)
        viewer.dims.events.order.connect(self._moved)
        for event in self._layer_events():
            event.connect(self._follow_volume)
        self.show_nothing()

    # -- session and case

    @property
    def case(self) -> OpenCase | None:
        """Return the case that is open, which is the one on the screen."""
        return None if self._shown is None or self._is_changing else self._shown.case

    @property
    def source(self) -> SourceMatch | None:
        """Return the source of the case on the screen."""
        return None if self._shown is None else self._shown.source

    @told
    def use(self, session: Session, key: str | None = None, source: SourceMatch | None = None) -> None:
        """Review this session from now on, beginning with its first case or the one named.

        A case that is open stays open where none of the new session can be.

        Args:
            session: what is reviewed.
            key: of the case to begin with, None for the first one.
            source: of the case to begin with, where it is known.
        """
        if session is not self.session:
            session.show_on(self.layers.shown)
        wanted = key or next((entry.key for entry in session.cases if entry.problem is None), None)
        if wanted is not None and self._open(session, wanted, source):
            return
        if self.case is not None and session is not self.session:
            session.show_on(None)
        else:
            self._follow(session)
            self._show_cases()
        if wanted is None:
            words = "None of these results can be reviewed; the list says why."
            self.views.footer.status.say(words if self.case is None else self._still(words), is_wrong=True)

    @told
    def open_folder(self, folder: Path, reader: str, unaided_first: bool, source: SourceMatch | None = None) -> None:
        """Find the results in a folder and review them.

        Args:
            folder: with results at any depth.
            reader: who reviews.
            unaided_first: whether a first opinion is asked for before the overlay.
            source: of a result that was just made.
        """
        paths = [folder] if source is None else [*source.paths]
        self.use(Session.open([folder], reader, unaided_first=unaided_first, sources=paths), None, source)

    def open_case(self, key: str) -> None:
        """Open a case: its source, its map, its findings, at the most suspicious slice.

        Args:
            key: of the case.
        """
        if self.session is not None and not self._is_open(key):
            self._open(self.session, key)

    def step_case(self, by: int) -> None:
        """Open the case ``by`` further down the list. One that cannot be opened is passed over.

        Args:
            by: how many cases further down, upwards where negative.
        """
        session, tried = self.session, set[str]()
        key = None if session is None else session.step_case(by)
        while session is not None and key is not None and key not in tried and not self._open(session, key):
            tried.add(key)
            key = session.step_case(by)  # the list knows by now that it has a problem

    def make_room(self) -> None:
        """Put the case aside for the layers of a run, so that nothing is decided meanwhile."""
        self.finish()
        if self.session is not None and self._shown is not None:
            self._aside = self._shown.case.key, self._shown.source
            with self._change():
                self.session.close_case()
        self._shown = None
        self.show_nothing()
        self.views.footer.status.say("A run is on the screen. Choose a case in the list to go back to it.")

    def come_back(self) -> None:
        """Show the case again, or nothing, after a run without a result."""
        aside, self._aside = self._aside, None
        self.layers.close()
        if aside is None or self.session is None:
            self.show_nothing()
        else:
            self._open(self.session, *aside)

    def close_session(self) -> None:
        """Save, unlock and forget the session. The layers go with it."""
        self.finish()
        self._follow(None)
        self._shown = self._aside = None
        self.layers.close()
        self.show_nothing()

    def close(self) -> None:
        """Let go of session and viewer."""
        if self.layers.is_there():  # a viewer that is closed by code has no layers any more
            self.finish()
        self._soon.stop()
        self.drawing.close()
        self.layers.let_go()
        self._viewer.dims.events.current_step.disconnect(self._moved)
        self._viewer.dims.events.order.disconnect(self._moved)
        for event in self._layer_events():
            event.disconnect(self._follow_volume)
        self.abandon()

    def save(self) -> None:
        """Bring the review's files up to date, with what is still being typed."""
        self.finish()
        if self.session is not None:
            try:
                self.session.save()
            except (HeadclipError, OSError) as error:
                self.views.footer.status.say(in_words(error), is_wrong=True)

    def abandon(self) -> None:
        """Save and unlock the session. Touches no window, which may be gone."""
        session, self.session, self._shown = self.session, None, None
        if session is not None:
            session.changed.disconnect(self._changed)
            session.close()
            session.show_on(None)

    # -- going through slices and findings

    def jump(self, index: int) -> None:
        """Show a slice of the primary plane.

        Args:
            index: of the slice, along the source's own axis.
        """
        case = self.case
        if case is not None and self.layers.current_index() is None:
            self._orientation.show_plane(case.record.planes[0])
        self.layers.jump(index)

    def step_suspicious(self, by: int) -> None:
        """Go to the slice that comes next by score.

        Args:
            by: how many slices further down, upwards where negative.
        """
        if self.case is not None:
            index = self.case.suspicious_slice(self.layers.current_index(), by)
            if index is not None:
                self.jump(index)

    @told
    def go_to_finding(self, key: str) -> None:
        """Show the slices through a finding, and mark it.

        Args:
            key: of the finding.
        """
        case = self._ready()
        if case is not None:
            self.layers.go_to(lines.place_of(case, key))
            self.jump(case.slice_of(key)) if self.layers.current_index() is not None else None
            self._show_contours(case)

    # -- display

    def show_plane(self, plane: Any) -> None:
        """Turn the view.

        Args:
            plane: axial, coronal or sagittal.
        """
        self._orientation.show_plane(plane)

    def choose_window(self, name: str) -> None:
        """Choose a window by name, for the sequence on top.

        Args:
            name: of a preset.
        """
        volume = self.source.volume if self.source else None
        number = self.layers.shown_sequence()
        if volume is not None and number < len(volume.array):
            self.layers.set_limits(preset_limits(name, volume_array(volume)[number], volume.meta))

    def mend(self) -> None:
        """Put the layers of the case back that somebody else has removed, moved or filled with something else."""
        shown = self._shown
        if shown is None or self._is_changing or self.layers.is_whole():
            return
        self.drawing.end()
        try:
            with self._change():
                show = self.layers.open if self.layers.is_out_of_sight() else self.layers.show
                show(self.layers.picture or shown.picture)
                self.layers.show_drawn(shown.case.drawn_labels())
                self._show_case(shown)
                if self.layers.is_beyond():  # without its layers, napari had nowhere to stay
                    self._filled.go_to_start(shown.case)
        except Exception as error:
            self._lose(error)
        else:
            words = f"{shown.case.key}: its layers were changed, covered or hidden, and were put back."
            self.views.footer.status.say(words, is_wrong=True)

    # -- inside: change of case

    def _is_open(self, key: str) -> bool:
        """Whether there is no need to open it. One that could only be looked at may be free by now."""
        return self.case is not None and self.case.key == key and self.case.read_only is None

    def _open(self, session: Session, key: str, known: SourceMatch | None = None) -> bool:
        """Show a case instead of the one before: all of it, or the one before stays as it is."""
        self.finish()
        before, picture, view, case = self._shown, self.layers.picture, self._view(), None
        try:
            case = session.prepare(key, None if before is None else before.case)
            source = known or match_source(case.record, session.sources)
            shown = ShownCase(session, case, source, picture_of(case, source.volume))
            with self._change():
                self._show_first(shown)
        except Exception as error:
            if case is not None:
                session.discard(case)
            self._go_back(before, picture, view)
            self.views.footer.status.say(self._still(f"{key} cannot be opened: {in_words(error)}"), is_wrong=True)
            return False
        self._shown, self._aside = shown, None
        with self._change():
            session.take(case)
        self._follow(session)
        self._say_opened(shown)
        return True

    def _go_back(self, before: ShownCase | None, picture: Picture | None, view: dict[str, Any]) -> None:
        """What was on the screen before, as it was. Where even that cannot be shown, nothing is open."""
        try:
            if picture is None:
                self.layers.close()
                self.show_nothing()
            elif self.layers.picture is not picture:
                with self._change():
                    self.layers.show(picture)
                    if before is not None:
                        self.layers.show_drawn(before.case.drawn_labels())
                        self._show(before)
                    self._viewer.dims.update(view)
            self._show_cases()
        except Exception as error:
            self._lose(error)

    def _lose(self, error: BaseException) -> None:
        """The screen cannot show what is open: nothing is, so that nothing is decided on something else."""
        self._shown = None
        with self._change():
            if self.session is not None:
                self.session.close_case()
        self.layers.close()
        self.show_nothing()
        self.views.footer.status.say(f"No case is open any more: {in_words(error)}", is_wrong=True)

    def _follow(self, session: Session | None) -> None:
        """Listen to this session and to no other."""
        old, self.session = self.session, session
        if old is not None and old is not session:
            old.changed.disconnect(self._changed)
            known = len(old.messages)
            old.close()
            old.show_on(None)
            for message in old.messages[known:]:
                self.views.footer.status.say(message, is_wrong=True)
        if session is not None and session is not old:
            session.changed.connect(self._changed)
        if session is not old:
            self._show_reader(session)

    def _say_opened(self, shown: ShownCase) -> None:
        """One line about the case on the screen: what is wrong with it before what is in it."""
        case, source = shown.case, shown.source
        self._show_cases()
        if case.messages:
            self.views.footer.status.say("; ".join(case.messages), is_wrong=True)
        elif source.message and source.volume is None:
            shown.session.tell(f"{case.key}: {source.message}")
        else:
            notes = f" Source: {source.message}." if source.message else ""
            self.views.footer.status.say(lines.score_words(case) + notes)

    def _still(self, words: str) -> str:
        """Words about what did not happen, and what is on the screen."""
        return f"{words} {'No case is open.' if self.case is None else f'Still open: {self.case.key}.'}"

    def _layer_events(self) -> tuple[Any, ...]:
        layers = self._viewer.layers
        return layers.events.inserted, layers.events.removed, layers.selection.events.active

    def _view(self) -> dict[str, Any]:
        dims = self._viewer.dims
        return {"ndisplay": dims.ndisplay, "order": dims.order, "point": dims.point}

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Meanwhile nothing is open to anybody, and what events tell is half of the truth."""
        outer, self._is_changing = self._is_changing, True
        try:
            yield
        finally:
            self._is_changing = outer

    def finish(self) -> None:
        """Keep what is typed, painted or dragged in the case on the screen, before it is left."""
        if self.case is not None:
            self.views.findings.say_words()
            self.mend()  # what is painted or dragged is kept, whatever lies over it
            self.drawing.end()
            self.threshold.settle_now()
        self.views.threshold.rest()

    # -- inside: actions

    def _ready(self, is_decision: bool = True) -> OpenCase | None:
        """The open case, when the screen shows it as it is kept. What is painted or dragged is kept first.

        None where a decision was made on something else until now: the reader has to look again.
        """
        was_another = self._shown is not None and (self.layers.is_altered() or self.layers.is_out_of_sight())
        self.mend()
        if was_another and is_decision:
            return None
        self.drawing.follow()
        self.threshold.settle_now()
        return self.case

    # -- inside: views

    def _changed(self, change: Change) -> None:
        if change.what == "message":
            self.views.footer.status.say(change.message, is_wrong=True)
        if change.what in ("message", "cases") or self._is_changing or self.session is None:
            return
        open_now, shown = self.session.case, self._shown
        if shown is not None and open_now is shown.case:
            self._show_again(shown, is_drawn=change.what in ("drawn", "case"))
        elif open_now is None:
            self._shown = None
            self.layers.close()
            self.show_nothing()
        else:
            self._show_taken(self.session, open_now)

    def _show_again(self, shown: ShownCase, is_drawn: bool) -> None:
        """Everything that an action can change. The picture itself where the overlay has just been allowed.

        What is painted stays as it is where the action was none of drawing: a stroke may be going on.
        """
        try:
            with self._change():
                if self._was_concealed and not shown.case.concealed:
                    picture = picture_of(shown.case, shown.source.volume)
                    if self.layers.picture is not None:  # with the sequences that were added
                        picture = replace(picture, sources=self.layers.picture.sources)
                    shown = ShownCase(shown.session, shown.case, shown.source, picture)
                    self.layers.show(picture)
                    self._show(shown)
                else:
                    if is_drawn:
                        self.layers.show_drawn(shown.case.drawn_labels())
                    self._show_case(shown)
            self._shown = shown
        except Exception as error:
            self._lose(error)

    def _show_taken(self, session: Session, case: OpenCase) -> None:
        """A case that somebody else has opened in the session: the window follows."""
        try:
            with self._change():
                source = match_source(case.record, session.sources)
                shown = ShownCase(session, case, source, picture_of(case, source.volume))
                self._show_first(shown)
        except Exception as error:
            self._lose(error)
        else:
            self._shown, self._aside = shown, None
            self._say_opened(shown)

    def _show_first(self, shown: ShownCase) -> None:
        """All of a case that was not on the screen. That its overlay was seen is recorded when it was."""
        self.layers.open(shown.picture)
        self._show(shown)
        case, was_concealed = shown.case, shown.case.concealed
        if case.may_show_overlay and case.read_only is None:
            case.show_overlay()
        if was_concealed and not case.concealed:
            self._show(shown)

    def _show(self, shown: ShownCase) -> None:
        """The views of a case whose picture has just been put on the screen."""
        self.threshold.dragged = None
        self._filled.show_all(shown)
        self._note_shown(shown.case)

    def _show_case(self, shown: ShownCase) -> None:
        """Everything that an action can change."""
        self._filled.show(shown)
        self._note_shown(shown.case)

    def _note_shown(self, case: OpenCase) -> None:
        self._was_concealed = case.concealed
        self.drawing.show(case)
        if not case.concealed:
            self.threshold.dragged = None

    def _show_as_kept(self) -> None:
        if self._shown is not None:
            self._show_again(self._shown, is_drawn=False)

    def _show_contours(self, case: OpenCase) -> None:
        if not case.concealed:
            self.threshold.dragged = None
        self._filled.show_contours(case)

    def _show_cases(self) -> None:
        self._filled.show_cases(self.session, None if self.case is None else self.case.key)

    def show_nothing(self) -> None:
        """Empty the views: no case is open, and there is nothing to decide on."""
        self.threshold.dragged, self._was_concealed = None, False
        self._filled.show_nothing()
        self.drawing.show(None)
        self._show_cases()
        self._follow_volume()

    def _follow_volume(self, event: object = None) -> None:
        """Without a case, the letters are those of the volume on the screen. None where no patient is."""
        if self._shown is None and not self._is_changing:
            self._orientation.follow(patient_world(self._viewer))

    def _moved(self, event: object = None) -> None:
        if self._is_changing:
            return
        self.views.slices.mark(self.layers.current_index())
        self.threshold.preview_again()
