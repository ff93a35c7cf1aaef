"""What the command line shows: progress on stderr, results on stdout."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from headclip_med.base.errors import readable
from headclip_med.cohort.outcome import CaseOutcome, CohortSummary, TopFinding, Watcher

if TYPE_CHECKING:
    from headclip_med.cli.doctor import Check
    from headclip_med.cohort.demo import DemoOutcome
    from headclip_med.models.catalogue import MethodSummary, ModelInfo, PackSummary
    from headclip_med.review import CaseEntry

_UNCUT = 100_000  # columns of a file or pipe: nothing is wrapped or shortened there
_EVERY = 10.0  # seconds between lines of progress where no bar can be drawn

_COLOURS = {"ok": "green", "warn": "yellow", "skipped": "yellow", "fail": "red"}


class Screen(Console):
    """A console that shows text as it is, cuts nothing, and goes on when its reader has gone (``| head -1``)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, "soft_wrap": True, **options})

    @property
    def options(self) -> ConsoleOptions:
        """How things are laid out: to fit a terminal, elsewhere as wide as their longest line."""
        return super().options if self.is_terminal else super().options.update(width=_UNCUT)

    def on_broken_pipe(self) -> None:
        """Drop what follows: the results are files, and a run that writes them must not end here."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


@dataclass
class Voice:
    """How much is said: see :func:`speak`."""

    quiet: bool = False
    verbose: bool = False


out = Screen()
err = Screen(stderr=True)
voice = Voice()


def speak(*, quiet: bool, verbose: bool) -> None:
    """Choose for this command how much is said, where log lines of this package need ``verbose``."""
    voice.quiet, voice.verbose = quiet, verbose
    if verbose:
        logging.basicConfig()
        logging.getLogger("headclip_med").setLevel(logging.DEBUG)


def say_json(value: object) -> None:
    """Print one JSON object on stdout."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    out.print(text.encode("utf-8", "backslashreplace").decode())


def say_error(message: str) -> None:
    """Print a message on stderr."""
    err.print(f"error: {message}", style="red")


def say_warnings(messages: Iterable[str]) -> None:
    """Print warnings on stderr."""
    for message in messages:
        err.print(f"warning: {message}", style="yellow")


def say_note(message: str) -> None:
    """Say how far things are, on stderr, but not with ``--quiet``."""
    if not voice.quiet:
        err.print(message)


def say_detail(message: str) -> None:
    """Say something on stderr, with ``--verbose`` only."""
    if voice.verbose:
        err.print(message)


def say_result(message: str) -> None:
    """Say what a command that writes files made, on stdout, but not with ``--quiet``."""
    if not voice.quiet:
        out.print(message)


def show(thing: Any) -> None:
    """Show a table or text on stdout, wrapped to the screen."""
    out.print(thing, soft_wrap=False, crop=False)


def show_result(thing: Any) -> None:
    """Show what a command that writes files made, as :func:`show`, but not with ``--quiet``."""
    if not voice.quiet:
        show(thing)


def table(*heads: str, show_header: bool = True) -> Table:
    """Build a table that folds what does not fit, instead of cutting it."""
    return Table(*[Column(head, overflow="fold") for head in heads], show_header=show_header)


def progress_bars(*more: ProgressColumn, keep: bool = False) -> Progress:
    """Build bars on stderr with how many are done, of how many, and the time left, which ``keep`` leaves on the
    screen."""
    words = TextColumn("{task.description}", markup=False)
    columns = (words, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), *more)
    return Progress(*columns, console=err, transient=not keep, redirect_stdout=False)


def draws_bars() -> bool:
    """Tell whether bars are drawn: on a terminal, unless the user wants quiet."""
    return err.is_terminal and not voice.quiet


class Pulse:
    """Lines of progress on stderr where no bar is drawn, some seconds apart, none for what is done before that."""

    def __init__(self) -> None:
        self._last: float | None = None

    def beat(self, words: str) -> None:
        """Say ``words`` if nothing was said for some seconds."""
        now = time.monotonic()
        if self._last is None:
            self._last = now
        elif now - self._last >= _EVERY:
            self.say(words)

    def say(self, words: str) -> None:
        """Say ``words`` where no bar is drawn."""
        self._last = time.monotonic()
        if not err.is_terminal:
            say_note(words)


class TerminalWatcher(Watcher):
    """Bars on stderr while a run lasts, or lines where stderr is a file, and one line per finished case.

    A case with a result has its line on stdout, a failed one on stderr, and with ``quiet`` stdout stays empty. A
    warning is told with the first case that has it, and counted in the end.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.outcomes: list[CaseOutcome] = []
        self._bars, self._pulse, self._name = progress_bars(), Pulse(), ""
        self._drawn = draws_bars()
        self._all = self._bars.add_task("cases", total=None, visible=False)
        self._slices = self._bars.add_task("", total=None)
        self._warned: Counter[str] = Counter()

    def __enter__(self) -> TerminalWatcher:
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()
        if not voice.verbose:
            say_warnings(f"{count} cases in all: {words}" for words, count in self._warned.items() if count > 1)

    def case_started(self, number: int, cases: int, name: str) -> None:
        self._name = name
        self._bars.update(self._all, total=cases, completed=number - 1, visible=cases > 1)
        self._bars.reset(self._slices, total=None, description=f"slices of {name}")
        if cases > 1:
            self._pulse.say(f"case {number} of {cases}: {name}")

    def slices_done(self, done: int, total: int) -> None:
        self._bars.update(self._slices, completed=done, total=total)
        self._pulse.beat(f"{self._name}: {done} of {total} slices")

    def case_ended(self, outcome: CaseOutcome) -> None:
        self.outcomes.append(outcome)
        self._bars.update(self._all, advance=1)
        self._clear()  # both streams may be one screen
        fresh = [words for words in outcome.warnings if voice.verbose or words not in self._warned]
        say_warnings(f"{outcome.name}: {words}" for words in fresh)
        self._warned.update(set(outcome.warnings))
        say_detail(f"{outcome.name}: {outcome.status} after {outcome.seconds:.1f} s")
        if outcome.error is not None:
            say_error(f"{outcome.name}: {outcome.error}")
        elif not self.quiet:
            say_result(case_line(outcome))
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
    """Build the object that ``predict --json`` prints."""
    return {"cases": [outcome.as_json() for outcome in outcomes], "cases_given": cases}


def show_counts(summary: CohortSummary, record: Path) -> None:
    """Show one line about a run of several cases, and the reason if it could not be recorded."""
    if summary.cases > 1:
        counts = ", ".join(f"{number} {status}" for status, number in summary.counts.items())
        say_note(f"{summary.cases} cases in {summary.seconds:.0f} s: {counts}; see {record}")
    if summary.unrecorded is not None:
        say_error(summary.unrecorded)


def show_demo(demo: DemoOutcome) -> None:
    """Show where the lesion is, where it was found, and the files to look at."""
    say_result("A lesion of known place, in a synthetic head")
    facts = table("", "", show_header=False)
    facts.add_row("lesion", f"RAS {_place(demo.lesion_mm)} mm")
    facts.add_row("highest finding", "none" if demo.found_mm is None else f"RAS {_place(demo.found_mm)} mm")
    facts.add_row("distance", "–" if demo.distance_mm is None else f"{demo.distance_mm:.1f} mm")
    facts.add_row("Dice of the mask", f"{demo.dice:.2f} (1 is perfect, threshold {demo.threshold:.2f})")
    facts.add_row("lesion volume", f"{demo.lesion_volume_mm3 / 1000:.1f} mL")
    facts.add_row("volume score", f"{demo.case.pred_score or 0:.3f}, {demo.case.findings or 0} finding(s)")
    facts.add_row("time", f"{demo.case.seconds:.1f} s")
    show_result(facts)
    for kind, path in demo.files.items():
        say_result(f"{kind:>8}: {path}")


def demo_json(demo: DemoOutcome) -> dict[str, Any]:
    """Build the object that ``demo --json`` prints."""
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
    """Show the doctor's table, where what to do stands under what was found."""
    rows = table("", "", "found")
    for check in checks:
        fix = f"\n→ {check.fix}" if check.fix else ""
        rows.add_row(status_text(check.status), check.name, check.detail + fix)
    show(rows)


def status_text(status: str) -> Text:
    """Colour a check's status."""
    return Text(status, style=_COLOURS[status])


def show_review_cases(cases: Sequence[CaseEntry]) -> None:
    """Show the case list of a review: score, how far the reader is, or why a case cannot be reviewed."""
    rows = table("case", "score", "findings", "judged", "drawn", "state")
    for entry in cases:
        state = entry.problem or ("done" if entry.done else "begun" if entry.begun else "open")
        known = ("–" if value is None else value for value in (entry.findings, entry.judged, entry.drawn))
        score = "–" if entry.score is None else f"{entry.score:.3f}"
        rows.add_row(entry.key, score, *map(str, known), state)
    show(rows)


def show_models(packs: Sequence[PackSummary], towers: dict[str, str]) -> None:
    """Show built-in packs, recommended towers, and how to name anything else, a name to a line, so that none is cut."""
    out.print("Built in:\n")
    for pack in packs:
        size = f"{pack.mib:.1f} MiB" if pack.mib >= 1 else f"{1024 * pack.mib:.0f} KiB"
        facts = f"method {pack.method}, tower {pack.tower}, {size}"
        threshold = f"threshold {pack.threshold:.2f}: {pack.threshold_origin}"
        _entry(pack.name, pack.title, f"for {pack.scope}", facts, threshold)
    out.print("\nRecommended, downloaded on first use:\n")
    for name, what in towers.items():
        _entry(name, what)
    out.print(
        "\nAny other: a pack folder or file, hf-pack:ORG/NAME, a weight file [ARCH@]FILE, ARCH/TAG of open_clip, "
        "hf-hub:ORG/NAME, timm:ARCH."
    )


def _entry(name: str, *lines: str) -> None:
    out.print(name, style="bold")
    for line in lines:
        show(Padding(Text(line), (0, 0, 0, 4), expand=False))


def show_methods(methods: Sequence[MethodSummary]) -> None:
    """Show a line per method: what it is, and what it needs before it can score."""
    rows = table("method", "what it is", "needs", "learns")
    rows.columns[0].no_wrap = True
    for method in methods:
        rows.add_row(method.name, method.title, ", ".join(method.needs) or "a tower", method.learns)
    show(rows)


def show_model(info: ModelInfo) -> None:
    """Show a model's card as it was written, its record and hashes."""
    if info.card:
        out.print(info.card)
    out.print(json.dumps(info.record, indent=2, ensure_ascii=False))
    for what, digest in info.sha256.items():
        out.print(f"sha256 of the {what}: {digest}")


@contextmanager
def steps(text: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar with the time left, or lines, and yield what is told how many are done, and of how many."""
    bars, pulse = progress_bars(), Pulse()
    bars.disable = not draws_bars()

    def tell(done: int, total: int) -> None:
        bars.update(task, completed=done, total=total)
        pulse.beat(f"{text}: {done} of {total}")

    with bars:
        task = bars.add_task(text, total=total)
        yield tell


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show that something takes a while, on a terminal only."""
    if not draws_bars():
        yield
        return
    with err.status(Text(text)):
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
