"""What kind of image a model is for, what kind a volume is, and where the two disagree. Needs no torch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import ndimage

from headclip_med.base.geometry import spacing
from headclip_med.base.volume import AnyVolume, volume_array
from headclip_med.reading.sequences import Sequence, sequences_in
from headclip_med.slicing.intensity import foreground, looks_like_hu

OUT_OF_SCOPE = "out of scope: "  # begins every warning about it

# Words of a file name, each a whole word in lower case, numbered or not.
_PARTS = "head|brain|chest|lung|thorax|abdomen|liver|spine"
_MODALITY_WORDS = {
    "CT": rf"(?:ct|cta|cbct|ncct|cect|(?:{_PARTS})ct|ct(?:scans?|{_PARTS}))\d*",
    "MR": rf"(?:mr|mri|(?:{_PARTS})mri?|mri?(?:scans?|{_PARTS}))\d*",
    "US": r"(?:us|usg|ultrasound|sonography)\d*",
    "DX": r"(?:cxr|xray|x ray)\d*",
    "PT": r"(?:pet|fdg)\d*",
    "OPT": r"oct",  # and October, as in oct2021
}
_TIME_POINTS = {"t1", "t2"}  # CT_T1 may be the first of several CTs
# Modality codes that say nothing about how an image was taken.
_NO_MODALITY = {"", "OT", "SC", "DOC"}

_SHOWN = {
    "t2star": "T2*",
    "flair": "FLAIR",
    "t1c": "T1 with contrast",
    "t1": "T1",
    "t2": "T2",
    "pd": "PD",
    "dwi": "DWI",
}

# A pixel is coloured where its channels differ by more than this of 255, a picture where so many of its pixels are:
# grey pictures that a camera or JPEG tinted, and callipers in ultrasound, stay below; pale skin lies above.
_COLOURED, _COLOURED_SHARE = 24, 0.12
# A head is told from a stripped brain by its largest section in mm² (20 brains: at most 205 cm², two real heads: 265
# and 322), and by the dark shell of its skull (brains: a dip of at most 0.06, heads in slices up to 3 mm: from 0.6).
_LARGEST_BRAIN, _SKULL_DIP = 22_500.0, 0.3
_GRID_MM = 3.0
_SHELLS_MM = (0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 22.0)  # below the surface


class Scope(BaseModel):
    """The kind of image that a model is for, where what is empty or None is open.

    Attributes:
        modalities: DICOM codes.
        colour: whether pictures have colours.
        dimensions: 2 for pictures, 3 for volumes.
        sequences: of MR.
        stripped: the brain alone, without skull and scalp.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modalities: tuple[str, ...] = ()
    colour: bool | None = None
    dimensions: Literal[2, 3] | None = None
    sequences: tuple[Sequence, ...] = ()
    stripped: bool = False

    def __str__(self) -> str:
        """In words, such as ``grey MR volumes, FLAIR, without skull``."""
        nouns = {None: "images", 2: "pictures", 3: "volumes"}
        noun = " ".join([*["grey"] * (self.colour is False), *["/".join(self.modalities)] * bool(self.modalities)])
        parts = [f"{noun} {nouns[self.dimensions]}".strip() + " in colour" * (self.colour is True)]
        parts += [" or ".join(map(_shown, self.sequences))] * bool(self.sequences) + ["without skull"] * self.stripped
        return ", ".join(parts)


ANY_IMAGE = Scope()


@dataclass(frozen=True)
class Told:
    """What is known of an image, and where from.

    Attributes:
        values: what it may be, empty where it is not known.
        origin: header, name or values of the image.
    """

    values: frozenset[str] = frozenset()
    origin: str = ""

    def disagrees(self, wanted: Iterable[str]) -> bool:
        """Tell whether it is known and none of those wanted.

        Args:
            wanted: Values.

        Returns:
            False where nothing is known or wanted.
        """
        return bool(self.values) and bool(set(wanted)) and self.values.isdisjoint(wanted)

    def __str__(self) -> str:
        return f"{' or '.join(map(_shown, sorted(self.values)))} ({self.origin})"


@dataclass(frozen=True)
class ImageKind:
    """What is known of a volume's kind.

    Attributes:
        modality: DICOM code.
        sequences: of each channel where these are several sequences.
        coloured: None where three channels may be either.
        is_picture: a plain image.
        is_volume: several slices.
    """

    modality: Told
    sequences: tuple[Told, ...]
    coloured: bool | None
    is_picture: bool
    is_volume: bool


def kind_of(volume: AnyVolume) -> ImageKind:
    """Find what header, name and values of a volume tell of its kind.

    Args:
        volume: ``(C, I, J, K)``.

    Returns:
        Its kind.
    """
    meta, array = volume.meta, volume_array(volume)
    is_picture = bool(meta.get("is_2d", False))
    source = meta.get("source_name") or PurePath(str(meta.get("filename_or_obj") or "")).name  # the latter: MONAI's
    names, headers = str(source).split(" + "), str(meta.get("sequence") or "").split(" + ")
    headers += [""] * (len(names) - len(headers))
    is_rgb = meta.get("is_rgb", None if len(array) == 3 else False)
    sequences = tuple(_sequence(name, header) for name, header in zip(names, headers, strict=False))
    return ImageKind(
        modality=_modality(meta.get("modality"), names, sequences, array, is_picture),
        sequences=sequences,
        coloured=None if is_rgb is None else bool(is_rgb) and _is_coloured(array),
        is_picture=is_picture,
        is_volume=not is_picture and array.shape[3] > 1,
    )


def out_of_scope(expected: Iterable[tuple[str, Scope]], volume: AnyVolume) -> list[str]:
    """Warn for each scope that a volume lies outside of, with the reasons.

    Args:
        expected: Scopes, each behind words such as ``headclip-tiny is for``.
        volume: ``(C, I, J, K)``.

    Returns:
        A warning each.
    """
    kind = kind_of(volume)
    found = ((words, scope, _reasons(scope, kind, volume)) for words, scope in expected)
    return [
        f"{OUT_OF_SCOPE}{words} {scope}; this is {', '.join(reasons)}: do not trust its map, score and findings"
        for words, scope, reasons in found
        if reasons
    ]


def warn_out_of_scope(messages: Iterable[str]) -> None:
    """Raise as Python warnings what of a result's warnings says so: in a pipeline nobody else reads them.

    Args:
        messages: Warnings of a result.
    """
    for words in messages:
        if words.startswith(OUT_OF_SCOPE):
            warnings.warn(words, stacklevel=3)


def scope_of(kinds: Iterable[ImageKind]) -> Scope:
    """Combine the scope that some images make up: what is known of any of them.

    Args:
        kinds: Of the images.

    Returns:
        Their scope.
    """
    seen = list(kinds)
    looks = {kind.coloured for kind in seen}
    pictures, volumes = (any(getattr(kind, name) for kind in seen) for name in ("is_picture", "is_volume"))
    return Scope.model_validate(
        {
            "modalities": sorted({value for kind in seen for value in kind.modality.values}),
            "colour": looks.pop() if len(looks) == 1 else None,
            "dimensions": None if pictures == volumes else 2 if pictures else 3,
            "sequences": sorted({value for kind in seen for told in kind.sequences for value in told.values}),
        }
    )


def _reasons(scope: Scope, kind: ImageKind, volume: AnyVolume) -> list[str]:
    found = []
    if scope.dimensions == 3 and kind.is_picture:
        found.append("a plain picture")
    if scope.dimensions == 2 and kind.is_volume:
        found.append("a volume")
    if kind.modality.disagrees(scope.modalities):
        found.append(str(kind.modality))
    elif (
        scope.modalities == ("CT",) and not kind.modality.values and kind.is_volume and volume_array(volume).min() >= 0
    ):
        found.append("without a value below 0, which HU have")
    if None not in (scope.colour, kind.coloured) and scope.colour != kind.coloured:
        found.append("in colour" if kind.coloured else "grey")
    if not found:
        found += dict.fromkeys(str(told) for told in kind.sequences if told.disagrees(scope.sequences))
    if scope.stripped and kind.is_volume and not kind.modality.disagrees(scope.modalities):
        found += ["a head with skull and scalp"] * shows_skull(volume)
    return found


def _modality(
    header: object, names: list[str], sequences: tuple[Told, ...], array: NDArray[np.float32], is_picture: bool
) -> Told:
    if isinstance(header, str) and header.strip() not in _NO_MODALITY:
        return Told(frozenset([header.strip()]), "its header")
    named = _modalities_in(" ".join(names))
    told = next((told for told in sequences if told.values), Told())
    if told.values and (not named or told.values - _TIME_POINTS):  # a sequence says more than two letters do
        return Told(frozenset(["MR"]), told.origin)
    if named:
        return Told(named | ({"MR"} if told.values else frozenset()), "its name")
    return Told(frozenset(["CT"]), "its values") if not is_picture and looks_like_hu(array) else Told()


def _modalities_in(name: str) -> frozenset[str]:
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z]{2})(?=[a-z]{3})", " ", name)  # headCT, CTscan
    texts = [" ".join(re.findall(r"[a-z0-9]+", text.lower())) for text in (name, parted)]
    return frozenset(
        code for code, words in _MODALITY_WORDS.items() if any(re.search(rf"\b({words})\b", text) for text in texts)
    )


def _sequence(name: str, header: str) -> Told:
    if header:
        return Told(frozenset(header.split("/")), "its header")
    named = sequences_in(name)
    return Told(frozenset(named), "its name") if named else Told()


def _is_coloured(array: NDArray[np.float32]) -> bool:
    return float((np.ptp(array[:3], axis=0) > _COLOURED).mean()) > _COLOURED_SHARE


def shows_skull(volume: AnyVolume) -> bool:
    """Tell whether a head has its skull and scalp: sections larger than a brain's, or a dark shell inside a bright one.

    Looked at coarsely, on the first channel.

    Args:
        volume: ``(C, I, J, K)`` with its affine.

    Returns:
        True for either.
    """
    distances = spacing(np.asarray(volume.affine, dtype=np.float64))
    steps = [max(1, round(_GRID_MM / float(distance))) for distance in distances]
    array = volume_array(volume)[0, :: steps[0], :: steps[1], :: steps[2]]
    sides = np.asarray(distances) * steps
    solid = _filled(foreground(array[None], modality=volume.meta.get("modality")))
    areas = [solid.sum(axis=tuple({0, 1, 2} - {axis})).max() * sides.prod() / sides[axis] for axis in range(3)]
    return bool(max(areas) > _LARGEST_BRAIN) or _dark_shell(array, solid, sides) > _SKULL_DIP


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with small gaps closed, and holes in any section filled."""
    closed = ndimage.binary_closing(np.pad(mask, 2), iterations=2)[2:-2, 2:-2, 2:-2] | mask
    solid = closed.copy()
    for axis in range(3):
        solid |= np.stack([ndimage.binary_fill_holes(part) for part in np.moveaxis(closed, axis, 0)], axis)
    return solid


def _dark_shell(array: NDArray[np.float32], solid: NDArray[np.bool_], sides: NDArray[np.float64]) -> float:
    """How far the signal falls below that of shells further out, relative to the inside over air, 0 for not at all."""
    depth = ndimage.distance_transform_edt(np.pad(solid, 1), sampling=sides)[1:-1, 1:-1, 1:-1]
    inside, air = array[depth > _SHELLS_MM[-1]], array[~solid]
    if not (inside.size and air.size) or np.median(inside) <= air.min():
        return 0.0
    shells = [array[(depth > low) & (depth <= high)] for low, high in pairwise(_SHELLS_MM)]
    levels = [(np.median(shell) - air.min()) / (np.median(inside) - air.min()) for shell in shells if shell.size]
    brightest = np.minimum(np.maximum.accumulate(levels), 1.0) if levels else np.zeros(1)
    return float(np.max(brightest - levels, initial=0.0))


def _shown(value: str) -> str:
    return _SHOWN.get(value, value.upper() if len(value) < 4 else value)
