"""DICOM series or single image → volume; slices in order of position, geometry measured, never assumed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, pixel_array

from headclip_med.errors import InputError
from headclip_med.geometry import directions, slice_centres
from headclip_med.reading.base import (
    LoadedVolume,
    check_size,
    collected_warnings,
    finish,
    in_words,
    pick_time,
    sha256_of_digests,
)
from headclip_med.reading.dicom_grid import CONVERT, series_grid, single_grid
from headclip_med.reading.dicom_series import (
    ImageHeader,
    SeriesInfo,
    check_deflated,
    choose,
    read_header,
    scan,
)
from headclip_med.types import VolumeMeta

# Data of the first overlay plane.
_OVERLAY_DATA = (0x6000, 0x3000)


def read_dicom(
    source: Path | Sequence[Path], *, series: str | int | None = None, time: int | None = None
) -> LoadedVolume:
    """Read one DICOM series from a folder (searched recursively), a list of its files, or one file.

    Axes: I along columns (x), J along rows (y), K along the slice normal. Values after per-slice rescale;
    MONOCHROME1 keeps its values and sets ``display_inverted``; colour becomes RGB in [0, 255].

    Args:
        source: folder, file or files.
        series: which series, see :func:`dicom_series.choose`; needed where a folder holds several.
        time: 0 or None; a classic series has one time point.

    Raises:
        InputError: no image, several series, an irregular stack (what and where), multi-frame, undecodable.
    """
    headers, name, notes = _images(source, series)
    pick_time(1, time, name)
    _check_kind(headers, name)
    headers, affine = single_grid(headers[0], notes) if len(headers) == 1 else series_grid(headers, name)
    array, meta = _decode(headers, notes)
    geometry = headers[0].orientation is not None
    meta["source_name"] = name
    meta["is_2d"] = not geometry
    meta["slice_normal"] = directions(affine)[:, 2].tolist() if geometry else None
    meta["slice_uids"] = [header.sop_uid for header in headers]
    meta["slice_files"] = [str(header.path.absolute()) for header in headers]
    meta["slice_frames"] = [0] * len(headers)
    shape = (array.shape[1], array.shape[2], array.shape[3])
    meta["slice_positions"] = slice_centres(affine, shape, 2).tolist()
    return finish(array, affine, meta, list(dict.fromkeys(notes)))


def list_series(folder: Path) -> list[SeriesInfo]:
    """The series below ``folder`` to choose from, ordered by series number; empty without images."""
    return scan(folder).infos()


def _images(source: Path | Sequence[Path], series: str | int | None) -> tuple[tuple[ImageHeader, ...], str, list[str]]:
    """The chosen images in no particular order, the name to call them by, and notes."""
    if isinstance(source, Path) and source.is_file():
        notes: list[str] = []
        return (_single_header(source, notes),), source.name, notes
    if isinstance(source, Path):
        name = source.resolve().name or "The folder"
    else:
        name = source[0].resolve().parent.name if source else "The list of files"
    found = scan(source)
    return choose(found, series, name), name, [*found.notes, *found.dropped_in_words()]


def _single_header(path: Path, notes: list[str]) -> ImageHeader:
    with collected_warnings(notes, "pydicom", "pydicom"):
        header = read_header(path)
    if header is None:
        raise InputError(
            f"{path.name} must be a readable DICOM file", "a damaged header", "Copy or export the file again"
        )
    if header.kind not in ("image", "localizer"):
        raise InputError(f"{path.name} must be an image", f"a {header.kind}", "Give the source images")
    return header


def _check_kind(headers: Sequence[ImageHeader], name: str) -> None:
    """Refuse what is not read, before any pixel is decoded."""
    first = headers[0]
    frames = max(header.frames for header in headers)
    check_size((first.columns, first.rows, len(headers) * frames), name)
    multi = next((header for header in headers if header.is_multiframe), None)
    if multi is not None:
        raise InputError(
            f"{name} must hold single-frame images",
            f"{multi.path.name}, a multi-frame object of {multi.frames} frames: not read yet",
            CONVERT,
        )
    kinds = sorted({header.photometric for header in headers})
    if len(kinds) > 1:
        raise InputError(f"The images of {name} must be of one kind", f"{', '.join(kinds)}", "Separate them first")


def _decode(headers: Sequence[ImageHeader], notes: list[str]) -> tuple[NDArray[np.float32], VolumeMeta]:
    """All slices as ``(C, I, J, K)``, and the metadata that only full files hold."""
    first, digests, array = headers[0], [], np.empty(0, dtype=np.float32)
    window: list[float] | None = None
    overlays = 0
    with collected_warnings(notes, "pydicom", "pydicom"):
        for k, header in enumerate(headers):
            dataset, digest = _open(header.path)
            plane = _plane(dataset, header)  # (C, rows, columns)
            if k == 0:
                shape = (plane.shape[0], first.columns, first.rows, len(headers))
                check_size(shape, first.path.name)
                array = np.empty(shape, dtype=np.float32)
            if k == len(headers) // 2:
                window = _window(dataset)
            array[..., k] = plane.transpose(0, 2, 1)
            digests.append(digest)
            overlays += _OVERLAY_DATA in dataset
    if overlays:
        notes.append(f"overlays in {overlays} image(s) are ignored")
    return array, VolumeMeta(
        source_format="dicom",
        content_sha256=digests[0] if len(digests) == 1 else sha256_of_digests(sorted(digests)),
        modality=first.modality,
        is_rgb=array.shape[0] == 3,
        display_inverted=first.photometric == "MONOCHROME1",
        default_window=window,
    )


def _open(path: Path) -> tuple[Any, str]:
    """The whole dataset and the sha256 of the file's bytes."""
    with in_words(path.name, "DICOM"):
        check_deflated(path)
        content = path.read_bytes()
        return dcmread(BytesIO(content)), hashlib.sha256(content).hexdigest()


def _plane(dataset: Any, header: ImageHeader) -> NDArray[np.float64]:
    """One image ``(1 or 3, rows, columns)``: grey after rescale (modality LUT), colour in [0, 255]."""
    pixels = _pixels(dataset, header.path.name)
    if pixels.shape[:2] != (header.rows, header.columns):
        raise InputError(f"{header.path.name} must hold {header.rows} × {header.columns} pixels", f"{pixels.shape[:2]}")
    with in_words(header.path.name, "DICOM"):
        depth = int(dataset.BitsStored)
        if header.photometric == "PALETTE COLOR":
            pixels = _palette(pixels, dataset, header.path.name)
            depth = pixels.dtype.itemsize * 8
        if pixels.ndim == 3:
            return np.moveaxis(pixels[..., :3], -1, 0) * (255.0 / (2**depth - 1))
        return np.asarray(apply_modality_lut(pixels, dataset), dtype=np.float64)[None]


def _palette(pixels: NDArray[np.generic], dataset: Any, name: str) -> NDArray[np.generic]:
    """Palette indices → RGB; pydicom 3.0 would read a big-endian palette with its bytes swapped."""
    if not dataset.original_encoding[1] and "RedPaletteColorLookupTableData" in dataset:
        raise InputError(f"{name} must hold a little-endian palette", "palette colour in big-endian", CONVERT)
    return np.asarray(apply_color_lut(pixels, dataset))


def _pixels(dataset: Any, name: str) -> NDArray[np.generic]:
    """Decoded pixels; a decoder that is not installed is named with the way to get one."""
    with in_words(name, "DICOM"):
        syntax = dataset.file_meta.TransferSyntaxUID
        is_encapsulated = syntax.is_encapsulated  # raises for a UID that is no transfer syntax
    if is_encapsulated and not _has_decoder(syntax):
        raise InputError(
            f"{name} needs a decoder for {syntax.name}",
            "none that is installed",
            "Run: pip install 'headclip-med[dicom]'",
        )
    try:
        return np.asarray(pixel_array(dataset))
    except Exception as problem:  # a decoder raises whatever the damaged bytes provoke
        raise InputError(
            f"{name} must hold pixel data that can be decoded",
            f"{type(problem).__name__} from the decoder of {syntax.name}",
            "Export the image again, uncompressed if possible",
        ) from problem


def _has_decoder(syntax: Any) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _window(dataset: Any) -> list[float] | None:
    """``[level, width]`` stored in the file, the first one where there are several."""
    try:
        level, width = (float(np.atleast_1d(dataset.get(k))[0]) for k in ("WindowCenter", "WindowWidth"))
    except (TypeError, ValueError, IndexError, NotImplementedError):  # pydicom: of an unknown VR
        return None
    return [level, width] if width > 0 and np.isfinite([level, width]).all() else None
