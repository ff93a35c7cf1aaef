"""Cases that were measured → metrics at one level, with the draws that their intervals come from.

A level whose units are ranked by a score (cases, slices, pixels) has the same metrics everywhere; they are functions of
how often each score occurs, on the data as they are and on every draw of patients alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.evaluation.cases import StoredCase
from headclip_med.evaluation.metrics import curves
from headclip_med.evaluation.metrics.counts import CountSum, ScoreCounts, count_scores, level_scores
from headclip_med.evaluation.metrics.curves import expected_calibration_error, reliability
from headclip_med.evaluation.metrics.lesions import FrocTable, froc
from headclip_med.evaluation.metrics.resample import (
    choose_bins,
    count_patients,
    no_interval,
    patient_draws,
    with_interval,
)
from headclip_med.evaluation.record import Curve, Histogram, Level, Metric, Reliability
from headclip_med.evaluation.settings import Settings

Array = NDArray[np.float64]
Draws = dict[str, Array]

_HISTOGRAM_BINS = 40
_DICE_LEVELS = 4097  # thresholds at which the bootstrap looks for the best Dice: steps of 0.8 % of the odds
_NO_MASKS = "no case says where its lesions are"


@dataclass(frozen=True)
class Cohort:
    """Measured cases with their patients numbered."""

    cases: tuple[StoredCase, ...]
    settings: Settings

    @property
    def patients(self) -> list[str]:
        """Every patient once, sorted."""
        return sorted({case.row.patient for case in self.cases})

    @property
    def place(self) -> NDArray[np.int64]:
        """Place of each case's patient in ``patients``."""
        places = {name: i for i, name in enumerate(self.patients)}
        return np.array([places[case.row.patient] for case in self.cases], dtype=np.int64)


@dataclass(frozen=True)
class Measured:
    """A level before its intervals are put in.

    Attributes:
        values: Metrics by name, NaN where undefined.
        reasons: Why a value is NaN, by metric. The reason by the empty name holds for all others.
        draws: ``(replicates,)`` by metric.
    """

    unit: str
    counts: dict[str, int]
    values: dict[str, float]
    reasons: dict[str, str] = field(default_factory=dict)
    draws: Draws = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    histogram: Histogram | None = None
    reliability: Reliability | None = None

    def level(self, why_no_interval: str) -> Level:
        """Make the record of this level.

        Args:
            why_no_interval: The reason that holds for every metric, empty where there can be intervals.

        Returns:
            Its metrics with an interval, or with the reason why there is none.
        """
        return Level(
            unit=self.unit,
            counts=self.counts,
            metrics={name: self._metric(name, value, why_no_interval) for name, value in self.values.items()},
            curves=self.curves,
            histogram=self.histogram,
            reliability=self.reliability,
        )

    def _metric(self, name: str, value: float, why_no_interval: str) -> Metric:
        if not np.isfinite(value):
            return Metric(reason=self.reasons.get(name) or self.reasons.get("", "undefined on these cases"))
        return with_interval(value, self.draws.get(name), why_no_interval)


def measure_levels(cohort: Cohort) -> dict[str, Measured]:
    """Measure every level that the cases allow.

    Args:
        cohort: Measured cases of one model.

    Returns:
        By name: ``case``, ``pixel`` and ``lesion``, with ``slice`` where there are volumes, and ``foreground`` where
        pixels lie outside it.
    """
    levels = {"case": case_level(cohort)}
    if any(case.is_volume for case in cohort.cases):
        levels["slice"] = slice_level(cohort)
    pixel, foreground = pixel_levels(cohort)
    levels["pixel"] = pixel
    if foreground is not None:
        levels["foreground"] = foreground
    return {**levels, "lesion": lesion_level(cohort)}


def case_level(cohort: Cohort) -> Measured:
    """Rank images or volumes by their score. Cases without a label are left out and counted.

    Args:
        cohort: Measured cases of one model.

    Returns:
        Metrics with sensitivity at the specificities of the settings.
    """
    known = [(i, case) for i, case in enumerate(cohort.cases) if case.row.label is not None]
    counts = [_ranked(case.row.pred_score, case.row.label) for _, case in known]
    unit = _unit(cohort, "image", "volume")
    return _ranked_level(
        cohort,
        unit,
        [(int(cohort.place[i]), c) for (i, _), c in zip(known, counts, strict=True)],
        {"unlabelled": len(cohort.cases) - len(known)},
        operating_points=True,
    )


def slice_level(cohort: Cohort) -> Measured:
    """Rank slices of volumes with known lesions by their score.

    Background slices without a lesion were never scored and do not count.

    Args:
        cohort: Measured cases of one model.

    Returns:
        Metrics of the slices.
    """
    place = cohort.place
    counts = [
        (int(place[i]), count_scores(case.slice_scores, case.slice_labels, exact=True))
        for i, case in enumerate(cohort.cases)
        if len(case.slice_scores)
    ]
    return _ranked_level(cohort, "slice", counts, {})


def pixel_levels(cohort: Cohort) -> tuple[Measured, Measured | None]:
    """Rank all pixels, as papers count, and those of the foreground alone.

    Args:
        cohort: Measured cases of one model, whose counts are read from disk.

    Returns:
        Metrics of all pixels, with Dice, and of the foreground, None where no normal pixel lies outside it.
    """
    place, settings = cohort.place, cohort.settings
    with_pixels = [(int(place[i]), case) for i, case in enumerate(cohort.cases) if case.has_pixels]
    everywhere, within = CountSum(settings.exact), CountSum(settings.exact)
    dice = _DiceSum(len(cohort.patients))
    beyond = 0.0
    for patient, case in with_pixels:
        inside, outside = case.pixels()
        everywhere.add(inside)
        everywhere.add(outside)
        within.add(inside)
        beyond += outside.n_negatives
        dice.add(patient, inside, outside)
    unit = _unit(cohort, "pixel", "voxel")
    whole = _pixel_level(
        cohort,
        unit,
        everywhere.counts(),
        lambda: (p for i, c in with_pixels for p in ((i, part) for part in c.pixels())),
    )
    whole = dice.added_to(whole, with_pixels, settings)
    ignored = sum(case.row.ignored_voxels or 0 for _, case in with_pixels)
    if ignored:
        whole = Measured(**{**vars(whole), "counts": {**whole.counts, "ignored": ignored}})
    if not beyond:
        return whole, None
    counted = _pixel_level(
        cohort, f"foreground {unit}", within.counts(), lambda: ((i, c.pixels()[0]) for i, c in with_pixels)
    )
    return whole, counted


def lesion_level(cohort: Cohort) -> Measured:
    """Compare findings with lesions.

    Args:
        cohort: Measured cases of one model.

    Returns:
        Sensitivity at the settings' rates of false positives per volume or image, and the FROC curve.
    """
    settings = cohort.settings
    kept = [(i, case.lesions) for i, case in enumerate(cohort.cases) if case.lesions is not None]
    lesions = [found for _, found in kept]
    total = sum(found.lesions for found in lesions)
    per = _unit(cohort, "image", "volume")
    names = [f"sensitivity_at_{rate:g}_fp" for rate in settings.rates]
    counts = {"lesions": total, f"{per}s": len(kept)}
    if not total:
        reason = "no case with a mask holds a lesion" if kept else _NO_MASKS
        return Measured("lesion", counts, dict.fromkeys(names, np.nan), {"": reason})
    table = FrocTable(lesions)
    rates = np.asarray(settings.rates)
    values = table.sensitivity(np.ones((1, len(kept))), rates)[0]
    place = cohort.place[[i for i, _ in kept]]
    draws = _concatenate(
        dict(zip(names, table.sensitivity(weights[:, place], rates).T, strict=True)) for weights in _draws(cohort)
    )
    x, y = froc(lesions)
    hits = sum(int(found.is_hit.sum()) for found in lesions)
    false = sum(int((~found.is_hit & ~found.is_ignored).sum()) for found in lesions)
    return Measured(
        "lesion",
        {**counts, "found": hits, "false_positives": false},
        dict(zip(names, map(float, values), strict=True)),
        draws=draws,
        curves={"froc": Curve(x=_thin(x), y=_thin(y))},
    )


def _ranked_level(
    cohort: Cohort,
    unit: str,
    counts: Sequence[tuple[int, ScoreCounts]],
    more: dict[str, int],
    *,
    operating_points: bool = False,
) -> Measured:
    total = CountSum(exact=True)
    for _, part in counts:
        total.add(part)
    return _counted_level(cohort, unit, total.counts(), lambda: counts, more, operating_points=operating_points)


def _pixel_level(
    cohort: Cohort, unit: str, pooled: ScoreCounts, again: Callable[[], Iterable[tuple[int, ScoreCounts]]]
) -> Measured:
    measured = _counted_level(cohort, unit, pooled, again, {"regions": int(pooled.n_regions)}, regions=True)
    values = {
        **measured.values,
        "aupro_legacy": float(
            curves.aupro_legacy(pooled.scores, pooled.negatives, pooled.regions, pooled.n_regions)
            if pooled.n_regions
            else np.nan
        ),
        "auroc_bound": float(curves.auroc_bound(pooled.negatives, pooled.positives)),
    }
    return Measured(**{**vars(measured), "values": values})


def _counted_level(
    cohort: Cohort,
    unit: str,
    pooled: ScoreCounts,
    again: Callable[[], Iterable[tuple[int, ScoreCounts]]],
    more: dict[str, int],
    *,
    operating_points: bool = False,
    regions: bool = False,
) -> Measured:
    """A level whose units are ranked; ``again`` gives the counts by patient once more, for the draws."""
    settings = cohort.settings
    counts = {"normal": round(pooled.n_negatives), "abnormal": round(pooled.n_positives), **more}

    def metrics(scores: Array, parts: tuple[Array, Array, Array, Array]) -> dict[str, Array]:
        return _metrics(scores, parts, settings, operating_points=operating_points, regions=regions)

    reason = _one_class(unit, counts, no_masks=regions)
    if reason:
        names = metrics(np.zeros(1), (np.ones(1), np.ones(1), np.ones(1), np.asarray(1.0)))
        return Measured(unit, counts, dict.fromkeys(names, np.nan), {"": reason})
    whole = (pooled.negatives, pooled.positives, pooled.regions, np.asarray(pooled.n_regions))
    values = {name: float(value) for name, value in metrics(pooled.scores, whole).items()}
    draws: Draws = {}
    if not no_interval(len(cohort.patients), settings):
        table = count_patients(choose_bins(pooled, settings.bins), len(cohort.patients), again())
        draws = _concatenate(metrics(table.bins.scores, table.drawn(weights)) for weights in _draws(cohort))
    return Measured(
        unit,
        counts,
        values,
        draws=draws,
        curves=_curves(pooled),
        histogram=_histogram(pooled),
        reliability=_reliability(pooled, settings),
    )


def _metrics(
    scores: Array,
    parts: tuple[Array, Array, Array, Array],
    settings: Settings,
    *,
    operating_points: bool,
    regions: bool,
) -> dict[str, Array]:
    """Metrics of ranked units on the last axis; the mean of the first ones is the literature's mAD."""
    negatives, positives, region_weights, n_regions = parts
    found = {
        "auroc": curves.auroc(negatives, positives),
        "average_precision": curves.average_precision(negatives, positives),
        "f1_max": curves.f1_max(negatives, positives),
    }
    if regions:
        found["aupro"] = curves.aupro(negatives, region_weights, n_regions)
    found["mad"] = np.mean(list(found.values()), axis=0)
    if operating_points:
        for target in settings.specificities:
            name = f"sensitivity_at_specificity_{round(100 * target)}"
            found[name] = curves.sensitivity_at_specificity(negatives, positives, target)
    found["ece"] = expected_calibration_error(scores, negatives, positives, bins=settings.calibration_bins)
    return found


class _DiceSum:
    """Dice at every threshold, summed over the cases that hold a lesion."""

    def __init__(self, patients: int) -> None:
        self.sum = np.zeros(len(level_scores()))
        self.kept = np.linspace(0, len(self.sum) - 1, _DICE_LEVELS).round().astype(np.int64)
        self.by_patient = np.zeros((patients, _DICE_LEVELS), dtype=np.float32)
        self.cases = np.zeros(patients)

    def add(self, patient: int, inside: ScoreCounts, outside: ScoreCounts) -> None:
        """Add one case, if it holds a lesion."""
        if not inside.n_positives:
            return
        both = CountSum(exact=True)
        both.add(inside)
        both.add(outside)
        dice = curves.dice_curve(both.counts())
        self.sum += dice
        self.by_patient[patient] += dice[self.kept]
        self.cases[patient] += 1

    def added_to(self, level: Measured, cases: Sequence[tuple[int, StoredCase]], settings: Settings) -> Measured:
        """``level`` with Dice at the model's threshold and at the best one, which nobody knows in practice."""
        total = self.cases.sum()
        fixed = [(i, case.row.dice) for i, case in cases if case.row.dice is not None]
        by_patient = np.zeros(len(self.cases))
        for patient, dice in fixed:
            by_patient[patient] += dice
        values = {"dice": by_patient.sum() / total if total else np.nan}
        values["dice_best_threshold"] = float(self.sum.max() / total) if total else np.nan
        chunks = patient_draws(len(self.cases), settings) if level.draws else ()
        draws = level.draws | _concatenate(self._drawn(weights, by_patient) for weights in chunks)
        counts = {**level.counts, "cases_with_lesions": int(total)}
        reasons = dict(level.reasons)
        if not total:
            reasons["dice"] = reasons["dice_best_threshold"] = (
                "no case with a mask holds a lesion" if cases else _NO_MASKS
            )
        merged: dict[str, Any] = {"counts": counts, "values": {**level.values, **values}, "draws": draws}
        return Measured(**{**vars(level), **merged, "reasons": reasons})

    def _drawn(self, weights: Array, by_patient: Array) -> dict[str, Array]:
        with np.errstate(invalid="ignore", divide="ignore"):
            cases = weights @ self.cases
            best = (weights.astype(np.float32) @ self.by_patient).max(axis=1) / cases
            best = np.minimum(best, 1)  # 32 bits can round above it
            return {"dice": weights @ by_patient / cases, "dice_best_threshold": best}


def _draws(cohort: Cohort) -> Iterable[Array]:
    """The draws of patients, none where they would mean nothing."""
    patients = len(cohort.patients)
    return () if no_interval(patients, cohort.settings) else patient_draws(patients, cohort.settings)


def _concatenate(chunks: Iterable[dict[str, Array]]) -> Draws:
    parts = list(chunks)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _ranked(score: float | None, label: bool | None) -> ScoreCounts:
    return count_scores(np.array([score], dtype=np.float32), np.array([bool(label)]), exact=True)


def _unit(cohort: Cohort, plain: str, volume: str) -> str:
    """Which word fits the cases; ``case`` (or the plain one) where both kinds occur."""
    kinds = {case.is_volume for case in cohort.cases}
    if len(kinds) == 2:
        return "case" if plain == "image" else volume
    return volume if kinds == {True} else plain


def _one_class(unit: str, counts: dict[str, int], *, no_masks: bool) -> str:
    """Why nothing can be ranked: units of one class only, or none at all."""
    normal, abnormal = counts["normal"], counts["abnormal"]
    if normal and abnormal:
        return ""
    if not normal and not abnormal:
        return _NO_MASKS if no_masks else f"no {unit} with a known label"
    missing, other = ("abnormal", normal) if normal else ("normal", abnormal)
    return f"no {missing} {unit}: all {other} are {'normal' if normal else 'abnormal'}"


def _curves(pooled: ScoreCounts) -> dict[str, Curve]:
    found = {
        "roc": curves.roc_points(pooled.negatives, pooled.positives),
        "pr": curves.pr_points(pooled.negatives, pooled.positives),
    }
    if pooled.n_regions:
        found["pro"] = curves.pro_points(pooled.negatives, pooled.regions, pooled.n_regions)
    return {name: Curve(x=tuple(map(float, x)), y=tuple(map(float, y))) for name, (x, y) in found.items()}


def _histogram(pooled: ScoreCounts) -> Histogram:
    edges = np.linspace(0, 1, _HISTOGRAM_BINS + 1)
    normal, abnormal = (
        np.histogram(pooled.scores, edges, weights=part)[0] for part in (pooled.negatives, pooled.positives)
    )
    return Histogram(
        edges=tuple(map(float, edges)), normal=tuple(map(float, normal)), abnormal=tuple(map(float, abnormal))
    )


def _reliability(pooled: ScoreCounts, settings: Settings) -> Reliability:
    confidence, frequency, count = reliability(
        pooled.scores, pooled.negatives, pooled.positives, bins=settings.calibration_bins
    )
    filled = count > 0
    return Reliability(
        confidence=tuple(map(float, confidence[filled])),
        frequency=tuple(map(float, frequency[filled])),
        count=tuple(map(float, count[filled])),
    )


def _thin(values: Array, most: int = 500) -> tuple[float, ...]:
    keep = np.unique(np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(np.int64))
    return tuple(map(float, values[keep]))
