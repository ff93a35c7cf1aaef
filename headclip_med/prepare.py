"""What was given and asked → what is decided before the first slice runs: volume, planes, window, channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from headclip_med.errors import InputError
from headclip_med.geometry import acquisition_plane, check_affine
from headclip_med.intensity import CHANNELS, Channels, parse_window
from headclip_med.packs.domains import Domain, window_of
from headclip_med.reading import read_volume
from headclip_med.types import PLANES, Affine, Plane

Source: TypeAlias = "str | Path | MetaTensor | NDArray[np.float32] | Sequence[str | Path]"

# A CT volume that does not say so: integers that reach from air to bone.
_AIR_HU, _BONE_HU = -900.0, 300.0


def to_volume(
    source: Source,
    *,
    affine: Affine | None = None,
    modality: str | None = None,
    is_rgb: bool = False,
    series: str | None = None,
    time_index: int | None = None,
) -> MetaTensor:
    """Whatever was given → ``(C, I, J, K)`` float32 on the CPU with a checked affine.

    ``affine``, ``modality`` and ``is_rgb`` belong to an array; a file and a MetaTensor bring their own.

    Raises:
        InputError: a source of another kind, an option that does not belong to it, or values that are no image.
    """
    if isinstance(source, (np.ndarray, torch.Tensor)) and not isinstance(source, MetaTensor):
        meta = {"source_format": "array", "source_name": "array", "modality": modality, "is_rgb": is_rgb}
        return _checked_volume(_as_tensor(source), _array_affine(affine, source), meta)
    if affine is not None or modality is not None or is_rgb:
        raise InputError(
            "An affine, a modality and is_rgb must be given with an array only",
            type(source).__name__,
            "Leave them out: a file and a MetaTensor bring their own",
        )
    if isinstance(source, MetaTensor):
        return _foreign_volume(source)
    paths = [source] if isinstance(source, (str, Path)) else source
    if not isinstance(paths, (list, tuple)) or not all(isinstance(p, (str, Path)) for p in paths):
        raise InputError(
            "The source must be a path, a list of paths, a MetaTensor or an array with its affine",
            type(source).__name__,
        )
    return read_volume(source, series=series, time=time_index)


def _foreign_volume(source: MetaTensor) -> MetaTensor:
    """A MetaTensor that someone else loaded: taken only when its meaning is certain."""
    if source.ndim != 4:
        raise InputError(
            "A MetaTensor must have the shape (C, I, J, K)",
            tuple(source.shape),
            "A 2-D image has K = 1: use image[..., None]",
        )
    space = str(source.meta.get("space", "RAS"))
    if not space.upper().endswith("RAS"):
        raise InputError("A MetaTensor's affine must lead to RAS mm", f"space {space}", "Convert it first")
    if source.pending_operations:
        raise InputError(
            "A MetaTensor must have no pending lazy operations",
            f"{len(source.pending_operations)} of them",
            "End the lazy pipeline with ApplyPendingd",
        )
    return _checked_volume(source.as_tensor(), np.asarray(source.affine), dict(source.meta))


def _as_tensor(array: NDArray[np.float32] | torch.Tensor) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu().numpy()
    if array.dtype.kind not in "biuf":
        raise InputError("An array must hold real numbers", f"dtype {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _array_affine(affine: Affine | None, array: NDArray[np.float32] | torch.Tensor) -> Affine:
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


def _checked_volume(tensor: torch.Tensor, affine: Affine, meta: dict[str, Any]) -> MetaTensor:
    data = tensor.detach().cpu().float()
    data = data[None] if data.ndim == 3 else data
    if data.ndim != 4 or 0 in data.shape:
        raise InputError("A volume must have the shape (C, I, J, K) or (I, J, K), not empty", tuple(tensor.shape))
    if not torch.isfinite(data).all():
        count = int((~torch.isfinite(data)).sum())
        raise InputError("A volume's values must be finite", f"{count} NaN or Inf voxels", "Replace them first")
    if data.min() == data.max():
        raise InputError("A volume must contain an image", f"every voxel is {float(data.min())}")
    return with_meta(data, check_affine(affine, str(meta.get("source_name", "the volume"))), meta)


def with_meta(data: torch.Tensor, affine: Affine, meta: dict[str, Any]) -> MetaTensor:
    """A MetaTensor with ``affine``, whatever affine ``meta`` may carry."""
    rest = {key: value for key, value in meta.items() if key != "affine"}
    return MetaTensor(data, affine=torch.from_numpy(affine.copy()), meta=rest)


def choose_planes(
    affine: Affine, volume: MetaTensor, plane: str | Sequence[str] | None
) -> tuple[tuple[Plane, ...], str]:
    """The planes to run, the primary one first, and why these."""
    if bool(volume.meta.get("is_2d", False)):
        return ("axial",), "a 2-D image has one plane"
    if plane is None:
        normal = volume.meta.get("slice_normal")
        shape = (volume.shape[1], volume.shape[2], volume.shape[3])
        chosen, reason = acquisition_plane(affine, None if normal is None else np.asarray(normal), shape)
        return (chosen,), reason
    if not isinstance(plane, (str, list, tuple)):
        raise InputError("A plane must be given by name", type(plane).__name__)
    names: list[str] = plane.replace(" ", "").split(",") if isinstance(plane, str) else list(plane)
    names = list(PLANES) if names == ["all"] else names
    wrong = [name for name in names if name not in PLANES]
    if wrong or not names:
        raise InputError(f"A plane must be one of {', '.join(PLANES)} or all", ", ".join(wrong) or "nothing")
    return tuple(p for name in dict.fromkeys(names) for p in PLANES if p == name), "chosen by the user"


def choose_window(
    window: str | tuple[float, float] | None, domain: Domain, volume: MetaTensor
) -> tuple[tuple[float, float] | None, str]:
    """Level and width, and what was assumed in words."""
    if bool(volume.meta.get("is_rgb", False)):
        return None, "" if window is None else "a colour image has no window: the window option was ignored"
    if window is not None:
        return _given_window(window), ""
    if (level_width := window_of(domain)) is not None:
        return level_width, ""
    modality, data = volume.meta.get("modality"), volume.as_tensor()
    if modality == "CT":
        return _ct_window(volume)
    if modality is None and data.min() <= _AIR_HU and data.max() >= _BONE_HU:
        return None, "values look like CT (HU); percentiles are used: give --window or --domain if it is CT"
    return None, ""


def _given_window(window: str | tuple[float, float]) -> tuple[float, float]:
    if isinstance(window, str):
        return parse_window(window)
    if not isinstance(window, (list, tuple)) or len(window) != 2:
        raise InputError("A window must be a name, LEVEL/WIDTH, or a pair (level, width)", window)
    return parse_window(f"{window[0]}/{window[1]}")


def _ct_window(volume: MetaTensor) -> tuple[tuple[float, float], str]:
    """The window stored in the file, or the brain window; either is said."""
    stored = volume.meta.get("default_window")
    if stored is not None and stored[1] > 0:
        level, width = float(stored[0]), float(stored[1])
        return (level, width), f"CT without a window or a domain: the file's own window {level:g}/{width:g} is used"
    return parse_window("brain"), "CT without a window or a domain: the brain window 40/80 is used"


def choose_channels(channels: Channels | None, domain: Domain) -> Channels:
    """The asked way to make three channels, or the domain's."""
    if channels is not None and channels not in CHANNELS:
        raise InputError(f"Channels must be one of {', '.join(CHANNELS)}", channels)
    return channels or domain.channels


def source_name(volume: MetaTensor) -> str:
    """What to call a volume in a message."""
    return str(volume.meta.get("source_name", "the volume"))
