"""Single elements of a DICOM data set → text and numbers, whatever value representation they have."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan
from typing import Any

import numpy as np

# Row and column directions are unit vectors at right angles up to the rounding of stored cosines.
_UNIT_TOLERANCE = 1e-2


def element(dataset: Any, key: str | int) -> Any:
    """Look up an element by keyword or tag.

    Args:
        dataset: Elements, or a sequence's item.
        key: Keyword or tag.

    Returns:
        Its value, None where it is absent or cannot be made sense of.
    """
    try:
        found = dataset.get(key)
    except Exception:  # pydicom raises whatever a wrong VR or damaged bytes provoke
        return None
    return found if isinstance(key, str) else getattr(found, "value", None)


def first_item(dataset: Any, key: str | int) -> Any:
    """Look up the first item of a sequence.

    Args:
        dataset: Elements, or a sequence's item.
        key: Keyword or tag.

    Returns:
        The item, an empty mapping where there is none.
    """
    items = element(dataset, key)
    try:
        found = items[0] if items else {}
    except (TypeError, IndexError, KeyError):
        return {}
    return found if hasattr(found, "get") else {}


def text(dataset: Any, keyword: str, longest: int | None = 24) -> str:
    """Read an element as text, several values joined by ``/``.

    Args:
        dataset: Elements, or a sequence's item.
        keyword: Of the element.
        longest: Characters that are kept, None for all.

    Returns:
        The text, empty where there is none.
    """
    value = element(dataset, keyword)
    if value is None:
        return ""
    parts = [value] if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) else list(value)[:16]
    return "/".join(str(part).strip() for part in parts)[:longest]


def folded(dataset: Any, keyword: str) -> str:
    """Reduce an element to its letters and digits in one case: what a name or a date says, however it is written.

    Args:
        dataset: Elements, or a sequence's item.
        keyword: Of the element.

    Returns:
        The text, empty where there is none.
    """
    return "".join(filter(str.isalnum, text(dataset, keyword, None).casefold()))


def image_type(dataset: Any, keyword: str) -> str:
    """Read ImageType or FrameType.

    Args:
        dataset: Elements, or a sequence's item.
        keyword: Of the element.

    Returns:
        Its values joined by ``/``.
    """
    return text(dataset, keyword, 100)


def parts(found: Any) -> list[Any]:
    """Split an element's value, and text of a representation that knows no several values as others are.

    Args:
        found: Any value.

    Returns:
        The single values.
    """
    if isinstance(found, bytes):
        found = found.decode("latin-1")
    if isinstance(found, str):
        return list(found.split("\\"))
    return [] if found is None else list(found) if isinstance(found, Sequence) else [found]


def values(found: Any) -> tuple[float, ...]:
    """Read all numbers of an element's value.

    Args:
        found: Any value.

    Returns:
        The numbers, () for none or anything else.
    """
    try:
        return tuple(as_number(part) for part in parts(found))
    except (TypeError, ValueError, OverflowError):
        return ()


def as_number(part: Any) -> float:
    """Read one number, or its text, where a comma is a decimal point.

    Args:
        part: A single value.

    Returns:
        The number, maybe not finite.

    Raises:
        ValueError, TypeError: anything else.
    """
    if isinstance(part, str):
        part = part.strip(" \0\t\r\n").replace("_", "?")  # Python's own way to write a thousand is nobody else's
        return float(part.replace(",", ".") if part.count(",") == 1 and "." not in part else part)
    return float(part)


def numbers(dataset: Any, key: str | int, count: int) -> tuple[float, ...] | None:
    """Read an element of so many finite numbers.

    Args:
        dataset: Elements, or a sequence's item.
        key: Keyword or tag.
        count: How many there must be.

    Returns:
        The numbers, or None when the element is absent, empty or not that.
    """
    found = values(element(dataset, key))
    return found if len(found) == count and all(map(isfinite, found)) else None


def finite_number(dataset: Any, key: str | int) -> float | None:
    """Read an element of one finite number.

    Args:
        dataset: Elements, or a sequence's item.
        key: Keyword or tag.

    Returns:
        The number, or None.
    """
    found = numbers(dataset, key, 1)
    return found[0] if found else None


def positive_pair(dataset: Any, keyword: str) -> tuple[float, ...] | None:
    """Read an element of two lengths above 0.

    Args:
        dataset: Elements, or a sequence's item.
        keyword: Of the element.

    Returns:
        The lengths, or None.
    """
    found = numbers(dataset, keyword, 2)
    return found if found and min(found) > 0 else None


def integer(dataset: Any, key: str | int) -> int | None:
    """Read an element of one whole number.

    Args:
        dataset: Elements, or a sequence's item.
        key: Keyword or tag.

    Returns:
        The number, or None.
    """
    found = finite_number(dataset, key)
    return int(found) if found is not None and found == int(found) else None


def rescale_factors(*places: Any) -> tuple[float | None, float | None] | None:
    """Read slope and intercept, each from the first place that states it.

    Args:
        places: Elements, or items of sequences, the nearest first.

    Returns:
        Both, each None where no place states it and NaN where what is stated is no number, or None where neither is
        stated.
    """
    slope, intercept = (
        next((found for place in places if (found := _stated(place, keyword)) is not None), None)
        for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    return None if slope is None and intercept is None else (slope, intercept)


def _stated(dataset: Any, keyword: str) -> float | None:
    """A number, None where the element is absent or empty, NaN where it holds anything else."""
    if not any(str(part).strip(" \0") for part in parts(element(dataset, keyword))):
        return None
    found = finite_number(dataset, keyword)
    return nan if found is None else found


def orientation(dataset: Any) -> tuple[float, ...] | None:
    """Read row and column direction.

    Args:
        dataset: Elements, or a sequence's item.

    Returns:
        Two orthogonal unit vectors in LPS, six numbers, or None.
    """
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
