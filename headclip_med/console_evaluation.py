"""What ``headclip-med evaluate`` shows: one bar per phase on stderr, the headline numbers on stdout."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import TaskID
from rich.table import Table

from headclip_med.console import err, out, progress_bars, say_error
from headclip_med.evaluation.record import EvaluationRecord, Metric
from headclip_med.evaluation.run import EvaluationWatcher
from headclip_med.evaluation.tables import title_of, unit_of

_MOST_EXCLUDED = 20
_WIDTH = 160  # of a table in a file or a pipe, where there is no screen


class EvaluationBar(EvaluationWatcher):
    """Bars with the time left (on a terminal only); a case that fails is told at once."""

    def __init__(self) -> None:
        self._bars = progress_bars(keep=True)
        self._task: TaskID | None = None

    def __enter__(self) -> EvaluationBar:
        if err.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def phase_started(self, phase: str, cases: int) -> None:
        self._task = self._bars.add_task(phase.replace("[", r"\["), total=cases or None)

    def case_done(self, case: str, error: str) -> None:
        if self._task is not None:
            self._bars.update(self._task, advance=1)
        if error:
            say_error(f"{case}: {error}")


def show_evaluation(record: EvaluationRecord, folder: Path) -> None:
    """One row per level and metric, one column per model, and where the report is."""
    table = Table("", "", *(result.model.replace("[", r"\[") for result in record.models))
    facts = record.dataset
    table.title = f"{facts.name}: {facts.counted} cases of {facts.patients} patients".replace("[", r"\[")
    levels = dict.fromkeys(name for result in record.models for name in result.levels)
    for level in levels:
        found = [result.levels.get(level) for result in record.models]
        names = dict.fromkeys(name for part in found if part for name in part.metrics)
        rows = [[_cell(part.metrics.get(name) if part else None) for part in found] for name in names]
        if all(cell == "n/a" for row in rows for cell in row):
            continue  # its reason is told below
        for name, row in zip(names, rows, strict=True):
            table.add_row(unit_of(record, level), title_of(name), *row)
        table.add_section()
    screen = out if out.is_terminal else Console(highlight=False, width=_WIDTH)
    screen.print(table)
    reasons = dict.fromkeys(
        f"{level}: {metric.reason}"
        for result in record.models
        for level, part in result.levels.items()
        for metric in part.metrics.values()
        if metric.reason
    )
    for reason in reasons:
        out.print(f"n/a, {reason}", markup=False)
    for warning in (*facts.notes, *record.warnings):
        out.print(f"note: {warning}", markup=False)
    out.print(f"report: {folder / 'report.html'}", markup=False)


def show_excluded(record: EvaluationRecord) -> None:
    """How many cases were left out and why, on stderr."""
    facts = record.dataset
    if facts.duplicates:
        err.print(f"{facts.duplicates} of {facts.cases} cases repeat another one and count once", markup=False)
    failed = {row.case: row.error for result in record.models for row in result.cases if row.status == "failed"}
    if failed:
        say_error(f"{len(failed)} of {facts.cases} cases failed and are excluded; see cases.csv")
    for case, error in list(failed.items())[:_MOST_EXCLUDED]:
        err.print(f"  {case}: {error}", markup=False)


def _cell(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "n/a"
    if metric.low is None or metric.high is None:
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"
