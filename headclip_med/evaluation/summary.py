"""Measured cases of the models → their results, side by side, with paired differences and subgroups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from headclip_med.evaluation.cases import StoredCase
from headclip_med.evaluation.levels import Cohort, Measured, measure_levels
from headclip_med.evaluation.metrics.resample import no_interval, p_value, with_interval
from headclip_med.evaluation.record import (
    CaseRow,
    Difference,
    Level,
    Metric,
    ModelResult,
    Protocol,
    Subgroup,
)
from headclip_med.evaluation.settings import Settings

# What a paired comparison is made of; the others follow from these or are not resampled.
_COMPARED = {
    "case": ("auroc", "average_precision", "f1_max"),
    "slice": ("auroc", "average_precision", "f1_max"),
    "pixel": ("auroc", "average_precision", "f1_max", "aupro", "dice"),
    "foreground": ("auroc", "average_precision", "f1_max", "aupro"),
    "lesion": ("sensitivity_at_1_fp", "sensitivity_at_2_fp", "sensitivity_at_4_fp"),
}
_CATEGORY = "category"


@dataclass(frozen=True)
class ModelCases:
    """A model with the cases that were measured and the rows of all others (failed, duplicates)."""

    name: str
    protocol: Protocol
    cases: tuple[StoredCase, ...]
    excluded: tuple[CaseRow, ...]
    seconds: float


def summarise_model(model: ModelCases, settings: Settings, columns: Sequence[str]) -> ModelResult:
    """Compute the metrics of one model at every level, by category where there are several, and by each column.

    Args:
        model: Its measured cases and the rows of the others.
        settings: Of the metrics.
        columns: Of the cases, each of which makes subgroups.

    Returns:
        Metrics with intervals, subgroups, and the rows of all cases sorted by name.
    """
    cohort = Cohort(model.cases, settings)
    levels = _levels(cohort)
    subgroups = [
        group for column in _grouping(model.cases, columns) for group in _subgroups(model.cases, column, settings)
    ]
    categories = [group for group in subgroups if group.column == _CATEGORY]
    rows = (*(case.row for case in model.cases), *model.excluded)
    return ModelResult(
        model=model.name,
        protocol=model.protocol,
        levels=levels,
        macro=_macro(categories),
        subgroups=tuple(subgroups),
        cases=tuple(sorted(rows, key=lambda row: row.case)),
        seconds=model.seconds,
    )


def differences(models: Sequence[ModelCases], settings: Settings) -> list[Difference]:
    """Compare every pair of models on the cases that both have, drawn with the same patients.

    Args:
        models: In the order of the tables, the earlier of a pair minus the later.
        settings: Of the metrics.

    Returns:
        A difference for each pair, level and metric that both have a value of.
    """
    found: list[Difference] = []
    for first, second in combinations(models, 2):
        shared = {case.row.case for case in first.cases} & {case.row.case for case in second.cases}
        if shared:
            pair = [Cohort(tuple(c for c in m.cases if c.row.case in shared), settings) for m in (first, second)]
            found += _pair(first.name, second.name, pair[0], measure_levels(pair[0]), measure_levels(pair[1]))
    return found


def _pair(
    first: str, second: str, cohort: Cohort, ours: dict[str, Measured], theirs: dict[str, Measured]
) -> Iterable[Difference]:
    reason = no_interval(len(cohort.patients), cohort.settings)
    for level, names in _COMPARED.items():
        for name in names if level in ours and level in theirs else ():
            a, b = (measured[level].values.get(name, np.nan) for measured in (ours, theirs))
            if not (np.isfinite(a) and np.isfinite(b)):
                continue
            draws = [measured[level].draws.get(name) for measured in (ours, theirs)]
            apart = None if draws[0] is None or draws[1] is None else draws[0] - draws[1]
            yield Difference(
                first=first,
                second=second,
                level=level,
                metric=name,
                difference=with_interval(a - b, apart, reason),
                p_value=None if apart is None or reason else p_value(apart),
            )


def _levels(cohort: Cohort) -> dict[str, Level]:
    reason = no_interval(len(cohort.patients), cohort.settings)
    return {name: measured.level(reason) for name, measured in measure_levels(cohort).items()}


def _grouping(cases: Sequence[StoredCase], columns: Sequence[str]) -> list[str]:
    """The asked columns, after the categories where there are several."""
    several = len({case.row.category for case in cases}) > 1
    return list(dict.fromkeys([*([_CATEGORY] if several else []), *columns]))


def _subgroups(cases: Sequence[StoredCase], column: str, settings: Settings) -> Iterable[Subgroup]:
    def value_of(case: StoredCase) -> str:
        return case.row.columns.get(column, case.row.category if column == _CATEGORY else "")

    for value in sorted({value_of(case) for case in cases}):
        cohort = Cohort(tuple(case for case in cases if value_of(case) == value), settings)
        yield Subgroup(
            column=column,
            value=value or "not stated",
            cases=len(cohort.cases),
            patients=len(cohort.patients),
            levels=_levels(cohort),
        )


def _macro(categories: Sequence[Subgroup]) -> dict[str, dict[str, Metric]]:
    """Unweighted mean over categories, as multi-class papers give it; n/a where any category has no value."""
    found: dict[str, dict[str, Metric]] = {}
    for level in sorted({name for group in categories for name in group.levels}):
        metrics = [group.levels[level].metrics if level in group.levels else {} for group in categories]
        for name in dict.fromkeys(name for part in metrics for name in part):
            values = [part[name].value if name in part else None for part in metrics]
            known = [value for value in values if value is not None]
            missing = len(values) - len(known)
            found.setdefault(level, {})[name] = (
                Metric(reason=f"undefined in {missing} of {len(values)} categories")
                if missing
                else Metric(value=float(np.mean(known)), interval_reason="a mean over categories is not resampled")
            )
    return found
