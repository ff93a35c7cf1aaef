"""What the user chose, kept between sessions."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from .compat import plugin_settings

_PREFIX = "settings/"


class SettingsStore(MutableMapping[str, str]):
    """Strings by name, in an ini file in the user's folder; what stands in napari's Preferences is kept there.

    Names that begin with ``settings/`` are those of the manifest's configuration, where this napari has it (0.9).
    """

    def __init__(self) -> None:
        from qtpy.QtCore import QSettings

        user, ini = QSettings.Scope.UserScope, QSettings.Format.IniFormat
        self._settings = QSettings(ini, user, "headclip_med", "napari-review")
        self._preferences = plugin_settings()

    def __getitem__(self, key: str) -> str:
        name = self._preference(key)
        if name:
            return _text(getattr(self._preferences, name))
        if not self._settings.contains(key):
            raise KeyError(key)
        return str(self._settings.value(key))

    def __setitem__(self, key: str, value: str) -> None:
        name = self._preference(key)
        if name:
            old = getattr(self._preferences, name)
            setattr(self._preferences, name, value == "yes" if isinstance(old, bool) else value)
        else:
            self._settings.setValue(key, value)

    def __delitem__(self, key: str) -> None:
        if not self._settings.contains(key):
            raise KeyError(key)
        self._settings.remove(key)

    def __iter__(self) -> Iterator[str]:
        return iter(str(key) for key in self._settings.allKeys())

    def __len__(self) -> int:
        return len(self._settings.allKeys())

    def _preference(self, key: str) -> str | None:
        name = key.removeprefix(_PREFIX)
        return name if key.startswith(_PREFIX) and hasattr(self._preferences, name) else None


def _text(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
