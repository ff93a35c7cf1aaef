"""Errors that a user can act on: what must be, what was given, what to do."""

from __future__ import annotations


class HeadclipError(Exception):
    """Base of every error that headclip_med raises on purpose.

    Args:
        must: what must be true, as a sentence without a full stop.
        given: what was given instead.
        do: what the user can do about it, as a sentence without a full stop.
    """

    def __init__(self, must: str, given: object = "", do: str = "") -> None:
        self.must, self.given, self.do = must, str(given), do
        message = must
        if self.given:
            message += f"; given: {self.given}"
        message += "."
        if do:
            message += f" {do}."
        super().__init__(message)

    def __reduce__(self) -> tuple[type[HeadclipError], tuple[str, str, str]]:
        """What it was made of, so that it comes back from another process as it was."""
        return type(self), (self.must, self.given, self.do)


class InputError(HeadclipError):
    """A file, folder, array or affine that cannot be used as it is."""


class ModelError(HeadclipError):
    """A model name, weight file or configuration that cannot be used."""


class OutputError(HeadclipError):
    """A result that could not be written; nothing half-written is left behind."""


class MissingExtraError(HeadclipError):
    """An optional package is not installed; the message names the pip command."""


class CancelledError(HeadclipError):
    """The caller asked to stop; nothing was written."""


def internal_error(error: BaseException) -> str:
    """What to say about an error that nobody foresaw: its kind and how to see more; or which package is missing."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"this needs the package {error.name.partition('.')[0]}, which is not installed"
    return f"internal error ({type(error).__name__}), run again with --verbose or HEADCLIP_DEBUG=1 for the traceback"
