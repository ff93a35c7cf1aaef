"""Pixels of one DICOM frame → values: decoding, palette, rescale or modality LUT, padding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, iter_pixels, pixel_array
from pydicom.pixels.utils import get_expected_length

from headclip_med.errors import InputError
from headclip_med.reading.base import check_size, in_words
from headclip_med.reading.dicom_codestream import claimed_size
from headclip_med.reading.dicom_header import ImageHeader, element, first_item, numbers

# Data of the first overlay plane.
_OVERLAY_DATA = (0x6000, 0x3000)
# What the header of one item of compressed pixel data takes; a frame has at least one item.
_ITEM_BYTES = 8
_PALETTES = tuple(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue"))

Plane = NDArray[np.float32]


def planes(dataset: Any, headers: Sequence[ImageHeader]) -> Iterator[Plane | InputError]:
    """Frames of one file, in the order of their ``headers``: ``(1 or 3, rows, columns)`` each, or why not.

    Grey after rescale (modality LUT), NaN where the file says padding; colour in [0, 255].

    Raises:
        InputError: no decoder, pixel data too short for the frames that the header claims, or frames that claim to be
            larger than the header says.
    """
    first = headers[0]
    syntax = _syntax(dataset, first.path.name)
    _check_decoder(syntax, first.path.name)
    _check_claims(dataset, first, syntax)
    one = first.frames == 1
    plugins = _plugins(syntax)
    together = None
    if not one:
        together = iter_pixels(dataset, indices=[header.frame for header in headers], decoding_plugin=plugins[0])
    for header in headers:
        untried, problem = plugins, None
        if together is not None:
            pixels, problem = _attempt(partial(next, together))
            if problem is not None:  # an iterator ends with its first error: from here on frame by frame
                together, untried = None, plugins[1:]
        if together is None:
            frame = None if one else header.frame
            for plugin in untried:
                pixels, problem = _attempt(partial(pixel_array, dataset, index=frame, decoding_plugin=plugin))
                if problem is None:
                    break
        if problem is not None:
            yield _undecodable(header.path.name, syntax, problem)
        else:
            yield _values_or_problem(np.asarray(pixels), dataset, header)


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
    return _not_decoded(name, f"{type(problem).__name__} from the decoder of {syntax.name}")


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


def _values_or_problem(pixels: NDArray[np.generic], dataset: Any, header: ImageHeader) -> Plane | InputError:
    try:
        return _values(pixels, dataset, header)
    except InputError as problem:
        return problem


def _values(pixels: NDArray[np.generic], dataset: Any, header: ImageHeader) -> Plane:
    name = header.path.name
    if pixels.shape[:2] != (header.rows, header.columns) or pixels.ndim > 3:
        raise InputError(f"{name} must hold {header.rows} × {header.columns} pixels", f"{pixels.shape[:2]}")
    with in_words(name, "DICOM"):
        if header.photometric == "PALETTE COLOR":
            pixels = _palette(pixels, dataset)
            return _colour(pixels, pixels.dtype.itemsize * 8)
        if pixels.ndim == 3:
            return _colour(pixels, int(dataset.BitsStored))
        return _grey(pixels, dataset, header)[None]


def _colour(pixels: NDArray[np.generic], depth: int) -> Plane:
    return np.asarray(np.moveaxis(pixels[..., :3], -1, 0) * (255.0 / (2**depth - 1)), dtype=np.float32)


def _grey(pixels: NDArray[np.generic], dataset: Any, header: ImageHeader) -> Plane:
    with np.errstate(over="ignore", invalid="ignore"):
        if header.rescale is None:
            values = np.asarray(apply_modality_lut(pixels, dataset), dtype=np.float64)
        else:
            slope, intercept = header.rescale
            values = pixels.astype(np.float64) * slope + intercept
        plane = values.astype(np.float32)
    if pixels.dtype.kind == "f":
        plane[~np.isfinite(plane)] = np.inf  # undefined by the file: not the same as padding
    padding = _padding(pixels, dataset)
    if padding is not None:
        plane[padding] = np.nan
    return plane


def _padding(pixels: NDArray[np.generic], dataset: Any) -> NDArray[np.bool_] | None:
    """Where stored values lie from PixelPaddingValue to PixelPaddingRangeLimit."""
    if pixels.dtype.kind == "f":
        value, limit = (numbers(dataset, f"{kind}FloatPixelPaddingValue", 1) for kind in ("", "Double")), None
        found = next((v for v in value if v), None)
    else:
        found, limit = numbers(dataset, "PixelPaddingValue", 1), numbers(dataset, "PixelPaddingRangeLimit", 1)
    if found is None:
        return None
    low, high = sorted((found[0], (limit or found)[0]))
    inside: NDArray[np.bool_] = (pixels >= low) & (pixels <= high)  # type: ignore[operator]
    return inside


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


def _syntax(dataset: Any, name: str) -> Any:
    with in_words(name, "DICOM"):
        syntax = dataset.file_meta.TransferSyntaxUID
        _ = syntax.is_encapsulated  # raises for a UID that is no transfer syntax
        return syntax


def _check_decoder(syntax: Any, name: str) -> None:
    """A decoder that is not installed is named with the way to get one."""
    if syntax.is_encapsulated and not has_decoder(syntax):
        raise InputError(
            f"{name} needs a decoder for {syntax.name}",
            "none that is installed",
            "Run: pip install 'headclip-med[dicom]'",
        )


def has_decoder(syntax: Any) -> bool:
    """Whether this transfer syntax can be decoded here."""
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _check_claims(dataset: Any, header: ImageHeader, syntax: Any) -> None:
    """Refuse a file that cannot hold its frames, and frames that a decoder would make larger than the header says.

    One refusal for the file, whatever number of frames it claims: to try each of them takes minutes, and memory.
    """
    name = header.path.name
    check_size((header.samples, header.columns, header.rows), name)
    if not syntax.is_encapsulated:
        missing = _missing_bytes(dataset, syntax)
        if missing:
            raise _not_decoded(name, missing)
        return
    held = len(dataset.get("PixelData") or b"")
    if held < header.frames * _ITEM_BYTES:
        raise _not_decoded(name, f"{held} bytes of compressed pixels where the header says {header.frames} frames")
    try:
        found = [claimed_size(frame) for frame in generate_frames(dataset.PixelData, number_of_frames=header.frames)]
    except Exception:  # no frames to be found: the decoder says so in its own way
        return
    most = header.rows * header.columns * max(header.samples, 3)
    for claim in found:
        if claim is not None and claim.rows * claim.columns * claim.samples > most:
            raise InputError(
                f"{header.path.name} must hold frames of {header.rows} × {header.columns} pixels",
                f"a frame that claims {claim.rows} × {claim.columns} × {claim.samples}",
                "Export the image again",
            )


def overlays(dataset: Any) -> bool:
    """Whether the image carries an overlay plane, which is left out."""
    return _OVERLAY_DATA in dataset


def window(dataset: Any, frame: int = 0) -> list[float] | None:
    """``[level, width]`` stored in the file or for this frame of it, the first one where there are several."""
    for holder in (dataset, *_voi_groups(dataset, frame)):
        level, width = (_first(holder, keyword) for keyword in ("WindowCenter", "WindowWidth"))
        if level is not None and width is not None and width > 0 and np.isfinite([level, width]).all():
            return [level, width]
    return None


def _voi_groups(dataset: Any, frame: int) -> list[Any]:
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    items = element(dataset, "PerFrameFunctionalGroupsSequence")
    own = items[frame] if isinstance(items, Sequence) and frame < len(items) else {}
    return [first_item(group, "FrameVOILUTSequence") for group in (own, shared)]


def _first(dataset: Any, keyword: str) -> float | None:
    try:
        return float(np.atleast_1d(element(dataset, keyword))[0])
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
