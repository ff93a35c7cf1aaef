"""Findings, or the map itself, as a DICOM Segmentation on the source's own frames."""

from __future__ import annotations

import numpy as np
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian

from headclip_med.engine.result import Finding
from headclip_med.writing.dicom.frames import MOST_SEGMENTS, frame_scores, frame_segments
from headclip_med.writing.dicom.study import ABNORMAL, Study, research_text, size_text


def findings_segmentation(study: Study) -> Segmentation:
    """Make a BINARY segmentation: a segment per finding in order, and one for all that are beyond the most.

    Without any finding there is one segment, and nothing is set in it.

    Args:
        study: What is written about.

    Returns:
        The object, finished, with :data:`headclip_med.writing.dicom.frames.MOST_SEGMENTS` + 1 segments at most.

    Raises:
        OutputError: several images without a place in the patient, two in one, or a finding off its map.
    """
    segments = frame_segments(study.result, study.sources)
    described = [_finding_segment(study, number, f) for number, f in enumerate(study.shown, start=1)]
    if study.others:
        described.append(_others_segment(study))
    return _segmentation(study, "seg", "BINARY", segments, described or [_nothing_segment(study)])


def score_segmentation(study: Study) -> Segmentation:
    """Make a FRACTIONAL segmentation: the map in steps of 1/255 as the probability of one segment.

    Args:
        study: What is written about.

    Returns:
        The object, finished.

    Raises:
        OutputError: several images without a place in the patient, or two in one.
    """
    scores = frame_scores(study.result, study.sources)
    text = research_text(f"Anomaly map in 255 steps, peak {study.result.map_array.max():.3f}")
    segment = _segment(study, 1, "Anomaly map", "anomaly map", text)
    return _segmentation(study, "segscore", "FRACTIONAL", scores[..., None], [segment])


def frames_by_segment(segmentation: Segmentation) -> dict[int, list[int]]:
    """Group the frames of a segmentation by segment.

    Args:
        segmentation: Any object with a segment per frame.

    Returns:
        Frame numbers in the object, from 1 and rising, by segment number. A segment without a frame is not in it.
    """
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    frames: dict[int, list[int]] = {}
    for number, groups in enumerate(segmentation.PerFrameFunctionalGroupsSequence, start=1):
        place = groups if "SegmentIdentificationSequence" in groups else shared
        segment = int(place.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        frames.setdefault(segment, []).append(number)
    return frames


def _segmentation(
    study: Study, kind: str, of_type: str, pixels: NDArray[np.generic], described: list[SegmentDescription]
) -> Segmentation:
    made = Segmentation(
        source_images=study.sources.headers,
        pixel_array=pixels,
        segmentation_type=of_type,
        segment_descriptions=described,
        omit_empty_frames=not study.options.keep_empty_frames,
        content_label="ANOMALY",
        content_description="Anomalies, research use only",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **study.series(kind),
    )
    if not study.sources.placed:
        made.PatientOrientation = study.sources.header.get("PatientOrientation") or []
    study.finish(made)
    return made


def _finding_segment(study: Study, number: int, finding: Finding) -> SegmentDescription:
    facts = (
        f"Score {finding.peak:.3f} (peak), {finding.mean:.3f} (mean)",
        size_text([finding]),
        f"threshold {study.result.threshold:.3g}",
    )
    label = f"Finding {number}, score {finding.peak:.2f}"
    return _segment(study, number, label, f"finding {number}", research_text(*facts))


def _others_segment(study: Study) -> SegmentDescription:
    others = study.others
    text = research_text(
        f"{len(others)} findings with lower scores than the {MOST_SEGMENTS} before, together",
        f"highest score {others[0].peak:.3f}",
        size_text(others),
    )
    label = f"{len(others)} further findings, score up to {others[0].peak:.2f}"
    return _segment(study, MOST_SEGMENTS + 1, label, "further findings", text)


def _nothing_segment(study: Study) -> SegmentDescription:
    reached = f"Nothing reaches the threshold {study.result.threshold:.3g}"
    why = reached if study.result.finding_labels is None else "The reader accepted and drew nothing"
    text = research_text(f"{why}; no pixel is set")
    return _segment(study, 1, "No finding", "no finding", text)


def _segment(study: Study, number: int, label: str, tracking: str, text: str) -> SegmentDescription:
    segment = SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=ABNORMAL,
        segmented_property_type=ABNORMAL,
        algorithm_type="AUTOMATIC" if study.result.finding_labels is None else "SEMIAUTOMATIC",
        algorithm_identification=study.algorithm(),
        tracking_id=tracking,
        tracking_uid=study.tracking_uid(number),
    )
    segment.SegmentDescription = text
    return segment
