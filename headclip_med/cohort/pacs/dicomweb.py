"""Talk DICOMweb: QIDO-RS to find, WADO-RS to fetch, STOW-RS to store.

Redirects are refused, answers are bounded in size and time, and every failure is told in words.
"""

from __future__ import annotations

import email.message
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import responses
from typing import Any, NoReturn

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.tag import Tag
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS
from requests.adapters import HTTPAdapter

from headclip_med.cohort.pacs.access import AUTHORITIES, Access
from headclip_med.cohort.pacs.address import Address
from headclip_med.cohort.pacs.archive import (
    MAX_INSTANCE_BYTES,
    MAX_INSTANCES,
    InstanceFound,
    Keep,
    PacsError,
    PacsUnavailableError,
    Query,
    SeriesFound,
    StoredFile,
    StudyFound,
    Told,
    Values,
    instances_found,
    series_found,
    status_words,
    study_found,
)

Item = dict[str, Any]  # one match in DICOM's JSON model: {"0020000D": {"vr": "UI", "Value": [...]}}

_PAGE = 1000
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'  # as it is stored, nothing re-encoded
_STUDY_FIELDS = ["StudyDescription", "ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"]
_SERIES_FIELDS = ["SeriesDescription", "NumberOfSeriesRelatedInstances"]
_PIECE_BYTES = 1 << 16
_LONGEST_ANSWER_S = 900.0  # a server that sends a byte now and then would never be silent for long enough
_TAIL_BYTES = 256
_BUSY = (408, 429, 500, 502, 503, 504)

# They write URLs, and with them UIDs.
for _name in ("dicomweb_client", "retrying", "urllib3"):
    _logger = logging.getLogger(_name)
    _logger.addHandler(logging.NullHandler())
    _logger.setLevel(logging.CRITICAL)


class DicomwebArchive:
    """Talks to an archive by DICOMweb, as :class:`headclip_med.cohort.pacs.archive.Archive` says.

    Args:
        address: of the service.
        access: credentials, certificates and how long to wait.
    """

    def __init__(self, address: Address, access: Access) -> None:
        self.address, self.access = address, access
        self._session = _open_session(access, MAX_INSTANCE_BYTES)
        self._client = DICOMwebClient(address.url, session=self._session, timeout=access.timeout_s)
        self._client.set_http_retry_params(retry=False)  # ours knows what is worth a retry
        self._client.host = address.place  # it sends this as Host and would leave the port out

    def echo(self) -> None:
        """Ask for one study."""
        with self._problems():
            self._client.search_for_studies(limit=1)

    def find_studies(self, query: Query) -> list[StudyFound]:
        """Find studies by QIDO.

        Args:
            query: What the studies must match.

        Returns:
            At most ``query.limit`` studies.
        """
        wanted = {
            "PatientID": query.patient_id,
            "AccessionNumber": query.accession,
            "StudyDate": query.date,
            "ModalitiesInStudy": query.modality,
        }
        filters = {keyword: value for keyword, value in wanted.items() if value is not None}
        with self._problems():
            items = self._client.search_for_studies(limit=query.limit, fields=_STUDY_FIELDS, search_filters=filters)
            return [study_found(_values_of(item)) for item in items[: query.limit]]

    def find_series(self, study: str) -> list[SeriesFound]:
        """Find the series of a study by QIDO.

        Args:
            study: StudyInstanceUID.

        Returns:
            Its series.
        """
        items = self._all(
            lambda **page: self._client.search_for_series(study, fields=_SERIES_FIELDS, **page), "SeriesInstanceUID"
        )
        with self._problems():
            return series_found(map(_values_of, items), study)

    def instances(self, study: str, series: str) -> list[InstanceFound]:
        """List the instances of a series by QIDO, page by page.

        Args:
            study, series: Their UIDs.

        Returns:
            The instances with their UIDs.
        """
        items = self._all(lambda **page: self._client.search_for_instances(study, series, **page), "SOPInstanceUID")
        with self._problems():
            return instances_found(map(_values_of, items))

    def fetch(self, study: str, series: str, wanted: Sequence[InstanceFound], keep: Keep) -> None:
        """Fetch by WADO, one instance a request, whose bytes are kept as they come.

        Args:
            study, series: Their UIDs.
            wanted: Instances of the series.
            keep: Is given the UID and the whole file of each.
        """
        for instance in wanted:
            with self._problems():
                content = self._instance(study, series, instance.uid)
            keep(instance.uid, content)

    def store(self, files: Sequence[StoredFile], told: Told) -> None:
        """Store by STOW, one instance a request, believed only where the answer names it.

        Args:
            files: Ours, of whichever series.
            told: Is given each file, and None or why it was refused.
        """
        for file in files:
            told(file, self._store(file))

    def _instance(self, study: str, series: str, uid: str) -> bytes:
        url = f"{self.address.url}/studies/{study}/series/{series}/instances/{uid}"
        with self._session.get(
            url, headers={"Accept": _ACCEPT, "Host": self.address.place}, stream=True, timeout=self.access.timeout_s
        ) as response:
            if response.status_code != requests.codes.ok:
                _raise_status(self.address.place, response.status_code)
            try:
                if response.headers.get("Content-Type", "").startswith("multipart/"):
                    parts = list(self._client._decode_multipart_message(response, stream=True))
                else:  # one file as it is: against the standard, yet common
                    parts = [response.content]
            except ValueError:
                _check_whole(response, self.address.place)
                raise
            _check_whole(response, self.address.place)
        if len(parts) != 1:
            raise PacsError(f"{self.address.place} must send the one instance that was asked for", f"{len(parts)}")
        return bytes(parts[0])

    def _store(self, file: StoredFile) -> str | None:
        """Return None, or why the archive refused the file."""
        try:
            with self._problems():
                answer = self._client.store_instances([dcmread(file.path)], file.study)
                failed = {str(item.ReferencedSOPInstanceUID): item for item in answer.get("FailedSOPSequence") or ()}
                stored = {str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence") or ()}
        except PacsUnavailableError:
            raise
        except PacsError as problem:
            if isinstance(problem.__cause__, requests.exceptions.HTTPError) and "(409)" in problem.given:
                return "the archive refused it (409)"
            raise
        if file.uid in stored:
            return None
        if file.uid in failed:
            return _failure_reason(failed[file.uid].get("FailureReason"))
        if any(found.uid == file.uid for found in self.instances(file.study, file.series)):
            return None  # the answer said nothing, but it is there
        return "the archive did not confirm it"

    def _all(self, search: Callable[..., list[Item]], keyword: str) -> list[Item]:
        """Collect every match of a search, also from archives that answer in smaller pages than asked."""
        found: dict[str, Item] = {}
        while True:
            with self._problems():
                page = search(limit=_PAGE, offset=len(found))
                named = {next(iter(_values_of(item)(keyword)), ""): item for item in page}
            fresh = {uid: item for uid, item in named.items() if uid not in found}
            found |= fresh
            if not fresh:
                return list(found.values())
            if len(found) > MAX_INSTANCES:
                raise PacsError(f"A series must have at most {MAX_INSTANCES} instances", "more", "Split it")

    def _problems(self) -> Any:
        return _problems_in_words(self.address, self.access)


def _values_of(item: Item) -> Values:
    def values(keyword: str) -> list[str]:
        found = item.get(f"{Tag(keyword):08X}", {}).get("Value") or []
        return [str(one.get("Alphabetic", "") if isinstance(one, dict) else one) for one in found if one is not None]

    return values


def _failure_reason(code: object) -> str:
    """Say why an instance was not stored; STOW's reasons are those of C-STORE (PS3.18 §10.5.3)."""
    return status_words(code, STORAGE_SERVICE_CLASS_STATUS) if isinstance(code, int) else "the archive gave no reason"


def _open_session(access: Access, max_bytes: int) -> requests.Session:
    """Open a session with our credentials and certificates.

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
    """Makes connections whose answers end in an error once they are too large or take too long."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self.max_bytes = max_bytes

    def send(self, request: Any, *args: Any, **more: Any) -> requests.Response:
        response = super().send(request, *args, **more)
        response.raw = _BoundedBody(response.raw, self.max_bytes)
        return response


class _BoundedBody:
    """Counts the body of an answer as it is read, after decompression; ``tail`` is its end so far."""

    def __init__(self, body: Any, max_bytes: int) -> None:
        self._body, self._left, self.tail = body, max_bytes, b""
        self._end = time.monotonic() + _LONGEST_ANSWER_S

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    def stream(self, amt: int = _PIECE_BYTES, decode_content: bool = True) -> Iterator[bytes]:
        """Yield pieces as they come in; raise :class:`PacsError` beyond the limits."""
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


def _check_whole(response: requests.Response, place: str) -> None:
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
def _problems_in_words(address: Address, access: Access) -> Iterator[None]:
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
        _raise_status(place, problem.response.status_code if problem.response is not None else 0, problem)
    except requests.exceptions.JSONDecodeError as problem:
        given = "something else, or an answer that is cut off"
        raise PacsUnavailableError(
            f"{place} must answer as DICOMweb", given, "Check the path of the address"
        ) from problem
    except requests.exceptions.RequestException as problem:
        given = "a connection that breaks" if "reset" in str(problem) or "aborted" in str(problem) else "no connection"
        raise PacsUnavailableError(
            f"An archive must answer at {place}", given, "Check the address, and that the archive runs"
        ) from problem
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as problem:  # of a lying answer
        raise PacsError(
            f"{place} must answer as DICOMweb", "something else", "Check the path of the address"
        ) from problem


def _raise_status(place: str, code: int, problem: BaseException | None = None) -> NoReturn:
    """Raise an HTTP status that is no success as an error in words."""
    if code in (401, 403):
        raise PacsError(
            f"{place} must accept the credentials",
            f"it refused them ({code})",
            "Check HEADCLIP_PACS_USER and HEADCLIP_PACS_PASSWORD, or HEADCLIP_PACS_TOKEN",
        ) from problem
    if code == requests.codes.not_found:
        raise PacsError(f"{place} must know what is asked for", "not found (404)", "Check path and UIDs") from problem
    kind = PacsUnavailableError if code in _BUSY else PacsError
    phrase = responses.get(code, "an unknown status").lower()
    raise kind(f"{place} must answer a request", f"{phrase} ({code})", "Look into the archive's log") from problem


def _raise_untrusted(place: str, problem: BaseException) -> NoReturn:
    if "verify failed" in str(problem).lower():
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
