"""The keys and the mouse of the dock: which key or drag calls what. The keys are fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QAbstractSpinBox, QApplication, QComboBox, QLineEdit, QPlainTextEdit, QTextEdit, QWidget

from ..compat import main_window
from ..layers.windows import Limits, dragged

_RIGHT_BUTTON = 2


@dataclass(frozen=True)
class Key:
    """A key of the dock.

    Attributes:
        text: the key as Qt writes it, such as ``Shift+N``. One that neither napari nor an operating system takes.
        action: what it does, by the name of a handler.
        title: what it does, in the reader's words.
    """

    text: str
    action: str
    title: str


KEYS: tuple[Key, ...] = (
    Key("N", "next_suspicious", "Next most suspicious slice"),
    Key("Shift+N", "previous_suspicious", "More suspicious slice before"),
    Key("J", "next_finding", "Next finding"),
    Key("K", "previous_finding", "Finding before"),
    Key("8", "accept", "Accept finding"),
    Key("9", "reject", "Reject finding"),
    Key("0", "uncertain", "Uncertain about finding"),
    Key(",", "lower_threshold", "Lower the threshold"),
    Key(".", "raise_threshold", "Raise the threshold"),
    Key("W", "draw", "Draw a missed finding"),
    Key("Shift+W", "keep_drawing", "Keep the drawing"),
    Key("U", "undo", "Undo"),
    Key("Shift+U", "redo", "Redo"),
    Key("PgDown", "next_case", "Next case"),
    Key("PgUp", "previous_case", "Case before"),
    Key("Q", "done", "Case is read / not read"),
)
PEEK_KEY = Key("H", "peek", "Bare slice (hold)")


class Keys:
    """Binds :data:`KEYS` and :data:`PEEK_KEY` while the dock lives.

    Presses are shortcuts of the window, so that they work wherever the focus is but in a field for text. The held key
    is bound on the canvas, which alone tells when it is let go.

    Args:
        viewer: napari's.
        parent: has the shortcuts where the viewer has no window.
        handlers: what each of :data:`KEYS` calls, by its action.
        peek: told True while :data:`PEEK_KEY` is held, and False when it is let go.
    """

    def __init__(
        self,
        viewer: Any,
        parent: QWidget,
        handlers: Mapping[str, Callable[[], object]],
        peek: Callable[[bool], None],
    ) -> None:
        self._viewer, self._pressed = viewer, list[QShortcut]()
        window = main_window(viewer) or parent
        for key in KEYS:
            shortcut = QShortcut(QKeySequence(key.text), window)
            shortcut.setContext(Qt.ShortcutContext.WindowShortcut)
            shortcut.activated.connect(lambda handler=handlers[key.action]: None if is_typing() else handler())
            self._pressed.append(shortcut)
        viewer.bind_key(PEEK_KEY.text, _held(peek), overwrite=True)

    def close(self) -> None:
        """Let go of every key."""
        for shortcut in self._pressed:
            shortcut.setEnabled(False)
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._pressed = []
        self._viewer.bind_key(PEEK_KEY.text, None)


def is_typing() -> bool:
    """Tell whether the focus is in a field for text: most keep their letters, but not keys such as Page down.

    Returns:
        True in a line or page of text, a spin box, or a list whose text can be changed.
    """
    focused = QApplication.focusWidget()
    if isinstance(focused, QComboBox):
        return bool(focused.isEditable())
    return isinstance(focused, QLineEdit | QAbstractSpinBox | QTextEdit | QPlainTextEdit)


def _held(peek: Callable[[bool], None]) -> Callable[[Any], Iterator[None]]:
    def press_and_release(viewer: Any) -> Iterator[None]:
        peek(True)
        yield
        peek(False)

    return press_and_release


class WindowDrag:
    """A drag with the right mouse button that sets black and white. The camera does not zoom meanwhile.

    Args:
        viewer: napari's.
        limits: gives black and white of what is shown, None where nothing grey is.
        change: told the new ones.
    """

    def __init__(self, viewer: Any, limits: Callable[[], Limits | None], change: Callable[[Limits], None]) -> None:
        self._viewer, self._limits, self._change = viewer, limits, change
        viewer.mouse_drag_callbacks.append(self._drag)

    def close(self) -> None:
        """Let go of the viewer."""
        if self._drag in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._drag)

    def _drag(self, viewer: Any, event: Any) -> Iterator[None]:
        limits = self._limits()
        if event.button != _RIGHT_BUTTON or limits is None or viewer.dims.ndisplay != 2:
            return
        event.handled = True
        begin, full = event.pos, max(limits[1] - limits[0], 1e-6)
        yield
        while event.type == "mouse_move":
            event.handled = True
            right, down = ((event.pos[axis] - begin[axis]) / 400 for axis in (0, 1))
            self._change(dragged(limits, 2 * right, 2 * down, full))
            yield
