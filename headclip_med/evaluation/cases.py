"""What a model makes of each case, kept on disk."""

from __future__ import annotations

import json
import logging
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from headclip_med.base.errors import CancelledError, HeadclipError, OutputError, internal_error
from headclip_med.base.files import atomic_path
from headclip_med.datasets.case import Case
from headclip_med.datasets.dataset import CaseDataset
from headclip_med.evaluation.case_picture import key_slice_picture
from headclip_med.evaluation.measure import CaseStatistics, case_facts, measure
from headclip_med.evaluation.metrics.counts import ScoreCounts, from_arrays, to_arrays
from headclip_med.evaluation.metrics.lesions import CaseLesions
from headclip_med.evaluation.record import CaseRow
from headclip_med.evaluation.scorers import CaseScorer
from headclip_med.evaluation.settings import Settings

SUFFIX = ".npz"


log = logging.getLogger(__name__)
PICTURE_SUFFIX = ".png"


@dataclass(frozen=True)
class StoredCase:
    """A case that was measured. Its pixel counts stay on disk until they are asked for."""

    path: Path
    row: CaseRow
    is_volume: bool
    slice_scores: NDArray[np.float64]
    slice_labels: NDArray[np.bool_]
    lesions: CaseLesions | None
    has_pixels: bool

    def pixels(self) -> tuple[ScoreCounts, ScoreCounts]:
        """Read the pixel counts from disk, which is possible only where ``has_pixels``.

        Returns:
            Counts inside the foreground, and outside it.
        """
        with np.load(self.path, allow_pickle=False) as file:
            return _counts(file, "inside"), _counts(file, "outside")


def save_case(path: Path, statistics: CaseStatistics, identity: dict[str, Any]) -> None:
    """Write one case, whole or not at all.

    Args:
        path: Of the ``.npz`` file, whose folder is made.
        statistics: What was measured.
        identity: What it would have to equal to be used again, as JSON values.

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
    """Read what :func:`save_case` wrote, without its pixel counts.

    Args:
        path: Of the file.
        identity: What the case must rest on, None to take it whatever it rests on.

    Returns:
        The case, or None where the file is missing, damaged, or of another ``identity``.
    """
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
    """Read which scorer measured the cases in a folder, from the first file that can be read.

    Args:
        folder: Of one model's cases.

    Returns:
        The scorer's identity, None where no file tells it.
    """
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


@dataclass(frozen=True)
class Bench:
    """A model ready to be measured on the cases of a set. Results go into ``folder``."""

    scorer: CaseScorer
    dataset: CaseDataset
    settings: Settings
    folder: Path
    pictures: bool = True

    def identity(self, case: Case, sha256: str) -> dict[str, Any]:
        """Tell what the result of one case rests on.

        Of what is told about the case only the label is in it. The rest is joined anew when the case is read back.

        Args:
            case: Of the set.
            sha256: Hash of its values and its mask.

        Returns:
            ``scorer``, ``settings``, ``case`` and ``label``, as JSON values.
        """
        settings = self.settings.per_case()
        return {"scorer": self._scorer, "settings": settings, "case": sha256, "label": case.label}

    @cached_property
    def _scorer(self) -> dict[str, Any]:
        """Asked for once: finding the version of the package takes longer than reading a small case."""
        return self.scorer.identity()


def make_bench(
    build: Callable[[], CaseScorer], dataset: CaseDataset, settings: Settings, folder: Path, pictures: bool
) -> Bench:
    """Make a bench in whatever process this is called in.

    Args:
        build: Makes the scorer.
        dataset: Whose cases are measured.
        settings: Of the metrics.
        folder: Where cases and pictures are kept.
        pictures: Draw the overlay of each case.

    Returns:
        The bench, its scorer loaded.
    """
    return Bench(build(), dataset, settings, folder, pictures)


def measure_case(bench: Bench, case: Case) -> str:
    """Predict and measure one case and keep it on disk.

    Args:
        bench: The model and the set.
        case: Of that set.

    Returns:
        What went wrong, in words, or nothing.

    Raises:
        CancelledError: the prediction was cancelled.
        OutputError: nothing can be written, as on a full disk. A resumed run goes on from here.
    """
    try:
        _measure(bench, case)
        return ""
    except (CancelledError, OutputError):  # the next case could not be kept either
        raise
    except HeadclipError as error:
        return str(error)
    except Exception as error:  # the next case may well succeed; the text may hold paths or patient data
        log.debug("case %s", case.name, exc_info=True)
        return internal_error(error)


def kept_case(bench: Bench, case: Case, sha256: str) -> StoredCase | None:
    """Read what is kept of a case, with what is told about it now.

    Args:
        bench: The model and the set.
        case: Of that set.
        sha256: Hash of its values and its mask.

    Returns:
        The case, None where it has to be measured again.
    """
    stored = load_case_file(case_path(bench.folder, case), bench.identity(case, sha256))
    return None if stored is None else replace(stored, row=stored.row.model_copy(update=case_facts(case)))


def case_path(folder: Path, case: Case) -> Path:
    """Tell where a case's statistics lie.

    Args:
        folder: Of one model's cases.
        case: Any case of the set.

    Returns:
        Path of the ``.npz`` file, which need not be there.
    """
    return folder / f"{case.name}{SUFFIX}"


def _measure(bench: Bench, case: Case) -> None:
    begin = time.perf_counter()
    labelled = bench.dataset.load(case)
    result = bench.scorer.predict(labelled.volume)
    statistics = measure(case, labelled, result, bench.settings, time.perf_counter() - begin)
    if bench.pictures:
        picture = bench.folder / f"{case.name}{PICTURE_SUFFIX}"
        with atomic_path(picture) as draft:
            key_slice_picture(result, labelled.gt_mask, labelled.ignored).save(draft, format="PNG", optimize=True)
        statistics = replace(statistics, row=statistics.row.model_copy(update={"picture": picture.name}))
    else:
        with suppress(OSError):
            (bench.folder / f"{case.name}{PICTURE_SUFFIX}").unlink(missing_ok=True)
    save_case(case_path(bench.folder, case), statistics, bench.identity(case, labelled.sha256))


__all__ = ["PICTURE_SUFFIX", "Bench", "case_path", "kept_case", "make_bench", "measure_case"]
