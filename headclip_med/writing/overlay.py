"""Pictures of a result: the most suspicious slices with the anomaly map over them.

Drawn with matplotlib's object interface, so no display, no global state and no backend is touched.
"""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

from headclip_med.base.files import atomic_path
from headclip_med.base.threads import WARNINGS
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.engine.result import AnomalyResult
from headclip_med.models.scope import OUT_OF_SCOPE
from headclip_med.writing.panels import Panel, cropped, displayed_slice, is_plain_image, overlay_slices

# Inferno without its near-black end, which would only darken the anatomy below it.
_COLOURS = ListedColormap(colormaps["inferno"](np.linspace(0.3, 1.0, 256)), name="inferno from 0.3")
_MOST_OPAQUE = 0.5  # anatomy stays readable under the highest value
_CONTOUR = "#35e0ff"
_PAPER, _INK, _FAINT = "#101114", "#f2f2f2", "#a9adb5"

# Inches.
_PANEL_WIDTH, _WIDE_PANEL = 2.5, 4.2
_GAP, _LABEL, _HEAD, _FOOT, _BAR, _LINE = 0.12, 0.26, 0.62, 0.36, 1.0, 0.16
_SHAPE_LIMITS = (0.4, 1.8)  # height / width of a panel; longer slices are letter-boxed

_SMOOTH = "hanning"  # a filter that neither blocks up small slices nor aliases large photographs
_DPI = 144
_TITLE_DENSITY, _TEXT_DENSITY = 10, 15  # characters per inch that surely fit


def montage(result: AnomalyResult, columns: int = 4, n: int = 8) -> Image.Image:
    """Draw the most suspicious slices (see :func:`overlay_slices`) in one picture.

    Radiological orientation: the patient's right is on the left of axial and coronal slices. Colour and
    opacity rise from half the threshold. The line around the mask is the threshold itself. A single slice
    is shown bare beside its overlay. Pixels are shown as they are: text burnt into the source is in the picture.

    Args:
        result: What one prediction found.
        columns: Slices in a row at most, 1 or more.
        n: Slices at most, 1 or more.

    Returns:
        RGB picture with 144 pixels per inch, where a panel is 2.5 inches wide, one of two or fewer 4.2.
    """
    panels = overlay_slices(result, n)
    panels = panels if is_plain_image(result) else cropped(panels)
    single = len(result.slices) == 1
    cells = [(panels[0], False), (panels[0], True)] if single else [(panel, True) for panel in panels]
    width = _WIDE_PANEL if len(cells) <= 2 else _PANEL_WIDTH
    height = width * float(np.clip(_shape(panels[0]), *_SHAPE_LIMITS))
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    page_width = columns * (width + _GAP) + _GAP + _BAR
    foot = _FOOT + _LINE * len(_alarms(result, page_width))
    page = Figure(
        figsize=(page_width, rows * (height + _LABEL + _GAP) + _HEAD + foot),
        dpi=_DPI,
        facecolor=_PAPER,
    )
    colours = _colour_scale(result)
    for place, (panel, overlaid) in enumerate(cells):
        row, column = divmod(place, columns)
        left = _GAP + column * (width + _GAP)
        top = _HEAD + row * (height + _LABEL + _GAP) + _LABEL
        axes = _axes(page, left, top, width, height)
        _draw(axes, panel, colours if overlaid else None)
        _label(axes, _caption(result, panel, overlaid, single))
    _colour_bar(page, result, colours, columns * (width + _GAP) + 2 * _GAP, min(height, 3.0))
    _words(page, result)
    return _render(page)


def slice_picture(result: AnomalyResult, panel: Panel, height: float = 6.0) -> Image.Image:
    """Draw one slice with contour and all numbers in the picture itself, for viewers that show nothing else.

    No name of a file or patient is in it, unless burnt into the source's own pixels.

    Args:
        result: That the slice belongs to.
        panel: The slice, its map, and the mask that is outlined.
        height: Of the slice, in inches of 144 pixels. Words above and below come on top of it.

    Returns:
        RGB picture.
    """
    width = height / float(np.clip(_shape(panel), *_SHAPE_LIMITS))
    foot = _FOOT + _LINE * len(_alarms(result, width))
    page = Figure(figsize=(width, height + _HEAD + foot), dpi=_DPI, facecolor=_PAPER)
    _draw(_axes(page, 0.0, _HEAD, width, height), panel, _colour_scale(result))
    plain = is_plain_image(result)
    place = "2-D image" if plain else f"{result.planes[0]} slice {panel.index} · {panel.position}"
    title = " · ".join(filter(None, [result.meta.get("modality"), place, f"score {panel.score:.3f}"]))
    chosen = result.finding_labels is not None
    cut = "chosen by a reader, outlined" if chosen else f"threshold {result.threshold:.3g}, outlined"
    found = len(result.findings)
    facts = f"whole case: score {result.pred_score:.3f}, {found} finding{'' if found == 1 else 's'} · {cut}"
    _head_and_foot(page, title, _shorten(facts, int(_TEXT_DENSITY * width)), _alarms(result, width))
    return _render(page)


def write_map_picture(result: AnomalyResult, path: Path) -> None:
    """Write the map of a plain picture as 16-bit grey PNG of the picture's own pixels: 65535 is 1.

    Args:
        result: Of a single plain picture.
        path: Of the file, whose folder is made.

    Raises:
        OutputError: when the file cannot be written.
    """
    levels = np.rint(np.clip(displayed_slice(result, result.map_array), 0, 1) * 65535)
    save_picture(Image.fromarray(levels.astype(np.uint16)), path)


def write_mask_picture(mask: NDArray[np.uint8], result: AnomalyResult, path: Path) -> None:
    """Write a mask of a plain picture as PNG of the picture's own pixels: 255 inside, 0 outside.

    Args:
        mask: ``(I, J, 1)``, above 0 inside.
        result: Of a single plain picture, on whose grid the mask lies.
        path: Of the file, whose folder is made.

    Raises:
        OutputError: when the file cannot be written.
    """
    save_picture(Image.fromarray((displayed_slice(result, mask) > 0).astype(np.uint8) * 255), path)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG, whole or not at all.

    Args:
        picture: Any picture that PNG can hold.
        path: Of the file, whose folder is made. It is PNG whatever its ending.

    Raises:
        OutputError: when the file cannot be written.
    """
    with atomic_path(path) as draft:
        picture.save(draft, format="PNG")


def _shape(panel: Panel) -> float:
    rows, columns = panel.anomaly.shape
    return rows * panel.pixel_mm[0] / (columns * panel.pixel_mm[1])


def _colour_scale(result: AnomalyResult) -> ScalarMappable:
    """Colours from half the threshold to the map's peak, or to twice the threshold when nothing reaches that.

    The upper end keeps a map without a finding from glowing like one with a finding.
    """
    low = result.threshold / 2
    peak = float(result.map_array.max())
    high = min(1.0, max(peak, 2 * result.threshold))
    return ScalarMappable(Normalize(low, max(high, low + 1e-3), clip=True), _COLOURS)


def _axes(page: Figure, left: float, top: float, width: float, height: float) -> Any:
    """Axes at a place given in inches from the page's top left corner."""
    page_width, page_height = page.get_size_inches()
    bottom = page_height - top - height
    return page.add_axes((left / page_width, bottom / page_height, width / page_width, height / page_height))


def _draw(axes: Any, panel: Panel, colours: ScalarMappable | None) -> None:
    aspect = panel.pixel_mm[0] / panel.pixel_mm[1]
    axes.set_axis_off()
    axes.imshow(panel.image, aspect=aspect, interpolation=_SMOOTH)
    if colours is not None:
        axes.imshow(_tint(panel.anomaly, colours), aspect=aspect, interpolation=_SMOOTH)
        _outline(axes, panel.mask)
    rows, columns = panel.anomaly.shape
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    _edges(axes, panel.letters)


def _tint(anomaly: NDArray[np.float32], colours: ScalarMappable) -> NDArray[np.float32]:
    """``(H, W)`` map → ``(H, W, 4)`` colour whose opacity rises with the value, 0 at half the threshold."""
    rgba = colours.to_rgba(anomaly)
    rgba[..., 3] = _MOST_OPAQUE * np.sqrt(np.asarray(colours.norm(anomaly)))
    return np.asarray(rgba, dtype=np.float32)


def _outline(axes: Any, mask: NDArray[np.bool_]) -> None:
    if mask.any():
        rows, columns = mask.shape
        framed = np.pad(mask.astype(float), 1)  # closes the line where the mask touches the edge
        axes.contour(
            np.arange(-1, columns + 1),
            np.arange(-1, rows + 1),
            framed,
            levels=[0.5],
            colors=[_CONTOUR],
            linewidths=1.0,
        )


def _edges(axes: Any, letters: tuple[str, str, str, str]) -> None:
    places = [
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.985, "center", "top"),
        (0.5, 0.015, "center", "bottom"),
    ]
    for letter, (x, y, horizontal, vertical) in zip(letters, places, strict=True):
        axes.text(
            x, y, letter, transform=axes.transAxes, ha=horizontal, va=vertical,
            fontsize=8, color=_INK, path_effects=[withStroke(linewidth=1.5, foreground="black")],
        )  # fmt: skip


def _caption(result: AnomalyResult, panel: Panel, overlaid: bool, single: bool) -> str:
    if single:
        return f"anomaly map · score {panel.score:.3f}" if overlaid else "source"
    top = panel.score == max(entry.score for entry in result.slices)
    one = "frame" if is_plain_image(result) else "slice"
    words = [f"{one} {panel.index}", panel.position, f"score {panel.score:.3f}"]
    return " · ".join(word for word in words if word) + (" ▲" if top else "")


def _label(axes: Any, text: str) -> None:
    axes.text(0.5, 1.015, text, transform=axes.transAxes, ha="center", va="bottom", fontsize=8, color=_INK)


def _colour_bar(page: Figure, result: AnomalyResult, colours: ScalarMappable, left: float, height: float) -> None:
    axes = _axes(page, left, _HEAD + _LABEL, 0.14, height)
    bar = page.colorbar(colours, cax=axes)
    low, high = float(colours.norm.vmin or 0.0), float(colours.norm.vmax or 1.0)
    apart = 0.06 * (high - low)
    ends = [value for value in (low, high) if abs(value - result.threshold) > apart]
    bar.set_ticks([*ends, result.threshold] if low <= result.threshold <= high else [low, high])
    bar.ax.tick_params(colors=_INK, labelsize=7, length=2)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    bar.ax.axhline(result.threshold, color=_CONTOUR, linewidth=1.5)
    bar.outline.set_edgecolor(_FAINT)
    bar.set_label("anomaly map", color=_FAINT, fontsize=7)


def _words(page: Figure, result: AnomalyResult) -> None:
    width = page.get_size_inches()[0]
    meta = result.meta
    plane = "2-D image" if is_plain_image(result) else result.planes[0]
    name = _shorten(str(meta.get("source_name") or "volume"), int(_TITLE_DENSITY * width) - 16)
    title = " · ".join(filter(None, [name, meta.get("modality"), plane]))
    cut = f"threshold {result.threshold:.3g} ({result.threshold_origin}), outlined"
    facts = _shorten(f"score {result.pred_score:.3f} · {cut}", int(_TEXT_DENSITY * width))
    _head_and_foot(page, title, facts, _alarms(result, width))


def _alarms(result: AnomalyResult, width: float) -> list[str]:
    """Lines for a page of ``width`` inches: what says that the picture must not be trusted."""
    told = [words for words in result.warnings if words.startswith(OUT_OF_SCOPE)]
    return [line for words in told for line in textwrap.wrap(words, int(_TEXT_DENSITY * width))]


def _head_and_foot(page: Figure, title: str, facts: str, alarms: list[str]) -> None:
    width, height = page.get_size_inches()
    x = _GAP / width
    # File names are no formulas: a dollar sign in one stays a dollar sign.
    page.text(x, 1 - 0.12 / height, title, fontsize=10, color=_INK, va="top", weight="bold", parse_math=False)
    page.text(x, 1 - 0.36 / height, facts, fontsize=8, color=_FAINT, va="top", parse_math=False)
    page.text(x, 0.12 / height, RESEARCH_ONLY, fontsize=8, color="#ffb454", va="bottom", parse_math=False)
    for place, line in enumerate(reversed(alarms), start=2):
        bottom = place * _LINE / height
        page.text(x, bottom, line, fontsize=8, color="#ff6b6b", va="bottom", weight="bold", parse_math=False)


def _shorten(text: str, longest: int) -> str:
    """The text itself, or its beginning and end."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def _render(page: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(page)
    with WARNINGS, warnings.catch_warnings():
        # A file name in a script that the font lacks is drawn as boxes; nobody needs to be told on stderr.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


__all__ = ["montage", "overlay_slices", "save_picture", "slice_picture"]
