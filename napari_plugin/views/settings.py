"""Who reads, how, and where results go. Remembered between sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QFileDialog, QGridLayout, QGroupBox, QLabel, QLineEdit

from .base import Button, Words

_READER, _FOLDER, _UNAIDED = "reader", "results_folder", "unaided_first"  # as in the manifest
_HOME = "~/headclip_med_results"
_NEXT = "These hold for the next review that is opened."


class Store(Protocol):
    """Texts by name. A dictionary is one."""

    def get(self, name: str, /) -> str | None:
        """Look up what was kept.

        Args:
            name: of what was chosen.

        Returns:
            The text of this name, None where there is none.
        """
        ...

    def __setitem__(self, name: str, text: str, /) -> None: ...


class SettingsBox(QGroupBox):
    """Choices that hold for the next review that is opened.

    Args:
        store: keeps what is chosen between sessions.
    """

    def __init__(self, store: Store) -> None:
        super().__init__("Settings")
        self._store = store
        self.reader_edit = QLineEdit(store.get(_READER) or "reader")
        self.reader_edit.setToolTip("Part of the review's file names; letters, digits, dots and dashes")
        self.folder_edit = QLineEdit(store.get(_FOLDER) or _HOME)
        self.folder_button = Button("…", "Choose the folder")
        self.folder_button.setFixedWidth(30)
        self.unaided_box = QCheckBox("unaided first")
        self.unaided_box.setToolTip("The map is shown when a first opinion has been given")
        self.unaided_box.setChecked(store.get(_UNAIDED) == "yes")
        layout = QGridLayout(self)
        layout.addWidget(QLabel("reader"), 0, 0)
        layout.addWidget(self.reader_edit, 0, 1, 1, 2)
        layout.addWidget(QLabel("results"), 1, 0)
        layout.addWidget(self.folder_edit, 1, 1)
        layout.addWidget(self.folder_button, 1, 2)
        layout.addWidget(self.unaided_box, 2, 0, 1, 3)
        self.words = Words(_NEXT)
        layout.addWidget(self.words, 3, 0, 1, 3)
        self.reader_edit.editingFinished.connect(lambda: self._keep_typed(_READER, self.reader_edit))
        self.folder_edit.editingFinished.connect(lambda: self._keep_typed(_FOLDER, self.folder_edit))
        self.unaided_box.toggled.connect(lambda is_first: self._keep(_UNAIDED, "yes" if is_first else "no"))
        self.folder_button.clicked.connect(self._choose)

    @property
    def reader(self) -> str:
        """Return the id of the reader."""
        return self.reader_edit.text().strip() or "reader"

    @property
    def results_folder(self) -> Path:
        """Return where results of runs are written."""
        return Path(self.folder_edit.text().strip() or _HOME).expanduser()

    @property
    def is_unaided_first(self) -> bool:
        """Tell whether a first opinion is asked for before the map."""
        return bool(self.unaided_box.isChecked())

    def show_reader(self, reader: str | None, is_unaided_first: bool = False) -> None:
        """Show whose review is open, who is then the reader of what is opened next, None: nobody's.

        Args:
            reader: whose review is open, None where none is.
            is_unaided_first: whether the review asks for an opinion before the overlay.
        """
        if reader is None:
            self.words.setText(_NEXT)
            return
        self.reader_edit.setText(reader)
        with QSignalBlocker(self.unaided_box):
            self.unaided_box.setChecked(is_unaided_first)
        self.words.setText(f"Open is the review of {reader}. {_NEXT}")

    def _keep_typed(self, name: str, line: QLineEdit) -> None:
        if line.isModified():  # not what only a session has shown here
            line.setModified(False)
            self._keep(name, line.text().strip())

    def _keep(self, name: str, value: str) -> None:
        self._store[name] = value

    def _choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Results go to", str(self.results_folder))
        if folder:
            self.folder_edit.setText(folder)
            self._keep(_FOLDER, folder)
