"""Maps through MONAI's ``SaveImage``: on the source's grid, with its codes and units, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import NibabelWriter

from headclip_med.errors import InputError
from headclip_med.geometry import check_affine
from headclip_med.types import Affine
from headclip_med.writing.nifti import map_image, save_image

# Turning a volume to RAS and back rounds its affine by less than this (relative above 1 mm).
_ROUNDING = 1e-6


class NiftiMapWriter(NibabelWriter):
    """A writer for ``SaveImaged(..., writer="headclip_med.writing.NiftiMapWriter", resample=False)``.

    MONAI's own leaves the units unknown and the codes at 1, and drops the third axis of a single slice.
    """

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, resample: bool = True, **options: Any) -> None:
        """Remember the metadata of the map's source besides what MONAI keeps."""
        super().set_metadata(meta_dict, resample=resample, **options)
        self._meta = dict(meta_dict or {})

    def write(self, filename: str | Path, verbose: bool = False, **kwargs: Any) -> None:
        """Write one map.

        Raises:
            InputError: more than one channel; OutputError: the file cannot be written.
        """
        array = np.asarray(self.data_obj)
        if array.ndim > 3:
            raise InputError("A map must have one channel", f"the shape {array.shape}", "Save its channels one by one")
        array = array.reshape(array.shape + (1,) * (3 - array.ndim))
        save_image(map_image(array, self._exact_affine(), self._meta), Path(filename))

    def _exact_affine(self) -> Affine:
        """The source's own affine where the map lies on its grid, free of the rounding of there and back."""
        affine = np.asarray(self.affine, dtype=np.float64)
        source = self._meta.get("original_affine")
        if source is not None:
            known = np.asarray(source, dtype=np.float64)
            if known.shape == affine.shape and np.allclose(known, affine, rtol=_ROUNDING, atol=_ROUNDING):
                affine = known
        return check_affine(affine, "the map")
