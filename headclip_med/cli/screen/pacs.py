"""Show what ``headclip-med pacs`` found and did. What identifies a patient is shown only where it was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from headclip_med.cli.screen.console import out, show, table

if TYPE_CHECKING:
    from headclip_med.cohort.pacs.archive import SeriesFound, StudyFound
    from headclip_med.cohort.pacs.push import PushOutcome

_ALL_OF_STUDY = ("uid", "date", "description", "patient_id", "patient_name", "accession")
_ALL_OF_SERIES = ("study", "uid", "description")


def studies_json(found: Sequence[StudyFound], keep_identifiers: bool) -> list[dict[str, Any]]:
    """Put studies as JSON values.

    Args:
        found: studies.
        keep_identifiers: whether to keep what identifies a patient.
    """
    return [_without(asdict(study), _ALL_OF_STUDY, keep_identifiers, study.uid, "study") for study in found]


def series_json(found: Sequence[SeriesFound], keep_identifiers: bool) -> list[dict[str, Any]]:
    """Put series as JSON values.

    Args:
        found: series.
        keep_identifiers: whether to keep what identifies a patient.
    """
    return [_without(asdict(series), _ALL_OF_SERIES, keep_identifiers, series.uid, "series") for series in found]


def show_found(rows: Sequence[dict[str, Any]], service: str) -> None:
    """Print one line per study or series, in the order of ``--series #1``, ``#2``, …, then their addresses, if wanted.

    Args:
        rows: studies or series as JSON values.
        service: the archive that they are in.
    """
    if not rows:
        out.print("nothing found")
        return
    columns = [key for key in rows[0] if key not in ("uid", "study")]
    listed = table("#", *(key.replace("_", " ") for key in columns))
    for place, row in enumerate(rows, start=1):
        listed.add_row(str(place), *(_cell(row[key]) for key in columns))
    show(listed)
    for place, row in enumerate(rows, start=1):
        if "uid" in row:
            out.print(f"{place}: {_address(service, row)}")


def show_push(made: PushOutcome, service: str) -> None:
    """Print one line about a push.

    Args:
        made: what became of the objects.
        service: the archive.
    """
    counts = f"{made.stored} stored, {made.there} there already"
    if made.refused or made.waiting:
        counts += f", {len(made.refused)} refused, {made.waiting} waiting"
    out.print(f"{service}: {counts}")


def _without(
    facts: dict[str, Any], identifying: Sequence[str], keep_identifiers: bool, uid: str, kind: str
) -> dict[str, Any]:
    from headclip_med.cohort.pacs.archive import pseudonym

    kept = {key: value for key, value in facts.items() if keep_identifiers or key not in identifying}
    return {"name": pseudonym(uid, kind), **kept}


def _address(service: str, row: dict[str, Any]) -> str:
    """What ``pull`` and ``predict`` take."""
    study, series = row.get("study", row["uid"]), row["uid"] if "study" in row else None
    if service.startswith("dimse"):
        return f"{service}/{study}" + (f"/{series}" if series else "")
    return f"{service}/studies/{study}" + (f"/series/{series}" if series else "")


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
