"""Mask files → where the lesions are, on exactly the grid of their image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from headclip_med.datasets.case import Case
from headclip_med.datasets.planes import read_plane
from headclip_med.errors import InputError
from headclip_med.geometry import check_affine
from headclip_med.reading import nifti
from headclip_med.reading import sitk as itk
from headclip_med.reading.base import GRID_TOLERANCE, LoadedVolume
from headclip_med.reading.content import existing_path, identify
from headclip_med.types import Affine

Mask = NDArray[np.bool_]
Values = NDArray[np.generic]

# A picture of at most so many values was drawn as labels; one of more was compressed or smoothed.
_MOST_LABELS = 8

# How warnings about masks begin; the check of a set tells them by it.
NOT_BINARY = "the mask is not binary"


class MaskError(InputError):
    """A mask that cannot be read."""


class GridError(MaskError):
    """A mask that lies on another grid than its image."""


def read_truth(case: Case, volume: LoadedVolume, warnings: list[str]) -> Mask:
    """``(I, J, K)`` of the volume; what had to be decided goes to ``warnings``.

    Raises:
        GridError: another size or place than the image's. MaskError: a mask that cannot be read.
    """
    shape = volume.array.shape[1:]
    with _as_mask_error():
        if case.stacked:
            parts = [_blank(shape) if path is None else _picture(path, shape, warnings) for path in case.masks]
            return np.stack(parts, axis=-1)
        path = next(path for path in case.masks if path is not None)
        if not existing_path(path).is_file():
            raise MaskError("A mask must be a file", path.name)
        kind = identify(path)
        if kind == "dicom":
            raise MaskError(f"The mask {path.name} must not be DICOM", "DICOM", "Convert it to NIfTI")
        if kind in ("nifti", "nrrd", "mha"):
            return _volume(path, volume, warnings, *(_nifti(path) if kind == "nifti" else _itk(path, kind)))
        if shape[2] != 1:
            raise GridError(f"The mask {path.name} must be a volume as its image is", "a picture")
        return _picture(path, shape, warnings)[..., None]


@contextmanager
def _as_mask_error() -> Iterator[None]:
    try:
        yield
    except MaskError:
        raise
    except InputError as error:
        raise MaskError(error.must, error.given, error.do) from error


def _blank(shape: tuple[int, ...]) -> Mask:
    return np.zeros(shape[:2], dtype=bool)


# --- pictures ----------------------------------------------------------------------------------------------------


def _picture(path: Path, shape: tuple[int, ...], warnings: list[str]) -> Mask:
    """``(I, J)``; a coloured mask counts by its highest channel."""
    values = read_plane(path, []).max(axis=0)
    if values.shape != shape[:2]:
        given = f"{values.shape[0]} × {values.shape[1]} for an image of {shape[0]} × {shape[1]} pixels"
        raise GridError(f"The mask {path.name} must have the size of its image", given, _RESAMPLE)
    distinct = np.unique(values)
    if len(distinct) <= _MOST_LABELS:
        return np.asarray(values > 0)
    half = _half(values)
    warnings.append(f"{NOT_BINARY}: {path.name} has {len(distinct)} values, from {half:g} on they count as lesion")
    return np.asarray(values >= half)


def _half(values: Values) -> float:
    """Half of the range: of 8 bits, of 16, or of the values themselves where they are of another kind."""
    highest = float(values.max())
    if values.dtype.kind == "f":
        return max(highest, 1.0) / 2
    return next((limit / 2 for limit in (2.0**8, 2.0**16) if highest < limit), highest / 2)


# --- volumes -----------------------------------------------------------------------------------------------------

_RESAMPLE = "Resample the mask to the image with nearest neighbours"


def _volume(path: Path, volume: LoadedVolume, warnings: list[str], values: Values, affine: Affine) -> Mask:
    """Nonzero voxels; a mask of the image's grid in another order of axes is put in its order."""
    shape = volume.array.shape[1:]
    if values.shape != shape or _apart(affine, volume.affine) > GRID_TOLERANCE:
        values, affine = _reordered(values, check_affine(affine, path.name), volume.affine)
    if values.shape != shape:
        raise GridError(f"The mask {path.name} must lie on its image's grid", f"{values.shape} for {shape}", _RESAMPLE)
    apart = _apart(affine, volume.affine)
    if apart > GRID_TOLERANCE:
        given = f"affines {apart:.3g} mm apart"
        raise GridError(f"The mask {path.name} must lie on its image's grid", given, _RESAMPLE)
    if values.dtype.kind != "f":
        return np.asarray(values != 0)
    finite = np.isfinite(values)
    if not finite.all():
        warnings.append(f"{NOT_BINARY}: {path.name} holds NaN or Inf, which count as no lesion")
    if (values[finite] % 1 != 0).any():
        warnings.append(f"{NOT_BINARY}: {path.name} holds fractions, and all above or below 0 count as lesion")
    return np.asarray((values != 0) & finite)


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
