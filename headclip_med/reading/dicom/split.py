"""Images of one series and orientation → groups that are one volume each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from headclip_med.reading.dicom.header import FACTS, ImageHeader
from headclip_med.reading.dicom.values import as_number

# Slices closer than this along the normal lie in one place (positions are stored with two decimals at worst).
SAME_PLACE_MM = 0.01

# In the order in which they are asked: what the images state, and where they come from, before the ranks.
_RANKED = ("trigger", "time", "instance")
_ASKED = (*(fact for fact in FACTS if fact not in _RANKED), "frame of reference", "folder", *_RANKED)

# Tell volumes apart by rank within a place, not by value: every slice has a time, and a number, of its own. The last of
# them, by which images are also numbered from volume to volume, tells incomplete volumes apart too.
_NUMBERED = "instance"

# Scanners also count these up from slice to slice: they split only into as many groups as lie in one place.
_COUNTERS = ("acquisition", "dimension", "phase")

# Say little on their own: they split only into volumes of the very same places. Named by rank, as their values may say
# who the patient is.
_WEAK = ("frame of reference", "folder")

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


def split_volumes(images: Images, label: str = "") -> list[Group]:
    """Separate echoes, phases, b-values, acquisitions, image types that lie in the same places.

    Groups whose twins nothing tells apart stay as they are. Images without a place stay with the volume of the others,
    where there is one, so that they can be named.

    Args:
        label: what sets all of them apart already.
    """
    lost = tuple(image for image in images if image.orientation is None or image.position is None)
    located = [image for image in images if image.orientation is not None and image.position is not None]
    if not located:
        return [Group(lost, label)]
    found = _split(located, _ASKED, label)
    if lost and len(found) == 1:
        return [Group((*found[0].images, *lost), found[0].label)]
    return [*found, Group(lost, label)] if lost else found


def _split(images: list[ImageHeader], facts: Sequence[str], label: str) -> list[Group]:
    places = _places(images)
    if places.max() + 1 == len(images):
        return [Group(tuple(images), label)]
    told = {fact: _at_places(images, places, fact) for fact in facts}
    twins = {fact: [len({key for key, _ in held}) for held in at if len(held) > 1] for fact, at in told.items()}
    # what tells the images of every place apart is asked before what does so in some places only
    in_turn = sorted((fact for fact in facts if max(twins[fact]) > 1), key=lambda fact: min(twins[fact]) < 2)
    for fact in in_turn:
        parts = _parts(images, told[fact], fact)
        if parts:
            rest = [other for other in facts if other != fact]
            split = [g for value, part in parts.items() for g in _split(part, rest, joined(label, f"{fact} {value}"))]
            is_complete = any(np.unique(_places(part)).size == places.max() + 1 for part in parts.values())
            return split if is_complete else [*_wholes(images, told[fact], fact, label), *split]
    wholes = (_wholes(images, told[fact], fact, label) for fact in in_turn)
    return next(filter(None, wholes), [Group(tuple(images), label)])


def joined(label: str, words: str) -> str:
    """A label and more words of it."""
    return f"{label}, {words}" if label else words


def _places(images: Images) -> NDArray[np.intp]:
    """A number for every image, equal for those in one place."""
    along = along_normal(images)
    order = np.argsort(along, kind="stable")
    numbers = np.empty(len(images), dtype=np.intp)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) >= SAME_PLACE_MM)])
    return numbers


# The value of a fact, fit to sort by, and the number of the image; of one place in order of the values.
_Key = tuple[float, str]
_Held = list[tuple[_Key, int]]


def _at_places(images: list[ImageHeader], places: NDArray[np.intp], fact: str) -> list[_Held]:
    """What every place holds."""
    held: list[_Held] = [[] for _ in range(int(places.max()) + 1)]
    for n, (place, image) in enumerate(zip(places, images, strict=True)):
        held[int(place)].append((_key(_value(image, fact), exact=fact in _RANKED), n))
    return [sorted(found) for found in held]


def _value(image: ImageHeader, fact: str) -> str:
    if fact == "folder":
        return str(image.path.parent)
    return image.frame_of_reference if fact == "frame of reference" else image.fact(fact)


def _key(value: str, *, exact: bool) -> _Key:
    """Numbers in their order, before text; equal, unless ``exact``, where they differ by rounding."""
    try:
        found = as_number(value)
    except ValueError:
        return float("inf"), value
    return found if exact else float(f"{found:.7g}"), ""


def _wholes(images: list[ImageHeader], at: list[_Held], fact: str, label: str) -> list[Group]:
    """All places as one volume, once with each image of the few places that hold several; none where there are many
    such places, or ``fact`` does not tell their images apart."""
    several = [held for held in at if len(held) > 1]
    if 2 * len(several) > len(at) or any(len({key for key, _ in held}) < len(held) for held in several):
        return []
    return [
        Group(
            tuple(images[held[min(rank, len(held) - 1)][1]] for held in at),
            joined(label, f"all of it, with image {rank + 1} by {fact} where {len(several)} place(s) hold several"),
        )
        for rank in range(max(map(len, several)))
    ]


def _parts(images: list[ImageHeader], at: list[_Held], fact: str) -> dict[str, list[ImageHeader]] | None:
    """The images by the value of ``fact``, None where it tells no volumes apart."""
    most = max(map(len, at))
    if fact in _RANKED:
        ranks = _by_rank(at, most) or (_by_number(at, most) if fact == _NUMBERED else None)
        return {str(n): [images[i] for i in rank] for n, rank in enumerate(ranks, 1)} if ranks else None
    parts: dict[_Key, list[int]] = {}
    for key, n in sorted(pair for held in at for pair in held):
        parts.setdefault(key, []).append(n)
    if fact in _COUNTERS and len(parts) > most:
        return None
    if fact in _WEAK and any({key for key, _ in held} != set(parts) or len(held) != len(parts) for held in at):
        return None
    return {
        str(rank) if fact in _WEAK else _value(images[part[0]], fact) or "unknown": [images[n] for n in part]
        for rank, part in enumerate(parts.values(), 1)
    }


def _by_rank(at: list[_Held], most: int) -> list[list[int]] | None:
    """First to last at every place; None unless every place has as many, of different values."""
    if any(len({key for key, _ in held}) < most for held in at):
        return None
    return [[held[rank][1] for held in at] for rank in range(most)]


def _by_number(at: list[_Held], most: int) -> list[list[int]] | None:
    """Images that are numbered volume by volume, of which some may be missing: the numbers of a place then differ by as
    many as a volume counts, which is no less than there are places. None where they are numbered in another way."""
    numbers = [key[0] for held in at for key, _ in held]
    if any(number != number // 1 for number in numbers):  # infinite: without a number
        return None
    stride = gcd(*(int(key[0] - held[0][0][0]) for held in at for key, _ in held))
    if stride < len(at) or any(len({key for key, _ in held}) < len(held) for held in at):
        return None
    for first in (1, min(numbers)):  # the first image itself may be missing
        volumes: dict[int, list[int]] = {}
        for held in at:
            for key, n in held:
                volumes.setdefault(int(key[0] - first) // stride, []).append(n)
        if len(volumes) == most:
            return [volumes[number] for number in sorted(volumes)]
    return None


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
