"""A result as DICOM objects: segmentations, parametric map, structured report, secondary captures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headclip_med.result import AnomalyResult
from headclip_med.writing.dicom_options import NAMES, DicomOptions, check_dicom_extra, check_dicom_meta, wanted_kinds


def write_dicom(
    result: AnomalyResult, folder: Path, kinds: Sequence[str], options: DicomOptions | None = None
) -> dict[str, Path]:
    """Write DICOM objects of a result whose source is DICOM into an existing folder; sources are only read.

    Args:
        kinds: of ``seg`` (a binary segment per finding), ``segscore`` (the map as a fractional segment), ``pm``
            (parametric map), ``sr`` (report, which brings ``seg``), ``sc`` (pictures), ``dicom`` (all but segscore).

    Returns:
        Paths by kind; secondary captures as ``sc_01``, ``sc_02``, ….

    Raises:
        MissingExtraError: highdicom is not installed.
        OutputError: another source than DICOM, one that cannot be written about, or a file that cannot be written.
        InputError: the source images are gone or have changed.
    """
    chosen, asked = wanted_kinds(kinds), options or DicomOptions()
    if not chosen:
        return {}
    check_dicom_extra(kinds)
    check_dicom_meta(result.meta.get("source_format"), kinds)
    from headclip_med.writing.dicom_study import open_study, save

    study = open_study(result, asked)
    files: dict[str, Path] = {}
    segmentation = None
    for kind in chosen:
        if kind == "sc":
            from headclip_med.writing.dicom_capture import secondary_captures

            for number, capture in enumerate(secondary_captures(study), start=1):
                files[f"sc_{number:02d}"] = folder / f"sc_{number:02d}.dcm"
                save(study, capture, files[f"sc_{number:02d}"])
            continue
        files[kind] = folder / NAMES[kind]
        if kind == "seg":
            from headclip_med.writing.dicom_seg import findings_segmentation

            segmentation = findings_segmentation(study)
            save(study, segmentation, files[kind])
        elif kind == "segscore":
            from headclip_med.writing.dicom_seg import score_segmentation

            save(study, score_segmentation(study), files[kind])
        elif kind == "pm":
            from headclip_med.writing.dicom_map import parametric_map

            save(study, parametric_map(study), files[kind])
        elif kind == "sr" and segmentation is not None:
            from headclip_med.writing.dicom_report import measurement_report

            save(study, measurement_report(study, segmentation), files[kind])
    return files


__all__ = ["DicomOptions", "write_dicom"]
