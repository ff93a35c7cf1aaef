"""Many cases, one after the other: finished ones can be skipped, and one bad case never stops the others."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from headclip_med.case_inputs import CaseInput, Source
from headclip_med.case_options import CaseOptions
from headclip_med.errors import CancelledError, HeadclipError, InputError, OutputError, internal_error
from headclip_med.types import RESEARCH_ONLY
from headclip_med.versions import package_versions
from headclip_med.writing import write_result
from headclip_med.writing.atomic import atomic_path, case_folder, check_writable
from headclip_med.writing.dicom_options import check_dicom_source

if TYPE_CHECKING:
    from headclip_med.engine import Engine
    from headclip_med.exports.onnx_engine import OnnxEngine
    from headclip_med.result import Finding
    from headclip_med.run_slices import Cancel, Progress
    from headclip_med.writing.record import FindingRecord, ResultRecord

    AnyEngine: TypeAlias = Engine | OnnxEngine

log = logging.getLogger(__name__)

RUN_NAME = "run.json"
RUN_SCHEMA = "headclip_med.run/1"

Status = Literal["done", "skipped", "failed", "stopped"]


@dataclass(frozen=True)
class TopFinding:
    """The finding with the highest peak; position in RAS mm, None in a plain 2-D image."""

    peak: float
    volume_mm3: float
    centroid_mm: tuple[float, float, float] | None


@dataclass(frozen=True)
class CaseOutcome:
    """What became of one case.

    Attributes:
        name: of the case and of its result folder; folder: that folder, None where nothing was written.
        status: ``skipped`` is finished by an earlier run, ``stopped`` was cancelled.
        seconds: spent on it now; findings: how many; error: the whole message in words.
    """

    name: str
    status: Status
    seconds: float
    folder: Path | None = None
    pred_score: float | None = None
    findings: int | None = None
    top_finding: TopFinding | None = None
    warnings: tuple[str, ...] = ()
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; the folder as the caller wrote it."""
        return {**asdict(self), "folder": None if self.folder is None else str(self.folder)}


@dataclass(frozen=True)
class CohortSummary:
    """A whole run; ``unrecorded`` says why ``run.json`` could not be written, if it could not."""

    outcomes: tuple[CaseOutcome, ...]
    cases: int
    seconds: float
    unrecorded: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Cases by status."""
        return dict(Counter(outcome.status for outcome in self.outcomes))

    @property
    def ok(self) -> bool:
        """Whether every case has its result and the run is recorded."""
        finished = self.counts.get("done", 0) + self.counts.get("skipped", 0)
        return finished == self.cases and self.unrecorded is None


class Watcher:
    """What a caller can see of a run while it lasts; override what is needed."""

    def case_started(self, number: int, cases: int, name: str) -> None:
        """Case ``number`` (from 1) begins."""

    def slices_done(self, done: int, total: int) -> None:
        """Progress within the case."""

    def case_ended(self, outcome: CaseOutcome) -> None:
        """The case is over, whatever became of it."""


def predict_case(
    engine: AnyEngine,
    source: Source,
    out_dir: Path,
    name: str,
    options: CaseOptions | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> CaseOutcome:
    """Score one case and write its folder ``out_dir / name``, whole or not at all.

    Raises:
        HeadclipError: unusable source or options, a target that cannot be written, or a cancel.
    """
    begin, options = time.perf_counter(), options or CaseOptions()
    check_writable(out_dir, name)
    check_dicom_source(source, options.formats)
    result = engine.predict(
        source,
        domain=options.domain,
        plane=options.plane,
        window=options.window,
        series=options.series,
        time_index=options.time,
        on_irregular=options.on_irregular,
        threshold=options.threshold,
        smooth_mm=options.smooth_mm,
        channels=options.channels,  # type: ignore[arg-type]
        progress=progress,
        cancel=cancel,
    )
    result = replace(result, provenance={**result.provenance, "options": options.recorded()})
    with case_folder(out_dir, name) as folder:
        write_result(result, folder, options.formats, options.keep_identifiers, options.dicom)
    is_2d = bool(result.meta.get("is_2d", False))
    return CaseOutcome(
        name=name,
        status="done",
        seconds=_since(begin),
        folder=out_dir / name,
        pred_score=result.pred_score,
        findings=len(result.findings),
        top_finding=_top(result.findings, is_2d),
        warnings=result.warnings,
    )


def run_cohort(
    engine: AnyEngine,
    cases: Sequence[CaseInput],
    out_dir: Path,
    options: CaseOptions | None = None,
    *,
    resume: bool = False,
    watcher: Watcher | None = None,
    cancel: Cancel | None = None,
) -> CohortSummary:
    """Run every case and record the run in ``out_dir / run.json``.

    Args:
        cases: see :func:`headclip_med.case_inputs.expand_inputs`.
        resume: skip a case whose folder holds an unaltered result of the same content, model and options.
        watcher: is told what happens; cancel: asked between batches, ends the whole run.

    Raises:
        KeyboardInterrupt: passed on after what was done has been recorded; no case is left half-written.
    """
    run = _Run(engine, len(cases), out_dir, options or CaseOptions(), resume, watcher or Watcher(), cancel)
    try:
        for number, case in enumerate(cases, start=1):
            run.watcher.case_started(number, len(cases), case.name)
            outcome = run.outcome_of(case)
            run.outcomes.append(outcome)
            run.watcher.case_ended(outcome)
            if outcome.status == "stopped":
                break
    except KeyboardInterrupt:
        with suppress(OutputError):
            run.write_record()
        raise
    unrecorded = None
    try:
        run.write_record()
    except OutputError as error:
        unrecorded = str(error)
    return CohortSummary(tuple(run.outcomes), len(cases), _since(run.begin), unrecorded)


class _Run:
    """One run of a cohort and what has come of it so far."""

    def __init__(
        self,
        engine: AnyEngine,
        cases: int,
        out_dir: Path,
        options: CaseOptions,
        resume: bool,
        watcher: Watcher,
        cancel: Cancel | None,
    ) -> None:
        self.engine, self.cases, self.out_dir, self.options = engine, cases, out_dir, options
        self.resume, self.watcher, self.cancel = resume, watcher, cancel
        self.outcomes: list[CaseOutcome] = []
        self.begin, self.started = time.perf_counter(), datetime.now(timezone.utc)

    def outcome_of(self, case: CaseInput) -> CaseOutcome:
        """Skip or run a case; whatever goes wrong becomes its outcome."""
        begin = time.perf_counter()
        try:
            source = case.source
            if self.resume and case.known_content is not None and (content := case.known_content()) is not None:
                record = finished_record(self.engine, content, self.out_dir / case.name, self.options)
                if record is not None:
                    return _skipped(record, self.out_dir / case.name, _since(begin))
            if case.fetch is not None:
                source = case.fetch(self.watcher.slices_done, self.cancel)
            if self.resume:
                record = finished_record(self.engine, source, self.out_dir / case.name, self.options)
                if record is not None:
                    return _skipped(record, self.out_dir / case.name, _since(begin))
            progress, cancel = self.watcher.slices_done, self.cancel
            return predict_case(self.engine, source, self.out_dir, case.name, self.options, progress, cancel)
        except CancelledError as error:
            return CaseOutcome(case.name, "stopped", _since(begin), error=str(error))
        except HeadclipError as error:
            return CaseOutcome(case.name, "failed", _since(begin), error=str(error))
        except Exception as error:  # the next case may well succeed; the text may hold paths or patient data
            log.debug("case %s", case.name, exc_info=True)
            return CaseOutcome(case.name, "failed", _since(begin), error=internal_error(error))

    def write_record(self) -> None:
        """Write ``run.json``, whole or not at all."""
        check_writable(self.out_dir)
        text = json.dumps(self._record(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with atomic_path(self.out_dir / RUN_NAME) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")

    def _record(self) -> dict[str, Any]:
        setting = {**self.engine.setting(), "resume": self.resume}
        return {
            "schema_version": RUN_SCHEMA,
            "research_use_only": RESEARCH_ONLY,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": _since(self.begin),
            "arguments": {**self.options.recorded(), **setting},
            "model": _identity(self.engine),
            "versions": package_versions(),
            "cases_given": self.cases,
            "cases": [self._case_record(outcome) for outcome in self.outcomes],
        }

    def _case_record(self, outcome: CaseOutcome) -> dict[str, Any]:
        error = outcome.error
        if error and self.options.series and "." in self.options.series:  # a UID that the user typed
            error = error.replace(self.options.series, "a series UID")
        folder = None if outcome.folder is None else outcome.folder.name  # folders above may name patients
        return {**outcome.as_json(), "folder": folder, "error": error}


def check_output(out_dir: Path) -> None:
    """Fail before a model is loaded when nothing could be written; no folder is made.

    Raises:
        OutputError: the folder, or the nearest one above it that exists, cannot be written to.
    """
    existing = next(path for path in (out_dir, *out_dir.absolute().parents) if os.path.lexists(path))
    check_writable(existing)


def check_dicom_cases(cases: Sequence[CaseInput], options: CaseOptions) -> None:
    """Fail before a model is loaded when DICOM objects are asked for and no case is DICOM.

    Where only some are not, these fail one by one.

    Raises:
        OutputError: what the first case is instead.
    """
    problems = []
    for case in cases:
        try:
            check_dicom_source(case.source, options.formats)
        except OutputError as problem:
            problems.append(problem)
    if problems and len(problems) == len(cases):
        raise problems[0]


def finished_record(engine: AnyEngine, source: Source | str, folder: Path, options: CaseOptions) -> ResultRecord | None:
    """The record in ``folder`` if predicting again would only repeat it, else None.

    It must be complete and unaltered, made by this version with the same model, precision and options, from
    the same content (the source is read for that, its name does not matter; a string is the hash of its content).
    """
    from headclip_med.reading import load_volume
    from headclip_med.writing.record import load_result

    try:
        record, *_ = load_result(folder)
        expected = {**_identity(engine), "options": json.loads(json.dumps(options.recorded()))}
        made_with = {**record.provenance, **_of_versions(record.provenance)}
        if any(made_with.get(key) != expected.get(key) for key in (*expected, "export_sha256")):
            return None
        digest = source if isinstance(source, str) else None
        if digest is None:
            volume = load_volume(source, series=options.series, time=options.time, on_irregular=options.on_irregular)
            digest = volume.meta.get("content_sha256")
    except InputError:
        return None
    return record if digest and record.source.content_sha256 == digest else None


def _identity(engine: AnyEngine) -> dict[str, Any]:
    """What decides an engine's numbers, this package among it."""
    return {**engine.identity(), "version": package_versions()["headclip-med"]}


def _of_versions(provenance: dict[str, Any]) -> dict[str, Any]:
    versions = provenance.get("versions")
    return {"version": versions.get("headclip-med")} if isinstance(versions, dict) else {}


def _skipped(record: ResultRecord, folder: Path, seconds: float) -> CaseOutcome:
    return CaseOutcome(
        name=folder.name,
        status="skipped",
        seconds=seconds,
        folder=folder,
        pred_score=record.pred_score,
        findings=len(record.findings),
        top_finding=_top(record.findings, record.source.is_2d),
        warnings=tuple(record.warnings),
    )


def _top(findings: Sequence[Finding | FindingRecord], is_2d: bool) -> TopFinding | None:
    """The first finding: both the engine and the record list them by falling peak."""
    if not findings:
        return None
    return TopFinding(findings[0].peak, findings[0].volume_mm3, None if is_2d else findings[0].centroid_mm)


def _since(begin: float) -> float:
    return round(time.perf_counter() - begin, 3)


__all__ = [
    "CaseInput",
    "CaseOptions",
    "CaseOutcome",
    "CohortSummary",
    "Watcher",
    "check_dicom_cases",
    "check_output",
    "finished_record",
    "predict_case",
    "run_cohort",
]
