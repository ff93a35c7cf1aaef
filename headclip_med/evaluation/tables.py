"""The headline numbers as Markdown and LaTeX, and every case as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from tabulate import LATEX_ESCAPE_RULES, SEPARATING_LINE, tabulate

from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.evaluation.record import CaseRow, EvaluationRecord, Metric, ModelResult

TITLES = {
    "auroc": "AUROC",
    "average_precision": "AP",
    "f1_max": "F1-max",
    "aupro": "AUPRO (exact, 0.3)",
    "aupro_legacy": "AUPRO (legacy, 200 thresholds)",
    "mad": "mAD",
    "ece": "ECE",
    "dice": "Dice at the threshold",
    "dice_best_threshold": "Dice at the best threshold (not available in practice)",
    "auroc_bound": "AUROC rounding bound",
}
_HEADLINE = {
    "case": ("auroc", "average_precision", "f1_max", "mad"),
    "slice": ("auroc", "average_precision", "f1_max"),
    "pixel": ("auroc", "average_precision", "f1_max", "aupro", "aupro_legacy", "mad", "dice"),
    "foreground": ("auroc", "average_precision", "aupro"),
    "lesion": (),
}
_CASE_FIELDS = [name for name in CaseRow.model_fields if name not in ("columns", "warnings")]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TYPED = str.maketrans({"–": "--", "−": "-", "×": "x", "…": "..."})  # not every LaTeX knows these


def title_of(name: str) -> str:
    """Write a metric's name as people do.

    Args:
        name: As in ``metrics.json``.

    Returns:
        Its title, such as ``AUROC`` or ``Sensitivity at 2 FP``.
    """
    if name in TITLES:
        return TITLES[name]
    if match := re.fullmatch(r"sensitivity_at_specificity_(\d+)", name):
        return f"Sensitivity at {match[1]} % specificity"
    if match := re.fullmatch(r"sensitivity_at_([\d.]+)_fp", name):
        return f"Sensitivity at {match[1]} FP"
    return name.replace("_", " ")


def number(metric: Metric | None) -> str:
    """Write a metric with three decimals. A value that would read 0.000 is given as ``2e-05``.

    Args:
        metric: None where a model has no such metric.

    Returns:
        ``0.912 [0.880, 0.940]``, ``0.912`` without an interval, or ``n/a``.
    """
    if metric is None or metric.value is None:
        return "n/a"
    value = f"{metric.value:.3f}" if metric.value == 0 or abs(metric.value) >= 0.0005 else f"{metric.value:.0e}"
    if metric.low is None or metric.high is None:
        return value
    return f"{value} [{metric.low:.3f}, {metric.high:.3f}]"


def headline(record: EvaluationRecord) -> list[tuple[str, str]]:
    """Choose the rows of the tables: the main metrics of each level, and all of the lesion level.

    Args:
        record: The evaluation.

    Returns:
        Level and metric of every row, in order, where any model has them.
    """
    rows = []
    for level, names in _HEADLINE.items():
        found = [model.levels[level] for model in record.models if level in model.levels]
        wanted = names or tuple(dict.fromkeys(name for part in found for name in part.metrics))
        rows += [(level, name) for name in wanted if any(name in part.metrics for part in found)]
    return rows


def unit_of(record: EvaluationRecord, level: str) -> str:
    """Look up what is counted at a level.

    Args:
        record: The evaluation.
        level: One that a model has.

    Returns:
        The word of the first model that has it: image, voxel, …
    """
    return next(model.levels[level].unit for model in record.models if level in model.levels)


def reasons(record: EvaluationRecord) -> list[str]:
    """List why numbers or intervals are missing, each reason once.

    Args:
        record: The evaluation.

    Returns:
        Lines such as ``n/a, lesion: no case with a mask holds a lesion``. What is never resampled is left out.
    """
    found: dict[str, None] = {}
    for model in record.models:
        for level in model.levels.values():
            for metric in level.metrics.values():
                for reason, what in ((metric.reason, "n/a"), (metric.interval_reason, "no interval")):
                    if reason and not reason.startswith("not resampled"):
                        found[f"{what}, {level.unit}: {reason}"] = None
    return list(found)


def markdown_table(record: EvaluationRecord) -> str:
    """Make the headline table in Markdown: a row per metric, a column per model.

    What the numbers rest on stands above, the reason of every n/a below.

    Args:
        record: the evaluation.

    Returns:
        The text, ending with a line break.
    """
    below = [f"- {_markdown(reason)}" for reason in reasons(record)]
    rows = [row for _, row in _rows(record)]
    table = _table(record, [[_markdown(cell) for cell in row] for row in rows], "pipe", _markdown)
    return "\n".join([_markdown(_caption(record)), "", table, "", *below, f"- {RESEARCH_ONLY}"]) + "\n"


def latex_table(record: EvaluationRecord) -> str:
    """Make the same table with booktabs, to be put into a document with ``\\input``. A line parts the levels.

    Args:
        record: the evaluation.

    Returns:
        The text, ending with a line break.
    """
    rows: list[Any] = []
    for _, group in groupby(_rows(record), key=itemgetter(0)):
        rows += [SEPARATING_LINE] if rows else []
        rows += [[_one_line(cell) for cell in row] for _, row in group]
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", rf"\caption{{{latex(_caption(record))}}}"]
    lines.append(_table(record, rows, "latex_booktabs", _one_line))
    lines += [rf"\\ \footnotesize {latex(reason)}" for reason in reasons(record)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def cases_csv(record: EvaluationRecord) -> str:
    """Write one row per model and case with every field. Columns of the cases come last.

    Args:
        record: The evaluation.

    Returns:
        CSV with a line of names, whose cells no spreadsheet takes for a formula.
    """
    extra = sorted({name for model in record.models for row in model.cases for name in row.columns})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", *_CASE_FIELDS, "warnings", *(f"column:{name}" for name in extra)])
    for model in record.models:
        for row in model.cases:
            facts = [getattr(row, name) for name in _CASE_FIELDS]
            columns = [row.columns.get(name, "") for name in extra]
            writer.writerow(map(_cell, [model.model, *facts, "; ".join(row.warnings), *columns]))
    return out.getvalue()


def latex(text: str) -> str:
    """Write text so that nothing in it is a command of LaTeX.

    Args:
        text: any text.

    Returns:
        One line.
    """
    return "".join(LATEX_ESCAPE_RULES.get(letter, letter) for letter in _one_line(text))


def _table(record: EvaluationRecord, rows: Sequence[Any], layout: str, written: Callable[[str], str]) -> str:
    heads = ["", *(written(model.model) for model in record.models)]
    sides = ["left", *["right"] * len(record.models)]
    return tabulate(rows, heads, tablefmt=layout, disable_numparse=True, colalign=sides)


def _rows(record: EvaluationRecord) -> list[tuple[str, list[str]]]:
    """Level and cells of every row: what is measured, then each model's number."""
    return [
        (
            level,
            [
                f"{unit_of(record, level)}: {title_of(name)}",
                *(number(_metric(model, level, name)) for model in record.models),
            ],
        )
        for level, name in headline(record)
    ]


def _caption(record: EvaluationRecord) -> str:
    facts = record.dataset
    kinds = ", ".join(dict.fromkeys(f"{model.model}: {model.protocol.kind}" for model in record.models))
    copies = f"{facts.duplicates} duplicate{'' if facts.duplicates == 1 else 's'}" if facts.duplicates else ""
    left = [copies, f"{facts.failed} failed" if facts.failed else ""]
    excluded = ", ".join(part for part in left if part)
    return (
        f"{facts.name}: {facts.counted} of {facts.cases} cases of {facts.patients} patients"
        + (f" (without {excluded})" if excluded else "")
        + f"; protocol {kinds}; 95 % intervals by {record.settings.get('replicates')} draws of patients."
    )


def _metric(model: ModelResult, level: str, name: str) -> Metric | None:
    return model.levels[level].metrics.get(name) if level in model.levels else None


def _one_line(text: str) -> str:
    """Text without line breaks, in signs that every LaTeX knows."""
    return " ".join(text.split()).translate(_TYPED)


def _markdown(text: str) -> str:
    return re.sub(r"([\\|<`*])", r"\\\1", " ".join(text.split()))


def _cell(value: object) -> object:
    """A cell that a spreadsheet does not take for a formula."""
    if isinstance(value, bool):
        return int(value)
    text = "" if value is None else value
    is_formula = isinstance(text, str) and text.startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text
