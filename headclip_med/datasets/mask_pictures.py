"""A picture of a mask → a label for every pixel, whatever way it was saved: lossy, smoothed, palette, alpha, colours.

What the content is decides, never the name of the file: a JPEG called .png is a JPEG.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from headclip_med.base.errors import InputError
from headclip_med.datasets.values import COLOUR
from headclip_med.reading import raster
from headclip_med.reading.checks import collected_warnings, refuse_damage
from headclip_med.reading.content import existing_path, identify

Labels = NDArray[np.int32]
Pixels = NDArray[Any]
Mask = NDArray[np.bool_]

# How warnings about masks begin; the check of a set tells them by it.
NOT_BINARY = "the mask is not binary"
TOO_DARK = "the mask is nearly black and counts as empty"
LOOKS_SMOOTHED = "the mask looks smoothed or once lossy, but its values count as they are named"

# Of the range: values this near to an end are noise around it.
_NEAR = 1 / 8
# So few values may be labels though they lie at the ends; a picture of more than so many is worth a word; more than
# so many are shades, whatever areas they fill.
_FEW, _MOST_LABELS, _MOST_SHADES = 4, 8, 64
# Noise of JPEG stays in its blocks of 8 × 8 pixels, which hold the bright pixels it is of; few of its pixels lie in 2
# × 2 of one value (at most 0.07 of them, in 178 of 179 masks that once were JPEG), of labels far more do.
_BLOCK, _MOST_NOISE_IN_SQUARES = 8, 0.5
# A mask of more shades, more than half of whose pixels lie between black and white, is a photograph.
_PHOTO_SHARE = 0.5
_PICTURES = ("png", "jpeg", "tiff", "bmp")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_SAYS_WHITE = ("jpeg", "tiff_jpeg", "group3", "group4", "tiff_ccitt")  # compressions that go with one of the two
_PHOTOMETRIC = 262


def picture_labels(path: Path, warnings: list[str], *, in_colour: bool = False, named: bool = False) -> Labels:
    """Read the labels of one picture.

    Lossy pictures are cut at half of their range whatever they hold, and so are smoothed ones. Palettes count by index,
    transparent pixels are background, and where only the transparency varies it is the mask. NaN and Inf become 0.
    Where low values are white, they are turned round.

    Args:
        path: PNG, JPEG, TIFF or BMP.
        warnings: What had to be decided is added to them.
        in_colour: Tell the colours of a lossy picture apart, each channel cut at half, instead of black and white.
        named: Somebody says what the values mean, so that up to 64 of them are labels, however smoothed they look.

    Returns:
        ``(I, J)``, 0 where there is nothing.

    Raises:
        InputError: no such file, no PNG, JPEG, TIFF or BMP, several pages, a damaged one, or a photograph.
    """
    existing_path(path)
    pixels, lossy = _read(path)
    pixels = pixels.swapaxes(0, 1)  # rows, columns → I, J
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    pixels = _finite(pixels, path.name, warnings)
    _check_no_photograph(pixels, path.name)
    if pixels.ndim == 3 and not lossy:
        return _colours(pixels, path.name, warnings)
    if pixels.ndim == 3 and in_colour:
        return _codes(np.where(pixels >= 128, 255, 0))
    grey = pixels.max(axis=-1) if pixels.ndim == 3 else pixels
    return _cut(grey, path.name, warnings) if lossy else _grey(grey, path.name, warnings, named)


def _read(path: Path) -> tuple[Pixels, bool]:
    """``(rows, columns)`` or ``(rows, columns, 3)``, and whether the picture is lossy."""
    notes: list[str] = []
    kind = identify(path)
    if kind not in _PICTURES:
        raise InputError(f"The mask {path.name} must be PNG, JPEG, TIFF or BMP", f"a {kind} file", "Save it as PNG")
    with (
        refuse_damage(path.name, "PNG, JPEG, TIFF or BMP"),
        collected_warnings(notes, "pillow", "PIL"),
        collected_warnings(notes, "tifffile", "tifffile"),
    ):
        if kind == "tiff" and _is_deep(path):
            plane, inverted = raster.read_samples(path, None, notes)
            return (_turned_round(plane[0]) if inverted else plane[0]), False
        with raster._open(path) as image:
            _check_one_page(getattr(image, "n_frames", 1), image.format, path.name)
            lossy = image.format in ("JPEG", "MPO") or image.info.get("compression") in _LOSSY_TIFF
            pixels = _pixels(raster._oriented(image, None, path.name, notes))
            if _is_turned_round(image):
                pixels = pixels.max(initial=1) - pixels if image.mode == "1" else 255 - pixels
            return pixels, lossy


def _is_deep(path: Path) -> bool:
    """Whether a TIFF has one grey sample of more than 8 bits, signed or in fractions, few of which Pillow reads."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        deep = page.dtype is None or page.dtype.itemsize > 1 or page.dtype.kind not in "ub"
        if found := bool(page.samplesperpixel == 1 and page.photometric in (0, 1) and deep):
            _check_one_page(len(file.pages), "TIFF", path.name)
        return found


def _turned_round(values: Pixels) -> Pixels:
    """Values of which the highest is black, up from 0; 1 of fractions, and where all are 0."""
    return np.asarray(max(values.max(), values.dtype.type(1)) - values)


def _is_turned_round(image: Any) -> bool:
    """Whether Pillow takes white for 0 though nothing says so: then black is 0, as in what is read as an image."""
    told = image.format != "TIFF" or _PHOTOMETRIC in image.tag_v2 or image.mode not in ("1", "L")
    return not told and image.info.get("compression") not in _SAYS_WHITE


def _finite(pixels: Pixels, name: str, warnings: list[str]) -> Pixels:
    if pixels.dtype.kind != "f" or np.isfinite(pixels).all():
        return pixels
    warnings.append(f"{NOT_BINARY}: {name} holds NaN or Inf, which count as no lesion")
    return np.where(np.isfinite(pixels), pixels, 0)


def _check_one_page(pages: int, kind: str, name: str) -> None:
    if pages > 1 and kind != "MPO":
        do = "Save the page that belongs to the image as a file of its own"
        raise InputError(f"The mask {name} must be one picture", f"{pages} pages", do)


def distinct_values(values: Pixels) -> Pixels:
    """List the different values, where small whole numbers are counted instead of sorted.

    Args:
        values: Of any shape.

    Returns:
        ``(n,)``, rising.
    """
    if values.dtype.kind in "iu" and values.size and values.min() >= 0 and values.max() < 2**16:
        return np.flatnonzero(np.bincount(values.ravel(order="K")))
    return np.unique(values)


def _pixels(image: Any) -> Pixels:
    """``(rows, columns)`` grey values or palette indices, or ``(rows, columns, 3)`` colours."""
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode in raster._GREY_MODES:
        return np.asarray(image)
    if image.mode == "P" and not image.has_transparency_data:
        indices = np.asarray(image)
        if _starts_black(image, indices):
            return indices
    if image.has_transparency_data:
        return _grey_if_equal(_without_alpha(np.asarray(image.convert("RGBA"))))
    return _grey_if_equal(np.asarray(image.convert("RGB")))


def _starts_black(image: Any, indices: Pixels) -> bool:
    """Whether index 0 is the background of a palette: it is black, or no index in use is."""
    palette = np.frombuffer(bytes(image.getpalette("RGB") or ()), dtype=np.uint8).reshape(-1, 3)
    used = np.unique(indices)
    black = [index for index in used if index >= len(palette) or not palette[index].any()]
    return 0 in black or not black or len(black) == len(used)


def _without_alpha(rgba: Pixels) -> Pixels:
    """Colours on black; of a picture of one colour that is not opaque, the transparency."""
    colour, alpha = rgba[..., :3], rgba[..., 3]
    is_flat = bool((colour == colour[0, 0]).all())
    if alpha.min() == alpha.max() and not (is_flat and alpha.max() == 0):
        return colour
    seen = np.where((alpha >= 128)[..., None], colour, 0)
    return np.repeat(alpha[..., None], 3, axis=-1) if is_flat or not seen.any() else seen


def _grey_if_equal(colour: Pixels) -> Pixels:
    return colour[..., 0] if (colour == colour[..., :1]).all() else colour


# --- grey --------------------------------------------------------------------------------------------------------


def _grey(values: Pixels, name: str, warnings: list[str], named: bool) -> Labels:
    """Labels as they are stored, unless the values are shades of a smoothed or once lossy mask."""
    distinct = distinct_values(values)
    is_whole = values.dtype.kind in "iu" or bool((distinct % 1 == 0).all())
    if not is_whole or (len(distinct) > 2 and _is_smoothed(values, distinct)):
        if not is_whole or not named or len(distinct) > _MOST_SHADES:
            return _cut(values, name, warnings, always_told=True)
        warnings.append(f"{LOOKS_SMOOTHED}: {name}")
    return np.clip(values, -COLOUR, COLOUR - 1).astype(np.int32)


def _is_smoothed(values: Pixels, distinct: Pixels) -> bool:
    """Whether the values reach both ends of the range, and those between are noise or edges without area."""
    full = _full_range(distinct)
    if distinct[-1] < full / 2 or distinct[0] < 0 or _mostly_areas(values, distinct):
        return False
    if len(distinct) > _MOST_SHADES:
        return True
    between = distinct[(distinct > full * _NEAR) & (distinct < full * (1 - _NEAR))]
    if len(between):
        return not (_has_area(values, between) or (len(distinct) <= _MOST_LABELS and _stand_alone(values, between)))
    low = distinct[(distinct > 0) & (distinct <= full * _NEAR)]
    if len(distinct) <= _FEW and _has_area(values, low):  # 1 beside 255 are labels: lesion and not known
        return False
    return distinct[0] > 0 or not len(low) or _is_noise(values, low, distinct[distinct > low[-1]])


def _stand_alone(values: Pixels, which: Pixels) -> bool:
    """Whether one of these values never lies beside a higher one, as every shade of an edge does."""
    higher = ndimage.maximum_filter(values, 3, mode="nearest") > values
    return bool(np.setdiff1d(which, values[higher]).size)


def _is_noise(values: Pixels, low: Pixels, high: Pixels) -> bool:
    """Whether low values lie around the high ones as the noise of JPEG does, and not in patches of their own."""
    if len(high) > 1:  # such as 250 to 255
        return True
    is_low = np.isin(values, low)
    near = ndimage.maximum_filter(values, 2 * _BLOCK - 1, mode="constant") >= high[0]
    if (is_low & ~near).any():
        return False
    square = np.ones((2, 2))
    patches = np.zeros_like(is_low)
    for value in low:
        patches |= ndimage.binary_opening(values == value, square)
    return bool(patches.sum() <= _MOST_NOISE_IN_SQUARES * is_low.sum())


def _mostly_areas(values: Pixels, distinct: Pixels) -> bool:
    """Whether most of many values fill areas, as instances do and shades do not."""
    return len(distinct) > _MOST_SHADES and 2 * len(_with_area(values)) > len(distinct)


def _has_area(values: Pixels, which: Pixels) -> bool:
    return bool(np.isin(_with_area(values), which).any())


def _with_area(values: Pixels) -> Pixels:
    """The values that fill 3 × 3 pixels somewhere."""
    even = ndimage.maximum_filter(values, 3, mode="nearest") == ndimage.minimum_filter(values, 3, mode="nearest")
    return np.unique(values[even])


def _cut(values: Pixels, name: str, warnings: list[str], *, always_told: bool = False) -> Labels:
    """The highest value (1, 255 or 65,535) from half of the range on, 0 below."""
    distinct = distinct_values(values)
    full = _full_range(distinct)
    half = full / 2
    if distinct[-1] < half and len(distinct) > 1:
        warnings.append(f"{TOO_DARK}: {name} reaches {distinct[-1]:g}, which is less than half of {full:g}")
    elif always_told or len(distinct) > _MOST_LABELS:
        warnings.append(f"{NOT_BINARY}: {name} has {len(distinct)} values, from {half:g} on they count as lesion")
    return np.where(values >= half, max(1, int(full) - 1), 0).astype(np.int32)


def _full_range(distinct: Pixels) -> float:
    """Where the range of the values ends: 1 for fractions, 256, 65,536, or the highest value beyond."""
    highest = float(distinct[-1])
    if distinct.dtype.kind == "f" and highest <= 1:
        return 1.0
    return next((limit for limit in (2.0**8, 2.0**16) if highest < limit), highest)


def _check_no_photograph(pixels: Pixels, name: str) -> None:
    grey = pixels.max(axis=-1) if pixels.ndim == 3 else pixels
    distinct = distinct_values(grey)
    full = _full_range(distinct)
    between = (grey > full * _NEAR) & (grey < full * (1 - _NEAR))
    is_photo = len(distinct) > _MOST_SHADES and between.mean() > _PHOTO_SHARE
    if is_photo and not _mostly_areas(grey, distinct):
        given = f"a picture of {len(distinct)} shades, most of them grey"
        raise InputError(f"The mask {name} must be black and white, or hold labels", given, "Check which file it is")


# --- colours -----------------------------------------------------------------------------------------------------


def _colours(pixels: Pixels, name: str, warnings: list[str]) -> Labels:
    """A label per colour; shades on the edge of a colour go to the nearest one that fills an area, or to black."""
    codes = _codes(pixels)
    distinct = np.unique(codes)
    shades = distinct[distinct != 0]
    areas = [code for code in _with_area(codes) if code]
    if len(shades) <= max(1, len(areas)) or (not areas and len(shades) <= _MOST_LABELS):
        return codes
    warnings.append(f"{NOT_BINARY}: {name} has {len(shades)} colours, and shades count as the nearest plain one")
    kept = np.array([0, *(areas or [shades[_channels(shades).sum(axis=-1).argmax()]])], dtype=np.int32)
    away = np.abs(_channels(distinct)[:, None] - _channels(kept)).sum(axis=-1)
    return kept[away.argmin(axis=-1)][np.searchsorted(distinct, codes)]


def _channels(codes: Labels) -> Labels:
    return np.stack([codes >> shift & 255 for shift in (16, 8, 0)], axis=-1)


def _codes(pixels: Pixels) -> Labels:
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    code = red << 16 | green << 8 | blue
    return np.where(code > 0, code + COLOUR, 0).astype(np.int32)
