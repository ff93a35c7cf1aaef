"""Threshold and findings: where the map is cut, what lies above, what the reader says about it."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QGridLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSlider,
    QVBoxLayout,
)

from .base import Button, Table, Words, calm_wheel
from .lines import FindingLine

_STEPS = 1000  # of the slider over [0, 1]
_QUIET_MS = 180  # without a movement, until the volume follows
_HEADINGS = {False: ["", "peak", "ml", "centre (mm)", "slices"], True: ["", "peak", "pixels", "centre (x, y)", "slice"]}
_SYMBOLS = {"accepted": "✓", "rejected": "✗", "uncertain": "?", "mixed": "±", None: "·", "drawn": "✎"}


class ThresholdBox(QGroupBox):
    """Slider and number for the cut on the map: ``moved`` at once, ``settled`` when it has rested."""

    moved = Signal(float)
    settled = Signal(float)

    def __init__(self) -> None:
        super().__init__("Threshold")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(1, _STEPS - 1)
        self.number = QDoubleSpinBox()
        self.number.setRange(1 / _STEPS, 1 - 1 / _STEPS)
        self.number.setDecimals(3)
        self.number.setSingleStep(0.01)
        self.number.setFixedWidth(84)
        self.words = Words()
        for widget in (self.slider, self.number):
            calm_wheel(widget)
        row = QHBoxLayout()
        row.addWidget(self.slider)
        row.addWidget(self.number)
        layout = QVBoxLayout(self)
        layout.setSpacing(2)
        layout.addLayout(row)
        layout.addWidget(self.words)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_QUIET_MS)
        self._timer.timeout.connect(lambda: self.settled.emit(self.value))
        self.slider.valueChanged.connect(lambda value: self._move(value / _STEPS))
        self.number.valueChanged.connect(self._move)

    @property
    def value(self) -> float:
        """Return the threshold as shown."""
        return float(self.number.value())

    def show_threshold(self, value: float, words: str = "") -> None:
        """Show a threshold and where it came from. Says nothing.

        Args:
            value: the threshold, in [0, 1].
            words: where it came from.
        """
        self._set(value)
        self.words.setText(words)
        self._timer.stop()

    def rest(self) -> None:
        """Forget that it was moved."""
        self._timer.stop()

    def step(self, by: float) -> None:
        """Move the threshold as the slider would.

        Args:
            by: how far, in [-1, 1].
        """
        self.number.setValue(self.value + by)

    def _move(self, value: float) -> None:
        self._set(value)
        self._timer.start()
        self.moved.emit(self.value)

    def _set(self, value: float) -> None:
        with QSignalBlocker(self.slider), QSignalBlocker(self.number):
            self.slider.setValue(round(value * _STEPS))
            self.number.setValue(value)


class FindingList(QGroupBox):
    """The findings above the threshold and those that were drawn, with the reader's decisions."""

    selected = Signal(str)
    decided = Signal(str, object)  # key, status or None
    described = Signal(str, str, str)  # key, label, note
    removed = Signal(str)

    def __init__(self) -> None:
        super().__init__("Findings")
        self.table = Table(_HEADINGS[False], rows_shown=5, wide=3)
        self.accept_button = Button("✓ accept", "This finding is real")
        self.reject_button = Button("✗ reject", "This is no finding")
        self.uncertain_button = Button("? unsure", "Uncertain")
        self.label = QLineEdit()
        self.label.setPlaceholderText("label, such as: oedema")
        self.note = QLineEdit()
        self.note.setPlaceholderText("free text")
        self.remove_button = Button("Remove drawing", "Remove this drawn finding; undo brings it back")
        buttons = QHBoxLayout()
        buttons.setSpacing(3)
        for button in (self.accept_button, self.reject_button, self.uncertain_button):
            buttons.addWidget(button)
        words = QGridLayout()
        words.addWidget(QLabel("label"), 0, 0)
        words.addWidget(self.label, 0, 1)
        words.addWidget(QLabel("text"), 1, 0)
        words.addWidget(self.note, 1, 1)
        layout = QVBoxLayout(self)
        layout.setSpacing(4)
        layout.addWidget(self.table)
        layout.addLayout(buttons)
        layout.addLayout(words)
        layout.addWidget(self.remove_button)
        self._rows: dict[str, FindingLine] = {}
        self._described: str | None = None
        self._none_reason = ""
        self._connect()
        self.show_findings(())

    def _connect(self) -> None:
        self.table.itemSelectionChanged.connect(self._choose)
        pairs = (
            (self.accept_button, "accepted"),
            (self.reject_button, "rejected"),
            (self.uncertain_button, "uncertain"),
        )
        for button, status in pairs:
            button.clicked.connect(lambda _=False, status=status: self.decide(status))
        for line in (self.label, self.note):
            line.editingFinished.connect(self.say_words)
        self.remove_button.clicked.connect(self._remove)

    @property
    def current(self) -> str | None:
        """Return the key of the finding that is chosen."""
        return self.table.chosen()

    def show_units(self, is_plain: bool) -> None:
        """Label the columns for a picture in pixels, or a volume in millimetres.

        Args:
            is_plain: whether sizes are in pixels.
        """
        self.table.setHorizontalHeaderLabels(_HEADINGS[is_plain])

    def show_findings(self, rows: Sequence[FindingLine], none_reason: str = "There is no finding to decide on") -> None:
        """Show these findings in this order. The chosen one stays chosen, else the first one is.

        Args:
            rows: the findings.
            none_reason: why nothing can be decided where there is none.
        """
        self.say_words()
        self._rows = {row.key: row for row in rows}
        self.table.fill([(row.key, _cells(row), _tip(row)) for row in rows])
        if self.current is None and rows:
            self.table.choose(rows[0].key)
        open_ones = sum(row.status is None for row in rows if not row.is_drawn)
        self.setTitle(f"Findings: {open_ones} of {len(rows)} to decide" if rows else "Findings")
        self._none_reason = none_reason
        self._show_current()

    def say_words(self) -> None:
        """Say what was typed, once, for the finding that it was typed for."""
        key = self._described
        if key is not None and (self.label.isModified() or self.note.isModified()):
            self.label.setModified(False)
            self.note.setModified(False)
            self.described.emit(key, self.label.text(), self.note.text())

    def forget(self) -> None:
        """Forget what was chosen: in another case it is none of the findings, whatever they are called."""
        self.choose(None)

    def choose(self, key: str | None) -> None:
        """Choose a finding. Says nothing but what was typed for the one before.

        Args:
            key: of the finding, None for none.
        """
        self.say_words()
        self.table.choose(key)
        self._show_current()

    def step(self, by: int) -> None:
        """Ask for the finding ``by`` rows further down, round the ends.

        Args:
            by: rows, upwards where negative.
        """
        keys = list(self._rows)
        if keys:
            place = keys.index(self.current) + by if self.current in keys else 0
            self.choose(keys[place % len(keys)])
            self.selected.emit(keys[place % len(keys)])

    def decide(self, status: str) -> None:
        """Decide on the chosen finding. The same decision again takes it back.

        Args:
            status: accepted, rejected or uncertain.
        """
        row = self._rows.get(self.current or "")
        if row is not None and not row.is_drawn:
            self.decided.emit(row.key, None if row.status == status else status)

    def _choose(self) -> None:
        self.say_words()
        self._show_current()
        if self.current is not None:
            self.selected.emit(self.current)

    def _show_current(self) -> None:
        row = self._rows.get(self.current or "")
        reason = self._none_reason if row is None else "A drawn finding is the reader's own" if row.is_drawn else None
        for button in (self.accept_button, self.reject_button, self.uncertain_button):
            button.allow(reason)
        for line, text in ((self.label, row.label if row else ""), (self.note, row.note if row else "")):
            line.setEnabled(row is not None)
            line.setText(text)
            line.setModified(False)
        self._described = self.current
        self.remove_button.setVisible(row is not None and row.is_drawn)

    def _remove(self) -> None:
        if self.current is not None:
            self.removed.emit(self.current)


def _cells(row: FindingLine) -> tuple[str, ...]:
    symbol = _SYMBOLS["drawn"] if row.is_drawn else _SYMBOLS[row.status]
    return symbol, f"{row.peak:.2f}", row.size, row.place, row.slices


def _tip(row: FindingLine) -> str:
    kind = "drawn" if row.is_drawn else row.status or "not decided"
    words = [f"{row.key}: {kind}", row.words, row.label, row.note]
    return "\n".join(word for word in words if word)


class DrawBox(QGroupBox):
    """Drawing what the map missed."""

    begun = Signal()
    kept = Signal()
    dropped = Signal()

    def __init__(self) -> None:
        super().__init__("Missed finding")
        self.draw_button = Button("✎ Draw", "Paint a region that the map has missed")
        self.keep_button = Button("Keep", "Add what is drawn to the findings")
        self.drop_button = Button("Discard", "Throw away what is drawn")
        layout = QHBoxLayout(self)
        for button in (self.draw_button, self.keep_button, self.drop_button):
            layout.addWidget(button)
        self.draw_button.clicked.connect(lambda: self.begun.emit())
        self.keep_button.clicked.connect(lambda: self.kept.emit())
        self.drop_button.clicked.connect(lambda: self.dropped.emit())
        self.show_drawing(False, "Open a case first")

    def show_drawing(self, is_drawing: bool, reason: str | None = None) -> None:
        """Tell whether a drawing is going on. ``reason``: why none can be begun.

        Args:
            is_drawing: whether a drawing is going on.
            reason: why it cannot be done, None where it can.
        """
        self.draw_button.allow("A drawing is going on" if is_drawing else reason)
        for button in (self.keep_button, self.drop_button):
            button.allow(None if is_drawing else "Nothing is being drawn")
