"""The reader's opinion of the whole case, before the overlay where that is asked for, and with it."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QButtonGroup, QGroupBox, QHBoxLayout, QLabel, QRadioButton, QSlider, QVBoxLayout

from headclip_med.review.model import RATINGS

from .base import Button, Words, calm_wheel

_UNAIDED = "Look at the bare volume and say what you think. The map is shown when you have committed; both are kept."
_AIDED = "With the map."


class OpinionBox(QGroupBox):
    """Normal, abnormal or uncertain, and how sure. Says so when it is committed."""

    committed = Signal(str, int)

    def __init__(self) -> None:
        super().__init__("Opinion")
        self.words = Words(_AIDED)
        self.ratings = {rating: QRadioButton(rating) for rating in RATINGS}
        group = QButtonGroup(self)
        choices = QHBoxLayout()
        for button in self.ratings.values():
            group.addButton(button)
            choices.addWidget(button)
            button.toggled.connect(self._allow)
        self.confidence = QSlider(Qt.Orientation.Horizontal)
        self.confidence.setRange(0, 100)
        self.confidence.setValue(50)
        calm_wheel(self.confidence)
        self._number = QLabel("50 %")
        self._number.setFixedWidth(40)
        self.confidence.valueChanged.connect(lambda value: self._number.setText(f"{value} %"))
        sure = QHBoxLayout()
        sure.addWidget(QLabel("sure"))
        sure.addWidget(self.confidence)
        sure.addWidget(self._number)
        self.commit_button = Button("Commit opinion")
        layout = QVBoxLayout(self)
        layout.setSpacing(3)
        layout.addWidget(self.words)
        layout.addLayout(choices)
        layout.addLayout(sure)
        layout.addWidget(self.commit_button)
        self.commit_button.clicked.connect(self._commit)
        self._last: tuple[object, ...] = ()
        self._allow()

    @property
    def rating(self) -> str | None:
        """Return what is chosen."""
        return next((rating for rating, button in self.ratings.items() if button.isChecked()), None)

    def forget(self) -> None:
        """Forget what was chosen and not committed: it was not meant for another case."""
        self._last = ()

    def show_opinion(self, is_unaided: bool, rating: str | None, confidence: int | None, first: str = "") -> None:
        """Show which opinion is asked for and what was said. ``first``: the opinion before the overlay, in words.

        What is chosen and not committed yet stays while nothing of that changes.

        Args:
            is_unaided: whether it is asked for before the overlay.
            rating: normal, abnormal or uncertain, None where nothing was said.
            confidence: in percent, None where nothing was said.
            first: the opinion before the overlay, in words.
        """
        if self._last == (is_unaided, rating, confidence, first):
            return
        self._last = is_unaided, rating, confidence, first
        self.setTitle("First opinion, without the map" if is_unaided else "Opinion")
        self.words.setText(_UNAIDED if is_unaided else " ".join(filter(None, (_AIDED, first))))
        self.commit_button.setText("Commit and show the map" if is_unaided else "Commit opinion")
        group = next(iter(self.ratings.values())).group()
        group.setExclusive(False)
        for name, button in self.ratings.items():
            with QSignalBlocker(button):
                button.setChecked(name == rating)
        group.setExclusive(True)
        self.confidence.setValue(50 if confidence is None else confidence)
        self._allow()

    def _allow(self) -> None:
        self.commit_button.allow(None if self.rating else "Choose normal, abnormal or uncertain first")

    def _commit(self) -> None:
        if self.rating:
            self.committed.emit(self.rating, self.confidence.value())
