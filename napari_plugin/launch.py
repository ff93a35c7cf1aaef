"""A viewer with the review dock, from Python or the shell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headclip_med.errors import MissingExtraError

if TYPE_CHECKING:
    from headclip_med.review import Session

_DOCK = "headclip_med review"


def open_review(
    session: Session | None = None, sources: Sequence[str | Path] = (), show: bool = True, viewer: Any = None
) -> Any:
    """Open the review dock, in a new viewer unless one is given, and begin with the session's first case.

    Args:
        session: what to review; None opens an empty dock. sources: further places where source images may be.
        show: run napari until its window is closed; False returns at once.

    Returns:
        The viewer; its dock is ``viewer.window.dock_widgets["headclip_med review"]`` or :func:`dock_of`.

    Raises:
        MissingExtraError: napari or a Qt binding is not installed.
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


def dock_of(viewer: Any) -> Any:
    """The review dock of a viewer, opened where there is none."""
    for name, dock in viewer.window.dock_widgets.items():
        if name.startswith(_DOCK):
            return dock
    open_review(show=False, viewer=viewer)
    return dock_of(viewer)
