"""How far compressed bytes may grow: caps that hold before anything is decoded."""

from __future__ import annotations

import zlib
from pathlib import Path

from headclip_med.base.errors import InputError

# Whatever grows beyond this is no scan that this package could hold.
MAX_INFLATED_BYTES = 2**32

# Below this much nobody is harmed; above, images do not shrink to less than a two-hundredth.
_HARMLESS_BYTES = 2**26
_MAX_RATIO = 200

_CHUNK = 1 << 20


def check_growth(inflated: int, packed: int, name: str) -> None:
    """Refuse ``packed`` bytes that become ``inflated`` ones beyond 4 GiB, or 200-fold beyond 64 MiB."""
    if inflated <= MAX_INFLATED_BYTES and (inflated <= _HARMLESS_BYTES or inflated <= _MAX_RATIO * packed):
        return
    raise InputError(
        f"{name} must inflate to at most {MAX_INFLATED_BYTES / 2**30:g} GiB, and to 200 times its size",
        "a decompression bomb",
        "Export the image again, without this compression",
    )


def check_inflated_file(path: Path, start: int, length: int | None = None, *, raw: bool = True) -> None:
    """Inflate ``length`` bytes (None: all) from byte ``start`` on in bounded memory, and refuse what grows too far.

    Args:
        raw: a bare deflate stream; False: with the head and checksum of zlib.
    """
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS if raw else zlib.MAX_WBITS)
    total, size = 0, path.stat().st_size
    left = size if length is None else length
    with path.open("rb") as file:
        file.seek(start)
        pending = file.read(min(_CHUNK, left))
        while pending and not inflater.eof:
            total += len(inflater.decompress(pending, 1 << 24))
            check_growth(total, size, path.name)
            left -= len(pending) - len(inflater.unconsumed_tail)
            pending = inflater.unconsumed_tail or file.read(min(_CHUNK, left))
