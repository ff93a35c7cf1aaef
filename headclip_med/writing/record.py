"""``result.json``: the record of one prediction, and reading it back. No patient data in it.

The JSON schema in the package (``headclip_med/result.schema.json``) is generated from these models:
``python -m headclip_med.writing.record > headclip_med/result.schema.json``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from headclip_med.base.errors import InputError, OutputError, readable
from headclip_med.base.files import RECORD_NAME, sha256_file, write_text
from headclip_med.base.geometry import spacing, world_to_voxel
from headclip_med.base.types import RESEARCH_ONLY, Plane
from headclip_med.engine.result import AnomalyResult

# The second version has no millimetres for a plain picture, and places in voxels beside those in millimetres.
SCHEMA_VERSION = "headclip_med.result/2"
_FIRST_SCHEMA = "headclip_med.result/1"

Millimetres = tuple[float, float, float]
Place = tuple[float, float, float]
Voxel = tuple[int, int, int]
Row = tuple[float, float, float, float]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SourceRecord(_Record):
    """What was read."""

    name: str = Field(description="base name of the file or folder")
    format: str | None
    content_sha256: str | None
    shape: Voxel = Field(description="voxels along the array axes")
    channels: int
    spacing_mm: Millimetres | None = Field(description="null for a plain image")
    affine: tuple[Row, Row, Row, Row] = Field(
        description="voxel index to RAS mm; of a plain image only how its NIfTI files lay out its pixels"
    )
    modality: str | None
    is_2d: bool = Field(description="a plain image: it has pixels, but no millimetres and no place in a patient")


class SliceRecord(_Record):
    """One slice of the primary plane."""

    index: int = Field(description="0-based, along the array axis of the primary plane")
    position_mm: Millimetres | None = Field(description="RAS mm of the slice's centre; null for a plain image")
    score: float
    background: bool
    uid: str | None = Field(default=None, description="SOPInstanceUID, only where identifiers were kept")
    interpolated: bool = Field(default=False, description="not scored, but filled in between scored slices")


class FindingRecord(_Record):
    """One 3-D connected component of the map above the threshold. Millimetres are null for a plain image."""

    label: int
    peak: float
    mean: float
    volume_mm3: float | None
    voxels: int = Field(description="of a plain image: pixels")
    centroid_mm: Millimetres | None
    peak_mm: Millimetres | None
    extent_mm: Millimetres | None
    centroid_voxel: Place | None = Field(
        default=None, description="array indices: column, row and 0 of a plain image; null in older files"
    )
    peak_voxel: Voxel | None = Field(default=None, description="array indices, likewise")
    voxel_min: Voxel
    voxel_max: Voxel
    slices: tuple[int, int]


class FileRecord(_Record):
    """One file beside the record."""

    name: str = Field(pattern=r"^[^/\\]+$", description="base name, in the record's own folder")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ResultRecord(_Record):
    """Everything that one prediction found, and what it was made with."""

    schema_version: Literal["headclip_med.result/2"]
    research_use_only: str
    source: SourceRecord
    pred_score: float = Field(ge=0, le=1)
    threshold: float
    threshold_origin: str
    planes: list[Plane] = Field(min_length=1, description="the first one is the primary plane")
    slices: list[SliceRecord]
    findings: list[FindingRecord]
    display_window: tuple[float, float]
    timings: dict[str, float] = Field(description="seconds by step")
    warnings: list[str]
    provenance: dict[str, Any]
    files: dict[str, FileRecord] = Field(
        description="by kind: map, mask, preview, report, ...; of a plain image also map_png, mask_png"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_first_version(cls, record: Any) -> Any:
        """A record of the first version as one of the present."""
        if not isinstance(record, dict) or record.get("schema_version") != _FIRST_SCHEMA:
            return record
        try:
            return _present_record(record)
        except (KeyError, TypeError, ValueError, np.linalg.LinAlgError):  # damaged: told by its version
            return record


def _present_record(record: dict[str, Any]) -> dict[str, Any]:
    source = record["source"]
    findings = [present_finding(finding, source["affine"], source["is_2d"]) for finding in record["findings"]]
    if source["is_2d"]:
        source = {**source, "spacing_mm": None}
        record = {**record, "slices": [{**entry, "position_mm": None} for entry in record["slices"]]}
    return {**record, "schema_version": SCHEMA_VERSION, "source": source, "findings": findings}


def present_finding(finding: Mapping[str, Any], affine: Any, is_plain: bool) -> dict[str, Any]:
    """Complete a finding that was written before places were kept in voxels, too.

    Args:
        finding: Fields by name, with the places in RAS mm where it has none in voxels.
        affine: Voxel index → RAS mm of the source, ``(4, 4)``, as an array or rows.
        is_plain: Whether the source is a plain image.

    Returns:
        A new dictionary with ``peak_voxel`` (to the nearest voxel) and ``centroid_voxel``. Volume, places and extent
        in millimetres are None there for a plain image.

    Raises:
        KeyError: a place is given neither in voxels nor in millimetres.
        numpy.linalg.LinAlgError: the affine has no inverse.
    """
    matrix, places = np.asarray(affine, dtype=np.float64), dict[str, Any]()
    if finding.get("peak_voxel") is None:
        peak = world_to_voxel(matrix, np.asarray(finding["peak_mm"]))
        places["peak_voxel"] = tuple(round(float(index)) for index in peak)
    if finding.get("centroid_voxel") is None:
        centroid = world_to_voxel(matrix, np.asarray(finding["centroid_mm"]))
        places["centroid_voxel"] = tuple(float(index) for index in centroid)
    none = dict.fromkeys(("volume_mm3", "centroid_mm", "peak_mm", "extent_mm")) if is_plain else {}
    return {**finding, **places, **none}


def to_record(
    result: AnomalyResult, files: Mapping[str, Path] | None = None, keep_identifiers: bool = False
) -> ResultRecord:
    """Turn a result into its record.

    Args:
        result: What one prediction found.
        files: Files already written, by kind. Their base names and SHA-256 go into the record.
        keep_identifiers: Keep the slices' SOPInstanceUIDs, which identify the study.

    Returns:
        The record, with base names instead of paths.

    Raises:
        OutputError: the result does not fit the schema, such as with a score that is not finite, or a score of the
            case outside [0, 1].
        OSError: one of the files cannot be read.
    """
    fields = {
        "schema_version": SCHEMA_VERSION,
        "research_use_only": RESEARCH_ONLY,
        "source": _source(result),
        "pred_score": result.pred_score,
        "threshold": result.threshold,
        "threshold_origin": result.threshold_origin,
        "planes": result.planes,
        "slices": [asdict(s) | ({} if keep_identifiers else {"uid": None}) for s in result.slices],
        "findings": [asdict(finding) for finding in result.findings],
        "display_window": result.display_window,
        "timings": result.timings,
        "warnings": result.warnings,
        "provenance": result.provenance,
        "files": {kind: {"name": p.name, "sha256": sha256_file(p)} for kind, p in (files or {}).items()},
    }
    try:
        return ResultRecord.model_validate(_plain(fields))
    except ValidationError as error:
        raise OutputError("A result must fit its schema to be written", _first_problem(error)) from error


def record_json(record: ResultRecord) -> str:
    """Give the text of ``result.json``.

    Args:
        record: Of one prediction.

    Returns:
        Strict JSON, two-space indent, a newline at the end.
    """
    return json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_result_record(record: ResultRecord, path: Path) -> None:
    """Write :func:`record_json` to a file, whole or not at all.

    Args:
        record: Of one prediction.
        path: Of the file, whose folder is made.

    Raises:
        OutputError: when the file cannot be written.
    """
    write_text(path, record_json(record))


def load_result(folder: Path, verify: bool = True) -> tuple[ResultRecord, Path | None, Path | None]:
    """Read a result folder back.

    Args:
        folder: Of one result.
        verify: Also compare every file with its SHA-256.

    Returns:
        The record, the map's path and the mask's path (None where not written).

    Raises:
        InputError: when the folder holds no complete, unaltered result.
        OSError: a file cannot be read to verify it.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        raise InputError(f"The folder '{folder.name}' must hold a complete result", f"no {RECORD_NAME} in it")
    try:
        record = ResultRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise InputError(f"{path.name} must be a record of {SCHEMA_VERSION}", _first_problem(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} must be readable text", type(error).__name__) from error
    for file in record.files.values():
        _check_file(folder / file.name, file.sha256 if verify else None)
    paths = {kind: folder / file.name for kind, file in record.files.items()}
    return record, paths.get("map"), paths.get("mask")


def result_schema() -> dict[str, Any]:
    """Make the JSON schema (draft 2020-12) of ``result.json``.

    Returns:
        The schema in JSON's types.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ResultRecord.model_json_schema()}


def schema_json() -> str:
    """Give the text of ``result.schema.json``.

    Returns:
        JSON, two-space indent, a newline at the end.
    """
    return json.dumps(result_schema(), indent=2) + "\n"


def _source(result: AnomalyResult) -> dict[str, Any]:
    meta = result.meta
    channels, *shape = result.source_array.shape
    return {
        "name": readable(PurePath(str(meta.get("source_name") or "volume")).name),
        "format": meta.get("source_format"),
        "content_sha256": meta.get("content_sha256"),
        "shape": shape,
        "channels": channels,
        "spacing_mm": None if meta.get("is_2d") else spacing(result.affine),
        "affine": result.affine,
        "modality": meta.get("modality"),
        "is_2d": bool(meta.get("is_2d", False)),
    }


def _check_file(path: Path, sha256: str | None) -> None:
    again = "Run the prediction again or copy the whole folder"
    if not path.is_file():
        raise InputError("A result folder must hold every file that its record names", f"no {path.name}", again)
    if sha256 is not None and sha256_file(path) != sha256:
        raise InputError(
            "A result's files must be as they were written", f"{path.name} has changed or is cut off", again
        )


def _plain(value: Any) -> Any:
    """The same value in JSON's types: null for NaN, base names for paths (folders can name patients)."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(_plain(item) for item in value)
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, PurePath):
        return readable(value.name)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _first_problem(error: ValidationError) -> str:
    # The offending value itself is left out: it could be anything, patient data included.
    problem = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]


if __name__ == "__main__":
    sys.stdout.write(schema_json())
