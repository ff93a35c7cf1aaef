"""What a compressed frame itself claims to be, by its first bytes: a lie is refused before a decoder believes it."""

from __future__ import annotations

import struct
from typing import NamedTuple

_SIZ = b"\xff\x4f\xff\x51"
_SOF = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_HEADER_BYTES = 1 << 16


class Claim(NamedTuple):
    """Size of a frame by its codestream, and bits of a sample."""

    rows: int
    columns: int
    samples: int
    bits: int


def claimed_size(frame: bytes) -> Claim | None:
    """What a JPEG, JPEG-LS, JPEG 2000 or HTJ2K frame claims; None where it does not say."""
    head = bytes(frame[:_HEADER_BYTES])
    start = head.find(_SIZ)
    try:
        if 0 <= start < 1024:
            return _jpeg2000(head, start)
        return _jpeg(head) if head.startswith(b"\xff\xd8") else None
    except struct.error:
        return None


def _jpeg2000(head: bytes, start: int) -> Claim:
    """The SIZ segment: extent of the reference grid less its offset."""
    width, height, left, top = struct.unpack_from(">4I", head, start + 8)
    samples, depth = struct.unpack_from(">HB", head, start + 40)
    return Claim(max(0, height - top), max(0, width - left), samples, (depth & 0x7F) + 1)


def _jpeg(head: bytes) -> Claim | None:
    """The first start-of-frame segment."""
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker in _SOF:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", head, at + 4)
            return Claim(rows, columns, samples, bits)
        at += 2 if marker in _ALONE else 1 if marker == 0xFF else 2 + struct.unpack_from(">H", head, at + 2)[0]
    return None
