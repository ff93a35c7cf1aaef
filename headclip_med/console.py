"""What the command line shows: progress on stderr, results on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from headclip_med.case_outcome import TopFinding
from headclip_med.cohort import CaseOutcome, CohortSummary, Watcher
from headclip_med.errors import readable

if TYPE_CHECKING:
    from headclip_med.catalogue import MethodSummary, ModelInfo, PackSummary
    from headclip_med.demo import DemoOutcome
    from headclip_med.doctor import Check
    from headclip_med.review import CaseEntry

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def say_json(value: object) -> None:
    """One JSON object on stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    out.print(text.encode("utf-8", "backslashreplace").decode(), markup=False, highlight=False)


def say_error(message: str) -> None:
    """A message on stderr."""
    err.print(f"error: {message}", style="red", markup=False)


def say_warnings(messages: Iterable[str]) -> None:
    """Warnings on stderr."""
    for message in messages:
        err.print(f"warning: {message}", style="yellow", markup=False)


def progress_bars(*more: ProgressColumn, keep: bool = False) -> Progress:
    """Bars on stderr with how many are done, of how many, and the time left; ``keep`` leaves them on the screen."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), *more)
    return Progress(*columns, console=err, transient=not keep, redirect_stdout=False)


class TerminalWatcher(Watcher):
    """Bars on stderr while a run lasts (on a terminal only), and one line per finished case.

    A case with a result has its line on stdout, a failed one on stderr; with ``quiet`` stdout stays empty.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.outcomes: list[CaseOutcome] = []
        self._bars = progress_bars()
        self._drawn = err.is_terminal
        self._all = self._bars.add_task("cases", total=None, visible=False)
        self._slices = self._bars.add_task("", total=None)

    def __enter__(self) -> TerminalWatcher:
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def case_started(self, number: int, cases: int, name: str) -> None:
        self._bars.update(self._all, total=cases, completed=number - 1, visible=cases > 1)
        self._bars.reset(self._slices, total=None, description=f"slices of {_escaped(name)}")

    def slices_done(self, done: int, total: int) -> None:
        self._bars.update(self._slices, completed=done, total=total)

    def case_ended(self, outcome: CaseOutcome) -> None:
        self.outcomes.append(outcome)
        self._bars.update(self._all, advance=1)
        if outcome.error is not None:
            say_error(f"{outcome.name}: {outcome.error}")
        elif not self.quiet:
            self._clear()  # both streams may be one screen
            out.print(case_line(outcome), markup=False)
            self._draw()

    def _draw(self) -> None:
        if self._drawn:
            self._bars.start()

    def _clear(self) -> None:
        if self._drawn:
            self._bars.stop()


def case_line(outcome: CaseOutcome) -> str:
    """Score, findings and where everything was written."""
    again = " (finished earlier)" if outcome.status == "skipped" else ""
    folder = readable(str(outcome.folder))
    return f"{outcome.name}: score {outcome.pred_score or 0:.3f}, {_findings(outcome)} → {folder}{again}"


def run_json(outcomes: Sequence[CaseOutcome], cases: int) -> dict[str, Any]:
    """The object that ``predict --json`` prints."""
    return {"cases": [outcome.as_json() for outcome in outcomes], "cases_given": cases}


def show_counts(summary: CohortSummary, record: Path) -> None:
    """One line about a run of several cases, and the reason if it could not be recorded."""
    if summary.cases > 1:
        counts = ", ".join(f"{number} {status}" for status, number in summary.counts.items())
        err.print(f"{summary.cases} cases in {summary.seconds:.0f} s: {counts}; see {record}", markup=False)
    if summary.unrecorded is not None:
        say_error(summary.unrecorded)


def show_demo(demo: DemoOutcome) -> None:
    """Where the lesion is, where it was found, and the files to look at."""
    table = Table(title="A lesion of known place, in a synthetic head", show_header=False)
    table.add_row("lesion", f"RAS {_place(demo.lesion_mm)} mm")
    table.add_row("highest finding", "none" if demo.found_mm is None else f"RAS {_place(demo.found_mm)} mm")
    table.add_row("distance", "–" if demo.distance_mm is None else f"{demo.distance_mm:.1f} mm")
    table.add_row("Dice of the mask", f"{demo.dice:.2f} (1 is perfect, threshold {demo.threshold:.2f})")
    table.add_row("lesion volume", f"{demo.lesion_volume_mm3 / 1000:.1f} mL")
    table.add_row("volume score", f"{demo.case.pred_score or 0:.3f}, {demo.case.findings or 0} finding(s)")
    table.add_row("time", f"{demo.case.seconds:.1f} s")
    out.print(table)
    for kind, path in demo.files.items():
        out.print(f"{kind:>8}: {path}", markup=False)


def demo_json(demo: DemoOutcome) -> dict[str, Any]:
    """The object that ``demo --json`` prints."""
    return {
        "lesion_mm": demo.lesion_mm,
        "lesion_volume_mm3": demo.lesion_volume_mm3,
        "found_mm": demo.found_mm,
        "distance_mm": demo.distance_mm,
        "dice": demo.dice,
        "threshold": demo.threshold,
        "case": demo.case.as_json(),
        "files": {kind: str(path) for kind, path in demo.files.items()},
    }


def show_checks(checks: Sequence[Check]) -> None:
    """The doctor's table; what to do stands under what was found."""
    table = Table("", "", "found")
    for check in checks:
        mark = f"[{_COLOURS[check.status]}]{check.status}[/]"
        fix = f"\n→ {check.fix}" if check.fix else ""
        table.add_row(mark, _escaped(check.name), _escaped(check.detail + fix))
    out.print(table)


def show_review_cases(cases: Sequence[CaseEntry]) -> None:
    """The case list of a review: score, how far the reader is, or why a case cannot be reviewed."""
    table = Table("case", "score", "findings", "judged", "drawn", "state")
    for entry in cases:
        state = entry.problem or ("done" if entry.done else "begun" if entry.begun else "open")
        known = ("–" if value is None else value for value in (entry.findings, entry.judged, entry.drawn))
        score = "–" if entry.score is None else f"{entry.score:.3f}"
        table.add_row(_escaped(entry.key), score, *map(str, known), _escaped(state))
    out.print(table)


def show_models(packs: Sequence[PackSummary], towers: dict[str, str]) -> None:
    """Built-in packs, recommended towers, and how to name anything else."""
    table = Table("built in", "what", "method", "tower", "MiB", "threshold and its origin")
    for pack in packs:
        threshold = f"{pack.threshold:.2f}: {pack.threshold_origin}"
        cells = (pack.name, pack.title, pack.method, pack.tower, f"{pack.mib:.1f}", threshold)
        table.add_row(*map(_escaped, cells))
    out.print(table)
    table = Table("recommended, downloaded on first use", "what")
    for name, what in towers.items():
        table.add_row(_escaped(name), _escaped(what))
    out.print(table)
    out.print(
        "Any other: a pack folder or file, hf-pack:ORG/NAME, a weight file [ARCH@]FILE, ARCH/TAG of open_clip, "
        "hf-hub:ORG/NAME, timm:ARCH.",
        markup=False,
    )


def show_methods(methods: Sequence[MethodSummary]) -> None:
    """A line per method: what it is, and what it needs before it can score."""
    table = Table("method", "what it is", "needs", "learns")
    for method in methods:
        table.add_row(*map(_escaped, (method.name, method.title, ", ".join(method.needs) or "a tower", method.learns)))
    out.print(table)


def show_model(info: ModelInfo) -> None:
    """A model's card, record and hashes."""
    if info.card:
        out.print(Markdown(info.card))
    out.print(json.dumps(info.record, indent=2, ensure_ascii=False), markup=False)
    for what, digest in info.sha256.items():
        out.print(f"sha256 of the {what}: {digest}", markup=False)


@contextmanager
def steps(text: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, on a terminal only; what is yielded is told how many are done, and of how many."""
    bars = progress_bars()
    bars.disable = not err.is_terminal
    with bars:
        task = bars.add_task(_escaped(text), total=total)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show that something takes a while, on a terminal only."""
    if not err.is_terminal:
        yield
        return
    with err.status(_escaped(text)):
        yield


def _findings(outcome: CaseOutcome) -> str:
    if not outcome.findings or outcome.top_finding is None:
        return "no findings"
    top = outcome.top_finding
    count = "1 finding" if outcome.findings == 1 else f"{outcome.findings} findings"
    return f"{count}, highest {top.peak:.3f} {_where(top)}"


def _where(top: TopFinding) -> str:
    if top.centroid_px is not None:
        column, row = top.centroid_px
        return f"at column {column:.0f}, row {row:.0f} ({top.voxels} px)"
    return f"at RAS {_place(top.centroid_mm or ())} mm ({(top.volume_mm3 or 0.0) / 1000:.1f} mL)"


def _place(ras_mm: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in ras_mm)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
