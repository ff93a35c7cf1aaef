"""The case list: what is to be read, how suspicious it is, what is done."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QGroupBox, QHBoxLayout, QVBoxLayout

from .base import Button, Table
from .lines import CaseLine

_DONE, _STARTED, _PROBLEM = "✓", "…", "!"


class CaseList(QGroupBox):
    """Cases, most suspicious first. Says which one is wanted and what was marked as done."""

    chosen = Signal(str)
    stepped = Signal(int)
    done = Signal(bool)
    opened = Signal()  # the user wants to choose a folder

    def __init__(self) -> None:
        super().__init__("Cases")
        self.table = Table(["case", "score", ""], rows_shown=3)
        self.open_button = Button("Open…", "Open a folder of results, or a review that was begun")
        self.previous_button = Button("◀", "The case before")
        self.next_button = Button("▶", "The next case")
        self.done_box = QCheckBox("done")
        self.done_box.setToolTip("Mark this case as read")
        row = QHBoxLayout()
        for widget in (self.open_button, self.previous_button, self.next_button, self.done_box):
            row.addWidget(widget)
        for button in (self.previous_button, self.next_button):
            button.setFixedWidth(34)
        layout = QVBoxLayout(self)
        layout.addWidget(self.table)
        layout.addLayout(row)
        self.table.itemSelectionChanged.connect(self._choose)
        self.open_button.clicked.connect(lambda: self.opened.emit())
        self.previous_button.clicked.connect(lambda: self.stepped.emit(-1))
        self.next_button.clicked.connect(lambda: self.stepped.emit(1))
        self.done_box.clicked.connect(lambda: self.done.emit(self.done_box.isChecked()))
        self.show_cases((), None)

    def show_cases(self, rows: Sequence[CaseLine], current: str | None) -> None:
        """Show these cases in this order. ``current`` is the one that is open.

        Args:
            rows: the cases.
            current: key of the case that is open.
        """
        self.table.fill([(row.key, (row.key, _score(row), _mark(row)), row.problem or row.key) for row in rows])
        self.table.choose(current)
        done = {row.key: row.is_done for row in rows}
        self.done_box.setChecked(done.get(current or "", False))
        self.done_box.setEnabled(current is not None)
        left = sum(not row.is_done for row in rows)
        self.setTitle(f"Cases: {left} of {len(rows)} to read" if rows else "Cases")
        for button in (self.previous_button, self.next_button):
            button.allow(None if len(rows) > 1 else "There is no other case")

    def _choose(self) -> None:
        key = self.table.chosen()
        if key is not None:
            self.chosen.emit(key)


def _score(row: CaseLine) -> str:
    return "–" if row.score is None else f"{row.score:.3f}"


def _mark(row: CaseLine) -> str:
    return _PROBLEM if row.problem else _DONE if row.is_done else _STARTED if row.is_started else ""
