"""``headclip-med bundle export``: parses and calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headclip_med.cli import options
from headclip_med.cli.errors import errors_in_words

if TYPE_CHECKING:
    from rich.table import Table

    from headclip_med.bundle.export.run import Exported


def export_bundle(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder, or a .pt2 or .onnx file for a single kind.")],
    model: options.ModelOption = "headclip-tiny",
    weights: options.WeightsOption = None,
    domain: options.DomainOption = None,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="pt2 or onnx, or both joined by commas.",
            show_default="the file's, or pt2",
        ),
    ] = None,
    ckpt: Annotated[
        Path | None,
        typer.Option(
            "--ckpt", metavar="FILE", help="MONAI checkpoint of the model's network, such as models/model.pt."
        ),
    ] = None,
    images: Annotated[int, typer.Option(help="Slices on which the files are compared with the detector.")] = 8,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference of a probability; above it nothing is written.")
    ] = 1e-4,
    as_json: options.JsonOption = False,
) -> None:
    """Write a detector as one file that runs by itself, compared with the detector on the same slices."""
    with errors_in_words():
        from headclip_med.base import names as choices
        from headclip_med.base.files import check_writable
        from headclip_med.bundle.export.formats import parse_kinds, targets
        from headclip_med.cli import checks as cli_checks
        from headclip_med.cli.screen import console

        kinds = parse_kinds(kind, out)
        check_writable(next(iter(targets(kinds, out).values())).absolute().parent)
        cli_checks.check_model(model)
        cli_checks.check_weights(weights)
        cli_checks.check_file(ckpt, "The checkpoint")
        choices.check_name("domain", domain, choices.DOMAINS)
        with console.waiting(f"exporting {model} as {', '.join(k.name for k in kinds)}"):
            from headclip_med.bundle.export.run import check_request, export_model, load_network

            check_request(kinds, tolerance)
            network = load_network(model, weights=weights, domain=domain, checkpoint=ckpt)
            files = export_model(network, out, kinds, images=images, tolerance=tolerance)
        if as_json:
            console.say_json({"files": [file.as_json() for file in files]})
        else:
            console.show_result(_table(files))


def _table(files: list[Exported]) -> Table:
    from headclip_med.cli.screen.console import table as make_table

    table = make_table("kind", "file", "MiB", "map error", "score error", "measured in")
    for file in files:
        table.add_row(
            file.kind,
            str(file.file),
            f"{file.size / 2**20:.1f}",
            f"{file.parity.map_error:.1e}",
            f"{file.parity.score_error:.1e}",
            file.parity.runtime,
        )
    return table
