"""Many cases, one after the other: finished ones can be skipped, and one bad case never stops the others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from headclip_med.base.errors import OutputError
from headclip_med.base.files import RECORD_NAME, check_writable
from headclip_med.cohort.options import CaseOptions
from headclip_med.cohort.outcome import CaseOutcome, CohortSummary, Watcher
from headclip_med.cohort.pipeline import (
    RUN_NAME,
    CohortRun,
    check_case,
    read_case,
    read_runs,
    seconds_since,
    write_case,
)
from headclip_med.cohort.resume import finished_record, skipped
from headclip_med.reading.inputs import CaseInput, Source
from headclip_med.writing.dicom.options import check_dicom_source
from headclip_med.writing.folder import check_case_folder

if TYPE_CHECKING:
    from headclip_med.engine.batches import Cancel
    from headclip_med.engine.engine import Engine
    from headclip_med.engine.scan_run import SlicesDone


def predict_case(
    engine: Engine[Any],
    source: Source,
    out_dir: Path,
    name: str,
    options: CaseOptions | None = None,
    progress: SlicesDone | None = None,
    cancel: Cancel | None = None,
) -> CaseOutcome:
    """Score one case and write its folder ``out_dir / name``, whole or not at all.

    Args:
        engine: A model on a device.
        source: A file or folder, or several files of one grid.
        out_dir: Folder of the results.
        name: Of the case and of its folder.
        options: What is asked of the case, default nothing.
        progress: Told of slices done and slices in all after each batch.
        cancel: Asked before each batch.

    Returns:
        The outcome, with the status ``done``.

    Raises:
        HeadclipError: Unusable source or options, a target that cannot be written, or a cancel.
    """
    begin, options = time.perf_counter(), options or CaseOptions()
    check_case(out_dir, name, source, options)
    case = engine.begin(read_case(source, options), options.ask, progress=progress)
    result = engine.finish(next(engine.score_each([case], cancel=cancel)))
    return replace(write_case(result, out_dir, name, options), seconds=seconds_since(begin))


def run_cohort(
    engine: Engine[Any],
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
        engine: A model on a device.
        cases: See :func:`headclip_med.reading.inputs.expand_inputs`.
        out_dir: Folder of the results.
        options: What is asked of every case, default nothing.
        resume: Skip a case whose folder holds an unaltered result of the same content, model and options.
        watcher: Is told what happens.
        cancel: Asked between batches, ends the whole run.

    Returns:
        What became of every case up to where the run ended.

    Raises:
        KeyboardInterrupt: Passed on after what was done has been recorded. No case is left half-written.
    """
    run = CohortRun(engine, cases, out_dir, options or CaseOptions(), resume, watcher or Watcher(), cancel)
    try:
        run.work()
    except KeyboardInterrupt:
        with suppress(OutputError):
            run.write_record()
        raise
    unrecorded = _unrecorded(run)
    return CohortSummary(run.outcomes, len(cases), seconds_since(run.begin), unrecorded)


def _unrecorded(run: CohortRun) -> str | None:
    """Write the run's record; why it could not be written, if it could not."""
    try:
        run.write_record()
    except OutputError as error:
        return str(error)
    return None


def all_finished(
    identity: Mapping[str, Any], cases: Sequence[CaseInput], out_dir: Path, options: CaseOptions
) -> list[CaseOutcome] | None:
    """Collect the outcomes of cases that are all finished already, so that no model is needed.

    Args:
        identity: Of the model, see :func:`headclip_med.cohort.resume.known_identity`.
        cases: See :func:`headclip_med.reading.inputs.expand_inputs`.
        out_dir: Folder of the results.
        options: What is asked of every case.

    Returns:
        As many outcomes as cases, None if one is not finished.
    """
    if not all((out_dir / case.name / RECORD_NAME).is_file() for case in cases):
        return None  # before anything is read
    outcomes = []
    for case in cases:
        content = _content_of(case, options)
        record = finished_record(identity, content, out_dir / case.name, options) if content else None
        if record is None:
            return None
        outcomes.append(skipped(record, out_dir / case.name))
    return outcomes


def record_finished(
    identity: Mapping[str, Any],
    outcomes: Sequence[CaseOutcome],
    cases: Sequence[CaseInput],
    out_dir: Path,
    options: CaseOptions,
    *,
    watcher: Watcher,
) -> CohortSummary:
    """Record a run as :func:`run_cohort` with ``resume`` would, of cases that are all finished.

    Args:
        identity: Of the model, see :func:`headclip_med.cohort.resume.known_identity`.
        outcomes: Of :func:`all_finished`.
        cases: As many, in the same order.
        out_dir: Folder of the results.
        options: What is asked of every case.
        watcher: Is told of every case.

    Returns:
        The outcomes, and whether they were recorded.
    """
    stand_in = cast("Engine[Any]", _NoEngine(_Known(identity)))
    run = CohortRun(stand_in, cases, out_dir, options, True, watcher, None)
    run.take(outcomes)
    return CohortSummary(run.outcomes, len(cases), seconds_since(run.begin), _unrecorded(run))


@dataclass(frozen=True)
class _NoEngine:
    """Stands where an engine would in the record of a run that needs none."""

    scorer: _Known


@dataclass(frozen=True)
class _Known:
    known: Mapping[str, Any]

    def identity(self) -> dict[str, Any]:
        return dict(self.known)

    def setting(self) -> dict[str, Any]:
        return {}


def _content_of(case: CaseInput, options: CaseOptions) -> str | None:
    """The hash of a case's content, where that can be told without fetching it; None where it cannot be read."""
    if case.fetch is not None:
        return None if case.known_content is None else case.known_content()
    try:
        return read_case(case.source, options).meta.get("content_sha256")
    except Exception:  # the run says what is wrong with it
        return None


def check_output(out_dir: Path, name: str | None = None) -> None:
    """Fail before a model is loaded when nothing could be written, and make no folder.

    Args:
        out_dir: Folder of the results.
        name: Of a case, whose folder must be free or hold an earlier result.

    Raises:
        OutputError: The folder, or the nearest one above it that exists, cannot be written to, or holds a ``run.json``
            of something else.
    """
    check_writable(out_dir) if name is None else check_case_folder(out_dir, name)
    read_runs(out_dir)


def check_dicom_cases(cases: Sequence[CaseInput], options: CaseOptions) -> None:
    """Fail before a model is loaded when DICOM objects are asked for and no case is DICOM.

    Where only some are not, these fail one by one.

    Args:
        cases: Those of the run.
        options: With the formats that are asked for.

    Raises:
        OutputError: What the first case is instead.
    """
    problems = []
    for case in cases:
        try:
            check_dicom_source(case.source, options.formats)
        except OutputError as problem:
            problems.append(problem)
    if problems and len(problems) == len(cases):
        raise problems[0]


__all__ = [
    "RUN_NAME",
    "CaseInput",
    "CaseOptions",
    "CaseOutcome",
    "CohortSummary",
    "Watcher",
    "all_finished",
    "check_dicom_cases",
    "check_output",
    "predict_case",
    "record_finished",
    "run_cohort",
]
