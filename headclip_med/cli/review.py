"""``headclip-med review`` and ``review-tables``: parse and call."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headclip_med.cli import options
from headclip_med.cli.errors import errors_in_words

if TYPE_CHECKING:
    from headclip_med.review import Session

_SESSION_HELP = "Keep reviews here, for results that cannot be written to; default: beside each result."


def review(
    places: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Result folders, or folders of them as predict --out writes.")
    ],
    source: Annotated[
        list[Path] | None,
        typer.Option(
            "--source", metavar="PATH", help="Where source images are, file or folder; found by their content. Repeat."
        ),
    ] = None,
    reader: Annotated[
        str, typer.Option("--reader", metavar="ID", help="Who reviews; every reader has files of their own.")
    ] = "reader",
    unaided_first: Annotated[
        bool, typer.Option("--unaided-first", help="Conceal scores and overlay of a case until its first opinion.")
    ] = False,
    session: Annotated[Path | None, typer.Option("--session", metavar="DIR", help=_SESSION_HELP)] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="Show the cases and how far they are, open nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --list: one JSON object on stdout and nothing else.")
    ] = False,
) -> None:
    """Review results slice by slice in napari: accept, reject, draw what was missed. Every action is kept at once."""
    with errors_in_words():
        from headclip_med.base.errors import InputError
        from headclip_med.review import Session

        if as_json and not list_only:
            raise InputError("--json must come with --list", "--json alone")
        if not list_only:
            _check_viewer()
        opened = Session.open(
            places, reader, unaided_first=unaided_first, session_dir=session, sources=source or ()
        )  # fmt: skip
        if list_only:
            _show(opened, as_json)
            return
        from napari_headclip_med.launch import open_review

        open_review(opened)


def review_tables(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="REVIEW", help="Review files (review_READER.json), or folders with them at any depth."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the tables.")],
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", metavar="DIR", help="Where the results are, if not beside the reviews. Repeat."),
    ] = None,
    truth: Annotated[
        list[Path] | None,
        typer.Option("--truth", metavar="PATH", help="Truth masks named after their cases, files or folders. Repeat."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="ID", help="Reader whose findings are the truth.")
    ] = None,
    lesion_values: options.LesionValuesOption = None,
    ignore_values: options.IgnoreValuesOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Write tables of several readers for statistics: findings, cases before and after the overlay (ROC), marks."""
    with errors_in_words():
        from headclip_med.cli.screen import console
        from headclip_med.review.readings import gather
        from headclip_med.review.tables import write_tables

        readings = gather(
            places,
            results=results or (),
            truth=truth or (),
            reference=reference,
            lesion_values=lesion_values,
            ignore_values=ignore_values,
        )
        files = write_tables(readings, out)
        notes = (f"{r.case}: {note}" for r in readings if r.lesions is not None for note in r.lesions.notes)
        console.say_warnings(dict.fromkeys(notes))
        if as_json:
            console.say_json({"reviews": len(readings), "files": {kind: str(path) for kind, path in files.items()}})
            return
        for path in files.values():
            console.say_result(str(path))


def _check_viewer() -> None:
    from importlib.util import find_spec

    from headclip_med.base.errors import MissingExtraError

    missing = [name for name in ("napari", "qtpy") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"Reviewing in a window needs {' and '.join(missing)}",
            "not installed",
            "Run: pip install 'headclip-med[review]'; --list and review-tables work without",
        )


def _show(session: Session, as_json: bool) -> None:
    from headclip_med.cli.screen import console

    if as_json:
        cases = [{**asdict(entry), "folder": str(entry.folder)} for entry in session.cases]
        console.say_json({"reader": session.reader, "unaided_first": session.unaided_first, "cases": cases})
    else:
        console.show_review_cases(session.cases)
