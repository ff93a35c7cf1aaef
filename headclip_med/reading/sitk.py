"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd) → volume, through SimpleITK.

ITK believes headers that contradict themselves, reads damaged compressed MetaImages without an error, and knows no
bzip2. So headers are judged and voxels unpacked here; ITK gets them attached, and says what they mean.
"""

from __future__ import annotations

import bz2
import gzip
import io
import math
import os
import re
import tempfile
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import RAS_TO_LPS
from headclip_med.base.types import Affine, VolumeMeta
from headclip_med.base.volume import LoadedVolume
from headclip_med.reading.archive import check_growth
from headclip_med.reading.checks import (
    check_leftover,
    check_size,
    contradiction,
    finish,
    pick_time,
    refuse_damage,
    sha256_of_files,
)
from headclip_med.reading.content import identify

_IMAGE_IO = {"nrrd": "NrrdImageIO", "mha": "MetaImageIO"}
_KINDS = {"nrrd": "NRRD", "mha": "MetaImage"}

_FIELD = {"nrrd": re.compile(r"([^#:]+): *(?!=)(.*)"), "mha": re.compile(r"\s*(\w+)\s*[=:]\s*(.*)")}
_HEADER_BYTES = 1 << 22

# A list of files, or numbers in the place of %d: several data files after one header.
_SEVERAL_FILES = re.compile(r"LIST( +\d+)?$|.*%\d*d\S*( +-?\d+){3}", re.IGNORECASE)

_ENCODINGS = {"gz": "gzip", "bz2": "bzip2", "txt": "ascii", "text": "ascii"}
_MM_PER_UNIT = {"mm": 1.0, "cm": 10.0, "m": 1e3, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "nm": 1e-6}

# Directions are unit vectors, rounded; a longer one would silently change the voxel size.
_UNIT_TOLERANCE = 1e-2


class TextHeader(NamedTuple):
    """A text header, judged.

    Attributes:
        lines: for ITK, as if the voxels followed it unpacked.
        scale: millimetres per unit of length.
        file, start: where the voxels are.
        encoding: ``raw``, ``gzip``, ``bzip2``, ``zlib``, or text as it is.
        skip_lines, skip: before the voxels, and bytes after unpacking, of which −1 means that they are the last ones.
        is_list: several values of a voxel are no colour.
    """

    lines: list[str]
    scale: float
    file: Path
    start: int
    encoding: str
    skip_lines: int
    skip: int
    is_list: bool = False


class TextImage(NamedTuple):
    """``(C, I, J, K)``, whether the channels are colours, voxel index → RAS mm, ITK's image, and the files read."""

    array: NDArray[np.generic]
    is_rgb: bool
    affine: Affine
    image: Any
    files: list[Path]


def read_sitk(path: Path, *, time: int | None = None) -> LoadedVolume:
    """Read an NRRD or MetaImage file, where ITK's LPS becomes RAS.

    Args:
        path: Recognised by content. A detached header needs its data file in the same folder or below.
        time: Which volume of a 4-D image, or which component of a vector image, 0-based.

    Returns:
        ``(C, I, J, K)`` float32 with its affine to RAS mm.

    Raises:
        InputError: truncated, damaged, 4-D or vectors without ``time``, complex, a header that contradicts itself, or
            an unusable affine.
    """
    found = identify(path)
    if found not in _IMAGE_IO:
        raise InputError(f"{path.name} must be an NRRD or MetaImage file", found)
    notes: list[str] = []
    array, is_rgb, affine, image, files = read_stored(path, found, time, notes)
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


def read_stored(path: Path, found: str, time: int | None, notes: list[str]) -> TextImage:
    """Read the stored values of an NRRD or MetaImage file as :func:`read_sitk` does, constant ones too.

    Args:
        path: Recognised by content.
        found: ``nrrd`` or ``mha``.
        time: Which volume or component, 0-based.
        notes: Doubts are added to them.

    Returns:
        Values, affine and files.

    Raises:
        InputError: as of :func:`read_sitk`.
    """
    with (
        refuse_damage(path.name, _KINDS[found]),
        _quiet(),
        tempfile.TemporaryDirectory(prefix="headclip-med-") as folder,
    ):
        header = (_nrrd_header if found == "nrrd" else _meta_header)(path, notes)
        draft = Path(folder) / f"image.{found}"  # no other name: ITK takes none but UTF-8
        _write(draft, "\n".join([*header.lines, ""]).encode(errors="replace"), path.name)
        reader = sitk.ImageFileReader()
        reader.SetImageIO(_IMAGE_IO[found])
        reader.SetFileName(str(draft))
        reader.ReadImageInformation()
        _check_header(reader, path.name)
        _write(draft, _voxels(header, _size(reader), path.name, notes), path.name)
        image = reader.Execute()
        array, is_rgb = _channels(image, time, path.name, header.is_list)
        affine = _ras_affine(image)
        affine[:3] *= header.scale
        return TextImage(array, is_rgb, affine, image, [path, *({header.file} - {path})])


def _write(draft: Path, content: bytes, name: str) -> None:
    try:
        with draft.open("ab") as file:
            file.write(content)
    except OSError as problem:
        given = problem.strerror or type(problem).__name__
        raise InputError(f"{name} must be unpacked to the temporary folder", given, "Free some space") from problem


# -- headers


def _read_header(path: Path, found: str) -> tuple[list[str], dict[str, str], int]:
    """Lines, fields by name (in lower case for NRRD), and where what follows them starts."""
    fields, lines = dict[str, str](), list[str]()
    with path.open("rb") as file:
        while file.tell() < _HEADER_BYTES and (content := file.readline(_HEADER_BYTES)):
            line = os.fsdecode(content).rstrip("\r\n")
            if found == "nrrd" and not line:
                break
            lines.append(line)
            match = _FIELD[found].match(line)
            if match:
                fields[match[1].strip().lower() if found == "nrrd" else match[1]] = match[2].strip()
            if found == "mha" and match and match[1] == "ElementDataFile":
                break
        return lines, fields, file.tell()


def _nrrd_header(path: Path, notes: list[str]) -> TextHeader:
    lines, fields, start = _read_header(path, "nrrd")
    for name in ("data file", "byte skip", "line skip", "axis mins", "axis maxs"):
        if name.replace(" ", "") in fields:
            fields[name] = fields.pop(name.replace(" ", ""))
    encoding = fields.get("encoding", "none").lower()
    encoding = _ENCODINGS.get(encoding, encoding)
    if encoding not in ("raw", "gzip", "bzip2", "ascii", "hex"):
        raise contradiction(path.name, "an encoding: raw, gzip, bzip2, ascii or hex", encoding)
    if encoding != "ascii" and "endian" not in fields and not re.search("char|int8|block", fields.get("type", "")):
        raise contradiction(path.name, "the order of the bytes of a number (endian)", "none")
    skip_lines, skip = (_whole(path.name, f"{unit} skip", fields.get(f"{unit} skip", "0")) for unit in ("line", "byte"))
    if skip_lines < 0 or skip < (-1 if encoding == "raw" else 0):
        raise contradiction(path.name, "lines and bytes to skip", f"{skip_lines} and {skip} (line skip, byte skip)")
    data = _data_file(path, fields["data file"], notes) if "data file" in fields else None
    kept = [
        line for line in lines if not re.match("(data ?file|encoding|(byte|line) ?skip) *:(?!=)", line, re.IGNORECASE)
    ]
    if "spacings" not in fields and "space directions" not in fields:
        kept += _steps_of_ends(path.name, fields, notes)
    as_text = encoding if encoding in ("ascii", "hex") else "raw"
    place = data or path, 0 if data else start, encoding, skip_lines, skip
    scale, is_list = _nrrd_scale(path.name, fields, notes), bool(re.search("list", fields.get("kinds", "")))
    return TextHeader([*kept, f"encoding: {as_text}", ""], scale, *place, is_list)


def _nrrd_scale(name: str, fields: dict[str, str], notes: list[str]) -> float:
    """Millimetres per unit of a header whose sizes, steps and place are such."""
    count = _whole(name, "dimension", fields.get("dimension", ""))
    check_size(_numbers(name, "sizes", fields.get("sizes", ""), count), name)
    steps = _numbers(name, "spacings", fields.get("spacings", ""), count, unknown=True)
    if not all(step > 0 or math.isnan(step) for step in steps):
        raise contradiction(name, "positive voxel sizes", f"{fields['spacings']} (spacings)")
    if steps and sum(not math.isnan(step) for step in steps) < min(3, count):
        notes.append(f"voxel sizes that are not known ({fields['spacings']}): 1 mm is assumed for them")
    if "space directions" in fields:
        words = re.findall(r"none|\([^)]*\)", fields["space directions"], re.IGNORECASE)
        vectors = [_vector(name, "space directions", word) for word in words if word[0] == "("]
        if len(words) != count or len(vectors) < min(3, count) or not _span(vectors):
            given = f"{fields['space directions']} (space directions)"
            raise contradiction(name, "a direction of its own for each axis in space", given)
        if "space origin" not in fields:
            notes.append("no place of the first voxel in the header (space origin): 0, 0, 0 is assumed")
    _vector(name, "space origin", fields.get("space origin", ""))
    return _mm_per_unit(name, re.findall('"([^"]*)"', fields.get("space units", fields.get("units", ""))), notes)


def _steps_of_ends(name: str, fields: dict[str, str], notes: list[str]) -> list[str]:
    """The line of voxel sizes that the ends of the axes tell, where a header names those alone; they are the outer ends
    of the first and the last voxel, unless it says that they are the centres (node)."""
    count = _whole(name, "dimension", fields.get("dimension", ""))
    low, high = (_numbers(name, key, fields.get(key, ""), count, unknown=True) for key in ("axis mins", "axis maxs"))
    sizes = _numbers(name, "sizes", fields.get("sizes", ""), count)
    if not low or not high:
        notes += ["no voxel sizes in the header (spacings): 1 mm is assumed"] * (count > 2)
        return []
    centres = fields.get("centers", fields.get("centerings", "")).split()
    cells = [n - (centre == "node") for n, centre in zip(sizes, [*centres, *[""] * count], strict=False)]
    steps = [(last - first) / max(cell, 1) for first, last, cell in zip(low, high, cells, strict=True)]
    if not all(step > 0 or math.isnan(step) for step in steps):
        raise contradiction(name, "ends that lie after the starts", f"{fields['axis mins']} (axis mins)")
    if sum(not math.isnan(step) for step in steps) < min(3, count):
        notes.append("ends of axes that are not known (axis mins, axis maxs): 1 mm is assumed for them")
    return [f"spacings: {' '.join(map(repr, steps))}"]


def _meta_header(path: Path, notes: list[str]) -> TextHeader:
    lines, fields, start = _read_header(path, "mha")
    name = path.name
    if "ElementDataFile" not in fields:
        raise contradiction(name, "where its voxels are", "no ElementDataFile")
    element_file = fields["ElementDataFile"]
    data = None if element_file.upper() == "LOCAL" else _data_file(path, element_file, notes)
    encoding = "zlib" if fields.get("CompressedData", "")[:1] in ("T", "t", "1") else "raw"
    if fields.get("BinaryData", "")[:1] in ("F", "f", "0"):
        encoding = "ascii"
    skip = _whole(name, "HeaderSize", fields.get("HeaderSize", "0"))
    if skip < -1 or (skip > 0 and data is None and skip < start):
        raise contradiction(name, f"data from byte {0 if data else start} on", f"from byte {skip} on (HeaderSize)")
    if skip > 0 and data is None:
        skip -= start
    own = ("ElementDataFile", "HeaderSize", "CompressedData", "CompressedDataSize", "Comment")  # a long one ends ITK
    kept = [line for line in lines if not re.match(rf"\s*({'|'.join(own)})\s*[=:]", line)]
    place = data or path, 0 if data else start, encoding, 0, skip
    return TextHeader([*kept, "ElementDataFile = LOCAL"], _meta_scale(name, fields, notes), *place)


def _meta_scale(name: str, fields: dict[str, str], notes: list[str]) -> float:
    """Millimetres per unit of a header whose sizes, steps, directions and place are such."""
    count = _whole(name, "NDims", fields.get("NDims", ""))
    check_size(_numbers(name, "DimSize", fields.get("DimSize", ""), count), name)
    if "ElementType" not in fields:
        raise contradiction(name, "a type of voxel", "no ElementType")
    size = next((field for field in ("ElementSpacing", "ElementSize") if field in fields), None)
    if size is None:
        notes += ["no voxel sizes in the header (ElementSpacing): 1 mm is assumed"] * (count > 2)
    elif not all(step > 0 for step in _numbers(name, size, fields[size], count)):
        raise contradiction(name, "positive voxel sizes", f"{fields[size]} ({size})")
    for field in ("Offset", "Position", "Origin"):
        _numbers(name, field, fields.get(field, ""), count)
    for field in ("TransformMatrix", "Orientation", "Rotation"):
        rows = np.reshape(_numbers(name, field, fields.get(field, ""), count * count), (-1, count))
        if len(rows) and (np.abs(np.linalg.norm(rows, axis=1) - 1).max() > _UNIT_TOLERANCE or not _span(rows.tolist())):
            raise contradiction(name, "directions of length 1, each its own", f"{fields[field]} ({field})")
    slope, offset = (fields.get(f"ElementToIntensityFunction{part}") for part in ("Slope", "Offset"))
    stated = ((slope, 1.0), (offset, 0.0))
    if any(text is not None and _numbers(name, "ElementToIntensityFunction", text, 1) != [one] for text, one in stated):
        notes.append(f"a slope and offset of intensity in the header ({slope}, {offset}) are not applied")
    return _mm_per_unit(name, [fields.get("DistanceUnits", "")], notes)


def _numbers(name: str, field: str, text: str, count: int, *, unknown: bool = False) -> list[float]:
    """``count`` finite numbers, or no text; NaN where that may stand for what is not known."""
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = [math.inf]
    if any(math.isinf(n) or (math.isnan(n) and not unknown) for n in numbers) or len(numbers) not in (0, count):
        raise contradiction(name, f"{count} numbers ({field})", text)
    return numbers


def _vector(name: str, field: str, text: str) -> list[float]:
    words = text.strip("() ").replace(",", " ")
    return _numbers(name, field, words, len(words.split()))


def _span(vectors: list[list[float]]) -> bool:
    """Whether vectors have a length, and as many as there are axes directions of their own."""
    lengths = np.linalg.norm(vectors, axis=1)
    if not lengths.all():
        return False
    rows = np.asarray(vectors) / lengths[:, None]
    return rows.shape[0] != rows.shape[1] or bool(abs(np.linalg.det(rows)) > 1e-6)


def _whole(name: str, field: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise contradiction(name, f"a whole number ({field})", text) from None


def _mm_per_unit(name: str, units: list[str], notes: list[str]) -> float:
    """Of axes in space, which come first; their units must be one."""
    units = [unit.strip() for unit in units if unit.strip() not in ("", "?")][:3]
    unknown = sorted({unit for unit in units if unit not in _MM_PER_UNIT})
    if unknown:
        notes.append(f"unknown unit {', '.join(unknown)}: millimetres are assumed")
    factors = {_MM_PER_UNIT.get(unit, 1.0) for unit in units} or {1.0}
    if len(factors) > 1:
        raise contradiction(name, "one unit for all axes", ", ".join(units))
    if factors != {1.0}:
        notes.append(f"the header says {units[0]}: converted to millimetres")
    return factors.pop()


# -- data files


def _data_file(path: Path, name: str, notes: list[str]) -> Path:
    """The file with the voxels that a header names, in the header's folder or below, never elsewhere."""
    folder, parts = path.parent, _parts(name)
    if _SEVERAL_FILES.match(name) and not (folder / name).is_file():
        raise InputError(f"{path.name} must name one data file", "a list of files", "Save it as one file")
    if Path(name).name == name and (folder / name).is_file():  # with a backslash in it, or a colon
        parts = [name]
    found = _below(folder, parts)
    if found is None and len(parts) > 1:
        found = _below(folder, parts[-1:])
        notes.append("the data file lies beside its header, not where that says")
    if found is None or found.samefile(path):
        given = f"no file {PurePosixPath(*parts).name} there" if found is None else "the header itself"
        must = f"{path.name} must have its data file in the same folder, or in one below it that it names"
        raise InputError(must, given, "Copy both files into one folder")
    if found.name != parts[-1]:
        notes.append(f"the data file is {found.name} on disk, of another spelling in the header")
    return found


def _parts(name: str) -> list[str]:
    """A path as its parts, without what makes it absolute; ``..`` stays, and no file is called so."""
    pure = PureWindowsPath(name) if "\\" in name or re.match("[A-Za-z]:", name) else PurePosixPath(name)
    return [part for part in pure.parts if part != pure.anchor]


def _below(folder: Path, parts: list[str]) -> Path | None:
    """The file at such a path, as spelled, else in another case or form of Unicode or Latin-1 where only one is so."""
    place = folder
    for part in parts:
        if part == ".." or not place.is_dir():
            return None
        if not (place / part).exists():
            spellings = {_folded(part), _folded(os.fsencode(part).decode("latin-1"))}
            alike = [child for child in place.iterdir() if _folded(child.name) in spellings]
            if len(alike) != 1:
                return None
            part = alike[0].name
        place = place / part
    return place if parts and place.is_file() else None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _voxels(header: TextHeader, size: int, name: str, notes: list[str]) -> bytes:
    """``size`` bytes of voxels, unpacked; or text as it is."""
    with header.file.open("rb") as file:
        file.seek(header.start)
        for _ in range(header.skip_lines):
            file.readline()
        if header.encoding in ("ascii", "hex"):
            return file.read()[header.skip :] + b"\n"
        if header.skip == -1:
            file.seek(max(file.tell(), header.file.stat().st_size - size))
        with _unpacked(file, header.encoding, size) as stream:
            stream.read(max(header.skip, 0))
            voxels, more = stream.read(size), 0
            while chunk := stream.read(1 << 20):
                more += len(chunk)
                check_growth(len(voxels) + more, header.file.stat().st_size, name)
    if len(voxels) < size:
        given = f"{len(voxels)} bytes"
        raise InputError(f"{name} must hold the {size} bytes of its voxels", given, "Copy or export the file again")
    if more:
        check_leftover(name, size, more)
        notes.append(f"{more} bytes after the image are ignored")
    return voxels


@contextmanager
def _unpacked(file: IO[bytes], encoding: str, size: int) -> Iterator[Any]:
    if encoding == "gzip":
        yield gzip.GzipFile(fileobj=file)
    elif encoding == "bzip2":
        yield bz2.BZ2File(file)
    elif encoding == "zlib":
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # or gzip, by its first bytes
        voxels = inflater.decompress(file.read(), max(size, 1))
        voxels += inflater.decompress(inflater.unconsumed_tail, 1 << 20)  # the checksum comes last
        if not inflater.eof:
            raise EOFError
        yield io.BytesIO(voxels)
    else:
        yield file


def _size(reader: Any) -> int:
    """Bytes of all voxels."""
    one = sitk.Image([1] * reader.GetDimension(), reader.GetPixelID(), reader.GetNumberOfComponents())
    return math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * int(one.GetSizeOfPixelComponent())


def _check_header(reader: Any, name: str) -> None:
    """Judge size and kind of voxel before anything is decoded."""
    size = reader.GetSize()
    check_size([*size, reader.GetNumberOfComponents()], name)
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(f"{name} must hold real values", "complex numbers", "Save its magnitude first")
    if not 2 <= len(size) <= 4:
        raise InputError(f"{name} must have two to four dimensions", f"the size {tuple(size)}")


def _channels(image: Any, time: int | None, name: str, is_list: bool) -> tuple[NDArray[np.generic], bool]:
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
    is_rgb = components == 3 and array.dtype == np.uint8 and not is_list
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
