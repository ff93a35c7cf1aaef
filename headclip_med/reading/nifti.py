"""NIfTI-1 and NIfTI-2 (.nii, .nii.gz, .hdr + .img) → volume."""

from __future__ import annotations

import gzip
import math
import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import IO, Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import directions
from headclip_med.base.types import Affine, VolumeMeta
from headclip_med.base.volume import LoadedVolume
from headclip_med.reading.checks import (
    check_leftover,
    check_size,
    collected_warnings,
    contradiction,
    finish,
    pick_time,
    refuse_damage,
    sha256_of_files,
)
from headclip_med.reading.content import GZIP, identify

# Extensions lie between header and data; nobody stores more than this there, a decompression bomb does.
_MAX_EXTENSION_BYTES = 64 * 2**20

# Scaled at once while reading: 8 MiB of float64.
_BLOCK_VOXELS = 2**20

_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}
_UNIT_NAMES = {1: "metres", 3: "micrometres"}

_FORM_CODES, _ALIGNED = range(6), 2

# How much longer than 1 the three numbers of a half turn may become by rounding, from float32 to three decimals.
_QUATERNION_TOLERANCE = 1e-3
_FLOAT32_ROUNDING = 1e-6

# qform and sform of one grid may differ by rounding; more than this at a corner is worth a word.
_FORM_TOLERANCE_MM = 1e-3


class NiftiFile(NamedTuple):
    """A file's header, already judged, its shape, and its values, still on disk."""

    header: Any
    shape: tuple[int, ...]
    dataobj: ArrayProxy


def read_nifti(path: Path, *, time: int | None = None) -> LoadedVolume:
    """Read a NIfTI file, where sform wins over qform, values are rescaled, and units become mm.

    Args:
        path: ``.nii``, ``.nii.gz``, or either half of ``.hdr`` + ``.img``, recognised by content.
        time: Which volume of a 4-D file, 0-based.

    Returns:
        ``(C, I, J, K)`` float32 with its affine to RAS mm.

    Raises:
        InputError: truncated, damaged, 4-D without ``time``, complex, constant, a header that contradicts itself, or an
            unusable affine.
    """
    notes: list[str] = []
    files = pair_of(path)
    array, affine, image = read_stored(files, time, path.name, notes)
    meta = _meta(image, path, affine, is_rgb=array.shape[0] == 3)
    meta["content_sha256"] = sha256_of_files(files)
    return finish(array, affine, meta, notes)


def read_stored(
    files: Sequence[Path], time: int | None, name: str, notes: list[str]
) -> tuple[NDArray[np.generic], Affine, NiftiFile]:
    """Read the stored values of a NIfTI file, constant ones too.

    Args:
        files: Of :func:`pair_of`.
        time: Which volume of a 4-D file, 0-based.
        name: What to call the file in messages.
        notes: Doubts are added to them.

    Returns:
        ``(C, I, J, K)``, voxel index → RAS mm, and the header.

    Raises:
        InputError: as of :func:`read_nifti`.
    """
    with (
        ExitStack() as opened,
        refuse_damage(name, "NIfTI"),
        collected_warnings(notes, "nibabel", "nibabel.global"),
    ):
        streams = [opened.enter_context(_open(file)) for file in files]
        image = _open_image(streams, name, notes)
        array = _read_values(image, time, name, notes)
        _check_length(image, streams, name, notes)
        return array, _affine_mm(image, name, notes), image


def pair_of(path: Path) -> list[Path]:
    """Find the files of an image: itself, or both halves when the header says that the data lie in their own file.

    Args:
        path: Either half, or the whole.

    Returns:
        ``[file]`` or ``[header, image]``.

    Raises:
        InputError: a missing half, or a header that is none.
    """
    lowered = path.name.lower()
    is_data = lowered.endswith((".img", ".img.gz"))
    header = _sibling(path, ".hdr") if is_data else path
    if header is None and _is_single(path):
        return [path]
    if header is None:
        raise InputError(f"{path.name} must have its .hdr file beside it", "no header", "Copy both files")
    head = _head(header, path.name)
    if head[344:348] != b"ni1\0" and head[4:8] != b"ni2\0":
        if is_data and _is_single(path):
            return [path]
        if is_data and identify(header) != "nifti":
            raise InputError(f"{header.name} must be a NIfTI header", identify(header), "Convert both files first")
        return [header]
    data = path if is_data else _sibling(path, ".img")
    if data is None:
        raise InputError(f"{path.name} must have its .img file beside it", "no image data", "Copy both files")
    return [header, data]


def _head(path: Path, name: str) -> bytes:
    with refuse_damage(name, "NIfTI"), _open(path) as stream:
        return stream.read(348)


def _is_single(path: Path) -> bool:
    """Whether the file holds header and voxels, whatever it is called."""
    head = _head(path, path.name)
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def _sibling(path: Path, suffix: str) -> Path | None:
    stem = path.name.lower().removesuffix(".gz").removesuffix(".hdr").removesuffix(".img")
    stem = path.name[: len(stem)]
    candidates = [path.with_name(stem + s) for s in (suffix, suffix.upper(), suffix + ".gz")]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP
    return gzip.open(path, "rb") if compressed else path.open("rb")  # type: ignore[return-value]


def _length(streams: Sequence[IO[bytes]], most: int, name: str) -> int:
    """Bytes of the last stream, inflated, of which an image needs ``most``.

    Packed ones are read to their ends: only there does gzip compare checksums, and a damaged stream may inflate.
    """
    for stream in streams:
        if isinstance(stream, gzip.GzipFile):
            while stream.read(1 << 20):
                if stream.tell() > most + _MAX_EXTENSION_BYTES:
                    given = f"{stream.tell()} bytes, and more"
                    raise contradiction(name, f"the {most} bytes of its header and voxels", given)
        else:
            stream.seek(0, os.SEEK_END)
    return streams[-1].tell()


def _open_image(streams: Sequence[IO[bytes]], name: str, notes: list[str]) -> NiftiFile:
    """The header, judged, and the values, still on disk."""
    start = streams[0].read(540)
    two = start[4:8] in (b"n+2\0", b"ni2\0")
    size = 540 if two else 348
    order = next((o for o in "<>" if struct.unpack(f"{o}i", start[:4])[0] == size), None)
    if order is None:
        notes.append(f"the header does not say its size, {size} bytes (sizeof_hdr)")
    header = (nib.Nifti2Header if two else nib.Nifti1Header)(start[:size], endianness=order, check=False)
    shape = _shape(header, name, notes)
    dtype = _dtype(header, name)
    offset = _offset(header, streams, math.prod(shape) * dtype.itemsize, name, notes)
    streams[-1].seek(0)
    scale = (1.0, 0.0) if dtype.names else _scaling(header, name, notes)  # which the standard ignores for colours
    spec = (shape, dtype, offset, *scale)
    return NiftiFile(header, shape, ArrayProxy(streams[-1], spec, mmap=False))


def _shape(header: Any, name: str, notes: list[str]) -> tuple[int, ...]:
    """The dimensions, which a header may write as 0 beyond the third."""
    count = int(header["dim"][0])
    if not 1 <= count <= 7:
        raise contradiction(name, "1 to 7 dimensions", f"{count} (dim[0])")
    if 0 in header["dim"][4 : count + 1]:
        notes.append("a dimension of 0 beyond the third counts as 1")
        beyond = header["dim"][4 : count + 1]
        beyond[beyond == 0] = 1
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) < 2:
        raise InputError(f"{name} must have two or three dimensions", f"the shape {shape}")
    check_size(shape[:3], name)
    if any(n != 1 for n in shape[4:]) or min(shape) < 1:
        given = f"the shape {shape}"
        raise InputError(f"{name} must have at most four dimensions", given, "Split it into volumes first")
    return shape


def _dtype(header: Any, name: str) -> np.dtype[Any]:
    code = int(header["datatype"])
    try:
        dtype = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError):
        dtype = np.dtype("V")
    if dtype.itemsize == 0:
        raise contradiction(name, "a type of voxel that NIfTI can store", f"code {code} (datatype)")
    return dtype


def _offset(header: Any, streams: Sequence[IO[bytes]], size: int, name: str, notes: list[str]) -> int:
    """Where the values start; inside the header they cannot, but where they are all the rest they are found."""
    offset, first = float(header["vox_offset"]), 0 if len(streams) > 1 else header.single_vox_offset
    if offset > _MAX_EXTENSION_BYTES:
        raise InputError(f"The data of {name} must start within 64 MiB", f"{offset:g} bytes (vox_offset)")
    if first <= offset and offset.is_integer():
        return int(offset)
    if 0 <= offset < first:
        length = _length(streams, int(first) + size, name)
        for start in (first, header.sizeof_hdr):  # with, and without the four bytes that announce extensions
            if start + size == length:
                notes.append(f"the data cannot start at byte {offset:g} (vox_offset): they are the last {size} bytes")
                return int(start)
    raise contradiction(name, f"data from byte {first} on", f"from byte {offset:g} on (vox_offset)")


def _scaling(header: Any, name: str, notes: list[str]) -> tuple[float, float]:
    """Slope and intercept; NaN, or a slope of 0, is how NIfTI says that there are none."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if math.isinf(slope) or math.isinf(inter):
        given = f"{slope:g} and {inter:g} (scl_slope, scl_inter)"
        raise contradiction(name, "a finite slope and intercept", given)
    if slope == 0 or math.isnan(slope):
        if inter != 0 and not math.isnan(inter):
            notes.append(f"an intercept of {inter:g} without a slope (scl_slope): values are as stored")
        return 1.0, 0.0
    if math.isnan(inter):
        notes.append(f"a slope of {slope:g} with an intercept of NaN (scl_inter): 0 is taken")
    return slope, 0.0 if math.isnan(inter) else inter


def _check_length(image: NiftiFile, streams: Sequence[IO[bytes]], name: str, notes: list[str]) -> None:
    """Whether the file is as long as its header says; where bits and type of a voxel differ, that must decide."""
    dtype, offset = image.dataobj.dtype, image.dataobj.offset
    size, bits = math.prod(image.shape) * dtype.itemsize, int(image.header["bitpix"])
    length = _length(streams, offset + size, name) - offset
    agrees = bits in (0, 8 * dtype.itemsize)
    if length < size or (length > size and not agrees):
        given = f"{length} of them" + ("" if agrees else f", and {bits} bits a voxel (bitpix)")
        voxels = f"{' × '.join(map(str, image.shape))} voxels of {dtype.name}"
        raise contradiction(name, f"the {size} bytes of {voxels}", given)
    if not agrees:
        notes.append(f"{bits} bits a voxel (bitpix) contradict the type {dtype.name}, which fits: it is used")
    if length > size:
        check_leftover(name, size, length - size)
        notes.append(f"{length - size} bytes after the image are ignored")


def _read_values(image: NiftiFile, time: int | None, name: str, notes: list[str]) -> NDArray[np.generic]:
    """``(C, I, J, K)`` in float or integer values after ``scl_slope``; reads only the chosen time point."""
    shape = image.shape
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


def _affine_mm(image: NiftiFile, name: str, notes: list[str]) -> Affine:
    """Voxel index → RAS mm from sform, else qform, else the voxel sizes; doubts go to ``notes``."""
    header, shape = image.header, (*image.shape[:3], 1)[:3]
    scale = _unit_scale(header, notes)
    qcode, scode = (_form_code(header, form, notes) for form in ("qform", "sform"))
    if scode > 0 and qcode > 0 and not header.get_sform()[:3, :3].any():
        notes.append("the sform is empty: the qform is used")
        header["sform_code"] = scode = 0
    if qcode > 0:
        _unit_quaternion(header, notes)
    if scode > 0 and qcode > 0:
        notes += _form_difference(header, shape, scale)
    if scode <= 0 and qcode > 0:
        _check_rotation(header, name)
    if scode <= 0:
        _check_steps(header, shape, name, notes)
    if scode <= 0 and qcode <= 0:
        notes.append("orientation unknown (no sform, no qform): left, right, front and back are a guess")
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= scale
    if shape[2] == 1 and np.linalg.norm(affine[:3, 2]) == 0:
        notes.append("a single slice without thickness: 1 mm is assumed")
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = normal / max(float(np.linalg.norm(normal)), 1e-12)
    return affine


def _form_code(header: Any, form: str, notes: list[str]) -> int:
    """The code of a form; others than those of NIfTI say that it counts, if positive, and no more."""
    code = int(header[f"{form}_code"])
    if code in _FORM_CODES:
        return code
    header[f"{form}_code"] = _ALIGNED if code > 0 else 0
    notes.append(f"the {form}'s code {code} is none of NIfTI's: it is read as {int(header[f'{form}_code'])}")
    return int(header[f"{form}_code"])


def _unit_quaternion(header: Any, notes: list[str]) -> None:
    """Make the qform's three numbers a rotation where only rounding has made them longer than 1, and its sign ±1."""
    parts = np.array([float(header[f"quatern_{part}"]) for part in "bcd"])
    length = float(np.linalg.norm(parts))
    if 1 < length <= 1 + _QUATERNION_TOLERANCE:
        for part, value in zip("bcd", parts / length, strict=True):
            header[f"quatern_{part}"] = value
        if length > 1 + _FLOAT32_ROUNDING:
            notes.append(
                f"the qform's quaternion has the length {length:.6g}: it is taken as a rotation by 180 degrees"
            )
    if header["pixdim"][0] == 0:  # as the standard has it
        header["pixdim"][0] = 1


def _check_steps(header: Any, shape: tuple[int, ...], name: str, notes: list[str]) -> None:
    """Voxel sizes that no affine stands in for must be positive, but for the thickness of a single slice."""
    steps = header["pixdim"][1:4]
    wrong = ~(np.isfinite(steps) & (steps > 0))
    if wrong[2] and shape[2] == 1 and steps[2] == 0:
        wrong[2] = False
        if int(header["qform_code"]) <= 0:  # else the affine tells
            header["pixdim"][3] = 1
            notes.append("a single slice without thickness: 1 mm is assumed")
    if wrong.any():
        raise contradiction(name, "positive voxel sizes", f"{steps.tolist()} (pixdim)")


def _check_rotation(header: Any, name: str) -> None:
    """A qform that counts must be a rotation."""
    length = float(np.linalg.norm([float(header[f"quatern_{part}"]) for part in "bcd"]))
    if length > 1 + _FLOAT32_ROUNDING:
        raise contradiction(name, "a rotation by a quaternion of length 1", f"{length:.6g} (quatern_b, c, d)")
    if header["pixdim"][0] not in (-1, 1):
        raise contradiction(name, "a sign of 1 or -1 for its third axis", f"{header['pixdim'][0]:g} (pixdim[0])")


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


def _meta(image: NiftiFile, path: Path, affine: Affine, *, is_rgb: bool) -> VolumeMeta:
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
