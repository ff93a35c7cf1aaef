"""One self-contained HTML page per result: no script, no request, readable on screen and on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from headclip_med.base.files import write_text
from headclip_med.base.geometry import displayed_pixel, slice_frame
from headclip_med.engine.result import AnomalyResult, Finding, SliceScore
from headclip_med.models.scope import OUT_OF_SCOPE
from headclip_med.writing.html import flat, png_uri, render_html
from headclip_med.writing.overlay import montage
from headclip_med.writing.panels import is_plain_image, place_text, position_text
from headclip_med.writing.record import ResultRecord, to_record

# More rows than anybody reads; all of them are in result.json.
_MOST_FINDINGS = 50

# The curve's drawing area in SVG units; the template adds the margins.
_CURVE_WIDTH, _CURVE_HEIGHT = 640.0, 150.0


def render_report(result: AnomalyResult, picture: Image.Image | None = None) -> str:
    """Render the page.

    Nothing that identifies the study is in it: no instance UIDs, and of every path only the base name.

    Args:
        result: What one prediction found.
        picture: The montage where it has been drawn already.

    Returns:
        HTML that needs no other file.

    Raises:
        OutputError: the result does not fit its schema.
    """
    record = to_record(result)
    return render_html(
        "writing/report.html.j2",
        record.source.name,
        record=record,
        alarms=[words for words in record.warnings if words.startswith(OUT_OF_SCOPE)],
        warnings=[words for words in record.warnings if not words.startswith(OUT_OF_SCOPE)],
        source=_source_facts(record),
        curve=_curve(result),
        montage=png_uri(picture or montage(result)),
        findings=[_finding_row(result, finding) for finding in result.findings[:_MOST_FINDINGS]],
        findings_left_out=max(0, len(result.findings) - _MOST_FINDINGS),
        plain=is_plain_image(result),
        provenance=list(flat(record.provenance)),
    )


def write_report(result: AnomalyResult, path: Path, picture: Image.Image | None = None) -> None:
    """Write :func:`render_report` to a file, whole or not at all.

    Args:
        result: What one prediction found.
        path: Of the HTML file, whose folder is made.
        picture: The montage where it has been drawn already.

    Raises:
        OutputError: when the file cannot be written, or the result does not fit its schema.
    """
    write_text(path, render_report(result, picture))


def _source_facts(record: ResultRecord) -> list[tuple[str, str]]:
    source = record.source
    size = " × ".join(str(length) for length in source.shape[: 2 if source.is_2d else 3])
    facts = [("File", source.name), ("Format", source.format or "not known")]
    if source.modality:
        facts.append(("Modality", source.modality))
    facts.append(("Size", f"{size} pixels" if source.is_2d else f"{size} voxels"))
    if source.channels > 1:
        facts.append(("Channels", str(source.channels)))
    if source.spacing_mm is not None:
        facts.append(("Spacing", " × ".join(f"{step:.3g}" for step in source.spacing_mm) + " mm"))
        facts.append(("Planes", ", ".join(record.planes)))
    facts.append(("Display window", " to ".join(f"{end:.4g}" for end in record.display_window)))
    if source.content_sha256:
        facts.append(("Content SHA-256", source.content_sha256))
    return facts


def _curve(result: AnomalyResult) -> dict[str, Any] | None:
    """Score per slice as SVG coordinates, None for a single slice."""
    slices = sorted(result.slices, key=lambda s: s.index)
    if len(slices) < 2:
        return None
    first, last = slices[0].index, slices[-1].index
    dots = [
        {
            "x": f"{_CURVE_WIDTH * (s.index - first) / (last - first):.2f}",
            "y": f"{_CURVE_HEIGHT * (1 - s.score):.2f}",
            "words": f"{_slice_words(result, s)}, " + ("background" if s.background else f"score {s.score:.3f}"),
            "background": s.background,
        }
        for s in slices
    ]
    ends = [_slice_words(result, s) for s in (slices[0], slices[-1])]
    _, peak = max(zip(slices, dots, strict=True), key=lambda pair: pair[0].score)
    return {"dots": dots, "first": ends[0], "last": ends[1], "peak": peak}


def _slice_words(result: AnomalyResult, entry: SliceScore) -> str:
    if entry.position_mm is None:
        return f"frame {entry.index}"
    return f"slice {entry.index}, {position_text(entry.position_mm, result.planes[0])}"


def _finding_row(result: AnomalyResult, finding: Finding) -> list[str]:
    """Cells of the findings table, in the order of the template's headings."""
    values = [str(finding.label), f"{finding.peak:.3f}", f"{finding.mean:.3f}"]
    slices = "–".join(str(index) for index in dict.fromkeys(finding.slices))
    if finding.extent_mm is None:
        frame = slice_frame(result.affine, result.planes[0])
        pixel = displayed_pixel(frame, result.map_array.shape, finding.centroid_voxel)
        width, height = (finding.voxel_max[a] - finding.voxel_min[a] + 1 for a in (frame.col_axis, frame.row_axis))
        frames = [slices] if len(result.slices) > 1 else []
        return [*values, f"{finding.voxels:,}", place_text(None, pixel), f"{width} × {height}", *frames]
    extent = " × ".join(f"{side:.1f}" for side in finding.extent_mm)
    places = [place_text(place, (0, 0)) for place in (finding.centroid_mm, finding.peak_mm)]
    return [*values, f"{finding.volume_mm3:,.1f}", *places, extent, slices]
