"""What is kept of each case on disk: one small file, so that a run can be resumed and memory stays bounded."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from headclip_med.base.files import atomic_path
from headclip_med.evaluation.counts import ScoreCounts, from_arrays, to_arrays
from headclip_med.evaluation.lesions import CaseLesions
from headclip_med.evaluation.measure import CaseStatistics
from headclip_med.evaluation.record import CaseRow

SUFFIX = ".npz"


@dataclass(frozen=True)
class StoredCase:
    """A case that was measured; its pixel counts stay on disk until they are asked for."""

    path: Path
    row: CaseRow
    is_volume: bool
    slice_scores: NDArray[np.float64]
    slice_labels: NDArray[np.bool_]
    lesions: CaseLesions | None
    has_pixels: bool

    def pixels(self) -> tuple[ScoreCounts, ScoreCounts]:
        """Counts inside and outside the foreground; only where ``has_pixels``."""
        with np.load(self.path, allow_pickle=False) as file:
            return _counts(file, "inside"), _counts(file, "outside")


def save_case(path: Path, statistics: CaseStatistics, identity: dict[str, Any]) -> None:
    """Write one case, whole or not at all; ``identity`` is what it would have to equal to be used again.

    Raises:
        OutputError: when the file cannot be written.
    """
    arrays: dict[str, Any] = {
        "facts": json.dumps({"identity": identity, "row": statistics.row.model_dump(mode="json")}),
        "is_volume": statistics.is_volume,
        "slice_scores": statistics.slice_scores,
        "slice_labels": statistics.slice_labels,
    }
    if statistics.inside is not None and statistics.outside is not None:
        arrays |= _named("inside", to_arrays(statistics.inside)) | _named("outside", to_arrays(statistics.outside))
    if statistics.lesions is not None:
        arrays |= {f"lesions.{f.name}": getattr(statistics.lesions, f.name) for f in fields(CaseLesions)}
    with atomic_path(path) as draft:
        np.savez_compressed(draft, **arrays)


def load_case_file(path: Path, identity: dict[str, Any] | None = None) -> StoredCase | None:
    """What :func:`save_case` wrote, or None where it is missing, damaged, or of another ``identity``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            if identity is not None and facts["identity"] != json.loads(json.dumps(identity)):
                return None
            return StoredCase(
                path=path,
                row=CaseRow.model_validate(facts["row"]),
                is_volume=bool(file["is_volume"]),
                slice_scores=file["slice_scores"],
                slice_labels=file["slice_labels"],
                lesions=_lesions(file),
                has_pixels=any(name.startswith("inside.") for name in file.files),
            )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, ValidationError):
        return None


def stored_scorer(folder: Path) -> dict[str, Any] | None:
    """The identity of the scorer that measured the cases in ``folder``, None where there are none."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(json.loads(str(file["facts"]))["identity"]["scorer"])
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            continue
    return None


def _named(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def _counts(file: Any, prefix: str) -> ScoreCounts:
    names = [name for name in file.files if name.startswith(f"{prefix}.")]
    return from_arrays({name.removeprefix(f"{prefix}."): file[name] for name in names})


def _lesions(file: Any) -> CaseLesions | None:
    if "lesions.lesions" not in file.files:
        return None
    found = {f.name: file[f"lesions.{f.name}"] for f in fields(CaseLesions)}
    return CaseLesions(**{name: array[()] if array.ndim == 0 else array for name, array in found.items()})
