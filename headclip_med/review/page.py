"""One self-contained HTML page about a reviewed case: no script, no request, readable on screen and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from headclip_med.engine.result import AnomalyResult, SliceScore
from headclip_med.review.components import Mask
from headclip_med.review.model import Opinion
from headclip_med.review.reviewed import ReviewedCase, ReviewedFinding
from headclip_med.slicing.slices import cut_array
from headclip_med.writing.html import flat, png_uri, render_html
from headclip_med.writing.overlay import slice_picture
from headclip_med.writing.panels import Panel, cropped, is_plain_image, overlay_slices, place_text, size_text

# More pictures than anybody looks at on one page; the others are in the mask and the table.
_MOST_PICTURES = 24

# What names the model; all the rest is in result.json, whose hash is on the page.
_OF_MODEL = (
    *("model", "method", "tower", "weights_sha256", "pack", "pack_sha256", "export_sha256", "domain", "precision"),
    "versions.headclip-med",
)


def finding_pictures(reviewed: ReviewedCase) -> Iterator[tuple[ReviewedFinding, Image.Image]]:
    """Draw every accepted or drawn finding on the slice in which it is largest, with its own outline.

    Args:
        reviewed: the case with its review.

    Returns:
        Each finding with its picture, in the order of the export's rows.
    """
    result = reviewed.result()
    for row, mask in reviewed.found():
        panel = _panel(reviewed, result, mask)
        if reviewed.source is not None and not is_plain_image(result):
            panel = cropped([panel])[0]
        yield row, slice_picture(result, panel)


def largest_slice(mask: Mask, axis: int) -> int:
    """Find the slice that holds most of a mask.

    Args:
        mask: ``(I, J, K)``, true inside.
        axis: array axis along which the slices are stacked.

    Returns:
        Its index along ``axis``, of equal ones the middle one.
    """
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


def render_page(reviewed: ReviewedCase) -> str:
    """Render the page as text. What readers typed and files are called is text in it, never markup.

    Args:
        reviewed: the case with its review.

    Returns:
        One HTML document with its pictures inside.
    """
    review, record = reviewed.review, reviewed.data.record
    pictures = []
    for row, picture in finding_pictures(reviewed):
        pictures.append({"uri": png_uri(picture), "words": _words(row)})
        if len(pictures) == _MOST_PICTURES:
            break
    rows = reviewed.rows()
    return render_html(
        "review/review.html.j2",
        review.result.source_name,
        review=review,
        pred_score=record.pred_score,
        opinions=[
            ("Opinion before the overlay", _opinion(review.first_opinion)),
            ("Opinion with the overlay", _opinion(review.opinion)),
        ],
        counts={
            name: sum(row.status == name for row in rows) for name in ("accepted", "rejected", "uncertain", "drawn")
        },
        rows=[_cells(reviewed, row) for row in rows],
        plain=reviewed.data.is_plain,
        pictures=pictures,
        pictures_left_out=sum(row.counts for row in rows) - len(pictures),
        without_source=reviewed.source is None,
        facts=_facts(reviewed),
        provenance=[(name, value) for name, value in flat(record.provenance) if name in _OF_MODEL],
    )


def _opinion(opinion: Opinion | None) -> str:
    return "not given" if opinion is None else f"{opinion.rating}, {opinion.confidence} % sure"


def _words(row: ReviewedFinding) -> str:
    name = row.label or ("drawn finding" if row.kind == "drawn" else "accepted finding")
    return f"{row.id} · {name} · {size_text(row.measures)}"


def _cells(reviewed: ReviewedCase, row: ReviewedFinding) -> list[str]:
    measures = row.measures
    place = place_text(measures.centroid_mm, reviewed.pixel(measures.centroid_voxel or (0, 0, 0)))
    slices = "–".join(str(index) for index in dict.fromkeys(measures.slices))
    sure = "" if row.confidence is None else f"{row.confidence} %"
    return [
        row.id,
        row.status or "open",
        row.label,
        sure,
        f"{measures.peak:.3f}",
        size_text(measures),
        place,
        slices,
        row.note,
    ]


def _facts(reviewed: ReviewedCase) -> list[tuple[str, Any]]:
    review = reviewed.review
    return [
        ("Reader", review.reader),
        ("Begun", review.started),
        ("Overlay first shown", review.overlay_shown or "never"),
        ("Last action", review.updated),
        ("To be read unaided first", "yes" if review.unaided_first else "no"),
        ("Threshold", f"{review.threshold:.4g} (of the result: {reviewed.data.record.threshold:.4g})"),
        ("SHA-256 of result.json", review.result.result_sha256),
        ("SHA-256 of the map", review.result.map_sha256),
        ("Content SHA-256 of the source", review.result.content_sha256 or "not known"),
        ("Software", review.software),
    ]
