"""PNG, JPEG, TIFF and BMP → a plane with K = 1, through Pillow; TIFF samples beyond 8 bits through tifffile.

Pillow has no mode for many of these, and gives others in the wrong byte order without a word.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import RAS_TO_LPS
from headclip_med.base.threads import WARNINGS
from headclip_med.base.types import VolumeMeta
from headclip_med.base.volume import LoadedVolume
from headclip_med.reading.archive import check_inflated_file
from headclip_med.reading.checks import (
    check_size,
    collected_warnings,
    contradiction,
    finish,
    pick_time,
    refuse_damage,
    sha256_of_files,
)
from headclip_med.reading.content import identify

_KINDS = {"png": "PNG", "jpeg": "8-bit JPEG", "tiff": "TIFF", "bmp": "BMP"}
_GREY_MODES = ("L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_RAW, _FACSIMILE, _JPEG, _DEFLATE, _PACKBITS = (1,), (2, 3, 4), (6, 7), (8, 32946), (32773,)
_PHOTOMETRIC, _ORIENTATION = 0x0106, 0x0112

# What Pillow's libtiff decodes exactly, by byte order and kind of grey sample (NumPy's letters): it has LZW and other
# codecs that tifffile takes from imagecodecs. Other big-endian samples come out in the wrong byte order (Pillow 13).
_LIBTIFF_EXACT = {
    _BLACK_IS_ZERO: {"<": ("i1", "u of 12 bits", "u2", "i2", "u4", "i4", "f4"), ">": ("i1", "u2")},
    _WHITE_IS_ZERO: {"<": ("u2", "f4"), ">": ()},
}

# As of programs that leave the fourth byte of a pixel at 0.
_NOTHING_OPAQUE = "every pixel is marked as transparent: the colours are read as if none were"


class Samples(NamedTuple):
    """``(1 or 3, rows, columns)``, and whether low values are white in it."""

    array: NDArray[np.generic]
    inverted: bool = False


def read_raster(path: Path, *, time: int | None = None) -> LoadedVolume:
    """Read a 2-D image as ``(C, width, height, 1)``: columns towards the left, rows towards posterior, 1 mm.

    Grey stays as stored from 8 bits on, below it is spread over 0 to 255. Colour becomes RGB in [0, 255], and one
    channel as stored where the three are equal. EXIF orientation is applied, and transparency is composited on black
    with a warning. Where low values are white, up to 16 bits are turned round. Other samples stay as stored, marked
    ``display_inverted``, because their white has no number.

    Args:
        path: Recognised by content.
        time: Which page of a multi-page TIFF, 0-based.

    Returns:
        ``(1 or 3, width, height, 1)`` float32 with its affine to RAS mm.

    Raises:
        InputError: truncated, damaged, far too large, a kind that is not decoded rightly, several pages without
            ``time``, or one constant colour.
    """
    notes: list[str] = []
    source_format = identify(path)
    plane, inverted = read_samples(path, time, notes)
    meta = VolumeMeta(
        source_format=source_format,
        source_name=path.name,
        content_sha256=sha256_of_files([path]),
        modality=None,
        is_rgb=plane.shape[0] == 3,
        is_2d=True,
        slice_normal=None,
        display_inverted=inverted,
        default_window=None,
    )
    return finish(plane.transpose(0, 2, 1)[..., None], RAS_TO_LPS.copy(), meta, notes)


def read_samples(path: Path, time: int | None, notes: list[str]) -> Samples:
    """Read the samples of a 2-D image as :func:`read_raster` does, constant ones too.

    Args:
        path: Recognised by content.
        time: Which page of a multi-page TIFF, 0-based.
        notes: Doubts are added to them.

    Returns:
        ``(1 or 3, rows, columns)``, and whether low values are white.

    Raises:
        InputError: as of :func:`read_raster`.
    """
    found = identify(path)
    with (
        refuse_damage(path.name, _KINDS.get(found, "picture"), "Copy or export the file again, or save it as PNG"),
        collected_warnings(notes, "pillow", "PIL"),
        collected_warnings(notes, "tifffile", "tifffile"),
    ):
        return (_tiff if found == "tiff" else _picture)(path, time, notes)


def _picture(path: Path, time: int | None, notes: list[str]) -> Samples:
    """What Pillow reads, but for the samples of a deep PNG."""
    with _open(path) as image:
        if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
            raise InputError(
                f"{path.name} must say whether its CMYK means ink or light", "no mark by Adobe", "Save it as RGB"
            )
        if image.format == "PNG" and image.mode != "I;16" and ";16" in str(image.tile):
            pick_time(getattr(image, "n_frames", 1), time, path.name)
            return Samples(_deep_png(path, image, notes))
        return Samples(_plane(_oriented(image, time, path.name, notes), notes))


def _oriented(image: Any, time: int | None, name: str, notes: list[str]) -> Any:
    """The chosen page, upright."""
    pages = getattr(image, "n_frames", 1)
    if image.format == "MPO":  # a camera's JPEG with previews after the picture
        notes.append(f"the first of {pages} pictures in the file is read")
        pages = 1
    image.seek(pick_time(pages, time, name))
    return ImageOps.exif_transpose(image)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The image with its header read; one that claims to be huge is refused before decoding.

    From an open file: of a path, Pillow maps the bytes with rows and columns exchanged where a TIFF is to be turned.
    """
    with path.open("rb") as file, WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=("PNG", "JPEG", "TIFF", "BMP"))
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as bomb:
            raise InputError(
                f"{path.name} must have at most {Image.MAX_IMAGE_PIXELS} pixels",
                "a larger image (or a decompression bomb)",
                "Crop it or cut it into tiles first",
            ) from bomb
        check_size(image.size, path.name)
        with image:
            yield image


def _plane(image: Any, notes: list[str]) -> NDArray[np.generic]:
    """``(1 or 3, rows, columns)`` of a picture of 8 bits a sample, or of one grey sample."""
    if image.mode in ("1", "La"):
        image = image.convert("L" if image.mode == "1" else "LA")
    if image.mode in _GREY_MODES:
        if "transparency" in image.info:
            notes.append("the grey that stands for transparent is kept as stored")
        return np.asarray(image)[None]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        least, most = image.getextrema()[3]
        if most == 0:
            notes.append(_NOTHING_OPAQUE)
            image.putalpha(255)
        elif least < 255:
            notes.append("transparency is composited on black")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return _grey_or_colour(np.asarray(image.convert("RGB")), notes)


def _grey_or_colour(samples: NDArray[np.generic], notes: list[str]) -> NDArray[np.generic]:
    """``(rows, columns, 1 or 3)`` → channels first: one where all are equal, else colour in [0, 255]."""
    channels = np.moveaxis(samples, -1, 0)
    if len(channels) == 1 or (channels == channels[0]).all():  # of NaN, one does not equal itself
        return channels[:1]
    if samples.dtype == np.uint8:
        return channels
    notes.append("16-bit colour is scaled to 0 to 255")
    return channels / np.float32(257)


def _deep_png(path: Path, image: Any, notes: list[str]) -> NDArray[np.generic]:
    """Colour or alpha of 16 bits, of which Pillow unpacks one byte at a time."""
    kind = image.tile[0][3].partition(";")[0]
    if "transparency" in image.info:
        notes.append("the colour that stands for transparent is kept as stored")
    if kind == "LA":
        samples = np.ascontiguousarray(_unpacked(path, "RGBA")).view(">u2").astype(np.uint16)
    else:
        high, low = (_unpacked(path, f"{kind};16{order}").astype(np.uint16) for order in "BL")
        samples = np.asarray(high << 8 | low, dtype=np.uint16)
    samples = _turned(samples, image.getexif().get(_ORIENTATION, 1))
    return _grey_or_colour(_on_black(samples, 1 if kind == "LA" else 3, notes), notes)


def _unpacked(path: Path, how: str) -> NDArray[np.uint8]:
    """The pixels of a PNG, taken from their bytes by another of Pillow's raw modes."""
    with _open(path) as image:
        image.tile = [(*image.tile[0][:3], how)]
        return np.asarray(image)


def _on_black(samples: NDArray[Any], colours: int, notes: list[str]) -> NDArray[Any]:
    """The first ``colours`` of ``(rows, columns, samples)``, weighted with an opacity after them."""
    if samples.shape[2] == colours or samples[..., colours].min() == (top := np.iinfo(samples.dtype).max):
        return samples[..., :colours]
    if samples[..., colours].max() == 0:
        notes.append(_NOTHING_OPAQUE)
        return samples[..., :colours]
    notes.append("transparency is composited on black")
    weighted = samples[..., :colours] * (samples[..., colours : colours + 1] / top)
    return np.rint(weighted).astype(samples.dtype)


def _turned(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """``(rows, columns, samples)`` as EXIF and TIFF say that it is to be seen, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples[:, ::-1] if orientation in (2, 3, 6, 7) else samples


def _tiff(path: Path, time: int | None, notes: list[str]) -> Samples:
    """A TIFF's page, by the kind of its samples."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages = file.pages
        number = pick_time(len(pages), time, path.name)
        page: Any = pages[number]
        check_size((page.imagewidth, page.imagelength, page.samplesperpixel), path.name)
        stacked = len(pages) == 1 and (file.is_imagej or file.is_shaped) and file.series[0].size > page.size
        if stacked or page.imagedepth > 1:
            raise InputError(
                f"{path.name} must have a page for each plane",
                "several planes in one page",
                "Save it as a TIFF with a page for each",
            )
        row = math.ceil(page.imagewidth * page.samplesperpixel * np.max(page.bitspersample) / 8)
        if page.compression in _RAW and sum(page.databytecounts) > 2 * row * max(page.imagelength, page.tilelength):
            given = f"{page.bitspersample} and {sum(page.databytecounts)} bytes"
            raise contradiction(path.name, "bits a sample that make up its data", given)
        if 0 in page.extrasamples:
            notes.append("a sample of unknown meaning beside grey or colour is ignored")
        photometric = page.photometric
        says_which = _PHOTOMETRIC in page.tags or page.samplesperpixel > 1 or page.compression in (*_FACSIMILE, *_JPEG)
        if not says_which:
            notes.append("nothing says which values are white: 0 is read as black")
            photometric = _BLACK_IS_ZERO
        deep = page.dtype is None or page.dtype.itemsize > 1 or page.dtype.kind not in "ub"
        if deep and photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
            return _deep_tiff(path, page, number, photometric, notes)
        read = _of_pillow(path, number, notes)
        return read if says_which else Samples(255 - read.array)  # which Pillow has turned round


def _of_pillow(path: Path, number: int, notes: list[str]) -> Samples:
    """A page of at most 8 bits a sample; where low values are white, Pillow has turned them round."""
    with _open(path) as image:
        return Samples(_plane(_oriented(image, number, path.name, notes), notes))


def _deep_tiff(path: Path, page: Any, number: int, photometric: int, notes: list[str]) -> Samples:
    """Samples of more than 8 bits, signed or in floating point."""
    colours = 3 if photometric == _RGB else 1
    others = page.samplesperpixel - colours
    known = page.dtype is not None and page.dtype.kind in "iuf" and page.bitspersample in (*range(8, 17), 32, 64)
    if not known or others > 1 or (colours == 3 and page.dtype != np.uint16):
        raise _refused(path, page, "Save it as PNG of 8 or 16 bits")
    if _has_codec(page):
        samples = _decoded(path, page)
    elif colours == 3:
        notes.append("16-bit colour is read with 8 bits per channel (with imagecodecs installed: 16)")
        return _of_pillow(path, number, notes)
    else:
        samples = _decoded_by_libtiff(path, page, number)
    if others and (page.dtype.kind != "u" or page.extrasamples[:1] != (2,)):  # no opacity, or weighted with it already
        samples = samples[..., :colours]
    samples = _on_black(samples, colours, notes)
    if photometric != _WHITE_IS_ZERO:
        return Samples(_grey_or_colour(samples, notes))
    if page.dtype == np.uint16:
        return Samples(np.uint16((1 << page.bitspersample) - 1) - samples[None, ..., 0])
    notes.append("low values are white (WhiteIsZero): they are kept as stored, and shown and scored inverted")
    return Samples(samples[None, ..., 0], inverted=True)


def _has_codec(page: Any) -> bool:
    """Whether tifffile decodes a page: the common codecs by itself, others with imagecodecs."""
    own = page.compression in (*_RAW, *_DEFLATE, *_PACKBITS) and page.predictor in (1, 2)
    return (own and page.bitspersample == 8 * page.dtype.itemsize) or find_spec("imagecodecs") is not None


def _decoded(path: Path, page: Any) -> NDArray[Any]:
    """``(rows, columns, samples)`` upright, as stored."""
    if len(page.dataoffsets) != math.prod(page.chunked):  # what is missing would be read as zeros
        raise EOFError
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if length == 0 or start + length > path.stat().st_size:
            raise EOFError
        if page.compression in _DEFLATE:
            check_inflated_file(path, start, length, raw=False)
    stored = page.asarray()
    samples = np.moveaxis(stored, page.axes.index("S"), -1) if "S" in page.axes else stored[..., None]
    return _turned(samples, page.tags[_ORIENTATION].value if _ORIENTATION in page.tags else 1)


def _decoded_by_libtiff(path: Path, page: Any, number: int) -> NDArray[Any]:
    """``(rows, columns, 1)`` upright, as stored, where Pillow is known to be exact."""
    bits, exact = int(page.bitspersample), _LIBTIFF_EXACT[page.photometric]
    kind = f"{page.dtype.kind}{page.dtype.itemsize}" if bits % 8 == 0 else f"{page.dtype.kind} of {bits} bits"
    if page.samplesperpixel > 1 or kind not in exact[page.parent.byteorder]:
        raise _refused(path, page, "Install imagecodecs (pip install imagecodecs), or save it as PNG")
    with _open(path) as image:
        image.seek(number)
        values = np.asarray(image)[..., None]
    return values.view(page.dtype) if kind in ("i1", "u4") else values


def _refused(path: Path, page: Any, do: str) -> InputError:
    kinds = {"u": "unsigned", "i": "signed", "f": "floating-point", "c": "complex"}
    kind = f"{page.bitspersample}-bit {kinds.get(page.dtype.kind, '') if page.dtype else 'unknown'}"
    many = "" if page.samplesperpixel == 1 else f", {page.samplesperpixel} a pixel"
    order = "big-endian" if page.parent.byteorder == ">" else "little-endian"
    given = f"{kind} samples{many}, {page.photometric.name}, {page.compression.name}, {order}"
    return InputError(f"{path.name} must be a TIFF of grey or 16-bit colour that can be decoded exactly", given, do)
