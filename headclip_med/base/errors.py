"""Errors that a user can act on: what must be, what was given, what to do."""

from __future__ import annotations

import os
import re

# Control characters, ends of lines and paragraphs, what turns the direction of a line, and what stands for bytes that
# are no UTF-8 in a file name.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def readable(name: str) -> str:
    """Write a name as any file, screen and file system takes it.

    Args:
        name: with any characters, such as those that stand for bytes that are no UTF-8.

    Returns:
        The name with ``%E9`` for each byte that cannot be shown.
    """
    return _UNPRINTABLE.sub(_as_bytes, name)


def _lines(text: str) -> str:
    """Words that may hold names, and a list whose items begin a line, indented."""
    return "\n  ".join(map(readable, text.split("\n  ")))


def _as_bytes(match: re.Match[str]) -> str:
    try:
        content = os.fsencode(match[0])
    except UnicodeEncodeError:  # no part of a file name
        content = match[0].encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in content)


class HeadclipError(Exception):
    """Base of every error that headclip_med raises on purpose.

    Args:
        must: what must be true, as a sentence without a full stop.
        given: what was given instead.
        do: what the user can do about it, as a sentence without a full stop.
    """

    def __init__(self, must: str, given: object = "", do: str = "") -> None:
        self.must, self.given, self.do = (_lines(part) for part in (must, str(given), do))
        message = self.must
        if self.given:
            message += f"; given: {self.given}"
        message += "."
        if do:
            message += f" {self.do}."
        super().__init__(message)

    def __reduce__(self) -> tuple[type[HeadclipError], tuple[str, str, str]]:
        """Give class and arguments, so that it comes back from another process as it was."""
        return type(self), (self.must, self.given, self.do)


class InputError(HeadclipError):
    """Says that a file, folder, array or affine cannot be used as it is."""


class ModelError(HeadclipError):
    """Says that a model name, weight file or configuration cannot be used."""


class OutputError(HeadclipError):
    """Says that a result could not be written. Nothing half-written is left behind."""


class MissingExtraError(HeadclipError):
    """Says that an optional package is not installed, and names the pip command."""


class CancelledError(HeadclipError):
    """Says that the caller asked to stop. Nothing was written."""


def internal_error(error: BaseException) -> str:
    """Describe an error that nobody foresaw.

    Args:
        error: any other than a :class:`HeadclipError`.

    Returns:
        Its kind and how to see more, or which package is missing.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"this needs the package {error.name.partition('.')[0]}, which is not installed"
    return f"internal error ({type(error).__name__}), run again with --verbose or HEADCLIP_DEBUG=1 for the traceback"
