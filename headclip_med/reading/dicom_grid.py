"""Where the slices of a DICOM series lie: order, step and affine, measured from their positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headclip_med.errors import InputError
from headclip_med.geometry import RAS_TO_LPS, SHEAR_TOLERANCE
from headclip_med.reading.dicom_series import ImageHeader
from headclip_med.types import Affine, Vector

# A step may differ from the typical one by 1 %, or by the rounding of positions stored with two decimals.
_STEP_TOLERANCE = 0.01
_STEP_TOLERANCE_MM = 0.01

# Slices may shift sideways by this fraction of a pixel (rounded positions), never more.
_SIDEWAYS_PIXELS = 0.1

CONVERT = "Convert the series to NIfTI first (dcm2niix does it), or export it again"


def single_grid(header: ImageHeader, notes: list[str]) -> tuple[tuple[ImageHeader, ...], Affine]:
    """Affine of one slice in patient space, or of a plane picture without a place in it."""
    if header.orientation is not None and header.position is not None and header.pixel_spacing is not None:
        thickness = header.thickness or 0.0
        if thickness <= 0:
            thickness = 1.0
            notes.append("a single slice without thickness: 1 mm is assumed")
        normal = np.cross(header.orientation[:3], header.orientation[3:])
        return (header,), _ras_affine(header, normal * thickness)
    rows, columns = _plane_spacing(header, notes)
    affine = np.diag([-columns, -rows, 1.0, 1.0])
    return (replace(header, orientation=None, position=None),), affine


def _plane_spacing(header: ImageHeader, notes: list[str]) -> tuple[float, float]:
    """Distance of rows and of columns of a picture without patient geometry."""
    notes.append("a 2-D image: its position in the patient is unknown")
    spacing = header.pixel_spacing
    if spacing is None and header.imager_spacing is not None and min(header.imager_spacing) > 0:
        spacing = header.imager_spacing
        notes.append("pixel spacing is that of the detector: lengths in the patient are smaller")
    if spacing is None:
        notes.append("pixel spacing unknown: one pixel counts as one millimetre")
        return 1.0, 1.0
    return spacing[0], spacing[1]


def series_grid(headers: Sequence[ImageHeader], name: str) -> tuple[tuple[ImageHeader, ...], Affine]:
    """Slices sorted by position along the normal, and the affine with the measured step."""
    for header in headers:
        missing = [
            words
            for words, value in (
                ("orientation", header.orientation),
                ("position", header.position),
                ("pixel spacing", header.pixel_spacing),
            )
            if value is None
        ]
        if missing:
            raise InputError(
                f"Every image of {name} must say where it lies",
                f"{header.path.name} without valid {' and '.join(missing)}",
                CONVERT,
            )
    orientation = np.array(headers[0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    ordered = tuple(sorted(headers, key=lambda header: float(np.array(header.position) @ normal)))
    positions = np.array([header.position for header in ordered])
    _check_steps(ordered, positions @ normal, name)
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    _check_tilt(step, normal, name)
    _check_sideways(ordered, positions, step, normal, name)
    return ordered, _ras_affine(ordered[0], step)


def _check_steps(ordered: Sequence[ImageHeader], along: Vector, name: str) -> None:
    """Refuse two slices in one place, and steps that differ (a missing slice, uneven spacing)."""
    steps = np.diff(along)
    twins = int((steps < _STEP_TOLERANCE_MM).sum())
    typical = float(np.sort(steps)[(steps.size - 1) // 2])  # with two steps the smaller one
    if twins:
        where = int(np.argmin(steps))
        raise InputError(
            f"Every slice of {name} must have its own position",
            f"{twins} duplicate position(s), first {ordered[where].path.name} and "
            f"{ordered[where + 1].path.name} at {along[where]:.2f} mm along the normal",
            "Separate echoes, phases or repeated exports into folders of their own",
        )
    odd = np.flatnonzero(np.abs(steps - typical) > max(_STEP_TOLERANCE * typical, _STEP_TOLERANCE_MM))
    if odd.size:
        where = int(odd[np.argmax(np.abs(steps[odd] - typical))])
        raise InputError(
            f"The slices of {name} must be evenly spaced",
            f"{odd.size} uneven step(s): the largest {steps[where]:.3f} mm instead of {typical:.3f} mm "
            f"from {ordered[where].path.name} to {ordered[where + 1].path.name} "
            f"({along[where]:.2f} to {along[where + 1]:.2f} mm along the normal): a gap or missing slices",
            f"Add the missing slices. {CONVERT}",
        )


def _check_tilt(step: Vector, normal: Vector, name: str) -> None:
    cosine = float(step @ normal / np.linalg.norm(step))
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if np.sin(np.radians(angle)) > SHEAR_TOLERANCE:
        raise InputError(
            f"The slices of {name} must be stacked along their normal",
            f"a tilt of {angle:.1f} degrees (gantry tilt)",
            CONVERT,
        )


def _check_sideways(
    ordered: Sequence[ImageHeader], positions: NDArray[np.float64], step: Vector, normal: Vector, name: str
) -> None:
    """Refuse slices that leave the straight line from the first to the last."""
    line = positions[0] + np.arange(len(ordered))[:, None] * step
    off = positions - line
    sideways = np.linalg.norm(off - (off @ normal)[:, None] * normal, axis=1)
    worst = int(np.argmax(sideways))
    if sideways[worst] > max(_SIDEWAYS_PIXELS * min(ordered[0].pixel_spacing or (1.0,)), _STEP_TOLERANCE_MM):
        raise InputError(
            f"The slices of {name} must lie on one straight line",
            f"{ordered[worst].path.name} shifted sideways by {sideways[worst]:.2f} mm",
            CONVERT,
        )


def _ras_affine(first: ImageHeader, step: Vector) -> Affine:
    """Index (column, row, slice) → RAS mm from the first slice and the LPS vector from slice to slice."""
    orientation, (rows, columns) = np.array(first.orientation), first.pixel_spacing or (1.0, 1.0)
    lps = np.eye(4)
    lps[:3, 0] = orientation[:3] * columns  # PixelSpacing is (between rows, between columns)
    lps[:3, 1] = orientation[3:] * rows
    lps[:3, 2] = step
    lps[:3, 3] = np.array(first.position)
    return np.asarray(RAS_TO_LPS @ lps)
