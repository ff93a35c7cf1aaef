"""Keys: what they do, what the user changed, and which belong to napari. Knows no Qt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from headclip_med.base.errors import InputError


@dataclass(frozen=True)
class Action:
    """Something a key does; ``held``: as long as the key is down."""

    name: str
    title: str
    key: str
    held: bool = False


ACTIONS: tuple[Action, ...] = (
    Action("next_suspicious", "Next most suspicious slice", "N"),
    Action("previous_suspicious", "More suspicious slice before", "Shift+N"),
    Action("next_finding", "Next finding", "J"),
    Action("previous_finding", "Finding before", "K"),
    Action("accept", "Accept finding", "8"),
    Action("reject", "Reject finding", "9"),
    Action("uncertain", "Uncertain about finding", "0"),
    Action("peek", "Bare slice (hold)", "H", held=True),
    Action("lower_threshold", "Lower the threshold", ","),
    Action("raise_threshold", "Raise the threshold", "."),
    Action("draw", "Draw a missed finding", "W"),
    Action("keep_drawing", "Keep the drawing", "Shift+W"),
    Action("undo", "Undo", "U"),
    Action("redo", "Redo", "Shift+U"),
    Action("next_case", "Next case", "PgDown"),
    Action("previous_case", "Case before", "PgUp"),
    Action("done", "Case is read / not read", "Q"),
)

_PREFIX = "shortcuts/"


class Shortcuts:
    """The keys in use.

    Args:
        store: what the user changed, by ``shortcuts/NAME``; written at once. taken: keys that belong to napari.
    """

    def __init__(self, store: MutableMapping[str, str], taken: Mapping[str, str] | None = None) -> None:
        self._store, self._taken = store, dict(taken or {})
        self._actions = {action.name: action for action in ACTIONS}

    def key(self, name: str) -> str:
        """The key of an action."""
        return self._store.get(_PREFIX + name) or self._actions[name].key

    def keys(self) -> dict[str, str]:
        """All keys by action."""
        return {name: self.key(name) for name in self._actions}

    def change(self, name: str, key: str) -> None:
        """Give an action another key.

        Raises:
            InputError: no key, or one that napari or another action has.
        """
        if not key:
            raise InputError("A shortcut must be a key", "none", "Press a key, or reset all shortcuts")
        owner = self._owner(name, key)
        if owner:
            raise InputError(f"A shortcut must be free, and {key} is taken", owner, "Choose another key")
        self._store[_PREFIX + name] = key

    def reset(self) -> None:
        """Back to the keys that we ship."""
        for name in self._actions:
            self._store.pop(_PREFIX + name, None)

    def _owner(self, name: str, key: str) -> str | None:
        wanted = normal(key)
        for other, its in self.keys().items():
            if other != name and normal(its) == wanted:
                return self._actions[other].title
        return next((f"napari: {what}" for its, what in self._taken.items() if normal(its) == wanted), None)


def normal(key: str) -> str:
    """A key with its modifiers in one order, so that ``Shift+Ctrl+A`` and ``ctrl-shift-a`` are the same."""
    parts = [part.strip().lower() for part in key.replace("++", "+plus").split("+")]
    *modifiers, last = parts
    last = {"pagedown": "pgdown", "pageup": "pgup"}.get(last, last)
    return "+".join([*sorted(modifiers), last])


def napari_keys() -> dict[str, str]:
    """Keys of napari's own actions as this user has them, and what they do; and those that its layers bind."""
    from napari.layers import Image, Labels
    from napari.settings import get_settings

    found = {str(key): name for name, keys in get_settings().shortcuts.shortcuts.items() for key in keys}
    for kind in (Image, Labels):
        found |= {str(key): kind.__name__ for key in _class_keys(kind)}
    return found


def _class_keys(kind: Any) -> Iterable[Any]:
    return tuple(getattr(kind, "class_keymap", ()))
