"""A made-up but complete evaluation: two models, every level, what is undefined, failed and repeated cases."""

from __future__ import annotations

import numpy as np

from headclip_med.evaluation.record import (
    CaseRow,
    Curve,
    DatasetFacts,
    Difference,
    EvaluationRecord,
    Histogram,
    Level,
    Metric,
    ModelResult,
    Protocol,
    Reliability,
    Subgroup,
)

FEW = "4 patient(s): an interval needs at least 10"
NO_MASK = "no case says where its lesions are"
HOSTILE = "<script>alert(1)</script>"


def with_interval(value: float) -> Metric:
    return Metric(value=value, low=value - 0.032, high=min(1.0, value + 0.028))


def ranked(unit: str, shift: float, counts: dict[str, int], metrics: dict[str, Metric], *, pro: bool = False) -> Level:
    """A level with smooth curves; ``shift`` is how much better than chance they are."""
    x = np.linspace(0, 1, 60)
    y = x ** (1 - shift)
    edges = np.linspace(0, 1, 41)
    middle = (edges[1:] + edges[:-1]) / 2
    normal, abnormal = (np.exp(-(((middle - centre) / 0.15) ** 2)) for centre in (0.3, 0.3 + shift / 2))
    curves = {"roc": curve(x, y), "pr": curve(x, 1 - 0.8 * x**2)}
    if pro:
        curves["pro"] = curve(0.3 * x, y)
    confidence = np.linspace(0.05, 0.95, 10)
    return Level(
        unit=unit,
        counts=counts,
        metrics=metrics,
        curves=curves,
        histogram=Histogram(
            edges=numbers(edges),
            normal=numbers(normal * counts["normal"] / normal.sum()),
            abnormal=numbers(abnormal * counts["abnormal"] / abnormal.sum()),
        ),
        reliability=Reliability(
            confidence=numbers(confidence),
            frequency=numbers(confidence**1.5),
            count=numbers(1000 * (1.01 - confidence)),
        ),
    )


def curve(x: np.ndarray, y: np.ndarray) -> Curve:
    return Curve(x=numbers(x), y=numbers(y))


def numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def case_level(shift: float) -> Level:
    metrics = {
        "auroc": Metric(value=0.912, low=0.88, high=0.94) if shift > 0.6 else with_interval(0.7),
        "average_precision": with_interval(0.9 * shift + 0.1),
        "f1_max": with_interval(0.8),
        "sensitivity_at_specificity_90": Metric(value=0.5, interval_reason="undefined in 300 of 1000 replicates"),
        "ece": with_interval(0.11),
    }
    return ranked("volume", shift, {"normal": 12, "abnormal": 18, "unlabelled": 1}, metrics)


def pixel_level(shift: float) -> Level:
    metrics = {
        "auroc": with_interval(0.95),
        "average_precision": with_interval(0.41),
        "f1_max": with_interval(0.44),
        "aupro": with_interval(0.77),
        "mad": with_interval(0.64),
        "ece": with_interval(0.2),
        "aupro_legacy": Metric(value=0.71, interval_reason="not resampled"),
        "auroc_bound": Metric(value=2.4e-05, interval_reason="not resampled"),
        "dice": with_interval(0.38),
        "dice_best_threshold": with_interval(0.45),
    }
    counts = {"normal": 900_000, "abnormal": 12_000, "regions": 41, "cases_with_lesions": 18}
    return ranked("voxel", shift, counts, metrics, pro=True)


def lesion_level(shift: float) -> Level:
    rate = np.array([0.0, 0.1, 0.4, 0.9, 1.8, 3.5, 11.0])
    sensitivity = shift * np.array([0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0])
    at = {1: sensitivity[3], 2: sensitivity[4], 4: sensitivity[5]}
    return Level(
        unit="lesion",
        counts={"lesions": 41, "volumes": 30, "found": 30, "false_positives": 330},
        metrics={f"sensitivity_at_{limit}_fp": with_interval(float(value)) for limit, value in at.items()},
        curves={"froc": curve(rate, sensitivity)},
    )


def no_level(unit: str, reason: str) -> Level:
    names = ("auroc", "average_precision", "f1_max")
    return Level(
        unit=unit,
        counts={"normal": 12, "abnormal": 0},
        metrics={name: Metric(reason=reason) for name in names},
    )


def case_row(index: int, shift: float) -> CaseRow:
    abnormal = index % 5 < 3
    dice = round(0.95 - 0.02 * index, 3) if abnormal else None
    score = round(0.2 + 0.02 * index, 3) if abnormal else 0.1 + 0.01 * index
    return CaseRow(
        case=f"case_{index:04d}",
        patient=f"patient_{index // 2}",
        label=abnormal,
        status="done",
        pred_score=score,
        dice=dice,
        auroc=0.9 if abnormal else None,
        lesions=2 if abnormal else 0,
        lesions_found=1 if abnormal else 0,
        false_positives=index % 4,
        error_size=round(1 - dice if dice is not None else score * shift, 6),
        seconds=0.5,
        warnings=("window guessed", "one slice repeated") if index == 3 else (),
        columns={"site": "A" if index % 2 else "B", "note": "=1+1" if index == 4 else "-"},
        picture=f"case_{index:04d}.png",
    )


def excluded_rows() -> tuple[CaseRow, ...]:
    return (
        CaseRow(case="copy_1", patient="patient_0", label=True, status="duplicate", duplicate_of="case_0001"),
        CaseRow(case="broken_1", patient="p9", status="failed", error=f"broken.nii.gz must be readable; {HOSTILE}."),
    )


def model_result(name: str, shift: float, cases: int, protocol: Protocol) -> ModelResult:
    levels = {
        "case": case_level(shift),
        "slice": no_level("slice", "no abnormal slice: all 12 are normal"),
        "pixel": pixel_level(shift),
        "lesion": lesion_level(shift),
    }
    few = Level(
        unit="volume",
        counts={"normal": 2, "abnormal": 2},
        metrics={"auroc": Metric(value=0.75, interval_reason=FEW), "average_precision": Metric(reason=NO_MASK)},
    )
    return ModelResult(
        model=name,
        protocol=protocol,
        levels=levels,
        macro={"case": {"auroc": Metric(value=0.83, interval_reason="a mean over categories is not resampled")}},
        subgroups=tuple(
            Subgroup(column="site", value=value, cases=4, patients=4, levels={"case": few}) for value in ("A", "B")
        ),
        cases=(*(case_row(index, shift) for index in range(cases)), *excluded_rows()),
        seconds=12.5,
    )


ZERO_SHOT = Protocol(
    kind="zero-shot",
    kind_origin="the model has no training ledger",
    threshold=0.5,
    threshold_origin="of the pack: Otsu on phantoms",
    provenance={"model": {"name": "headclip-tiny", "weights_sha256": "ab" * 32}, "precision": "float32"},
)
AUXILIARY = Protocol(
    kind="auxiliary",
    kind_origin="the model's training ledger is not empty",
    ledger=({"name": "synthetic brains", "count": 12, "licence": "Apache-2.0", "content_sha256": "cd" * 32},),
    overlap="trained on this very set: synthetic brains",
    threshold=0.31,
    threshold_origin="chosen by the user before the evaluation",
)
NAMES = ("headclip-tiny", "50%_better & {adapted} $x$", "control:intensity", "_third_model^2")


def make_record(models: int = 2, cases: int = 30) -> EvaluationRecord:
    """``models`` (1 to 4) models on ``cases`` done cases, a duplicate and a failed one."""
    shifts = (0.7, 0.55, 0.3, 0.8)
    results = tuple(model_result(NAMES[i], shifts[i], cases, AUXILIARY if i == 1 else ZERO_SHOT) for i in range(models))
    differences = tuple(
        Difference(
            first=NAMES[0],
            second=name,
            level="case",
            metric="auroc",
            difference=Metric(value=0.212, low=0.1, high=0.3),
            p_value=0.002,
        )
        for name in NAMES[1:models]
    )
    return EvaluationRecord(
        created="2025-06-01T12:00:00+00:00",
        dataset=DatasetFacts(
            name="Brains & lesions",
            layout="folders",
            cases=cases + 2,
            patients=(cases + 1) // 2,
            counted=cases,
            duplicates=1,
            failed=1,
            content_sha256="ef" * 32,
            notes=("2 files were passed over",),
        ),
        settings={"exact": False, "replicates": 1000, "seed": 7, "rates": [1.0, 2.0, 4.0], "group_by": ["site"]},
        versions={"headclip-med": "0.1.0", "torch": "2.6.0"},
        models=results,
        differences=differences,
        warnings=("copy_1 repeats case_0001 under another label; case_0001 counts",),
    )
