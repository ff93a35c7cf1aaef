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


def to_volume(source: Source, affine: Affine | None, series: str | None, time_index: int | None) -> MetaTensor:
    """Whatever was given → ``(C, I, J, K)`` float32 on the CPU with a checked affine."""
    if isinstance(source, MetaTensor):
        return _checked_array(source.as_tensor(), np.asarray(source.affine), dict(source.meta))
    if isinstance(source, (np.ndarray, torch.Tensor)):
        if affine is None:
            raise InputError(
                "An array must come with its affine (voxel → RAS mm)",
                f"an array of shape {tuple(source.shape)}",
                "Pass affine=..., or numpy.eye(4) if the voxels have no place in space",
            )
        return _checked_array(
            torch.as_tensor(source), np.asarray(affine), {"source_format": "array", "source_name": "array"}
        )
    return read_volume(source, series=series, time=time_index)


def _checked_array(tensor: torch.Tensor, affine: Affine, meta: dict[str, Any]) -> MetaTensor:
    data = tensor.detach().cpu().float()
    data = data[None] if data.ndim == 3 else data
    if data.ndim != 4 or 0 in data.shape:
        raise InputError("A volume must have the shape (C, I, J, K) or (I, J, K), not empty", tuple(tensor.shape))
    if not torch.isfinite(data).all():
        count = int((~torch.isfinite(data)).sum())
        raise InputError("A volume's values must be finite", f"{count} NaN or Inf voxels", "Replace them first")
    if data.min() == data.max():
        raise InputError("A volume must contain an image", f"every voxel is {float(data.min())}")
    checked = check_affine(affine, str(meta.get("source_name", "the volume")))
    return with_meta(data, checked, meta)


def with_meta(data: torch.Tensor, affine: Affine, meta: dict[str, Any]) -> MetaTensor:
    """A MetaTensor with ``affine``, whatever affine ``meta`` may carry."""
    rest = {key: value for key, value in meta.items() if key != "affine"}
    return MetaTensor(data, affine=torch.from_numpy(affine.copy()), meta=rest)


def choose_planes(
    affine: Affine, volume: MetaTensor, plane: str | Sequence[str] | None
) -> tuple[tuple[Plane, ...], str]:
    """The planes to run, the primary one first, and why when nobody asked for one."""
    if bool(volume.meta.get("is_2d", False)):
        return ("axial",), "" if plane is None else "a 2-D image has one plane: the plane option was ignored"
    if plane is None:
        normal = volume.meta.get("slice_normal")
        chosen, reason = acquisition_plane(affine, None if normal is None else np.asarray(normal))
        return (chosen,), f"plane {chosen}: {reason}"
    names = plane.replace(" ", "").split(",") if isinstance(plane, str) else list(plane)
    names = list(PLANES) if names == ["all"] else names
    wrong = [name for name in names if name not in PLANES]
    if wrong or not names:
        raise InputError(f"A plane must be one of {', '.join(PLANES)} or all", ", ".join(wrong) or "nothing")
    return tuple(p for name in dict.fromkeys(names) for p in PLANES if p == name), ""


def choose_window(
    window: str | tuple[float, float] | None, domain: Domain, volume: MetaTensor
) -> tuple[tuple[float, float] | None, str]:
    """Level and width, and what was assumed in words."""
    if bool(volume.meta.get("is_rgb", False)):
        return None, "" if window is None else "a colour image has no window: the window option was ignored"
    if window is not None:
        return parse_window(window) if isinstance(window, str) else parse_window(f"{window[0]}/{window[1]}"), ""
    if (level_width := window_of(domain)) is not None:
        return level_width, ""
    modality, data = volume.meta.get("modality"), volume.as_tensor()
    if modality == "CT":
        return parse_window("brain"), "CT without a window or a domain: the brain window 40/80 is used"
    if modality is None and data.min() <= _AIR_HU and data.max() >= _BONE_HU:
        return None, "values look like CT (HU); percentiles are used: give --window or --domain if it is CT"
    return None, ""


def choose_channels(channels: Channels | None, domain: Domain) -> Channels:
    """The asked way to make three channels, or the domain's."""
    if channels is not None and channels not in CHANNELS:
        raise InputError(f"Channels must be one of {', '.join(CHANNELS)}", channels)
    return channels or domain.channels


def source_name(volume: MetaTensor) -> str:
    """What to call a volume in a message."""
    return str(volume.meta.get("source_name", "the volume"))
