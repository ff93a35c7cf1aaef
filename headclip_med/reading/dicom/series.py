"""Which DICOM images lie in a folder, and which of them belong to one volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread

from headclip_med.base.errors import InputError
from headclip_med.base.types import PLANES, Plane
from headclip_med.reading.checks import collected_warnings, refuse_damage
from headclip_med.reading.content import is_format
from headclip_med.reading.dicom.decode import pixel_digest
from headclip_med.reading.dicom.grid import measure_stack, regular_stretches
from headclip_med.reading.dicom.header import LOCALIZER, PARAMETRIC_MAP, ImageHeader
from headclip_med.reading.dicom.images import read_headers
from headclip_med.reading.dicom.split import Group, joined, split_volumes
from headclip_med.reading.dicom.values import element

_MOST_PARTS = 16  # the standard allows eight


# Slices are parallel when no direction cosine differs by more (half a degree): cosines of two decimals.
ORIENTATION_TOLERANCE = 1e-2

# Spacings are the same when they differ by less than two digits of theirs can say.
_SPACING_TOLERANCE = 5e-3

# Beyond this, what was taken as equal is said.
_ROUNDING = 1e-4

# What says whose images they are, of which study, and which series of it; of the first two the values are never shown.
_PATIENT = ("patient", "issuer", "patient_name", "birth_date")
_STUDY = ("study_uid", "study_date", "accession")
_SERIES = ("series_number", "modality")

# A message names this many series, and this many damaged files; a folder may hold hundreds.
_LISTED, _NAMED = 10, 3
DAMAGED = "damaged DICOM file"
_COPY = "copy of another file (same SOPInstanceUID)"
_ALONE = b""
_NOT_DICOM = "file that is not DICOM"


def referenced_files(path: Path) -> tuple[list[Path], Counter[str]]:
    """List the files that a DICOMDIR names.

    Nothing outside its folder is touched, whatever it names and wherever links lead.

    Args:
        path: The DICOMDIR.

    Returns:
        Files, and how many it names in vain, by reason.

    Raises:
        InputError: no file that lies beside it.
    """
    root = path.resolve().parent
    with refuse_damage(path.name, "DICOMDIR"):
        records = element(dcmread(path), "DirectoryRecordSequence")
        names = [element(record, "ReferencedFileID") for record in records or ()]
    found: dict[Path, None] = {}
    dropped: Counter[str] = Counter()
    for name in filter(None, names):
        file = _inside(root, name)
        if file is None:
            dropped["file named outside the DICOMDIR's folder"] += 1
        elif not file.is_file():
            dropped["missing file of the DICOMDIR"] += 1
        else:
            found[file] = None
    if not found:
        given = "; ".join(f"{count} × {kind}" for kind, count in dropped.items()) or "no file named in it"
        raise InputError(f"{path.name} must name image files that lie beside it", given, "Copy the whole medium")
    return list(found), dropped


def _inside(root: Path, name: Any) -> Path | None:
    """The file below ``root`` that a ReferencedFileID names, None where that would leave ``root``."""
    parts = [str(part).strip() for part in ([name] if isinstance(name, str) else name)]
    if not isinstance(name, str) and not isinstance(name, Sequence):
        return None
    bad = any(part in ("", ".", "..") or set(part) & set("/\\:\0") for part in parts)
    if bad or len(parts) > _MOST_PARTS:
        return None
    candidates = [root.joinpath(*parts), root.joinpath(*(part.lower() for part in parts))]
    file = next((candidate for candidate in candidates if candidate.exists()), candidates[0])
    return file if file.resolve().is_relative_to(root) else None


@dataclass(frozen=True)
class SeriesInfo:
    """One group of images that can be read as a volume.

    Attributes:
        number: place in the list, from 1: ``series="#1"``.
        uid: SeriesInstanceUID (identifies a patient's study: do not log it).
        series_number, modality: as stored, None when absent.
        images: how many slices or frames.
        rows, columns: of each.
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
class FoundImages:
    """What was found: images by volume, and what was left out and why."""

    groups: tuple[Group, ...]
    dropped: Counter[str]
    notes: tuple[str, ...]
    damaged: tuple[str, ...] = ()

    def infos(self) -> list[SeriesInfo]:
        """List the groups to choose from.

        Returns:
            One entry a group, in order.
        """
        return [_info(number, group) for number, group in enumerate(self.groups, start=1)]

    def dropped_in_words(self) -> list[str]:
        """Say what was left out.

        Returns:
            One note for every kind of file, damaged ones by name.
        """
        names = ", ".join(self.damaged[:_NAMED]) + (", …" if len(self.damaged) > _NAMED else "")
        return [
            f"left out: {count} × {kind}" + (f" ({names})" if kind == DAMAGED else "")
            for kind, count in sorted(self.dropped.items())
        ]

    def in_stretches(self) -> FoundImages:
        """Cut every group into its regular stretches.

        Returns:
            Each stretch as a group of its own.
        """
        return replace(self, groups=tuple(part for group in self.groups for part in _stretches(group)))


def scan(source: Path | Iterable[Path], kinds: Sequence[str] = ("image",)) -> FoundImages:
    """Read the headers of all files below a folder (or of the files given) and group the images.

    Images belong together when patient, study, series, modality and size are equal (what one of them does not say is as
    the others have it, where these agree), and pixel spacing and orientation up to their rounding. Of those, slices in
    the same places are told apart by echo, phase, b-value and the like (:mod:`headclip_med.reading.dicom.split`).

    Args:
        source: A folder, or files.
        kinds: Which kinds of :attr:`ImageHeader.kind` to take.

    Returns:
        Groups, and what was left out and why.
    """
    paths = sorted(source.rglob("*")) if isinstance(source, Path) else list(source)
    dropped: Counter[str] = Counter()
    notes: list[str] = []
    damaged: list[str] = []
    images: dict[ImageHeader, dict[bytes, ImageHeader]] = {}
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
        found = _grouped([image for alike in images.values() for image in alike.values()])
    groups = [part for group, label in zip(found, _labels(found), strict=True) for part in split_volumes(group, label)]
    return FoundImages(
        tuple(sorted(groups, key=lambda group: _order(group.images[0]))), +dropped, tuple(notes), tuple(damaged)
    )


def _unusable(headers: list[ImageHeader] | None, kinds: Sequence[str]) -> set[str]:
    """Why a file, or some frames of it, are no images to read; each reason counts once a file."""
    if headers is None:
        return {DAMAGED}
    if not headers:
        return {_NOT_DICOM}
    return {header.kind for header in headers if header.kind not in kinds}


def _is_known(images: dict[ImageHeader, dict[bytes, ImageHeader]], header: ImageHeader) -> bool:
    """Whether the same object was seen, with the same header and the same pixels; remembers it otherwise.

    Args:
        images: by what their headers say, and by a digest of their pixels once there are several to compare.
    """
    alike = images.setdefault(replace(header, path=Path(), stamp=(0, 0), photometric=""), {})
    if not alike:
        alike[_ALONE] = header
        return False
    if _ALONE in alike:
        first = alike.pop(_ALONE)
        alike[pixel_digest(first)] = first
    digest = pixel_digest(header)
    is_known = digest in alike
    alike.setdefault(digest, header)
    return is_known


def choose(
    found: FoundImages, series: str | int | None, name: str, *, is_split: bool = False
) -> tuple[Group, list[str]]:
    """Choose the one group that ``series`` names.

    A bare number that is no SeriesNumber counts as a place in the list.

    Args:
        found: What was found.
        series: A SeriesInstanceUID, either end of it, a SeriesNumber, ``#n``, or None.
        name: What to call the source in the message.
        is_split: Choose among regular stretches, where of several of one volume the one of most slices is taken, the
            first of equal ones.

    Returns:
        The group, and what to say about the choice.

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


def _is_one_volume(whole: FoundImages, parts: Sequence[Group]) -> bool:
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


def _nothing(found: FoundImages, name: str) -> InputError:
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
        parts = regular_stretches(measure_stack(located, ""))
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


def _order(first: ImageHeader) -> tuple[Any, ...]:
    return first.series_number or 0, first.series_uid


def _grouped(images: list[ImageHeader]) -> list[list[ImageHeader]]:
    """Images by what makes them one series of one orientation, in order of their files."""
    groups: list[list[ImageHeader]] = []
    for alike in _by(images, _key):
        for parallel in _clusters(alike):
            groups += _by_name(parallel)
    groups = _with_strays([_settled(group) for group in groups])
    return sorted(groups, key=lambda group: (_order(group[0]), str(group[0].path)))


def _by(images: list[ImageHeader], key: Callable[[ImageHeader], Any]) -> list[list[ImageHeader]]:
    groups: dict[Any, list[ImageHeader]] = {}
    for image in images:
        groups.setdefault(key(image), []).append(image)
    return list(groups.values())


def _key(image: ImageHeader) -> tuple[Any, ...]:
    own = image.path if image.is_pictures else None
    return image.series_uid, image.rows, image.columns, image.orientation is None, image.pixel_spacing is None, own


def _clusters(images: list[ImageHeader]) -> list[list[ImageHeader]]:
    """Images of one orientation and one spacing."""
    groups: list[list[ImageHeader]] = []
    for image in images:
        home = next((group for group in groups if _fits(image, group[0])), None)
        if home is None:
            groups.append([image])
        else:
            home.append(image)
    return groups


def _fits(image: ImageHeader, first: ImageHeader) -> bool:
    apart = _apart(image.orientation, first.orientation) if image.orientation and first.orientation else 0.0
    if image.pixel_spacing is None or first.pixel_spacing is None:
        return apart <= ORIENTATION_TOLERANCE
    stretched = max(abs(own / other - 1) for own, other in zip(image.pixel_spacing, first.pixel_spacing, strict=True))
    return apart <= ORIENTATION_TOLERANCE and stretched <= _SPACING_TOLERANCE


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.abs(np.subtract(one, other)).max())


def _by_name(images: list[ImageHeader]) -> list[list[ImageHeader]]:
    """Images of one series, study, patient and stack; what some do not say is as the only one has it that is said."""
    groups = [images]
    for name in (*_SERIES, *_STUDY, *_PATIENT, "stack"):
        groups = [part for group in groups for part in _named_apart(group, name)]
    return groups


def _named_apart(images: list[ImageHeader], name: str) -> list[list[ImageHeader]]:
    named = [value for image in images if (value := getattr(image, name)) not in ("", None)]
    several = len(set(named))
    if name == "stack":
        is_one = several < 2 or several == len(named)  # a stack of its own for every image
    else:
        # those that do not say belong here only where an identifier does say so
        belong = len(named) == len(images) or all(image.series_uid or image.study_uid for image in images)
        is_one = several == 0 or (several == 1 and belong)
    return [images] if is_one else _by(images, lambda image: getattr(image, name))


def _labels(groups: Sequence[list[ImageHeader]]) -> list[str]:
    """Which patient, and which study, of several under one SeriesInstanceUID each group is of, by number."""
    labels = [""] * len(groups)
    for alike in _by([group[0] for group in groups], lambda image: image.series_uid):
        places = [n for n, group in enumerate(groups) if group[0] in alike]
        for what, names in (("patient", _PATIENT), ("study", _STUDY)):
            said = [_said(groups[n], names) for n in places]
            if _agree(said):
                continue
            numbers = list(dict.fromkeys(said))
            for n, own in zip(places, said, strict=True):
                labels[n] = joined(labels[n], f"{what} {numbers.index(own) + 1}")
    return labels


def _said(images: Sequence[ImageHeader], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(next(filter(None, (getattr(image, name) for image in images)), "") for name in names)


def _agree(said: Sequence[tuple[str, ...]]) -> bool:
    """Whether nothing is said in two ways."""
    return all(len({value for value in values if value}) < 2 for values in zip(*said, strict=True))


def are_of_one_patient(images: Sequence[ImageHeader]) -> bool:
    """Tell whether nothing that images say about their patient differs.

    Args:
        images: Their headers.

    Returns:
        True where all agree.
    """
    return _agree([_said([image], _PATIENT) for image in images])


def _settled(images: list[ImageHeader]) -> list[ImageHeader]:
    """The same images with one spacing and one orientation, those of most of them; what differed is remarked."""
    spacing, orientation = commonest([i.pixel_spacing for i in images]), commonest([i.orientation for i in images])
    frames = {image.frame_of_reference for image in images if image.frame_of_reference}
    remarks = []
    if spacing and max(_apart(image.pixel_spacing or spacing, spacing) for image in images) > _ROUNDING * max(spacing):
        remarks.append(f"pixel spacings differ by rounding: {spacing[0]:g} × {spacing[1]:g} mm is taken for all")
    tilted = max(_apart(image.orientation or orientation, orientation) for image in images) if orientation else 0.0
    if tilted > _ROUNDING:
        remarks.append(f"orientations differ by up to {np.degrees(tilted):.2f} degrees: taken as parallel")
    if len(frames) > 1:
        remarks.append(f"{len(frames)} frames of reference in one series: taken as one")
    whole = _said(images, _PATIENT)
    if unsaid := sum(_said([image], _PATIENT) != whole for image in images):
        remarks.append(f"{unsaid} of {len(images)} images say less about their patient: taken as of the same one")
    return [
        replace(
            image,
            pixel_spacing=spacing,
            orientation=orientation,
            remark="; ".join(filter(None, (image.remark, *remarks))),
        )
        for image in images
    ]


def commonest(found: Sequence[tuple[float, ...] | None]) -> tuple[float, ...] | None:
    """Find what most state.

    Args:
        found: What each states, or None.

    Returns:
        The value of most, or where each states its own, the one nearest to their mean, None where none states any.
    """
    known = [value for value in found if value is not None]
    if not known:
        return None
    value, count = Counter(known).most_common(1)[0]
    middle = np.mean(known, axis=0)
    return value if count > 1 else min(known, key=lambda one: _apart(one, middle))


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
    if (one.series_uid, one.rows, one.columns) != (other.series_uid, other.rows, other.columns):
        return False
    said = ((getattr(one, name), getattr(other, name)) for name in (*_SERIES, *_STUDY, *_PATIENT))
    return all(own == another or "" in (own, another) or None in (own, another) for own, another in said)


def own_kinds() -> tuple[str, ...]:
    """List what may be read when its own path is given, though a folder would leave it out.

    Returns:
        Kinds of :attr:`ImageHeader.kind`.
    """
    return "image", LOCALIZER, PARAMETRIC_MAP
