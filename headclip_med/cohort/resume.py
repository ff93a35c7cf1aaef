"""Whether a case's folder already holds what predicting it again would only repeat."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headclip_med.base.errors import InputError
from headclip_med.base.files import sha256_file
from headclip_med.base.geometry import slice_frame
from headclip_med.base.versions import package_versions
from headclip_med.cohort.outcome import CaseOutcome, top_finding

if TYPE_CHECKING:
    from headclip_med.cohort.options import CaseOptions
    from headclip_med.engine.engine import Engine
    from headclip_med.models.load import KnownModel
    from headclip_med.writing.record import ResultRecord

# What only some engines have: a result that was made with it is none of an engine without it.
_ABSENT = ("export_sha256", "normals_sha256", "pack_sha256", "tower_of_pack")


def finished_record(
    identity: Mapping[str, Any], digest: str, folder: Path, options: CaseOptions
) -> ResultRecord | None:
    """Read the record in ``folder`` if predicting again would only repeat it.

    It must be complete and unaltered, made with the same model, precision, speed and options by the same version, from
    content of the same hash. The content's name does not matter.

    Args:
        identity: Of :func:`engine_identity` or :func:`known_identity`.
        digest: Hash of the content.
        folder: The case's result folder.
        options: What is asked of the case now.

    Returns:
        The record, None where the case must be predicted.
    """
    from headclip_med.writing.record import load_result

    try:
        record, *_ = load_result(folder)
    except InputError:
        return None
    expected = {**identity, "options": json.loads(json.dumps(options.recorded()))}
    made_with = {**record.provenance, **_of_versions(record.provenance)}
    if any(made_with.get(key) != value for key, value in expected.items()):
        return None
    return record if digest and record.source.content_sha256 == digest else None


def engine_identity(engine: Engine[Any]) -> dict[str, Any]:
    """Give what decides an engine's numbers, this package among it.

    Args:
        engine: A model on a device.

    Returns:
        Plain JSON values by name, None for what it has none of.
    """
    absent = dict.fromkeys(_ABSENT)
    return {**absent, **engine.scorer.identity(), "version": package_versions()["headclip-med"]}


def known_identity(
    model: str,
    *,
    method: str | None = None,
    weights: str | Path | None = None,
    normals: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    speed: str = "exact",
) -> tuple[dict[str, Any], KnownModel | None] | None:
    """Predict what :func:`engine_identity` would say, as far as hashes of files tell it, without loading a model.

    Args:
        model: Name or path of a model.
        method: Detector by name, None for the model's own.
        weights: Of the tower of a pack that carries none.
        normals: Folder of normal images.
        device: By name, or ``auto``.
        precision: Of the matrix products, or ``auto``.
        speed: ``exact``, ``balanced`` or ``fast``.

    Returns:
        That and what is known of the model (None for an exported one), or None where only the loaded model can tell.

    Raises:
        HeadclipError: A model, device or set of normal images that cannot be used.
    """
    facts: dict[str, Any] = {"speed": speed, "normals_sha256": None, "version": package_versions()["headclip-med"]}
    if model.lower().endswith(".onnx"):
        from headclip_med.engine.load import check_onnx_options

        check_onnx_options(weights=weights, method=method, precision=precision, speed=speed, normals=normals)
        if device.startswith("openvino") or not Path(model).expanduser().is_file():
            return None
        return {**facts, "precision": "float32", "export_sha256": sha256_file(Path(model).expanduser())}, None
    from headclip_med.engine.device import choose_device, choose_dtype
    from headclip_med.engine.normals import read_normals
    from headclip_med.models.load import known_model

    known = known_model(model, method=method, weights=weights)
    if known is None:
        return None
    dtype = choose_dtype(choose_device(device), precision)  # type: ignore[arg-type]
    facts |= {"export_sha256": None, "precision": str(dtype).removeprefix("torch."), **known.identity}
    if normals is not None:
        facts["normals_sha256"] = read_normals(normals).sha256
    return facts, known


def _of_versions(provenance: dict[str, Any]) -> dict[str, Any]:
    versions = provenance.get("versions")
    return {"version": versions.get("headclip-med")} if isinstance(versions, dict) else {}


def skipped(record: ResultRecord, folder: Path) -> CaseOutcome:
    """Make the outcome of a case that an earlier run finished.

    Args:
        record: Of that run.
        folder: The case's result folder.

    Returns:
        An outcome with the status ``skipped``.
    """
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
