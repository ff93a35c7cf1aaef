"""One run of a cohort: while a case is scored, the next one is read and the one before is written."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from headclip_med.base.errors import CancelledError, HeadclipError, OutputError, internal_error
from headclip_med.base.files import RECORD_NAME, atomic_path
from headclip_med.base.geometry import slice_frame
from headclip_med.base.threads import Ahead
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.base.versions import package_versions
from headclip_med.cohort.options import CaseOptions
from headclip_med.cohort.outcome import CaseOutcome, Watcher, top_finding
from headclip_med.cohort.resume import engine_identity, finished_record, skipped
from headclip_med.reading.inputs import CaseInput, Source
from headclip_med.writing import write_result
from headclip_med.writing.dicom.options import check_dicom_source
from headclip_med.writing.folder import case_folder, check_case_folder

if TYPE_CHECKING:
    from headclip_med.base.volume import LoadedVolume
    from headclip_med.engine.batches import Cancel
    from headclip_med.engine.case import CaseRun
    from headclip_med.engine.engine import Engine
    from headclip_med.engine.result import AnomalyResult

log = logging.getLogger(__name__)

Made = TypeVar("Made")


def check_case(out_dir: Path, name: str, source: Source, options: CaseOptions) -> None:
    """Refuse a case whose result could not be written.

    Args:
        out_dir: Folder of the results.
        name: Of the case and of its folder.
        source: Must be DICOM where DICOM objects are asked for.
        options: With the formats that are asked for.

    Raises:
        OutputError: The folder is not free, or a format cannot be had of this source.
    """
    check_case_folder(out_dir, name)
    check_dicom_source(source, options.formats)


def read_case(source: Source, options: CaseOptions) -> LoadedVolume:
    """Load the volume of a case as its options ask.

    Args:
        source: A file or folder, or several files of one grid.
        options: With series, time point and what to do with an irregular series.

    Returns:
        ``(C, I, J, K)``.

    Raises:
        InputError: It cannot be read.
    """
    from headclip_med.reading import load_volume

    ask = options.ask
    return load_volume(source, series=ask.series, time=ask.time_index, on_irregular=ask.on_irregular)


def write_case(result: AnomalyResult, out_dir: Path, name: str, options: CaseOptions) -> CaseOutcome:
    """Write a result into ``out_dir / name``, whole or not at all.

    Args:
        result: Of the case.
        out_dir: Folder of the results.
        name: Of the case and of its folder.
        options: With the formats that are asked for.

    Returns:
        The outcome, with the status ``done`` and the seconds that writing took.

    Raises:
        OutputError: It cannot be written.
    """
    begin = time.perf_counter()
    notes = _replaced(out_dir / name, result.meta.get("content_sha256"))
    provenance = {**result.provenance, "options": options.recorded()}
    result = replace(result, provenance=provenance, warnings=(*result.warnings, *notes))
    with case_folder(out_dir, name) as folder:
        write_result(result, folder, options.formats, options.keep_identifiers, options.dicom)
    frame = slice_frame(result.affine, result.planes[0])
    return CaseOutcome(
        name=name,
        status="done",
        seconds=seconds_since(begin),
        folder=out_dir / name,
        pred_score=result.pred_score,
        findings=len(result.findings),
        top_finding=top_finding(result.findings, frame, result.map_array.shape),
        warnings=result.warnings,
    )


def _replaced(folder: Path, content_sha256: str | None) -> list[str]:
    """A warning where another image's result is about to be replaced, as two scans of one name would do."""
    try:
        earlier = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))["source"]["content_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if not earlier or earlier == content_sha256:
        return []
    return [f"an earlier result in {folder.name}, of an image of other content, was replaced"]


def outcome_or(name: str, work: Callable[[], Made]) -> Made | CaseOutcome:
    """Do ``work``, or say in words why it could not be done.

    Args:
        name: Of the case.
        work: Whatever may fail.

    Returns:
        What it makes, or an outcome with the status ``stopped`` or ``failed``.
    """
    try:
        return work()
    except CancelledError as error:
        return CaseOutcome(name, "stopped", 0.0, error=str(error))
    except HeadclipError as error:
        return CaseOutcome(name, "failed", 0.0, error=str(error))
    except Exception as error:  # the next case may well succeed; the text may hold paths or patient data
        log.debug("case %s", name, exc_info=True)
        return CaseOutcome(name, "failed", 0.0, error=internal_error(error))


def seconds_since(begin: float) -> float:
    """Measure the time since ``begin``.

    Args:
        begin: Of ``time.perf_counter``.

    Returns:
        Seconds, to the millisecond.
    """
    return round(time.perf_counter() - begin, 3)


RUN_NAME = "run.json"
RUN_SCHEMA = "headclip_med.run/1"

# So many cases, of so many bytes together, are read ahead of the one that is scored; small pictures fill a GPU's batch.
_MOST_AHEAD, _BYTES_AHEAD = 64, 256 * 2**20


@dataclass
class _Begun:
    """A case that was read, or what became of it instead; ``seconds`` spent so far."""

    number: int
    case: CaseInput
    seconds: float
    run: CaseRun | None = None
    outcome: CaseOutcome | None = None


class CohortRun:
    """A run and what has come of its cases so far.

    Args:
        engine: A model on a device.
        cases: In the order in which they are scored.
        out_dir: Folder of the results.
        options: What is asked of every case.
        resume: Skip a case whose folder holds an unaltered result of the same content, model and options.
        watcher: Is told what happens.
        cancel: Asked between batches, ends the whole run.
    """

    def __init__(
        self,
        engine: Engine[Any],
        cases: Sequence[CaseInput],
        out_dir: Path,
        options: CaseOptions,
        resume: bool,
        watcher: Watcher,
        cancel: Cancel | None,
    ) -> None:
        self.engine, self.cases, self.out_dir, self.options = engine, cases, out_dir, options
        self.resume, self.watcher, self.cancel = resume, watcher, cancel
        self.begin, self.started = time.perf_counter(), datetime.now(timezone.utc)
        self._ended: dict[int, CaseOutcome] = {}
        self._telling = threading.Lock()
        self._current, self._told, self._stopping = 0, 0, False

    @property
    def outcomes(self) -> tuple[CaseOutcome, ...]:
        """What has come of the cases so far, in their order."""
        return tuple(self._ended[number] for number in sorted(self._ended))

    def work(self) -> None:
        """Run every case, or up to where the caller stops it, and finish what is being written."""
        numbered = enumerate(self.cases, start=1)
        with (
            Ahead(self._begin, numbered, most=_MOST_AHEAD, weight=_bytes_of, budget=_BYTES_AHEAD) as begun,
            Ahead(self._end, self._scored(begun)) as ended,
        ):
            try:
                for _ in ended:
                    pass
            except BaseException:
                self._stopping = True
                raise

    def take(self, outcomes: Sequence[CaseOutcome]) -> None:
        """Take what has become of every case from elsewhere, and tell it as :meth:`work` would.

        Args:
            outcomes: As many as cases, in their order.
        """
        for number, outcome in enumerate(outcomes, start=1):
            self.watcher.case_started(number, len(self.cases), outcome.name)
            self._ended[number] = outcome
            self.watcher.case_ended(outcome)

    def _begin(self, numbered: tuple[int, CaseInput]) -> _Begun:
        """In the reading thread: a case → its slices, or why there is nothing to score."""
        number, case = numbered
        begun = _Begun(number, case, 0.0)
        begin = time.perf_counter()
        found = outcome_or(case.name, lambda: self._skipped_or_run(case, number))
        begun.seconds = seconds_since(begin)
        if isinstance(found, CaseOutcome):
            begun.outcome = replace(found, seconds=begun.seconds)
        else:
            begun.run = found
        return begun

    def _skipped_or_run(self, case: CaseInput, number: int) -> CaseOutcome | CaseRun:
        folder, source = self.out_dir / case.name, case.source
        if self.resume and case.known_content is not None and (content := case.known_content()) is not None:
            record = finished_record(engine_identity(self.engine), content, folder, self.options)
            if record is not None:
                return skipped(record, folder)
        if case.fetch is not None:
            source = case.fetch(partial(self._progress, number), self._is_stopped)
        if not self.resume:
            check_case(self.out_dir, case.name, source, self.options)
        volume = read_case(source, self.options)
        if self.resume:
            content = volume.meta.get("content_sha256", "")
            record = finished_record(engine_identity(self.engine), content, folder, self.options)
            if record is not None:
                return skipped(record, folder)
            check_case(self.out_dir, case.name, source, self.options)
        return self.engine.begin(volume, self.options.ask, progress=partial(self._progress, number))

    def _scored(self, begun: Ahead[tuple[int, CaseInput], _Begun]) -> Iterator[_Begun]:
        """Cases whose slices are scored."""
        waiting: deque[_Begun] = deque()

        def runs() -> Iterator[CaseRun]:
            for number, case in enumerate(self.cases, start=1):
                self._current = number
                self.watcher.case_started(number, len(self.cases), case.name)
                item = next(begun)
                if item.run is not None:
                    waiting.append(item)
                    yield item.run
                else:
                    self._end(item)
                if item.outcome is not None and item.outcome.status == "stopped":
                    return

        try:
            for _ in self.engine.score_each(runs(), cancel=self.cancel, ready=lambda: begun.ready):
                yield waiting.popleft()
        except CancelledError as error:
            self._stopping = True
            stopped = waiting[0]
            yield replace(stopped, outcome=CaseOutcome(stopped.case.name, "stopped", 0.0, error=str(error)))

    def _end(self, item: _Begun) -> None:
        """In the writing thread: a scored case → its folder; whatever goes wrong becomes its outcome."""
        run, outcome = item.run, item.outcome
        if outcome is None and run is not None:
            name = item.case.name
            begin, before = time.perf_counter(), item.seconds + run.clock.laps.get("detect", 0.0)
            outcome = outcome_or(name, lambda: write_case(self.engine.finish(run), self.out_dir, name, self.options))
            outcome = replace(outcome, seconds=round(before + seconds_since(begin), 3))
        assert outcome is not None
        with self._telling:
            self._ended[item.number] = outcome
            while (number := self._told + 1) in self._ended:  # in order, though a bad case may end before a good one
                self._told = number
                self.watcher.case_ended(self._ended[number])

    def _progress(self, number: int, done: int, total: int) -> None:
        """Of the case that is waited for; what is read ahead is not shown."""
        if number == self._current:
            self.watcher.slices_done(done, total)

    def _is_stopped(self) -> bool:
        return self._stopping or (self.cancel is not None and self.cancel())

    def write_record(self) -> None:
        """Write ``run.json``, whole or not at all, and keep what earlier runs did in it."""
        text = json.dumps(self._record(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with atomic_path(self.out_dir / RUN_NAME) as draft:
            draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")

    def _record(self) -> dict[str, Any]:
        setting = {**self.engine.scorer.setting(), "resume": self.resume}
        earlier = read_runs(self.out_dir)
        runs = [] if earlier is None else [*earlier.pop("earlier_runs", []), earlier]
        cases = {case["name"]: case for run in runs for case in run["cases"]}
        for outcome in self.outcomes:
            if outcome.status != "skipped" or outcome.name not in cases:
                cases[outcome.name] = {**self._case_record(outcome), "run": len(runs) + 1}
        for number, run in enumerate(runs, start=1):
            run["cases"] = [case for case in run["cases"] if case.setdefault("run", number) == number]
        return {
            "schema_version": RUN_SCHEMA,
            "research_use_only": RESEARCH_ONLY,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": seconds_since(self.begin),
            "arguments": {**self.options.recorded(), **setting},
            "model": {key: value for key, value in engine_identity(self.engine).items() if value is not None},
            "versions": package_versions(),
            "cases_given": len(self.cases),
            "cases": list(cases.values()),
            "earlier_runs": runs,
        }

    def _case_record(self, outcome: CaseOutcome) -> dict[str, Any]:
        error = outcome.error
        series = self.options.ask.series
        if error and series and "." in series:  # a UID that the user typed
            error = error.replace(series, "a series UID")
        folder = None if outcome.folder is None else outcome.folder.name  # folders above may name patients
        return {**outcome.as_json(), "folder": folder, "error": error}


def read_runs(folder: Path) -> dict[str, Any] | None:
    """Read what the earlier runs into ``folder`` recorded.

    Args:
        folder: Of the results.

    Returns:
        The last record with the earlier ones in it, None where there were none.

    Raises:
        OutputError: Its ``run.json`` is of something else, and would be lost.
    """
    path = folder / RUN_NAME
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema_version"] == RUN_SCHEMA and isinstance(record["cases"], list):
            return dict(record)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise OutputError(
        f"The {RUN_NAME} in the output folder must be of earlier runs of headclip-med",
        "another or a damaged file",
        "Move it away or choose another output folder",
    )


def _bytes_of(item: _Begun) -> int:
    return 0 if item.run is None else item.run.bytes
