"""The command line ``headclip-med``: parses and calls.

Exit codes: 0 all done; 1 some case, check or download failed; 2 nothing was run: wrong usage, or a model,
device or output folder that cannot be used; 130 stopped with Ctrl-C. Results go to stdout, everything else
to stderr. Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headclip_med.base import names as choices
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.base.versions import __version__
from headclip_med.cli import options
from headclip_med.cli.bundle import bundle_app
from headclip_med.cli.data import data_app
from headclip_med.cli.errors import errors_in_words
from headclip_med.cli.evaluate import evaluate_models
from headclip_med.cli.models import models_app
from headclip_med.cli.pacs import pacs_app
from headclip_med.cli.review import review, review_tables
from headclip_med.cli.train import train_pack

if TYPE_CHECKING:
    from headclip_med.engine.engine import Engine

app = options.CommandApp(
    f"Zero-shot anomaly detection for medical images. {RESEARCH_ONLY}",
    name="headclip-med",
    epilog="Exit codes: 0 all done, 1 some case failed, 2 nothing was run, 130 stopped.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
app.add_typer(bundle_app, name="bundle")
app.add_typer(pacs_app, name="pacs")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headclip-med {__version__}")
        raise typer.Exit()


@app.callback()
def _every_command(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # a failed download is told once, by us


@app.command(epilog=RESEARCH_ONLY)
def predict(
    inputs: options.InputsArgument,
    out: options.OutOption,
    model: options.ModelOrExportOption = "headclip-tiny",
    weights: options.WeightsOption = None,
    method: options.MethodOption = None,
    normals: options.NormalsOption = None,
    ask: options.AskOptions = options.NOTHING_ASKED,
    formats: options.FormatsOption = ",".join(choices.FORMATS),
    device: options.DeviceOption = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: options.BatchSizeOption = None,
    speed: options.SpeedOption = "exact",
    resume: options.ResumeOption = False,
    keep_identifiers: options.KeepIdentifiersOption = False,
    keep_empty_frames: options.KeepEmptyFramesOption = False,
    deidentify: options.DeidentifyOption = False,
    push: options.PushOption = None,
    spool: options.SpoolOption = None,
    keep_spool: options.KeepSpoolOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Score scans: anomaly map, mask, findings in mm, preview and report for every case."""
    with errors_in_words():
        from headclip_med.cli import checks as cli_checks
        from headclip_med.cli.screen import console
        from headclip_med.cohort import options as case_options
        from headclip_med.cohort import resume as finished
        from headclip_med.cohort import run as cohort
        from headclip_med.cohort.pacs.plan import plan_network

        chosen = case_options.CaseOptions(
            ask=ask,
            formats=tuple(name.strip() for name in formats.split(",") if name.strip()),
            keep_identifiers=keep_identifiers,
            keep_empty_frames=keep_empty_frames,
            deidentify=deidentify,
        )
        case_options.check_batch_size(batch_size)
        choices.check_name("precision", precision, choices.PRECISIONS)
        choices.check_name("method", method, choices.method_names())
        choices.check_name("speed", speed, choices.SPEEDS)
        case_options.check_options(chosen)
        cohort.check_output(out)
        cli_checks.check_model(model)
        cli_checks.check_weights(weights)
        cli_checks.check_place(normals, "The normal images")
        plan = plan_network(
            inputs, out, chosen, push=push, spool=spool, keep_spool=keep_spool, reserved=[cohort.RUN_NAME]
        )
        cli_checks.check_inputs(inputs, plan.cases, out)
        cohort.check_dicom_cases(plan.cases, plan.options)
        console.say_warnings(plan.warnings)
        wanted: dict[str, Any] = {"weights": weights, "method": method, "precision": precision, "speed": speed}
        wanted["normals"] = normals
        known = finished.known_identity(model, device=device, **wanted) if resume else None
        done = None if known is None else cohort.all_finished(known[0], plan.cases, out, plan.options)
        place: dict[str, Any] = {"cases": plan.cases, "out_dir": out, "options": plan.options}
        if known is not None and done is not None:
            run = partial(cohort.record_finished, known[0], done, **place)
        else:
            engine = _engine(model, device, batch_size=batch_size, domain=ask.domain, **wanted)
            run = partial(cohort.run_cohort, engine, **place, resume=resume)
        watcher = console.TerminalWatcher(quiet=as_json)
        watching = plan.watching(watcher, console.say_error)
        try:
            with watcher:
                summary = run(watcher=watching)
        finally:
            if as_json:  # also what was done before Ctrl-C
                console.say_json(console.run_json(watcher.outcomes, len(plan.cases)) | plan.as_json())
        console.show_counts(summary, out / cohort.RUN_NAME)
        raise typer.Exit(0 if summary.ok and plan.ok else 1)


app.command("evaluate", epilog=RESEARCH_ONLY)(evaluate_models)
app.command("train", epilog=RESEARCH_ONLY)(train_pack)
app.command(epilog=RESEARCH_ONLY)(review)
app.command(epilog=RESEARCH_ONLY)(review_tables)


@app.command(epilog=RESEARCH_ONLY)
def demo(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Where the volume, its truth and the results go."),
    ] = Path("demo_output"),
    model: options.ModelOrExportOption = "headclip-tiny",
    device: options.DeviceOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Find a lesion of known place in an embedded synthetic volume, offline, in about a minute on a CPU."""
    with errors_in_words():
        from headclip_med.cli import checks as cli_checks
        from headclip_med.cli.screen import console
        from headclip_med.cohort import run as cohort
        from headclip_med.cohort.demo import CASE_NAME, run_demo

        cohort.check_output(out, CASE_NAME)
        cli_checks.check_model(model)
        engine = _engine(model, device)
        watcher = console.TerminalWatcher(quiet=True)
        with watcher:
            watcher.case_started(1, 1, CASE_NAME)
            outcome = run_demo(out, engine, progress=watcher.slices_done)
        if as_json:
            console.say_json(console.demo_json(outcome))
        else:
            console.show_demo(outcome)


@app.command()
def doctor(as_json: options.JsonOption = False) -> None:
    """Check this installation: packages, devices, packs, decoders, viewer. Exit code 1 if anything fails."""
    with errors_in_words():
        from dataclasses import asdict

        from headclip_med.cli.doctor import diagnose
        from headclip_med.cli.screen import console

        checks = diagnose()
        failed = any(check.status == "fail" for check in checks)
        if as_json:
            console.say_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
        else:
            console.show_checks(checks)
        raise typer.Exit(1 if failed else 0)


def _engine(
    model: str,
    device: str,
    *,
    weights: Path | None = None,
    method: str | None = None,
    precision: str = "auto",
    batch_size: int | None = None,
    domain: str | None = None,
    speed: str = "exact",
    normals: Path | None = None,
) -> Engine[Any]:
    from headclip_med.cli.screen import console
    from headclip_med.engine.load import ONNX_ENDING, check_onnx_options, load_engine, load_onnx_engine

    engine: Engine[Any]
    with console.waiting(f"loading {model}"):
        if model.lower().endswith(ONNX_ENDING):
            check_onnx_options(weights=weights, method=method, precision=precision, speed=speed, normals=normals)
            engine = exported = load_onnx_engine(model, device=device, batch_size=batch_size, precision=precision)
            exported.scorer.check_domain(domain)  # told once, not once a case
        else:
            engine = load_engine(
                model,
                device,
                weights=weights,
                method=method,
                precision=precision,  # type: ignore[arg-type]
                batch_size=batch_size,
                speed=speed,
                normals=normals,
            )
    facts = {**engine.scorer.identity(), **engine.scorer.setting()}
    console.say_detail(", ".join(f"{name} {value}" for name, value in facts.items()))
    return engine


def main() -> None:
    """Run the ``headclip-med`` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path may hold what its encoding cannot
            stream.reconfigure(errors="backslashreplace")
    app()
