"""Say what is asked of an archive, whatever protocol it speaks, and what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from headclip_med.base.errors import HeadclipError, MissingExtraError

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")
Keep = Callable[[str, bytes], None]  # SOPInstanceUID, the whole file
Told = Callable[["StoredFile", "str | None"], None]  # a file, and why it was refused; None: it is stored
Progress = Callable[[int, int], None]  # objects there, objects in all
Values = Callable[[str], list[str]]  # a keyword → its values in one match, as text
MAX_INSTANCE_BYTES = 2 * 1024**3
MAX_INSTANCES = 100_000
DEFAULT_ATTEMPTS = 5
_LONGEST_PAUSE_S = 15.0
_EXTRA = ("dicomweb_client", "pynetdicom", "tenacity")


class PacsError(HeadclipError):
    """Says that the archive refused, or sent what cannot be used: asking again would not help."""


class PacsUnavailableError(PacsError):
    """Says that the archive is silent, cut off or too busy: asking again may help."""


def check_pacs_extra() -> None:
    """Look for the packages of the extra ``pacs``.

    Raises:
        MissingExtraError: one of them is not there.
    """
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        names = ", ".join(name.replace("_", "-") for name in missing)
        raise MissingExtraError(
            "Talking to an archive must have its packages installed",
            f"no {names}",
            "Run: pip install 'headclip-med[pacs]'",
        )


@dataclass(frozen=True)
class Query:
    """Narrows a search for studies. None matches everything.

    Attributes:
        patient_id, accession: as the archive has them.
        date: YYYYMMDD, or a range YYYYMMDD-YYYYMMDD.
        modality: one that the study must hold, such as ``MR``.
        limit: most studies to find, at least 1.
    """

    patient_id: str | None = None
    accession: str | None = None
    date: str | None = None
    modality: str | None = None
    limit: int = 100


@dataclass(frozen=True)
class StudyFound:
    """Describes a study. Empty text and None stand for what the archive does not tell.

    Attributes:
        uid, date, description, patient_id, patient_name, accession: identify a patient.
        modalities: of its series.
        series, instances: how many it has.
    """

    uid: str
    date: str
    description: str
    patient_id: str
    patient_name: str
    accession: str
    modalities: tuple[str, ...]
    series: int | None
    instances: int | None


@dataclass(frozen=True)
class SeriesFound:
    """Describes a series of a study. Empty text and None stand for what the archive does not tell.

    Attributes:
        study, uid, description: identify a patient.
        modality: such as ``MR``.
        number: SeriesNumber.
        instances: how many it has.
    """

    study: str
    uid: str
    modality: str
    number: int | None
    description: str
    instances: int | None

    @property
    def name(self) -> str:
        """Give its :func:`pseudonym`."""
        return pseudonym(self.uid)


@dataclass(frozen=True)
class InstanceFound:
    """Names an instance of a series.

    Attributes:
        uid: SOPInstanceUID.
        sop_class: UID, empty where the archive does not tell it.
    """

    uid: str
    sop_class: str


@dataclass(frozen=True)
class StoredFile:
    """Names a DICOM file of ours that an archive should hold.

    Attributes:
        study, series, uid, sop_class, syntax: UIDs in it, the last one of its transfer syntax.
    """

    path: Path
    study: str
    series: str
    uid: str
    sop_class: str
    syntax: str


class Archive(Protocol):
    """Talks to one archive, whatever protocol it speaks.

    Every method raises :class:`PacsError`, or :class:`PacsUnavailableError` where a retry may help.
    """

    def echo(self) -> None:
        """Return if the archive answers and lets us in."""

    def find_studies(self, query: Query) -> list[StudyFound]:
        """Find studies.

        Args:
            query: what to match.

        Returns:
            Those that match, in the archive's order.
        """

    def find_series(self, study: str) -> list[SeriesFound]:
        """Find the series of a study.

        Args:
            study: UID.

        Returns:
            Ordered by number, none where the study is not known.
        """

    def instances(self, study: str, series: str) -> list[InstanceFound]:
        """List all instances of a series.

        Args:
            study, series: UIDs.

        Returns:
            Each of them once, none where the series is not known.
        """

    def fetch(self, study: str, series: str, wanted: Sequence[InstanceFound], keep: Keep) -> None:
        """Fetch instances.

        Args:
            study, series: UIDs.
            wanted: instances of that series.
            keep: is given each of them as soon as it is whole.
        """

    def store(self, files: Sequence[StoredFile], told: Told) -> None:
        """Store files one after the other.

        Args:
            files: of any studies.
            told: is told after each what became of it.
        """


def with_retries(
    action: Callable[[], T], attempts: int = DEFAULT_ATTEMPTS, has_moved: Callable[[], bool] = lambda: False
) -> T:
    """Call ``action`` until it returns, with pauses that double from 1 s to 15 s, each a little longer by chance.

    Args:
        action: what to try.
        attempts: how often in a row without progress, at least 1.
        has_moved: whether the attempt that failed got something done, asked once after each. The count and the pauses
            then start again.

    Returns:
        What ``action`` returned.

    Raises:
        PacsUnavailableError: of the last attempt. Any other error is raised at once.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

    def count_again(state: RetryCallState) -> None:
        if has_moved():
            state.attempt_number = 1

    retrying = Retrying(
        retry=retry_if_exception_type(PacsUnavailableError),
        stop=stop_after_attempt(attempts),
        wait=wait_exponential_jitter(max=_LONGEST_PAUSE_S),
        after=count_again,
        reraise=True,
    )
    return retrying(action)


def status_words(code: int, texts: Mapping[int, tuple[str, str]]) -> str:
    """Put a DIMSE status in words.

    Args:
        code: 0 to 0xFFFF.
        texts: category and text by code, one of the tables of ``pynetdicom.status``.

    Returns:
        Text and number, such as ``Move destination unknown (0xA801)``.
    """
    category, text = texts.get(code, ("Unknown status", ""))
    return f"{text or category} (0x{code:04X})"


def study_found(values: Values) -> StudyFound:
    """Describe a match at study level.

    Args:
        values: Of the match.

    Returns:
        What they say of a study.
    """
    return StudyFound(
        uid=_first(values, "StudyInstanceUID"),
        date=_first(values, "StudyDate"),
        description=_first(values, "StudyDescription"),
        patient_id=_first(values, "PatientID"),
        patient_name=_first(values, "PatientName"),
        accession=_first(values, "AccessionNumber"),
        modalities=tuple(values("ModalitiesInStudy")),
        series=_count(values, "NumberOfStudyRelatedSeries"),
        instances=_count(values, "NumberOfStudyRelatedInstances"),
    )


def series_found(matches: Iterable[Values], study: str) -> list[SeriesFound]:
    """Describe the matches at series level, ordered by number, those without one last.

    Args:
        matches: The values of each.
        study: UID of the study that they belong to.

    Returns:
        Its series.
    """
    found = [
        SeriesFound(
            study=study,
            uid=_first(values, "SeriesInstanceUID"),
            modality=_first(values, "Modality"),
            number=_count(values, "SeriesNumber"),
            description=_first(values, "SeriesDescription"),
            instances=_count(values, "NumberOfSeriesRelatedInstances"),
        )
        for values in matches
    ]
    return sorted(found, key=lambda series: (series.number is None, series.number or 0, series.uid))


def instances_found(matches: Iterable[Values]) -> list[InstanceFound]:
    """Name the instances that matches stand for, each of them once.

    Args:
        matches: The values of each.

    Returns:
        The instances with their UIDs.
    """
    found = (InstanceFound(_first(values, "SOPInstanceUID"), _first(values, "SOPClassUID")) for values in matches)
    return list({instance.uid: instance for instance in found}.values())


def pseudonym(uid: str, kind: str = "series") -> str:
    """Make a name that is always the same and tells nothing about the patient.

    Args:
        uid: of what is named.
        kind: first part of the name: series, study or image.

    Returns:
        ``KIND-`` and 12 hex digits.
    """
    return f"{kind}-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"


def _first(values: Values, keyword: str) -> str:
    return next(iter(values(keyword)), "")


def _count(values: Values, keyword: str) -> int | None:
    text = _first(values, keyword)
    return int(text) if text.lstrip("-").isdigit() else None
