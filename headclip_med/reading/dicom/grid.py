"""Where the slices of a DICOM series lie: order, step and affine, measured from their positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import RAS_TO_LPS, SHEAR_TOLERANCE
from headclip_med.base.types import Affine, Vector
from headclip_med.reading.dicom.header import ImageHeader
from headclip_med.reading.dicom.split import SAME_PLACE_MM, along_normal, stretches

Policy = Literal["error", "split", "resample", "keep"]
POLICIES: tuple[Policy, ...] = ("error", "split", "resample", "keep")

# A slice may lie beside its place by 1 % of a step, by 0.1 pixel sideways, by this much in any case, or by what the
# digits that its position is stored with leave open: at worst half a tenth of a millimetre in every coordinate.
_STEP_TOLERANCE = 0.01
_SIDEWAYS_PIXELS = 0.1
_TOLERANCE_MM = 0.01
_DIGITS_MM, _WHOLE = (0.01, 0.1), 1e-4
_ROOM = 3**0.5  # three coordinates that are off together

# Empty slices per slice that was read: a stray slice far away must not become a volume of nothing.
_MOST_EMPTY, _ALWAYS_EMPTY = 4, 16

# Beyond this a stack is no tilted scan but slices that slide over each other.
_MOST_TILT_DEGREES = 60.0

_SET_SPACING = "Set PixelSpacing (0028,0030) with a DICOM editor, or export the images again"

CONVERT = "Convert the series to NIfTI first (dcm2niix does it), or export it again"

_MEANING = {
    "resample": "resample (onto a regular grid)",
    "split": "split (the largest regular stretch, or another by --series)",
}
_KEEPING = {
    "gap": "keep (empty slices where positions are missing)",
    "uneven": "keep (slice by slice, millimetres along the normal approximate)",
    "tilt": "keep (a sheared volume)",
}


@dataclass(frozen=True)
class Irregularity:
    """Something that keeps a stack from being a regular grid, in words, and the policies that can deal with it."""

    kind: Literal["gap", "uneven", "tilt", "shift"]
    must: str
    given: str
    policies: tuple[Policy, ...]


@dataclass(frozen=True)
class Stack:
    """Slices in order of position along their normal, and what is odd about it.

    Attributes:
        headers: N headers in this order.
        positions: ``(N, 3)`` LPS mm.
        normal: LPS unit vector.
        along: ``(N,)`` position of each slice along it, mm.
        typical: the usual step along the normal, mm.
        step: LPS vector from slot to slot, mm.
        slots: place of every slice in steps from the first, None where steps are no multiples of one.
        problems: irregularities, the worst first.
    """

    headers: tuple[ImageHeader, ...]
    positions: NDArray[np.float64]
    normal: Vector
    along: Vector
    typical: float
    step: Vector
    slots: NDArray[np.intp] | None
    problems: tuple[Irregularity, ...]

    @property
    def kinds(self) -> set[str]:
        """Of the irregularities."""
        return {problem.kind for problem in self.problems}

    @property
    def affine(self) -> Affine:
        """Slot index → RAS mm."""
        return ras_affine(self.headers[0], self.step)

    def refusal(self, name: str, policy: Policy = "error") -> InputError:
        """Make the error for the worst irregularity that a policy cannot deal with, with the policies that can.

        Args:
            name: What to call the series in the message.
            policy: What was asked for.

        Returns:
            The error to raise.
        """
        worst = next((p for p in self.problems if policy not in p.policies), self.problems[0])
        others = [p for p in POLICIES if p != policy]
        able = [p for p in others if all(p in problem.policies for problem in self.problems)]
        if not able:  # what is left after a split may be dealt with
            able = [p for p in others if p in worst.policies]
        meant = [self._meaning(p, worst.kind) for p in able]
        do = f"Choose on_irregular= (command line: --on-irregular): {', '.join(meant)}" if meant else CONVERT
        return InputError(f"{worst.must.format(name=name)}", worst.given, do)

    @staticmethod
    def _meaning(policy: Policy, kind: str) -> str:
        return _KEEPING.get(kind, "keep") if policy == "keep" else _MEANING[policy]


def single_grid(header: ImageHeader, notes: list[str]) -> tuple[ImageHeader, Affine]:
    """Place one slice in patient space, or a plane picture without a place in it.

    Args:
        header: Of the slice.
        notes: What had to be assumed is added to them.

    Returns:
        The header, and voxel index → RAS mm, ``(4, 4)``.

    Raises:
        InputError: pixels of unknown spacing.
    """
    if header.orientation is not None and header.position is not None and header.pixel_spacing is not None:
        thickness = header.thickness or 0.0
        if thickness <= 0:
            thickness = 1.0
            notes.append("a single slice without thickness: 1 mm is assumed")
        normal = np.cross(header.orientation[:3], header.orientation[3:])
        return header, ras_affine(header, normal * thickness)
    if header.pixel_spacing is None and header.imager_spacing is None and not _missing(header, but="pixel spacing"):
        given = "a place in the patient without valid pixel spacing"
        raise InputError(f"{header.path.name} must say how far its pixels lie apart", given, _SET_SPACING)
    rows, columns = _plane_spacing(header, notes)
    return replace(header, orientation=None, position=None), np.diag([-columns, -rows, 1.0, 1.0])


def _plane_spacing(header: ImageHeader, notes: list[str]) -> tuple[float, float]:
    """Distance of rows and of columns of a picture without patient geometry."""
    notes.append("a 2-D image: its position in the patient is unknown")
    spacing = header.pixel_spacing
    if spacing is None and header.imager_spacing is not None:
        spacing = header.imager_spacing
        notes.append("pixel spacing is that of the detector: lengths in the patient are smaller")
    if spacing is None:
        notes.append("pixel spacing unknown: one pixel counts as one millimetre")
        return 1.0, 1.0
    return spacing[0], spacing[1]


def placed(headers: Sequence[ImageHeader], name: str, policy: Policy, notes: list[str]) -> tuple[ImageHeader, ...]:
    """Keep the headers that say where they lie.

    Args:
        headers: Of one volume.
        name: What to call the series in the message.
        policy: Whether those without a place may be left out.
        notes: How many were left out is added to them.

    Returns:
        The headers with a place.

    Raises:
        InputError: one without a place that no policy lets out, or none with one.
    """
    lost = [header for header in headers if _missing(header)]
    if not lost:
        return tuple(headers)
    if policy == "error" or len(lost) == len(headers):
        do = _leave_out()
        if len(lost) == len(headers):
            do = "Give one of the images by its own path, which is read as a picture without a place"
            do = do if _missing(lost[0], but="pixel spacing") else _SET_SPACING
        raise InputError(
            f"Every image of {name} must say where it lies",
            f"{lost[0].path.name} without valid {' and '.join(_missing(lost[0]))}",
            do,
        )
    notes.append(f"left out: {len(lost)} × image without a place, first {lost[0].path.name}")
    return tuple(header for header in headers if not _missing(header))


def _leave_out() -> str:
    return f"Leave it out with --on-irregular keep, resample or split. {CONVERT}"


def _missing(header: ImageHeader, but: str = "") -> list[str]:
    known = {
        "orientation": header.orientation,
        "position": header.position,
        "pixel spacing": header.pixel_spacing,
    }
    return [words for words, value in known.items() if value is None and words != but]


def measure_stack(headers: Sequence[ImageHeader], name: str) -> Stack:
    """Put two or more slices in order and say what is odd about where they lie.

    Args:
        headers: All with a place.
        name: What to call the series in the message.

    Returns:
        The slices in order.

    Raises:
        InputError: several slices in one place, which nothing tells apart.
    """
    along = along_normal(headers)
    order = np.argsort(along, kind="stable")
    ordered, along = tuple(headers[i] for i in order), along[order]
    _refuse_twins(ordered, along, name)
    orientation = np.array(ordered[0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    positions = np.array([header.position for header in ordered], dtype=float)
    rounding = _rounding(positions)
    typical, slots = _slots(along, _doubts(rounding) * np.abs(normal).sum())
    count = len(ordered) - 1 if slots is None else int(slots[-1])
    step = (positions[-1] - positions[0]) / count
    upright = step @ normal * normal
    if count * np.linalg.norm(step - upright) <= _ROOM * (rounding[0] + rounding[-1]):
        step = upright  # what leaves the normal is the rounding of its ends
    problems = [
        *_step_problems(ordered, along, typical, slots),
        *_side_problems(ordered, positions, along, step, _doubts(rounding) * _ROOM),
    ]
    return Stack(ordered, positions, normal, along, typical, step, slots, tuple(problems))


def _rounding(positions: NDArray[np.float64]) -> Vector:
    """By how much each coordinate of a position may be off, mm: half of the last digit that it is stored with."""
    off = np.zeros(len(positions))
    for digit in _DIGITS_MM:
        whole = positions / digit
        off[(np.abs(whole - np.round(whole)) < _WHOLE).all(axis=1)] = digit / 2
    return off * (1 + _WHOLE)


def _doubts(rounding: Vector) -> Vector:
    """How far each coordinate may lie from the line through both ends, whose own rounding moves it, mm."""
    return rounding + max(rounding[0], rounding[-1])


def regular_stretches(stack: Stack) -> list[tuple[ImageHeader, ...]]:
    """Cut a stack wherever its step changes in length or direction.

    Args:
        stack: The slices in order.

    Returns:
        Headers of each stretch, in order of position.
    """
    moves = np.diff(stack.positions, axis=0)
    steps = np.diff(stack.along)
    sideways = moves - steps[:, None] * stack.normal
    rounding = _rounding(stack.positions)
    doubts = rounding[:-1] + rounding[1:]
    along_mm = np.maximum(doubts * np.abs(stack.normal).sum(), _TOLERANCE_MM)
    aside_mm = np.maximum(doubts * _ROOM, _sideways_mm(stack.headers[0]))

    def are_even(first: int, end: int) -> NDArray[np.bool_]:
        own = steps[first : end - 1]
        usual = float(np.sort(own)[(own.size - 1) // 2])
        is_usual = np.abs(own - usual) <= np.maximum(along_mm[first : end - 1], _STEP_TOLERANCE * usual)
        aside = sideways[first : end - 1]
        off = np.linalg.norm(aside - np.median(aside[is_usual], axis=0), axis=1)
        typical = aside[np.flatnonzero(is_usual)[np.argmin(off[is_usual])]]  # a step that exists: one is always even
        even: NDArray[np.bool_] = is_usual & (np.linalg.norm(aside - typical, axis=1) <= aside_mm[first : end - 1])
        return even

    return [stack.headers[first:end] for first, end in stretches(len(stack.headers), are_even)]


def _refuse_twins(ordered: Sequence[ImageHeader], along: Vector, name: str) -> None:
    steps = np.diff(along)
    twins = int((steps < SAME_PLACE_MM).sum())
    if twins:
        where = int(np.argmin(steps))
        raise InputError(
            f"Every slice of {name} must have its own position",
            f"{twins} duplicate position(s), first {ordered[where].path.name} and "
            f"{ordered[where + 1].path.name} at {along[where]:.2f} mm along the normal, different pixels and "
            "nothing that tells them apart",
            "Separate echoes, phases or repeated exports into folders of their own",
        )


def _slots(along: Vector, doubts: Vector) -> tuple[float, NDArray[np.intp] | None]:
    """The step of an even grid and the slices' places in it; else the typical step (of two the smaller) and None.

    Args:
        doubts: how far each slice may lie from its place because positions are rounded, mm.
    """
    steps, places = np.diff(along), along - along[0]
    typical = float(np.sort(steps)[(steps.size - 1) // 2])
    for unit in (places[-1] / steps.size, typical, float(steps.min())):
        counts = np.round(steps / unit)
        if counts.min() < 1:
            continue
        slots = np.concatenate([[0], np.cumsum(counts)])
        even = float(places[-1] / slots[-1])
        if (np.abs(places - slots * even) <= np.maximum(doubts, max(_STEP_TOLERANCE * even, _TOLERANCE_MM))).all():
            return even, slots.astype(np.intp)
    return typical, None


def _step_problems(
    ordered: Sequence[ImageHeader], along: Vector, typical: float, slots: NDArray[np.intp] | None
) -> list[Irregularity]:
    steps = np.diff(along)
    if slots is None:
        odd = np.flatnonzero(np.abs(steps - typical) > max(_STEP_TOLERANCE * typical, _TOLERANCE_MM))
    else:
        odd = np.flatnonzero(np.diff(slots) > 1)
    must = "The slices of {name} must be evenly spaced"
    if not odd.size:
        if slots is not None:
            return []
        off = np.abs(along - np.linspace(along[0], along[-1], along.size)).max()
        given = f"steps that add up: slices up to {off:.3f} mm beside an even grid"
        return [Irregularity("uneven", must, given, ("resample", "keep"))]
    where = int(odd[np.argmax(np.abs(steps[odd] - typical))])
    given = (
        f"{odd.size} uneven step(s): the largest {steps[where]:.3f} mm instead of {typical:.3f} mm "
        f"from {ordered[where].path.name} to {ordered[where + 1].path.name} "
        f"({along[where]:.2f} to {along[where + 1]:.2f} mm along the normal): "
    )
    if slots is None:
        return [Irregularity("uneven", must, f"{given}steps of different lengths", ("split", "resample", "keep"))]
    empty = int(slots[-1]) + 1 - len(ordered)
    if empty > _MOST_EMPTY * len(ordered) + _ALWAYS_EMPTY:
        return [Irregularity("gap", must, f"{given}{empty} missing slices", ("split",))]
    return [Irregularity("gap", must, f"{given}{empty} missing slice(s)", ("split", "resample", "keep"))]


def _side_problems(
    ordered: Sequence[ImageHeader], positions: NDArray[np.float64], along: Vector, step: Vector, doubts: Vector
) -> list[Irregularity]:
    """Slices that leave the straight line from the first to the last, or steps that leave the normal."""
    whole = positions[-1] - positions[0]
    line = positions[0] + ((along - along[0]) / (along[-1] - along[0]))[:, None] * whole
    sideways = np.linalg.norm(positions - line, axis=1)
    beyond = sideways - np.maximum(doubts, _sideways_mm(ordered[0]))
    worst = int(np.argmax(beyond))
    if beyond[worst] > 0:
        given = f"{ordered[worst].path.name} shifted sideways by {sideways[worst]:.2f} mm"
        must = "The slices of {name} must lie on one straight line"
        return [Irregularity("shift", must, given, ("split", "resample"))]
    orientation = np.array(ordered[0].orientation)
    cosine = float(step @ np.cross(orientation[:3], orientation[3:]) / np.linalg.norm(step))
    angle = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if np.sin(np.radians(angle)) <= SHEAR_TOLERANCE:
        return []
    able: tuple[Policy, ...] = ("resample", "keep") if angle <= _MOST_TILT_DEGREES else ()
    must = "The slices of {name} must be stacked along their normal"
    return [Irregularity("tilt", must, f"a tilt of {angle:.1f} degrees (gantry tilt)", able)]


def _sideways_mm(header: ImageHeader) -> float:
    return max(_SIDEWAYS_PIXELS * min(header.pixel_spacing or (1.0,)), _TOLERANCE_MM)


def ras_affine(first: ImageHeader, step: Vector) -> Affine:
    """Compute the affine from the first slice and the vector from slice to slice.

    Args:
        first: Header of the first slice.
        step: LPS vector, mm.

    Returns:
        Index (column, row, slice) → RAS mm, ``(4, 4)``.
    """
    orientation, (rows, columns) = np.array(first.orientation), first.pixel_spacing or (1.0, 1.0)
    lps = np.eye(4)
    lps[:3, 0] = orientation[:3] * columns  # PixelSpacing is (between rows, between columns)
    lps[:3, 1] = orientation[3:] * rows
    lps[:3, 2] = step
    lps[:3, 3] = np.array(first.position)
    return np.asarray(RAS_TO_LPS @ lps)
