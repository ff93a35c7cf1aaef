"""Pixels of one DICOM frame → values: decoding, stored bits, palette, rescale or modality LUT, padding."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, iter_pixels, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID

from headclip_med.base.errors import InputError
from headclip_med.reading.checks import check_size, refuse_damage
from headclip_med.reading.dicom.header import ImageHeader
from headclip_med.reading.dicom.values import element, finite_number, first_item, integer, parts, values

_SIZ = b"\xff\x4f\xff\x51"
_SOF = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_HEADER_BYTES = 1 << 16


# Data of the first overlay plane; or the bit of each sample that holds it, in files of before 2004.
_OVERLAY = ((0x6000, 0x3000), (0x6000, 0x0102))
# What the header of one item of compressed pixel data takes; a frame has at least one item.
_ITEM_BYTES = 8
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_DESCRIPTION = ("BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation", "SamplesPerPixel")

# Syntaxes that pydicom has no name for.
_NAMES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.113619.5.2": "a private syntax of General Electric",
}

# What GDCM's program converts though no decoder here takes it: lossy JPEG of 12 bits and of old kinds, and General
# Electric's private syntax.
_GDCM_CONVERTS = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55", "1.2.840.113619.5.2")
_EXPORT = "xport it again uncompressed (Explicit VR Little Endian)"
_PALETTES = tuple(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue"))
Plane = NDArray[np.float32]


class Claim(NamedTuple):
    """Size of a frame by its codestream, and bits of a sample."""

    rows: int
    columns: int
    samples: int
    bits: int


def claimed_size(frame: bytes) -> Claim | None:
    """Read the size that a JPEG, JPEG-LS, JPEG 2000 or HTJ2K frame claims.

    Args:
        frame: Its codestream.

    Returns:
        The claim, None where it does not say.
    """
    head = bytes(frame[:_HEADER_BYTES])
    start = head.find(_SIZ)
    try:
        if 0 <= start < 1024:
            return _jpeg2000(head, start)
        return _jpeg(head) if head.startswith(b"\xff\xd8") else None
    except struct.error:
        return None


def _jpeg2000(head: bytes, start: int) -> Claim:
    """The SIZ segment: extent of the reference grid less its offset."""
    width, height, left, top = struct.unpack_from(">4I", head, start + 8)
    samples, depth = struct.unpack_from(">HB", head, start + 40)
    return Claim(max(0, height - top), max(0, width - left), samples, (depth & 0x7F) + 1)


def _jpeg(head: bytes) -> Claim | None:
    """The first start-of-frame segment."""
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker in _SOF:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", head, at + 4)
            return Claim(rows, columns, samples, bits)
        at += 2 if marker in _ALONE else 1 if marker == 0xFF else 2 + struct.unpack_from(">H", head, at + 2)[0]
    return None


class UnknownSyntaxError(InputError):
    """A transfer syntax that nothing here decodes, whatever is installed."""


def planes(dataset: Any, headers: Sequence[ImageHeader]) -> Iterator[Plane | InputError]:
    """Decode frames of one file, in the order of their ``headers``.

    Grey after rescale (modality LUT), NaN where the file says padding. Colour in [0, 255].

    Args:
        dataset: The whole file.
        headers: Of the wanted frames.

    Yields:
        ``(1 or 3, rows, columns)`` each, or why not.

    Raises:
        InputError: no decoder, pixel data too short for the frames that the header claims, or frames that claim to be
            larger than the header says.
    """
    first = headers[0]
    syntax = _syntax(dataset, first.path.name)
    _check_description(dataset, first.path.name)
    coded_bits = _check_claims(dataset, first, syntax)
    decoded = None
    frames = _frames(dataset, headers, syntax)
    for header in headers:
        if decoded is None or header.tile is None:  # the tiles of a mosaic share one stored image
            decoded = next(frames)
        if isinstance(decoded, BaseException):
            yield _undecodable(header.path.name, syntax, decoded)
        else:
            yield _values_or_problem(decoded, dataset, header, coded_bits)


def _frames(dataset: Any, headers: Sequence[ImageHeader], syntax: Any) -> Iterator[NDArray[np.generic] | BaseException]:
    """The stored frames of ``headers`` in turn, every bit of their cells, or what the last decoder raised."""
    # pydicom masks colours before it converts them; of others it may only mask, or shift, what it knows to be grey
    options = {"correct_unused_bits": "YBR" in headers[0].photometric}
    one, plugins = headers[0].frames == 1, _plugins(syntax)
    together = None
    if not one and integer(dataset, "BitsAllocated") == 1 and not syntax.is_encapsulated:
        # a frame may begin within a byte, which pydicom decodes only with the others
        pixels, problem = _attempt(partial(pixel_array, dataset, **options))
        yield from (pixels[header.frame] if problem is None else problem for header in headers)
        return
    if not one:
        wanted = [header.frame for header in headers]
        together = iter_pixels(dataset, indices=wanted, decoding_plugin=plugins[0], **options)
    for header in headers:
        untried, problem = plugins, None
        if together is not None:
            pixels, problem = _attempt(partial(next, together))
            if problem is not None:  # an iterator ends with its first error: from here on frame by frame
                together, untried = None, plugins[1:]
        if together is None:
            frame = None if one else header.frame
            for plugin in untried:
                decode = partial(pixel_array, dataset, index=frame, decoding_plugin=plugin, **options)
                pixels, problem = _attempt(decode)
                if problem is None:
                    break
        yield np.asarray(pixels) if problem is None else problem


def _plugins(syntax: Any) -> tuple[str, ...]:
    """pydicom's names of the decoders to try, in turn; an empty name leaves it to pydicom.

    GDCM ends the process on some damaged JPEG 2000 frames (an exception of its C++ that nobody catches), and what ends
    the process cannot be told in words: it decodes only what nothing else here does.
    """
    if not syntax.is_encapsulated:
        return ("",)
    available = get_decoder(syntax).available_plugins
    return tuple(name for name in available if name != "gdcm") or tuple(available)


def _attempt(decode: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a decoder gives, or what it raises: whatever the damaged bytes provoke."""
    try:
        return decode(), None
    except BaseException as problem:
        _pass_on(problem)
        return None, problem


def _pass_on(problem: BaseException) -> None:
    """Raise again what is no decoder's error; a panic in a Rust decoder is one, though Python calls it none."""
    if not isinstance(problem, Exception) and type(problem).__module__ != "pyo3_runtime":
        raise problem


def _undecodable(name: str, syntax: Any, problem: BaseException) -> InputError:
    error = _not_decoded(name, f"{type(problem).__name__} from the decoder of {syntax.name}")
    return InputError(error.must, error.given, _way_out(syntax)) if syntax in _GDCM_CONVERTS else error


def _way_out(syntax: Any) -> str:
    """What gets an image out of a transfer syntax that cannot be decoded here."""
    if "MPEG" in syntax.name or "HEVC" in syntax.name:
        return "Export single pictures of the video"
    if syntax in _GDCM_CONVERTS:
        return f"Convert it with gdcmconv --raw IN OUT, which python-gdcm brings, or e{_EXPORT}"
    return f"E{_EXPORT}"


def _missing_bytes(dataset: Any, syntax: Any) -> str:
    """In words, that there are fewer uncompressed pixels than the header says; empty where there are enough."""
    with suppress(Exception):  # of a header that does not say how many
        held, expected = len(dataset.PixelData), get_expected_length(dataset)
        if held < expected:
            return f"{held} bytes of pixels where the header says {expected} ({syntax.name})"
    return ""


def _not_decoded(name: str, given: str) -> InputError:
    return InputError(
        f"{name} must hold pixel data that can be decoded",
        given,
        "Export the image again, uncompressed if possible",
    )


def _values_or_problem(
    pixels: NDArray[np.generic], dataset: Any, header: ImageHeader, coded_bits: int | None
) -> Plane | InputError:
    name, (rows, columns) = header.path.name, header.stored_size
    if pixels.shape[:2] != (rows, columns) or pixels.ndim > 3:
        return InputError(f"{name} must hold {rows} × {columns} pixels", f"{pixels.shape[:2]}")
    try:
        return _values(_stored_bits(_tile(pixels, header), dataset, coded_bits), dataset, header)
    except InputError as problem:
        return problem


def _tile(pixels: NDArray[np.generic], header: ImageHeader) -> NDArray[np.generic]:
    """The part of the stored image that is this slice."""
    if header.tile is None:
        return pixels
    down, across = divmod(header.tile.number, header.tile.across)
    top, left = down * header.rows, across * header.columns
    return pixels[top : top + header.rows, left : left + header.columns]


def _stored_bits(pixels: NDArray[np.generic], dataset: Any, coded_bits: int | None) -> NDArray[np.generic]:
    """The samples without what else lies in their cells: overlays above them, anything below.

    Args:
        coded_bits: of a sample in the compressed frame, None: uncompressed. Fewer than HighBit would need hold the
            sample alone.
    """
    bits, width = integer(dataset, "BitsStored"), pixels.dtype.itemsize * 8
    if pixels.dtype.kind not in "iu" or bits is None or bits >= width:
        return pixels
    high = bits - 1 if contradicts(dataset) else integer(dataset, "HighBit") or bits - 1
    if high >= (coded_bits or width):
        high = bits - 1
    return (pixels << (width - 1 - high)) >> (width - bits)  # type: ignore[operator]


def contradicts(dataset: Any) -> bool:
    """Tell whether the highest bit of a sample cannot lie where the header says.

    Args:
        dataset: Elements of a file.

    Returns:
        True for a HighBit that contradicts the other two.
    """
    allocated, bits, high = (integer(dataset, name) for name in ("BitsAllocated", "BitsStored", "HighBit"))
    return None not in (allocated, bits, high) and not bits - 1 <= high < allocated  # type: ignore[operator]


def _values(pixels: NDArray[np.generic], dataset: Any, header: ImageHeader) -> Plane:
    with refuse_damage(header.path.name, "DICOM"):
        if header.photometric == "PALETTE COLOR":
            pixels = _palette(pixels, dataset)
            return _colour(pixels, _palette_bits(pixels, dataset))
        if pixels.ndim == 3:
            return _colour(pixels, int(dataset.BitsStored))
        return _grey(pixels, dataset, header)[None]


def _colour(pixels: NDArray[np.generic], depth: int) -> Plane:
    return np.asarray(np.moveaxis(pixels[..., :3], -1, 0) * (255.0 / (2**depth - 1)), dtype=np.float32)


def _grey(pixels: NDArray[np.generic], dataset: Any, header: ImageHeader) -> Plane:
    with np.errstate(over="ignore", invalid="ignore"):
        if first_item(dataset, "ModalityLUTSequence"):
            scaled = np.asarray(apply_modality_lut(pixels, dataset), dtype=np.float64)
        else:
            slope, intercept = _scale(pixels, header)
            scaled = pixels.astype(np.float64) * slope + intercept
        plane = scaled.astype(np.float32)
    if pixels.dtype.kind == "f":
        plane[~np.isfinite(plane)] = np.inf  # undefined by the file: not the same as padding
    padding = _padding(pixels, dataset)
    if padding is not None:
        plane[padding] = np.nan
    return plane


def _scale(pixels: NDArray[np.generic], header: ImageHeader) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 does no harm where all pixels are alike in any case."""
    stated = header.rescale or (None, None)
    slope, intercept = (neutral if found is None else found for found, neutral in zip(stated, (1.0, 0.0), strict=True))
    if np.isfinite([slope, intercept]).all() and (slope != 0 or pixels.min() == pixels.max()):
        return slope, intercept
    given = "RescaleSlope 0, unlike the others" if slope == 0 else "one that is no number"
    for word, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        given = f"no {word}, unlike the others" if np.isinf(value) else given
    do = "Repair RescaleSlope and RescaleIntercept with a DICOM editor, or export the image again"
    raise InputError(f"The pixels of {header.path.name} must have a scale", given, do)


def _padding(pixels: NDArray[np.generic], dataset: Any) -> NDArray[np.bool_] | None:
    """Where stored values lie from PixelPaddingValue to PixelPaddingRangeLimit."""
    names = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    if pixels.dtype.kind == "f":
        names = (f"{'Double' if pixels.dtype.itemsize == 8 else ''}FloatPixelPaddingValue", "")
    found, limit = (finite_number(dataset, name) for name in names)
    if found is None:
        return None
    low, high = sorted(_as_sample(value, pixels.dtype) for value in (found, found if limit is None else limit))
    inside: NDArray[np.bool_] = (pixels >= low) & (pixels <= high)  # type: ignore[operator]
    return inside


def _as_sample(value: float, dtype: np.dtype[Any]) -> float:
    """The value that a sample of the same bits has, where an element states it with the other sign."""
    if dtype.kind == "f" or value != int(value) or np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        return value
    return int(np.array(int(value) % 2 ** (8 * dtype.itemsize)).astype(f"u{dtype.itemsize}").view(dtype))


def _palette(pixels: NDArray[np.generic], dataset: Any) -> NDArray[np.generic]:
    """Palette indices → RGB. The tables are 16-bit words, which pydicom 3.0 takes for little-endian in any case."""
    if dataset.original_encoding[1] or _PALETTES[0] not in dataset:
        return np.asarray(apply_color_lut(pixels, dataset))
    swapped = copy.copy(dataset)
    for keyword in _PALETTES:
        words = np.frombuffer(dataset[keyword].value, dtype=">u2")
        swapped[keyword] = copy.copy(dataset[keyword])
        swapped[keyword].value = words.astype("<u2").tobytes()
    return np.asarray(apply_color_lut(pixels, swapped))


def _palette_bits(colours: NDArray[np.generic], dataset: Any) -> int:
    """Bits of a palette's entries: those of their cells, but for entries of 8 bits in cells of 16."""
    descriptor = values(element(dataset, "RedPaletteColorLookupTableDescriptor"))
    is_byte = descriptor[2:] == (8,) and colours.max() <= 255
    return 8 if is_byte else colours.dtype.itemsize * 8


def _syntax(dataset: Any, name: str) -> Any:
    """The transfer syntax, one that can be decoded here.

    Raises:
        InputError: nothing decodes it, in which case it is named with a way that works, or nothing that is installed.
    """
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "")))
    try:
        if not syntax.is_encapsulated or has_decoder(syntax):
            return syntax
        get_decoder(syntax)
    except (ValueError, NotImplementedError):  # none of the standard's, or one that pydicom has no decoder for
        named = _NAMES.get(syntax, "a private syntax" if syntax.is_private else syntax.name)
        given = f"{named} ({syntax})"
        raise UnknownSyntaxError(
            f"{name} must be in a transfer syntax that is known here", given, _way_out(syntax)
        ) from None
    raise InputError(
        f"{name} needs a decoder for {syntax.name}",
        "none that is installed",
        "Run: pip install 'headclip-med[dicom]'",
    )


def has_decoder(syntax: Any) -> bool:
    """Tell whether a transfer syntax can be decoded here.

    Args:
        syntax: Its UID.

    Returns:
        True where a decoder is installed.
    """
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _check_description(dataset: Any, name: str) -> None:
    """Refuse integers whose form the header does not say, or says against the standard."""
    if not any(keyword in dataset for keyword in _PIXELS):
        raise InputError(f"{name} must hold pixels", "a header alone", "Give the image itself, or export it again")
    if _PIXELS[0] not in dataset:
        return
    allocated, stored = integer(dataset, "BitsAllocated"), integer(dataset, "BitsStored")
    missing = [word for word in _DESCRIPTION if element(dataset, word) in (None, "")]
    if missing:
        given = f"no {' and no '.join(missing)}"
    elif allocated != 1 and allocated % 8:  # type: ignore[operator]
        given = f"{allocated} bits allocated to a sample"
    elif stored > allocated:  # type: ignore[operator]
        given = f"{stored} bits stored in {allocated}"
    else:
        return
    do = "Repair the header with a DICOM editor, or export the image again"
    raise InputError(f"The header of {name} must say how its pixels are stored", given, do)


def _check_claims(dataset: Any, header: ImageHeader, syntax: Any) -> int | None:
    """Refuse a file that cannot hold its frames, and frames that a decoder would make larger than the header says; else
    the bits of a sample in its compressed frames, None where they do not say.

    One refusal for the file, whatever number of frames it claims: to try each of them takes minutes, and memory.
    """
    name, (rows, columns) = header.path.name, header.stored_size
    check_size((header.samples, columns, rows), name)
    if not syntax.is_encapsulated:
        missing = _missing_bytes(dataset, syntax)
        if missing:
            raise _not_decoded(name, missing)
        return None
    held = len(dataset.get("PixelData") or b"")
    if held < header.frames * _ITEM_BYTES:
        raise _not_decoded(name, f"{held} bytes of compressed pixels where the header says {header.frames} frames")
    try:
        found = [claimed_size(frame) for frame in generate_frames(dataset.PixelData, number_of_frames=header.frames)]
    except Exception:  # no frames to be found: the decoder says so in its own way
        return None
    most = rows * columns * max(header.samples, 3)
    for claim in found:
        if claim is not None and claim.rows * claim.columns * claim.samples > most:
            raise InputError(
                f"{name} must hold frames of {rows} × {columns} pixels",
                f"a frame that claims {claim.rows} × {claim.columns} × {claim.samples}",
                "Export the image again",
            )
    return next((claim.bits for claim in found if claim is not None), None)


def overlays(dataset: Any) -> bool:
    """Tell whether an image carries an overlay plane, beside its pixels or in their unused bits, which is left out.

    Args:
        dataset: Elements of a file.

    Returns:
        True for any overlay.
    """
    return any(tag in dataset for tag in _OVERLAY)


def window(dataset: Any, frame: int = 0) -> list[float] | None:
    """Read the window stored in a file or for one frame of it, the first one where there are several.

    Args:
        dataset: Elements of a file.
        frame: 0-based.

    Returns:
        ``[level, width]`` in values after rescale, or None.
    """
    for holder in (dataset, *_voi_groups(dataset, frame)):
        level, width = (values(parts(element(holder, name))[:1]) for name in ("WindowCenter", "WindowWidth"))
        if level and width and width[0] > 0 and np.isfinite([*level, *width]).all():
            return [*level, *width]
    return None


def _voi_groups(dataset: Any, frame: int) -> list[Any]:
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    items = element(dataset, "PerFrameFunctionalGroupsSequence")
    own = items[frame] if isinstance(items, Sequence) and frame < len(items) else {}
    return [first_item(group, "FrameVOILUTSequence") for group in (own, shared)]
