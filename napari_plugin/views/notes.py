"""What is there to be read: what just happened, where the numbers came from, what they are not for, the keys."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFrame, QGroupBox, QHBoxLayout, QHeaderView, QVBoxLayout, QWidget

from headclip_med.base.types import RESEARCH_ONLY

from .base import Button, Table, Words

_PLAIN, _WRONG, _WARNING = "#c8ccd4", "#ff8a7a", "#ffb454"
_KEPT = 20
NOTHING_OPEN = "Open results to review, or run a model on a volume."
_KEYS_HELP = (
    "Left and Right step through the slices, as always in napari. Drag over the picture with the right mouse button: "
    "sideways for the window's width, up and down for its level. No key acts while you type into a field."
)
_LONGEST = 160  # letters of a warning: four lines of the dock


class StatusLine(Words):
    """The last thing that happened, in words. Earlier ones in the tooltip."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self.say(NOTHING_OPEN)

    def say(self, text: str, is_wrong: bool = False) -> None:
        """Show a message. ``is_wrong``: something could not be done.

        Args:
            text: the message.
            is_wrong: whether something could not be done.
        """
        self._lines = [*self._lines, text][-_KEPT:]
        self.setText(text)
        self.setStyleSheet(f"color: {_WRONG if is_wrong else _PLAIN};")
        self.setToolTip("\n".join(reversed(self._lines)))


class WarningLine(Words):
    """What the result warns of, above everything else: its first line, all of it in the tooltip."""

    def __init__(self) -> None:
        super().__init__()
        self.setStyleSheet(f"color: #1c1c1c; background: {_WARNING}; padding: 4px; font-weight: bold;")
        self.show_warnings(())

    def show_warnings(self, warnings: Sequence[str]) -> None:
        """Show these, or nothing.

        Args:
            warnings: of the result, the first one shown.
        """
        more = f" (and {len(warnings) - 1} more)" if len(warnings) > 1 else ""
        first = next(iter(warnings[0].strip().splitlines()), "") if warnings else ""
        self.setText(f"⚠ {textwrap.shorten(first, _LONGEST, placeholder=' …')}{more}" if warnings else "")
        self.setToolTip("\n".join(f"⚠ {warning}" for warning in warnings))
        self.setVisible(bool(warnings))


class Footer(QWidget):
    """Undo and redo, the status line, which case is on the screen and what made it, and the warning that stays."""

    undone = Signal()
    redone = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.undo_button = Button("↶ Undo", "Take the last action back")
        self.redo_button = Button("↷ Redo", "Do again what was taken back")
        self.status = StatusLine()
        self.provenance = Words()
        self.warning = Words(RESEARCH_ONLY, _WARNING)
        line = QFrame()
        line.setFrameShape(QFrame.Shape.HLine)
        buttons = QHBoxLayout()
        buttons.addWidget(self.undo_button)
        buttons.addWidget(self.redo_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 0, 6, 4)
        layout.setSpacing(3)
        layout.addLayout(buttons)
        for widget in (line, self.status, self.provenance, self.warning):
            layout.addWidget(widget)
        self.undo_button.clicked.connect(lambda: self.undone.emit())
        self.redo_button.clicked.connect(lambda: self.redone.emit())
        self.show_history(False, False)
        self.show_provenance(())

    def show_history(self, can_undo: bool, can_redo: bool) -> None:
        """Tell whether there is something to undo or redo.

        Args:
            can_undo: whether something can be taken back.
            can_redo: whether something was taken back.
        """
        self.undo_button.allow(None if can_undo else "Nothing to undo in this case")
        self.redo_button.allow(None if can_redo else "Nothing to redo in this case")

    def show_provenance(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Show the case, the model, the weights and the source in a line each. Everything in the tooltip.

        Args:
            pairs: name and value of each fact.
        """
        facts = dict(pairs)
        short = (("case ", "case"), ("", "model"), ("weights ", "weights"), ("source ", "content"))
        self.provenance.setText("\n".join(word + facts[key] for word, key in short if facts.get(key)))
        self.provenance.setToolTip("\n".join(f"{name}: {value}" for name, value in pairs))


class ProvenanceBox(QGroupBox):
    """All that is recorded about how the numbers were made."""

    def __init__(self) -> None:
        super().__init__("Where the numbers come from")
        self.words = Words()
        QVBoxLayout(self).addWidget(self.words)
        self.show_provenance(())

    def show_provenance(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Show one line a fact.

        Args:
            pairs: name and value of each fact.
        """
        self.words.setText("\n".join(f"{name}: {value}" for name, value in pairs) or "No case is open.")


class KeyBox(QGroupBox):
    """All keys of the dock, to be looked up.

    Args:
        keys: what each does, and the key.
    """

    def __init__(self, keys: Sequence[tuple[str, str]]) -> None:
        super().__init__("Keys")
        self.table = Table(["what", "key"], rows_shown=len(keys), wide=0)
        self.table.horizontalHeader().setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.table.fill([(key, (title, key), "") for title, key in keys])
        layout = QVBoxLayout(self)
        layout.addWidget(Words(_KEYS_HELP))
        layout.addWidget(self.table)
