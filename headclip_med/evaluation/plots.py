"""Curves of several models in one picture each: ROC, precision-recall, PRO, FROC, reliability and scores.

Drawn with matplotlib's object interface as SVG, so no display and no global state is touched; models differ in colour
and line style, so a plot can be read in grey and by colour-blind eyes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from headclip_med.evaluation.record import EvaluationRecord, Level
from headclip_med.evaluation.tables import number, title_of

# Okabe and Ito's palette without its yellow, which is lost on white; styles go on where it begins again.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00")
_STYLES = ("-", "--", "-.", ":")
_MARKERS = "osD^vPX"
_NORMAL, _ABNORMAL = "#0072b2", "#d55e00"
_GRID = {"color": "#d9dce1", "linewidth": 0.6}

_WIDTH, _HEIGHT, _ROW = 4.4, 3.5, 0.19  # inches; a row of the legend comes on top
_LONGEST_LINE = 64  # characters of the legend that surely fit
_MANY_UNITS = 10_000  # above this, counts are shown on a log scale
_FROC_FROM, _FROC_TO = 0.125, 8.0  # false positives per case on the axis, wider where the data are


@dataclass(frozen=True)
class Plot:
    """A finished plot.

    Attributes:
        name: of the kind of plot, such as ``roc``. title: for its caption.
        svg: a whole file. words: what it shows, for those who cannot see it.
    """

    name: str
    title: str
    svg: bytes
    words: str


def plots(record: EvaluationRecord) -> list[Plot]:
    """Draw every plot of an evaluation, level by level.

    Args:
        record: The evaluation.

    Returns:
        The plots that there is data for.
    """
    names = dict.fromkeys(name for result in record.models for name in result.levels)
    by_level = ({m.model: m.levels[name] for m in record.models if name in m.levels} for name in names)
    return [plot for levels in by_level for plot in level_plots(levels)]


def level_plots(levels: Mapping[str, Level]) -> list[Plot]:
    """Draw every plot that one level has data for.

    Args:
        levels: The level of each model, by model.

    Returns:
        At most one of each kind: ROC, precision and recall, PRO, FROC, reliability, scores.
    """
    makers: tuple[Callable[[Mapping[str, Level]], Plot | None], ...] = (
        roc_plot,
        pr_plot,
        pro_plot,
        froc_plot,
        reliability_plot,
        histogram_plot,
    )
    return [plot for maker in makers if (plot := maker(levels)) is not None]


def roc_plot(levels: Mapping[str, Level]) -> Plot | None:
    """Draw false- against true-positive rate, with the line of chance.

    Args:
        levels: The level of each model, by model.

    Returns:
        The plot, None where no model has the curve.
    """
    found = _with_curve(levels, "roc")
    if not found:
        return None
    figure, axes = _figure(len(found))
    axes.plot([0, 1], [0, 1], color="#8a8f99", linewidth=0.8, linestyle=(0, (1, 2)))
    _lines(axes, levels, found, "roc")
    _label(axes, "false-positive rate", "true-positive rate", (0, 1), (0, 1))
    return _finish(figure, levels, found, "roc", "ROC", "auroc")


def pr_plot(levels: Mapping[str, Level]) -> Plot | None:
    """Draw recall against precision. The dotted line is the prevalence, which chance reaches.

    Args:
        levels: The level of each model, by model.

    Returns:
        The plot, None where no model has the curve.
    """
    found = _with_curve(levels, "pr")
    if not found:
        return None
    figure, axes = _figure(len(found) + 1)
    shares = dict.fromkeys(_prevalence(level) for level in found.values())
    for share in shares:
        axes.axhline(share, color="#8a8f99", linewidth=1.0, linestyle=(0, (1, 2)))
    _lines(axes, levels, found, "pr")
    _label(axes, "recall", "precision", (0, 1), (0, 1))
    chance = Line2D([], [], color="#8a8f99", linewidth=1.0, linestyle=(0, (1, 2)))
    words = "prevalence " + " / ".join(f"{share:.3g}" for share in shares)
    return _finish(figure, levels, found, "pr", "Precision and recall", "average_precision", [(chance, words)])


def pro_plot(levels: Mapping[str, Level]) -> Plot | None:
    """Draw false-positive rate against the mean overlap of the regions, up to the limit of AUPRO.

    Args:
        levels: The level of each model, by model.

    Returns:
        The plot, None where no model has the curve.
    """
    found = _with_curve(levels, "pro")
    if not found:
        return None
    figure, axes = _figure(len(found))
    _lines(axes, levels, found, "pro")
    limit = max(level.curves["pro"].x[-1] for level in found.values())
    _label(axes, "false-positive rate", "mean overlap per region", (0, limit or 1), (0, 1))
    return _finish(figure, levels, found, "pro", "Per-region overlap", "aupro")


def froc_plot(levels: Mapping[str, Level]) -> Plot | None:
    """Draw false positives per image or volume against sensitivity, as steps: nothing is interpolated.

    The marks are the sensitivities of the table. Beyond its last threshold a curve is flat.

    Args:
        levels: The level of each model, by model.

    Returns:
        The plot, None where no model has the curve.
    """
    found = _with_curve(levels, "froc")
    if not found:
        return None
    figure, axes = _figure(len(found))
    low, high = _froc_range(found)
    for name, level in found.items():
        x, y = np.asarray(level.curves["froc"].x), np.asarray(level.curves["froc"].y)
        style = _style(levels, name)
        axes.plot(np.append(np.maximum(x, low), high), np.append(y, y[-1]), drawstyle="steps-post", **style)
        for rate, value in _froc_marks(level):
            axes.plot(rate, value, marker=_marker(levels, name), markersize=5, color=style["color"], clip_on=False)
    axes.set_xscale("log", base=2)
    unit = next(
        (name[:-1] for level in found.values() for name in ("images", "volumes", "cases") if name in level.counts),
        "case",
    )
    _label(axes, f"false positives per {unit} (log scale)", "sensitivity to lesions", (low, high), (0, 1))
    axes.set_xticks(_powers(low, high))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    names = [name for level in found.values() for name in level.metrics if name.startswith("sensitivity_at_1_")]
    return _finish(figure, levels, found, "froc", "FROC", names[0] if names else "")


def reliability_plot(levels: Mapping[str, Level]) -> Plot | None:
    """Draw the mean probability said against the share that was abnormal, with the units behind each point below.

    Args:
        levels: The level of each model, by model.

    Returns:
        The plot, None where no model has a bin with units.
    """
    found = {name: level for name, level in levels.items() if level.reliability and level.reliability.count}
    if not found:
        return None
    figure = Figure(figsize=(_WIDTH, _HEIGHT + _ROW * len(found) + 0.5), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color="#8a8f99", linewidth=0.8, linestyle=(0, (1, 2)))
    for name, level in found.items():
        assert level.reliability is not None
        style, points = _style(levels, name) | {"marker": _marker(levels, name), "markersize": 4}, level.reliability
        axes.plot(points.confidence, points.frequency, clip_on=False, **style)
        below.plot(points.confidence, points.count, **style)
    below.set_yscale("log")
    _label(axes, "", "share abnormal", (0, 1), (0, 1))
    _label(below, "mean score", f"{next(iter(found.values())).unit}s", (0, 1), None)
    return _finish(figure, levels, found, "reliability", "Reliability", "ece")


def histogram_plot(levels: Mapping[str, Level]) -> Plot | None:
    """Draw the scores of normal and abnormal units, each as a share of its own kind, a panel per model.

    Args:
        levels: The level of each model, by model.

    Returns:
        The plot, None where no model has a histogram.
    """
    found = {name: level for name, level in levels.items() if level.histogram}
    if not found:
        return None
    figure = Figure(figsize=(_WIDTH, 1.0 + max(_HEIGHT - 0.8, 1.2 * len(found))), layout="constrained")
    panels = figure.subplots(len(found), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    many = max(sum(level.histogram.normal) for level in found.values() if level.histogram) > _MANY_UNITS
    for axes, (name, level) in zip(panels, found.items(), strict=True):
        assert level.histogram is not None
        _stairs(axes, level.histogram.edges, level.histogram.normal, _NORMAL, "-")
        _stairs(axes, level.histogram.edges, level.histogram.abnormal, _ABNORMAL, "--")
        axes.set_title(_short(name), fontsize=8, parse_math=False)
        _label(axes, "", "", (level.histogram.edges[0], level.histogram.edges[-1]), None)
        if many:
            axes.set_yscale("log")
    unit = next(iter(found.values())).unit
    figure.supxlabel(f"score of a {unit}", fontsize=9)
    figure.supylabel(f"share of {unit}s in %" + (" (log scale)" if many else ""), fontsize=9)
    entries = [(Line2D([], [], color=_NORMAL), "normal"), (Line2D([], [], color=_ABNORMAL, linestyle="--"), "abnormal")]
    return _finish(figure, levels, {}, "histogram", "Scores", "", entries)


def _with_curve(levels: Mapping[str, Level], curve: str) -> dict[str, Level]:
    return {name: level for name, level in levels.items() if curve in level.curves and level.curves[curve].x}


def _figure(legend_rows: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, _HEIGHT + _ROW * legend_rows), layout="constrained")
    return figure, figure.subplots()


def _style(levels: Mapping[str, Level], name: str) -> dict[str, Any]:
    """The same for a model in every plot of a report, as ``levels`` holds all of its models in order."""
    place = list(levels).index(name)
    style = _STYLES[(place + place // len(_COLOURS)) % len(_STYLES)]
    return {"color": _COLOURS[place % len(_COLOURS)], "linestyle": style, "linewidth": 1.6}


def _marker(levels: Mapping[str, Level], name: str) -> str:
    return _MARKERS[list(levels).index(name) % len(_MARKERS)]


def _lines(axes: Any, levels: Mapping[str, Level], found: Mapping[str, Level], curve: str) -> None:
    for name, level in found.items():
        axes.plot(level.curves[curve].x, level.curves[curve].y, clip_on=False, **_style(levels, name))


def _stairs(axes: Any, edges: Sequence[float], counts: Sequence[float], colour: str, style: str) -> None:
    values = np.asarray(counts, dtype=float)
    share = 100 * values / max(values.sum(), 1)
    axes.stairs(share, edges, color=colour, linestyle=style, linewidth=1.4)
    axes.stairs(share, edges, color=colour, alpha=0.18, fill=True)


def _label(axes: Any, x: str, y: str, x_range: tuple[float, float] | None, y_range: tuple[float, float] | None) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    if x_range:
        axes.set_xlim(*x_range)
    if y_range:
        axes.set_ylim(*y_range)
    axes.tick_params(labelsize=8)
    axes.grid(True, **_GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _prevalence(level: Level) -> float:
    abnormal = level.counts.get("abnormal", 0)
    return abnormal / max(1, abnormal + level.counts.get("normal", 0))


def _froc_range(found: Mapping[str, Level]) -> tuple[float, float]:
    """Ends of the axis: the usual ones, wider where curves go on, lower where all of them end early."""
    rates = np.concatenate([np.asarray(level.curves["froc"].x) for level in found.values()])
    low = _FROC_FROM
    if rates.max() < 4 * low and (rates > 0).any():
        low = float(2 ** np.floor(np.log2(rates[rates > 0].min())))
    return low, max(_FROC_TO, 1.25 * float(rates.max()))


def _froc_marks(level: Level) -> list[tuple[float, float]]:
    marks = []
    for name, metric in level.metrics.items():
        if name.startswith("sensitivity_at_") and name.endswith("_fp") and metric.value is not None:
            marks.append((float(name.removeprefix("sensitivity_at_").removesuffix("_fp")), metric.value))
    return marks


def _powers(low: float, high: float) -> list[float]:
    """Powers of two within the range, at most eight of them, 1 always among them."""
    first, last = int(np.ceil(np.log2(low))), int(np.floor(np.log2(high)))
    step = -(-(last - first + 1) // 8)
    return [float(2.0**power) for power in range(first, last + 1) if power % step == 0]


def _finish(
    figure: Figure,
    levels: Mapping[str, Level],
    found: Mapping[str, Level],
    name: str,
    title: str,
    metric: str,
    more: Sequence[tuple[Line2D, str]] = (),
) -> Plot:
    """Add the legend below the axes and draw; ``metric`` is told beside each model's name."""
    entries = [(_handle(levels, model, name), _entry(model, level, metric)) for model, level in found.items()]
    entries += list(more)
    legend = figure.legend(
        [handle for handle, _ in entries],
        [str(place) for place, _ in enumerate(entries)],
        loc="outside lower left" if found else "outside upper center",
        ncols=1 if found else 2,
        frameon=False,
        fontsize=8,
        handlelength=3.2,
    )
    for text, (_, words) in zip(legend.get_texts(), entries, strict=True):
        # Names are no formulas, and matplotlib takes one with a leading underscore for "no entry".
        text.set_parse_math(False)
        text.set_text(words)
    unit = next(iter(levels.values())).unit
    values = "; ".join(words for _, words in entries) if found else f"normal and abnormal of {', '.join(levels)}"
    heading = f"{title}, {unit} level"
    return Plot(name, heading, _svg(figure, heading), f"{heading}: {values}.")


def _handle(levels: Mapping[str, Level], model: str, plot: str) -> Line2D:
    marker = _marker(levels, model) if plot in ("froc", "reliability") else None
    return Line2D([], [], marker=marker, markersize=4, **_style(levels, model))


def _entry(model: str, level: Level, metric: str) -> str:
    if metric not in level.metrics:
        return _short(model)
    value = f": {title_of(metric)} {number(level.metrics[metric])}"
    return _short(model, _LONGEST_LINE - len(value)) + value


def _short(name: str, longest: int = _LONGEST_LINE) -> str:
    half = max(longest, 8) // 2
    return name if len(name) <= 2 * half else f"{name[: half - 1]}…{name[-half:]}"


def _svg(figure: Figure, salt: str) -> bytes:
    """The figure as one file, the same bytes for the same data."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": salt, "svg.fonttype": "path"}), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; nobody needs to be told on stderr.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
