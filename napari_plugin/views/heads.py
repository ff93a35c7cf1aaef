"""Which attention heads raise the score of the slice on the screen: a picture, made on request."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QGroupBox, QLabel, QVBoxLayout

from .base import Button, Words


class HeadsBox(QGroupBox):
    """A button, words, and the picture."""

    asked = Signal()

    def __init__(self) -> None:
        super().__init__("Attention heads")
        self.button = Button("Which heads raise the score here?", "Runs the model on the slice on the screen")
        self.words = Words()
        self.picture = QLabel()
        self.picture.hide()
        layout = QVBoxLayout(self)
        for widget in (self.button, self.words, self.picture):
            layout.addWidget(widget)
        self.button.clicked.connect(lambda: self.asked.emit())

    def show_working(self, is_working: bool) -> None:
        """Show whether the model runs.

        Args:
            is_working: whether the model is running.
        """
        self.button.allow("The model is running" if is_working else None)
        if is_working:
            self.words.setText("The model looks at this slice…")

    def forget(self) -> None:
        """Forget words and picture, which go with their case."""
        self.words.setText("")
        self.picture.clear()
        self.picture.hide()

    def show_words(self, words: str) -> None:
        """Show why there is no picture, or what it shows.

        Args:
            words: to be shown.
        """
        self.words.setText(words)

    def show_picture(self, picture: Any) -> None:
        """Show a picture, scaled to the dock.

        Args:
            picture: of Pillow.
        """
        rgb = picture.convert("RGB")
        image = QImage(rgb.tobytes(), rgb.width, rgb.height, 3 * rgb.width, QImage.Format.Format_RGB888)
        full = QPixmap.fromImage(image)
        width = max(200, self.width() - 24)
        self.picture.show()
        self.picture.setPixmap(full.scaledToWidth(width, Qt.TransformationMode.SmoothTransformation))
