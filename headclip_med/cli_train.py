"""``headclip-med train``: parses and calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headclip_med import cli_options as options
from headclip_med.cli_errors import errors_in_words


def train(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE.yaml", help="Fields of a run; options override them.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="[LAYOUT:]PATH", help="Auxiliary set with masks; repeatable."),
    ] = None,
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
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other field, such as heads.lr=0.01; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the checkpoint in the folder.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Train head weights and classes, or another method, on auxiliary data: a pack for `predict --model`."""
    with errors_in_words():
        from headclip_med.console import say_error, say_json
        from headclip_med.console_train import TrainBar, show_trained
        from headclip_med.errors import CancelledError
        from headclip_med.training.config import load_config
        from headclip_med.training.run import train as run
        from headclip_med.training.stop import Stop, stopped_words

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
        if data:
            changes["data"] = [{"path": path} for path in data]
        chosen = load_config(config, **changes, **_settings(set_ or []))
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


def _settings(pairs: list[str]) -> dict[str, Any]:
    """``heads.lr=0.01`` → ``{"heads.lr": 0.01}``, values as YAML reads them."""
    import yaml

    from headclip_med.errors import InputError

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError("A setting must be FIELD=VALUE", pair, "For example --set heads.lr=0.01")
        found[key.strip()] = yaml.safe_load(value)
    return found
