"""Step 7: a result → files that other people open. Imported late, so that a plain import stays light."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headclip_med.base.errors import OutputError
from headclip_med.engine.result import AnomalyResult
from headclip_med.writing.dicom.options import DICOM_FORMATS, DicomOptions

FORMATS = ("nifti", "png", "html", "json")
ALL_FORMATS = (*FORMATS, *DICOM_FORMATS)

MAP_NAME = "anomaly_map.nii.gz"
MASK_NAME = "anomaly_mask.nii.gz"
MAP_PICTURE_NAME = "anomaly_map.png"
MASK_PICTURE_NAME = "anomaly_mask.png"
PREVIEW_NAME = "preview.png"
REPORT_NAME = "report.html"


def write_result(
    result: AnomalyResult,
    folder: Path,
    formats: Sequence[str] = FORMATS,
    keep_identifiers: bool = False,
    dicom: DicomOptions | None = None,
) -> dict[str, Path]:
    """Write a result into an existing folder, as :func:`headclip_med.writing.folder.case_folder` gives one.

    ``result.json`` is written whatever ``formats`` says, and last: its presence says that the folder is
    complete, and no map should be found without its provenance.

    Args:
        result: What one prediction found.
        folder: Where the files go. An earlier ``result.json`` in it is removed first.
        formats: Any of ``nifti`` (map and mask), ``png`` (a preview, and of a plain picture map and mask, too),
            ``html``, ``json``, and for a DICOM source those of
            :func:`headclip_med.writing.dicom.objects.write_dicom`.
        keep_identifiers: Keep SOPInstanceUIDs in ``result.json``.
        dicom: How DICOM objects are written.

    Returns:
        Paths by kind: ``map``, ``mask``, ``map_png``, ``mask_png``, ``preview``, ``report``, ``seg``, …, ``result``.

    Raises:
        OutputError: for an unknown format, a folder that is not there, a result that does not fit its schema, a file
            that cannot be written, or DICOM from another source.
        InputError, MissingExtraError: see ``write_dicom``.
    """
    from headclip_med.base.files import RECORD_NAME, remove_file
    from headclip_med.writing.record import to_record, write_result_record

    check_formats(formats)
    if not folder.is_dir():
        raise OutputError("A result must be written into an existing folder", f"no folder '{folder.name}'")
    record_path = folder / RECORD_NAME
    remove_file(record_path)  # an earlier record must not vouch for the new files
    files = _write_maps(result, folder) if "nifti" in formats else {}
    files |= _write_pictures(result, folder, formats)
    if set(formats) & set(DICOM_FORMATS):
        from headclip_med.writing.dicom.objects import write_dicom

        files |= write_dicom(result, folder, formats, dicom)
    write_result_record(to_record(result, files, keep_identifiers), record_path)
    return {**files, "result": record_path}


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a format that does not exist.

    Args:
        formats: Names that should be in :data:`ALL_FORMATS`.

    Raises:
        OutputError: any of them is not.
    """
    unknown = [name for name in formats if name not in ALL_FORMATS]
    if unknown:
        raise OutputError(f"A format must be one of {', '.join(ALL_FORMATS)}", ", ".join(unknown))


def _write_maps(result: AnomalyResult, folder: Path) -> dict[str, Path]:
    from headclip_med.writing.nifti import write_map, write_mask

    files = {"map": folder / MAP_NAME, "mask": folder / MASK_NAME}
    write_map(result, files["map"])
    write_mask(result, files["mask"])
    return files


def _write_pictures(result: AnomalyResult, folder: Path, formats: Sequence[str]) -> dict[str, Path]:
    if not {"png", "html"} & set(formats):
        return {}
    from headclip_med.writing.overlay import montage, save_picture, write_map_picture, write_mask_picture
    from headclip_med.writing.panels import is_one_picture
    from headclip_med.writing.report import write_report

    picture = montage(result)
    files: dict[str, Path] = {}
    if "png" in formats:
        files["preview"] = folder / PREVIEW_NAME
        save_picture(picture, files["preview"])
    if "png" in formats and is_one_picture(result):
        files |= {"map_png": folder / MAP_PICTURE_NAME, "mask_png": folder / MASK_PICTURE_NAME}
        write_map_picture(result, files["map_png"])
        write_mask_picture(result.pred_mask, result, files["mask_png"])
    if "html" in formats:
        files["report"] = folder / REPORT_NAME
        write_report(result, files["report"], picture)
    return files


__all__ = ["ALL_FORMATS", "DICOM_FORMATS", "FORMATS", "DicomOptions", "check_formats", "write_result"]
