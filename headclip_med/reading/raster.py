"""PNG, JPEG, TIFF and BMP → a plane with K = 1, through Pillow."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from headclip_med.ahead import WARNINGS
from headclip_med.errors import InputError
from headclip_med.geometry import RAS_TO_LPS
from headclip_med.reading.base import (
    LoadedVolume,
    check_size,
    collected_warnings,
    finish,
    in_words,
    pick_time,
    sha256_of_files,
)
from headclip_med.types import VolumeMeta

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_GREY_MODES = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def read_raster(path: Path, *, time: int | None = None) -> LoadedVolume:
    """Read a 2-D image as ``(C, width, height, 1)``: columns towards the left, rows towards posterior, 1 mm.

    Grey stays as stored (8, 16 or 32 bits); colour becomes RGB in [0, 255], and one channel where the
    three are equal. EXIF orientation is applied; transparency is composited on black, with a warning.

    Args:
        path: recognised by content.
        time: which page of a multi-page TIFF, 0-based.

    Raises:
        InputError: truncated, damaged, far too large, several pages without ``time``, or one constant colour.
    """
    notes: list[str] = []
    kind = "PNG, JPEG, TIFF or BMP"
    with in_words(path.name, kind), collected_warnings(notes, "pillow", "PIL"), _open(path) as image:
        source_format = image.format.lower().replace("mpo", "jpeg")
        plane = _plane(_oriented(image, time, path.name, notes), notes)  # (C, rows, columns)
    meta = VolumeMeta(
        source_format=source_format,
        source_name=path.name,
        content_sha256=sha256_of_files([path]),
        modality=None,
        is_rgb=plane.shape[0] == 3,
        is_2d=True,
        slice_normal=None,
        display_inverted=False,
        default_window=None,
    )
    return finish(plane.transpose(0, 2, 1)[..., None], RAS_TO_LPS.copy(), meta, notes)


def _open(path: Path) -> Any:
    """The image with its header read; one that claims to be huge is refused before decoding."""
    with WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(path, formats=_FORMATS)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as bomb:
            raise InputError(
                f"{path.name} must have at most {Image.MAX_IMAGE_PIXELS} pixels",
                "a larger image (or a decompression bomb)",
                "Crop it or cut it into tiles first",
            ) from bomb
    check_size(image.size, path.name)
    return image


def _oriented(image: Any, time: int | None, name: str, notes: list[str]) -> Any:
    """The chosen page, upright."""
    pages = getattr(image, "n_frames", 1)
    if image.format == "MPO":  # a camera's JPEG with previews after the picture
        notes.append(f"the first of {pages} pictures in the file is read")
        pages = 1
    image.seek(pick_time(pages, time, name))
    _note_reduced_depth(image, notes)
    return ImageOps.exif_transpose(image)


def _note_reduced_depth(image: Any, notes: list[str]) -> None:
    """Pillow has no 16-bit colour mode; the layout of the stored pixels tells."""
    stored = " ".join(str(tile.args) for tile in image.tile)
    if image.mode in ("RGB", "RGBA", "CMYK") and ";16" in stored:
        notes.append("16-bit colour is read with 8 bits per channel")


def _plane(image: Any, notes: list[str]) -> NDArray[np.generic]:
    """``(1 or 3, rows, columns)``."""
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in _GREY_MODES:
        return np.asarray(image)[None]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.append("transparency is composited on black")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    channels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    if (channels == channels[0]).all():
        return channels[:1]
    return channels
