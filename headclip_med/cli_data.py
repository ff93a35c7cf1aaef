"""``headclip-med data``: look at a labelled set, and split it by patient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headclip_med import choices
from headclip_med import cli_options as options
from headclip_med.cli_errors import errors_in_words

if TYPE_CHECKING:
    from headclip_med.datasets import CaseDataset
    from headclip_med.datasets.check import DataReport

data_app = options.CommandApp("Look at labelled data, and split it by patient.")

_SHOWN = 8  # names of cases in a line


def _complete_layout(incomplete: str) -> list[str]:
    return [f"{name}:" for name in choices.LAYOUTS if name.startswith(incomplete)]


DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="[LAYOUT:]PATH",
        help="Labelled set; the layout is recognised where it can be.",
        autocompletion=_complete_layout,
    ),
]
SequencesOption = Annotated[
    str | None, typer.Option(metavar="A,B", help="Which sequences become channels, such as t2f or t1c,t2f.")
]


@data_app.command("layouts")
def layouts(as_json: options.JsonOption = False) -> None:
    """The folder layouts that are understood."""
    with errors_in_words():
        from headclip_med import console
        from headclip_med.datasets import LAYOUTS

        if as_json:
            console.say_json({name: layout.words for name, layout in LAYOUTS.items()})
            return
        for name, layout in LAYOUTS.items():
            console.out.print(f"{name:>8}  {layout.words}", markup=False)


@data_app.command("check")
def check(data: DataArgument, sequences: SequencesOption = None, as_json: options.JsonOption = False) -> None:
    """What was found, what is missing or inconsistent, and how to mend it; exit code 1 if anything is wrong."""
    with errors_in_words():
        from headclip_med import console
        from headclip_med.datasets.check import check_dataset

        dataset = _dataset(data, sequences)
        with console.steps("reading", len(dataset)) as progress:
            report = check_dataset(dataset, progress)
        if as_json:
            console.say_json(report.as_json())
        else:
            _show(report)
        raise typer.Exit(0 if report.ok else 1)


@data_app.command("split")
def split(
    data: DataArgument,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.csv", help="A CSV that can be read as csv:FILE.csv.")
    ],
    fractions: Annotated[str, typer.Option(help="Shares of train, val and test.")] = "0.7,0.15,0.15",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same splits.")] = 0,
    sequences: SequencesOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Split by patient: no patient and no copied image is in two splits."""
    with errors_in_words():
        from headclip_med import console
        from headclip_med.datasets.fingerprints import fingerprint_case
        from headclip_med.datasets.split import check_listable, split_patients, write_split
        from headclip_med.writing.atomic import check_writable

        shares = dict(zip(("train", "val", "test"), _shares(fractions), strict=True))
        dataset = _dataset(data, sequences)
        check_listable(dataset)
        check_writable(out.absolute().parent)
        labels: dict[str, bool | None] = {}
        images: dict[str, str] = {}
        with console.steps("reading", len(dataset)) as progress:
            for done, case in enumerate(dataset, start=1):
                read = fingerprint_case(dataset, case)
                if read.error:
                    console.say_error(f"{case.name} is split by its patient alone: {read.error}")
                else:
                    labels[case.name], images[case.name] = read.label, read.image_sha256
                progress(done, len(dataset))
        found = split_patients(dataset, labels, images, shares, seed)
        write_split(dataset, found, out, labels)
        counts = {name: sum(s == name for s in found.values()) for name in shares}
        if as_json:
            console.say_json({"file": str(out), "cases": counts})
        else:
            console.out.print(f"{', '.join(f'{n} {name}' for name, n in counts.items())} → {out}", markup=False)


def _dataset(data: str, sequences: str | None) -> CaseDataset:
    from headclip_med.datasets import open_dataset

    chosen = None if sequences is None else [part.strip() for part in sequences.split(",") if part.strip()]
    return open_dataset(data, sequences=chosen)


def _shares(text: str) -> list[float]:
    from headclip_med.errors import InputError

    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3:
        raise InputError("Fractions must be three numbers for train, val and test", text, "For example 0.7,0.15,0.15")
    return shares


def _show(report: DataReport) -> None:
    from headclip_med import console

    console.out.print(f"{report.name}, layout {report.layout}")
    table = console.table("", "", show_header=False)
    for name, count in report.counts.items():
        table.add_row(name.replace("_", " "), str(count))
    for kind, found in (("split", report.splits), ("category", report.categories)):
        for name, count in found.items():
            table.add_row(f"{kind} {name}", str(count))
    console.show(table)
    for note in report.notes:
        console.out.print(f"note: {note}", markup=False)
    for problem in report.problems:
        names = ", ".join(problem.cases[:_SHOWN])
        more = f" and {len(problem.cases) - _SHOWN} more" if len(problem.cases) > _SHOWN else ""
        console.out.print(f"{problem.severity}: {problem.what}: {names}{more}", markup=False)
        if problem.mend:
            console.out.print(f"  → {problem.mend}", markup=False)
    if not report.problems:
        console.out.print("nothing is wrong", markup=False)
