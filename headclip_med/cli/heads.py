"""``headclip-med models heads``: parses and calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headclip_med.cli import options
from headclip_med.cli.errors import errors_in_words

if TYPE_CHECKING:
    from headclip_med.engine.heads import SliceHeads


def heads(
    pack: Annotated[
        str, typer.Argument(metavar="PACK", help="Built-in pack, pack folder, single-file pack or hf-pack:ORG/NAME.")
    ],
    slice_file: Annotated[
        Path | None,
        typer.Option("--slice", metavar="FILE", help="A scan: also show which heads raise the score of one slice."),
    ] = None,
    slice_index: Annotated[
        int | None,
        typer.Option("--index", metavar="N", help="Slice, from 0.", show_default="the one that scores highest"),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.png", help="Picture; an earlier one is replaced.")
    ] = Path("heads.png"),
    weights: options.WeightsOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Draw a pack's head weights and, for a slice, the heads that raise its score most. Research use only."""
    with errors_in_words():
        from headclip_med.base.errors import InputError, ModelError
        from headclip_med.base.files import check_writable
        from headclip_med.cli import checks as cli_checks
        from headclip_med.cli.screen import console

        if out.suffix.lower() != ".png":
            raise InputError("The picture must be a PNG file", out.name, "For example --out heads.png")
        if slice_index is not None and slice_file is None:
            raise InputError("--index must come with --slice FILE", slice_index)
        cli_checks.check_model(pack)
        cli_checks.check_weights(weights)
        cli_checks.check_place(slice_file, "The scan")
        check_writable(out.absolute().parent)
        import torch

        from headclip_med.detectors import HeadCLIP
        from headclip_med.detectors.headclip.attribution import acting_weights
        from headclip_med.engine.heads import explain_slice, view_slice
        from headclip_med.models.load import detector_for, load_model, place_model
        from headclip_med.writing.heads_picture import heads_picture
        from headclip_med.writing.overlay import save_picture

        with console.waiting(f"loading {pack}"):
            model = place_model(load_model(pack, weights=weights), torch.device("cpu"), torch.float32)
            detector = detector_for(model, model.domain)
        if not isinstance(detector, HeadCLIP):
            raise ModelError("Heads must belong to a detector with a local path", model.method)
        found: SliceHeads | None = None
        if slice_file is not None:
            with console.waiting("scoring slices" if slice_index is None else "scoring the slice"):
                expected, kind = model.expected(model.domain), model.preprocessing
                view = view_slice(detector, model.domain, slice_file, slice_index, expected, kind)
                found = explain_slice(detector, view, model.threshold.value)
        if found is not None:
            console.say_warnings(found.view.warnings)
        table = acting_weights(detector, None if found is None else found.view.pixels)
        values = {branch: part.numpy() for branch, part in table.items()}
        save_picture(heads_picture(values, model.name, found), out)
        facts = {"pack": model.name, "picture": str(out), "head_weights": _numbers(table), "slice": _facts(found)}
        if as_json:
            console.say_json(facts)
        else:
            _show(facts)


def _numbers(table: dict[str, Any]) -> dict[str, list[list[float | None]]]:
    """Weights by branch, layer and head; null where none acts."""
    return {
        branch: [[None if value != value else round(value, 6) for value in row] for row in part.tolist()]
        for branch, part in table.items()
    }


def _facts(found: SliceHeads | None) -> dict[str, Any] | None:
    from dataclasses import asdict

    if found is None:
        return None
    return {
        "index": found.view.index,
        "place": found.view.words,
        "warnings": list(found.view.warnings),
        "patches": found.chosen,
        "mean_logit": found.parts(),
        "heads": [asdict(effect) for effect in found.effects],
    }


def _show(facts: dict[str, Any]) -> None:
    from headclip_med.cli.screen import console

    for branch, rows in facts["head_weights"].items():
        known = [value for row in rows for value in row if value is not None]
        console.say_result(f"{branch} branch: {len(known)} head weights from {min(known):.3f} to {max(known):.3f}")
    if (found := facts["slice"]) is not None:
        console.say_result(
            f"{found['place']}: {found['patches']}; mean logit {found['mean_logit']['logit']:+.3f}, of it:",
        )
        for head in found["heads"]:
            console.say_result(f"layer {head['layer']}, head {head['head']}: {head['logits']:+.3f}")
    console.say_result(f"picture: {facts['picture']}")
