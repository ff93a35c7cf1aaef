"""One reader, one window: a lock that the system takes back when a process ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys

from headclip_med.base.errors import InputError

_BEYOND = 1 << 30  # Windows locks bytes: one that no journal will ever have


def lock_file(descriptor: int, what: str) -> None:
    """Lock an open file until it is closed; file systems without locks are let through.

    Raises:
        InputError: somebody else holds it.
    """
    try:
        _lock(descriptor)
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

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _BEYOND, os.SEEK_SET)  # appending does not care
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
