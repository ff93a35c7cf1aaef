"""``headclip-med evaluate``: parses and calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headclip_med.base import names as choices
from headclip_med.cli import options
from headclip_med.cli.errors import errors_in_words

if TYPE_CHECKING:
    from headclip_med.datasets import CaseDataset

_PROTOCOLS = ("zero-shot", "auxiliary", "leave-one-out", "few-shot", "normals")


def _complete_model(incomplete: str) -> list[str]:
    names = [*choices.model_names(), *(f"control:{name}" for name in choices.CONTROLS)]
    return [name for name in names if name.startswith(incomplete)]


def _complete_protocol(incomplete: str) -> list[str]:
    return [name for name in _PROTOCOLS if name.startswith(incomplete)]


def evaluate_models(
    data: Annotated[
        str,
        typer.Option(metavar="[LAYOUT:]PATH", help="Labelled set; `headclip-med data layouts` lists the layouts."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="New folder, or an earlier evaluation, for report, tables and metrics."
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="As for predict, or control:intensity|redness|edges|chance; give it several times to compare.",
            show_default="headclip-tiny",
            autocompletion=_complete_model,
        ),
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also measure the trivial controls that fit the images.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the set in tables.", show_default="its folder's")] = None,
    sequences: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Which sequences become channels, such as t2f or t1c,t2f."),
    ] = None,
    lesion_values: options.LesionValuesOption = None,
    ignore_values: options.IgnoreValuesOption = None,
    split: Annotated[str | None, typer.Option(help="Only cases of this split: train, val or test.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N cases, for a try.")] = None,
    groups: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Columns about cases, joined on its column case or patient."),
    ] = None,
    group_by: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Make a subgroup table of this column; repeatable.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="zero-shot, auxiliary, leave-one-out, few-shot or normals.",
            show_default="from the model's training ledger",
            autocompletion=_complete_protocol,
        ),
    ] = None,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Mark, instead of refusing, a model trained on this very set.")
    ] = False,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Keep every distinct score instead of 65,536 levels; memory grows with the data."),
    ] = False,
    bootstrap: Annotated[
        int, typer.Option(metavar="N", help="Draws of patients for 95 % intervals; 0 for none.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    min_overlap: Annotated[
        float, typer.Option(help="Intersection over union from which a finding hits a lesion.")
    ] = 0.1,
    weights: options.WeightsOption = None,
    method: options.MethodOption = None,
    normals: options.NormalsOption = None,
    ask: options.AskOfSetOptions = options.NOTHING_ASKED,
    device: options.DeviceOption = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: options.BatchSizeOption = None,
    speed: options.SpeedOption = "exact",
    workers: Annotated[int, typer.Option(help="Processes; each loads the model.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep cases measured with the same content, model and settings.")
    ] = False,
    as_json: options.JsonOption = False,
    curves: Annotated[
        bool,
        typer.Option("--curves", help="With --json: also curves, histograms and reliability, as in metrics.json."),
    ] = False,
) -> None:
    """Evaluate models on a labelled set: metrics with intervals, tables, plots and a report."""
    with errors_in_words():
        from headclip_med.base.errors import InputError
        from headclip_med.cli import checks as cli_checks
        from headclip_med.cohort.options import check_batch_size
        from headclip_med.engine.ask import check_ask
        from headclip_med.evaluation import ModelSpec, Settings
        from headclip_med.evaluation.report import check_folder

        if curves and not as_json:
            raise InputError("--curves must come with --json", "--curves alone", "metrics.json has them anyway")
        check_batch_size(batch_size)
        choices.check_name("precision", precision, choices.PRECISIONS)
        choices.check_name("method", method, choices.method_names())
        choices.check_name("speed", speed, choices.SPEEDS)
        choices.check_name("protocol", protocol, _PROTOCOLS)
        check_ask(ask)
        check_folder(out)
        for given in model or []:
            _check_model(given)
        cli_checks.check_weights(weights)
        cli_checks.check_place(normals, "The normal images")
        cli_checks.check_file(groups, "The table of groups")
        settings = Settings(exact=exact, replicates=bootstrap, seed=seed, min_overlap=min_overlap)
        cli_checks.check_data([data])
        dataset = _dataset(data, name, sequences, (lesion_values, ignore_values), split, limit, groups)
        from headclip_med.cli.screen.console import say_json
        from headclip_med.cli.screen.evaluation import EvaluationBar, evaluation_json, show_evaluation, show_told
        from headclip_med.evaluation import evaluate

        _check_weights(model or [], weights)
        specs = [
            ModelSpec(
                given,
                device,
                precision,
                batch_size,
                None if given.startswith("control:") else method,
                _weights_for(given, weights),
                ask,
                speed,
                None if normals is None or given.startswith("control:") else str(normals),
            )
            for given in _with_controls(model or ["headclip-tiny"], controls, dataset)
        ]
        with EvaluationBar() as watcher:
            result = evaluate(
                specs,
                dataset,
                out,
                settings=settings,
                protocol=protocol,
                allow_overlap=allow_overlap,
                group_by=group_by or (),
                workers=workers,
                resume=resume,
                watcher=watcher,
            )
        if as_json:
            say_json(evaluation_json(result.record, curves))
        else:
            show_evaluation(result.record, out)
        show_told(result.record)
        raise typer.Exit(0 if result.ok else 1)


def _check_model(given: str) -> None:
    from headclip_med.cli.checks import check_model

    if given.startswith("control:"):
        choices.check_name("control", given.removeprefix("control:"), choices.CONTROLS)
    else:
        check_model(given)


def _check_weights(models: list[str], weights: Path | None) -> None:
    from headclip_med.base.errors import ModelError

    if weights is not None and not any(_weights_for(given, weights) for given in models):
        named = ", ".join(Path(given).name for given in models) or "headclip-tiny"
        raise ModelError("Weights must be given for a pack that carries none", f"{named}: none of them is one")


def _weights_for(model: str, weights: Path | None) -> str | None:
    """The weights for those of several models that need them: packs without a tower of their own."""
    from headclip_med.models.load import takes_weights

    return str(weights) if weights is not None and takes_weights(model) else None


def _with_controls(models: list[str], controls: bool, dataset: CaseDataset) -> list[str]:
    from headclip_med.evaluation.scorers import controls_for

    more = controls_for(dataset) if controls else []
    return [*models, *(name for name in more if name not in models)]


def _dataset(
    data: str,
    name: str | None,
    sequences: str | None,
    values: tuple[str | None, str | None],
    split: str | None,
    limit: int | None,
    groups: Path | None,
) -> CaseDataset:
    from dataclasses import replace

    from headclip_med.datasets import open_dataset
    from headclip_med.evaluation.groups import with_columns

    chosen = None if sequences is None else [part.strip() for part in sequences.split(",") if part.strip()]
    lesion, ignored = values
    dataset = open_dataset(data, name=name, sequences=chosen, split=split, lesion_values=lesion, ignore_values=ignored)
    if limit is not None and limit < len(dataset):
        note = f"only the first {limit} of {len(dataset)} cases were asked for"
        dataset = replace(dataset, cases=dataset.cases[:limit], notes=(*dataset.notes, note))
    return dataset if groups is None else with_columns(dataset, groups)
