"""What differs between the napari versions that we support (0.7 to 0.9), in one place."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LETTER_SIZE = 14


def canvas_overlay(viewer: Any, name: str, position: str) -> Any:
    """Put a text on the canvas, or find the one of that name.

    Before 0.9 the canvas has no place at the middle of its sides: left and right stand in the lower corners there.

    Args:
        viewer: napari's.
        name: of the text.
        position: one of napari's corners and edges.

    Returns:
        The text with ``text`` and ``visible``, hidden while it is new.
    """
    overlays = viewer.canvas.overlays if hasattr(viewer, "canvas") else viewer._overlays
    if name not in overlays:
        from napari.components.overlays import TextOverlay

        if not hasattr(viewer, "canvas"):
            position = {"middle_left": "bottom_left", "middle_right": "bottom_right"}.get(position, position)
        overlays[name] = TextOverlay(position=position, font_size=_LETTER_SIZE, visible=False)
    return overlays[name]


def camera_of(viewer: Any) -> Any:
    """Find the viewer's camera, wherever this napari keeps it.

    Args:
        viewer: napari's.

    Returns:
        napari's camera.
    """
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def show_scale_bar(viewer: Any) -> None:
    """Show a scale bar in the layers' own unit, mm or pixels.

    Args:
        viewer: napari's.
    """
    bar = viewer.canvas.overlays.scale_bar if hasattr(viewer, "canvas") else viewer.scale_bar
    bar.visible = True


def plain_viewer(viewer: Any) -> Any:
    """Unwrap a viewer: to a dock that is opened by name napari hands a proxy, whose window Qt does not take.

    Args:
        viewer: napari's.

    Returns:
        The viewer itself, also where it is no proxy.
    """
    return getattr(viewer, "__wrapped__", viewer)


def lock(layer: Any) -> None:
    """Protect a layer from being deleted or merged from the layer list, where this napari can (0.9).

    Args:
        layer: of napari.
    """
    if hasattr(layer, "locked"):
        layer.locked = True


def world_steps(viewer: Any, layer: Any) -> NDArray[np.float64]:
    """Measure a layer's units in those of the viewer, which another layer may have made smaller (0.9).

    Args:
        viewer: napari's.
        layer: of napari.

    Returns:
        World units in one unit of the layer's last three axes, ``(3,)``.
    """
    wanted = getattr(viewer.dims, "units", None)
    if wanted is None:
        return np.ones(3)
    pairs = zip(layer.units[-3:], wanted[-3:], strict=True)
    return np.array([1.0 if own == unit else float((1 * own).to(unit).magnitude) for own, unit in pairs])


def main_window(viewer: Any) -> Any:
    """Find the viewer's Qt window.

    Args:
        viewer: napari's.

    Returns:
        The window, None for a viewer without one.
    """
    window = getattr(viewer, "window", None)
    return getattr(window, "_qt_window", None)


class SettingsStore:
    """What the user chose, kept between sessions: in napari's Preferences, before 0.9 in an ini file of the user's."""

    def __init__(self) -> None:
        from qtpy.QtCore import QSettings

        user, ini = QSettings.Scope.UserScope, QSettings.Format.IniFormat
        self._settings = QSettings(ini, user, "headclip_med", "napari-review")
        self._settings.beginGroup("settings")
        self._preferences = _preferences()

    def get(self, name: str, /) -> str | None:
        """Look up what was chosen.

        Args:
            name: of a property in the manifest's configuration.

        Returns:
            ``yes`` or ``no`` for a choice between two, else the text, None where there is neither a choice nor a
            default.
        """
        if hasattr(self._preferences, name):
            value = getattr(self._preferences, name)
            return ("yes" if value else "no") if isinstance(value, bool) else str(value)
        return str(self._settings.value(name)) if self._settings.contains(name) else None

    def __setitem__(self, name: str, text: str, /) -> None:
        if hasattr(self._preferences, name):
            is_choice = isinstance(getattr(self._preferences, name), bool)
            setattr(self._preferences, name, text == "yes" if is_choice else text)
        else:
            self._settings.setValue(name, text)


def _preferences() -> Any:
    """Return our page in napari's Preferences, or None where this napari has none, or has not found our manifest."""
    try:
        from napari.settings import get_plugin_settings

        return get_plugin_settings("headclip-med").review
    except (ImportError, KeyError, AttributeError):
        return None


def front_viewer() -> Any:
    """Find the viewer in front.

    Returns:
        napari's viewer, a new one where there is none.
    """
    import napari

    return napari.current_viewer() or napari.Viewer()


def binding_problem() -> str:
    """Tell why the Qt binding that is in use will end Python sooner or later.

    PySide6 6.12.0 gives away a reference to True with every signal. Before Python 3.12 these are counted.

    Returns:
        The problem and what to do about it, empty for a sound binding.
    """
    pyside = sys.modules.get("PySide6")
    if sys.version_info >= (3, 12) or getattr(pyside, "__version__", "") != "6.12.0":
        return ""
    return "PySide6 6.12.0 crashes sooner or later under this Python. Run: pip install 'PySide6!=6.12.0'"
