"""Shortcuts and the mouse in a window: which key or drag calls what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QWidget

from ..compat import main_window
from ..layers.windows import Limits, dragged
from ..shortcuts import ACTIONS, Shortcuts

_RIGHT_BUTTON = 2


class Keys:
    """Binds the keys of :class:`Shortcuts` to functions while the dock lives.

    Presses are shortcuts of the window, so that they work wherever the focus is; a text field keeps its letters. A
    held key is bound on the canvas, which alone tells when it is let go.
    """

    def __init__(
        self, viewer: Any, parent: QWidget, shortcuts: Shortcuts, handlers: Mapping[str, Callable[[bool], None]]
    ) -> None:
        self._viewer, self._parent, self._shortcuts, self._handlers = viewer, parent, shortcuts, handlers
        self._pressed: list[QShortcut] = []
        self._held: list[str] = []
        self.bind()

    def bind(self) -> None:
        """Bind all keys anew, after one was changed."""
        self.unbind()
        window = main_window(self._viewer) or self._parent
        for action in ACTIONS:
            key, handler = self._shortcuts.key(action.name), self._handlers[action.name]
            if action.held:
                self._viewer.bind_key(_napari_key(key), _held(handler), overwrite=True)
                self._held.append(key)
            else:
                shortcut = QShortcut(QKeySequence(key), window)
                shortcut.setContext(Qt.ShortcutContext.WindowShortcut)
                shortcut.activated.connect(lambda handler=handler: handler(True))
                self._pressed.append(shortcut)

    def unbind(self) -> None:
        """Let go of every key."""
        for shortcut in self._pressed:
            shortcut.setEnabled(False)
            shortcut.setParent(None)
            shortcut.deleteLater()
        for key in self._held:
            self._viewer.bind_key(_napari_key(key), None)
        self._pressed, self._held = [], []

    def close(self) -> None:
        """As :meth:`unbind`."""
        self.unbind()


def _held(handler: Callable[[bool], None]) -> Callable[[Any], Iterator[None]]:
    def press_and_release(viewer: Any) -> Iterator[None]:
        handler(True)
        yield
        handler(False)

    return press_and_release


def _napari_key(key: str) -> str:
    return key.replace("PgDown", "PageDown").replace("PgUp", "PageUp")


class WindowDrag:
    """A drag with the right mouse button sets black and white; the camera does not zoom meanwhile.

    Args:
        limits: of what is shown, None where there is nothing grey; change: told the new ones.
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
