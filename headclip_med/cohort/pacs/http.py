"""HTTP to an archive: no redirects, answers of bounded size and time, and every failure in words."""

from __future__ import annotations

import email.message
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, NoReturn

import requests
from requests.adapters import HTTPAdapter

from headclip_med.cohort.pacs.access import AUTHORITIES, Access
from headclip_med.cohort.pacs.address import Address
from headclip_med.cohort.pacs.archive import PacsError, PacsUnavailableError

_PIECE_BYTES = 1 << 16
_LONGEST_ANSWER_S = 900.0  # a server that sends a byte now and then would never be silent for long enough
_TAIL_BYTES = 256
_BUSY = (408, 429, 500, 502, 503, 504)
_ADDRESS = "Check the address, and that the archive runs"

# They write URLs, and with them UIDs.
for _name in ("dicomweb_client", "retrying", "urllib3"):
    _logger = logging.getLogger(_name)
    _logger.addHandler(logging.NullHandler())
    _logger.setLevel(logging.CRITICAL)


def open_session(access: Access, max_bytes: int) -> requests.Session:
    """A session with our credentials and certificates.

    It takes nothing else from the environment: a proxy, a ``.netrc`` or another bundle would change where
    patients' data and secrets go. Redirects are refused for the same reason.
    """
    session = requests.Session()
    session.trust_env = False
    session.max_redirects = 0
    if access.token is not None:
        session.headers["Authorization"] = f"Bearer {access.token}"
    elif access.user is not None and access.password is not None:
        session.auth = (access.user.encode(), access.password.encode())  # type: ignore[assignment]
    if access.authorities is not None:
        session.verify = str(access.authorities)
    if access.certificate is not None:
        session.cert = (str(access.certificate), str(access.key or access.certificate))
    for prefix in ("http://", "https://"):
        session.mount(prefix, _BoundedAdapter(max_bytes))
    return session


class _BoundedAdapter(HTTPAdapter):
    """Connections whose answers end in an error once they are too large or take too long."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self.max_bytes = max_bytes

    def send(self, request: Any, *args: Any, **more: Any) -> requests.Response:
        response = super().send(request, *args, **more)
        response.raw = _BoundedBody(response.raw, self.max_bytes)
        return response


class _BoundedBody:
    """The body of an answer, counted as it is read, after decompression; ``tail`` is its end so far."""

    def __init__(self, body: Any, max_bytes: int) -> None:
        self._body, self._left, self.tail = body, max_bytes, b""
        self._end = time.monotonic() + _LONGEST_ANSWER_S

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def stream(self, amt: int = _PIECE_BYTES, decode_content: bool = True) -> Iterator[bytes]:
        """Pieces as they come in; :class:`PacsError` beyond the limits."""
        read = getattr(self._body, "read1", None) or self._body.read
        while piece := read(max(amt, _PIECE_BYTES), decode_content=decode_content):
            self._left -= len(piece)
            if self._left < 0:
                raise PacsError(
                    "An answer of the archive must be of bounded size", "a larger one", "Ask its administrator"
                )
            if time.monotonic() > self._end:
                raise PacsUnavailableError("An answer must be complete after 15 minutes", "a slower one", "Try again")
            self.tail = (self.tail + piece)[-_TAIL_BYTES:]
            yield piece


def check_whole(response: requests.Response, place: str) -> None:
    """Refuse an answer, read to its end, that is empty or that ends before its closing boundary.

    Archives send multipart answers without a length, and a connection that breaks then looks like an end; where it
    breaks within the header, what came of that counts as the whole header.
    """
    header = email.message.Message()
    header["Content-Type"] = response.headers.get("Content-Type", "")
    boundary = header.get_boundary()
    tail = response.raw.tail
    if not tail or (boundary is not None and f"--{boundary}--".encode() not in tail):
        raise PacsUnavailableError(f"{place} must send whole answers", "one that is cut off", "Try again")


@contextmanager
def problems_in_words(address: Address, access: Access) -> Iterator[None]:
    """Turn what the HTTP and DICOMweb libraries raise into a :class:`PacsError` without URL, UID or secret."""
    place = address.place
    try:
        yield
    except requests.exceptions.SSLError as problem:
        _raise_untrusted(place, problem)
    except requests.exceptions.Timeout as problem:
        raise PacsUnavailableError(
            f"{place} must answer within {access.timeout_s:g} s",
            "silence",
            "Try again, or allow more with HEADCLIP_PACS_TIMEOUT",
        ) from problem
    except requests.exceptions.TooManyRedirects as problem:
        raise PacsError(
            f"{place} must answer itself", "it points elsewhere (a redirect)", "Give the address that it points to"
        ) from problem
    except requests.exceptions.HTTPError as problem:
        raise_status(place, problem.response.status_code if problem.response is not None else 0, problem)
    except requests.exceptions.JSONDecodeError as problem:
        given = "something else, or an answer that is cut off"
        raise PacsUnavailableError(
            f"{place} must answer as DICOMweb", given, "Check the path of the address"
        ) from problem
    except requests.exceptions.RequestException as problem:
        given = "a connection that breaks" if "reset" in str(problem) or "aborted" in str(problem) else "no connection"
        raise PacsUnavailableError(f"An archive must answer at {place}", given, _ADDRESS) from problem
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as problem:  # of a lying answer
        raise PacsError(
            f"{place} must answer as DICOMweb", "something else", "Check the path of the address"
        ) from problem


def raise_status(place: str, code: int, problem: BaseException | None = None) -> NoReturn:
    """An HTTP status that is no success, as an error in words."""
    if code in (401, 403):
        raise PacsError(
            f"{place} must accept the credentials",
            f"it refused them ({code})",
            "Check HEADCLIP_PACS_USER and HEADCLIP_PACS_PASSWORD, or HEADCLIP_PACS_TOKEN",
        ) from problem
    if code == HTTPStatus.NOT_FOUND:
        raise PacsError(f"{place} must know what is asked for", "not found (404)", "Check path and UIDs") from problem
    kind = PacsUnavailableError if code in _BUSY else PacsError
    raise kind(
        f"{place} must answer a request", f"{_phrase(code)} ({code})", "Look into the archive's log"
    ) from problem


def _phrase(code: int) -> str:
    try:
        return HTTPStatus(code).phrase.lower()
    except ValueError:
        return "an unknown status"


def _raise_untrusted(place: str, problem: BaseException) -> NoReturn:
    text = str(problem).lower()
    if "verify failed" in text:
        raise PacsError(
            f"{place} must show a certificate that is trusted",
            "one that is not: self-signed, of another host, expired, or of an unknown authority",
            f"Set {AUTHORITIES} to the PEM file of the hospital's authority",
        ) from problem
    raise PacsError(
        f"{place} must speak TLS",
        "a failed handshake",
        "Use dicomweb:// for a server without TLS, or check the certificates",
    ) from problem
