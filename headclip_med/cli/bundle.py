"""``headclip-med bundle``: parses and calls."""

from __future__ import annotations

from typing import Annotated

import typer

from headclip_med.bundle.folder import DEFAULT
from headclip_med.cli import options
from headclip_med.cli.errors import errors_in_words
from headclip_med.cli.export import export_bundle

bundle_app = options.CommandApp("Run, check and find MONAI bundles.")

BundleName = Annotated[
    str, typer.Argument(metavar="NAME_OR_DIR", help="A bundle of headclip_med, or the folder of any bundle.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Run the config of a bundle that is not headclip_med's: it is code.")
]


@bundle_app.command("path")
def bundle_path(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a bundle; see bundle list.")] = DEFAULT,
    as_json: options.JsonOption = False,
) -> None:
    """Print the folder of a bundle, for monai.bundle and other tools."""
    with errors_in_words():
        from headclip_med.bundle.folder import find_bundle
        from headclip_med.cli.screen import console

        bundle = find_bundle(name)
        if as_json:
            console.say_json({"name": bundle.name, "folder": str(bundle.root)})
        else:
            console.out.print(str(bundle.root))


@bundle_app.command("list")
def bundle_list(as_json: options.JsonOption = False) -> None:
    """List the bundles of this installation, and the workflows of each."""
    with errors_in_words():
        from headclip_med.bundle.folder import own_bundles, summary
        from headclip_med.cli.screen import bundle as console_bundle
        from headclip_med.cli.screen import console

        bundles = [summary(bundle) for bundle in own_bundles()]
        if as_json:
            console.say_json({"bundles": bundles})
        else:
            console_bundle.show_bundles(bundles)


@bundle_app.command("run", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def bundle_run(
    context: typer.Context,
    workflow: Annotated[
        str | None,
        typer.Argument(metavar="WORKFLOW", help="A config of the bundle, such as train, evaluate or inference."),
    ] = None,
    bundle: Annotated[
        str, typer.Option("--bundle", metavar="NAME_OR_DIR", help="A bundle of headclip_med, or any bundle's folder.")
    ] = DEFAULT,
    config_file: Annotated[
        list[str] | None,
        typer.Option(
            "--config-file",
            "--config_file",
            metavar="FILE",
            help="Instead of the workflow's own files, each laid over those before it; repeatable.",
        ),
    ] = None,
    tracking: Annotated[
        str | None, typer.Option("--tracking", metavar="mlflow|FILE", help="As monai.bundle run takes it.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and build everything, run nothing.")] = False,
    trust: TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Run a workflow: `bundle run inference --dataset_dir scans --output_dir out`.

    Every other option is an override of the config: --KEY VALUE, where parts of a KEY are joined by # or ::,
    as in --train#trainer#max_epochs 5. A key that the config does not have is refused.
    """
    with errors_in_words():
        from headclip_med.bundle import run as front
        from headclip_med.bundle.failures import BundleRunError, was_stopped
        from headclip_med.bundle.folder import check_bundle_extra, find_bundle
        from headclip_med.bundle.overrides import read_overrides
        from headclip_med.cli.screen import bundle as console_bundle
        from headclip_med.cli.screen import console

        folder = find_bundle(bundle)
        check_bundle_extra("fire", "ignite")
        words = context.args
        if workflow is not None and workflow.startswith("-"):  # an override before the workflow, or instead of it
            words, workflow = [workflow, *words], None
        name, files = front.chosen_files(folder, workflow, config_file or [])
        overrides = read_overrides(words)
        if front.check_trust(folder, files, trust):
            console.say_warnings([f"the config of {folder.root} runs as code"])
        from headclip_med.training.loop import TrainWatcher
        from headclip_med.training.stop import Stop

        with Stop(TrainWatcher()) as stop:
            try:
                with console_bundle.stdout_for_json(as_json):
                    run = front.prepare(folder, name, files, overrides, tracking)
                    outcome = front.execute(run, dry_run)
            except BundleRunError as error:
                console.say_error(str(error))
                raise typer.Exit(130 if was_stopped(error) else 1) from error
            except KeyboardInterrupt as error:
                kept = "checkpoints and results that were written before are kept (the log names the last one)"
                console.say_error(f"stopped; {kept}, nothing is half-written")
                raise typer.Exit(stop.exit_code) from error
        if not as_json:
            console_bundle.show_outcome(outcome, dry_run)
        elif console_bundle.is_first_process():
            console.say_json(console_bundle.outcome_json(outcome, dry_run))


@bundle_app.command("verify")
def bundle_verify(
    name: BundleName = DEFAULT,
    trust: TrustOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Run MONAI's own verification of metadata and network, offline. Exit code 1 if it fails."""
    with errors_in_words():
        from dataclasses import asdict

        from headclip_med.bundle.folder import find_bundle
        from headclip_med.bundle.verify import verify
        from headclip_med.cli.screen import bundle as console_bundle
        from headclip_med.cli.screen import console

        bundle = find_bundle(name)
        with console_bundle.stdout_for_json(True), console.waiting(f"checking {bundle.name}"):
            checks = verify(bundle, trust)
        failed = any(check.status == "fail" for check in checks)
        if as_json:
            console.say_json({"bundle": str(bundle.root), "ok": not failed, "checks": [asdict(c) for c in checks]})
        else:
            console_bundle.show_checks(checks)
        raise typer.Exit(1 if failed else 0)


bundle_app.command("export")(export_bundle)
