"""Talk DIMSE, as a client: C-ECHO, C-FIND, C-GET, C-MOVE to others, C-STORE. Nothing ever listens."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    VLEndoscopicImageStorage,
    VLPhotographicImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context, build_role
from pynetdicom.status import (
    QR_FIND_SERVICE_CLASS_STATUS,
    QR_MOVE_SERVICE_CLASS_STATUS,
    STORAGE_SERVICE_CLASS_STATUS,
)

from headclip_med.cohort.pacs.access import Access
from headclip_med.cohort.pacs.address import Address
from headclip_med.cohort.pacs.archive import (
    InstanceFound,
    Keep,
    PacsError,
    PacsUnavailableError,
    Progress,
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

# It writes requests and matches, patients among them, at lower levels.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

# Verification, and the study root's queries (PS3.4 annexes A and C).
_ECHO = UID("1.2.840.10008.1.1")
_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")
_MOVE = UID("1.2.840.10008.5.1.4.1.2.2.2")
_GET = UID("1.2.840.10008.5.1.4.1.2.2.3")

_QUERY_STATUS = QR_FIND_SERVICE_CLASS_STATUS | QR_MOVE_SERVICE_CLASS_STATUS
_PENDING = (0xFF00, 0xFF01)
_STORED_WITH_WARNING = (0xB000, 0xB006, 0xB007)
_MOST_CONTEXTS = 128  # presentation contexts of an association, PS3.8 §9.3.2.2
_AT_ONCE = 100  # UIDs in one C-GET: the list must stay within 64 kB
_IMPLEMENTATION = UID("2.25.187461250731460214392736174806249173012")  # of this writer, made once

_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    JPEGBaseline8Bit,
)
_IMAGE_CLASSES = (  # where the archive does not tell the class of its instances
    CTImageStorage,
    EnhancedCTImageStorage,
    MRImageStorage,
    EnhancedMRImageStorage,
    PositronEmissionTomographyImageStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    SecondaryCaptureImageStorage,
    VLEndoscopicImageStorage,
    VLPhotographicImageStorage,
)


class DimseArchive:
    """Talks to an archive by DIMSE, as :class:`headclip_med.cohort.pacs.archive.Archive` says.

    Args:
        address: of the archive, with its AE title.
        access: our AE title, certificates and how long to wait.

    Raises:
        InputError: certificates that cannot be read.
    """

    def __init__(self, address: Address, access: Access) -> None:
        self.address, self.access = address, access
        self._tls = (access.ssl_context(), address.host) if address.tls else None

    def echo(self) -> None:
        """Ask by C-ECHO."""
        with self._associate([build_context(_ECHO)]) as association:
            self._check(association.send_c_echo(), "answer a C-ECHO")

    def find_studies(self, query: Query) -> list[StudyFound]:
        """Find studies by C-FIND.

        Args:
            query: What the studies must match.

        Returns:
            At most ``query.limit`` studies.
        """
        keys = Dataset()
        keys.QueryRetrieveLevel = "STUDY"
        keys.PatientID, keys.AccessionNumber = query.patient_id or "", query.accession or ""
        keys.StudyDate, keys.ModalitiesInStudy = query.date or "", query.modality or ""
        keys.PatientName = keys.StudyDescription = keys.StudyInstanceUID = ""
        keys.NumberOfStudyRelatedSeries = keys.NumberOfStudyRelatedInstances = None
        return [study_found(values) for values in self._find(keys, query.limit)]

    def find_series(self, study: str) -> list[SeriesFound]:
        """Find the series of a study by C-FIND.

        Args:
            study: StudyInstanceUID.

        Returns:
            Its series.
        """
        keys = _keys("SERIES", study, "")
        keys.Modality = keys.SeriesDescription = ""
        keys.SeriesNumber = keys.NumberOfSeriesRelatedInstances = None
        return series_found(self._find(keys), study)

    def instances(self, study: str, series: str) -> list[InstanceFound]:
        """List the instances of a series by C-FIND.

        Args:
            study, series: Their UIDs.

        Returns:
            The instances with their UIDs.
        """
        keys = _keys("IMAGE", study, series)
        keys.SOPInstanceUID = keys.SOPClassUID = ""
        return instances_found(self._find(keys))

    def fetch(self, study: str, series: str, wanted: Sequence[InstanceFound], keep: Keep) -> None:
        """Fetch by C-GET at image level: the instances come back on the association that asks for them.

        Args:
            study, series: Their UIDs.
            wanted: Instances of the series.
            keep: Is given the UID and the whole file of each.
        """
        for begin in range(0, len(wanted), _AT_ONCE):
            self._get(study, series, wanted[begin : begin + _AT_ONCE], keep)

    def store(self, files: Sequence[StoredFile], told: Told) -> None:
        """Store by C-STORE, each file in its own syntax, as many kinds on one association as it can have.

        Args:
            files: Ours, of whichever series.
            told: Is given each file, and None or why it was refused.
        """
        kinds = list(dict.fromkeys((file.sop_class, file.syntax) for file in files))
        for begin in range(0, len(kinds), _MOST_CONTEXTS):
            offered = kinds[begin : begin + _MOST_CONTEXTS]
            contexts = [build_context(UID(sop_class), UID(syntax)) for sop_class, syntax in offered]
            with self._associate(contexts) as association:
                for file in [file for file in files if (file.sop_class, file.syntax) in offered]:
                    told(file, self._store(association, file))

    def move(self, study: str, series: str | None, destination: str, progress: Progress) -> int:
        """Have the archive send a study or series elsewhere by C-MOVE.

        Args:
            study: UID.
            series: UID, or None for the whole study.
            destination: AE title that the archive must know.
            progress: told after each answer.

        Returns:
            How many objects it sent.

        Raises:
            PacsError: it does not know the destination, or could not send everything.
        """
        keys = _keys("SERIES" if series else "STUDY", study, series)
        with self._associate([build_context(_MOVE)]) as association:
            return self._follow(association.send_c_move(keys, destination, _MOVE), "move what is asked for", progress)

    def _find(self, keys: Dataset, limit: int | None = None) -> list[Values]:
        matches: list[Values] = []
        with self._associate([build_context(_FIND)]) as association:
            for status, match in association.send_c_find(keys, _FIND):
                self._check(status, "answer a C-FIND", _PENDING)
                if match is not None:
                    matches.append(_values_of(match))
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
                keep(uid, _part10(event))
            except BaseException as problem:  # this runs in the association's loop; it is raised again below
                problems.append(problem)
                return 0xA700
            return 0x0000

        keys = _keys("IMAGE", study, series)
        keys.SOPInstanceUID = sorted(expected)
        classes = sorted({instance.sop_class for instance in wanted} - {""}) or list(_IMAGE_CLASSES)
        classes = classes[: _MOST_CONTEXTS // len(_SYNTAXES) - 1]
        # A context for each kind and syntax, so that the archive need not convert.
        contexts = [build_context(name, syntax) for name in classes for syntax in _SYNTAXES]
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
        progress: Progress | None,
        problems: Sequence[BaseException] = (),
    ) -> int:
        """Follow the answers to C-GET or C-MOVE up to the last one; return how many objects were sent."""
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
        words = status_words(code, STORAGE_SERVICE_CLASS_STATUS)
        if _is_busy(code):
            raise PacsUnavailableError(f"{self.address.place} must store an object", words, "Try again later")
        return None if code == 0 or code in _STORED_WITH_WARNING else words

    def _check(self, status: Dataset | None, what: str, good: Sequence[int] = ()) -> None:
        """Raise unless an answer is there and says success, or one of ``good``."""
        if not status:
            raise self._lost()
        code = int(status.Status)
        if code == 0 or code in good:
            return
        kind = PacsUnavailableError if _is_busy(code) else PacsError
        words = status_words(code, _QUERY_STATUS)
        raise kind(f"{self.address.place} must {what}", words, "Look into the archive's log")

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
        """Open an association, released at the end and aborted on any error."""
        entity = AE(self.access.ae_title)
        entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = self.access.timeout_s
        entity.network_timeout = self.access.timeout_s
        opened: list[Any] = []
        association = entity.associate(
            self.address.host,
            self.address.port,
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
        if is_connected:
            # A rejection may look like that too: pynetdicom can miss it when the connection closes at once.
            return PacsUnavailableError(wish, "silence, or a closed connection", titles)
        tls = ", and that its certificate is trusted (HEADCLIP_PACS_CA)" if self.address.tls else ""
        return PacsUnavailableError(
            f"A DICOM server must answer at {place}", "no connection", f"Check address and port{tls}"
        )


def _is_busy(code: int) -> bool:
    """Whether the same request may succeed later."""
    return 0xA700 <= code <= 0xA7FF or code == 0x0213


def _keys(level: str, study: str, series: str | None) -> Dataset:
    """Make the keys of a query below the study, without a series where it is None."""
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = level, study
    if series is not None:
        keys.SeriesInstanceUID = series
    return keys


def _values_of(match: Dataset) -> Values:
    def values(keyword: str) -> list[str]:
        value = match.get(keyword)
        many = value if isinstance(value, MultiValue) else [value]
        return [str(one) for one in many if one is not None and one != ""]

    return values


def _part10(event: Any) -> bytes:
    """Make a file of a received object: the bytes as they came, behind a header that depends on nothing but them.

    pynetdicom's own header names its version; content that changes with it would count as another case.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = event.request.AffectedSOPClassUID
    meta.MediaStorageSOPInstanceUID = event.request.AffectedSOPInstanceUID
    meta.TransferSyntaxUID = event.context.transfer_syntax
    meta.ImplementationClassUID = _IMPLEMENTATION
    header = BytesIO()
    write_file_meta_info(header, meta)
    return bytes(128) + b"DICM" + header.getvalue() + event.encoded_dataset(include_meta=False)
