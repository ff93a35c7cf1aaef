"""Asking an archive again: a bounded number of times, with growing pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from headclip_med.pacs.problems import PacsUnavailableError

T = TypeVar("T")


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
