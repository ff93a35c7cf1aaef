"""A viewer with the review dock, from Python or the shell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headclip_med.base.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from headclip_med.review import Session

_DOCK = "headclip_med review"

_OPENS_QT = "from qtpy.QtWidgets import QApplication; QApplication([])"


def open_review(
    session: Session | None = None, sources: Sequence[str | Path] = (), show: bool = True, viewer: Any = None
) -> Any:
    """Open the review dock, in a new viewer unless one is given, and begin with the session's first case.

    Args:
        session: what to review, None opens an empty dock.
        sources: further places where source images may be.
        show: run napari until its window is closed, False returns at once.
        viewer: napari's, None for a new one.

    Returns:
        The viewer. Its dock is ``viewer.window.dock_widgets["headclip_med review"]`` or :func:`dock_of`.

    Raises:
        MissingExtraError: napari or a Qt binding is not installed.
        InputError: no window can be opened here.
    """
    try:
        import napari
        import qtpy  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "napari and a Qt binding must be installed to review in a window",
            f"no {error.name or 'Qt binding'}",
            'Run pip install "headclip-med[review]"',
        ) from error
    if viewer is None:
        check_display()
    from .widget import ReviewWidget

    viewer = napari.Viewer(title="headclip_med review", show=show) if viewer is None else viewer
    dock = ReviewWidget(viewer)
    viewer.window.add_dock_widget(dock, name=_DOCK, area="right")
    if session is not None:
        session.sources = (*session.sources, *(Path(source).expanduser() for source in sources))
        dock.review_session(session)
    if show:
        napari.run()
        dock.close_all(is_window_gone=True)
    return viewer


def check_display() -> None:
    """Make sure that a window can be opened, in a process of its own: where it cannot, Qt ends the process.

    Raises:
        InputError: no display, or no way for Qt to use it.
    """
    from qtpy.QtWidgets import QApplication

    if QApplication.instance() is not None:
        return
    tried = subprocess.run([sys.executable, "-c", _OPENS_QT], capture_output=True, text=True, errors="replace")
    if tried.returncode != 0:
        raise InputError("A window must be able to open to review in napari", *_why(tried.stderr, tried.returncode))


def _why(said: str, returncode: int) -> tuple[str, str]:
    """What is missing by Qt's own words, and what to do about it."""
    other_ways = "headclip-med review --list and review-tables need no window"
    if "could not connect to display" in said:
        display = os.environ.get("DISPLAY")
        given = f"no screen at DISPLAY={display}" if display else "no screen: DISPLAY is not set"
        return given, f"Work at a screen, connect with ssh -X, or run it under xvfb-run -a; {other_ways}"
    lines = [line.partition(": ")[2] if line.startswith("qt.") else line for line in said.splitlines() if line.strip()]
    libraries = "Install what Qt asks for (on Debian and Ubuntu: apt-get install libxcb-cursor0 libegl1 libgl1)"
    platform = os.environ.get("QT_QPA_PLATFORM")
    advice = f"Unset QT_QPA_PLATFORM, which is {platform}" if platform else libraries
    return (lines or [f"Qt ended with {returncode}"])[0].rstrip("."), f"{advice}; {other_ways}"


def dock_of(viewer: Any) -> Any:
    """Find the review dock of a viewer, and open one where there is none.

    Args:
        viewer: napari's.

    Returns:
        The :class:`.widget.ReviewWidget`.
    """
    for name, dock in viewer.window.dock_widgets.items():
        if name.startswith(_DOCK):
            return dock
    open_review(show=False, viewer=viewer)
    return dock_of(viewer)
