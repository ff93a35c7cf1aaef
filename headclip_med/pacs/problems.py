"""What can go wrong between us and an archive: for good, or only for now."""

from __future__ import annotations

from importlib.util import find_spec

from headclip_med.base.errors import HeadclipError, MissingExtraError


class PacsError(HeadclipError):
    """The archive refused, or sent what cannot be used: asking again would not help."""


class PacsUnavailableError(PacsError):
    """No answer, a broken connection or an archive too busy: asking again may help."""


def check_installed() -> None:
    """Raise :class:`MissingExtraError` unless the packages of the extra ``pacs`` are there."""
    missing = [name for name in ("dicomweb_client", "pynetdicom") if find_spec(name) is None]
    if missing:
        names = ", ".join(name.replace("_", "-") for name in missing)
        raise MissingExtraError(
            "Talking to an archive must have its packages installed",
            f"no {names}",
            "Run: pip install 'headclip-med[pacs]'",
        )
