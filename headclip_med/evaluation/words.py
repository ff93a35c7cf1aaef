"""The words in which metrics, levels and numbers are shown; tables, plots and report say the same."""

from __future__ import annotations

import re
from collections.abc import Iterable

from headclip_med.evaluation.curves import AUPRO_LIMIT
from headclip_med.evaluation.record import EvaluationRecord, Level, Metric

# Label and meaning of each metric; sensitivities at a target are put together in metric_label.
_METRICS = {
    "auroc": ("AUROC", "chance that an abnormal unit scores above a normal one; ties count half"),
    "average_precision": ("AP", "average precision: area under the precision-recall curve, not interpolated"),
    "f1_max": ("max F1", "F1 at the threshold that is best on this very set, which nobody knows beforehand"),
    "aupro": (
        "AUPRO",
        f"area under the per-region overlap curve up to a false-positive rate of {AUPRO_LIMIT:g}, divided by it; exact",
    ),
    "aupro_legacy": (
        "AUPRO (legacy)",
        "AUPRO as the released code of the AnomalyCLIP family computes it: 200 thresholds, "
        f"false-positive rates below {AUPRO_LIMIT:g} rescaled to 0–1",
    ),
    "mad": ("mAD", "mean of AUROC, AP, max F1 and, for pixels, AUPRO"),
    "ece": ("ECE", "expected calibration error on equal-width bins; 0 is best"),
    "auroc_bound": ("AUROC rounding", "largest error of AUROC that rounding scores to levels can cause"),
    "dice": ("Dice", "mean over cases with a lesion, at the model's threshold"),
    "dice_best_threshold": ("Dice (best)", "the same at the threshold that is best on this very set"),
}
_AT_SPECIFICITY = re.compile(r"sensitivity_at_specificity_(\d+)")
_AT_RATE = re.compile(r"sensitivity_at_([\d.]+)_fp")

INDEPENDENT = "No image's score depends on another test image."


def metric_label(name: str) -> str:
    """Short name of a metric for a table's heading."""
    if name in _METRICS:
        return _METRICS[name][0]
    if found := _AT_SPECIFICITY.fullmatch(name):
        return f"sens. at {found[1]} % spec."
    if found := _AT_RATE.fullmatch(name):
        return f"sens. at {found[1]} FP"
    return name.replace("_", " ")


def metric_meaning(name: str) -> str:
    """What a metric is, in one line; empty for one that its label says all about."""
    if name in _METRICS:
        return _METRICS[name][1]
    if _AT_SPECIFICITY.fullmatch(name):
        return "highest sensitivity among thresholds that reach this specificity"
    if _AT_RATE.fullmatch(name):
        return "share of lesions found with at most so many false findings per image or volume"
    return ""


def level_label(level: Level) -> str:
    """``Pixel level``."""
    return f"{level.unit[:1].upper()}{level.unit[1:]} level"


def counts_text(level: Level) -> str:
    """What the metrics of a level rest on: ``10 normal, 12 abnormal, 14 regions``."""
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in level.counts.items())


def number_text(value: float) -> str:
    """Three decimals, or one digit with its power of ten where that would read 0.000."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.0005 else f"{value:.0e}"


def metric_text(metric: Metric | None, *, signed: bool = False) -> str:
    """``0.912 [0.88, 0.94]``, the value alone where there is no interval, or ``n/a``.

    The ends get a third decimal where two would leave the value out or make both ends the same.
    """
    if metric is None or metric.value is None:
        return "n/a"
    text = ("+" if signed and metric.value > 0 else "") + number_text(metric.value)
    if metric.low is None or metric.high is None:
        return text
    coarse = [round(end, 2) for end in (metric.low, metric.high)]
    digits = 2 if coarse[0] != coarse[1] and coarse[0] <= metric.value <= coarse[1] else 3
    return f"{text} [{_end(metric.low, digits)}, {_end(metric.high, digits)}]"


def why(metric: Metric | None) -> str:
    """Why there is no value or no interval; empty where there are both."""
    if metric is None:
        return "this model has no such metric"
    return metric.reason if metric.value is None else (f"no interval: {no}" if (no := metric.interval_reason) else "")


def level_names(record: EvaluationRecord) -> list[str]:
    """Levels that any model has, in the order of the first model that has them."""
    return list(dict.fromkeys(name for result in record.models for name in result.levels))


def metric_names(levels: Iterable[Level | None]) -> list[str]:
    """Metrics that any of the levels has."""
    return list(dict.fromkeys(name for level in levels if level for name in level.metrics))


def set_text(record: EvaluationRecord) -> str:
    """What was evaluated, in one sentence."""
    facts = record.dataset
    parts = [
        f"{facts.counted:,} of {plural(facts.cases, 'case')} counted",
        plural(facts.patients, "patient"),
        plural(facts.duplicates, "duplicate") if facts.duplicates else "",
        f"{facts.failed:,} failed" if facts.failed else "",
    ]
    return f"{facts.name}: {', '.join(part for part in parts if part)}"


def plural(count: int, word: str) -> str:
    """``1 case``, ``2,000 cases``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


class Notes:
    """Footnotes: the same text gets the same mark (a, b, … z, aa, …)."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def mark(self, text: str) -> str:
        """The mark of ``text``; empty for an empty text."""
        if not text:
            return ""
        return self._marks.setdefault(text, _letters(len(self._marks)))

    def items(self) -> list[tuple[str, str]]:
        """Marks and texts in the order of their first use."""
        return [(mark, text) for text, mark in self._marks.items()]


def _end(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero


def _letters(place: int) -> str:
    text = ""
    while place >= 0:
        place, letter = divmod(place, 26)
        text = chr(ord("a") + letter) + text
        place -= 1
    return text
