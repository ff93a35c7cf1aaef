"""Plots of an evaluation: which there are, what they show, and that names and gaps cannot break them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from evaluation_record import NAMES, curve, lesion_level, make_record, no_level

from headclip_med.evaluation.plots import (
    froc_plot,
    histogram_plot,
    level_plots,
    plots,
    pr_plot,
    reliability_plot,
    roc_plot,
)
from headclip_med.evaluation.record import Level, Metric

SVG = "{http://www.w3.org/2000/svg}"


def _levels(name: str, models: int = 2) -> dict[str, Level]:
    return {result.model: result.levels[name] for result in make_record(models).models}


def _lines(svg: bytes) -> list[str]:
    """Styles of all drawn lines, in the order of drawing."""
    return [
        path.get("style", "") for path in ET.fromstring(svg).iter(f"{SVG}path") if "stroke:" in path.get("style", "")
    ]


def test_every_level_has_the_plots_that_it_has_data_for() -> None:
    names = {
        level: [plot.name for plot in level_plots(_levels(level))] for level in ("case", "slice", "pixel", "lesion")
    }
    ranked = ["roc", "pr", "reliability", "histogram"]
    assert names == {
        "case": ranked,
        "slice": [],
        "pixel": ["roc", "pr", "pro", "reliability", "histogram"],
        "lesion": ["froc"],
    }
    titles = [plot.title for plot in plots(make_record())]
    assert titles[0] == "ROC, volume level"
    assert titles[-1] == "FROC, lesion level"
    assert len(titles) == len(set(titles)) == 10


def test_words_say_the_numbers_to_those_who_cannot_see() -> None:
    plot = roc_plot(_levels("case"))
    assert plot is not None
    assert plot.words == (
        f"ROC, volume level: {NAMES[0]}: AUROC 0.912 [0.880, 0.940]; {NAMES[1]}: AUROC 0.700 [0.668, 0.728]."
    )
    prevalence = pr_plot(_levels("pixel"))
    assert prevalence is not None
    assert "prevalence 0.0132" in prevalence.words  # 12,000 of 912,000


def test_models_differ_in_colour_and_in_line_style() -> None:
    plot = roc_plot(_levels("pixel", 4))
    assert plot is not None
    styles = [style for style in _lines(plot.svg) if "stroke-width: 1.6" in style]
    curves = {re.sub(r"stroke-dashoffset[^;]*;?", "", style) for style in styles}
    colours = {re.search(r"stroke: (#\w+)", style)[1] for style in curves}  # type: ignore[index]
    dashes = {found[1] if (found := re.search(r"stroke-dasharray: ([^;]+)", style)) else "" for style in curves}
    assert len(colours) == len(dashes) == 4


def test_a_model_looks_the_same_where_another_has_no_curve() -> None:
    first, second = NAMES[:2]
    both = _levels("case")
    alone = roc_plot({first: no_level("volume", "none"), second: both[second]})
    assert alone is not None
    assert "#d55e00" in alone.svg.decode()  # the second colour
    assert "#0072b2" not in alone.svg.decode()
    assert first not in alone.words


@pytest.mark.parametrize("name", ["a$b$c", "_hidden", r"$\frac{", "日本語", "x" * 300, "<&>"])
def test_a_name_is_only_a_name(name: str) -> None:
    level = _levels("case")[NAMES[0]]
    for plot in (roc_plot({name: level, "other": level}), histogram_plot({name: level, "other": level})):
        assert plot is not None
        ET.fromstring(plot.svg)
        assert "other" in plot.words


def test_the_same_data_give_the_same_bytes() -> None:
    plots_of = (roc_plot, reliability_plot, histogram_plot)
    first, second = ([make(_levels("case")) for make in plots_of] for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([0.0], [0.0]),  # no finding at all
        ([0.0, 0.0], [0.0, 1.0]),  # not one false positive
        ([0.0, 0.01, 0.03], [0.0, 0.5, 1.0]),  # ends long before the usual axis begins
        ([0.0, 3.0, 4000.0], [0.0, 0.5, 1.0]),  # far beyond it
    ],
)
def test_froc_is_drawn_whatever_its_range(x: list[float], y: list[float]) -> None:
    level = lesion_level(0.7).model_copy(update={"curves": {"froc": curve(np.array(x), np.array(y))}})
    plot = froc_plot({"model": level})
    assert plot is not None
    assert "Sensitivity at 1 FP 0.420" in plot.words
    assert b"nan" not in plot.svg.lower()


def test_empty_and_single_bins_are_drawn() -> None:
    level = _levels("case")[NAMES[0]]
    assert level.histogram is not None
    assert level.reliability is not None
    empty = level.histogram.model_copy(update={"abnormal": (0.0,) * 40})
    one = level.reliability.model_copy(update={"confidence": (0.4,), "frequency": (1.0,), "count": (1.0,)})
    none = level.reliability.model_copy(update={"confidence": (), "frequency": (), "count": ()})
    drawn = (
        histogram_plot({"model": level.model_copy(update={"histogram": empty})}),
        reliability_plot({"model": level.model_copy(update={"reliability": one})}),
    )
    for plot in drawn:
        assert plot is not None
        assert b"nan" not in plot.svg.lower()
        assert plot.words.startswith(f"{plot.title}: ")
    assert reliability_plot({"model": level.model_copy(update={"reliability": none})}) is None


def test_a_metric_without_a_value_is_said_in_the_legend() -> None:
    level = _levels("case")[NAMES[0]]
    level = level.model_copy(update={"metrics": {"auroc": Metric(reason="one class")}})
    plot = roc_plot({"model": level})
    assert plot is not None
    assert plot.words == "ROC, volume level: model: AUROC n/a."
