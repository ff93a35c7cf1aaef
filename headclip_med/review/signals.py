"""Who wants to know what changed: plain callbacks, no Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

What = Literal["cases", "case", "threshold", "findings", "drawn", "opinion", "overlay", "done", "note", "message"]


@dataclass(frozen=True)
class Change:
    """What changed.

    Attributes:
        what: the part that changed.
        message: in words for the status line.
    """

    what: What
    message: str = ""


Listener = Callable[[Change], None]


class Signal:
    """Calls everyone who connected, in that order, in the thread that emits."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def connect(self, listener: Listener) -> None:
        """Call ``listener(change)`` from now on.

        Args:
            listener: called with every change.
        """
        self._listeners.append(listener)

    def disconnect(self, listener: Listener) -> None:
        """Call it no more. Unknown listeners are ignored.

        Args:
            listener: called with every change.
        """
        if listener in self._listeners:
            self._listeners.remove(listener)

    def emit(self, change: Change) -> None:
        """Tell everyone.

        Args:
            change: what has changed.
        """
        for listener in tuple(self._listeners):
            listener(change)
