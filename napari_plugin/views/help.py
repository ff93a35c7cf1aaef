"""The help panel: every shortcut, and a way to change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtCore import Signal
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QGroupBox, QHBoxLayout, QKeySequenceEdit, QVBoxLayout

from ..shortcuts import Action
from .base import Button, Table, Words

_HELP = (
    "Left and Right step through the slices, as always in napari. Drag over the picture with the right mouse button: "
    "sideways for the window's width, up and down for its level. Choose a line, press the new keys, then Change."
)


class ShortcutBox(QGroupBox):
    """A table of actions and keys, and a field to press a new one in."""

    changed = Signal(str, str)
    reset = Signal()

    def __init__(self, actions: Sequence[Action]) -> None:
        super().__init__("Shortcuts")
        self._actions = tuple(actions)
        self.table = Table(["what", "key"], rows_shown=len(actions), wide=0)
        self.edit = QKeySequenceEdit()
        self.change_button = Button("Change", "Give the chosen action the keys in the field")
        self.reset_button = Button("Reset all", "Back to the keys that came with the plugin")
        row = QHBoxLayout()
        for widget in (self.edit, self.change_button, self.reset_button):
            row.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.addWidget(Words(_HELP))
        layout.addWidget(self.table)
        layout.addLayout(row)
        self.change_button.clicked.connect(self._change)
        self.reset_button.clicked.connect(lambda: self.reset.emit())

    def show_keys(self, keys: Mapping[str, str]) -> None:
        """Show the keys in use, by the action's name."""
        self.table.fill([(action.name, (action.title, keys[action.name]), "") for action in self._actions])

    def _change(self) -> None:
        name = self.table.chosen()
        if name is not None:
            keys = self.edit.keySequence().toString(QKeySequence.SequenceFormat.PortableText)
            self.changed.emit(name, keys.split(", ")[0])
            self.edit.clear()
