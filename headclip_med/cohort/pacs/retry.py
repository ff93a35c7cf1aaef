"""Asking an archive again: a bounded number of times, with growing pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from headclip_med.cohort.pacs.archive import PacsUnavailableError

_WORDS = {
    0x0105: "no such attribute",
    0x0106: "an attribute has a value that is not allowed",
    0x0110: "processing failed",
    0x0111: "it holds an instance of this UID already",
    0x0112: "no such instance",
    0x0117: "the UID is not valid",
    0x0118: "no such SOP class",
    0x0122: "this kind of object is not supported",
    0x0124: "not authorised",
    0x0210: "the request was sent twice",
    0x0211: "unknown operation",
    0x0212: "the request was malformed",
    0x0213: "resources are short",
    0xA700: "it is out of resources",
    0xA701: "it could not count the matches: out of resources",
    0xA702: "it could not send the images: out of resources",
    0xA801: "it does not know the destination",
    0xA900: "the object does not match its kind",
    0xB000: "done, but some parts failed or were changed",
    0xB006: "stored, but some elements were dropped",
    0xB007: "stored, but it does not match its kind",
    0xFE00: "cancelled",
}
_RANGES = (
    (0xA700, 0xA7FF, "it is out of resources"),
    (0xA900, 0xA9FF, "the object does not match its kind"),
    (0xC000, 0xCFFF, "it cannot be understood or processed"),
)


T = TypeVar("T")


def status_words(code: int) -> str:
    """A status with its number, such as ``it is out of resources (0xA700)``."""
    words = _WORDS.get(code) or next((text for low, high, text in _RANGES if low <= code <= high), "an unknown status")
    return f"{words} (0x{code:04X})"


def is_busy(code: int) -> bool:
    """Whether the same request may succeed later."""
    return 0xA700 <= code <= 0xA7FF or code == 0x0213


def failure_reason(code: object) -> str:
    """STOW's reason for an instance that was not stored (PS3.18 §10.5.3)."""
    return status_words(code) if isinstance(code, int) else "the archive gave no reason"


@dataclass(frozen=True)
class Retry:
    """How often and how patiently.

    Attributes:
        attempts: in all, at least 1; first_s: pause after the first failure, doubled after each more, up to longest_s.
        sleep: replaced in tests.
    """

    attempts: int = 5
    first_s: float = 1.0
    longest_s: float = 15.0
    sleep: Callable[[float], None] = time.sleep

    def pause(self, failures: int) -> float:
        """Seconds to wait after that many failures in a row, from 1."""
        return min(self.first_s * 2.0 ** (failures - 1), self.longest_s)

    def call(self, action: Callable[[], T], has_moved: Callable[[], bool] = lambda: False) -> T:
        """Call ``action`` until it returns; only :class:`PacsUnavailableError` is worth another attempt.

        Args:
            has_moved: whether the failed attempt got something done; the count then starts again.
        """
        failures = 0
        while True:
            try:
                return action()
            except PacsUnavailableError:
                failures = 1 if has_moved() else failures + 1
                if failures >= self.attempts:
                    raise
                self.sleep(self.pause(failures))
