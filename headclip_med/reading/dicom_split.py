"""Images of one series and orientation → groups that are one volume each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headclip_med.reading.dicom_header import FACTS, ImageHeader

# Slices closer than this along the normal lie in one place (positions are stored with two decimals at worst).
SAME_PLACE_MM = 0.01

# Tell volumes apart by their rank within a place, not by their value: every slice has a time of its own.
_RANKED = ("trigger", "time")

# Scanners also count these up from slice to slice: they split only into as many groups as lie in one place.
_COUNTERS = ("acquisition", "dimension", "phase")

Images = Sequence[ImageHeader]


@dataclass(frozen=True)
class Group:
    """Images that make one volume; ``label`` says what sets them apart from others of their series."""

    images: tuple[ImageHeader, ...]
    label: str = ""


def along_normal(images: Images) -> NDArray[np.float64]:
    """Position of every image along the normal of the first one's plane, mm; all must have a place."""
    orientation = np.array(images[0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    return np.array([image.position for image in images], dtype=float) @ normal


def split_volumes(images: Images) -> list[Group]:
    """Separate echoes, phases, b-values, acquisitions, image types that lie in the same places.

    Groups whose twins nothing tells apart stay as they are. Images without a place stay with the volume of the others,
    where there is one, so that they can be named.
    """
    lost = tuple(image for image in images if image.orientation is None or image.position is None)
    located = [image for image in images if image.orientation is not None and image.position is not None]
    if not located:
        return [Group(lost)]
    found = _split(located, FACTS, "")
    if lost and len(found) == 1:
        return [Group((*found[0].images, *lost), found[0].label)]
    return [*found, Group(lost)] if lost else found


def _split(images: list[ImageHeader], facts: Sequence[str], label: str) -> list[Group]:
    places = _places(images)
    most = int(np.bincount(places).max())
    if most == 1:
        return [Group(tuple(images), label)]
    for number, fact in enumerate(facts):
        parts = _parts(images, places, fact, most)
        if parts is not None:
            rest = facts[number + 1 :]
            return [
                group
                for value, part in parts.items()
                for group in _split(part, rest, ", ".join(filter(None, (label, f"{fact} {value}"))))
            ]
    return [Group(tuple(images), label)]


def _places(images: Images) -> NDArray[np.intp]:
    """A number for every image, equal for those in one place."""
    along = along_normal(images)
    order = np.argsort(along, kind="stable")
    numbers = np.empty(len(images), dtype=np.intp)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) >= SAME_PLACE_MM)])
    return numbers


def _parts(
    images: list[ImageHeader], places: NDArray[np.intp], fact: str, most: int
) -> dict[str, list[ImageHeader]] | None:
    """The images by the value of ``fact``, or None where it does not tell twins apart."""
    values = [image.fact(fact) for image in images]
    by_place: dict[int, set[str]] = {}
    for place, value in zip(places, values, strict=True):
        by_place.setdefault(int(place), set()).add(value)
    if max(len(found) for found in by_place.values()) < 2:
        return None
    if fact in _RANKED:
        return _ranked(images, places, values, most)
    parts: dict[str, list[ImageHeader]] = {}
    for image, value in zip(images, values, strict=True):
        parts.setdefault(value or "unknown", []).append(image)
    if fact in _COUNTERS and len(parts) > most:
        return None
    return dict(sorted(parts.items(), key=lambda part: _as_number(part[0])))


def _ranked(
    images: list[ImageHeader], places: NDArray[np.intp], values: list[str], most: int
) -> dict[str, list[ImageHeader]] | None:
    """First to last in time at every place; None unless every place has as many, at different times."""
    keys = sorted(zip(places.tolist(), map(_as_number, values), range(len(images)), strict=True))
    if len(keys) != most * (places.max() + 1) or len({key[:2] for key in keys}) != len(keys):
        return None
    if any(count != most for count in np.bincount(places)):
        return None
    return {str(rank + 1): [images[key[2]] for key in keys[rank::most]] for rank in range(most)}


def _as_number(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return float("inf"), value


def stretches(count: int, are_even: Callable[[int, int], NDArray[np.bool_]]) -> list[tuple[int, int]]:
    """Cut slices ``0 … count − 1`` into regular stretches ``(first, last + 1)``, in order.

    Args:
        are_even: of the slices ``first … last``, which of the steps between them is the typical one.
    """
    found: list[tuple[int, int]] = []
    todo = [(0, count)]
    while todo:
        first, end = todo.pop()
        if end - first <= 1:
            found.append((first, end))
            continue
        even = are_even(first, end)
        runs = _runs(even)
        found += [(first + low, first + high + 1) for low, high in runs]
        edges = [first, *(first + edge for low, high in runs for edge in (low, high + 1)), end]
        todo += [(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if high > low]
    return sorted(found)


def _runs(even: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where ``even`` is true without a break: ``(first, last + 1)``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], even.astype(np.int8), [0]])))
    return [(int(low), int(high)) for low, high in zip(edges[::2], edges[1::2], strict=True)]
