"""How the case is shown: plane, window, sequences, overlay and its legend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from qtpy.QtCore import QRectF, QSignalBlocker, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QCheckBox, QComboBox, QGridLayout, QGroupBox, QLabel, QSlider, QVBoxLayout, QWidget

from headclip_med.base.errors import readable
from headclip_med.base.types import PLANES

from ..layers.orientation import CONVENTIONS
from .base import Button, calm_wheel

_SIDES = "radiological: the patient's right is on your left"
_TEXT, _CUT = "#c8ccd4", "#35e0ff"


class Legend(QWidget):
    """The colours of the map with their range and the threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(38)
        self._colours: np.ndarray | None = None
        self.range = (0.0, 1.0)
        self.threshold: float | None = None

    def show_colours(self, rgba: np.ndarray) -> None:
        """Show colours ``(n, 4)`` in [0, 1], as they look over black.

        Args:
            rgba: colours ``(n, 4)`` in [0, 1].
        """
        seen = rgba[:, :3] * rgba[:, 3:]
        self._colours = np.ascontiguousarray((255 * seen).round().astype(np.uint8)[None])
        self.update()

    def show_range(self, low: float, high: float) -> None:
        """Show the values at both ends.

        Args:
            low: the lower end.
            high: the upper end.
        """
        self.range = (low, high)
        self.update()

    def show_threshold(self, threshold: float) -> None:
        """Mark the threshold.

        Args:
            threshold: in [0, 1].
        """
        self.threshold = threshold
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the bar, its ends and the mark.

        Args:
            event: of Qt.
        """
        painter = QPainter(self)
        bar = QRectF(4, 4, self.width() - 8, 12)
        if self._colours is not None:
            count = self._colours.shape[1]
            image = QImage(self._colours.tobytes(), count, 1, 3 * count, QImage.Format.Format_RGB888)
            painter.drawImage(bar, image)
        low, high = self.range
        painter.setPen(QColor(_TEXT))
        font = painter.font()
        font.setPointSizeF(8)
        painter.setFont(font)
        below = QRectF(4, 18, self.width() - 8, 16)
        painter.drawText(below, Qt.AlignmentFlag.AlignLeft, f"{low:.2f}")
        painter.drawText(below, Qt.AlignmentFlag.AlignRight, f"{high:.2f}")
        share = None if self.threshold is None or high <= low else (self.threshold - low) / (high - low)
        painter.drawText(below, Qt.AlignmentFlag.AlignHCenter, "anomaly map")
        if share is not None and 0 <= share <= 1:
            x = bar.left() + share * bar.width()
            painter.setPen(QPen(QColor(_CUT), 2))
            painter.drawLine(round(x), 1, round(x), 19)
        painter.end()


class DisplayBox(QGroupBox):
    """Choices of display. None of them changes a number."""

    plane_chosen = Signal(str)
    convention_chosen = Signal(str)
    window_chosen = Signal(str)
    opacity_changed = Signal(float)
    peeked = Signal(bool)
    sequence_toggled = Signal(int, bool)
    sequence_wanted = Signal()

    def __init__(self) -> None:
        super().__init__("Display")
        self.plane, self.convention, self.window_choice = QComboBox(), QComboBox(), QComboBox()
        self.plane.addItems(list(PLANES))
        self.convention.addItems(list(CONVENTIONS))
        self.convention.setToolTip(_SIDES)
        self.window_choice.setToolTip(
            "Black and white; drag over the picture with the right mouse button for any other"
        )
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.opacity.setRange(0, 100)
        self.opacity.setValue(60)
        self.peek_button = Button("Hold to see the bare slice", "Hides everything above the source while it is held")
        self.legend = Legend()
        self.add_button = Button("Add a sequence…", "Lay another image of this patient beside the source")
        self._sequences = QVBoxLayout()
        self._sequences.setSpacing(0)
        self._boxes: list[QCheckBox] = []
        for widget in (self.plane, self.convention, self.window_choice, self.opacity):
            calm_wheel(widget)
        self._lay_out()
        self.plane.textActivated.connect(self.plane_chosen.emit)
        self.convention.textActivated.connect(self.convention_chosen.emit)
        self.window_choice.textActivated.connect(self.window_chosen.emit)
        self.opacity.valueChanged.connect(lambda value: self.opacity_changed.emit(value / 100))
        self.peek_button.pressed.connect(partial(self.peeked.emit, True))
        self.peek_button.released.connect(partial(self.peeked.emit, False))

    def _lay_out(self) -> None:
        layout = QGridLayout(self)
        layout.setVerticalSpacing(3)
        layout.setColumnStretch(1, 1)
        rows = (
            ("plane", self.plane),
            ("sides", self.convention),
            ("window", self.window_choice),
            ("overlay", self.opacity),
        )
        for row, (text, widget) in enumerate(rows):
            layout.addWidget(QLabel(text), row, 0)
            layout.addWidget(widget, row, 1)
        layout.addWidget(self.peek_button, len(rows), 0, 1, 2)
        layout.addWidget(self.legend, len(rows) + 1, 0, 1, 2)
        layout.addLayout(self._sequences, len(rows) + 2, 0, 1, 2)
        layout.addWidget(self.add_button, len(rows) + 3, 0, 1, 2)
        self.add_button.clicked.connect(lambda: self.sequence_wanted.emit())

    def show_case(self, plane: str, is_plain: bool) -> None:
        """Show which plane is on the screen. A picture has one only, and no sides. Says nothing.

        Args:
            plane: axial, coronal or sagittal.
            is_plain: whether it is a picture without a patient.
        """
        self.plane.setCurrentText(plane)
        for widget in (self.plane, self.convention):
            widget.setEnabled(not is_plain)
        self.plane.setToolTip("A picture has one plane only" if is_plain else "")
        self.convention.setToolTip("A picture has no sides of a patient" if is_plain else _SIDES)

    def show_windows(self, names: Sequence[str]) -> None:
        """Offer these windows.

        Args:
            names: in their order.
        """
        self.window_choice.clear()
        self.window_choice.addItems(list(names))

    def show_sequences(self, names: Sequence[str], visible: Sequence[bool]) -> None:
        """Show a box for each sequence, where there are several.

        Args:
            names: in their order.
            visible: whether each is shown.
        """
        for box in self._boxes:
            self._sequences.removeWidget(box)
            box.deleteLater()
        self._boxes = []
        if len(names) < 2:
            return
        for number, (name, is_shown) in enumerate(zip(names, visible, strict=True)):
            box = QCheckBox(readable(name))
            with QSignalBlocker(box):
                box.setChecked(is_shown)
            box.toggled.connect(partial(self.sequence_toggled.emit, number))
            self._sequences.addWidget(box)
            self._boxes.append(box)
