"""Which DICOM images lie in a folder, and which of them belong to one volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headclip_med.errors import InputError
from headclip_med.reading.base import collected_warnings
from headclip_med.reading.content import is_format
from headclip_med.reading.dicom_grid import measure, regular_stretches
from headclip_med.reading.dicom_header import LOCALIZER, PARAMETRIC_MAP, ImageHeader, read_headers
from headclip_med.reading.dicom_header import check_deflated as check_deflated
from headclip_med.reading.dicom_split import Group, split_volumes
from headclip_med.types import PLANES, Plane

# Direction cosines of one series differ by rounding only.
_ORIENTATION_TOLERANCE = 1e-3

# A message names this many series, and this many damaged files; a folder may hold hundreds.
_LISTED, _NAMED = 10, 3

DAMAGED = "damaged DICOM file"
_COPY = "copy of another file (same SOPInstanceUID)"
_NOT_DICOM = "file that is not DICOM"


@dataclass(frozen=True)
class SeriesInfo:
    """One group of images that can be read as a volume.

    Attributes:
        number: place in the list, from 1: ``series="#1"``.
        uid: SeriesInstanceUID (identifies a patient's study: do not log it).
        series_number, modality: as stored, None when absent.
        images: how many slices or frames; rows, columns: of each.
        plane: anatomical name of the slices' orientation, None without one.
        label: what sets it apart from other groups of its series, such as ``echo time 4.6``.
    """

    number: int
    uid: str
    series_number: int | None
    modality: str | None
    images: int
    rows: int
    columns: int
    plane: Plane | None
    label: str = ""

    def __str__(self) -> str:
        more = "".join(f", {words}" for words in (self.plane, self.label) if words)
        shown = "without number" if self.series_number is None else str(self.series_number)
        size = f"{self.images} × {self.columns}×{self.rows}"
        return f"#{self.number}: series {shown}, {self.modality or 'unknown modality'}, {size}{more}"


@dataclass(frozen=True)
class Scan:
    """What was found: images by volume, and what was left out and why."""

    groups: tuple[Group, ...]
    dropped: Counter[str]
    notes: tuple[str, ...]
    damaged: tuple[str, ...] = ()

    def infos(self) -> list[SeriesInfo]:
        """The groups as a list to choose from."""
        return [_info(number, group) for number, group in enumerate(self.groups, start=1)]

    def dropped_in_words(self) -> list[str]:
        """One note for every kind of file that was left out; damaged ones by name."""
        names = ", ".join(self.damaged[:_NAMED]) + (", …" if len(self.damaged) > _NAMED else "")
        return [
            f"left out: {count} × {kind}" + (f" ({names})" if kind == DAMAGED else "")
            for kind, count in sorted(self.dropped.items())
        ]

    def in_stretches(self) -> Scan:
        """Every group cut into its regular stretches, each a group of its own."""
        return replace(self, groups=tuple(part for group in self.groups for part in _stretches(group)))


def scan(source: Path | Iterable[Path], kinds: Sequence[str] = ("image",)) -> Scan:
    """Read the headers of all files below a folder (or of the files given) and group the images.

    Images belong together when study, series, frame of reference, size and pixel spacing are equal and the
    orientation is equal to 1e-3; of those, slices in the same places are told apart by echo, phase, b-value and the
    like (:mod:`dicom_split`).

    Args:
        kinds: which kinds of :attr:`ImageHeader.kind` to take.
    """
    paths = sorted(source.rglob("*")) if isinstance(source, Path) else list(source)
    dropped: Counter[str] = Counter()
    notes: list[str] = []
    damaged: list[str] = []
    images: dict[Any, ImageHeader] = {}
    with collected_warnings(notes, "pydicom", "pydicom"):
        for path in paths:
            if not path.is_file():
                continue
            headers = read_headers(path) if is_format(path, "dicom") else []
            if headers is None:
                damaged.append(path.name)
            for kind in _unusable(headers, kinds):
                dropped[kind] += 1
            for header in headers or ():
                if header.kind in kinds:
                    dropped[_COPY] += _is_known(images, header)
    groups = [part for group in _grouped(list(images.values())) for part in split_volumes(group)]
    return Scan(tuple(sorted(groups, key=_order)), +dropped, tuple(notes), tuple(damaged))


def _unusable(headers: list[ImageHeader] | None, kinds: Sequence[str]) -> set[str]:
    """Why a file, or some frames of it, are no images to read; each reason counts once a file."""
    if headers is None:
        return {DAMAGED}
    if not headers:
        return {_NOT_DICOM}
    return {header.kind for header in headers if header.kind not in kinds}


def _is_known(images: dict[Any, ImageHeader], header: ImageHeader) -> bool:
    """Whether the same object was seen in the same place; remembers it otherwise."""
    own = (header.sop_uid, header.series_uid, header.position) if header.sop_uid else (header.path,)
    key = (*own, header.frame)
    if key in images:
        return True
    images[key] = header
    return False


def choose(found: Scan, series: str | int | None, name: str, *, is_split: bool = False) -> tuple[Group, list[str]]:
    """The one group that ``series`` names, and what to say about the choice.

    ``series`` is a SeriesInstanceUID, either end of it, a SeriesNumber, or ``#n``; a bare number that is no
    SeriesNumber counts as a place in the list. With ``is_split`` and several stretches of one volume the one of most
    slices is taken, the first of equal ones.

    Raises:
        InputError: no image at all, several groups and no choice, or a choice that fits none or several.
    """
    whole, found = found, found.in_stretches() if is_split else found
    infos = found.infos()
    if not infos:
        raise _nothing(found, name)
    more = f"; and {len(infos) - _LISTED} more" if len(infos) > _LISTED else ""
    listing = "; ".join(str(info) for info in infos[:_LISTED]) + more
    matches = infos if series is None else _matches(infos, str(series).strip())
    if len(matches) == 1:
        return found.groups[matches[0].number - 1], []
    if is_split and matches and _is_one_volume(whole, [found.groups[info.number - 1] for info in matches]):
        best = max(matches, key=lambda info: (info.images, -info.number))
        note = f"split into {len(matches)} regular stretches, the largest was read: {best} (of {listing})"
        return found.groups[best.number - 1], [note]
    if series is None:
        raise InputError(
            f"{name} must hold one series of images, or one must be chosen",
            f"{len(infos)} groups ({listing})",
            "Choose one with series= (command line: --series), as a series number or as #1, #2, …",
        )
    problem = "fits none" if not matches else f"fits {len(matches)}"
    raise InputError(
        f"The chosen series of {name} must be one of: {listing}",
        f"{series!s}, which {problem}",
        "Choose by place in the list: #1, #2, …",
    )


def _is_one_volume(whole: Scan, parts: Sequence[Group]) -> bool:
    images = {(image.path, image.frame) for part in parts for image in part.images}
    return any(images <= {(image.path, image.frame) for image in group.images} for group in whole.groups)


def _matches(infos: list[SeriesInfo], wanted: str) -> list[SeriesInfo]:
    if wanted.startswith("#"):
        return [info for info in infos if wanted[1:] == str(info.number)]
    by_uid = [info for info in infos if info.uid == wanted]
    by_number = [info for info in infos if wanted == str(info.series_number)]
    by_place = [info for info in infos if wanted == str(info.number)]
    ends = [i for i in infos if len(wanted) > 3 and (i.uid.startswith(wanted) or i.uid.endswith(wanted))]
    return by_uid or by_number or by_place or ends


def _nothing(found: Scan, name: str) -> InputError:
    given = "; ".join(found.dropped_in_words()) or "no file"
    do = "Give the folder of one series, or an image file by its own path"
    return InputError(f"{name} must contain DICOM images to read", given, do)


def _info(number: int, group: Group) -> SeriesInfo:
    first = group.images[0]
    plane = None
    if first.orientation is not None:
        normal = np.cross(first.orientation[:3], first.orientation[3:])
        by_axis: tuple[Plane, ...] = (PLANES[2], PLANES[1], PLANES[0])  # normal along x, y, z
        plane = by_axis[int(np.argmax(np.abs(normal)))]
    return SeriesInfo(
        number=number,
        uid=first.series_uid,
        series_number=first.series_number,
        modality=first.modality,
        images=first.frames if first.is_pictures else len(group.images),
        rows=first.rows,
        columns=first.columns,
        plane=plane,
        label=group.label,
    )


def _stretches(group: Group) -> list[Group]:
    """The regular stretches of one volume; a group without places, or with twins, stays as it is.

    Images without a place go with the largest stretch, where they are named.
    """
    located = tuple(i for i in group.images if i.orientation and i.position and i.pixel_spacing)
    lost = tuple(i for i in group.images if not (i.orientation and i.position and i.pixel_spacing))
    if len(located) < 2:
        return [group]
    try:
        parts = regular_stretches(measure(located, ""))
    except InputError:
        return [group]
    if len(parts) == 1:
        return [group]
    largest = max(range(len(parts)), key=lambda n: (len(parts[n]), -n))
    parts[largest] = (*parts[largest], *lost)
    named = [f"stretch {number}" for number in range(1, len(parts) + 1)]
    return [
        Group(part, ", ".join(filter(None, (group.label, words)))) for part, words in zip(parts, named, strict=True)
    ]


def _order(group: Group) -> tuple[Any, ...]:
    first = group.images[0]
    return first.series_number or 0, first.series_uid


def _grouped(images: list[ImageHeader]) -> list[list[ImageHeader]]:
    """Images by what makes them one series of one orientation, in order of their files."""
    groups: dict[Any, list[list[ImageHeader]]] = {}
    for image in images:
        homes = groups.setdefault(_key(image), [])
        home = next((group for group in homes if _is_parallel(image, group[0])), None)
        if home is None:
            homes.append([image])
        else:
            home.append(image)
    return sorted(_with_strays([g for homes in groups.values() for g in homes]), key=lambda g: str(g[0].path))


def _with_strays(groups: list[list[ImageHeader]]) -> list[list[ImageHeader]]:
    """Put images without a usable place to the one larger group of their series and size, where they are named."""
    located = [group for group in groups if group[0].orientation and group[0].pixel_spacing]
    for stray in [group for group in groups if group not in located and not group[0].is_pictures]:
        homes = [group for group in located if _same_series(group[0], stray[0])]
        if len(homes) == 1 and len(stray) < len(homes[0]):
            homes[0] += stray
            groups.remove(stray)
    return groups


def _same_series(one: ImageHeader, other: ImageHeader) -> bool:
    def key(image: ImageHeader) -> tuple[Any, ...]:
        return image.study_uid, image.series_uid, image.rows, image.columns

    return key(one) == key(other)


def _key(image: ImageHeader) -> tuple[Any, ...]:
    spacing = None if image.pixel_spacing is None else tuple(round(mm, 5) for mm in image.pixel_spacing)
    own = image.path if image.is_pictures else None
    return (
        image.study_uid,
        image.series_uid,
        image.frame_of_reference,
        image.rows,
        image.columns,
        spacing,
        image.stack,
        image.orientation is None,
        own,
    )


def _is_parallel(image: ImageHeader, first: ImageHeader) -> bool:
    if image.orientation is None or first.orientation is None:
        return True
    return bool(np.abs(np.subtract(image.orientation, first.orientation)).max() <= _ORIENTATION_TOLERANCE)


def own_kinds() -> tuple[str, ...]:
    """What may be read when its own path is given, though a folder would leave it out."""
    return "image", LOCALIZER, PARAMETRIC_MAP
