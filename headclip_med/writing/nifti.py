"""Anomaly map and mask as NIfTI files in exactly the source's grid.

Which header fields carry the affine follows the source, so that every viewer lays the map onto the source:

| source | qform code | sform code |
|---|---|---|
| NIfTI | the source's | the source's (0 and 0 stay 0 and 0) |
| DICOM, NRRD, MetaImage | 1 (scanner) | 1 (scanner) |
| anything else | 2 (aligned) | 2 (aligned) |

NIfTI-1 stores float32. Where the chosen fields cannot hold the affine to 1e-6 (relative above 1 mm), the
sform is filled in as well: it holds any affine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import OutputError
from headclip_med.base.files import atomic_path
from headclip_med.base.types import Affine
from headclip_med.base.versions import __version__
from headclip_med.engine.result import AnomalyResult

SCANNER, ALIGNED = 1, 2  # NIFTI_XFORM_SCANNER_ANAT, NIFTI_XFORM_ALIGNED_ANAT

_SCANNER_FORMATS = {"dicom", "nrrd", "mha"}

_TOLERANCE = 1e-6

_NIFTI1_LONGEST_AXIS = 32767  # int16 in the header


def write_map(result: AnomalyResult, path: Path) -> None:
    """Write the volume map, float32 in [0, 1], shape ``(I, J, K)``.

    Args:
        result: Its map, affine and metadata are written.
        path: Of a ``.nii`` or ``.nii.gz`` file, whose folder is made.

    Raises:
        OutputError: another ending, or when the file cannot be written. Nothing half-written is left.
    """
    save_image(map_image(result.map_array, result.affine, result.meta), path)


def write_mask(result: AnomalyResult, path: Path) -> None:
    """Write the mask, uint8 of shape ``(I, J, K)``: 1 where the map reaches the threshold, or in what a reader chose.

    Args:
        result: Its mask, affine and metadata are written.
        path: Of a ``.nii`` or ``.nii.gz`` file, whose folder is made.

    Raises:
        OutputError: another ending, or when the file cannot be written. Nothing half-written is left.
    """
    image = grid_image(result.pred_mask, result.affine, result.meta, "anomaly mask")
    image.header.set_intent("label", (), name="anomaly mask")
    save_image(image, path)


def map_image(array: NDArray[Any], affine: Affine, meta: Mapping[str, Any]) -> Any:
    """Make a NIfTI image of an anomaly map.

    Args:
        array: The map ``(I, J, K)`` in [0, 1], stored as float32.
        affine: Voxel index → RAS mm of its source, ``(4, 4)``.
        meta: The source's metadata, which decides the header's codes.

    Returns:
        A ``Nifti1Image``, or a ``Nifti2Image`` where an axis is too long for that.
    """
    image = grid_image(array.astype(np.float32), affine, meta, "anomaly map")
    image.header.set_intent("estimate", (), name="anomaly map")
    image.header["cal_min"], image.header["cal_max"] = 0, 1  # viewers open with the map's full range
    return image


def grid_image(array: NDArray[Any], affine: Affine, meta: Mapping[str, Any], what: str) -> Any:
    """Make a NIfTI image of anything on a source's grid.

    Args:
        array: ``(I, J, K)``, of a type that NIfTI has, and stored as that.
        affine: Voxel index → RAS mm of the source, ``(4, 4)``.
        meta: The source's metadata, which decides the header's codes.
        what: Goes into the description, in ASCII.

    Returns:
        A ``Nifti1Image``, or a ``Nifti2Image`` where an axis is longer than 32,767.
    """
    kind = nib.Nifti1Image if max(array.shape) <= _NIFTI1_LONGEST_AXIS else nib.Nifti2Image
    header = kind.header_class()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)  # without codes the affine follows from shape and voxel sizes
    _set_affine(header, affine, *_form_codes(meta))
    header.set_xyzt_units("mm")
    header["descrip"] = f"headclip-med {__version__} {what}; research use only"[:79].encode("ascii")
    return kind(array, header.get_best_affine(), header)


def _form_codes(meta: Mapping[str, Any]) -> tuple[int, int]:
    """``(qform_code, sform_code)`` to write, by the table at the top."""
    source_format = meta.get("source_format")
    if "qform_code" in meta and "sform_code" in meta and source_format in (None, "nifti"):
        return int(meta["qform_code"]), int(meta["sform_code"])
    code = SCANNER if source_format in _SCANNER_FORMATS else ALIGNED
    return code, code


def _set_affine(header: Any, affine: Affine, qform_code: int, sform_code: int) -> None:
    header.set_qform(affine, code=qform_code)  # also sets the voxel sizes
    header.set_sform(affine, code=sform_code)
    error = np.abs(header.get_best_affine() - affine) / np.maximum(1.0, np.abs(affine))
    if error.max() > _TOLERANCE:
        header.set_sform(affine, code=qform_code or ALIGNED)


def save_image(image: Any, path: Path) -> None:
    """Write a NIfTI image, whole or not at all.

    Args:
        image: Of nibabel.
        path: Of a ``.nii`` or ``.nii.gz`` file, whose folder is made.

    Raises:
        OutputError: another ending, or when the file cannot be written.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        raise OutputError("The name of a NIfTI file must end in .nii or .nii.gz", path.name)
    with atomic_path(path) as draft:
        image.to_filename(draft)  # nibabel compresses at level 1: a map's size hardly gains from more
