"""What a reader accepted or drew as DICOM SEG and SR; needs highdicom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headclip_med.review.reviewed import ReviewedCase
from headclip_med.writing.dicom import write_dicom
from headclip_med.writing.dicom_options import DicomOptions


def write_accepted(
    reviewed: ReviewedCase, folder: Path, kinds: Sequence[str], options: DicomOptions | None = None
) -> dict[str, Path]:
    """As :func:`headclip_med.writing.dicom.write_dicom`, one segment and group of measurements for each finding.

    UIDs follow from the review's state: the same state replaces what was sent before.
    """
    return write_dicom(reviewed.result(), folder, kinds, options)
