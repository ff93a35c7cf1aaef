"""The dock: views, layers, session and runs connected. No logic of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QFileDialog, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from headclip_med.base.names import model_names

from .compat import SettingsStore, binding_problem, main_window, plain_viewer, show_scale_bar
from .control.background import Background
from .control.keys import KEYS, PEEK_KEY, Keys, WindowDrag
from .control.review import ReviewControl
from .control.run import RunControl
from .control.tools import CaseTools
from .control.worker import LocalRunner, Runner
from .layers.case import CaseLayers
from .layers.grid import map_colours
from .layers.orientation import Orientation
from .views.base import DOCK_WIDTH, column
from .views.cases import CaseList
from .views.display import DisplayBox
from .views.export import ExportBox
from .views.findings import DrawBox, FindingList, ThresholdBox
from .views.heads import HeadsBox
from .views.notes import Footer, KeyBox, ProvenanceBox, WarningLine
from .views.parts import DockViews
from .views.reading import OpinionBox
from .views.run import RunBox
from .views.settings import SettingsBox, Store
from .views.slices import SliceList

if TYPE_CHECKING:
    from headclip_med.review import Session
    from headclip_med.review.sources import SourceMatch

_OPINION_FIRST, _OPINION_LAST = 1, 5  # its place among the boxes: below the cases, or below the findings


class ReviewWidget(QWidget):
    """The dock: reviews anomaly maps slice by slice, and runs a model.

    Args:
        napari_viewer: napari's. Given by napari itself when the dock is opened from its menu.
        runner: runs models, by default in this process.
        store: what the user chose, kept between sessions, by default a :class:`.compat.SettingsStore`.
    """

    def __init__(self, napari_viewer: Any, *, runner: Runner | None = None, store: Store | None = None) -> None:
        super().__init__()
        self.viewer = napari_viewer = plain_viewer(napari_viewer)
        self._is_closed = self._was_docked = False
        store = SettingsStore() if store is None else store
        self.background, self.layers = Background(), CaseLayers(napari_viewer)
        self.orientation = Orientation(napari_viewer)
        self._make_views(store)
        self.review = ReviewControl(
            napari_viewer,
            self.views,
            self.layers,
            self.orientation,
            self.background,
            self._place_opinion,
            self._show_reader,
        )
        self.run = RunControl(
            napari_viewer,
            self.run_box,
            self.views.slices,
            self.views.footer,
            self.layers,
            self.background,
            runner or LocalRunner(),
            lambda: self.settings_box.results_folder,
            self._open_result,
            self.review,
        )
        self.tools = CaseTools(self.review, self.layers, self.background, self.heads_box)
        self.drag = WindowDrag(napari_viewer, lambda: self.layers.limits, self.layers.set_limits)
        self._lay_out()
        self._connect()
        self.keys = Keys(napari_viewer, self, self._handlers(), self.layers.peek)
        show_scale_bar(napari_viewer)
        if window := main_window(napari_viewer):
            window.installEventFilter(self)
        if problem := binding_problem():
            self.views.footer.status.say(problem, is_wrong=True)
        self.destroyed.connect(partial(_let_go, self.background, self.review))

    # -- what others call

    def review_session(self, session: Session, key: str | None = None) -> None:
        """Review this session in the dock.

        Args:
            session: what is reviewed.
            key: of the case to begin with, None for the first one.
        """
        self.tabs.setCurrentIndex(0)
        self.review.use(session, key)

    def close_all(self, is_window_gone: bool = False) -> None:
        """Save and let go of everything. The dock cannot be used after that.

        Args:
            is_window_gone: Qt has deleted the window with all its parts already.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self.background.close()
        if is_window_gone:
            self.review.abandon()
            return
        for part in (self.review, self.run, self.drag, self.keys, self.orientation):
            part.close()

    def event(self, event: QEvent) -> bool:
        """End the review when napari takes the dock out of its frame, which it does when the frame is closed.

        Args:
            event: of Qt.

        Returns:
            Whether Qt took the event.
        """
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is None and self._was_docked:
                self.close_all()
            self._was_docked = self.parent() is not None
        return bool(super().event(event))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """Save or end the review when the window closes. The user may still be asked whether it shall, code is not.

        Args:
            watched: what the event is for.
            event: of Qt.
        """
        if event.type() == QEvent.Type.Close and not self._is_closed:
            if event.spontaneous():
                self.review.save()
            else:
                self.close_all()
        return False

    # -- inside

    def _make_views(self, store: Store) -> None:
        self.views = DockViews(
            warnings=WarningLine(),
            cases=CaseList(),
            opinion=OpinionBox(),
            slices=SliceList(),
            threshold=ThresholdBox(),
            findings=FindingList(),
            draw=DrawBox(),
            display=DisplayBox(),
            footer=Footer(),
            provenance=ProvenanceBox(),
            export=ExportBox(),
            heads=HeadsBox(),
        )
        self.views.display.legend.show_colours(map_colours())
        self.run_box, self.settings_box = RunBox(model_names()), SettingsBox(store)
        self.key_box = KeyBox([(key.title, key.text) for key in (*KEYS, PEEK_KEY)])
        self.heads_box = self.views.heads

    def _lay_out(self) -> None:
        v = self.views
        self._review_boxes = column(v.cases, v.slices, v.threshold, v.findings, v.draw, v.display, margin=4)
        self._review_layout: Any = self._review_boxes.layout()
        self._place_opinion(False)
        self._review_layout.addStretch(1)
        more = column(self.run_box, self.settings_box, v.export, self.heads_box, v.provenance, self.key_box, margin=4)
        more_layout: Any = more.layout()
        more_layout.addStretch(1)
        self.tabs = QTabWidget()
        self.tabs.addTab(_scrolling(self._review_boxes), "Review")
        self.tabs.addTab(_scrolling(more), "Run and settings")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(v.warnings)
        layout.addWidget(self.tabs, 1)
        layout.addWidget(v.footer)
        self.setMinimumWidth(DOCK_WIDTH)

    def _place_opinion(self, is_first: bool) -> None:
        place = _OPINION_FIRST if is_first else _OPINION_LAST
        if self._review_layout.indexOf(self.views.opinion) != place:
            self._review_layout.removeWidget(self.views.opinion)
            self._review_layout.insertWidget(place, self.views.opinion)

    def _connect(self) -> None:
        v, review = self.views, self.review
        v.cases.opened.connect(self.choose_folder)
        v.cases.chosen.connect(review.open_case)
        v.cases.stepped.connect(review.step_case)
        v.cases.done.connect(review.actions.set_done)
        v.opinion.committed.connect(review.actions.give_opinion)
        v.slices.jumped.connect(review.jump)
        v.threshold.moved.connect(review.threshold.preview)
        v.threshold.settled.connect(review.threshold.settle)
        v.findings.selected.connect(review.go_to_finding)
        v.findings.decided.connect(review.actions.decide)
        v.findings.described.connect(review.actions.describe)
        v.findings.removed.connect(review.actions.remove_drawn)
        v.draw.begun.connect(review.drawing.begin)
        v.draw.kept.connect(review.drawing.keep)
        v.draw.dropped.connect(review.drawing.drop)
        v.footer.undone.connect(review.actions.undo)
        v.footer.redone.connect(review.actions.redo)
        v.display.plane_chosen.connect(review.show_plane)
        v.display.convention_chosen.connect(self.orientation.set_convention)
        v.display.window_chosen.connect(review.choose_window)
        v.display.opacity_changed.connect(self.layers.set_opacity)
        v.display.peeked.connect(self.layers.peek)
        v.display.sequence_toggled.connect(self.layers.show_sequence)
        self.run_box.started.connect(self.run.start)
        self.run_box.cancelled.connect(self.run.cancel)
        self.heads_box.asked.connect(self.tools.show_heads)
        v.export.exported.connect(self._choose_export)
        v.display.sequence_wanted.connect(self._choose_sequence)

    def _handlers(self) -> Mapping[str, Callable[[], object]]:
        review, findings = self.review, self.views.findings
        return {
            "next_suspicious": lambda: review.step_suspicious(1),
            "previous_suspicious": lambda: review.step_suspicious(-1),
            "next_finding": lambda: findings.step(1),
            "previous_finding": lambda: findings.step(-1),
            "accept": lambda: findings.decide("accepted"),
            "reject": lambda: findings.decide("rejected"),
            "uncertain": lambda: findings.decide("uncertain"),
            "lower_threshold": lambda: review.threshold.step(-1),
            "raise_threshold": lambda: review.threshold.step(1),
            "draw": review.drawing.begin,
            "keep_drawing": review.drawing.keep,
            "undo": review.actions.undo,
            "redo": review.actions.redo,
            "next_case": lambda: review.step_case(1),
            "previous_case": lambda: review.step_case(-1),
            "done": review.actions.toggle_done,
        }

    def _show_reader(self, session: Session | None) -> None:
        if session is None:
            self.settings_box.show_reader(None)
        else:
            self.settings_box.show_reader(session.reader, session.unaided_first)

    def switch_sides(self) -> None:
        """Switch from radiological to neurological, or back."""
        box = self.views.display.convention
        box.setCurrentIndex(1 - box.currentIndex())
        self.orientation.set_convention(box.currentText())

    def choose_folder(self) -> None:
        """Ask for a folder of results and review them."""
        folder = QFileDialog.getExistingDirectory(self, "Results to review", str(self.settings_box.results_folder))
        if folder:
            self.review.open_folder(Path(folder), self.settings_box.reader, self.settings_box.is_unaided_first)

    def _choose_export(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Export into", str(self.settings_box.results_folder))
        if folder:
            self.tools.export(Path(folder), self.views.export.formats)

    def _choose_sequence(self) -> None:
        file, _ = QFileDialog.getOpenFileName(self, "Another image of this patient")
        if file:
            self.tools.add_sequence(Path(file))

    def _open_result(self, folder: Path, source: SourceMatch) -> None:
        self.tabs.setCurrentIndex(0)
        self.review.open_folder(folder, self.settings_box.reader, self.settings_box.is_unaided_first, source)


def _let_go(background: Background, review: ReviewControl) -> None:
    """Stop what runs and unlock the review when a window has taken the dock with it."""
    background.close()
    review.abandon()


def _scrolling(widget: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidget(widget)
    area.setWidgetResizable(True)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    return area
