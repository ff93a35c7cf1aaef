"""Pictures of what was accepted or drawn, drawn as a prediction's own are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image

from headclip_med.engine.result import AnomalyResult, SliceScore
from headclip_med.review.components import Mask
from headclip_med.review.reviewed import ReviewedCase, ReviewedFinding
from headclip_med.slicing.slices import cut_array
from headclip_med.writing.overlay import slice_picture
from headclip_med.writing.panels import Panel, cropped, is_plain_image, overlay_slices


def finding_pictures(reviewed: ReviewedCase) -> Iterator[tuple[ReviewedFinding, Image.Image]]:
    """Every accepted or drawn finding with the slice in which it is largest; the line is its own outline."""
    result = reviewed.result()
    for row, mask in reviewed.found():
        panel = _panel(reviewed, result, mask)
        if reviewed.source is not None and not is_plain_image(result):
            panel = cropped([panel])[0]
        yield row, slice_picture(result, panel)


def largest_slice(mask: Mask, axis: int) -> int:
    """Index of the slice along ``axis`` that holds most of a mask; of equal ones the middle one."""
    counts = mask.sum(axis=tuple(a for a in range(3) if a != axis))
    best = np.flatnonzero(counts == counts.max())
    return int(best[len(best) // 2])


def _panel(reviewed: ReviewedCase, result: AnomalyResult, mask: Mask) -> Panel:
    data = reviewed.data
    index = largest_slice(mask, data.axis)
    entry = next((s for s in result.slices if s.index == index), SliceScore(index, (0.0, 0.0, 0.0), 0.0))
    shown = overlay_slices(replace(result, slices=(entry,)), 1)[0]
    own = cut_array(mask[None].astype(np.float32), data.frame, [index])[0][0] > 0
    return replace(shown, mask=own)
