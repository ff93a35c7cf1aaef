"""Single elements of a DICOM data set → text and numbers, whatever value representation they have."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from typing import Any

import numpy as np

# Row and column directions are unit vectors at right angles up to the rounding of stored cosines.
_UNIT_TOLERANCE = 1e-2


def element(dataset: Any, key: str | int) -> Any:
    """The value of an element by keyword or tag, None where it is absent or cannot be made sense of."""
    try:
        found = dataset.get(key)
    except Exception:  # pydicom raises whatever a wrong VR or damaged bytes provoke
        return None
    return found if isinstance(key, str) else getattr(found, "value", None)


def first_item(dataset: Any, key: str | int) -> Any:
    """The first item of a sequence; an empty mapping where there is none."""
    items = element(dataset, key)
    try:
        found = items[0] if items else {}
    except (TypeError, IndexError, KeyError):
        return {}
    return found if hasattr(found, "get") else {}


def text(dataset: Any, keyword: str, longest: int | None = 24) -> str:
    """An element as text, cut after ``longest`` characters; several values are joined by ``/``."""
    value = element(dataset, keyword)
    if value is None:
        return ""
    parts = [value] if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) else list(value)[:16]
    return "/".join(str(part).strip() for part in parts)[:longest]


def folded(dataset: Any, keyword: str) -> str:
    """The letters and digits of an element, in one case: what a name or a date says, however it is written."""
    return "".join(filter(str.isalnum, text(dataset, keyword, None).casefold()))


def image_type(dataset: Any, keyword: str) -> str:
    """ImageType or FrameType, values joined by ``/``."""
    return text(dataset, keyword, 100)


def parts(found: Any) -> list[Any]:
    """The single values of an element's value; text of a representation that knows no several is cut as others are."""
    if isinstance(found, bytes):
        found = found.decode("latin-1")
    if isinstance(found, str):
        return list(found.split("\\"))
    return [] if found is None else list(found) if isinstance(found, Sequence) else [found]


def values(found: Any) -> tuple[float, ...]:
    """All numbers of an element's value, () for none or anything else."""
    try:
        return tuple(as_number(part) for part in parts(found))
    except (TypeError, ValueError, OverflowError):
        return ()


def as_number(part: Any) -> float:
    """One number, or its text, where a comma is a decimal point; ``ValueError`` or ``TypeError`` for anything else."""
    if isinstance(part, str):
        part = part.strip(" \0\t\r\n").replace("_", "?")  # Python's own way to write a thousand is nobody else's
        return float(part.replace(",", ".") if part.count(",") == 1 and "." not in part else part)
    return float(part)


def numbers(dataset: Any, key: str | int, count: int) -> tuple[float, ...] | None:
    """``count`` finite numbers, or None when the element is absent, empty or not that."""
    found = values(element(dataset, key))
    return found if len(found) == count and all(map(isfinite, found)) else None


def number(dataset: Any, key: str | int) -> float | None:
    """One finite number, or None."""
    found = numbers(dataset, key, 1)
    return found[0] if found else None


def positive_pair(dataset: Any, keyword: str) -> tuple[float, ...] | None:
    """Two lengths above 0."""
    found = numbers(dataset, keyword, 2)
    return found if found and min(found) > 0 else None


def integer(dataset: Any, key: str | int) -> int | None:
    """A whole number, or None."""
    found = number(dataset, key)
    return int(found) if found is not None and found == int(found) else None


def rescale(*places: Any) -> tuple[float | None, float | None] | None:
    """Slope and intercept, each from the first place that states it: None where none does, NaN where what is stated is
    no number; None for both where neither is stated."""
    slope, intercept = (
        next((found for place in places if (found := _stated(place, keyword)) is not None), None)
        for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    return None if slope is None and intercept is None else (slope, intercept)


def _stated(dataset: Any, keyword: str) -> float | None:
    """A number, None where the element is absent or empty, NaN where it holds anything else."""
    if not any(str(part).strip(" \0") for part in parts(element(dataset, keyword))):
        return None
    found = number(dataset, keyword)
    return nan if found is None else found


def orientation(dataset: Any) -> tuple[float, ...] | None:
    """Row and column direction as two orthogonal unit vectors, else None."""
    found = numbers(dataset, "ImageOrientationPatient", 6)
    if found is None:
        return None
    row, column = np.array(found[:3]), np.array(found[3:])
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm([row, column], axis=1)
        is_frame = np.abs(lengths - 1).max() <= _UNIT_TOLERANCE and abs(float(row @ column)) <= _UNIT_TOLERANCE
    if not is_frame:
        return None
    return tuple(float(x) for x in (*(row / lengths[0]), *(column / lengths[1])))
