"""Parse what a user types for an archive, a study or a series in it. There is never a password in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from headclip_med.base.errors import InputError

FORMS = (
    "dicomweb://HOST[:PORT]/PATH/studies/STUDY[/series/SERIES] (dicomwebs:// with TLS), "
    "or dimse://CALLED_AE@HOST:PORT/STUDY[/SERIES] (dimses:// with TLS)"
)

_SCHEMES = {  # as typed → ours
    "dicomweb": "dicomweb",
    "dicomweb+http": "dicomweb",
    "dicomwebs": "dicomwebs",
    "dicomweb+https": "dicomwebs",
    "dimse": "dimse",
    "dimses": "dimses",
}
_DEFAULT_PORTS = {"dicomweb": 80, "dicomwebs": 443}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")  # PS3.5 §9.1: components without leading zeros
_UID_LIKE = re.compile(r"[0-9.]*\.[0-9.]*\.[0-9.]*")  # two dots: unlike the 2.0 of a path such as api/2.0
_LONGEST_UID = 64
_LONGEST_AE = 16
_ENVIRONMENT = "Set HEADCLIP_PACS_USER and HEADCLIP_PACS_PASSWORD, or HEADCLIP_PACS_TOKEN, instead"


@dataclass(frozen=True)
class Address:
    """Names an archive, and perhaps a study or a series in it.

    Attributes:
        scheme: ``dicomweb`` or ``dimse``, each with an ``s`` for TLS.
        host: name or IP address, without brackets.
        port: 1 to 65535.
        root: path of the DICOMweb service without slashes at its ends, or the called AE title.
        study, series: UIDs. A series never stands without its study.
    """

    scheme: str
    host: str
    port: int
    root: str
    study: str | None = None
    series: str | None = None

    @property
    def is_web(self) -> bool:
        """Whether it speaks DICOMweb, not DIMSE."""
        return self.scheme in _DEFAULT_PORTS

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme.endswith("s")

    @property
    def place(self) -> str:
        """Give ``host:port``, as messages name it."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Give the DICOMweb service as ``http`` or ``https``."""
        return f"{'https' if self.tls else 'http'}://{self.place}/{self.root}".rstrip("/")

    @property
    def service(self) -> str:
        """Give the archive alone, which may be shown and recorded, as it holds no UID."""
        if self.is_web:
            return f"{self.scheme}://{self.place}/{self.root}".rstrip("/")
        return f"{self.scheme}://{self.root}@{self.place}"


def is_address(text: str) -> bool:
    """Tell whether ``text`` is meant as an address, right or wrong, and not as a path.

    Args:
        text: As a user types it.

    Returns:
        True where it begins with a scheme.
    """
    return _SCHEME.match(text.strip()) is not None


def parse_address(text: str) -> Address:
    """Parse an address as typed.

    Args:
        text: see :data:`FORMS`, and ``dicomweb://HOST/PATH/STUDY[/SERIES]`` for short.

    Returns:
        Its parts.

    Raises:
        InputError: whatever is not exactly that. A password in it is refused and not repeated.
    """
    text = text.strip()
    match = _SCHEME.match(text)
    scheme = _SCHEMES.get(match[1].lower()) if match else None
    if scheme is None:
        given = f"{match[1]}://" if match else "no scheme"
        raise InputError(f"The address of an archive must be {FORMS}", given, "Write one of these")
    parts = _split(text)
    if scheme in _DEFAULT_PORTS:
        return _web(scheme, parts)
    return _dimse(scheme, parts)


def parse_service(text: str, what: str = "The archive") -> Address:
    """Parse an address without study and series.

    Args:
        text: as typed.
        what: is named, for the error.

    Returns:
        Its parts.

    Raises:
        InputError: see :func:`parse_address`, or a study in it.
    """
    address = parse_address(text)
    if address.study is not None:
        raise InputError(f"{what} must be named without a study", "an address that ends in UIDs", "Leave them out")
    return address


def _split(text: str) -> SplitResult:
    """The parts of a URL, without those that none of our addresses has."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as problem:
        raise InputError(
            "The address must hold a host and a port of 1 to 65535", "neither", f"Write {FORMS}"
        ) from problem
    if parts.password is not None:
        raise InputError("An address must hold no password: it would be seen and logged", "one with it", _ENVIRONMENT)
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise InputError("The address must end after the path", "a ? or # in it", f"Write {FORMS}")
    if not host or not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
        raise InputError("The address must name a host", "none that can be used", f"Write {FORMS}")
    return parts


def _web(scheme: str, parts: SplitResult) -> Address:
    if parts.username is not None:
        raise InputError("An address must hold no user: it would be seen and logged", "one with it", _ENVIRONMENT)
    segments = _segments(parts.path)
    if "studies" in segments:
        at = segments.index("studies")
        root, named = segments[:at], segments[at + 1 :]
        if len(named) == 3 and named[1] == "series":
            named = [named[0], named[2]]
        elif len(named) > 1:
            raise InputError(
                "A DICOMweb address must end as studies/STUDY or studies/STUDY/series/SERIES",
                f"{len(named)} parts after studies",
                "Name the series, not an instance or frame",
            )
    else:
        count = len(segments)
        while count and len(segments) - count < 2 and _UID_LIKE.fullmatch(segments[count - 1]):
            count -= 1
        root, named = segments[:count], segments[count:]
    return Address(scheme, str(parts.hostname), parts.port or _DEFAULT_PORTS[scheme], "/".join(root), *_uids(named))


def _dimse(scheme: str, parts: SplitResult) -> Address:
    called = parts.username or ""
    if not re.fullmatch(r"[!-?A-\[\]-~]([ -?A-\[\]-~]*[!-?A-\[\]-~])?", called) or len(called) > _LONGEST_AE:
        raise InputError(
            "A DIMSE address must name the called AE title before the @, 1 to 16 plain characters",
            "none" if not called else f"{len(called)} characters",
            f"Write {FORMS}",
        )
    if parts.port is None:
        raise InputError("A DIMSE address must name the port", "none", "Often it is 104 or 11112")
    segments = _segments(parts.path)
    if len(segments) > 2:
        raise InputError("A DIMSE address must end as /STUDY or /STUDY/SERIES", f"{len(segments)} parts")
    return Address(scheme, str(parts.hostname), parts.port, called, *_uids(segments))


def _segments(path: str) -> list[str]:
    segments = [part for part in path.strip("/").split("/") if part] if path.strip("/") else []
    if "//" in path.rstrip("/") or any(not _SEGMENT.fullmatch(part) or part in (".", "..") for part in segments):
        raise InputError("The path of an address must be plain names between single slashes", "something else")
    return segments


def _uids(named: list[str]) -> tuple[str | None, str | None]:
    for uid in named:
        if not is_uid(uid):
            raise InputError(
                "A UID must be up to 64 digits and dots, without leading zeros",
                f"{len(uid)} characters of another form",
                "Copy it again, or see: headclip-med pacs find",
            )
    study, series, *_ = *named, None, None
    return study, series


def is_uid(text: str) -> bool:
    """Tell whether ``text`` is a UID as the standard wants it.

    Args:
        text: Any.

    Returns:
        True for digits and dots in the standard's form.
    """
    return len(text) <= _LONGEST_UID and _UID.fullmatch(text) is not None
