"""DIMSE's queries and matches, and the presentation contexts that objects need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom.presentation import PresentationContext, build_context

from headclip_med.cohort.pacs.archive import InstanceFound, Query, SeriesFound, StoredFile, StudyFound

CONNECTION_LIMIT = 128  # presentation contexts of an association, PS3.8 §9.3.2.2

_IMPLEMENTATION = "2.25.187461250731460214392736174806249173012"  # of this writer, made once

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
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.4.1",  # enhanced MR
    "1.2.840.10008.5.1.4.1.1.128",  # PET
    "1.2.840.10008.5.1.4.1.1.1",  # computed radiography
    "1.2.840.10008.5.1.4.1.1.1.1",  # digital X-ray
    "1.2.840.10008.5.1.4.1.1.6.1",  # ultrasound
    "1.2.840.10008.5.1.4.1.1.3.1",  # ultrasound, multi-frame
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
    "1.2.840.10008.5.1.4.1.1.77.1.1",  # endoscopy
    "1.2.840.10008.5.1.4.1.1.77.1.4",  # photography
)


@dataclass
class StoreGroup:
    """Files that one association can store, and its contexts."""

    files: list[StoredFile] = field(default_factory=list)
    contexts: list[PresentationContext] = field(default_factory=list)


def study_keys(query: Query) -> Dataset:
    """C-FIND at study level."""
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    keys.PatientID, keys.AccessionNumber = query.patient_id or "", query.accession or ""
    keys.StudyDate, keys.ModalitiesInStudy = query.date or "", query.modality or ""
    keys.PatientName = keys.StudyDescription = keys.StudyInstanceUID = ""
    keys.NumberOfStudyRelatedSeries = keys.NumberOfStudyRelatedInstances = None
    return keys


def series_keys(study: str) -> Dataset:
    """C-FIND at series level."""
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "SERIES", study
    keys.SeriesInstanceUID = keys.Modality = keys.SeriesDescription = ""
    keys.SeriesNumber = keys.NumberOfSeriesRelatedInstances = None
    return keys


def instance_keys(study: str, series: str | None) -> Dataset:
    """C-FIND at image level."""
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "IMAGE", study
    keys.SeriesInstanceUID = series or ""
    keys.SOPInstanceUID = keys.SOPClassUID = ""
    return keys


def study_found(match: Dataset) -> StudyFound:
    """A match of :func:`study_keys`."""
    modalities = match.get("ModalitiesInStudy") or []
    return StudyFound(
        uid=_text(match, "StudyInstanceUID"),
        date=_text(match, "StudyDate"),
        description=_text(match, "StudyDescription"),
        patient_id=_text(match, "PatientID"),
        patient_name=_text(match, "PatientName"),
        accession=_text(match, "AccessionNumber"),
        modalities=(modalities,) if isinstance(modalities, str) else tuple(map(str, modalities)),
        series=_count(match, "NumberOfStudyRelatedSeries"),
        instances=_count(match, "NumberOfStudyRelatedInstances"),
    )


def series_found(match: Dataset, study: str) -> SeriesFound:
    """A match of :func:`series_keys`."""
    return SeriesFound(
        study=study,
        uid=_text(match, "SeriesInstanceUID"),
        modality=_text(match, "Modality"),
        number=_count(match, "SeriesNumber"),
        description=_text(match, "SeriesDescription"),
        instances=_count(match, "NumberOfSeriesRelatedInstances"),
    )


def instance_found(match: Dataset) -> InstanceFound:
    """A match of :func:`instance_keys`."""
    return InstanceFound(_text(match, "SOPInstanceUID"), _text(match, "SOPClassUID"))


def storage_contexts(wanted: Sequence[InstanceFound]) -> tuple[list[PresentationContext], list[str]]:
    """What a C-GET of these needs: a context for each kind and syntax, so that the archive need not convert.

    Returns:
        The contexts, and the SOP classes in them.
    """
    classes = sorted({instance.sop_class for instance in wanted} - {""}) or list(_IMAGE_CLASSES)
    classes = classes[: CONNECTION_LIMIT // len(_SYNTAXES) - 1]
    return [build_context(name, syntax) for name in classes for syntax in _SYNTAXES], classes


def store_contexts(files: Iterable[StoredFile]) -> Iterator[StoreGroup]:
    """Files in groups that stay within the limit of contexts, each file in its own syntax."""
    group, known = StoreGroup(), set[tuple[str, str]]()
    for file in files:
        kind = (file.sop_class, file.syntax)
        if kind not in known and len(known) == CONNECTION_LIMIT:
            yield group
            group, known = StoreGroup(), set()
        if kind not in known:
            known.add(kind)
            group.contexts.append(build_context(UID(file.sop_class), UID(file.syntax)))
        group.files.append(file)
    if group.files:
        yield group


def part10(event: Any) -> bytes:
    """A received object as a file: the bytes as they came, behind a header that depends on nothing but them.

    pynetdicom's own header names its version; content that changes with it would count as another case.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = event.request.AffectedSOPClassUID
    meta.MediaStorageSOPInstanceUID = event.request.AffectedSOPInstanceUID
    meta.TransferSyntaxUID = event.context.transfer_syntax
    meta.ImplementationClassUID = UID(_IMPLEMENTATION)
    header = BytesIO()
    write_file_meta_info(header, meta)
    return bytes(128) + b"DICM" + header.getvalue() + event.encoded_dataset(include_meta=False)


def _text(match: Dataset, keyword: str) -> str:
    value = match.get(keyword)
    return "" if value is None else str(value)


def _count(match: Dataset, keyword: str) -> int | None:
    text = _text(match, keyword)
    return int(text) if text.lstrip("-").isdigit() else None
