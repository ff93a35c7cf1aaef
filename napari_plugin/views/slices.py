"""Slices by suspicion: a curve over the volume and a table, highest score first. A click jumps."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QPointF, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QMouseEvent, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QGroupBox, QVBoxLayout, QWidget

from .base import Table
from .lines import SliceLine

_LINE, _HERE, _AXIS = "#f0a33c", "#35e0ff", "#8a8f98"
_LEFT, _RIGHT, _TOP, _BOTTOM = 30, 6, 6, 16  # margins of the curve in pixels


class ScoreCurve(QWidget):
    """Score against slice, in the order of the volume. Painted, so that no plotting library is loaded."""

    jumped = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(88)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setToolTip("Score of every slice; click to go there")
        self._rows: tuple[SliceLine, ...] = ()
        self._current: int | None = None

    def show_scores(self, rows: Sequence[SliceLine]) -> None:
        """Draw these slices' scores.

        Args:
            rows: the slices.
        """
        self._rows = tuple(sorted(rows, key=lambda row: row.index))
        self.update()

    def mark(self, index: int | None) -> None:
        """Draw a line at the slice that is shown.

        Args:
            index: of the slice, None for none.
        """
        if index != self._current:
            self._current = index
            self.update()

    def index_at(self, x: float) -> int | None:
        """Find the slice below a place on the curve.

        Args:
            x: from the left, in pixels.

        Returns:
            Index of the slice, of the first or last one beyond the ends, None without slices.
        """
        if not self._rows:
            return None
        share = (x - _LEFT) / max(1, self.width() - _LEFT - _RIGHT)
        place = round(min(max(share, 0.0), 1.0) * (len(self._rows) - 1))
        return self._rows[place].index

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Ask to go to the slice below the mouse.

        Args:
            event: where the mouse is.
        """
        self._go(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:  # noqa: N802 - Qt's name
        """Go through the slices with a drag.

        Args:
            event: where the mouse is.
        """
        self._go(event)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw axis, curve and mark.

        Args:
            event: of Qt.
        """
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = QRectF(_LEFT, _TOP, self.width() - _LEFT - _RIGHT, self.height() - _TOP - _BOTTOM)
        if self._rows:
            self._draw(painter, area)
        painter.end()

    def _draw(self, painter: QPainter, area: QRectF) -> None:
        top = max(1e-9, max(row.score or 0.0 for row in self._rows))
        last = max(1, len(self._rows) - 1)
        points = [
            QPointF(area.left() + area.width() * place / last, area.bottom() - area.height() * (row.score or 0.0) / top)
            for place, row in enumerate(self._rows)
        ]
        painter.setPen(QPen(QColor(_AXIS), 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        font = painter.font()
        font.setPointSizeF(7.5)
        painter.setFont(font)
        right = Qt.AlignmentFlag.AlignRight
        painter.drawText(QRectF(0, area.top() - 5, _LEFT - 4, 14), right, f"{top:.2f}")
        painter.drawText(QRectF(0, area.bottom() - 9, _LEFT - 4, 14), right, "0")
        first, final = self._rows[0], self._rows[-1]
        below = QRectF(area.left(), area.bottom() + 2, area.width(), 14)
        painter.drawText(below, Qt.AlignmentFlag.AlignLeft, first.position or f"{first.index}")
        painter.drawText(below, right, final.position or f"{final.index}")
        painter.setPen(QPen(QColor(_LINE), 1.6))
        painter.drawPolyline(QPolygonF(points))
        here = next((point for point, row in zip(points, self._rows, strict=True) if row.index == self._current), None)
        if here is not None:
            painter.setPen(QPen(QColor(_HERE), 1.4))
            painter.drawLine(QPointF(here.x(), area.top()), QPointF(here.x(), area.bottom()))
            painter.setBrush(QColor(_HERE))
            painter.drawEllipse(here, 2.6, 2.6)

    def _go(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton:
            index = self.index_at(event.position().x())
            if index is not None:
                self.jumped.emit(index)


class SliceList(QGroupBox):
    """The curve and the table of one case. Keeps no order of its own but the scores'."""

    jumped = Signal(int)

    def __init__(self) -> None:
        super().__init__("Slices")
        self.curve = ScoreCurve()
        self.table = Table(["slice", "place", "score"], rows_shown=5, wide=1)
        layout = QVBoxLayout(self)
        layout.setSpacing(2)
        layout.addWidget(self.curve)
        layout.addWidget(self.table)
        self.curve.jumped.connect(self.jumped.emit)
        self.table.itemSelectionChanged.connect(self._choose)

    def show_slices(self, rows: Sequence[SliceLine]) -> None:
        """Show these slices, in this order in the table.

        Args:
            rows: the slices.
        """
        self.curve.show_scores(rows)
        self.table.fill(
            [(row.index, (str(row.index), row.position, _score(row)), "") for row in rows if not row.background]
        )

    def mark(self, index: int | None) -> None:
        """Mark the slice that is shown. Says nothing.

        Args:
            index: of the slice, None for none.
        """
        self.curve.mark(index)
        if self.table.chosen() != index:
            self.table.choose(index)

    def _choose(self) -> None:
        index = self.table.chosen()
        if index is not None:
            self.jumped.emit(int(index))


def _score(row: SliceLine) -> str:
    return "–" if row.score is None else f"{row.score:.3f}"
