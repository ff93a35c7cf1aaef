"""What was reviewed → files that other people open: JSON, CSV, NIfTI, pictures, one page, DICOM.

Every file appears whole or not at all and says that it is for research use only. What is exported of a judged
finding is the region that was judged, wherever the threshold stands now.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headclip_med.base.errors import InputError, OutputError
from headclip_med.base.files import check_writable, os_errors_in_words, write_text
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.review.model import review_json
from headclip_med.review.reviewed import ReviewedCase, ReviewedFinding, case_names
from headclip_med.writing.dicom.objects import write_dicom
from headclip_med.writing.dicom.options import DicomOptions

if TYPE_CHECKING:
    from headclip_med.writing.dicom.options import DicomOptions
    from headclip_med.writing.record import Millimetres


FORMATS = ("json", "csv", "nifti", "png", "html")
DICOM_FORMATS = ("seg", "sr")
JSON_NAME, CSV_NAME, MASK_NAME, PAGE_NAME = "review.json", "findings.csv", "accepted_mask.nii.gz", "review.html"
MASK_PICTURE_NAME = "accepted_mask.png"
_COLUMNS = (
    *("reader", "case", "result_sha256", "source", "finding", "kind", "status", "label", "note", "confidence"),
    *("peak", "mean", "volume_mm3", "voxels", "x_mm", "y_mm", "z_mm", "peak_x_mm", "peak_y_mm", "peak_z_mm"),
    *("x_px", "y_px", "peak_x_px", "peak_y_px"),
    *("first_slice", "last_slice", "threshold", "unaided", "who", "when", "research_use_only"),
)


def write_accepted(
    reviewed: ReviewedCase, folder: Path, kinds: Sequence[str], options: DicomOptions | None = None
) -> dict[str, Path]:
    """Write as :func:`headclip_med.writing.dicom.objects.write_dicom`, one segment and group of measurements for each
    finding.

    UIDs follow from the review's state: the same state replaces what was sent before.

    Args:
        reviewed: the case with its review.
        folder: where the files go.
        kinds: ``seg`` and ``sr``, or one of them.
        options: of the DICOM objects, None for the usual ones.

    Returns:
        Paths by kind.
    """
    return write_dicom(reviewed.result(), folder, kinds, options)


EXPORT_NAME = "export.json"  # what an export consists of, and of which review


def export_review(
    reviewed: ReviewedCase, folder: Path, formats: Sequence[str] = FORMATS, options: DicomOptions | None = None
) -> dict[str, Path]:
    """Write a reviewed case into a folder, which is made where it is missing. An earlier export of it goes as a whole.

    ``export.json`` says of which review the files are, and which files.

    Args:
        reviewed: the case with its review.
        folder: for the files, made where it is missing.
        formats: any of ``json``, ``csv``, ``nifti``, ``png``, ``html``, and for a DICOM source ``seg``, ``sr``.
        options: of the DICOM objects, None for the usual ones.

    Returns:
        Paths by kind. Pictures as ``png_01``, ``png_02``, …, the mask of a plain picture as ``mask_png``, too.

    Raises:
        OutputError: an unknown format, a folder with the export of another case or reader, or a file that cannot be
            written. An earlier export is then as it was.
        InputError: DICOM without the source at hand.
    """
    unknown = [name for name in formats if name not in (*FORMATS, *DICOM_FORMATS)]
    if unknown:
        raise OutputError(f"A format must be one of {', '.join((*FORMATS, *DICOM_FORMATS))}", ", ".join(unknown))
    earlier = _earlier_files(reviewed, folder)
    check_writable(folder)
    with os_errors_in_words(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".headclip-", dir=folder) as draft:
            drafts = _write_all(reviewed, Path(draft), formats, options)
            files = {kind: folder / path.name for kind, path in drafts.items()}
            names = sorted({path.name for path in files.values()})
            _write_label(reviewed, folder, sorted({*earlier, *names}))  # a kill in between leaves nothing unlabelled
            for path in drafts.values():
                path.replace(folder / path.name)
        for name in earlier - set(names):
            (folder / name).unlink(missing_ok=True)
    _write_label(reviewed, folder, names)
    return files


def export_folder(reviewed: ReviewedCase, folder: Path, key: str) -> Path:
    """Choose where below ``folder`` an export of this review may go.

    Args:
        reviewed: the case with its review.
        folder: that was chosen.
        key: of the case.

    Returns:
        The folder ``key``, with the result's hash where that is another's, and with the reader where that is, too.
    """
    sha, reader = reviewed.review.result.result_sha256[:8], reviewed.review.reader
    names = key, f"{key}-{sha}", f"{key}-{sha}-{reader}"
    return next((folder / name for name in names[:-1] if _is_free(reviewed, folder / name)), folder / names[-1])


def _is_free(reviewed: ReviewedCase, folder: Path) -> bool:
    try:
        _earlier_files(reviewed, folder)
    except OutputError:
        return False
    return True


def _earlier_files(reviewed: ReviewedCase, folder: Path) -> set[str]:
    """Names of the files of an earlier export of this review.

    Raises:
        OutputError: the folder holds the export of another case or reader, or files of nobody knows whom.
    """
    must, do = "A folder must hold the export of one case by one reader", "Choose another folder"
    try:
        label = json.loads((folder / EXPORT_NAME).read_text(encoding="utf-8"))
        whose = str(label["result_sha256"]), str(label["reader"]).casefold()
        files = {str(name) for name in label["files"] if Path(str(name)).name == name}
    except FileNotFoundError:
        found = sorted(path.name for path in folder.iterdir() if _is_export(path.name)) if folder.is_dir() else []
        if found:
            raise OutputError(must, f"'{folder.name}' with a {found[0]} that may be another's", do) from None
        return set()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(must, f"'{folder.name}' with a damaged {EXPORT_NAME}", do) from error
    if whose != (reviewed.review.result.result_sha256, reviewed.review.reader.casefold()):
        raise OutputError(must, f"'{folder.name}' with that of {label.get('case')} by {label['reader']}", do)
    return files


def _is_export(name: str) -> bool:
    fixed = {JSON_NAME, CSV_NAME, MASK_NAME, MASK_PICTURE_NAME, PAGE_NAME, "seg.dcm", "sr.dcm"}
    return name in fixed or re.fullmatch(r"finding_\d+\.png", name) is not None


def _write_label(reviewed: ReviewedCase, folder: Path, files: Sequence[str]) -> None:
    review = reviewed.review
    label = {
        "case": review.result.name,
        "reader": review.reader,
        "result_sha256": review.result.result_sha256,
        "actions": review.actions,
        "files": list(files),
        "research_use_only": RESEARCH_ONLY,
    }
    write_text(folder / EXPORT_NAME, json.dumps(label, indent=2, ensure_ascii=False) + "\n")


def _write_all(
    reviewed: ReviewedCase, folder: Path, formats: Sequence[str], options: DicomOptions | None
) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for kind, name, write in (
        ("json", JSON_NAME, write_review),
        ("csv", CSV_NAME, write_findings),
        ("nifti", MASK_NAME, write_accepted_mask),
        ("html", PAGE_NAME, write_page),
    ):
        if kind in formats:
            files[kind] = folder / name
            write(reviewed, files[kind])
    if "png" in formats:
        files |= {f"png_{n:02d}": path for n, path in enumerate(write_pictures(reviewed, folder), start=1)}
        files |= _write_mask_picture(reviewed, folder)
    dicom = [kind for kind in DICOM_FORMATS if kind in formats]
    return files | (write_dicom_review(reviewed, folder, dicom, options) if dicom else {})


def write_review(reviewed: ReviewedCase, path: Path) -> None:
    """Write the review as it is kept, by itself.

    Args:
        reviewed: the case with its review.
        path: of the new file.
    """
    write_text(path, review_json(reviewed.review))


def write_findings(
    reviewed: ReviewedCase | Iterable[ReviewedCase], path: Path, names: Mapping[str, str] | None = None
) -> None:
    """Write a CSV of one or more cases: a line for every judged or drawn finding.

    Positions are in RAS mm. Those of a plain picture are its column and row, and all of its ``mm`` are empty.

    Args:
        reviewed: one case with its review, or several.
        path: of the file.
        names: of the cases, by the hash of their result, by default those that tell the cases given here apart.
    """
    cases = [reviewed] if isinstance(reviewed, ReviewedCase) else list(reviewed)
    names = case_names(case.review for case in cases) if names is None else names
    write_csv(path, _COLUMNS, (_cells(case, row, names) for case in cases for row in case.rows()))


def write_accepted_mask(reviewed: ReviewedCase, path: Path) -> None:
    """Write a uint8 NIfTI on exactly the source's grid: 1 in what was accepted or drawn.

    Args:
        reviewed: the case with its review.
        path: of the file.
    """
    import numpy as np

    from headclip_med.writing.nifti import grid_image, save_image

    data = reviewed.data
    meta = {"source_format": "nifti", **data.codes}  # those that the map has, which are the source's
    image = grid_image((reviewed.labels() > 0).astype(np.uint8), data.affine, meta, "reviewed mask")
    image.header.set_intent("label", (), name="reviewed mask")
    save_image(image, path)


def write_pictures(reviewed: ReviewedCase, folder: Path) -> list[Path]:
    """Write a PNG of every accepted or drawn finding: the slice that shows it best, its own outline.

    Args:
        reviewed: the case with its review.
        folder: for the pictures.

    Returns:
        Paths of the pictures, in the order of the findings.
    """
    from headclip_med.review.page import finding_pictures
    from headclip_med.writing.overlay import save_picture

    paths = []
    for number, (_, picture) in enumerate(finding_pictures(reviewed), start=1):
        paths.append(folder / f"finding_{number:02d}.png")
        save_picture(picture, paths[-1])
    return paths


def _write_mask_picture(reviewed: ReviewedCase, folder: Path) -> dict[str, Path]:
    """What was accepted or drawn in a plain picture, in the picture's own pixels."""
    from headclip_med.writing.overlay import write_mask_picture
    from headclip_med.writing.panels import is_one_picture

    result, path = reviewed.result(), folder / MASK_PICTURE_NAME
    if not is_one_picture(result):
        return {}
    write_mask_picture(result.pred_mask, result, path)
    return {"mask_png": path}


def write_page(reviewed: ReviewedCase, path: Path) -> None:
    """Write one self-contained HTML page: opinions, findings, pictures, provenance.

    Args:
        reviewed: the case with its review.
        path: of the file.
    """
    from headclip_med.review.page import render_page

    write_text(path, render_page(reviewed))


def write_dicom_review(
    reviewed: ReviewedCase, folder: Path, kinds: Sequence[str] = DICOM_FORMATS, options: DicomOptions | None = None
) -> dict[str, Path]:
    """Write what was accepted or drawn as DICOM SEG and SR about the source's own images, which are only read.

    Args:
        reviewed: the case with its review.
        folder: where the files go.
        kinds: ``seg`` and ``sr``, or one of them.
        options: of the DICOM objects, None for the usual ones.

    Returns:
        Paths by kind.

    Raises:
        InputError: the source is not at hand.
        OutputError: it is no DICOM.
        MissingExtraError: no highdicom.
    """

    if reviewed.source is None:
        raise InputError(
            "DICOM must be written about the source images", "none at hand", "Give their folder with --source"
        )
    return write_accepted(reviewed, folder, kinds, options)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table with a head, whole or not at all. None is an empty cell.

    Args:
        path: of the file.
        columns: names of the columns, in their order.
        rows: a cell for each column.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _cells(case: ReviewedCase, row: ReviewedFinding, names: Mapping[str, str]) -> dict[str, Any]:
    measures, sha = row.measures, case.review.result.result_sha256
    return {
        "reader": case.review.reader,
        "case": names[sha],
        "result_sha256": sha,
        "source": case.review.result.source_name,
        "finding": row.id,
        "kind": row.kind,
        "status": row.status,
        "label": row.label,
        "note": row.note,
        "confidence": row.confidence,
        "peak": round(measures.peak, 6),
        "mean": round(measures.mean, 6),
        "volume_mm3": None if measures.volume_mm3 is None else round(measures.volume_mm3, 4),
        "voxels": measures.voxels,
        **place_cells(case, measures.centroid_mm, measures.centroid_voxel),
        **{f"peak_{name}": value for name, value in place_cells(case, measures.peak_mm, measures.peak_voxel).items()},
        "first_slice": measures.slices[0],
        "last_slice": measures.slices[1],
        "threshold": row.threshold,
        "unaided": row.unaided,
        "who": row.who,
        "when": row.when,
        "research_use_only": RESEARCH_ONLY,
    }


def place_cells(
    case: ReviewedCase, place_mm: Millimetres | None, voxel: Sequence[float] | None
) -> dict[str, float | None]:
    """Fill the cells of a place: RAS mm, or in a plain picture its column and row.

    Args:
        case: the case with its review.
        place_mm: RAS mm, ``(3,)``, None where there are none.
        voxel: index along the array axes.

    Returns:
        ``x_mm``, ``y_mm`` and ``z_mm``, or ``x_px`` and ``y_px``, to four decimals. Nothing where there is no place.
    """
    if case.data.is_plain and voxel is not None:
        x, y = (round(value, 4) for value in case.pixel(voxel))
        return {"x_px": x, "y_px": y}
    return {f"{axis}_mm": round(value, 4) for axis, value in zip("xyz", place_mm or (), strict=False)}


__all__ = [
    "DICOM_FORMATS",
    "FORMATS",
    "ReviewedCase",
    "ReviewedFinding",
    "export_folder",
    "export_review",
    "write_accepted_mask",
    "write_dicom_review",
    "write_findings",
    "write_page",
    "write_pictures",
    "write_review",
]
