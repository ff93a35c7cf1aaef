"""Which files an export writes."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QGridLayout, QGroupBox

from .base import Button

_FORMATS = {
    "json": "review as JSON",
    "csv": "findings as CSV",
    "nifti": "mask as NIfTI",
    "png": "pictures as PNG",
    "html": "page as HTML",
    "seg": "DICOM SEG",
    "sr": "DICOM SR",
}
_DICOM = ("seg", "sr")


class ExportBox(QGroupBox):
    """Boxes and a button."""

    exported = Signal()

    def __init__(self) -> None:
        super().__init__("Export")
        self.boxes = {name: QCheckBox(text) for name, text in _FORMATS.items()}
        self.button = Button("Export…", "Write what was reviewed into a folder")
        layout = QGridLayout(self)
        layout.setVerticalSpacing(2)
        for place, (name, box) in enumerate(self.boxes.items()):
            box.setChecked(name not in _DICOM)
            layout.addWidget(box, place // 2, place % 2)
        layout.addWidget(self.button, len(self.boxes) // 2 + 1, 0, 1, 2)
        self.button.clicked.connect(lambda: self.exported.emit())
        self.show_case("Open a case first", False)

    @property
    def formats(self) -> list[str]:
        """Return the names of what is ticked."""
        return [name for name, box in self.boxes.items() if box.isChecked() and box.isEnabled()]

    def show_case(self, reason: str | None, is_dicom: bool) -> None:
        """Show what can be exported now.

        Args:
            reason: why it cannot be done, None where it can.
            is_dicom: whether the source is DICOM and at hand.
        """
        self.button.allow(reason)
        for name in _DICOM:
            self.boxes[name].setEnabled(is_dicom)
            self.boxes[name].setToolTip("" if is_dicom else "Only for a DICOM source that is at hand")
