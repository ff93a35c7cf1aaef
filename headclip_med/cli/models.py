"""``headclip-med models``: parses and calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headclip_med.base import names as choices
from headclip_med.cli import options
from headclip_med.cli.errors import errors_in_words
from headclip_med.cli.heads import heads

models_app = options.CommandApp("List, describe, download, convert and share models.")

PackArgument = Annotated[
    str, typer.Argument(metavar="PACK", help="Built-in pack, pack folder, single-file pack or hf-pack:ORG/NAME.")
]


@models_app.command("list")
def models_list(as_json: options.JsonOption = False) -> None:
    """List built-in packs, recommended towers, and how to name any other model."""
    with errors_in_words():
        from dataclasses import asdict

        from headclip_med.cli.screen import console
        from headclip_med.models.catalogue import list_packs

        packs = list_packs()
        if as_json:
            built_in = [asdict(pack) for pack in packs]
            console.say_json({"built_in": built_in, "recommended": choices.RECOMMENDED_TOWERS})
        else:
            console.show_models(packs, choices.RECOMMENDED_TOWERS)


@models_app.command("methods")
def models_methods(as_json: options.JsonOption = False) -> None:
    """List the methods that `--method`, or METHOD: in front of a model's name, chooses, and what each of them needs."""
    with errors_in_words():
        from dataclasses import asdict

        from headclip_med.cli.screen import console
        from headclip_med.models.catalogue import list_methods

        methods = list_methods()
        if as_json:
            console.say_json({"methods": [asdict(method) for method in methods]})
        else:
            console.show_methods(methods)


@models_app.command("info")
def models_info(name: options.ModelArgument, as_json: options.JsonOption = False) -> None:
    """Show a model's card, record and hashes, without downloading anything."""
    with errors_in_words():
        from dataclasses import asdict

        from headclip_med.cli import checks as cli_checks
        from headclip_med.cli.screen import console

        cli_checks.check_model(name)
        from headclip_med.models.catalogue import model_info

        info = model_info(name)
        if as_json:
            console.say_json(asdict(info))
        else:
            console.show_model(info)


@models_app.command("pull")
def models_pull(name: options.ModelArgument, as_json: options.JsonOption = False) -> None:
    """Download a model's weights into the cache and report their sha256."""
    with errors_in_words():
        from dataclasses import asdict

        from headclip_med.cli import checks as cli_checks
        from headclip_med.cli.screen import console

        cli_checks.check_model(name)
        from headclip_med.models.catalogue import check_known, pull_model

        check_known(name)
        with errors_in_words(refused=1), console.waiting(f"fetching {name}"):
            pulled = pull_model(name)
        if as_json:
            console.say_json(asdict(pulled))
        else:
            console.say_result(f"{pulled.name}: {pulled.architecture} from {pulled.source}\nsha256 {pulled.sha256}")


@models_app.command("push")
def models_push(
    pack: PackArgument,
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Upload a pack to the Hub: record, tensors, own tower and card. Log in with `hf auth login` first."""
    with errors_in_words():
        from headclip_med.cli import checks as cli_checks
        from headclip_med.cli.screen import console

        cli_checks.check_model(pack)
        from headclip_med.models.pack import builtin_packs, load_pack
        from headclip_med.models.share import pack_place, push_pack, target_name

        target_name(repo)
        place = pack_place(pack, builtin_packs())
        load_pack(place)
        with errors_in_words(refused=1), console.waiting(f"uploading {pack}"):
            name = push_pack(place, repo, private=private)
        if as_json:
            console.say_json({"name": name})
        else:
            console.say_result(f"{name}: use it with `predict --model {name}`")


@models_app.command("export")
def models_export(
    pack: PackArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="An earlier file is replaced.")],
    as_json: options.JsonOption = False,
) -> None:
    """Write a pack as one safetensors file with its record in the header, and the record beside it as JSON."""
    with errors_in_words():
        from headclip_med.base.files import check_writable
        from headclip_med.cli import checks as cli_checks
        from headclip_med.cli.screen import console

        cli_checks.check_model(pack)
        check_writable(file.absolute().parent)
        from headclip_med.models.pack import builtin_packs, load_pack
        from headclip_med.models.share import pack_place, pack_to_file

        written = pack_to_file(pack_place(pack, builtin_packs()), file)
        digest = load_pack(written).sha256
        if as_json:
            console.say_json({"file": str(written), "sha256": digest})
        else:
            console.say_result(f"{written}\nsha256 {digest}")


@models_app.command("convert")
def models_convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Prompts of AnomalyCLIP, Crane or Crane+, a .pth file.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the new pack; must be empty.")],
    tower: Annotated[
        str | None, typer.Option("--tower", metavar="NAME", help="ARCH, ARCH/TAG or weights [ARCH@]FILE.")
    ] = None,
    weights: options.WeightsOption = None,
    method: Annotated[
        str | None,
        typer.Option(help="Trained for anomalyclip, crane or crane+.", show_default="by the layout of the file"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the pack.", show_default="the file's")] = None,
    domain: options.DomainOption = None,
    preprocessing: options.PreprocessingOption = None,
    trained_on: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Training data, for the pack's ledger.", show_default="unknown")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Make a pack of prompts that were trained elsewhere."""
    with errors_in_words():
        from headclip_med.base import names as choices
        from headclip_med.base.files import check_writable
        from headclip_med.cli import checks as cli_checks
        from headclip_med.cli.screen import console

        cli_checks.check_file(file, "The file to convert")
        check_writable(out)
        cli_checks.check_weights(tower)
        choices.check_name("domain", domain, choices.DOMAINS)
        from headclip_med.models.convert import PROMPT_METHODS, convert_model

        choices.check_name("method", method, PROMPT_METHODS)
        choices.check_name("preprocessing", preprocessing, choices.PREPROCESSINGS)
        with console.waiting(f"converting {file.name}"):
            made = convert_model(
                file,
                out,
                tower=tower,
                weights=weights,
                method=method,
                name=name,
                domain=domain,
                preprocessing=preprocessing,  # type: ignore[arg-type]
                trained_on=trained_on,
            )
        console.say_warnings(made.notes)
        if as_json:
            console.say_json({"folder": str(out), "record": made.record.model_dump(mode="json")})
        else:
            console.say_result(f"{made.record.name}: {made.record.title}, in {out}")


models_app.command("heads")(heads)
