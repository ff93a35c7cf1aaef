"""What all objects of one result share: identity, series, time, equipment, words, and the finishing touches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from highdicom import AlgorithmIdentificationSequence
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DA, DT, TM

from headclip_med.base.errors import HeadclipError, OutputError
from headclip_med.base.files import atomic_path
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.base.versions import __version__
from headclip_med.engine.result import AnomalyResult, Finding
from headclip_med.reading.checks import collected_warnings
from headclip_med.reading.dicom.values import integer
from headclip_med.writing.dicom.deidentify import deidentified
from headclip_med.writing.dicom.frames import MOST_SEGMENTS, read_affine
from headclip_med.writing.dicom.options import DicomOptions
from headclip_med.writing.dicom.sources import SourceImages, read_sources
from headclip_med.writing.dicom.uids import derived_uid, result_key, series_number

MANUFACTURER = "headclip_med authors"
ALGORITHM = "headclip-med"
ABNORMAL = codes.SCT.MorphologicallyAbnormalStructure

# Series descriptions hold 64 characters.
_SERIES = {
    "seg": "Anomaly findings (research use only)",
    "segscore": "Anomaly score, fractional (research use only)",
    "pm": "Anomaly map (research use only)",
    "sr": "Anomaly measurements (research use only)",
    "sc": "Anomaly overlay (research use only)",
}

# Body parts of which there is one: an object about any other must say which side, or that it is not known.
_UNPAIRED = (
    *("ABDOMEN", "AORTA", "BLADDER", "BRAIN", "CHEST", "COLON", "CSPINE", "ESOPHAGUS", "HEAD", "HEADNECK", "HEART"),
    *(
        "LIVER",
        "LSPINE",
        "MAXILLA",
        "MEDIASTINUM",
        "NECK",
        "PANCREAS",
        "PELVIS",
        "PROSTATE",
        "RECTUM",
        "SKULL",
        "SPINE",
    ),
    *("SPLEEN", "SSPINE", "STOMACH", "THYROID", "TSPINE", "UTERUS", "WHOLEBODY"),
)

_DATES = ("InstanceCreationDate", "ContentDate", "DateOfSecondaryCapture", "SeriesDate")
_TIMES = ("InstanceCreationTime", "ContentTime", "TimeOfSecondaryCapture", "SeriesTime")


@dataclass(frozen=True)
class Study:
    """A result, its source images, and how to write about them.

    Attributes:
        result: What was found.
        sources: The images that it was made from.
        options: How objects are written.
        moment: When, the same in every object.
    """

    result: AnomalyResult
    sources: SourceImages
    options: DicomOptions
    moment: datetime

    @cached_property
    def key(self) -> str:
        """What the objects' UIDs are made of."""
        source = str(self.sources.header.SeriesInstanceUID)
        return f"{result_key(self.result, source)} {self.options}"

    def uid(self, *parts: object) -> str:
        """Derive a UID of this result's own.

        Args:
            *parts: What it is for. Equal parts give equal UIDs.

        Returns:
            A UID below 2.25.
        """
        return derived_uid(self.key, *(str(part) for part in parts))

    def tracking_uid(self, finding: int) -> str:
        """Derive the UID that a finding's segment and its measurements share.

        Args:
            finding: Number of the segment, from 1. 0 is the case.

        Returns:
            A UID below 2.25.
        """
        return self.uid("tracking", finding)

    @property
    def model(self) -> str:
        """Name of the model, at most 64 characters."""
        return str(self.result.provenance.get("model") or "unknown model")[:64]

    @property
    def serial_number(self) -> str:
        """Of the "device": the beginning of the hash of its weights."""
        known = self.result.provenance
        hashes = (known.get(name) for name in ("export_sha256", "weights_sha256", "pack_sha256"))
        return next((found[:16] for found in hashes if isinstance(found, str)), "unknown")

    def series(self, kind: str, number: int = 1) -> dict[str, Any]:
        """Describe series, instance and equipment of an object.

        Args:
            kind: One of :data:`headclip_med.writing.dicom.options.DICOM_KINDS`.
            number: Of the object in its series, from 1.

        Returns:
            Arguments by name, as highdicom's constructors take them.
        """
        return {
            "series_instance_uid": self.uid(kind, "series"),
            "series_number": series_number(integer(self.sources.header, "SeriesNumber"), kind),
            "sop_instance_uid": self.uid(kind, "instance", number),
            "instance_number": number,
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": ALGORITHM,
            "software_versions": __version__,
            "device_serial_number": self.serial_number,
            "series_description": _SERIES[kind],
        }

    def parameters(self) -> dict[str, str]:
        """List what the algorithm was run with.

        Returns:
            By name the model, the threshold, and the hashes, method and domain that the result knows.
        """
        known = self.result.provenance
        named = {"model": self.model}
        for name in ("weights_sha256", "pack_sha256", "export_sha256", "method", "domain"):
            if isinstance(known.get(name), str):
                named[name] = known[name]
        return {**named, "threshold": f"{self.result.threshold:.6g}"}

    def algorithm(self) -> AlgorithmIdentificationSequence:
        """Describe who found it: this package with its version and parameters.

        Returns:
            As a segment's description takes it.
        """
        return AlgorithmIdentificationSequence(
            name=ALGORITHM,
            family=codes.DCM.ArtificialIntelligence,
            version=__version__,
            source=MANUFACTURER,
            parameters=self.parameters(),
        )

    @property
    def shown(self) -> tuple[Finding, ...]:
        """Findings with a segment of their own."""
        return self.result.findings[:MOST_SEGMENTS]

    @property
    def others(self) -> tuple[Finding, ...]:
        """Findings that share the last segment."""
        return self.result.findings[MOST_SEGMENTS:]

    def state_body_part(self, dataset: Dataset) -> None:
        """State the source's body part and side.

        Args:
            dataset: The object, which is changed. An unknown side is left empty, or unsaid for a part of
                which there is one.
        """
        part, side = (str(self.sources.header.get(keyword) or "") for keyword in ("BodyPartExamined", "Laterality"))
        if part:
            dataset.BodyPartExamined = part
        if side in ("L", "R"):
            dataset.Laterality = side
        elif part not in _UNPAIRED:
            dataset.Laterality = ""

    def finish(self, dataset: Dataset) -> Dataset:
        """Finish an object: references to the true source, one time stamp, UIDs without chance, research use.

        Args:
            dataset: The object, which is changed.

        Returns:
            The same object.
        """
        self.sources.restore_references(dataset)
        dataset.ContentQualification = "RESEARCH"
        dataset.SeriesDate, dataset.SeriesTime = "", ""
        for keywords, value in ((_DATES, DA(self.moment.date())), (_TIMES, TM(self.moment.time()))):
            for keyword in keywords:
                if keyword in dataset:
                    setattr(dataset, keyword, value)
        for item in dataset.get("ContributingEquipmentSequence") or []:
            if "ContributionDateTime" in item and item.get("ManufacturerModelName") == "highdicom":
                item.ContributionDateTime = DT(self.moment)
        organization = self.uid("dimensions", str(dataset.SOPInstanceUID))
        for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
            for item in dataset.get(keyword) or []:
                item.DimensionOrganizationUID = organization
        return dataset


def open_study(result: AnomalyResult, options: DicomOptions) -> Study:
    """Read the sources of a result again and check them, see :func:`headclip_med.writing.dicom.sources.read_sources`.

    Args:
        result: What was found.
        options: How objects are written.

    Returns:
        What objects are made of.

    Raises:
        OutputError: the volume does not say which images it was read from, or they cannot serve as a base.
        InputError: an image is gone, unreadable, too large or no longer the one that was read.
    """
    sources = read_sources(result.meta, read_affine(result))
    return Study(result, sources, options, _now())


def save(dataset: Dataset, path: Path, without_patient: bool = False) -> None:
    """Write an object, whole or not at all.

    Args:
        dataset: The object.
        path: Of the file, whose folder is made.
        without_patient: Write a de-identified copy.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as draft:
        written = deidentified(dataset) if without_patient else dataset
        written.save_as(draft, enforce_file_format=True)


@contextmanager
def quiet(what: str) -> Iterator[None]:
    """Keep highdicom's and pydicom's remarks off the screen, and turn their errors into one in words.

    They may quote values of the header, so only the kind of problem is repeated. ``OSError`` and our own errors pass.

    Args:
        what: End of the message, after "a DICOM object".

    Raises:
        OutputError: for every other error.
    """
    said: list[str] = []
    try:
        with collected_warnings(said, "highdicom", "highdicom"), collected_warnings(said, "pydicom", "pydicom"):
            yield
    except (HeadclipError, OSError):
        raise
    except Exception as problem:
        raise OutputError(
            f"The source's header must allow a DICOM object {what}",
            f"{type(problem).__name__} from highdicom",
            "Leave the DICOM formats out, or repair the source's header",
        ) from problem


def total_size(findings: Sequence[Finding]) -> tuple[float, bool]:
    """Add up the size of findings.

    Args:
        findings: Of one result.

    Returns:
        Their size in mm³, or in pixels of a plain picture, and whether it is in pixels.
    """
    volumes = [finding.volume_mm3 for finding in findings if finding.volume_mm3 is not None]
    is_plain = len(volumes) < len(findings)
    return (sum(finding.voxels for finding in findings) if is_plain else sum(volumes)), is_plain


def size_text(findings: Sequence[Finding]) -> str:
    """Say how large findings are together, in ASCII, as any character set of DICOM holds it.

    Args:
        findings: Of one result.

    Returns:
        Such as ``37.5 mm3``, or ``412 px`` in a plain picture.
    """
    size, is_plain = total_size(findings)
    return f"{size:.0f} px" if is_plain else f"{size:.1f} mm3"


def research_text(*facts: str) -> str:
    """Put facts in one line, with what must never be missing at its end.

    Args:
        *facts: In order.

    Returns:
        The facts and :data:`headclip_med.base.types.RESEARCH_ONLY`, with semicolons between them.
    """
    return "; ".join((*facts, RESEARCH_ONLY))


def _now() -> datetime:
    """The time, to the second. ``SOURCE_DATE_EPOCH`` (seconds since 1970, UTC) fixes it for reproducible files."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    if fixed.isdigit():
        return datetime.fromtimestamp(int(fixed), timezone.utc).replace(tzinfo=None)
    return datetime.now().replace(microsecond=0)
