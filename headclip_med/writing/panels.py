"""What a slice looks like on screen, as arrays and words. :mod:`headclip_med.writing.overlay` draws it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.geometry import SliceFrame, directions, ras_axis, slice_frame, spacing
from headclip_med.base.types import Plane, Vector
from headclip_med.engine.result import AnomalyResult, Finding, SliceScore
from headclip_med.slicing.slices import cut_array

if TYPE_CHECKING:
    from headclip_med.writing.record import FindingRecord

_PATIENT_LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))  # towards +, towards - of each RAS axis

# A direction gets a second letter when it leans by more than about 17 degrees.
_LEANS = 0.3

_DARK = 0.03  # of the display range: noise in air stays below it
_MARGIN = 0.08  # of the content; room for the letters


@dataclass(frozen=True)
class Panel:
    """One slice in radiological display orientation.

    Attributes:
        index: along the array axis of the primary plane.
        score: of this slice.
        position: ``S 12.3 mm``, empty for a plain image.
        image: ``(H, W, 3)`` in [0, 1], windowed as the network saw it.
        anomaly: ``(H, W)`` map values in [0, 1].
        mask: ``(H, W)`` bool, the map reaches the threshold.
        pixel_mm: row step and column step.
        letters: patient directions of the left, right, top and bottom edge, empty for a plain image.
    """

    index: int
    score: float
    position: str
    image: NDArray[np.float32]
    anomaly: NDArray[np.float32]
    mask: NDArray[np.bool_]
    pixel_mm: tuple[float, float]
    letters: tuple[str, str, str, str]


def overlay_slices(result: AnomalyResult, n: int = 8) -> list[Panel]:
    """Choose the most suspicious slices, and cut them.

    Chosen are the slice with the highest score, then the next highest that keeps a distance from those
    already chosen. The distance starts at half of an even spread and is halved until ``n`` slices are
    found, so one lesion gets a few panels, not all of them. Background slices are shown only when there is
    nothing else.

    Args:
        result: What one prediction found.
        n: Slices at most, 1 or more.

    Returns:
        Slices in patient order: inferior, posterior or left first. Frames of a plain image in their own order.
    """
    axis = ras_axis(result.planes[0])
    chosen = sorted(_spread(result.slices, n), key=lambda s: (s.position_mm[axis] if s.position_mm else 0.0, s.index))
    frame = slice_frame(result.affine, result.planes[0])
    return [_panel(result, frame, entry) for entry in chosen]


def cropped(panels: list[Panel]) -> list[Panel]:
    """Crop the dark margin that all panels share. The masks stay inside.

    Args:
        panels: One or more, all of the same size.

    Returns:
        New panels of the same order and one size, or those given where all is dark and nothing is in a mask.
    """
    seen = np.any([(panel.image.max(axis=2) > _DARK) | panel.mask for panel in panels], axis=0)
    if not seen.any():
        return panels
    rows, columns = (_range(seen.any(axis=1)), _range(seen.any(axis=0)))
    return [
        replace(p, image=p.image[rows, columns], anomaly=p.anomaly[rows, columns], mask=p.mask[rows, columns])
        for p in panels
    ]


def is_plain_image(result: AnomalyResult) -> bool:
    """Tell whether the source is a 2-D image without patient space.

    Args:
        result: Of the source.

    Returns:
        True of a plain image and of the frames of a cine, false where the metadata does not say.
    """
    return bool(result.meta.get("is_2d", False))


def is_one_picture(result: AnomalyResult) -> bool:
    """Tell whether the source is a single plain image, not the frames of a cine.

    Args:
        result: Of the source.

    Returns:
        True of a plain image with one slice.
    """
    return is_plain_image(result) and len(result.slices) == 1


def displayed_slice(result: AnomalyResult, array: NDArray[Any], index: int = 0) -> NDArray[Any]:
    """Cut one slice of the primary plane in display orientation.

    Args:
        result: On whose grid the array lies.
        array: ``(I, J, K)`` of any type.
        index: Along the array axis of the primary plane.

    Returns:
        ``(H, W)`` of the same type.
    """
    return cut_array(array[None], slice_frame(result.affine, result.planes[0]), [index])[0][0]


def position_text(position_mm: tuple[float, float, float] | None, plane: Plane) -> str:
    """Tell where a slice lies: ``S 12.3 mm`` for 12.3 mm towards superior of the origin.

    Args:
        position_mm: RAS mm of its centre, None of a plain image.
        plane: Of the slice. Only the coordinate along its normal is told.

    Returns:
        Letter, number and unit, empty for None.
    """
    if position_mm is None:
        return ""
    axis = ras_axis(plane)
    return coordinate_text(position_mm[axis], axis) + " mm"


def coordinate_text(value_mm: float, ras_axis: int) -> str:
    """Write one RAS coordinate with the letter instead of the sign: ``-4.0`` on axis 0 is ``L 4.0``.

    Args:
        value_mm: The coordinate in mm.
        ras_axis: 0 for R, 1 for A, 2 for S.

    Returns:
        Letter and number, to a tenth of a mm.
    """
    towards_plus, towards_minus = _PATIENT_LETTERS[ras_axis]
    return f"{towards_plus if value_mm >= 0 else towards_minus} {abs(value_mm):.1f}"


def size_text(finding: Finding | FindingRecord) -> str:
    """Tell how large a finding is.

    Args:
        finding: Without a volume in a plain picture.

    Returns:
        ``1,234.5 mm³``, or ``412 px`` in a plain picture.
    """
    return f"{finding.voxels:,} px" if finding.volume_mm3 is None else f"{finding.volume_mm3:,.1f} mm³"


def place_text(place_mm: tuple[float, float, float] | None, pixel: tuple[float, float]) -> str:
    """Tell where a point lies.

    Args:
        place_mm: RAS mm, None of a plain picture.
        pixel: Column and row on screen, used where there are no millimetres.

    Returns:
        ``R 1.0 · A 2.0 · S 3.0``, or ``column 4, row 5``.
    """
    if place_mm is None:
        return f"column {pixel[0]:.0f}, row {pixel[1]:.0f}"
    return " · ".join(coordinate_text(value, axis) for axis, value in enumerate(place_mm))


def direction_letters(direction: Vector) -> str:
    """Name a RAS direction by patient letters, nearest axis first.

    Args:
        direction: RAS unit vector ``(3,)``.

    Returns:
        ``A``, or ``AR`` when it leans to the right by more than about 17 degrees. Up to three letters.
    """
    letters = ""
    for axis in np.argsort(-np.abs(direction), kind="stable"):
        if not letters or abs(direction[axis]) > _LEANS:
            letters += _PATIENT_LETTERS[axis][0 if direction[axis] > 0 else 1]
    return letters


def _spread(slices: tuple[SliceScore, ...], n: int) -> list[SliceScore]:
    candidates = [s for s in slices if not s.background] or list(slices)
    middle = float(np.mean([s.index for s in candidates]))  # of equal scores the more central slice
    ranked = sorted(candidates, key=lambda s: (-s.score, abs(s.index - middle), s.index))
    wanted = min(n, len(ranked))
    gap = max(1, len(ranked) // (2 * n))
    while True:
        chosen: list[SliceScore] = []
        for entry in ranked:
            if len(chosen) < wanted and all(abs(entry.index - other.index) >= gap for other in chosen):
                chosen.append(entry)
        if len(chosen) == wanted or gap == 1:
            return chosen
        gap //= 2


def _range(seen: NDArray[np.bool_]) -> slice:
    """First to last True, with a margin."""
    first, *_, last = np.flatnonzero(seen)[[0, -1]]
    margin = int(np.ceil(_MARGIN * (last - first + 1)))
    return slice(max(0, int(first) - margin), int(last) + margin + 1)


def _panel(result: AnomalyResult, frame: SliceFrame, entry: SliceScore) -> Panel:
    steps = spacing(result.affine)
    anomaly = _cut(result.map_array[None], frame, entry.index)[0]
    plain = is_plain_image(result)
    return Panel(
        index=entry.index,
        score=entry.score,
        position=position_text(entry.position_mm, frame.plane),
        image=_on_screen(result, _cut(result.source_array, frame, entry.index)),
        anomaly=anomaly,
        mask=anomaly >= result.threshold,
        pixel_mm=(float(steps[frame.row_axis]), float(steps[frame.col_axis])),
        letters=("", "", "", "") if plain else _edge_letters(result, frame),
    )


def _cut(volume: NDArray[np.float32], frame: SliceFrame, index: int) -> NDArray[np.float32]:
    """One slice of ``(C, I, J, K)`` as ``(C, H, W)`` float32 in display orientation."""
    return cut_array(volume, frame, [index])[0].astype(np.float32)


def _on_screen(result: AnomalyResult, channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(C, H, W)`` in the source's units → ``(H, W, 3)`` in [0, 1], of several sequences the first."""
    meta = result.meta
    if meta.get("is_rgb", False):
        return np.clip(channels[:3].transpose(1, 2, 0) / 255, 0, 1)
    low, high = result.display_window
    grey = np.clip((np.nan_to_num(channels[0]) - low) / max(high - low, 1e-12), 0, 1)
    if meta.get("display_inverted", False):
        grey = 1 - grey
    return np.repeat(grey[..., None], 3, axis=2)


def _edge_letters(result: AnomalyResult, frame: SliceFrame) -> tuple[str, str, str, str]:
    cosines = directions(result.affine)
    right = cosines[:, frame.col_axis] * (-1 if frame.flip_cols else 1)
    down = cosines[:, frame.row_axis] * (-1 if frame.flip_rows else 1)
    return (
        direction_letters(-right),
        direction_letters(right),
        direction_letters(-down),
        direction_letters(down),
    )
