"""Running a model: what, on what, how far."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QGridLayout, QGroupBox, QHBoxLayout, QLabel, QProgressBar, QVBoxLayout

from headclip_med.base.names import DOMAINS, PLANES

from .base import Button, Words, calm_wheel

_OWN = "the model's own"
DEFAULT_MODEL = "headclip-tiny"


class RunBox(QGroupBox):
    """Choices for a run, its progress, and a way to stop it.

    Args:
        models: names to choose from.
    """

    started = Signal()
    cancelled = Signal()

    def __init__(self, models: Sequence[str]) -> None:
        super().__init__("Run a model")
        self.model, self.domain, self.plane = QComboBox(), QComboBox(), QComboBox()
        self.model.setEditable(True)
        self.model.addItems(list(models))
        self.model.setCurrentText(DEFAULT_MODEL if DEFAULT_MODEL in models else models[0])
        self.model.setToolTip(
            "A name, a pack's folder, a weight file or an .onnx file; METHOD: in front chooses the method"
        )
        self.domain.addItems([_OWN, *DOMAINS])
        self.plane.addItems(["as acquired", *PLANES])
        for box in (self.model, self.domain, self.plane):
            calm_wheel(box)
            box.setMinimumContentsLength(8)
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.source = Words("No volume is open.")
        self.run_button = Button("Run", "Score every slice of the volume above")
        self.cancel_button = Button("Cancel", "Stop after the slice that is being scored")
        self.bar = QProgressBar()
        self.bar.setRange(0, 1)
        self.words = Words()
        self._lay_out()
        self.run_button.clicked.connect(lambda: self.started.emit())
        self.cancel_button.clicked.connect(lambda: self.cancelled.emit())
        self.show_running(False, "Open a volume first")

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setColumnStretch(1, 1)
        rows = (("volume", self.source), ("model", self.model), ("domain", self.domain), ("plane", self.plane))
        for row, (text, widget) in enumerate(rows):
            grid.addWidget(QLabel(text), row, 0)
            grid.addWidget(widget, row, 1)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button)
        buttons.addWidget(self.cancel_button)
        layout = QVBoxLayout(self)
        layout.addLayout(grid)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.words)
        self.words.hide()

    @property
    def chosen_domain(self) -> str | None:
        """Return the domain, or None for the model's own."""
        return None if self.domain.currentIndex() == 0 else self.domain.currentText()

    @property
    def chosen_plane(self) -> str | None:
        """Return the plane, or None for the acquisition plane."""
        return None if self.plane.currentIndex() == 0 else self.plane.currentText()

    def show_running(self, is_running: bool, reason: str | None = None) -> None:
        """Tell whether a run is going on. ``reason``: why none can be started.

        Args:
            is_running: whether a run is going on.
            reason: why it cannot be done, None where it can.
        """
        self.run_button.allow("A run is going on" if is_running else reason)
        self.cancel_button.allow(None if is_running else "Nothing is running")
        if not is_running:
            self.bar.setRange(0, 1)
            self.bar.setValue(0)
            self.words.hide()

    def show_progress(self, words: str, done: int, total: int) -> None:
        """Show progress in slices.

        Args:
            words: to be shown.
            done: how many are done.
            total: how many there are, 0 where that is not known.
        """
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self.words.setText(words)
        self.words.show()
