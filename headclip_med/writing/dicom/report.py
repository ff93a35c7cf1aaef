"""Measurements as a Comprehensive 3D SR, TID 1500, whose groups refer to the segments of our own segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import highdicom.sr as sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.seg import Segmentation
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from headclip_med.base.geometry import RAS_TO_LPS
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.base.versions import __version__
from headclip_med.engine.result import Finding
from headclip_med.writing.dicom.frames import MOST_SEGMENTS
from headclip_med.writing.dicom.seg import frames_by_segment
from headclip_med.writing.dicom.sources import SourceFrame
from headclip_med.writing.dicom.study import ABNORMAL, ALGORITHM, MANUFACTURER, Study, total_size

# DICOM has no codes for these; a designator that begins with 99 is for local schemes.
_SCHEME = "99HEADCLIP"
_SCORE = Code("anomaly-score", _SCHEME, "Anomaly score")
_THRESHOLD = Code("anomaly-threshold", _SCHEME, "Threshold of the anomaly map")
_FINDINGS = Code("findings", _SCHEME, "Number of findings")
_PIXELS = Code("pixels", _SCHEME, "Number of pixels")
_PIXEL = Code("{pixels}", "UCUM", "pixels")
_CENTROID = tuple(Code(f"centroid-{a}", _SCHEME, f"Centroid, patient {a.upper()} (LPS)") for a in "xyz")
_USE = Code("intended-use", _SCHEME, "Intended use")
_RESEARCH = Code("research-only", _SCHEME, RESEARCH_ONLY)


def measurement_report(study: Study, segmentation: Segmentation) -> sr.Comprehensive3DSR:
    """Make a report with a group about the case and its slices, one about each finding, one about all further findings.

    Args:
        study: What is written about.
        segmentation: Of :func:`headclip_med.writing.dicom.seg.findings_segmentation`, finished.

    Returns:
        The object, finished.
    """
    frames = frames_by_segment(segmentation)
    groups = [_case(study)]
    for number, finding in enumerate(study.shown, start=1):
        groups.append(_group(study, segmentation, number, f"finding {number}", frames, _measured(study, finding)))
    if study.others:
        number, together = MOST_SEGMENTS + 1, list(_of_others(study))
        groups.append(_group(study, segmentation, number, "further findings", frames, together))
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_person_context=_reader(study), observer_device_context=_observer(study)
        ),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    made = sr.Comprehensive3DSR(
        evidence=[*study.sources.evidence(), _evidence(segmentation)],
        content=content[0],
        is_complete=True,
        coding_schemes=[_scheme()],
        **study.series("sr"),
    )
    study.finish(made)
    return made


def _evidence(segmentation: Segmentation) -> Dataset:
    """What a report needs of our segmentation, which would otherwise be copied with its pixels."""
    item = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(item, keyword, segmentation[keyword].value)
    return item


def _scheme() -> CodingSchemeIdentificationItem:
    return CodingSchemeIdentificationItem(
        designator=_SCHEME, name="headclip-med", responsible_organization=MANUFACTURER
    )


def _observer(study: Study) -> sr.ObserverContext:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=study.uid("device"),
        name=ALGORITHM,
        manufacturer_name=MANUFACTURER,
        model_name=study.model,
        serial_number=__version__,
    )
    return sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)


def _reader(study: Study) -> sr.ObserverContext | None:
    """The reader who chose the findings. None where the program alone found them, or for a de-identified object."""
    review = study.result.provenance.get("review")
    if not isinstance(review, dict) or study.options.deidentify:
        return None
    person = sr.PersonObserverIdentifyingAttributes(name=str(review["reader"]))
    return sr.ObserverContext(observer_type=codes.DCM.Person, observer_identifying_attributes=person)


def _algorithm(study: Study) -> sr.AlgorithmIdentification:
    parameters = [f"{name}={value}" for name, value in study.parameters().items()]
    return sr.AlgorithmIdentification(name=ALGORITHM, version=__version__, parameters=parameters)


def _use() -> list[sr.QualitativeEvaluation]:
    return [sr.QualitativeEvaluation(name=_USE, value=_RESEARCH)]


def _case(study: Study) -> sr.MeasurementsAndQualitativeEvaluations:
    """The case's score, how many findings, the threshold, and every slice's score with the image it is about."""
    result = study.result
    measured = [
        _number(_SCORE, result.pred_score),
        _number(_THRESHOLD, result.threshold),
        _number(_FINDINGS, len(result.findings)),
    ]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=study.tracking_uid(0), identifier="case"),
        algorithm_id=_algorithm(study),
        measurements=[*measured, *_of_slices(study)],
        qualitative_evaluations=_use(),
    )


def _of_slices(study: Study) -> Iterator[sr.Measurement]:
    """Scores of the slices that are source frames. None where the primary plane cuts across them."""
    by_uid: dict[str, list[SourceFrame]] = {}
    for frame in study.sources.frames:
        by_uid.setdefault(frame.sop_uid, []).append(frame)
    for entry in study.result.slices:
        frames = by_uid.get(entry.uid or "", [])
        if len(frames) == 1:
            image = sr.SourceImageForMeasurement(frames[0].sop_class, frames[0].sop_uid, _numbers(frames))
            yield sr.Measurement(
                name=_SCORE, value=_rounded(entry.score), unit=codes.UCUM.NoUnits, referenced_images=[image]
            )


def _measured(study: Study, finding: Finding) -> list[sr.Measurement]:
    measured = [
        _size([finding]),
        _number(_SCORE, finding.peak, derivation=codes.SCT.Maximum),
        _number(_SCORE, finding.mean, derivation=codes.SCT.Mean),
    ]
    if study.sources.placed and finding.centroid_mm is not None:
        lps = RAS_TO_LPS[:3, :3] @ finding.centroid_mm
        measured += [_number(name, x, codes.UCUM.Millimeter) for name, x in zip(_CENTROID, lps, strict=True)]
    return measured


def _of_others(study: Study) -> Iterator[sr.Measurement]:
    yield _number(_FINDINGS, len(study.others))
    yield _size(study.others)
    yield _number(_SCORE, study.others[0].peak, derivation=codes.SCT.Maximum)


def _size(findings: Sequence[Finding]) -> sr.Measurement:
    size, is_plain = total_size(findings)
    if is_plain:
        return _number(_PIXELS, size, _PIXEL)
    return _number(codes.SCT.Volume, size, codes.UCUM.CubicMillimeter)


def _group(
    study: Study,
    segmentation: Segmentation,
    number: int,
    identifier: str,
    frames: dict[int, list[int]],
    measured: Sequence[sr.Measurement],
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    # the number of the segment says all: DICOM forbids frame numbers beside it
    segment = sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=number,
        source_images=_source_images(study, segmentation, frames.get(number, [])),
    )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=study.tracking_uid(number), identifier=identifier),
        referenced_segment=segment,
        finding_category=ABNORMAL,
        finding_type=ABNORMAL,
        algorithm_id=_algorithm(study),
        measurements=measured,
        qualitative_evaluations=_use(),
    )


def _source_images(study: Study, segmentation: Segmentation, own: list[int]) -> list[sr.SourceImageForSegmentation]:
    """The source frames that a segment's frames were made from, or all of them for a segment without a frame."""
    groups = segmentation.PerFrameFunctionalGroupsSequence
    named: dict[str, set[int]] = {}
    for place in own:
        for derivation in groups[place - 1].get("DerivationImageSequence") or []:
            for item in derivation.SourceImageSequence:
                numbers = named.setdefault(str(item.ReferencedSOPInstanceUID), set())
                if "ReferencedFrameNumber" in item:
                    numbers.add(int(item.ReferencedFrameNumber))
    instances = study.sources.instances
    return [
        sr.SourceImageForSegmentation(instances[uid], uid, sorted(numbers) or None)
        for uid, numbers in (named or {uid: set() for uid in instances}).items()
    ]


def _numbers(frames: Sequence[SourceFrame]) -> list[int] | None:
    return [frame.number for frame in frames if frame.number is not None] or None


def _number(name: Code, value: float, unit: Code | None = None, derivation: Code | None = None) -> sr.Measurement:
    return sr.Measurement(name=name, value=_rounded(value), unit=unit or codes.UCUM.NoUnits, derivation=derivation)


def _rounded(value: float) -> float:
    """Nine significant digits: all that float32 has, and short enough for a decimal string."""
    return float(f"{value:.9g}")
