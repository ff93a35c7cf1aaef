"""``metrics.json``: everything an evaluation found, validated, with the reason wherever a number cannot be given.

The same frozen records are what :func:`headclip_med.evaluate` returns and what report and tables are made from.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

EVALUATION_SCHEMA: Literal["headclip_med.evaluation/1"] = "headclip_med.evaluation/1"

Kind = Literal["zero-shot", "auxiliary", "leave-one-out", "few-shot", "normals", "control"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(_Strict):
    """A number with its 95 % interval, or the reason why there is none.

    ``value`` None goes with ``reason``, and ``low`` and ``high`` None go with ``interval_reason``.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    interval_reason: str = ""


class Curve(_Strict):
    """Points of a curve, ``x`` never falling, at most some hundreds of them."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class Histogram(_Strict):
    """Scores of normal and abnormal units. ``edges`` has one entry more than the counts."""

    edges: tuple[float, ...]
    normal: tuple[float, ...]
    abnormal: tuple[float, ...]


class Reliability(_Strict):
    """Mean probability said, share that was abnormal, and units, in each bin that has any."""

    confidence: tuple[float, ...]
    frequency: tuple[float, ...]
    count: tuple[float, ...]


class Level(_Strict):
    """What was found at one level: ``case`` (image or volume), ``slice``, ``pixel`` or ``lesion``.

    Attributes:
        unit: the level in the reader's word: image, volume, slice, pixel, voxel, lesion.
        counts: of what the metrics rest on, by name: ``normal``, ``abnormal``, ``regions``, ``lesions``, ``volumes``.
        metrics: by name, in the order of a table. curves: ``roc``, ``pr``, ``froc``, ``pro``.
    """

    unit: str
    counts: dict[str, int]
    metrics: dict[str, Metric]
    curves: dict[str, Curve] = {}
    histogram: Histogram | None = None
    reliability: Reliability | None = None


class CaseRow(_Strict):
    """One case under one model. ``status`` failed goes with ``error``, duplicate with ``duplicate_of``.

    Attributes:
        error_size: From 0 (right) to 1 (wrong): 1 − Dice where there is a lesion mask, else the distance of
            ``pred_score`` from the label. None where neither is known. Best, median and worst go by it.
        ignored_voxels: How many count nowhere because nothing is known about them. None: the masks know no such.
        picture: Name of its overlay below ``cases/MODEL``, where one was made.
    """

    case: str
    patient: str
    category: str = ""
    label: bool | None = None
    status: Literal["done", "failed", "duplicate"]
    pred_score: float | None = None
    dice: float | None = None
    auroc: float | None = None
    lesions: int | None = None
    lesions_found: int | None = None
    false_positives: int | None = None
    error_size: float | None = None
    ignored_voxels: int | None = None
    seconds: float = 0.0
    error: str = ""
    duplicate_of: str = ""
    warnings: tuple[str, ...] = ()
    columns: dict[str, str] = {}
    picture: str = ""


class Subgroup(_Strict):
    """Metrics of the cases that share one value of a column."""

    column: str
    value: str
    cases: int
    patients: int
    levels: dict[str, Level]


class Protocol(_Strict):
    """Under what conditions a model was evaluated."""

    kind: Kind
    kind_origin: str
    ledger: tuple[dict[str, Any], ...] = ()
    overlap: str = ""
    threshold: float
    threshold_origin: str
    provenance: dict[str, Any] = {}


class ModelResult(_Strict):
    """Everything about one model. ``macro``: unweighted mean of a metric over categories, by level and name."""

    model: str
    protocol: Protocol
    levels: dict[str, Level]
    macro: dict[str, dict[str, Metric]] = {}
    subgroups: tuple[Subgroup, ...] = ()
    cases: tuple[CaseRow, ...]
    seconds: float = 0.0


class Difference(_Strict):
    """``first`` minus ``second`` on the cases that both have, with a paired bootstrap interval."""

    first: str
    second: str
    level: str
    metric: str
    difference: Metric
    p_value: float | None = None


class DatasetFacts(_Strict):
    """The set as it was evaluated.

    ``content_sha256`` covers every readable case that is no copy. ``counted`` and ``patients`` are what every model was
    measured on, ``failed`` is what any failed on.
    """

    name: str
    layout: str
    cases: int
    patients: int
    counted: int
    duplicates: int
    failed: int
    content_sha256: str
    notes: tuple[str, ...] = ()


class EvaluationRecord(_Strict):
    """Contents of ``metrics.json``."""

    schema_version: Literal["headclip_med.evaluation/1"] = EVALUATION_SCHEMA
    created: str
    dataset: DatasetFacts
    settings: dict[str, Any]
    versions: dict[str, str]
    models: tuple[ModelResult, ...]
    differences: tuple[Difference, ...] = ()
    warnings: tuple[str, ...] = ()
