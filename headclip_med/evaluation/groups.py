"""Facts about cases from a table of their own: site, scanner, age group, by case or by patient."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from headclip_med.base.errors import InputError
from headclip_med.datasets.dataset import CaseDataset

_KEYS = ("case", "patient")


def with_columns(dataset: CaseDataset, table: Path) -> CaseDataset:
    """Join the columns of a CSV to the cases of a set, by its column ``case`` or else ``patient``.

    Args:
        dataset: Cases without a patient are taken for patients of their own name.
        table: UTF-8, parted by comma, semicolon or tab, with the names of the columns in its first line.

    Returns:
        The set with these columns, which replace those of the same name, and a note where the table lacks cases.

    Raises:
        InputError: an unreadable table, no key column, a key twice, or no case that it speaks of.
    """
    rows = _rows(table)
    key = next((name for name in _KEYS if name in rows[0]), None)
    if key is None:
        raise InputError(f"{table.name} must have a column case or patient", ", ".join(rows[0]))
    facts: dict[str, dict[str, str]] = {}
    for row in rows:
        if row[key] in facts:
            raise InputError(f"{table.name} must name every {key} once", f"{row[key]} twice")
        facts[row[key]] = {name: value for name, value in row.items() if name != key}
    names = [case.name if key == "case" else case.patient or case.name for case in dataset]
    if not set(names) & set(facts):
        raise InputError(
            f"{table.name} must speak of the cases of {dataset.name}",
            f"none of its {len(facts)} {key}s is among them",
            f"The first of the set is {names[0]}",
        )
    missing = sum(name not in facts for name in names)
    note = [f"{missing} of {len(names)} cases are not in {table.name}"] if missing else []
    cases = tuple(
        replace(case, columns={**case.columns, **facts.get(name, {})})
        for case, name in zip(dataset, names, strict=True)
    )
    return replace(dataset, cases=cases, notes=(*dataset.notes, *note))


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("The table of groups must be a readable CSV file", f"{table.name}: {error}") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter)
    rows = [
        {str(name).strip(): (value or "").strip() for name, value in row.items() if name is not None} for row in reader
    ]
    if not rows:
        raise InputError("The table of groups must have a line of names and at least one row", table.name)
    return rows
