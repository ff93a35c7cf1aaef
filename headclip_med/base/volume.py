"""A loaded volume, its arrays and its metadata, as every reader gives it and every room takes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.types import Affine, VolumeMeta

if TYPE_CHECKING:
    from monai.data import MetaTensor

# Keys of a volume's metadata by what they hold; see flat_meta.
_TEXTS = ("source_format", "source_name", "content_sha256", "modality")
_FLAGS = ("is_rgb", "is_2d", "display_inverted", "resampled", "sheared", "uneven")
_DETAILS = tuple(key for key in VolumeMeta.__annotations__ if key not in (*_TEXTS, *_FLAGS, "reader_warnings"))


@dataclass(frozen=True)
class LoadedVolume:
    """Holds a volume as it came from disk.

    Attributes:
        array: ``(C, I, J, K)`` float32, finite. Values are as stored after rescale.
        affine: voxel index → RAS mm, ``(4, 4)`` float64, checked by :func:`geometry.check_affine`.
        meta: where it came from and what was odd about it.
    """

    array: NDArray[np.float32]
    affine: Affine
    meta: VolumeMeta

    @property
    def shape(self) -> tuple[int, ...]:
        """Give ``(C, I, J, K)``, as a MetaTensor does."""
        return self.array.shape


# A LoadedVolume, or a MetaTensor where torch is at work; a union would have every reader of a result narrow it.
AnyVolume: TypeAlias = Any


def volume_array(volume: AnyVolume) -> NDArray[np.float32]:
    """Give the values of a volume, in its own memory where it can.

    Args:
        volume: a :class:`LoadedVolume` or a MetaTensor.

    Returns:
        ``(C, I, J, K)`` float32.
    """
    if isinstance(volume, LoadedVolume):
        return volume.array
    return np.asarray(volume.as_tensor().detach().cpu().numpy())


def to_metatensor(volume: LoadedVolume) -> MetaTensor:
    """Make a MetaTensor of a volume.

    Args:
        volume: as a reader gave it.

    Returns:
        float32 ``(C, I, J, K)``, with a float64 RAS affine. Its ``.meta`` is that of :class:`VolumeMeta`, keys without
        a value left out, with what MONAI's transforms look for.
    """
    import torch
    from monai.data import MetaTensor

    known = {key: value for key, value in volume.meta.items() if value is not None}
    return MetaTensor(torch.from_numpy(volume.array), meta={**known, **_monai_keys(volume)})


def monai_meta(volume: LoadedVolume) -> dict[str, Any]:
    """Make the metadata for MONAI's loaders.

    Args:
        volume: as a reader gave it.

    Returns:
        Ours as :func:`flat_meta` has it, and what MONAI's transforms look for.
    """
    return flat_meta({**volume.meta, **_monai_keys(volume)})


def _monai_keys(volume: LoadedVolume) -> dict[str, Any]:
    import torch

    affine = torch.from_numpy(volume.affine.copy())  # PersistentDataset does not load numpy arrays again
    return {
        "affine": affine,
        "original_affine": affine.clone(),
        "spatial_shape": torch.tensor(volume.array.shape[1:]),
        "space": "RAS",
        # MONAI's SaveImage mistakes the grid of a single-channel volume that states its channel axis
        "original_channel_dim": "no_channel" if len(volume.array) == 1 else 0,
        "filename_or_obj": volume.meta["source_name"],
    }


def flat_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten metadata so that MONAI can collate it: the same keys with values of the same kind for every volume.

    Strings and flags stand under their own names, "" and False where nothing is known. ``reader_warnings`` is a line
    for each. Lists, whose length differs from volume to volume, and numbers that may be unknown are JSON in
    ``volume_details``. :func:`volume_meta` turns it back.

    Args:
        meta: of :class:`VolumeMeta`. Other keys stay.

    Returns:
        A new dictionary.
    """
    known = listed_meta(meta)
    notes = "\n".join(" ".join(str(note).split()) for note in known.pop("reader_warnings", []))
    details = {key: _plain(known.pop(key)) for key in _DETAILS if key in known}
    plain = dict.fromkeys(_TEXTS, "") | dict.fromkeys(_FLAGS, False)
    found = {**plain, **known, "reader_warnings": notes, "volume_details": json.dumps(details)}
    if found.get("original_channel_dim") == "no_channel":
        found["original_channel_dim"] = float("nan")  # MONAI's other word for it, which can stand beside numbers
    return found


def volume_meta(volume: AnyVolume) -> VolumeMeta:
    """Give the metadata of a volume with the keys of :class:`VolumeMeta`, those without a value left out.

    Args:
        volume: a :class:`LoadedVolume` or a MetaTensor. The metadata of the latter may be flat, as someone else made
            it, or as ``decollate_batch`` gave it back.

    Returns:
        A new dictionary.
    """
    return cast("VolumeMeta", listed_meta(volume.meta))


def listed_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Turn metadata into the form of :class:`VolumeMeta`, those without a value left out.

    Args:
        meta: flat or not, with None and "" for what is unknown.

    Returns:
        A new dictionary.
    """
    found = {str(key): value for key, value in meta.items() if value is not None}
    details = json.loads(found.pop("volume_details", "") or "{}")
    found = {**details, **{key: value for key, value in found.items() if key not in _TEXTS or value != ""}}
    notes = found.get("reader_warnings")
    if notes is not None:
        lines = notes.splitlines() if isinstance(notes, str) else notes
        found["reader_warnings"] = [str(line) for line in lines if line]
    return found


def _plain(value: Any) -> Any:
    """Numpy arrays, tensors and tuples as lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def image_digest(array: NDArray[np.float32]) -> str:
    """Hash shape and values of an image.

    Args:
        array: ``(C, ...)`` float32. A grey image saved in colour counts as the grey one.

    Returns:
        Lower-case hex digest (SHA-256).
    """
    grey = len(array) == 3 and (array[0] == array[1]).all() and (array[0] == array[2]).all()
    plain = np.ascontiguousarray(array[:1] if grey else array)
    digest = hashlib.sha256(str(plain.shape).encode())
    digest.update(plain.data)
    return digest.hexdigest()
