"""An archive through DICOMweb: QIDO-RS to find, WADO-RS to fetch, STOW-RS to store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import dcmread

from headclip_med.cohort.pacs.access import Access
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
    by_number,
)
from headclip_med.cohort.pacs.http import check_whole, open_session, problems_in_words, raise_status
from headclip_med.cohort.pacs.retry import failure_reason

Item = dict[str, Any]  # one match in DICOM's JSON model: {"0020000D": {"vr": "UI", "Value": [...]}}

_PAGE = 1000
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'  # as it is stored, nothing re-encoded
_STUDY_FIELDS = ["StudyDescription", "ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"]
_SERIES_FIELDS = ["SeriesDescription", "NumberOfSeriesRelatedInstances"]


class DicomwebArchive:
    """See :class:`headclip_med.cohort.pacs.archive.Archive`."""

    def __init__(self, address: Address, access: Access) -> None:
        self.address, self.access = address, access
        self._session = open_session(access, MAX_INSTANCE_BYTES)
        self._client = DICOMwebClient(address.url, session=self._session, timeout=access.timeout_s)
        self._client.set_http_retry_params(retry=False)  # ours knows what is worth a retry
        self._client.host = address.place  # it sends this as Host and would leave the port out

    def echo(self) -> None:
        """Ask for one study."""
        with self._problems():
            self._client.search_for_studies(limit=1)

    def find_studies(self, query: Query) -> list[StudyFound]:
        """By QIDO; see :class:`Query`."""
        wanted = {
            "PatientID": query.patient_id,
            "AccessionNumber": query.accession,
            "StudyDate": query.date,
            "ModalitiesInStudy": query.modality,
        }
        filters = {keyword: value for keyword, value in wanted.items() if value is not None}
        with self._problems():
            items = self._client.search_for_studies(limit=query.limit, fields=_STUDY_FIELDS, search_filters=filters)
            return [_study(item) for item in items[: query.limit]]

    def find_series(self, study: str) -> list[SeriesFound]:
        """By QIDO."""
        items = self._all(
            lambda **page: self._client.search_for_series(study, fields=_SERIES_FIELDS, **page), "0020000E"
        )
        with self._problems():
            return by_number(_series(item, study) for item in items)

    def instances(self, study: str, series: str) -> list[InstanceFound]:
        """By QIDO, page by page."""
        items = self._all(lambda **page: self._client.search_for_instances(study, series, **page), "00080018")
        return [InstanceFound(_text(item, "00080018"), _text(item, "00080016")) for item in items]

    def fetch(self, study: str, series: str, wanted: Sequence[InstanceFound], keep: Keep) -> None:
        """By WADO, one instance a request; the bytes are kept as they come."""
        for instance in wanted:
            with self._problems():
                content = self._instance(study, series, instance.uid)
            keep(instance.uid, content)

    def store(self, files: Iterable[StoredFile], told: Told) -> None:
        """By STOW, one instance a request, believed only where the answer names it."""
        for file in files:
            told(file, self._store(file))

    def _instance(self, study: str, series: str, uid: str) -> bytes:
        url = f"{self.address.url}/studies/{study}/series/{series}/instances/{uid}"
        with self._session.get(
            url, headers={"Accept": _ACCEPT, "Host": self.address.place}, stream=True, timeout=self.access.timeout_s
        ) as response:
            if response.status_code != requests.codes.ok:
                raise_status(self.address.place, response.status_code)
            try:
                if response.headers.get("Content-Type", "").startswith("multipart/"):
                    parts = list(self._client._decode_multipart_message(response, stream=True))
                else:  # one file as it is: against the standard, yet common
                    parts = [response.content]
            except ValueError:
                check_whole(response, self.address.place)
                raise
            check_whole(response, self.address.place)
        if len(parts) != 1:
            raise PacsError(f"{self.address.place} must send the one instance that was asked for", f"{len(parts)}")
        return bytes(parts[0])

    def _store(self, file: StoredFile) -> str | None:
        """None, or why the archive refused the file."""
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
            return failure_reason(failed[file.uid].get("FailureReason"))
        if any(found.uid == file.uid for found in self.instances(file.study, file.series)):
            return None  # the answer said nothing, but it is there
        return "the archive did not confirm it"

    def _all(self, search: Callable[..., list[Item]], key: str) -> list[Item]:
        """Every match of a search, also from archives that answer in smaller pages than asked."""
        found: dict[str, Item] = {}
        while True:
            with self._problems():
                page = search(limit=_PAGE, offset=len(found))
                fresh = {_text(item, key): item for item in page if _text(item, key) not in found}
            found |= fresh
            if not fresh:
                return list(found.values())
            if len(found) > MAX_INSTANCES:
                raise PacsError(f"A series must have at most {MAX_INSTANCES} instances", "more", "Split it")

    def _problems(self) -> Any:
        return problems_in_words(self.address, self.access)


def _values(item: Item, tag: str) -> list[Any]:
    return list(item.get(tag, {}).get("Value") or [])


def _text(item: Item, tag: str) -> str:
    """The first value as text; of a name its alphabetic form."""
    values = _values(item, tag)
    if not values or values[0] is None:
        return ""
    return str(values[0].get("Alphabetic", "") if isinstance(values[0], dict) else values[0])


def _count(item: Item, tag: str) -> int | None:
    text = _text(item, tag)
    return int(text) if text.lstrip("-").isdigit() else None


def _study(item: Item) -> StudyFound:
    return StudyFound(
        uid=_text(item, "0020000D"),
        date=_text(item, "00080020"),
        description=_text(item, "00081030"),
        patient_id=_text(item, "00100020"),
        patient_name=_text(item, "00100010"),
        accession=_text(item, "00080050"),
        modalities=tuple(map(str, _values(item, "00080061"))),
        series=_count(item, "00201206"),
        instances=_count(item, "00201208"),
    )


def _series(item: Item, study: str) -> SeriesFound:
    return SeriesFound(
        study=study,
        uid=_text(item, "0020000E"),
        modality=_text(item, "00080060"),
        number=_count(item, "00200011"),
        description=_text(item, "0008103E"),
        instances=_count(item, "00201209"),
    )
