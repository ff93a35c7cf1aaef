"""What is asked of an archive, whatever protocol it speaks, and what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from headclip_med.base.errors import HeadclipError, MissingExtraError

Keep = Callable[[str, bytes], None]  # SOPInstanceUID, the whole file
MAX_INSTANCE_BYTES = 2 * 1024**3
MAX_INSTANCES = 100_000


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


Told = Callable[["StoredFile", "str | None"], None]  # a file, and why it was refused; None: it is stored


@dataclass(frozen=True)
class Query:
    """What to find; None matches everything. ``date``: YYYYMMDD or a range YYYYMMDD-YYYYMMDD."""

    patient_id: str | None = None
    accession: str | None = None
    date: str | None = None
    modality: str | None = None
    limit: int = 100


@dataclass(frozen=True)
class StudyFound:
    """A study; all but modalities and counts identify a patient. Empty text and None: not told by the archive."""

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
    """A series of a study."""

    study: str
    uid: str
    modality: str
    number: int | None
    description: str
    instances: int | None

    @property
    def name(self) -> str:
        """What we call it; see :func:`pseudonym`."""
        return pseudonym(self.uid)


@dataclass(frozen=True)
class InstanceFound:
    """An instance of a series; ``sop_class`` is empty where the archive does not tell it."""

    uid: str
    sop_class: str


@dataclass(frozen=True)
class StoredFile:
    """A DICOM file of ours that an archive should hold."""

    path: Path
    study: str
    series: str
    uid: str
    sop_class: str
    syntax: str


class Archive(Protocol):
    """One archive. Every method raises :class:`PacsError`, or :class:`PacsUnavailableError` where a retry may help."""

    def echo(self) -> None:
        """Return if the archive answers and lets us in."""

    def find_studies(self, query: Query) -> list[StudyFound]:
        """The studies that match, in the archive's order."""

    def find_series(self, study: str) -> list[SeriesFound]:
        """The series of a study, by number."""

    def instances(self, study: str, series: str) -> list[InstanceFound]:
        """All instances of a series; empty where it is not known."""

    def fetch(self, study: str, series: str, wanted: Sequence[InstanceFound], keep: Keep) -> None:
        """Give every wanted instance to ``keep`` as soon as it is whole."""

    def store(self, files: Iterable[StoredFile], told: Told) -> None:
        """Store the files, one after the other, and say after each what became of it."""


def pseudonym(uid: str, kind: str = "series") -> str:
    """A name for a series or instance that is always the same and tells nothing about the patient."""
    return f"{kind}-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"


def by_number(series: Iterable[SeriesFound]) -> list[SeriesFound]:
    """Ordered by series number, those without one last."""
    return sorted(series, key=lambda found: (found.number is None, found.number or 0, found.uid))
