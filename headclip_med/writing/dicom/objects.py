"""A result as DICOM objects: segmentations, parametric map, structured report, secondary captures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headclip_med.engine.result import AnomalyResult
from headclip_med.writing.dicom.options import (
    NAMES,
    SHORTHAND,
    DicomOptions,
    check_dicom_extra,
    check_dicom_meta,
    wanted_kinds,
)

if TYPE_CHECKING:
    from pydicom import Dataset

    from headclip_med.writing.dicom.study import Study


def write_dicom(
    result: AnomalyResult, folder: Path, kinds: Sequence[str], options: DicomOptions | None = None
) -> dict[str, Path]:
    """Write DICOM objects of a result whose source is DICOM into a folder. Sources are only read.

    Args:
        result: What was found.
        folder: Where the files go.
        kinds: Of ``seg`` (a binary segment per finding), ``segscore`` (the map as a fractional segment), ``pm``
            (parametric map), ``sr`` (report, which brings ``seg``), ``sc`` (pictures), ``dicom`` (all but segscore,
            as far as the images say where they lie: a single picture without a place cannot have ``pm``, several can
            only have ``sc``). Other names are ignored.
        options: How they are written, the defaults of :class:`DicomOptions` where None.

    Returns:
        Paths by kind, those of secondary captures by ``sc_01``, ``sc_02``, ….

    Raises:
        MissingExtraError: highdicom is not installed.
        OutputError: another source than DICOM, one that cannot be written about, or a file that cannot be written.
        InputError: the source images are gone, damaged or have changed.
    """
    chosen, asked = wanted_kinds(kinds), options or DicomOptions()
    if not chosen:
        return {}
    check_dicom_extra(kinds)
    check_dicom_meta(result.meta.get("source_format"), kinds)
    from headclip_med.writing.dicom.study import open_study, quiet, save

    study = open_study(result, asked)
    named = wanted_kinds([kind for kind in kinds if kind != SHORTHAND])
    files: dict[str, Path] = {}
    with quiet("about it"):
        for name, dataset in _objects(study, [kind for kind in chosen if kind in named or _possible(study, kind)]):
            files[name] = folder / NAMES.get(name, f"{name}.dcm")
            save(dataset, files[name], study.options.deidentify)
    return files


def _possible(study: Study, kind: str) -> bool:
    """Whether an object of a kind can be made of these sources. What is asked for by name is tried in any case."""
    single = len(study.sources.frames) == 1
    return kind == "sc" or study.sources.placed or (single and kind != "pm")


def _objects(study: Study, kinds: Sequence[str]) -> Iterator[tuple[str, Dataset]]:
    """The objects one by one, so that the pixels of one are gone before the next is made."""
    from headclip_med.writing.dicom.capture import secondary_captures
    from headclip_med.writing.dicom.map import parametric_map
    from headclip_med.writing.dicom.report import measurement_report
    from headclip_med.writing.dicom.seg import findings_segmentation, score_segmentation

    segmentation = findings_segmentation(study) if "seg" in kinds else None
    if segmentation is not None:
        yield "seg", segmentation
    if "segscore" in kinds:
        yield "segscore", score_segmentation(study)
    if "pm" in kinds:
        yield "pm", parametric_map(study)
    if "sr" in kinds and segmentation is not None:
        yield "sr", measurement_report(study, segmentation)
    if "sc" in kinds:
        for number, capture in enumerate(secondary_captures(study), start=1):
            yield f"sc_{number:02d}", capture


__all__ = ["DicomOptions", "write_dicom"]
