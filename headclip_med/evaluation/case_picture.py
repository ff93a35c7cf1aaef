"""One slice of a case with its truth and its map, for the report."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from headclip_med.base.geometry import SliceFrame, slice_frame, spacing
from headclip_med.engine.result import AnomalyResult
from headclip_med.slicing.slices import cut_slices

Mask = NDArray[np.bool_]

_TRUTH, _FOUND, _IGNORED = "#00E5FF", "#FFB000", "#FF4FD8"
_WIDTH, _DPI = 9.0, 90
_PALETTE = 256  # colours; fewer leave bands in the map


def key_slice_picture(result: AnomalyResult, gt_mask: Mask | None, ignored: Mask | None = None) -> Image.Image:
    """Draw the slice of the first plane where prediction and truth differ in the most voxels.

    Without truth, or where nothing differs, it is the slice with the highest score.

    Args:
        result: The prediction, whose map is cut at its own threshold.
        gt_mask: ``(I, J, K)``, None where nothing says where the lesions are.
        ignored: ``(I, J, K)``, where nothing is known, None for nowhere.

    Returns:
        The picture that :func:`case_picture` draws.
    """
    frame = slice_frame(result.affine, result.planes[0])
    index = _key_slice(result, gt_mask, ignored, frame)
    image = _on_screen(result, frame, index)
    anomaly = _cut(result.map_array[None], frame, index)[0]
    truth, unknown = (
        None if mask is None else _cut(mask[None].astype(np.float32), frame, index)[0] > 0.5
        for mask in (gt_mask, ignored)
    )
    steps = spacing(result.affine)
    aspect = float(steps[frame.row_axis] / steps[frame.col_axis])
    count = result.map_array.shape[frame.axis]
    where = f"slice {index + 1} of {count}" if count > 1 else "image"
    return case_picture(image, anomaly, truth, result.threshold, where, aspect=aspect, ignored=unknown)


def case_picture(
    image: NDArray[np.floating] | NDArray[np.uint8],
    anomaly_map: NDArray[np.floating],
    gt_mask: Mask | None,
    threshold: float,
    title: str,
    *,
    aspect: float = 1.0,
    ignored: Mask | None = None,
) -> Image.Image:
    """Draw three panels: the image, the image with the outlines, and the map.

    Args:
        image: ``(H, W)`` or ``(H, W, 3)``, floats in [0, 1] or uint8.
        anomaly_map: ``(H, W)`` in [0, 1].
        gt_mask: ``(H, W)``, None where nothing says where the lesions are.
        threshold: Cut on the map, in [0, 1], from which on a pixel is outlined as found.
        title: Stands above the image.
        aspect: Height of a pixel over its width.
        ignored: ``(H, W)``, where nothing is known, None for nowhere.

    Returns:
        810 pixels wide, with a palette of at most 256 colours so that its file is small.
    """
    image = image / 255 if image.dtype == np.uint8 else image
    height = _WIDTH / 3 * image.shape[0] / image.shape[1] * aspect
    with mpl.rc_context({"font.size": 8}):
        page = Figure(figsize=(_WIDTH, min(max(height, 1.5), 5.0) + 0.65), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(page)
        panels = page.subplots(1, 3)
        for axes in panels[:2]:
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, aspect=aspect)
        shown = panels[2].imshow(anomaly_map, cmap="inferno", vmin=0, vmax=1, aspect=aspect)
        panels[0].set_title(title, parse_math=False)
        panels[1].set_title("outlines")
        panels[2].set_title("anomaly map")
        handles = _outlines(panels[1], anomaly_map >= threshold, gt_mask, ignored)
        for axes in panels:
            axes.set_xticks([])
            axes.set_yticks([])
        bar = page.colorbar(shown, ax=panels[2], fraction=0.046)
        for colour, width in (("white", 3), ("black", 1)):  # stands out on every colour of the map
            bar.ax.axhline(threshold, color=colour, linewidth=width)
        bar.set_label(f"line: threshold {threshold:.3g}")
        page.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, handlelength=3.5)
        buffer = io.BytesIO()
        page.savefig(buffer, format="png")
    picture = Image.open(buffer).convert("RGB")
    return picture.quantize(_PALETTE)


def _outlines(axes: Any, found: Mask, truth: Mask | None, ignored: Mask | None) -> list[Line2D]:
    handles = []
    lines = [(truth, _TRUTH, "solid", "truth"), (found, _FOUND, "dashed", "model")]
    for mask, colour, style, label in [*lines, (ignored, _IGNORED, "dotted", "ignored")][: 3 - (ignored is None)]:
        state = ": not known" if mask is None else "" if mask.any() else ": none here"
        handles.append(Line2D([], [], color=colour, linestyle=style, label=label + state))
        if mask is not None and mask.any():
            rows, columns = mask.shape
            framed = np.pad(mask.astype(float), 1)  # closes the line where the mask touches the edge
            places = np.arange(-1, columns + 1), np.arange(-1, rows + 1)
            axes.contour(*places, framed, levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.2)
            axes.set_xlim(-0.5, columns - 0.5)
            axes.set_ylim(rows - 0.5, -0.5)
    return handles


def _key_slice(result: AnomalyResult, gt_mask: Mask | None, ignored: Mask | None, frame: SliceFrame) -> int:
    others = tuple(axis for axis in range(3) if axis != frame.axis)
    if gt_mask is not None:
        known = True if ignored is None else ~ignored
        wrong = (((result.map_array >= result.threshold) ^ gt_mask) & known).sum(axis=others)
        if wrong.any():
            return int(wrong.argmax())
    return max(result.slices, key=lambda entry: entry.score).index


def _cut(volume: NDArray[np.floating], frame: SliceFrame, index: int) -> NDArray[np.float32]:
    """``(C, I, J, K)`` → ``(C, H, W)`` in display orientation."""
    return np.asarray(cut_slices(torch.from_numpy(np.ascontiguousarray(volume)), frame, [index])[0].numpy())


def _on_screen(result: AnomalyResult, frame: SliceFrame, index: int) -> NDArray[np.float32]:
    """The slice as grey levels or colours in [0, 1]."""
    slices = _cut(np.asarray(result.volume.as_tensor().numpy()), frame, index)
    if bool(result.volume.meta.get("is_rgb", False)):
        return np.clip(slices.transpose(1, 2, 0) / 255, 0, 1)
    low, high = result.display_window
    levels = np.clip((slices[0] - low) / max(high - low, 1e-6), 0, 1)
    return np.asarray(1 - levels if result.volume.meta.get("display_inverted") else levels)
