"""A case on its way from disk to disk, step by step; whoever calls decides in which thread."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from headclip_med.base.errors import CancelledError, HeadclipError, internal_error
from headclip_med.base.files import RECORD_NAME
from headclip_med.base.geometry import slice_frame
from headclip_med.case_options import CaseOptions
from headclip_med.case_outcome import CaseOutcome, top_finding
from headclip_med.reading.inputs import Source
from headclip_med.writing import write_result
from headclip_med.writing.dicom.options import check_dicom_source
from headclip_med.writing.folder import case_folder, check_case_folder

if TYPE_CHECKING:
    from headclip_med.base.volume import LoadedVolume
    from headclip_med.engine.result import AnomalyResult

log = logging.getLogger(__name__)

Made = TypeVar("Made")


def check_case(out_dir: Path, name: str, source: Source, options: CaseOptions) -> None:
    check_case_folder(out_dir, name)
    check_dicom_source(source, options.formats)


def read_case(source: Source, options: CaseOptions) -> LoadedVolume:
    from headclip_med.reading import load_volume

    return load_volume(source, series=options.series, time=options.time, on_irregular=options.on_irregular)


def write_case(result: AnomalyResult, out_dir: Path, name: str, options: CaseOptions) -> CaseOutcome:
    begin = time.perf_counter()
    notes = _replaced(out_dir / name, result.meta.get("content_sha256"))
    provenance = {**result.provenance, "options": options.recorded()}
    result = replace(result, provenance=provenance, warnings=(*result.warnings, *notes))
    with case_folder(out_dir, name) as folder:
        write_result(result, folder, options.formats, options.keep_identifiers, options.dicom)
    frame = slice_frame(result.affine, result.planes[0])
    return CaseOutcome(
        name=name,
        status="done",
        seconds=seconds_since(begin),
        folder=out_dir / name,
        pred_score=result.pred_score,
        findings=len(result.findings),
        top_finding=top_finding(result.findings, frame, result.map_array.shape),
        warnings=result.warnings,
    )


def _replaced(folder: Path, content_sha256: str | None) -> list[str]:
    """A warning where another image's result is about to be replaced, as two scans of one name would do."""
    try:
        earlier = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))["source"]["content_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if not earlier or earlier == content_sha256:
        return []
    return [f"an earlier result in {folder.name}, of an image of other content, was replaced"]


def outcome_or(name: str, work: Callable[[], Made]) -> Made | CaseOutcome:
    """What ``work`` makes, or the outcome that says in words why it could not."""
    try:
        return work()
    except CancelledError as error:
        return CaseOutcome(name, "stopped", 0.0, error=str(error))
    except HeadclipError as error:
        return CaseOutcome(name, "failed", 0.0, error=str(error))
    except Exception as error:  # the next case may well succeed; the text may hold paths or patient data
        log.debug("case %s", name, exc_info=True)
        return CaseOutcome(name, "failed", 0.0, error=internal_error(error))


def seconds_since(begin: float) -> float:
    return round(time.perf_counter() - begin, 3)
