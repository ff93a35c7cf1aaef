"""``headclip-med train``: parses and calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headclip_med.cli import options
from headclip_med.cli.errors import errors_in_words


def train_pack(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE.yaml", help="Fields of a run; options override them.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="[LAYOUT:]PATH", help="Auxiliary set with masks; repeatable."),
    ] = None,
    lesion_values: options.LesionValuesOption = None,
    ignore_values: options.IgnoreValuesOption = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Tower: ARCH, ARCH/TAG of open_clip, timm:ARCH, or [ARCH@]FILE.")
    ] = None,
    weights: options.WeightsOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="The pack and its checkpoint go here.")
    ] = None,
    method: options.MethodOption = None,
    name: Annotated[str | None, typer.Option(help="Of the pack.")] = None,
    domain: options.DomainOption = None,
    steps: Annotated[int | None, typer.Option(help="Steps of optimisation.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same pack.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Any other field, such as heads.lr=0.01 or feature_layers=5,8,11; repeatable.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the checkpoint in the folder.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Train head weights and classes, or another method, on auxiliary data: a pack for `predict --model`."""
    with errors_in_words():
        from headclip_med.base.errors import CancelledError, InputError
        from headclip_med.base.fields import parse_settings, read_fields
        from headclip_med.base.names import DOMAINS, check_name, method_names
        from headclip_med.cli.screen.console import say_error, say_json

        check_name("method", method, method_names())
        check_name("domain", domain, DOMAINS)
        settings = parse_settings(set_ or [])
        changes: dict[str, Any] = {
            "model": model,
            "weights": None if weights is None else str(weights),
            "method": method,
            "out": out,
            "name": name,
            "domain": domain,
            "steps": steps,
            "seed": seed,
        }
        changes = {key: value for key, value in changes.items() if value is not None}
        values = {"lesion_values": lesion_values, "ignore_values": ignore_values}
        if data:
            changes["data"] = [{"path": path, **values} for path in data]
        elif any(values.values()):
            hint = "In the configuration, give them to each set"
            raise InputError("Values of masks must go with --data", "none", hint)
        _check_paths({**({} if config is None else read_fields(config)), **settings, **changes})
        from headclip_med.cli.screen.train import TrainBar, show_trained
        from headclip_med.training.config import load_config
        from headclip_med.training.run import train as run
        from headclip_med.training.stop import Stop, stopped_words

        chosen = load_config(config, settings, **changes)
        with TrainBar() as bar, Stop(bar, bar.told) as watcher:
            try:
                trained = run(chosen, resume=resume, watcher=watcher, cancel=watcher.cancel)
            except (KeyboardInterrupt, CancelledError) as stop:
                say_error(stopped_words(watcher.where, chosen.out, "train"))
                raise typer.Exit(watcher.exit_code) from stop
        if as_json:
            say_json(
                {
                    "pack": str(trained.pack),
                    "best_step": trained.fitted.best_step,
                    "validation_average_precision": trained.fitted.best_score,
                    "threshold": trained.threshold.model_dump(),
                    "slices": trained.slices,
                    "history": trained.fitted.history,
                }
            )
        else:
            show_trained(trained)


def _check_paths(given: dict[str, Any]) -> None:
    """Data, tower and folder of a configuration as it was written, before torch is imported."""
    from headclip_med.base.errors import InputError
    from headclip_med.base.files import check_writable
    from headclip_med.cli import checks as cli_checks

    missing = [name for name in ("data", "model", "out") if name not in given]
    if "weights" in given and "model" in missing:
        missing.remove("model")
    if missing:
        hint = "Add --data, --model (or --weights FILE) and --out, or name a file with --config"
        raise InputError("A training run must be given data, a tower and a folder", f"no {', '.join(missing)}", hint)
    sets = given.get("data")
    paths = [entry.get("path") for entry in sets if isinstance(entry, dict)] if isinstance(sets, list) else []
    cli_checks.check_data(path for path in paths if isinstance(path, str))
    if isinstance(given.get("model"), str):
        cli_checks.check_model(given["model"])
    if isinstance(given.get("out"), (str, Path)):
        check_writable(Path(given["out"]))
