"""The files of an evaluation, each written whole or not at all; ``metrics.json`` comes last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headclip_med.evaluation.record import EvaluationRecord
from headclip_med.evaluation.report import write_report
from headclip_med.evaluation.tables import cases_csv, latex_table, markdown_table
from headclip_med.writing.atomic import atomic_path

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


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
