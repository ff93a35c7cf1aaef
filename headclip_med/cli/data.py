"""``headclip-med data``: look at a labelled set, and split it by patient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headclip_med.base import names as choices
from headclip_med.cli import options
from headclip_med.cli.errors import errors_in_words

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
    """List the folder layouts that are understood, each with examples of its files."""
    with errors_in_words():
        from headclip_med.cli.screen import console
        from headclip_med.datasets import LAYOUTS

        if as_json:
            console.say_json({n: {"words": layout.words, "trees": layout.trees} for n, layout in LAYOUTS.items()})
            return
        for name, layout in LAYOUTS.items():
            console.out.print(f"{name:>8}  {layout.words}", markup=False, highlight=False)
            for tree in layout.trees:
                console.out.print(f"{'':>12}{tree}", markup=False, highlight=False, soft_wrap=True)


@data_app.command("check")
def data_check(
    data: DataArgument,
    sequences: SequencesOption = None,
    lesion_values: options.LesionValuesOption = None,
    ignore_values: options.IgnoreValuesOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Check a set: what was found, what is missing or inconsistent, how to mend it. Exit code 1 if any is wrong."""
    with errors_in_words():
        from headclip_med.cli.screen import console
        from headclip_med.datasets.check import check_dataset

        dataset = _dataset(data, sequences, lesion_values, ignore_values)
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
    lesion_values: options.LesionValuesOption = None,
    ignore_values: options.IgnoreValuesOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Split by patient: no patient and no copied image is in two splits."""
    with errors_in_words():
        from headclip_med.base.files import check_writable
        from headclip_med.cli.screen import console
        from headclip_med.datasets.fingerprints import check_meaning, fingerprint_case
        from headclip_med.datasets.split import check_listable, split_patients, write_split

        shares = dict(zip(("train", "val", "test"), _shares(fractions), strict=True))
        dataset = _dataset(data, sequences, lesion_values, ignore_values)
        check_listable(dataset)
        check_writable(out.absolute().parent)
        found = []
        with console.steps("reading", len(dataset)) as progress:
            for done, case in enumerate(dataset, start=1):
                found.append(fingerprint_case(dataset, case))
                progress(done, len(dataset))
        check_meaning(found)
        for read in found:
            if read.error:
                console.say_error(f"{read.case} is split by its patient alone: {read.error}")
        labels = {read.case: read.label for read in found if not read.error}
        images = {read.case: read.image_sha256 for read in found if not read.error}
        splits = split_patients(dataset, labels, images, shares, seed)
        write_split(dataset, splits, out, labels)
        counts = {name: sum(s == name for s in splits.values()) for name in shares}
        if as_json:
            console.say_json({"file": str(out), "cases": counts})
        else:
            console.out.print(f"{', '.join(f'{n} {name}' for name, n in counts.items())} → {out}", markup=False)


def _dataset(data: str, sequences: str | None, lesion_values: str | None, ignore_values: str | None) -> CaseDataset:
    from headclip_med.datasets import open_dataset

    chosen = None if sequences is None else [part.strip() for part in sequences.split(",") if part.strip()]
    return open_dataset(data, sequences=chosen, lesion_values=lesion_values, ignore_values=ignore_values)


def _shares(text: str) -> list[float]:
    from headclip_med.base.errors import InputError

    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3:
        raise InputError("Fractions must be three numbers for train, val and test", text, "For example 0.7,0.15,0.15")
    return shares


def _show(report: DataReport) -> None:
    from headclip_med.cli.screen import console

    console.out.print(f"{report.name}, layout {report.layout}")
    table = console.table("", "", show_header=False)
    for name, count in report.counts.items():
        table.add_row(name.replace("_", " "), str(count))
    for kind, found in (("split", report.splits), ("category", report.categories)):
        for name, count in found.items():
            table.add_row(f"{kind} {name}", str(count))
    for value, facts in report.mask_values.items():
        words = f"mask value {value} {facts['name']}".strip()
        table.add_row(words, f"{facts['means']}, in {facts['cases']} case{'' if facts['cases'] == 1 else 's'}")
    console.show(table)
    if report.why:
        console.out.print(f"recognised by: {report.why}")
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
