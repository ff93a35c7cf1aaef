"""A CSV of paths: the layout of whoever has none of the others, and what ``data split`` writes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.datasets.listed_paths import needed, one_file, read_label, read_text
from headclip_med.datasets.listing import UNKNOWN_PATIENTS, Listing
from headclip_med.datasets.names import split_of, stem_of
from headclip_med.errors import InputError

FIELDS = ("image", "mask", "label", "patient", "name", "category", "split")


def recognise(root: Path) -> bool:
    """This is a CSV file with a column ``image``, or the folder has exactly one."""
    path = one_file(root, ".csv")
    try:
        return path is not None and "image" in _columns(read_text(path))
    except InputError:  # said when the layout is named
        return False


def list_cases(root: Path) -> Listing:
    """Columns ``image`` (several joined by ``;``), and any of mask, label, patient, name, category, split.

    Every other column is kept for subgroup tables. Paths are relative to the file, or absolute.

    Raises:
        InputError: no column ``image``; a row without image, with more fields than columns, or with a label that is
            none: it names the row, the header being row 1.
    """
    path = needed(one_file(root, ".csv"), root, "one file that ends in .csv")
    text = read_text(path)
    columns = _columns(text)
    if "image" not in columns:
        raise InputError("A CSV of paths must have a column image", f"{path.name} with {', '.join(columns)}")
    if len(set(columns)) < len(columns):
        raise InputError(f"Every column of {path.name} must have a name of its own", ", ".join(columns))
    rows = [(f"{path.name}, row {number}", row) for number, row in _rows(text)[1:]]
    cases = [_case(path.parent, _by_column(columns, row, where), where) for where, row in rows]
    return Listing(cases, [] if any(case.patient for case in cases) else [UNKNOWN_PATIENTS])


def _case(folder: Path, row: dict[str, str], where: str) -> Case:
    images = [part.strip() for part in row["image"].split(";") if part.strip()]
    if not images:
        raise InputError("Every row must name its image", where)
    mask = row.get("mask", "")
    return Case(
        name=row.get("name") or "+".join(stem_of(Path(image)) for image in images),
        images=tuple(folder / image for image in images),
        masks=(folder / mask,) if mask else (),
        label=read_label(row.get("label"), where),
        patient=row.get("patient", ""),
        category=row.get("category", ""),
        split=split_of(row.get("split", "")),
        columns={key: value for key, value in row.items() if key not in FIELDS},
    )


def _columns(text: str) -> list[str]:
    """Names in the first row; ours in whatever case they are written."""
    header = next(iter(_rows(text)), (1, []))[1]
    return [name.lower() if name.lower() in FIELDS else name for name in header]


def _rows(text: str) -> list[tuple[int, list[str]]]:
    """Rows that are not blank with the number of the line on which they end."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError("A list of cases must be a readable CSV", f"line {reader.line_num}: {error}") from error
    return [(number, row) for number, row in rows if any(row)]


def _by_column(columns: list[str], row: list[str], where: str) -> dict[str, str]:
    if len(row) > len(columns):
        hint = "Put quotation marks around what contains the separator"
        raise InputError(f"A row must have at most {len(columns)} fields", f"{len(row)} in {where}", hint)
    return dict(zip(columns, row + [""] * (len(columns) - len(row)), strict=True))


def _delimiter(text: str) -> str:
    return max(",;\t", key=text.partition("\n")[0].count)
