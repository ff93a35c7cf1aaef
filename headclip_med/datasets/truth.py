"""Mask files → where the lesions are, on exactly the grid of their image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import check_affine
from headclip_med.base.types import Affine
from headclip_med.base.volume import LoadedVolume
from headclip_med.datasets.case import Case
from headclip_med.datasets.mask_pictures import NOT_BINARY, distinct_values, picture_labels
from headclip_med.datasets.values import COLOUR, MaskValues, ask_for_values
from headclip_med.reading import nifti
from headclip_med.reading import sitk as itk
from headclip_med.reading.checks import GRID_TOLERANCE
from headclip_med.reading.content import existing_path, identify

Mask = NDArray[np.bool_]
Values = NDArray[np.generic]

_ROUNDING = 1e-3  # scaled headers give 0.9999 for 1


class MaskError(InputError):
    """A mask that cannot be read."""


class GridError(MaskError):
    """A mask that lies on another grid than its image."""


class MeaningError(MaskError):
    """A mask whose values may mean anything.

    Attributes:
        values: those beside 0.
    """

    def __init__(self, must: str, given: object = "", do: str = "", values: Sequence[int] = ()) -> None:
        """Keep the values beside the message.

        Args:
            must, given, do: As of :class:`headclip_med.base.errors.InputError`.
            values: In the mask beside 0.
        """
        super().__init__(must, given, do)
        self.values = tuple(values)


class CaseTruth(NamedTuple):
    """Where the lesions of a case are.

    Attributes:
        lesion: ``(I, J, K)`` bool.
        ignored: ``(I, J, K)`` bool where nothing is known, None for nowhere.
        values: of the masks beside 0.
    """

    lesion: Mask
    ignored: Mask | None
    values: tuple[int, ...]


def read_case_truth(case: Case, volume: LoadedVolume, warnings: list[str]) -> CaseTruth:
    """Read the truth of a case on the grid of its volume.

    Several masks of a case are one truth together: a voxel is lesion where any of them says so.

    Args:
        case: With its masks.
        volume: The case's image.
        warnings: What had to be decided is added to them.

    Returns:
        Lesions, and where nothing is known.

    Raises:
        GridError: another size or place than the image's.
        MeaningError: several values of unknown meaning.
        MaskError: a mask that cannot be read.
    """
    with _as_mask_error():
        if case.stacked:
            shape = volume.array.shape[1:3]
            parts = [_slice_truth(path, shape, case.values, warnings) for path in case.masks]
            return _stacked(parts)
        found = [_file_truth(path, volume, case.values, warnings) for path in case.masks if path is not None]
        return found[0] if len(found) == 1 else _united(found)


@contextmanager
def _as_mask_error() -> Iterator[None]:
    try:
        yield
    except MaskError:
        raise
    except InputError as error:
        raise MaskError(error.must, error.given, error.do) from error


def _slice_truth(path: Path | None, shape: tuple[int, ...], values: MaskValues, warnings: list[str]) -> CaseTruth:
    if path is None:
        return CaseTruth(np.zeros(shape, dtype=bool), None, ())
    return _picture(path, shape, values, warnings)


def _file_truth(path: Path, volume: LoadedVolume, values: MaskValues, warnings: list[str]) -> CaseTruth:
    shape = volume.array.shape[1:]
    if not existing_path(path).is_file():
        raise MaskError("A mask must be a file", path.name)
    kind = identify(path)
    if kind == "dicom":
        raise MaskError(f"The mask {path.name} must not be DICOM", "DICOM", "Convert it to NIfTI")
    if kind in ("nifti", "nrrd", "mha"):
        labels = _volume(path, volume, warnings, *(_nifti(path) if kind == "nifti" else _itk(path, kind)))
        return _meant(labels, values, path.name)
    if shape[2] != 1:
        raise GridError(f"The mask {path.name} must be a volume as its image is", "a picture")
    return _stacked([_picture(path, shape[:2], values, warnings)])


def _stacked(parts: Sequence[CaseTruth]) -> CaseTruth:
    """Slices as one volume along K."""
    ignored = None
    if any(part.ignored is not None for part in parts):
        blank = np.zeros(parts[0].lesion.shape, dtype=bool)
        ignored = np.stack([blank if part.ignored is None else part.ignored for part in parts], axis=-1)
    values = tuple(sorted({value for part in parts for value in part.values}))
    return CaseTruth(np.stack([part.lesion for part in parts], axis=-1), ignored, values)


def _united(parts: Sequence[CaseTruth]) -> CaseTruth:
    lesion = np.logical_or.reduce([part.lesion for part in parts])
    unknown = [part.ignored for part in parts if part.ignored is not None]
    ignored = np.logical_or.reduce(unknown) & ~lesion if unknown else None
    return CaseTruth(lesion, ignored, tuple(sorted({value for part in parts for value in part.values})))


def shows_something(path: Path) -> bool:
    """Tell whether any pixel of a mask is not 0.

    Args:
        path: A mask.

    Returns:
        False too for one that cannot be read.
    """
    try:
        kind = identify(existing_path(path))
        if kind in ("nifti", "nrrd", "mha"):
            return bool((_nifti(path) if kind == "nifti" else _itk(path, kind))[0].any())
        return bool(picture_labels(path, []).any())
    except InputError:
        return False


# --- meaning -----------------------------------------------------------------------------------------------------


def _meant(labels: Values, values: MaskValues, name: str) -> CaseTruth:
    """Labels → lesion and ignored voxels."""
    found = tuple(int(value) for value in distinct_values(labels))
    beside = tuple(value for value in found if value != 0)
    open_values = [value for value in beside if value not in values.ignored]
    if values.lesion is None:
        if len(open_values) > 1 or min(beside, default=0) < 0:
            error = ask_for_values(values, beside, f"the mask {name}")
            raise MeaningError(error.must, error.given, error.do, beside)
    elif values.names and not values.chosen:
        strange = [value for value in open_values if value not in values.names]
        if strange:
            must = f"The mask {name} must hold no values but those that the set names ({values.shown(values.names)})"
            raise MaskError(must, values.shown(strange), "Correct it, or name the lesions with --lesion-values")
    lesion = np.isin(labels, values.lesion) if values.lesion else (labels != 0) & ~np.isin(labels, values.ignored)
    ignored = np.isin(labels, values.ignored) if set(found) & set(values.ignored) else None
    return CaseTruth(np.asarray(lesion), ignored, beside)


def _picture(path: Path, shape: tuple[int, ...], values: MaskValues, warnings: list[str]) -> CaseTruth:
    in_colour = any(value >= COLOUR for value in values.lesion or ())
    named = values.chosen or bool(values.lesion or values.ignored or values.names)
    labels = picture_labels(path, warnings, in_colour=in_colour, named=named)
    if labels.shape != shape:
        given = f"{labels.shape[0]} × {labels.shape[1]} for an image of {shape[0]} × {shape[1]} pixels"
        raise GridError(f"The mask {path.name} must have the size of its image", given, _RESAMPLE)
    return _meant(labels, values, path.name)


# --- volumes -----------------------------------------------------------------------------------------------------

_RESAMPLE = "Resample the mask to the image with nearest neighbours"


def _volume(path: Path, volume: LoadedVolume, warnings: list[str], values: Values, affine: Affine) -> Values:
    """Labels on the image's grid; a mask of the same grid in another order of axes is put in its order."""
    shape = volume.array.shape[1:]
    if values.shape != shape or _apart(affine, volume.affine) > GRID_TOLERANCE:
        values, affine = _reordered(values, check_affine(affine, path.name), volume.affine)
    if values.shape != shape:
        raise GridError(f"The mask {path.name} must lie on its image's grid", f"{values.shape} for {shape}", _RESAMPLE)
    apart = _apart(affine, volume.affine)
    if apart > GRID_TOLERANCE:
        given = f"affines {apart:.3g} mm apart"
        raise GridError(f"The mask {path.name} must lie on its image's grid", given, _RESAMPLE)
    return _whole(values, path.name, warnings) if values.dtype.kind == "f" else values


def _whole(values: Values, name: str, warnings: list[str]) -> Values:
    """Labels of a mask saved in fractions; a smoothed mask of 0 to 1 counts from a half on."""
    finite = np.isfinite(values)
    if not finite.all():
        warnings.append(f"{NOT_BINARY}: {name} holds NaN or Inf, which count as no lesion")
    known = np.where(finite, values, 0)
    rounded = np.rint(known)
    if (np.abs(known - rounded) <= _ROUNDING).all():
        return rounded.astype(np.int64)
    if known.min() < 0 or known.max() > 1 + _ROUNDING:
        given = f"fractions between {known.min():g} and {known.max():g}"
        do = "Save whole numbers; a mask that was resampled must be resampled with nearest neighbours"
        raise MaskError(f"The mask {name} must hold whole numbers", given, do)
    warnings.append(f"{NOT_BINARY}: {name} holds fractions, from 0.5 on they count as lesion")
    return (known >= 0.5).astype(np.int64)


def _apart(affine: Affine, other: Affine) -> float:
    return float(np.abs(affine - other).max())


def _reordered(values: Values, affine: Affine, wanted: Affine) -> tuple[Values, Affine]:
    """The same voxels with axes swapped and flipped as in ``wanted``; nothing is interpolated."""
    change = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.io_orientation(wanted))
    moved = nib.orientations.apply_orientation(values, change)
    return moved, affine @ nib.orientations.inv_ornt_aff(change, values.shape)


def _nifti(path: Path) -> tuple[Values, Affine]:
    """Values and affine by the reader's own rules, without its refusal of constant volumes."""
    values, affine, _ = nifti.read_stored(nifti.pair_of(path), None, path.name, [])
    return values.max(axis=0), affine


def _itk(path: Path, kind: str) -> tuple[Values, Affine]:
    """As :func:`_nifti` for NRRD and MetaImage."""
    stored = itk.read_stored(path, kind, None, [])
    return stored.array.max(axis=0), stored.affine
