"""Domain packs: a folder with ``pack.json`` and tensors that turns a tower into a detector."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headclip_med.packs.pack import Pack, PackRecord, builtin_packs, load_pack, write_record

__all__ = ["Pack", "PackRecord", "builtin_packs", "load_pack", "write_record"]


def __getattr__(name: str) -> Any:
    """The names of :mod:`headclip_med.packs.pack`, on first use: it needs torch, and domains and records do not."""
    if name in __all__:
        return getattr(import_module("headclip_med.packs.pack"), name)
    raise AttributeError(f"module 'headclip_med.packs' has no attribute {name!r}")
