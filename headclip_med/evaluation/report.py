"""One self-contained page per evaluation: no script, no request, readable on screen and on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headclip_med.base.errors import OutputError
from headclip_med.base.files import atomic_path, check_writable, write_text
from headclip_med.evaluation.plots import plots
from headclip_med.evaluation.protocol import MEANINGS
from headclip_med.evaluation.record import CaseRow, EvaluationRecord, Metric, ModelResult
from headclip_med.evaluation.tables import cases_csv, latex_table, markdown_table, number, reasons, title_of
from headclip_med.writing.html import data_uri, flat, render_html

CASES = "cases"  # folder of what is kept of each case
MARKER = ".headclip-evaluation"  # in it: this folder is an evaluation of ours and may be written to again
METRICS_NAME = "metrics.json"
CASES_NAME = "cases.csv"
MARKDOWN_NAME = "table.md"
LATEX_NAME = "table.tex"
REPORT_NAME = "report.html"


# More rows than anybody reads; all of them are in cases.csv.
_MOST_CASES = 200


def write_evaluation(record: EvaluationRecord, folder: Path, pictures: Mapping[str, Path]) -> dict[str, Path]:
    """Write metrics, tables and report.

    Args:
        record: The evaluation.
        folder: Where the files go.
        pictures: Folder of each model's overlays, by model.

    Returns:
        Paths of the files, by their names.

    Raises:
        OutputError: when a file cannot be written.
    """
    texts = {
        CASES_NAME: cases_csv(record),
        MARKDOWN_NAME: markdown_table(record),
        LATEX_NAME: latex_table(record),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    write_evaluation_report(record, pictures, folder / REPORT_NAME)
    write_text(folder / METRICS_NAME, record.model_dump_json(indent=1) + "\n")
    return {name: folder / name for name in (*texts, REPORT_NAME, METRICS_NAME)}


def check_folder(folder: Path) -> None:
    """Refuse a folder that an evaluation cannot be written to. None is made.

    Args:
        folder: New, empty, or that of an earlier evaluation. Hidden files do not count.

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
    """Make the folder of an evaluation's cases, and say whose it is.

    Args:
        folder: Of the evaluation.

    Raises:
        OutputError: it cannot be written to.
    """
    with atomic_path(folder / CASES / MARKER) as draft:
        draft.touch()


def render_evaluation(record: EvaluationRecord, pictures: Mapping[str, Path]) -> str:
    """Render the page.

    Args:
        record: The evaluation.
        pictures: Folder of each model's overlays, by model. One that is not there is shown without examples.

    Returns:
        HTML that needs no other file.
    """
    failed = {row.case: row.error for model in record.models for row in model.cases if row.status == "failed"}
    repeated = {row.case: row.duplicate_of for row in record.models[0].cases if row.status == "duplicate"}
    return render_html(
        "evaluation/evaluation.html.j2",
        record.dataset.name,
        record=record,
        meanings=MEANINGS,
        levels=_levels(record),
        reasons=reasons(record),
        plots=[(plot.title, plot.words, data_uri(plot.svg, "image/svg+xml")) for plot in plots(record)],
        differences=[_difference(part) for part in record.differences],
        subgroups=_subgroups(record),
        examples=[(model.model, _examples(model, pictures.get(model.model))) for model in record.models],
        failed=failed,
        repeated=repeated,
        cases=_cases(record),
        cases_left_out=max(0, _rows(record) - _MOST_CASES),
        most_excluded=_MOST_CASES,
        number=number,
        flat=flat,
        title_of=title_of,
    )


def write_evaluation_report(record: EvaluationRecord, pictures: Mapping[str, Path], path: Path) -> None:
    """Write :func:`render_evaluation` to a file, whole or not at all.

    Args:
        record: The evaluation.
        pictures: Folder of each model's overlays, by model.
        path: Of the HTML file.

    Raises:
        OutputError: when the file cannot be written.
    """
    write_text(path, render_evaluation(record, pictures))


def _levels(record: EvaluationRecord) -> list[dict[str, Any]]:
    """Tables by level: unit, counts, and rows of (metric's title, one cell per model)."""
    tables = []
    for name in dict.fromkeys(level for model in record.models for level in model.levels):
        parts = [model.levels.get(name) for model in record.models]
        first = next(part for part in parts if part is not None)
        metrics = dict.fromkeys(metric for part in parts if part is not None for metric in part.metrics)
        rows = [(title_of(metric), [None if p is None else p.metrics.get(metric) for p in parts]) for metric in metrics]
        macro = [
            (
                f"{title_of(metric)}, mean of categories",
                [model.macro.get(name, {}).get(metric) for model in record.models],
            )
            for metric in dict.fromkeys(m for model in record.models for m in model.macro.get(name, {}))
        ]
        tables.append({"unit": first.unit, "counts": first.counts, "rows": [*rows, *macro]})
    return tables


def _difference(part: Any) -> list[str]:
    metric: Metric = part.difference
    interval = "" if metric.low is None or metric.high is None else f"{metric.low:+.3f} to {metric.high:+.3f}"
    p = "" if part.p_value is None else f"{part.p_value:.3f}"
    value = "n/a" if metric.value is None else f"{metric.value:+.3f}"
    pair = f"{part.first} − {part.second}"
    return [pair, part.level, title_of(part.metric), value, interval or f"none: {metric.interval_reason}", p]


def _subgroups(record: EvaluationRecord) -> list[tuple[str, list[str], list[list[str]]]]:
    """By column: headings and rows (model, value, cases, patients, case AUROC, pixel AUROC, pixel AP, Dice)."""
    wanted = (("case", "auroc"), ("pixel", "auroc"), ("pixel", "average_precision"), ("pixel", "dice"))
    columns: dict[str, list[list[str]]] = {}
    for model in record.models:
        for group in model.subgroups:
            cells = [
                number(group.levels[level].metrics.get(name)) if level in group.levels else "n/a"
                for level, name in wanted
            ]
            row = [model.model, group.value, str(group.cases), str(group.patients), *cells]
            columns.setdefault(group.column, []).append(row)
    headings = ["Model", "Value", "Cases", "Patients", *(f"{level} {title_of(name)}" for level, name in wanted)]
    return [(column, headings, rows) for column, rows in columns.items()]


def _examples(model: ModelResult, folder: Path | None) -> list[dict[str, Any]]:
    """Best, median and worst case by ``error_size``, with their pictures."""
    ranked = sorted(
        (row for row in model.cases if row.error_size is not None and row.picture), key=lambda r: r.error_size or 0
    )
    if not ranked or folder is None:
        return []
    last = len(ranked) - 1
    places = {"best": 0, "median": len(ranked) // 2, "worst": last} if last > 1 else {"best": 0, "worst": last}
    chosen = {words: ranked[place] for words, place in places.items()} if last else {"only": ranked[0]}
    found = [(words, row, _picture_uri(folder / row.picture)) for words, row in chosen.items()]
    return [{"words": words, "row": row, "facts": _facts(row), "uri": uri} for words, row, uri in found if uri]


def _facts(row: CaseRow) -> str:
    parts = [f"score {row.pred_score:.3f}" if row.pred_score is not None else ""]
    parts.append({True: "abnormal", False: "normal", None: "label unknown"}[row.label])
    parts.append(f"Dice {row.dice:.3f}" if row.dice is not None else "")
    if row.lesions is not None:
        parts.append(f"{row.lesions_found} of {row.lesions} lesions, {row.false_positives} false")
    return ", ".join(part for part in parts if part)


def _rows(record: EvaluationRecord) -> int:
    return sum(row.status != "duplicate" for model in record.models for row in model.cases)


def _cases(record: EvaluationRecord) -> Sequence[tuple[str, CaseRow]]:
    """The first cases of all models, the largest error first, failures before all."""
    rows = [(model.model, row) for model in record.models for row in model.cases if row.status != "duplicate"]

    def size(pair: tuple[str, CaseRow]) -> float:
        row = pair[1]
        return -2.0 if row.status == "failed" else -(row.error_size if row.error_size is not None else -1.0)

    return sorted(rows, key=size)[:_MOST_CASES]


def _picture_uri(path: Path) -> str:
    try:
        return data_uri(path.read_bytes())
    except OSError:
        return ""
