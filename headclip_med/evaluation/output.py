"""The files of an evaluation, each written whole or not at all; ``metrics.json`` comes last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headclip_med.base.errors import OutputError
from headclip_med.base.files import atomic_path, check_writable
from headclip_med.evaluation.record import EvaluationRecord

CASES = "cases"  # folder of what is kept of each case
MARKER = ".headclip-evaluation"  # in it: this folder is an evaluation of ours and may be written to again
METRICS_NAME = "metrics.json"
CASES_NAME = "cases.csv"
MARKDOWN_NAME = "table.md"
LATEX_NAME = "table.tex"
REPORT_NAME = "report.html"


def write_evaluation(record: EvaluationRecord, folder: Path, pictures: Mapping[str, Path]) -> dict[str, Path]:
    """Write metrics, tables and report; ``pictures``: folder of each model's overlays, by model.

    Raises:
        OutputError: when a file cannot be written.
    """
    from headclip_med.evaluation.report import write_report
    from headclip_med.evaluation.tables import cases_csv, latex_table, markdown_table

    texts = {
        CASES_NAME: cases_csv(record),
        MARKDOWN_NAME: markdown_table(record),
        LATEX_NAME: latex_table(record),
    }
    for name, text in texts.items():
        _write(folder / name, text)
    write_report(record, pictures, folder / REPORT_NAME)
    _write(folder / METRICS_NAME, record.model_dump_json(indent=1) + "\n")
    return {name: folder / name for name in (*texts, REPORT_NAME, METRICS_NAME)}


def check_folder(folder: Path) -> None:
    """Refuse a folder that an evaluation cannot be written to; none is made.

    Raises:
        OutputError: it cannot be written to, or holds something that is no evaluation.
    """
    check_writable(folder)
    others = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    if others and not (folder / CASES / MARKER).is_file():
        raise OutputError(
            "The output folder must be new, empty, or hold an earlier evaluation",
            f"{folder.name} with {others[0].name} in it",
            "Choose another folder",
        )


def mark_folder(folder: Path) -> None:
    """Make the folder of an evaluation's cases, and say whose it is."""
    with atomic_path(folder / CASES / MARKER) as draft:
        draft.touch()


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
