"""``headclip-med pacs``: parses and calls."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headclip_med.cli import options
from headclip_med.cli.errors import errors_in_words

if TYPE_CHECKING:
    from headclip_med.cohort.pacs.access import Access
    from headclip_med.cohort.pacs.address import Address
    from headclip_med.cohort.pacs.archive import Archive

pacs_app = options.CommandApp(
    "Steps of talking to an archive: DICOMweb and DIMSE, as a client.",
    epilog="Credentials come from HEADCLIP_PACS_USER and HEADCLIP_PACS_PASSWORD, or HEADCLIP_PACS_TOKEN.",
)

ServiceArgument = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="dicomweb://HOST[:PORT]/PATH or dimse://CALLED_AE@HOST:PORT.")
]
StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="ADDRESS",
        help="dicomweb://HOST[:PORT]/PATH/studies/STUDY[/series/SERIES] or dimse://CALLED_AE@HOST:PORT/STUDY[/SERIES].",
    ),
]


@pacs_app.command("echo")
def pacs_echo(address: ServiceArgument, as_json: options.JsonOption = False) -> None:
    """Check that an archive answers and lets us in."""
    with errors_in_words():
        from headclip_med.cli.screen import console

        place, archive, _ = _open(address)
        began = time.perf_counter()
        with errors_in_words(refused=1):
            archive.echo()
        milliseconds = round((time.perf_counter() - began) * 1000)
        if as_json:
            console.say_json({"ok": True, "address": place.service, "milliseconds": milliseconds})
        else:
            console.out.print(f"{place.service} answers after {milliseconds} ms")


@pacs_app.command("find")
def pacs_find(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="An archive: its studies. With a study: its series.")
    ],
    patient_id: Annotated[str | None, typer.Option(help="Studies of this patient only.")] = None,
    accession: Annotated[str | None, typer.Option(help="The study of this accession number only.")] = None,
    date: Annotated[str | None, typer.Option(help="YYYYMMDD, or YYYYMMDD-YYYYMMDD.")] = None,
    modality: Annotated[str | None, typer.Option(help="Studies with this modality only, such as MR.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most studies to list.")] = 100,
    keep_identifiers: Annotated[
        bool, typer.Option("--keep-identifiers", help="Show UIDs, names, dates and descriptions.")
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """List the studies of an archive, or the series of a study."""
    with errors_in_words():
        from headclip_med.cli.screen import console
        from headclip_med.cli.screen import pacs as console_pacs
        from headclip_med.cohort.pacs.archive import Query, with_retries

        place, archive, access = _open(address)
        study, attempts = place.study, access.attempts
        with errors_in_words(refused=1):
            if study is None:
                query = Query(patient_id, accession, date, modality, limit)
                studies = with_retries(lambda: archive.find_studies(query), attempts)
                rows = console_pacs.studies_json(studies, keep_identifiers)
            else:
                series = with_retries(lambda: archive.find_series(study), attempts)
                rows = console_pacs.series_json(series, keep_identifiers)
        if as_json:
            console.say_json({"studies" if study is None else "series": rows})
        else:
            console_pacs.show_found(rows, place.service)


@pacs_app.command("pull")
def pacs_pull(
    address: StudyArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="One folder per series goes here.")],
    series: options.SeriesOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Fetch a series, or all image series of a study. What is there already is not fetched again."""
    with errors_in_words():
        from headclip_med.cli.screen import console
        from headclip_med.cohort.pacs.open import check_choice, series_of
        from headclip_med.cohort.pacs.pull import pull_series

        place, archive, access = _open(address)
        check_choice(place, series)
        pulled = []
        with errors_in_words(refused=1):
            for found in series_of(archive, place, series, access.attempts):
                folder = out / found.name
                with console.steps(f"images of {folder.name}", 0) as progress:
                    count = pull_series(archive, found.study, found.uid, folder, access.attempts, progress)
                pulled.append({"name": folder.name, "folder": str(folder), "instances": count})
                if not as_json:
                    console.say_result(f"{folder.name}: {count} instances → {folder}")
        if as_json:
            console.say_json({"series": pulled})


@pacs_app.command("push")
def pacs_push(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Result folder, or any folder or file of DICOM.")],
    address: ServiceArgument,
    as_json: options.JsonOption = False,
) -> None:
    """Store the DICOM objects of results. What an archive holds already is not sent again."""
    with errors_in_words():
        from headclip_med.cli.screen import console
        from headclip_med.cli.screen import pacs as console_pacs
        from headclip_med.cohort.pacs import push as pushing
        from headclip_med.cohort.pacs.address import parse_service

        service = parse_service(address, "The archive to push to").service
        _, archive, access = _open(service)
        bar = partial(console.steps, f"objects to {service}")
        made = pushing.push_results(archive, results, access.attempts, bar)
        for problem in pushing.push_problems(made, f"headclip-med pacs push {results} {service}"):
            console.say_error(problem)
        if as_json:
            console.say_json({service: pushing.push_json(made)})
        else:
            console_pacs.show_push(made, service)
        raise typer.Exit(0 if made.ok else 1)


@pacs_app.command("move")
def pacs_move(
    address: StudyArgument,
    to: Annotated[str, typer.Option("--to", metavar="AE", help="AE title that the archive knows and sends to.")],
    as_json: options.JsonOption = False,
) -> None:
    """Have an archive send a study or series to another application (C-MOVE). Nothing comes here."""
    with errors_in_words():
        from headclip_med.cli.screen import console
        from headclip_med.cohort.pacs.open import check_movable, move

        place, _, access = _open(address)
        check_movable(place)
        with errors_in_words(refused=1), console.steps(f"objects to {to}", 0) as progress:
            count = move(place, access, to, progress)
        if as_json:
            console.say_json({"sent": count, "to": to})
        else:
            console.say_result(f"{count} objects sent to {to}")


def _open(text: str) -> tuple[Address, Archive, Access]:
    """The archive at an address, and a warning where the way to it is open to others."""
    from headclip_med.cli.screen import console
    from headclip_med.cohort.pacs.access import Access
    from headclip_med.cohort.pacs.address import parse_address
    from headclip_med.cohort.pacs.open import open_archive

    place, access = parse_address(text), Access.from_environment()
    console.say_warnings([warning] if (warning := access.warning_for(place)) else [])
    return place, open_archive(place, access), access
