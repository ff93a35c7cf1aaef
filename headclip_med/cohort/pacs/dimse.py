"""An archive through DIMSE, as a client: C-ECHO, C-FIND, C-GET, C-MOVE to others, C-STORE. Nothing ever listens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context, build_role

from headclip_med.cohort.pacs.access import Access
from headclip_med.cohort.pacs.address import Address
from headclip_med.cohort.pacs.archive import (
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
from headclip_med.cohort.pacs.dimse_items import (
    CONNECTION_LIMIT,
    instance_found,
    instance_keys,
    part10,
    series_found,
    series_keys,
    storage_contexts,
    store_contexts,
    study_found,
    study_keys,
)
from headclip_med.cohort.pacs.retry import is_busy, status_words

# It writes requests and matches, patients among them, at lower levels.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

# Verification, and the study root's queries (PS3.4 annexes A and C).
_ECHO = UID("1.2.840.10008.1.1")
_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
_MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
_GET = UID("1.2.840.10008.5.1.4.1.2.2.3")

_PENDING = (0xFF00, 0xFF01)
_STORED_WITH_WARNING = (0xB000, 0xB006, 0xB007)
_AT_ONCE = 100  # UIDs in one C-GET: the list must stay within 64 kB


class DimseArchive:
    """See :class:`headclip_med.cohort.pacs.archive.Archive`."""

    def __init__(self, address: Address, access: Access) -> None:
        self.address, self.access = address, access
        self._tls = (access.ssl_context(), address.host) if address.tls else None

    def echo(self) -> None:
        """C-ECHO."""
        with self._associate([build_context(_ECHO)]) as association:
            self._check(association.send_c_echo(), "answer a C-ECHO")

    def find_studies(self, query: Query) -> list[StudyFound]:
        """C-FIND at study level."""
        return [study_found(match) for match in self._find(study_keys(query), query.limit)]

    def find_series(self, study: str) -> list[SeriesFound]:
        """C-FIND at series level."""
        return by_number(series_found(match, study) for match in self._find(series_keys(study)))

    def instances(self, study: str, series: str) -> list[InstanceFound]:
        """C-FIND at image level."""
        found = {match.uid: match for match in map(instance_found, self._find(instance_keys(study, series)))}
        return list(found.values())

    def fetch(self, study: str, series: str, wanted: Sequence[InstanceFound], keep: Keep) -> None:
        """C-GET at image level: the instances come back on the association that asks for them."""
        for begin in range(0, len(wanted), _AT_ONCE):
            self._get(study, series, wanted[begin : begin + _AT_ONCE], keep)

    def store(self, files: Iterable[StoredFile], told: Told) -> None:
        """C-STORE, as many objects on one association as its presentation contexts allow."""
        for group in store_contexts(files):
            with self._associate(group.contexts) as association:
                for file in group.files:
                    told(file, self._store(association, file))

    def move(self, study: str, series: str | None, destination: str, progress: Callable[[int, int], None]) -> int:
        """C-MOVE: the archive sends a study or series to the AE title ``destination``, which it must know.

        Returns:
            How many objects it sent.

        Raises:
            PacsError: it does not know the destination, or could not send everything.
        """
        keys = instance_keys(study, series)
        keys.QueryRetrieveLevel = "SERIES" if series else "STUDY"
        for keyword in ("SOPInstanceUID", "SOPClassUID", *(() if series else ("SeriesInstanceUID",))):
            del keys[keyword]
        with self._associate([build_context(_MOVE)]) as association:
            return self._follow(association.send_c_move(keys, destination, _MOVE), "move what is asked for", progress)

    def _find(self, keys: Dataset, limit: int | None = None) -> list[Dataset]:
        matches: list[Dataset] = []
        with self._associate([build_context(_FIND)]) as association:
            for status, match in association.send_c_find(keys, _FIND):
                self._check(status, "answer a C-FIND", _PENDING)
                if match is not None:
                    matches.append(match)
                if limit is not None and len(matches) >= limit:
                    association.abort()
                    break
        return matches

    def _get(self, study: str, series: str, wanted: Sequence[InstanceFound], keep: Keep) -> None:
        expected = {instance.uid for instance in wanted}
        problems: list[BaseException] = []

        def received(event: Any) -> int:
            uid = str(event.request.AffectedSOPInstanceUID)
            try:
                if uid not in expected:
                    raise PacsError("The archive must send what was asked for", "another instance")
                keep(uid, part10(event))
            except BaseException as problem:  # this runs in the association's loop; it is raised again below
                problems.append(problem)
                return 0xA700
            return 0x0000

        keys = instance_keys(study, series)
        del keys.SOPClassUID
        keys.SOPInstanceUID = sorted(expected)
        contexts, classes = storage_contexts(wanted)
        roles = [build_role(UID(name), scp_role=True) for name in classes]
        handlers = [(evt.EVT_C_STORE, received)]
        with self._associate([build_context(_GET), *contexts], roles, handlers) as association:
            try:
                self._follow(association.send_c_get(keys, _GET), "send what is asked for", None, problems)
            except PacsError:
                if not problems:
                    raise
            if problems:
                raise problems[0]

    def _follow(
        self,
        answers: Iterator[tuple[Dataset, Dataset | None]],
        what: str,
        progress: Callable[[int, int], None] | None,
        problems: Sequence[BaseException] = (),
    ) -> int:
        """The answers to C-GET or C-MOVE up to the last one; how many objects were sent."""
        done = failed = 0
        for status, _ in answers:
            self._check(status, what, (*_PENDING, 0xB000))
            done = int(status.get("NumberOfCompletedSuboperations") or 0)
            failed = int(status.get("NumberOfFailedSuboperations") or 0)
            if progress is not None:
                left = int(status.get("NumberOfRemainingSuboperations") or 0)
                progress(done, done + failed + left)
            if problems:
                return done
        if failed:
            raise PacsUnavailableError(f"{self.address.place} must {what}", f"{failed} object(s) failed", "Try again")
        return done

    def _store(self, association: Association, file: StoredFile) -> str | None:
        try:
            status = association.send_c_store(dcmread(file.path))
        except ValueError:  # of the presentation contexts
            return "the archive does not take this kind of object"
        except RuntimeError as problem:
            raise self._lost() from problem
        if not status:
            raise self._lost()
        code = int(status.Status)
        if is_busy(code):
            raise PacsUnavailableError(
                f"{self.address.place} must store an object", status_words(code), "Try again later"
            )
        return None if code == 0 or code in _STORED_WITH_WARNING else status_words(code)

    def _check(self, status: Dataset | None, what: str, good: Sequence[int] = ()) -> None:
        """Raise unless an answer is there and says success, or one of ``good``."""
        if not status:
            raise self._lost()
        code = int(status.Status)
        if code == 0 or code in good:
            return
        kind = PacsUnavailableError if is_busy(code) else PacsError
        raise kind(f"{self.address.place} must {what}", status_words(code), "Look into the archive's log")

    def _lost(self) -> PacsUnavailableError:
        return PacsUnavailableError(
            f"{self.address.place} must answer within {self.access.timeout_s:g} s",
            "silence or a connection that breaks",
            f"Check that it knows {self.access.ae_title} (HEADCLIP_PACS_AET); allow more with HEADCLIP_PACS_TIMEOUT",
        )

    @contextmanager
    def _associate(
        self,
        contexts: list[PresentationContext],
        roles: Sequence[Any] = (),
        handlers: list[Any] | None = None,
    ) -> Iterator[Association]:
        """An association, released at the end and aborted on any error."""
        if len(contexts) > CONNECTION_LIMIT:
            raise PacsError(f"An association must have at most {CONNECTION_LIMIT} kinds of objects", len(contexts))
        entity = AE(self.access.ae_title)
        entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = self.access.timeout_s
        entity.network_timeout = self.access.timeout_s
        host, port = self.address.host, self.address.port
        opened: list[Any] = []
        association = entity.associate(
            host,
            port,
            contexts,
            self.address.root,
            ext_neg=list(roles),
            evt_handlers=[*(handlers or ()), (evt.EVT_CONN_OPEN, opened.append)],
            tls_args=self._tls,
        )
        if not association.is_established:
            raise self._refused(association, bool(opened))
        try:
            yield association
        except BaseException:
            association.abort()
            raise
        if association.is_established:
            association.release()

    def _refused(self, association: Association, is_connected: bool) -> PacsError:
        place = self.address.place
        wish = f"{place} must accept an association from {self.access.ae_title} to {self.address.root}"
        titles = "Check the AE titles; the archive must know ours (HEADCLIP_PACS_AET)"
        if association.is_rejected:
            answer = association.acceptor.primitive
            reason = getattr(answer, "reason_str", "") or "no reason"
            return PacsError(wish, f"it rejected it: {reason.lower()}", titles)
        if association.is_aborted and association.acceptor.primitive is not None:
            return PacsError(f"{place} must offer what is asked for", "it accepted none of it", "Ask its administrator")
        if (
            is_connected
        ):  # a rejection may look like that too: pynetdicom can miss it when the connection closes at once
            return PacsUnavailableError(wish, "silence, or a closed connection", titles)
        tls = ", and that its certificate is trusted (HEADCLIP_PACS_CA)" if self.address.tls else ""
        return PacsUnavailableError(
            f"A DICOM server must answer at {place}", "no connection", f"Check address and port{tls}"
        )
