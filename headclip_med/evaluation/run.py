"""Several models on one labelled set: resumable case by case, and nothing is dropped without being said."""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from headclip_med.base.errors import InputError
from headclip_med.base.versions import package_versions
from headclip_med.datasets.case import Case
from headclip_med.datasets.dataset import CaseDataset
from headclip_med.datasets.fingerprints import (
    Fingerprint,
    Inventory,
    contradictions,
    fingerprint_case,
    take_inventory,
)
from headclip_med.datasets.loading import CONTRADICTION
from headclip_med.datasets.mask_pictures import LOOKS_SMOOTHED, NOT_BINARY, TOO_DARK
from headclip_med.engine.engine import Engine
from headclip_med.evaluation.cases import (
    Bench,
    kept_case,
    make_bench,
    measure_case,
    stored_scorer,
)
from headclip_med.evaluation.measure import case_facts
from headclip_med.evaluation.protocol import check_kind, protocol_of
from headclip_med.evaluation.record import CaseRow, DatasetFacts, EvaluationRecord, Metric
from headclip_med.evaluation.report import CASES, check_folder, mark_folder, write_evaluation
from headclip_med.evaluation.scorers import CaseScorer, EngineScorer, ModelSpec, StoredScorer, check_names, short_names
from headclip_med.evaluation.settings import Settings
from headclip_med.evaluation.summary import ModelCases, differences, summarise_model
from headclip_med.evaluation.workers import check_workers, run_all
from headclip_med.models.scope import OUT_OF_SCOPE

if TYPE_CHECKING:
    from headclip_med.engine.torch_scorer import TorchScorer

AnyModel: TypeAlias = "Engine[TorchScorer] | CaseScorer | ModelSpec | str"


class EvaluationWatcher:
    """What a caller can see of an evaluation while it lasts. Override what is needed."""

    def phase_started(self, phase: str, cases: int) -> None:
        """Notice that a phase begins.

        Args:
            phase: ``reading the data``, the name of each model in turn, then ``metrics``.
            cases: How many are to do in it, 0 for ``metrics``.
        """

    def case_done(self, case: str, error: str) -> None:
        """Notice that one case of the phase is over.

        Args:
            case: Its name.
            error: What went wrong, in words, empty where it went well.
        """


@dataclass(frozen=True)
class EvaluationResult:
    """Everything an evaluation found. ``folder`` is None where nothing was asked to be written."""

    record: EvaluationRecord
    folder: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether every case of the set could be read and predicted."""
        return all(row.status != "failed" for model in self.record.models for row in model.cases)

    def metric(self, level: str, name: str, model: str | None = None) -> Metric:
        """Look up one metric, for example ``metric("pixel", "auroc")``.

        Args:
            level: ``case``, ``slice``, ``pixel``, ``foreground`` or ``lesion``.
            name: Of the metric, as in ``metrics.json``.
            model: Name of the model, None for the first one.

        Returns:
            Its value with an interval, or with the reason why there is none.

        Raises:
            InputError: there is no such model, level or metric. The error names those that there are.
        """
        models = {result.model: result for result in self.record.models}
        chosen = _named("model", models, model or next(iter(models)))
        found = _named("level", chosen.levels, level)
        metric: Metric = _named("metric", found.metrics, name)
        return metric

    def table(self) -> str:
        """Make the table of the headline numbers.

        Returns:
            Markdown, ending with a line break.
        """
        from headclip_med.evaluation.tables import markdown_table

        return markdown_table(self.record)


def evaluate(
    models: AnyModel | Sequence[AnyModel] | Mapping[str, AnyModel],
    dataset: CaseDataset,
    out: str | Path | None = None,
    *,
    settings: Settings | None = None,
    protocol: str | None = None,
    allow_overlap: bool = False,
    group_by: Sequence[str] = (),
    workers: int = 1,
    resume: bool = False,
    watcher: EvaluationWatcher | None = None,
) -> EvaluationResult:
    """Evaluate one or several models on a labelled set.

    Args:
        models: An engine, a model's name, ``control:intensity``, or several of them, by name if in a mapping.
        dataset: As :func:`headclip_med.open_dataset` gives it.
        out: Folder for metrics, tables, report and what is kept of each case. None writes nothing.
        settings: Of the metrics, None for the default ones.
        protocol: The kind, where the ledger does not say it all.
        allow_overlap: Mark, instead of refusing, a model that was trained on this very set.
        group_by: Columns of the cases to make subgroup tables of.
        workers: Number of processes. Several need models given by name.
        resume: Keep cases that were measured with the same content, model and settings.
        watcher: Told of each phase and each case.

    Returns:
        Metrics with intervals, or the reason why there is none. Cases that failed are listed and excluded.

    Raises:
        HeadclipError: an unusable model, option or output folder.
    """
    run = _Run(dataset, settings or Settings(), workers, resume, watcher or EvaluationWatcher())
    named = _by_name(models)
    scorers = {name: _builder(model, workers) for name, model in named.items()}
    check_workers(workers)
    check_kind(protocol)
    _check_columns(dataset, group_by)
    folder = None if out is None else Path(out)
    with ExitStack() as stack:
        if folder is None:
            cases_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headclip-evaluation-")))
        else:
            cases_folder = folder / CASES
            check_folder(folder)
        places = dict(zip(scorers, _folders(cases_folder, list(scorers)), strict=True))
        kept = _stored(named, places) if resume else {}
        built = {name: kept.get(name) or build() for name, build in scorers.items()}
        inventory, facts, warnings = run.take_stock()
        for name in kept:
            if not run.keeps_all(Bench(built[name], dataset, run.settings, places[name]), inventory):
                built[name] = scorers[name]()
        images = {run.image_sha256[case] for case in inventory.counted}
        boxes = {
            name: protocol_of(scorer, inventory.content_sha256, images, protocol, allow_overlap=allow_overlap)
            for name, scorer in built.items()
        }
        if folder is not None:
            mark_folder(folder)
        measured = []
        for name, build in scorers.items():
            bench = Bench(built[name], dataset, run.settings, places[name], pictures=folder is not None)
            cases, excluded, seconds = run.measure_model(name, bench, build, inventory)
            measured.append(ModelCases(name, boxes[name], cases, excluded, seconds))
        run.watcher.phase_started("metrics", 0)
        record = EvaluationRecord(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            dataset=facts.model_copy(update=_counted_by_all(measured)),
            settings={**run.settings.recorded(), "group_by": list(group_by)},
            versions=package_versions(),
            models=tuple(summarise_model(model, run.settings, group_by) for model in measured),
            differences=tuple(differences(measured, run.settings)),
            warnings=(*warnings, *_doubtful(measured[0]), *_uneven(measured), *_outside(measured)),
        )
        if folder is not None:
            write_evaluation(record, folder, places)
    return EvaluationResult(record, folder)


class _Run:
    """One evaluation and its fingerprints."""

    def __init__(
        self, dataset: CaseDataset, settings: Settings, workers: int, resume: bool, watcher: EvaluationWatcher
    ) -> None:
        self.dataset, self.settings, self.workers = dataset, settings, workers
        self.resume, self.watcher = resume, watcher
        self.sha256: dict[str, str] = {}
        self.image_sha256: dict[str, str] = {}

    def take_stock(self) -> tuple[Inventory, DatasetFacts, list[str]]:
        """Read every case once: what counts, what is a copy, what cannot be read."""
        self.watcher.phase_started("reading the data", len(self.dataset))
        found: dict[str, Fingerprint] = {}
        setup = partial(_itself, self.dataset)
        for case, fingerprint in run_all(self.dataset.cases, fingerprint_case, setup, self.workers, _unread):
            found[case.name] = fingerprint if fingerprint.case else Fingerprint(case.name, error=fingerprint.error)
            self.watcher.case_done(case.name, fingerprint.error)
        ordered = [found[case.name] for case in self.dataset]
        inventory = take_inventory(ordered)
        self.sha256 = {fingerprint.case: fingerprint.sha256 for fingerprint in ordered}
        self.image_sha256 = {fingerprint.case: fingerprint.image_sha256 for fingerprint in ordered}
        counted = set(inventory.counted)
        facts = DatasetFacts(
            name=self.dataset.name,
            layout=self.dataset.layout,
            cases=len(self.dataset),
            patients=len({case.patient or case.name for case in self.dataset if case.name in counted}),
            counted=len(counted),
            duplicates=len(inventory.duplicates),
            failed=len(inventory.failed),
            content_sha256=inventory.content_sha256,
            notes=self.dataset.notes,
        )
        return inventory, facts, contradictions(ordered, inventory)

    def keeps_all(self, bench: Bench, inventory: Inventory) -> bool:
        """Whether every case that counts was measured and is kept."""
        counted = set(inventory.counted)
        cases = [case for case in self.dataset if case.name in counted]
        return all(kept_case(bench, case, self.sha256[case.name]) is not None for case in cases)

    def measure_model(
        self, name: str, bench: Bench, build: Callable[[], CaseScorer], inventory: Inventory
    ) -> tuple[tuple[Any, ...], tuple[CaseRow, ...], float]:
        """Measure one model on every case that counts: stored cases, rows of the others, seconds."""
        begin = time.perf_counter()
        bench.folder.mkdir(parents=True, exist_ok=True)
        counted = set(inventory.counted)
        todo = [case for case in self.dataset if case.name in counted]
        if self.resume:
            todo = [case for case in todo if kept_case(bench, case, self.sha256[case.name]) is None]
        self.watcher.phase_started(name, len(todo))
        setup: Callable[[], Bench] = partial(_itself, bench)
        if self.workers > 1:
            setup = partial(make_bench, build, self.dataset, self.settings, bench.folder, bench.pictures)
        errors = dict(inventory.failed)
        for case, error in run_all(todo, measure_case, setup, self.workers, str):
            self.watcher.case_done(case.name, error)
            if error:
                errors[case.name] = error
        kept, excluded = [], []
        for case in self.dataset:
            if case.name in inventory.duplicates:
                excluded.append(_excluded(case, "duplicate", duplicate_of=inventory.duplicates[case.name]))
                continue
            stored = None if case.name in errors else kept_case(bench, case, self.sha256[case.name])
            if stored is None:
                error = errors.get(case.name, "what was kept of it could not be read again")
                excluded.append(_excluded(case, "failed", error=error))
            else:
                kept.append(stored)
        return tuple(kept), tuple(excluded), round(time.perf_counter() - begin, 2)


def _by_name(models: AnyModel | Sequence[AnyModel] | Mapping[str, AnyModel]) -> dict[str, AnyModel]:
    """Models by the name that tables use."""
    if isinstance(models, Mapping):
        pairs = list(models.items())
    else:
        listed: list[Any] = list(models) if isinstance(models, (list, tuple)) else [models]
        pairs = list(zip(_names_of(listed), listed, strict=True))
    check_names([name for name, _ in pairs])
    return dict(pairs)


def _stored(models: Mapping[str, AnyModel], places: Mapping[str, Path]) -> dict[str, StoredScorer]:
    """Stand-ins for models that are given by name and have measured cases in their folder already."""
    specs = {name: ModelSpec(model) if isinstance(model, str) else model for name, model in models.items()}
    found = {
        name: spec.as_stored(stored_scorer(places[name])) for name, spec in specs.items() if isinstance(spec, ModelSpec)
    }
    return {name: scorer for name, scorer in found.items() if scorer is not None}


def _names_of(models: Sequence[AnyModel]) -> list[str]:
    return short_names([_full_name(model) for model in models])


def _full_name(model: AnyModel) -> str:
    if isinstance(model, (str, ModelSpec)):
        return model if isinstance(model, str) else model.name
    return str(_scorer(model).identity()["model"])


def _scorer(model: Engine[TorchScorer] | CaseScorer) -> CaseScorer:
    return EngineScorer(model) if isinstance(model, Engine) else model


def _builder(model: AnyModel, workers: int) -> Callable[[], CaseScorer]:
    if isinstance(model, str):
        return ModelSpec(model).build
    if isinstance(model, ModelSpec):
        return model.build
    if workers > 1:
        raise InputError(
            "Several workers must be given models by name", type(model).__name__, "Give a name, or use workers=1"
        )
    return partial(_itself, _scorer(model))


def _folders(cases_folder: Path, names: Sequence[str]) -> list[Path]:
    """A folder per model, named after it in letters that every file system takes."""
    folders: list[Path] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model"
        taken = {folder.name.casefold() for folder in folders}
        numbers = (plain if n == 1 else f"{plain}_{n}" for n in range(1, len(names) + 2))
        folders.append(cases_folder / next(n for n in numbers if n.casefold() not in taken))
    return folders


def _check_columns(dataset: CaseDataset, columns: Sequence[str]) -> None:
    known = sorted({column for case in dataset for column in (*case.columns, *["category"] * bool(case.category))})
    for column in columns:
        if column not in known:
            raise InputError(f"A subgroup column must be one of {', '.join(known) or 'none here'}", column)


def _counted_by_all(models: Sequence[ModelCases]) -> dict[str, int]:
    """How many cases and patients every model was measured on, and how many cases failed under any."""
    failed = {row.case for model in models for row in model.excluded if row.status == "failed"}
    rows = [case.row for case in models[0].cases if case.row.case not in failed]
    return {"failed": len(failed), "counted": len(rows), "patients": len({row.patient for row in rows})}


def _uneven(models: Sequence[ModelCases]) -> list[str]:
    """What to know of models that were not measured on the same cases."""
    counts = {model.name: len(model.cases) for model in models}
    if len({frozenset(case.row.case for case in model.cases) for model in models}) < 2:
        return []
    each = ", ".join(f"{name} {count}" for name, count in counts.items())
    return [f"models were measured on different cases ({each}): only differences rest on the same ones"]


def _doubtful(model: ModelCases) -> list[str]:
    """How many cases have a mask or a label that had to be interpreted, by the reason."""
    told = Counter(
        reason
        for case in model.cases
        for reason in (NOT_BINARY, TOO_DARK, LOOKS_SMOOTHED, CONTRADICTION)
        if any(words.startswith(reason) for words in case.row.warnings)
    )
    shown = {CONTRADICTION: "the label contradicts the mask, which decides"}
    see = "see the column warnings of cases.csv"
    return [f"{n} of {len(model.cases)} cases: {shown.get(reason, reason)} ({see})" for reason, n in told.items()]


def _outside(models: Sequence[ModelCases]) -> list[str]:
    """How many cases of the set are no image that a model is for, by the reason."""
    told = Counter(
        (model.name, len(model.cases), words)
        for model in models
        for case in model.cases
        for words in set(case.row.warnings)
        if words.startswith(OUT_OF_SCOPE)
    )
    return [f"{name}: {count} of {cases} cases are {words}" for (name, cases, words), count in told.items()]


def _excluded(case: Case, status: str, *, error: str = "", duplicate_of: str = "") -> CaseRow:
    return CaseRow(
        **case_facts(case),
        label=case.label,
        status=status,
        error=error,
        duplicate_of=duplicate_of,
    )


def _unread(words: str) -> Fingerprint:
    return Fingerprint("", error=words)


def _itself(thing: Any) -> Any:
    return thing


def _named(kind: str, known: Mapping[str, Any], name: str) -> Any:
    if name not in known:
        raise InputError(f"The {kind} must be one of {', '.join(known)}", name)
    return known[name]
