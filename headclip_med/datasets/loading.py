"""A case → its volume and, on exactly the same grid, where its lesions are."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image, ImageOps

from headclip_med.datasets.case import Case, LabelledVolume
from headclip_med.datasets.names import is_volume
from headclip_med.errors import InputError
from headclip_med.reading import load
from headclip_med.reading.base import GRID_TOLERANCE, LoadedVolume, collected_warnings, in_words, stack, to_metatensor

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

# A mask of at most so many values was drawn as labels; one of more was compressed or smoothed.
_MOST_LABELS = 8
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load_case(case: Case, *, masks_known: bool) -> LabelledVolume:
    """Read a case.

    Args:
        masks_known: the set says where lesions are, so that a normal case has an empty mask.

    Raises:
        InputError: an unreadable file, or a mask on another grid.
    """
    volume = _stacked(case) if case.stacked else stack([load(path) for path in case.images])
    truth, warnings = _truth(case, volume, masks_known)
    label = case.label
    if truth is not None and case.has_mask:
        found = bool(truth.any())
        if label is not None and label is not found:
            said, shown = ("abnormal", "empty") if label else ("normal", "not empty")
            warnings.append(f"labelled {said}, but its mask is {shown}: the mask decides")
        label = found
    image = _digest(volume.array)
    both = hashlib.sha256(image.encode() + (b"" if truth is None else np.packbits(truth).tobytes())).hexdigest()
    return LabelledVolume(
        volume=to_metatensor(volume),
        gt_mask=truth,
        gt_label=label,
        image_sha256=image,
        sha256=both,
        warnings=tuple(warnings),
    )


def _truth(case: Case, volume: LoadedVolume, masks_known: bool) -> tuple[Mask | None, list[str]]:
    shape = volume.array.shape[1:]
    if not case.has_mask:
        return (np.zeros(shape, dtype=bool) if masks_known and case.label is False else None), []
    warnings: list[str] = []
    if case.stacked:
        parts = [
            np.zeros(shape[:2], dtype=bool) if mask is None else _raster_mask(mask, shape[:2], warnings)
            for mask in case.masks
        ]
        return np.stack(parts, axis=-1), warnings
    mask = next(path for path in case.masks if path is not None)
    if is_volume(mask):
        return _volume_mask(mask, volume), warnings
    if shape[2] != 1:
        raise InputError("The mask of a volume must be a volume", mask.name)
    return _raster_mask(mask, shape[:2], warnings)[..., None], warnings


def _raster_mask(path: Path, shape: tuple[int, ...], warnings: list[str]) -> Mask:
    """Lesion pixels ``(I, J)`` = (columns, rows), as images are read."""
    _check_exists(path)
    with in_words(path.name, "image"), Image.open(path) as picture:
        array = np.asarray(ImageOps.exif_transpose(picture))
    if array.ndim == 3:
        array = array[..., :3].max(axis=-1) if array.shape[-1] >= 3 else array[..., 0]
    array = array.T
    if array.shape != shape:
        given = f"{array.shape[0]} × {array.shape[1]} for an image of {shape[0]} × {shape[1]} pixels"
        raise InputError(
            f"The mask {path.name} must have the size of its image", given, "Resize it with nearest neighbours"
        )
    values = np.unique(array)
    if len(values) <= _MOST_LABELS or array.dtype.kind != "u":
        return np.asarray(array > 0)
    half = (int(np.iinfo(array.dtype).max) + 1) // 2
    warnings.append(f"{path.name} has {len(values)} values: from {half} on they count as lesion")
    return np.asarray(array >= half)


def _volume_mask(path: Path, volume: LoadedVolume) -> Mask:
    """Nonzero voxels on the image's grid; a mask of the same grid in another axis order is put in its order."""
    _check_exists(path)
    values, affine = _read_mask(path)
    if values.shape != volume.array.shape[1:] or np.abs(affine - volume.affine).max() > GRID_TOLERANCE:
        values, affine = _reordered(values, affine, volume)
    if values.shape != volume.array.shape[1:]:
        given = f"{values.shape} for an image of {volume.array.shape[1:]}"
        raise _other_grid(path, given)
    apart = float(np.abs(affine - volume.affine).max())
    if apart > GRID_TOLERANCE:
        raise _other_grid(path, f"affines {apart:.3g} mm apart")
    return np.asarray(values != 0)


def _read_mask(path: Path) -> tuple[Values, Values]:
    """Values ``(I, J, K)`` and RAS affine of a mask, which unlike an image may be empty."""
    notes: list[str] = []
    if path.name.lower().endswith((".nii", ".nii.gz")):
        with in_words(path.name, "NIfTI"), collected_warnings(notes, "nibabel", "nibabel.global"):
            image = nib.load(path)
            values, affine = np.asarray(image.dataobj, dtype=np.float64), np.asarray(image.affine, dtype=np.float64)
        values = values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values
    else:
        with in_words(path.name, "NRRD or MetaImage"):
            picture = sitk.ReadImage(str(path))
            values = sitk.GetArrayFromImage(picture).astype(np.float64).T
            affine = np.eye(4)
            affine[:3, :3] = np.array(picture.GetDirection()).reshape(3, 3) * np.array(picture.GetSpacing())
            affine[:3, 3] = picture.GetOrigin()
            affine = _LPS_TO_RAS @ affine
    if values.ndim != 3:
        raise InputError(f"The mask {path.name} must be one volume", f"{values.ndim} dimensions")
    return values, affine


def _reordered(values: Values, affine: Values, volume: LoadedVolume) -> tuple[Values, Values]:
    start, end = nib.io_orientation(affine), nib.io_orientation(volume.affine)
    change = nib.orientations.ornt_transform(start, end)
    moved = nib.orientations.apply_orientation(values, change)
    return moved, affine @ nib.orientations.inv_ornt_aff(change, values.shape)


def _other_grid(path: Path, given: str) -> InputError:
    return InputError(
        f"The mask {path.name} must lie on the grid of its image", given, "Resample it with nearest neighbours first"
    )


def _stacked(case: Case) -> LoadedVolume:
    """Slices of one volume, one after the other along K, 1 mm apart for want of better knowledge."""
    slices = [load(path) for path in case.images]
    first = slices[0]
    for part in slices:
        if part.array.shape[1:3] != first.array.shape[1:3]:
            raise InputError(
                f"The slices of {case.name} must have one size",
                f"{part.meta['source_name']} has {part.array.shape[1:3]}, the first {first.array.shape[1:3]}",
            )
    arrays = [_one_channel(part.array) for part in slices]
    channels = max(len(array) for array in arrays)
    arrays = [np.repeat(array, channels, axis=0) if len(array) < channels else array for array in arrays]
    meta = first.meta.copy()
    meta["source_name"], meta["is_rgb"], meta["is_2d"] = case.name, channels == 3, False
    meta["slice_normal"] = [0.0, 0.0, 1.0]
    meta["reader_warnings"] = list(dict.fromkeys(note for part in slices for note in part.meta["reader_warnings"]))
    meta["content_sha256"] = hashlib.sha256("".join(p.meta["content_sha256"] for p in slices).encode()).hexdigest()
    return replace(first, array=np.concatenate(arrays, axis=-1), meta=meta)


def _one_channel(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A grey image saved in colour is grey."""
    grey = len(array) == 3 and (array[0] == array[1]).all() and (array[0] == array[2]).all()
    return array[:1] if grey else array


def _digest(array: NDArray[np.float32]) -> str:
    plain = np.ascontiguousarray(_one_channel(array))
    return hashlib.sha256(str(plain.shape).encode() + plain.tobytes()).hexdigest()


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise InputError("The mask must be an existing file", path.name)
