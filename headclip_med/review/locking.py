"""One reader, one window: a lock that the system takes back when a process ends, however it ends."""

from __future__ import annotations

import errno
import sys
from typing import IO

from headclip_med.errors import InputError

_BEYOND = 1 << 40  # Windows locks bytes: one that no journal will ever have


def lock_file(stream: IO[bytes], what: str) -> None:
    """Lock an open file until it is closed; file systems without locks are let through.

    Raises:
        InputError: somebody else holds it.
    """
    try:
        _lock(stream)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return
        raise InputError(
            "A review must be open in one window only",
            f"{what}, which is open elsewhere",
            "Close the other window, or choose another reader with --reader",
        ) from error


if sys.platform == "win32":
    import msvcrt

    def _lock(stream: IO[bytes]) -> None:
        place = stream.tell()
        stream.seek(_BEYOND)
        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        finally:
            stream.seek(place)

else:
    import fcntl

    def _lock(stream: IO[bytes]) -> None:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
