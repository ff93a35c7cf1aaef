"""Many cases, one after the other: finished ones can be skipped, and one bad case never stops the others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from headclip_med.case_inputs import CaseInput, Source
from headclip_med.case_options import CaseOptions
from headclip_med.case_outcome import CaseOutcome, CohortSummary, Watcher
from headclip_med.case_steps import check_case, read_case, seconds_since, write_case
from headclip_med.cohort_run import RUN_NAME, CohortRun, read_runs
from headclip_med.errors import OutputError
from headclip_med.writing.atomic import check_writable
from headclip_med.writing.dicom_options import check_dicom_source

if TYPE_CHECKING:
    from headclip_med.run_slices import Cancel
    from headclip_med.scan_engine import ScanEngine
    from headclip_med.scan_run import Progress


def predict_case(
    engine: ScanEngine,
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
    check_case(out_dir, name, source, options)
    case = engine.begin(read_case(source, options), options.ask(), progress=progress)
    result = engine.finish(next(engine.score_each([case], cancel=cancel)))
    return replace(write_case(result, out_dir, name, options), seconds=seconds_since(begin))


def run_cohort(
    engine: ScanEngine,
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
    run = CohortRun(engine, cases, out_dir, options or CaseOptions(), resume, watcher or Watcher(), cancel)
    try:
        run.work()
    except KeyboardInterrupt:
        with suppress(OutputError):
            run.write_record()
        raise
    unrecorded = None
    try:
        run.write_record()
    except OutputError as error:
        unrecorded = str(error)
    return CohortSummary(run.outcomes, len(cases), seconds_since(run.begin), unrecorded)


def check_output(out_dir: Path, name: str | None = None) -> None:
    """Fail before a model is loaded when nothing could be written; no folder is made.

    Args:
        name: of a case, whose folder must be free or hold an earlier result.

    Raises:
        OutputError: the folder, or the nearest one above it that exists, cannot be written to, or holds a ``run.json``
            of something else.
    """
    check_writable(out_dir, name)
    read_runs(out_dir)


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


__all__ = [
    "RUN_NAME",
    "CaseInput",
    "CaseOptions",
    "CaseOutcome",
    "CohortSummary",
    "Watcher",
    "check_dicom_cases",
    "check_output",
    "predict_case",
    "run_cohort",
]
