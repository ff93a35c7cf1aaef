"""Maps through MONAI's ``SaveImage``: on the source's grid, with its codes and units, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor, NibabelWriter
from numpy.typing import NDArray
from PIL import Image

from headclip_med.base.errors import InputError
from headclip_med.base.files import atomic_path
from headclip_med.base.geometry import check_affine
from headclip_med.base.types import Affine
from headclip_med.base.volume import listed_meta
from headclip_med.writing.nifti import map_image, save_image

# Turning a volume to RAS and back rounds its affine by less than this (relative above 1 mm).
_ROUNDING = 1e-6


class NiftiMapWriter(NibabelWriter):
    """A writer for ``SaveImaged(..., writer="headclip_med.writing.monai_writer.NiftiMapWriter", resample=False)``.

    MONAI's own leaves the units unknown and the codes at 1, drops the third axis of a single slice, and fails on the
    map of a colour picture. The map of a plain picture is also written as a PNG in the picture's own pixels, 0 to 255,
    and with ``output_ext=".png"`` as nothing else.
    """

    def set_data_array(
        self, data_array: NdarrayOrTensor, channel_dim: int | None = 0, squeeze_end_dims: bool = True, **kwargs: Any
    ) -> None:
        """Remember the map without its channel, as ``(I, J, K)`` with K = 1 for a picture.

        Args:
            data_array: ``(1, I, J, K)``, or ``(1, I, J)`` of a picture, in [0, 1], on any device.
            channel_dim: Axis of the channel, None where there is none.
            squeeze_end_dims: Not used: a last axis of length 1 is kept.
            **kwargs: Not used.

        Raises:
            InputError: more than one channel.
        """
        array = _array(data_array)
        array = array if channel_dim is None else np.moveaxis(array, channel_dim, 0)
        if channel_dim is not None and len(array) != 1:
            raise InputError("A map must have one channel", f"the shape {array.shape}", "Save its channels one by one")
        array = array if channel_dim is None else array[0]
        array = array.reshape(array.shape + (1,) * (3 - array.ndim))
        # without this MONAI takes the first spatial axis for channels
        self.data_obj = MetaTensor(array, meta={"original_channel_dim": float("nan")})
        self.channel_dim = None

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, resample: bool = True, **options: Any) -> None:
        """Remember the metadata of the map's source besides what MONAI keeps.

        Args:
            meta_dict: Of the map, with ``affine`` and ``original_affine`` as MONAI's transforms keep them.
            resample: Bring the map back to ``original_affine`` by interpolation, as MONAI does.
            **options: How MONAI does it: ``mode``, ``padding_mode``, ``align_corners`` and ``dtype``.
        """
        super().set_metadata(meta_dict, resample=resample, **options)
        self._meta = listed_meta(meta_dict or {})

    def write(self, filename: str | Path, verbose: bool = False, **kwargs: Any) -> None:
        """Write one map.

        Args:
            filename: Ends in ``.nii``, ``.nii.gz`` or, for the map of a plain picture, ``.png``.
            verbose: Not used: nothing is logged.
            **kwargs: Not used.

        Raises:
            InputError: a volume as PNG, or an affine that places no voxels in space.
            OutputError: another ending, or the file cannot be written.
        """
        path, array = Path(filename), _array(self.data_obj)
        is_2d = self._meta.get(
            "is_2d", "original_affine" not in self._meta
        )  # MONAI's readers place no picture in space
        is_picture = bool(is_2d) and array.shape[2] == 1
        if path.suffix.lower() != ".png":
            save_image(map_image(array, self._exact_affine(), self._meta), path)
        elif not is_picture:
            raise InputError("Only the map of a plain picture can be a PNG", f"the shape {array.shape}", "Use .nii.gz")
        if is_picture:
            stem = path.name.removesuffix(".png").removesuffix(".gz").removesuffix(".nii")
            _save_png(array[:, :, 0].T, path.with_name(f"{stem}.png"))

    def _exact_affine(self) -> Affine:
        """The source's own affine where the map lies on its grid, free of the rounding of there and back."""
        affine = np.asarray(self.affine, dtype=np.float64)
        source = self._meta.get("original_affine")
        if source is not None:
            known = np.asarray(source, dtype=np.float64)
            if known.shape == affine.shape and np.allclose(known, affine, rtol=_ROUNDING, atol=_ROUNDING):
                affine = known
        return check_affine(affine, "the map")


def _save_png(levels: NDArray[Any], path: Path) -> None:
    """A map in [0, 1], rows first, as an 8-bit grey picture."""
    with atomic_path(path) as draft:
        Image.fromarray((levels.clip(0, 1) * 255).round().astype(np.uint8)).save(draft, format="PNG")


def _array(data: Any) -> NDArray[Any]:
    return data.detach().cpu().numpy() if hasattr(data, "detach") else np.asarray(data)
