"""What ``headclip-med evaluate`` shows: one bar per phase on stderr, the headline numbers on stdout."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import TaskID

from headclip_med.cli.screen.console import (
    Pulse,
    draws_bars,
    err,
    progress_bars,
    say_error,
    say_note,
    say_result,
    say_warnings,
    show_result,
    table,
)
from headclip_med.evaluation.record import EvaluationRecord, Metric
from headclip_med.evaluation.run import EvaluationWatcher
from headclip_med.evaluation.tables import title_of, unit_of

_MOST_EXCLUDED = 20


class EvaluationBar(EvaluationWatcher):
    """Bars with the time left, or lines where stderr is a file, where a case that fails is told at once."""

    def __init__(self) -> None:
        self._bars, self._pulse = progress_bars(keep=True), Pulse()
        self._task: TaskID | None = None
        self._phase, self._cases, self._done = "", 0, 0

    def __enter__(self) -> EvaluationBar:
        if draws_bars():
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def phase_started(self, phase: str, cases: int) -> None:
        self._phase, self._cases, self._done = phase, cases, 0
        self._task = self._bars.add_task(phase, total=cases or None)
        self._pulse.say(f"{phase}: {cases} cases" if cases else phase)

    def case_done(self, case: str, error: str) -> None:
        self._done += 1
        if self._task is not None:
            self._bars.update(self._task, advance=1)
        if error:
            say_error(f"{case}: {error}")
        self._pulse.beat(f"{self._phase}: {self._done} of {self._cases} cases")


def evaluation_json(record: EvaluationRecord, curves: bool) -> dict[str, Any]:
    """Build the object that ``evaluate --json`` prints: metrics, without what only a plot needs unless asked for."""
    plain: dict[str, Any] = record.model_dump(mode="json")
    for model in plain["models"]:
        for levels in (model["levels"], *(group["levels"] for group in model["subgroups"])):
            for level in () if curves else levels.values():
                for name in ("curves", "histogram", "reliability"):
                    del level[name]
        for entry in model["protocol"]["ledger"]:
            if not curves:
                entry.pop("image_sha256", None)
    return plain


def show_evaluation(record: EvaluationRecord, folder: Path) -> None:
    """Show one row per level and metric, one column per model, and where the report is."""
    facts = record.dataset
    say_result(f"{facts.name}: {facts.counted} cases of {facts.patients} patients")
    rows = table("", "", *(result.model for result in record.models))
    levels = dict.fromkeys(name for result in record.models for name in result.levels)
    for level in levels:
        found = [result.levels.get(level) for result in record.models]
        names = dict.fromkeys(name for part in found if part for name in part.metrics)
        cells = [[_cell(part.metrics.get(name) if part else None) for part in found] for name in names]
        if all(cell == "n/a" for row in cells for cell in row):
            continue  # its reason is told below
        for name, row in zip(names, cells, strict=True):
            rows.add_row(unit_of(record, level), title_of(name), *row)
        rows.add_section()
    show_result(rows)
    reasons = dict.fromkeys(
        f"{level}: {metric.reason}"
        for result in record.models
        for level, part in result.levels.items()
        for metric in part.metrics.values()
        if metric.reason
    )
    for reason in reasons:
        say_result(f"n/a, {reason}")
    for note in facts.notes:
        say_result(f"note: {note}")
    say_result(f"report: {folder / 'report.html'}")


def show_told(record: EvaluationRecord) -> None:
    """Show what a reader of the numbers must know, and how many cases were left out and why, on stderr."""
    say_warnings(record.warnings)
    facts = record.dataset
    if facts.duplicates:
        say_note(f"{facts.duplicates} of {facts.cases} cases repeat another one and count once")
    failed = {row.case: row.error for result in record.models for row in result.cases if row.status == "failed"}
    if failed:
        say_error(f"{len(failed)} of {facts.cases} cases failed and are excluded; see cases.csv")
    for case, error in list(failed.items())[:_MOST_EXCLUDED]:
        err.print(f"  {case}: {error}")


def _cell(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "n/a"
    if metric.low is None or metric.high is None:
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"
