"""Images of one series and orientation → groups that are one volume each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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

# May also differ from slice to slice: they split only into as many groups as lie in one place.
_COUNTERS = ("acquisition", "dimension", "phase", "inversion time", "kernel", "contrast", "description")

# Say little on their own: they split only into volumes of the very same places.
_WEAK = ("frame of reference", "folder")

# Called by number, as their values may say who the patient is.
_UNNAMED = (*_WEAK, "contrast", "description")

# What one volume has in common; where its slices differ in it, that is said.
_COMMON = ("type", "echo", "echo time", "phase", "b-value", "kernel", "contrast", "description")

# How far the ranks of a place may lie off those of the others, as a share of the least step between two.
_JITTER = 0.25

_DAY = 86400.0
_TIME = re.compile(r"(\d{4})?(?(1)(\d\d)(\d\d))(\d\d)(\d\d)(\d\d(?:\.\d+)?)(?!\d)")

Images = Sequence[ImageHeader]


@dataclass(frozen=True)
class Group:
    """Images that make one volume.

    Attributes:
        images: headers of all slices.
        label: what sets them apart from others of their series.
    """

    images: tuple[ImageHeader, ...]
    label: str = ""


def along_normal(images: Images) -> NDArray[np.float64]:
    """Project positions onto the normal of the first image's plane.

    Args:
        images: Headers, all with a place.

    Returns:
        ``(N,)`` in mm.
    """
    orientation = np.array(images[0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    return np.array([image.position for image in images], dtype=float) @ normal


def split_volumes(images: Images, label: str = "") -> list[Group]:
    """Separate echoes, phases, b-values, acquisitions, image types that lie in the same places.

    Groups whose twins nothing tells apart stay as they are. Images without a place stay with the volume of the others,
    where there is one, so that they can be named.

    Args:
        images: Headers of one series and orientation.
        label: What sets all of them apart already.

    Returns:
        One group a volume.
    """
    lost = tuple(image for image in images if image.orientation is None or image.position is None)
    located = [image for image in images if image.orientation is not None and image.position is not None]
    if not located:
        return [Group(lost, label)]
    found = [_remarked(group) for group in _split(located, _ASKED, label)]
    if lost and len(found) == 1:
        return [Group((*found[0].images, *lost), found[0].label)]
    return [*found, Group(lost, label)] if lost else found


def _remarked(group: Group) -> Group:
    """The same images; what they should have in common and have not is remarked."""
    differ = [fact for fact in _COMMON if len({_key(image.fact(fact)) for image in group.images}) > 1]
    if not differ:
        return group
    words = f"slices that differ in {', '.join(differ)} are taken as one volume"
    images = (replace(image, remark="; ".join(filter(None, (image.remark, words)))) for image in group.images)
    return Group(tuple(images), group.label)


def _split(images: list[ImageHeader], facts: Sequence[str], label: str) -> list[Group]:
    places = _places(images)
    if places.max() + 1 == len(images):
        return [Group(tuple(images), label)]
    told = {fact: _at_places(images, places, fact) for fact in facts}
    twins = {fact: [len({key for key, _ in held}) for held in at if len(held) > 1] for fact, at in told.items()}
    # what tells the images of every place apart is asked before what does so in some places only
    in_turn = sorted((fact for fact in facts if max(twins[fact]) > 1), key=lambda fact: min(twins[fact]) < 2)
    for fact in in_turn:
        parts = _parts(images, told, fact)
        if parts:
            rest = [other for other in facts if other != fact]
            split = [g for value, part in parts.items() for g in _split(part, rest, joined(label, f"{fact} {value}"))]
            is_complete = any(np.unique(_places(part)).size == places.max() + 1 for part in parts.values())
            return split if is_complete else [*_wholes(images, told[fact], fact, label), *split]
    wholes = (_wholes(images, told[fact], fact, label) for fact in in_turn)
    return next(filter(None, wholes), [Group(tuple(images), label)])


def joined(label: str, words: str) -> str:
    """Join a label with more words of it.

    Args:
        label: What is said already, maybe empty.
        words: What to add.

    Returns:
        Both, with a comma between them.
    """
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
    values = [_value(image, fact) for image in images]
    keys = _times(values) if fact == "time" else [_key(value, exact=fact in _RANKED) for value in values]
    held: list[_Held] = [[] for _ in range(int(places.max()) + 1)]
    for n, place in enumerate(places):
        held[int(place)].append((keys[n], n))
    return [sorted(found) for found in held]


def _times(values: list[str]) -> list[_Key]:
    """Times of acquisition in seconds; without a date those of an acquisition over midnight go on after it."""
    found = [_TIME.match(value) for value in values]
    seconds = [
        int(time[4]) * 3600 + int(time[5]) * 60 + float(time[6]) + _DAY * _day(time) if time else np.inf
        for time in found
    ]
    undated = [second for time, second in zip(found, seconds, strict=True) if time and not time[1]]
    if len(undated) == len(values) and max(undated) - min(undated) > _DAY / 2:
        seconds = [second + _DAY * (second < _DAY / 2) for second in seconds]
    return [
        (second, "") if time else _key(value, exact=True)
        for time, second, value in zip(found, seconds, values, strict=True)
    ]


def _day(time: re.Match[str]) -> int:
    """A number that grows from date to date."""
    return (int(time[1]) * 12 + int(time[2])) * 31 + int(time[3]) if time[1] else 0


def _value(image: ImageHeader, fact: str) -> str:
    if fact == "folder":
        return str(image.path.parent)
    return image.frame_of_reference if fact == "frame of reference" else image.fact(fact)


def _key(value: str, *, exact: bool = False) -> _Key:
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


def _parts(images: list[ImageHeader], told: dict[str, list[_Held]], fact: str) -> dict[str, list[ImageHeader]] | None:
    """The images by the value of ``fact``, None where it tells no volumes apart."""
    at = told[fact]
    most = max(map(len, at))
    if fact in _RANKED:
        ranks = _by_rank(told, fact, most) or (_by_number(at, most) if fact == _NUMBERED else None)
        return {str(n): [images[i] for i in rank] for n, rank in enumerate(ranks, 1)} if ranks else None
    parts: dict[_Key, list[int]] = {}
    for key, n in sorted(pair for held in at for pair in held):
        parts.setdefault(key, []).append(n)
    if fact in _COUNTERS and len(parts) > most:
        return None
    if fact in _WEAK and any({key for key, _ in held} != set(parts) or len(held) != len(parts) for held in at):
        return None
    return {
        str(rank) if fact in _UNNAMED else _value(images[part[0]], fact) or "unknown": [images[n] for n in part]
        for rank, part in enumerate(parts.values(), 1)
    }


def _by_rank(told: dict[str, list[_Held]], fact: str, most: int) -> list[list[int]] | None:
    """First to last at every place; None unless every place has as many, of different values, and these are counted
    from volume to volume: by ``fact`` itself, or by another one that makes the same volumes. None, too, where two of
    them are counted so and make other volumes."""
    ranks: dict[str, list[list[int]]] = {}
    for name in (name for name in _RANKED if name in told):
        at = told[name]
        if all(len({key for key, _ in held}) == most for held in at):
            ranks[name] = [[held[rank][1] for held in at] for rank in range(most)]
    volumes = {name: {frozenset(rank) for rank in found} for name, found in ranks.items()}
    counted = [volumes[name] for name in ranks if _is_counted(told[name])]
    return ranks[fact] if fact in ranks and counted and all(found == volumes[fact] for found in counted) else None


def _is_counted(at: list[_Held]) -> bool:
    """Whether ranks are those of volumes: as far from one to the next at every place, or one volume after the other,
    in which no value stands for some of the slices only."""
    values = np.array([[key[0] for key, _ in held] for held in at])
    if not np.isfinite(values).all():
        return False
    from_first = values - values[:, :1]
    if (np.ptp(from_first, axis=0) <= 2 * _JITTER * np.diff(values).min()).all():
        return True
    different = [np.unique(rank).size for rank in values.T]
    in_turn = (values[:, :-1].max(axis=0) < values[:, 1:].min(axis=0)).all()
    return bool(in_turn) and all(number in (1, len(at)) for number in different)


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
        count: How many slices.
        are_even: Of the slices ``first … last``, which of the steps between them is the typical one.

    Returns:
        Begin and end of each stretch.
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
