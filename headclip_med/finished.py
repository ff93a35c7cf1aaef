"""Whether a case's folder already holds what predicting it again would only repeat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headclip_med.case_outcome import CaseOutcome, top_finding
from headclip_med.errors import InputError
from headclip_med.geometry import slice_frame
from headclip_med.versions import package_versions

if TYPE_CHECKING:
    from headclip_med.case_options import CaseOptions
    from headclip_med.scan_engine import ScanEngine
    from headclip_med.writing.record import ResultRecord


def finished_record(engine: ScanEngine, digest: str, folder: Path, options: CaseOptions) -> ResultRecord | None:
    """The record in ``folder`` if predicting again would only repeat it, else None.

    It must be complete and unaltered, made by this version with the same model, precision, speed and options, from
    content of the same hash (``digest``; its name does not matter).
    """
    from headclip_med.writing.record import load_result

    try:
        record, *_ = load_result(folder)
    except InputError:
        return None
    expected = {**engine_identity(engine), "options": json.loads(json.dumps(options.recorded()))}
    made_with = {**record.provenance, **_of_versions(record.provenance)}
    if any(made_with.get(key) != expected.get(key) for key in (*expected, "export_sha256")):
        return None
    return record if digest and record.source.content_sha256 == digest else None


def engine_identity(engine: ScanEngine) -> dict[str, Any]:
    """What decides an engine's numbers, this package among it."""
    return {**engine.identity(), "version": package_versions()["headclip-med"]}


def _of_versions(provenance: dict[str, Any]) -> dict[str, Any]:
    versions = provenance.get("versions")
    return {"version": versions.get("headclip-med")} if isinstance(versions, dict) else {}


def skipped(record: ResultRecord, folder: Path) -> CaseOutcome:
    frame = slice_frame(np.array(record.source.affine), record.planes[0])
    return CaseOutcome(
        name=folder.name,
        status="skipped",
        seconds=0.0,
        folder=folder,
        pred_score=record.pred_score,
        findings=len(record.findings),
        top_finding=top_finding(record.findings, frame, record.source.shape),
        warnings=tuple(record.warnings),
    )
