"""NIfTI-1 and NIfTI-2 (.nii, .nii.gz, .hdr + .img) → volume."""

from __future__ import annotations

import gzip
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from headclip_med.errors import InputError
from headclip_med.geometry import directions
from headclip_med.reading.base import (
    LoadedVolume,
    check_size,
    collected_warnings,
    finish,
    in_words,
    pick_time,
    sha256_of_files,
)
from headclip_med.reading.content import GZIP
from headclip_med.types import Affine, VolumeMeta

# Extensions lie between header and data; nobody stores more than this there, a decompression bomb does.
_MAX_EXTENSION_BYTES = 64 * 2**20

# Scaled at once while reading: 8 MiB of float64.
_BLOCK_VOXELS = 2**20

_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}
_UNIT_NAMES = {1: "metres", 3: "micrometres"}

# qform and sform of one grid may differ by rounding; more than this at a corner is worth a word.
_FORM_TOLERANCE_MM = 1e-3


def read_nifti(path: Path, *, time: int | None = None) -> LoadedVolume:
    """Read a NIfTI file; sform wins over qform, values are rescaled, units become mm.

    Args:
        path: ``.nii``, ``.nii.gz``, or either half of ``.hdr`` + ``.img``; recognised by content.
        time: which volume of a 4-D file, 0-based.

    Raises:
        InputError: truncated, damaged, 4-D without ``time``, complex, constant, or an unusable affine.
    """
    notes: list[str] = []
    files = _pair(path)
    with (
        ExitStack() as opened,
        in_words(path.name, "NIfTI"),
        collected_warnings(notes, "nibabel", "nibabel.global"),
    ):
        streams = [opened.enter_context(_open(file)) for file in files]
        image = _open_image(streams, path.name)
        array = _read_values(image, time, path.name, notes)
        _read_to_end(streams)
        affine = _affine_mm(image, array.shape[1:], notes)
        meta = _meta(image, path, affine, is_rgb=array.shape[0] == 3)
        meta["content_sha256"] = sha256_of_files(files)
    return finish(array, affine, meta, notes)


def _pair(path: Path) -> list[Path]:
    """``[file]``, or ``[header, image]`` when the header says that the data lie in their own file."""
    lowered = path.name.lower()
    is_data = lowered.endswith((".img", ".img.gz"))
    header = _sibling(path, ".hdr") if is_data else path
    if header is None:
        raise InputError(f"{path.name} must have its .hdr file beside it", "no header", "Copy both files")
    with in_words(path.name, "NIfTI"), _open(header) as stream:
        head = stream.read(348)
    if head[344:348] != b"ni1\0" and head[4:8] != b"ni2\0":
        return [header]
    data = path if is_data else _sibling(path, ".img")
    if data is None:
        raise InputError(f"{path.name} must have its .img file beside it", "no image data", "Copy both files")
    return [header, data]


def _sibling(path: Path, suffix: str) -> Path | None:
    stem = path.name.lower().removesuffix(".gz").removesuffix(".hdr").removesuffix(".img")
    stem = path.name[: len(stem)]
    candidates = [path.with_name(stem + s) for s in (suffix, suffix.upper(), suffix + ".gz")]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP
    return gzip.open(path, "rb") if compressed else path.open("rb")  # type: ignore[return-value]


def _read_to_end(streams: list[IO[bytes]]) -> None:
    """Read what is left: only at its end does gzip compare checksums, and a damaged stream may inflate."""
    for stream in streams:
        while stream.read(1 << 20):
            pass


def _open_image(streams: list[IO[bytes]], name: str) -> Any:
    """A nibabel image with its header read and judged, its data still on disk."""
    start = streams[0].read(540)
    streams[0].seek(0)
    two = start[4:8] in (b"n+2\0", b"ni2\0")
    header = (nib.Nifti2Header if two else nib.Nifti1Header)(start[: 540 if two else 348], check=False)
    check_size(header.get_data_shape()[:3], name)
    if float(header["vox_offset"]) > _MAX_EXTENSION_BYTES:
        raise InputError(f"The data of {name} must start within 64 MiB", f"{float(header['vox_offset']):g} bytes")
    kind = {
        (False, 1): nib.Nifti1Image,
        (True, 1): nib.Nifti2Image,
        (False, 2): nib.Nifti1Pair,
        (True, 2): nib.Nifti2Pair,
    }[two, len(streams)]
    return kind.from_file_map(
        {"header": FileHolder(fileobj=streams[0]), "image": FileHolder(fileobj=streams[-1])}, mmap=False
    )


def _read_values(image: Any, time: int | None, name: str, notes: list[str]) -> NDArray[np.generic]:
    """``(C, I, J, K)`` in float or integer values after ``scl_slope``; reads only the chosen time point."""
    shape = tuple(int(n) for n in image.shape)
    if len(shape) < 2:
        raise InputError(f"{name} must have two or three dimensions", f"the shape {shape}")
    if any(n != 1 for n in shape[4:]):
        raise InputError(
            f"{name} must have at most four dimensions", f"the shape {shape}", "Split it into volumes first"
        )
    chosen = pick_time(shape[3] if len(shape) > 3 else 1, time, name)
    values = _scaled(image.dataobj, (chosen,) + (0,) * (len(shape) - 4) if len(shape) > 3 else ())
    if values.ndim == 2:
        values = values[:, :, None]
    if values.dtype.kind == "c":
        raise InputError(f"{name} must hold real values", "complex numbers", "Save its magnitude first")
    if values.dtype.names is not None:
        return _colour(values, notes)
    return values[None]


def _scaled(stored: Any, point: tuple[int, ...]) -> NDArray[Any]:
    """One volume, rescaled; ``point`` is its place in the dimensions after the third.

    What becomes floating point is scaled in float64 and rounded once, a block of slices at a time: the whole in
    float64 would take several times the volume's own memory. Integers without a scale keep their type.
    """
    is_scaled = (stored.slope, stored.inter) != (1, 0)
    if stored.ndim < 3 or not (stored.dtype.kind == "f" or (is_scaled and stored.dtype.kind in "iu")):
        return np.asanyarray(stored[(slice(None),) * 3 + point] if point else stored)
    values = np.empty(stored.shape[:3], dtype=np.float32)
    thick = max(1, _BLOCK_VOXELS // (values.shape[0] * values.shape[1]))
    for start in range(0, values.shape[2], thick):
        block = slice(start, start + thick)
        index = (slice(None), slice(None), block, *point)
        with np.errstate(over="ignore"):  # beyond float32: Inf, which is counted and said
            values[..., block] = stored[index]
    return values


def _colour(values: NDArray[np.void], notes: list[str]) -> NDArray[np.generic]:
    """RGB24 or RGBA32 voxels → three channels in [0, 255]."""
    if "A" in (values.dtype.names or ()):
        notes.append("the alpha channel is ignored")
    return np.stack([values[channel] for channel in ("R", "G", "B")])


def _affine_mm(image: Any, shape: tuple[int, ...], notes: list[str]) -> Affine:
    """Voxel index → RAS mm from sform, else qform, else the voxel sizes; doubts go to ``notes``."""
    header = image.header
    scale = _unit_scale(header, notes)
    qcode, scode = int(header["qform_code"]), int(header["sform_code"])
    if scode > 0 and qcode > 0:
        notes += _form_difference(header, shape, scale)
    if scode <= 0 and qcode <= 0:
        notes.append("orientation unknown (no sform, no qform): left, right, front and back are a guess")
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= scale
    if len(image.shape) == 2 and np.linalg.norm(affine[:3, 2]) == 0:
        notes.append("a 2-D image without slice thickness: 1 mm is assumed")
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = normal / max(float(np.linalg.norm(normal)), 1e-12)
    return affine


def _unit_scale(header: Any, notes: list[str]) -> float:
    code = int(header["xyzt_units"]) & 7
    if code not in _MM_PER_UNIT:
        notes.append(f"unknown unit code {code}: millimetres are assumed")
    elif code in _UNIT_NAMES:
        notes.append(f"the header says {_UNIT_NAMES[code]}: converted to millimetres")
    return _MM_PER_UNIT.get(code, 1.0)


def _form_difference(header: Any, shape: tuple[int, ...], scale: float) -> list[str]:
    try:
        sform, qform = header.get_sform(), header.get_qform()
    except (ValueError, HeaderDataError):
        return ["the qform is damaged: the sform is used"]
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in shape))], dtype=float)
    apart = scale * float(np.linalg.norm(corners @ (sform - qform).T, axis=1).max())
    if not apart > _FORM_TOLERANCE_MM:
        return []
    return [f"sform and qform disagree by up to {apart:.3g} mm: the sform is used"]


def _meta(image: Any, path: Path, affine: Affine, *, is_rgb: bool) -> VolumeMeta:
    header = image.header
    slice_axis = header.get_dim_info()[2]
    codes = int(header["qform_code"]), int(header["sform_code"])
    normal = None
    if slice_axis is not None and np.linalg.norm(affine[:3, slice_axis]) > 0:
        normal = [float(x) for x in directions(affine)[:, slice_axis]]
    return VolumeMeta(
        source_format="nifti",
        source_name=path.name,
        modality=None,
        is_rgb=is_rgb,
        is_2d=len(image.shape) == 2 and max(codes) <= 0,
        slice_normal=normal,
        display_inverted=False,
        default_window=None,
        qform_code=codes[0],
        sform_code=codes[1],
    )
