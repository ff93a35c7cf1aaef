"""What a model makes of each case, kept on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from headclip_med.base.errors import CancelledError, HeadclipError, OutputError, internal_error
from headclip_med.base.files import atomic_path
from headclip_med.datasets.case import Case
from headclip_med.datasets.dataset import CaseDataset
from headclip_med.evaluation.case_picture import key_slice_picture
from headclip_med.evaluation.measure import case_facts, measure
from headclip_med.evaluation.scorers import Scorer
from headclip_med.evaluation.settings import Settings
from headclip_med.evaluation.store import SUFFIX, StoredCase, load_case_file, save_case

log = logging.getLogger(__name__)

PICTURE_SUFFIX = ".png"


@dataclass(frozen=True)
class Bench:
    """A model ready to be measured on the cases of a set; results go into ``folder``."""

    scorer: Scorer
    dataset: CaseDataset
    settings: Settings
    folder: Path
    pictures: bool = True

    def identity(self, case: Case, sha256: str) -> dict[str, Any]:
        """What the result of one case rests on; of what is told about it only the label, the rest is joined anew."""
        settings = self.settings.per_case()
        return {"scorer": self._scorer, "settings": settings, "case": sha256, "label": case.label}

    @cached_property
    def _scorer(self) -> dict[str, Any]:
        """Asked for once: finding the version of the package takes longer than reading a small case."""
        return self.scorer.identity()


def make_bench(
    build: Callable[[], Scorer], dataset: CaseDataset, settings: Settings, folder: Path, pictures: bool
) -> Bench:
    """A bench in whatever process this is called in."""
    return Bench(build(), dataset, settings, folder, pictures)


def measure_case(bench: Bench, case: Case) -> str:
    """Predict and measure one case and keep it on disk; what went wrong, in words, or nothing.

    Raises:
        OutputError: nothing can be written, as on a full disk; a resumed run goes on from here.
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
    """What is kept of the case, with what is told about it now; None where it has to be measured again."""
    stored = load_case_file(case_path(bench.folder, case), bench.identity(case, sha256))
    return None if stored is None else replace(stored, row=stored.row.model_copy(update=case_facts(case)))


def case_path(folder: Path, case: Case) -> Path:
    """Where a case's statistics lie."""
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


__all__ = [
    "PICTURE_SUFFIX",
    "Bench",
    "case_path",
    "kept_case",
    "make_bench",
    "measure_case",
]
