"""A picture of head weights, and of the heads that raise the score of one slice.

Drawn with matplotlib's object interface, so no display, no global state and no backend is touched.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.engine.heads import SliceHeads
from headclip_med.models.scope import OUT_OF_SCOPE

Grid = NDArray[np.floating]

_DIVERGING = colormaps["RdBu_r"].with_extremes(bad="#c9ccd1")  # grey where no weight acts
_CONTOUR = "#00a5c8"
_FLAT = 0.05  # half range of the colours where all weights are 1
_ROW, _COLUMN, _SLICE, _DPI = 0.24, 0.42, 5.6, 120  # inches of a layer, a head and the part about a slice
_TOP = 4  # heads with a map of their own
_SHARE = 0.25  # of a cell that must be patient to be coloured
_MANY = 20  # above this many heads, values do not fit their cells
_LONGEST, _LINE = 48, 130  # characters of a model's name, and of a line


def heads_picture(weights: Mapping[str, Grid], model: str, found: SliceHeads | None = None) -> Image.Image:
    """Draw weights by branch, and below them, for a slice, its strongest heads and maps of the first four.

    Args:
        weights: By name of the branch, all of the same shape ``(depth, heads)``, 1 for the frozen tower and NaN where
            none acts.
        model: Its name, for the title. The middle of a long one is left out.
        found: Of :func:`headclip_med.engine.heads.explain_slice`, None for the weights alone.

    Returns:
        RGB picture with 120 pixels per inch.
    """
    depth, heads = next(iter(weights.values())).shape
    table, below, column = max(2.4, depth * _ROW + 1.1), _SLICE if found else 0.0, heads * _COLUMN + 1.6
    width = max(10.0 if found else 5.0, len(weights) * column)
    page = Figure(figsize=(width, table + below + 0.7), dpi=_DPI, layout="constrained")
    rows = page.subfigures(3 if found else 2, 1, height_ratios=[table, *([below] if found else []), 0.25])
    spare = (width - len(weights) * column) / 2 + 1e-3
    panels = rows[0].subplots(1, len(weights) + 2, width_ratios=[spare, *[column] * len(weights), spare])
    for axes in (panels[0], panels[-1]):
        axes.remove()
    for axes, (branch, values) in zip(panels[1:-1], weights.items(), strict=True):
        _weights(axes, values, branch)
    if found is not None:
        _slice(rows[1], found)
    short = model if len(model) <= _LONGEST else f"{model[: _LONGEST // 2]}…{model[-_LONGEST // 2 :]}"
    more = ", and the heads that raise the score of one slice" if found else ""
    page.suptitle(f"Head weights of {short}{more}", fontsize=11, parse_math=False)
    rows[-1].text(0.01, 0.5, RESEARCH_ONLY, fontsize=8, color="#b35900", va="center")
    return _render(page)


def _weights(axes: Any, values: Grid, branch: str) -> None:
    depth, heads = values.shape
    spread = np.nanmax(np.abs(values - 1), initial=0.0)
    colours = CenteredNorm(1, halfrange=max(float(spread), _FLAT))
    shown = axes.imshow(values, cmap=_DIVERGING, norm=colours, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(heads))
    axes.set_yticks(range(depth))
    axes.tick_params(labelsize=7, length=0)
    axes.set_xlabel("head, from 0", fontsize=8)
    axes.set_ylabel("layer, from 0", fontsize=8)
    flat = ": every weight is 1" if spread == 0 else ""
    axes.set_title(f"head weights of the {branch} branch{flat}\n1: the frozen tower; grey: no weight acts", fontsize=8)
    if heads <= _MANY:
        for layer, head in zip(*np.nonzero(np.isfinite(values)), strict=True):
            value = values[layer, head]
            strong = abs(value - 1) > 0.6 * max(spread, _FLAT)
            colour = "white" if strong else "black"
            axes.text(head, layer, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
    bar = axes.figure.colorbar(shown, ax=axes, fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=7)


def _slice(area: Any, found: SliceHeads) -> None:
    """The slice, its map and the list of heads above, maps of the first heads below."""
    told = [words for words in found.view.warnings if words.startswith(OUT_OF_SCOPE)]
    lines = [line for words in (f"{found.view.words}: {found.chosen}", *told) for line in textwrap.wrap(words, _LINE)]
    area.suptitle("\n".join(lines), fontsize=9, parse_math=False)
    above, below = area.subfigures(2, 1, height_ratios=[1, 0.95])
    plain, mapped, bars = above.subplots(1, 3, width_ratios=[1, 1.1, 1.5])
    _image(plain, found, "slice as the network sees it")
    _image(mapped, found, "anomaly map; line: patches looked at")
    _overlay(mapped, found, found.anomaly, "inferno", 0.0, 1.0)
    _bars(bars, found)
    panels = below.subplots(1, _TOP)
    for axes, effect in zip(panels, found.effects, strict=False):
        values = found.map_of(effect)
        limit = float(np.abs(values[_patient(found, values.shape)]).max(initial=0.0)) or 1.0
        _image(axes, found, f"layer {effect.layer}, head {effect.head}: logits (red raises)")
        _overlay(axes, found, values, _DIVERGING, -limit, limit)
    for axes in panels[len(found.effects) :]:
        axes.remove()


def _overlay(axes: Any, found: SliceHeads, values: Grid, colours: Any, low: float, high: float) -> None:
    """Values over the slice, inside the patient, with the line around the patches that were looked at."""
    opacity = 0.65 * _patient(found, values.shape)
    axes.imshow(values, cmap=colours, vmin=low, vmax=high, alpha=opacity, extent=_extent(found), zorder=1)
    _outline(axes, found)
    bar = axes.figure.colorbar(ScalarMappable(Normalize(low, high), colours), ax=axes, fraction=0.046, pad=0.02)
    bar.ax.tick_params(labelsize=6)


def _patient(found: SliceHeads, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Cells of a grid that show a quarter of patient or more, or were looked at."""
    valid = F.adaptive_avg_pool2d(found.view.valid[:1].float().cpu(), (shape[0], shape[1]))[0] >= _SHARE
    inside = found.inside if found.inside.shape == shape else np.zeros(shape, dtype=bool)
    return np.asarray(valid) | inside


def _image(axes: Any, found: SliceHeads, title: str) -> None:
    view = found.view
    axes.imshow(view.image, cmap="gray", vmin=0, vmax=1, extent=_extent(found), zorder=0)
    axes.set_xlim(view.placement.left, view.placement.left + view.placement.width)
    axes.set_ylim(view.placement.top + view.placement.height, view.placement.top)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=7)


def _extent(found: SliceHeads) -> tuple[int, int, int, int]:
    """The square of the model's input in pixels: left, right, bottom, top."""
    side = found.view.placement.size
    return 0, side, side, 0


def _outline(axes: Any, found: SliceHeads) -> None:
    """Edges of the patches that were looked at, exactly."""
    inside = np.pad(found.inside, 1)
    rows, columns = found.inside.shape
    high, wide = found.view.placement.size / rows, found.view.placement.size / columns
    across, along = inside[1:, 1:-1] != inside[:-1, 1:-1], inside[1:-1, 1:] != inside[1:-1, :-1]
    for row, column in zip(*np.nonzero(across), strict=True):
        axes.plot([column * wide, (column + 1) * wide], [row * high] * 2, color=_CONTOUR, linewidth=1, zorder=2)
    for row, column in zip(*np.nonzero(along), strict=True):
        axes.plot([column * wide] * 2, [row * high, (row + 1) * high], color=_CONTOUR, linewidth=1, zorder=2)


def _bars(axes: Any, found: SliceHeads) -> None:
    names = [f"layer {effect.layer}, head {effect.head}" for effect in found.effects]
    values = [effect.logits for effect in found.effects]
    places = np.arange(len(values))
    axes.barh(places, values, color="#b2182b")
    axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    parts = found.parts()
    rest = ", ".join(f"{name} {parts[name]:+.2f}" for name in ("base", "biases", "centre"))
    axes.set_xlabel(
        f"mean share of the logit {parts['logit']:+.2f}\nall heads {parts['heads']:+.2f}, {rest}", fontsize=7
    )
    axes.set_title("heads that raise the score most" if values else "no head raises the score", fontsize=8)


def _render(page: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(page)
    with warnings.catch_warnings():
        # A file name in a script that the font lacks is drawn as boxes; nobody needs to be told on stderr.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
