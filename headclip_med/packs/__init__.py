"""Domain packs: a folder with ``pack.json`` and tensors that turns a tower into a detector."""

from __future__ import annotations

from headclip_med.packs.pack import Pack, PackRecord, builtin_packs, load_pack, write_record

__all__ = ["Pack", "PackRecord", "builtin_packs", "load_pack", "write_record"]
