"""Small pieces that all views are made of. Views know no viewer and no session: rows in, signals out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QKeyEvent, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLabel,
    QPushButton,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from headclip_med.base.errors import readable

DOCK_WIDTH = 310
_KEY = Qt.ItemDataRole.UserRole


class Table(QTableWidget):
    """Rows that are chosen as a whole and each have a key. Letters are left to the keys of the dock.

    Args:
        headings: of the columns.
        rows_shown: height without scrolling.
        wide: the column that takes what width is left.
    """

    def __init__(self, headings: Sequence[str], rows_shown: int, wide: int = 0) -> None:
        super().__init__(0, len(headings))
        self.setHorizontalHeaderLabels(list(headings))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(22)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setSectionResizeMode(wide, QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(20)
        header.setHighlightSections(False)
        self.setFixedHeight(22 * rows_shown + 30)
        self._wide, self._place = wide, dict[Any, int]()

    def fill(self, rows: Sequence[tuple[Any, Sequence[str], str]]) -> None:
        """Replace all rows: key, cells and tooltip of each. What was chosen stays chosen. Says nothing.

        Args:
            rows: key, cells and tooltip of each.
        """
        chosen = self.chosen()
        was_blocked = self.blockSignals(True)
        self.setRowCount(len(rows))
        self._place = {key: place for place, (key, _, _) in enumerate(rows)}
        for place, (key, cells, tip) in enumerate(rows):
            for column, text in enumerate(cells):
                item = QTableWidgetItem(readable(text))
                item.setData(_KEY, key)
                item.setToolTip(_lines(tip or text))
                self.setItem(place, column, item)
        for column in range(self.columnCount()):  # once: a header that follows its contents costs 1 ms a cell
            if column != self._wide:
                self.resizeColumnToContents(column)
        self.choose(chosen)
        self.blockSignals(was_blocked)

    def chosen(self) -> Any:
        """Tell which row is chosen.

        Returns:
            Its key, None where none is.
        """
        rows = self.selectionModel().selectedRows() if self.selectionModel() is not None else []
        return None if not rows else self.item(rows[0].row(), 0).data(_KEY)

    def choose(self, key: Any) -> None:
        """Choose the row of that key and bring it into view. Says nothing.

        Args:
            key: of the row, None for none.
        """
        was_blocked = self.blockSignals(True)
        row = self._place.get(key)
        if row is None:
            self.clearSelection()
        else:
            self.selectRow(row)
            self.scrollToItem(self.item(row, 0))
        self.blockSignals(was_blocked)

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Pass letters and digits on to the dock: they are keys of it, not a search.

        Args:
            event: the key.
        """
        if event.text().strip() and not event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            event.ignore()
        else:
            super().keyPressEvent(event)


class Words(QLabel):
    """A line or more of text that wraps, can be copied and never widens the dock.

    Args:
        text: shown first.
        colour: of the letters, such as ``#ffb454``.
    """

    def __init__(self, text: str = "", colour: str | None = None) -> None:
        super().__init__(_lines(text))
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        if colour:
            self.setStyleSheet(f"color: {colour};")

    def setText(self, text: str) -> None:  # noqa: N802 - Qt's name
        """Show another text, and take the height that it needs.

        Args:
            text: to be shown.
        """
        super().setText(_lines(text))
        self._fit()

    def setToolTip(self, text: str) -> None:  # noqa: N802 - Qt's name
        """Say more when the mouse rests on it.

        Args:
            text: to be shown.
        """
        super().setToolTip(_lines(text))

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """Take the height that the text needs at this width. Layouts within layouts do not always ask for it.

        Args:
            event: of Qt.
        """
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        self.setMinimumHeight(self.heightForWidth(self.width()) if self.text() else 0)


class Button(QPushButton):
    """A button that can say why it is disabled, in its tooltip.

    Args:
        text: on the button.
        tip: shown while it is enabled.
    """

    def __init__(self, text: str, tip: str = "") -> None:
        super().__init__(text)
        self._tip = tip
        self.setToolTip(tip)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def allow(self, reason: str | None = None) -> None:
        """Enable the button, or disable it for ``reason``.

        Args:
            reason: why it cannot be done, None where it can.
        """
        self.setEnabled(reason is None)
        self.setToolTip(self._tip if reason is None else reason)


class _Calm(QObject):
    """Leaves the mouse wheel to whatever scrolls around a widget, unless the widget has the focus."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """Let a wheel pass that is meant for the dock."""
        if event.type() == QEvent.Type.Wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            event.ignore()
            return True
        return False


def calm_wheel(widget: QWidget) -> None:
    """Keep a slider, a combo or a spin box as it is when the wheel only happens to pass over it.

    Args:
        widget: of Qt.
    """
    widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)  # the wheel gives no focus either
    widget.installEventFilter(_Calm(widget))


def _lines(text: str) -> str:
    """Text of one or more lines without anything in it that Qt cannot show."""
    return "\n".join(map(readable, text.split("\n")))


def column(*widgets: QWidget, margin: int = 0, spacing: int = 4) -> QWidget:
    """Put widgets one below the other, as one widget.

    Args:
        *widgets: from top to bottom.
        margin: around them, in pixels.
        spacing: between them, in pixels.

    Returns:
        The widget that holds them.
    """
    box = QWidget()
    layout = QVBoxLayout(box)
    layout.setContentsMargins(margin, margin, margin, margin)
    layout.setSpacing(spacing)
    for widget in widgets:
        layout.addWidget(widget)
    return box
