"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd) → volume, through SimpleITK."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from headclip_med.errors import InputError
from headclip_med.geometry import RAS_TO_LPS
from headclip_med.reading.base import (
    LoadedVolume,
    check_size,
    finish,
    in_words,
    pick_time,
    sha256_of_files,
)
from headclip_med.reading.content import identify
from headclip_med.types import Affine, VolumeMeta

_IMAGE_IO = {"nrrd": "NrrdImageIO", "mha": "MetaImageIO"}

# Where a text header names the file that holds the voxels.
_DATA_FILE = {
    "nrrd": re.compile(rb"^data ?file: *(.+?)\s*$", re.MULTILINE | re.IGNORECASE),
    "mha": re.compile(rb"^ElementDataFile *= *(.+?)\s*$", re.MULTILINE),
}
_HEADER_BYTES = 1 << 16


def read_sitk(path: Path, *, time: int | None = None) -> LoadedVolume:
    """Read an NRRD or MetaImage file; ITK's LPS becomes RAS.

    Args:
        path: recognised by content; a detached header needs its data file in the same folder.
        time: which volume of a 4-D image, or which component of a vector image, 0-based.

    Raises:
        InputError: truncated, damaged, 4-D or vectors without ``time``, complex, or an unusable affine.
    """
    found = identify(path)
    if found not in _IMAGE_IO:
        raise InputError(f"{path.name} must be an NRRD or MetaImage file", found)
    files = [path, *_data_file(path, found)]
    notes: list[str] = []
    with in_words(path.name, "NRRD" if found == "nrrd" else "MetaImage"), _quiet():
        reader = sitk.ImageFileReader()
        reader.SetImageIO(_IMAGE_IO[found])
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        _check_header(reader, path.name)
        image = reader.Execute()
        array, is_rgb = _channels(image, time, path.name)
        affine = _ras_affine(image)
        meta = VolumeMeta(
            source_format=found,
            source_name=path.name,
            content_sha256=sha256_of_files(files),
            modality=None,
            is_rgb=is_rgb,
            is_2d=image.GetDimension() == 2,
            slice_normal=None,
            display_inverted=False,
            default_window=None,
        )
    if meta["is_2d"]:
        notes.append("a 2-D image: its position in the patient is unknown")
    elif found == "nrrd" and not _has_patient_space(image):
        notes.append("orientation unknown (no patient space in the header): LPS is assumed")
    return finish(array, affine, meta, notes)


def _data_file(path: Path, found: str) -> list[Path]:
    """The separate file with the voxels, if any; it must lie beside its header."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if found == "nrrd":
        head = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0]
    match = _DATA_FILE[found].search(head)
    if match is None or match[1].upper() == b"LOCAL":
        return []
    name = match[1].decode("utf-8", "replace")
    if name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"{path.name} must name one data file", "a list of files", "Save it as one file")
    data = path.parent / name
    if Path(name).name != name or not data.is_file():
        raise InputError(
            f"{path.name} must have its data file in the same folder",
            f"no file {Path(name).name} there",
            "Copy both files into one folder",
        )
    return [data]


def _check_header(reader: Any, name: str) -> None:
    """Judge size and kind of voxel before anything is decoded."""
    size = reader.GetSize()
    check_size([*size, reader.GetNumberOfComponents()], name)
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(f"{name} must hold real values", "complex numbers", "Save its magnitude first")
    if not 2 <= len(size) <= 4:
        raise InputError(f"{name} must have two to four dimensions", f"the size {tuple(size)}")


def _channels(image: Any, time: int | None, name: str) -> tuple[NDArray[np.generic], bool]:
    """``(C, I, J, K)`` and whether the channels are colours."""
    array = sitk.GetArrayFromImage(image)  # ([T,] [K,] J, I [, components])
    components, dimension = image.GetNumberOfComponentsPerPixel(), image.GetDimension()
    if components == 1:
        array = array[..., None]
    if dimension == 4:
        chosen = pick_time(array.shape[0], None if array.shape[0] == 1 else time, name)
        array = array[chosen]
    elif dimension == 2:
        array = array[None]
    is_rgb = components == 3 and array.dtype == np.uint8
    if not is_rgb:
        chosen = pick_time(components, None if dimension == 4 and components == 1 else time, name)
        array = array[..., chosen : chosen + 1]
    return array.transpose(3, 2, 1, 0), is_rgb


def _ras_affine(image: Any) -> Affine:
    """Voxel index → RAS mm, from ITK's direction, spacing and origin."""
    n, keep = image.GetDimension(), min(image.GetDimension(), 3)
    affine = np.eye(4)
    directions = np.array(image.GetDirection()).reshape(n, n)[:keep, :keep]
    affine[:keep, :keep] = directions * np.array(image.GetSpacing())[:keep]
    affine[:keep, 3] = np.array(image.GetOrigin())[:keep]
    return np.asarray(RAS_TO_LPS @ affine)


def _has_patient_space(image: Any) -> bool:
    space = image.GetMetaData("NRRD_space") if image.HasMetaDataKey("NRRD_space") else ""
    return space.startswith(("left", "right", "LPS", "RAS", "LAS"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK's C++ warnings off the user's screen."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
