"""Whatever a caller gives → one volume ``(C, I, J, K)`` float32 with a checked affine; with torch or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import RAS_TO_LPS, check_affine
from headclip_med.base.types import Affine, VolumeMeta
from headclip_med.base.volume import AnyVolume, LoadedVolume, to_metatensor, volume_array, volume_meta
from headclip_med.reading.volumes import load_volume

if TYPE_CHECKING:
    import torch
    from monai.data import MetaTensor

# Of a picture; where the first axis is longer, the channels are not first.
_MOST_CHANNELS = 4

# Share of a range by which interpolation or noise may leave it.
OVERSHOOT = 0.1

Source: TypeAlias = "str | Path | MetaTensor | LoadedVolume | NDArray[np.float32] | Sequence[str | Path]"


def load_source(
    source: Source,
    *,
    affine: Affine | None = None,
    modality: str | None = None,
    is_rgb: bool = False,
    series: str | None = None,
    time_index: int | None = None,
    on_irregular: str = "error",
) -> LoadedVolume:
    """Load whatever was given.

    Args:
        source: Path, paths, an array ``(C, I, J, K)``, a MetaTensor or a loaded volume.
        affine: Of an array, voxel index → RAS mm, ``(4, 4)``. A file and a loaded volume bring their own.
        modality: Of an array, DICOM code.
        is_rgb: Of an array, three colour channels.
        series: Which series of a DICOM folder.
        time_index: Which volume of a 4-D file, 0-based.
        on_irregular: What to do with irregular DICOM series.

    Returns:
        ``(C, I, J, K)`` float32, its affine and its metadata.

    Raises:
        InputError: a source of another kind, an option that does not belong to it, or values that are no image.
    """
    if isinstance(source, np.ndarray) or _is_bare_tensor(source):
        meta = {"source_format": "array", "source_name": "array", "modality": modality, "is_rgb": is_rgb}
        return _checked_volume(_real_numbers(source), _array_affine(affine, source), meta)
    if affine is not None or modality is not None or is_rgb:
        raise InputError(
            "An affine, a modality and is_rgb must be given with an array only",
            type(source).__name__,
            "Leave them out: a file and a loaded volume bring their own",
        )
    if isinstance(source, LoadedVolume):
        return _checked_volume(source.array, source.affine, source.meta)
    if _is_metatensor(source):
        return _foreign_volume(source)
    if not _are_paths(source):
        raise InputError(
            "The source must be a path, a list of paths, a MetaTensor or an array with its affine",
            type(source).__name__,
        )
    return load_volume(source, series=series, time=time_index, on_irregular=on_irregular)


def with_monai_meta(volume: AnyVolume) -> MetaTensor:
    """Turn a volume into a MetaTensor, which says what MONAI's transforms look for where it was read from a file.

    Args:
        volume: Of any kind.

    Returns:
        ``(C, I, J, K)`` with a float64 affine.
    """
    import torch

    from_file = volume.meta.get("source_format") not in (None, "array") and "original_affine" not in volume.meta
    if isinstance(volume, LoadedVolume) and from_file:
        return to_metatensor(volume)
    return with_meta(torch.from_numpy(volume_array(volume)), np.asarray(volume.affine), volume.meta)


def with_meta(data: torch.Tensor, affine: Affine, meta: Mapping[str, Any]) -> MetaTensor:
    """Make a MetaTensor with an affine, whatever affine the metadata may carry.

    Args:
        data: ``(C, I, J, K)``.
        affine: Voxel index → RAS mm, ``(4, 4)``.
        meta: Metadata.

    Returns:
        The data with both.
    """
    import torch
    from monai.data import MetaTensor

    rest = {key: value for key, value in meta.items() if key != "affine"}
    return MetaTensor(data, affine=torch.from_numpy(affine.copy()), meta=rest)


def _are_paths(source: Any) -> bool:
    if isinstance(source, (str, Path)):
        return True
    return isinstance(source, (list, tuple)) and all(isinstance(path, (str, Path)) for path in source)


def _is_metatensor(source: Any) -> bool:
    """By its interface: asking for its class would import MONAI."""
    return hasattr(source, "as_tensor") and hasattr(source, "meta")


def _is_bare_tensor(source: Any) -> bool:
    return hasattr(source, "detach") and not _is_metatensor(source)


def _foreign_volume(source: Any) -> LoadedVolume:
    volume = placed_volume(source)
    meta = dict(volume.meta)
    array = _colour(volume.array, meta) if meta.get("is_rgb") else volume.array
    return _checked_volume(array, volume.affine, meta)


def placed_volume(source: MetaTensor) -> LoadedVolume:
    """Take a MetaTensor that someone else loaded, only when its place in space is certain, with its values as they are.

    Args:
        source: ``(C, I, J, K)``, or ``(C, I, J)`` for a 2-D image, which gets K = 1.

    Returns:
        ``(C, I, J, K)``, its affine to RAS mm and its metadata.

    Raises:
        InputError: another shape or space, operations that are pending, or no real numbers.
    """
    check_metatensor(source, "A MetaTensor")
    shape, meta = tuple(source.shape), dict[str, Any](volume_meta(source))
    is_plane = len(shape) == 3 and len(meta.get("spatial_shape", ())) == 2 and shape[0] <= _MOST_CHANNELS
    if len(shape) != 4 and not is_plane:
        do = "Put EnsureChannelFirstd after LoadImaged; a single slice of a volume has K = 1: image[..., None]"
        raise InputError("A picture must have the shape (C, I, J), a volume the shape (C, I, J, K)", shape, do)
    space = str(meta.get("space", "RAS"))
    if not space.upper().endswith("RAS"):
        raise InputError("A MetaTensor's affine must lead to RAS mm", f"space {space}", "Convert it first")
    affine, array = np.asarray(source.affine, dtype=np.float64), _real_numbers(source.as_tensor())
    has_place = "original_affine" in meta or bool(meta.get("source_format"))
    if is_plane:
        array = array[..., None]
        if not has_place:  # a picture: MONAI's readers give it no affine of its own
            affine, meta = RAS_TO_LPS.copy(), {"is_2d": True, "is_rgb": len(array) == 3, **meta}
    elif not has_place and np.array_equal(affine, np.eye(4)):
        _note(meta, "the affine is the identity: voxels are taken as cubes of 1 mm in RAS order")
    return LoadedVolume(array, affine, cast("VolumeMeta", meta))


def check_metatensor(source: MetaTensor, name: str) -> None:
    """Refuse what no volume and no slices can be, whatever its shape.

    Args:
        source: Anything that a pipeline gave.
        name: What to call it in the message.

    Raises:
        InputError: a batch, nothing in it, pending operations, or values that are no finite real numbers.
    """
    shape = tuple(source.shape)
    if source.is_batch or len(shape) > 4:
        raise InputError(f"{name} must be one case", f"a batch {shape}", "Take it apart with decollate_batch")
    if 0 in shape:
        raise InputError(f"{name} must not be empty", f"the shape {shape}", "Check what was cropped")
    if source.pending_operations:
        given, do = f"{len(source.pending_operations)} of them", "End the lazy pipeline with ApplyPendingd"
        raise InputError(f"{name} must have no pending lazy operations", given, do)
    if source.is_complex() or source.device.type == "meta":
        raise InputError(f"{name} must hold real numbers", f"dtype {source.dtype} on the device {source.device}")
    if not bool(source.as_tensor().isfinite().all()):
        do = "Replace them first, for example with torch.nan_to_num"
        raise InputError(f"{name} must be finite", "NaN or Inf among its values", do)


def _colour(array: NDArray[np.float32], meta: dict[str, Any]) -> NDArray[np.float32]:
    """Colour in [0, 255], also where ``ScaleIntensityd`` brought it to [0, 1]; a resampled picture may overshoot."""
    low, high = float(array.min()), float(array.max())
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        _note(meta, "colour in [0, 1] is taken as parts of 255")
        return array * np.float32(255)
    if low < -OVERSHOOT * high or high > (1 + OVERSHOOT) * 255:
        raise InputError(
            "Colour must lie in [0, 255] or [0, 1]",
            f"values from {low:.4g} to {high:.4g}",
            "Leave the normalisation out: the model's own comes later",
        )
    return array


def _note(meta: dict[str, Any], words: str) -> None:
    meta["reader_warnings"] = [*meta.get("reader_warnings", []), words]


def _real_numbers(array: Any) -> NDArray[np.float32]:
    """An array or tensor as float32, in memory of its own order."""
    if not isinstance(array, np.ndarray):
        if array.is_complex():
            raise InputError("An array must hold real numbers", f"dtype {array.dtype}")
        array = array.detach().cpu().float().numpy()
    if array.dtype.kind not in "biuf":
        raise InputError("An array must hold real numbers", f"dtype {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _array_affine(affine: Affine | None, array: Any) -> Affine:
    if affine is None:
        raise InputError(
            "An array must come with its affine (voxel → RAS mm)",
            f"an array of shape {tuple(array.shape)}",
            "Pass affine=..., or numpy.eye(4) if the voxels have no place in space",
        )
    try:
        return np.asarray(affine, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("The affine must be a 4×4 matrix of numbers", type(affine).__name__) from error


def _checked_volume(array: NDArray[np.float32], affine: Affine, meta: Mapping[str, Any]) -> LoadedVolume:
    data = array[None] if array.ndim == 3 else array
    if data.ndim != 4 or 0 in data.shape:
        raise InputError("A volume must have the shape (C, I, J, K) or (I, J, K), not empty", tuple(array.shape))
    finite = np.isfinite(data)
    if not finite.all():
        raise InputError(
            "A volume's values must be finite",
            f"{data.size - int(finite.sum())} NaN or Inf voxels",
            "Replace them first",
        )
    if data.min() == data.max():
        raise InputError("A volume must contain an image", f"every voxel is {float(data.min())}")
    allow_shear = bool(meta.get("sheared", False))
    matrix = check_affine(affine, str(meta.get("source_name", "the volume")), allow_shear=allow_shear)
    return LoadedVolume(data, matrix, cast("VolumeMeta", dict(meta)))
