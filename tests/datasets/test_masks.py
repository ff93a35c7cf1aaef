"""Masks of pictures in every way that they are saved: which pixels count, and what is said."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from dataset_trees import pairs_tree, put_image
from PIL import Image

from headclip_med.datasets import LabelledVolume, open_dataset
from headclip_med.datasets.case import Case
from headclip_med.datasets.check import check_dataset
from headclip_med.datasets.loading import load_labelled
from headclip_med.datasets.truth import MaskError, MeaningError
from headclip_med.datasets.values import COLOUR, EVERY_VALUE, MaskValues

ROWS, COLUMNS = 40, 48
BOX = (slice(8, 20), slice(9, 22))  # rows and columns of the lesion


def _box(value: int | tuple[int, ...] = 255, dtype: type = np.uint8) -> np.ndarray:
    shape = (ROWS, COLUMNS) if isinstance(value, int) else (ROWS, COLUMNS, len(value))
    array = np.zeros(shape, dtype=dtype)
    array[BOX] = value
    return array


TRUTH = _box(1).astype(bool)


def _load(folder: Path, mask: Path, values: MaskValues | None = None) -> LabelledVolume:
    image = put_image(folder / "image.png", size=(COLUMNS, ROWS))
    case = Case("case", (image,), (mask,)) if values is None else Case("case", (image,), (mask,), values=values)
    return load_labelled(case, masks_known=True)


def _seen(labelled: LabelledVolume) -> np.ndarray:
    assert labelled.gt_mask is not None
    return labelled.gt_mask[..., 0].T


def _saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


# --- lossy pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [30, 60, 75, 95])
@pytest.mark.parametrize("shape", ["band", "box", "aligned"])
@pytest.mark.parametrize("name", ["m.jpg", "m.png", "m.tif"])  # the content decides, not the name
def test_a_jpeg_mask_is_cut_at_half_whatever_it_holds(tmp_path: Path, quality: int, shape: str, name: str) -> None:
    array = np.zeros((ROWS, COLUMNS), dtype=np.uint8)
    array[{"band": np.s_[5:17], "box": np.s_[5:17, 3:9], "aligned": np.s_[8:24, 8:21]}[shape]] = 255
    path = tmp_path / name
    Image.fromarray(array).save(path, format="JPEG", quality=quality)
    decoded = np.asarray(Image.open(path))
    assert np.array_equal(_seen(_load(tmp_path, path)), decoded >= 128)


def test_a_tiff_that_was_compressed_as_jpeg_is_lossy(tmp_path: Path) -> None:
    path = _saved(tmp_path / "m.tif", Image.fromarray(_box()), compression="jpeg", quality=40)
    assert np.array_equal(_seen(_load(tmp_path, path)), np.asarray(Image.open(path)) >= 128)


@pytest.mark.parametrize("grey", [0, 1, 3, 9])
def test_a_black_jpeg_mask_is_empty(tmp_path: Path, grey: int) -> None:
    path = _saved(tmp_path / "m.jpg", Image.fromarray(np.full((ROWS, COLUMNS), grey, dtype=np.uint8)), quality=40)
    labelled = _load(tmp_path, path)
    assert (labelled.gt_label, labelled.warnings) == (False, ())


def test_a_jpeg_mask_that_stays_dark_is_empty_and_told(tmp_path: Path) -> None:
    for number in range(3):
        put_image(tmp_path / "images" / f"{number}.png", seed=number, size=(COLUMNS, ROWS))
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(_box(60 if number else 255)).save(tmp_path / "masks" / f"{number}.jpg", quality=95)
    report = check_dataset(open_dataset(tmp_path))
    assert (report.counts["normal"], report.counts["abnormal"]) == (2, 1)
    (problem,) = (problem for problem in report.problems if problem.kind == "mask_dark")
    assert (problem.cases, problem.severity) == (("1", "2"), "warning")
    assert problem.what == "the mask is nearly black and counts as empty"


def test_a_jpeg_mask_in_colour_counts_by_its_highest_channel(tmp_path: Path) -> None:
    array = np.zeros((ROWS, COLUMNS, 3), dtype=np.uint8)
    array[8:20, 8:16], array[8:20, 24:32] = (255, 0, 0), (0, 255, 0)
    path = _saved(tmp_path / "m.jpg", Image.fromarray(array), quality=90, subsampling=0)
    both = _seen(_load(tmp_path, path))
    assert both[10:18, 9:15].all()
    assert both[10:18, 25:31].all()
    red = _seen(_load(tmp_path, path, MaskValues((COLOUR + 0xFF0000,))))
    assert red[10:18, 9:15].all()
    assert not red[:, 24:32].any()


# --- once lossy, smoothed ----------------------------------------------------------------------------------------


def _again_as_png(quality: int) -> Image.Image:
    buffer = BytesIO()
    Image.fromarray(_box()).save(buffer, format="JPEG", quality=quality)
    return Image.open(BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("quality", [20, 50, 75, 90])
def test_a_jpeg_mask_that_was_saved_again_is_cut_at_half_too(tmp_path: Path, quality: int) -> None:
    image = _again_as_png(quality)
    labelled = _load(tmp_path, _saved(tmp_path / "m.png", image))
    assert np.array_equal(_seen(labelled), np.asarray(image) >= 128)
    assert labelled.mask_values == (255,)


@pytest.mark.parametrize("factor", [2, 3])
def test_edges_of_an_enlarged_mask_are_no_labels(tmp_path: Path, factor: int) -> None:
    small = Image.fromarray(_box()[::factor, ::factor])
    large = small.resize((COLUMNS, ROWS), Image.Resampling.BILINEAR)
    assert 2 < len(np.unique(np.asarray(large))) <= 32
    labelled = _load(tmp_path, _saved(tmp_path / "m.png", large))
    assert np.array_equal(_seen(labelled), np.asarray(large) >= 128)
    assert labelled.warnings[0].startswith("the mask is not binary: m.png has ")


def test_a_blurred_mask_counts_from_half_on(tmp_path: Path) -> None:
    ramp = np.zeros((ROWS, COLUMNS), dtype=np.uint8)
    ramp[8:20] = np.linspace(0, 255, COLUMNS).astype(np.uint8)
    labelled = _load(tmp_path, _saved(tmp_path / "m.png", Image.fromarray(ramp)))
    assert np.array_equal(_seen(labelled), ramp >= 128)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_photograph_is_no_mask(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).normal(120, 30, (ROWS, COLUMNS)).clip(0, 255).astype(np.uint8)
    path = _saved(tmp_path / f"m.{ending}", Image.fromarray(noise))
    with pytest.raises(MaskError, match=r"must be black and white, or hold labels; given: a picture of \d+ shades"):
        _load(tmp_path, path)


# --- one value, however it is written ----------------------------------------------------------------------------


def _palette(colours: list[int]) -> Callable[[np.ndarray], Image.Image]:
    def make(array: np.ndarray) -> Image.Image:
        image = Image.fromarray((array > 0).astype(np.uint8), mode="P")
        image.putpalette(colours)
        return image

    return make


def _alpha(colour: int, seen: int = 255) -> Callable[[np.ndarray], Image.Image]:
    def make(array: np.ndarray) -> Image.Image:
        rgba = np.full((*array.shape, 4), colour, dtype=np.uint8)
        rgba[..., 3] = np.where(array > 0, seen, 0)
        return Image.fromarray(rgba, "RGBA")

    return make


def _opaque(array: np.ndarray) -> Image.Image:
    rgba = np.zeros((*array.shape, 4), dtype=np.uint8)
    rgba[..., 0], rgba[..., 3] = np.where(array > 0, 255, 0), 255
    return Image.fromarray(rgba, "RGBA")


def _grey_alpha(array: np.ndarray) -> Image.Image:
    both = np.zeros((*array.shape, 2), dtype=np.uint8)
    both[..., 1] = np.where(array > 0, 255, 0)
    return Image.fromarray(both, "LA")


def _quantised(array: np.ndarray) -> Image.Image:
    """A palette whose first colour is white, as Pillow orders them by how often they occur or by brightness."""
    image = Image.fromarray((array == 0).astype(np.uint8), mode="P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    return image


WAYS: dict[str, Callable[[np.ndarray], Image.Image]] = {
    "0 and 1": lambda array: Image.fromarray((array > 0).astype(np.uint8)),
    "0 and 255": Image.fromarray,
    "0 and 7": lambda array: Image.fromarray((array > 0).astype(np.uint8) * 7),
    "1 bit": lambda array: Image.fromarray(array > 0),
    "16 bit of 0 and 1": lambda array: Image.fromarray((array > 0).astype(np.uint16)),
    "16 bit of 0 and 65535": lambda array: Image.fromarray((array > 0).astype(np.uint16) * 65535),
    "16 bit of 0 and 256": lambda array: Image.fromarray((array > 0).astype(np.uint16) * 256),
    "red on black": lambda array: Image.fromarray(np.stack([array, array * 0, array * 0], axis=-1)),
    "dark red on black": lambda array: Image.fromarray(np.stack([array // 2, array * 0, array * 0], axis=-1)),
    "white in colour": lambda array: Image.fromarray(np.stack([array] * 3, axis=-1)),
    "palette with a colour": _palette([0, 0, 0, 128, 0, 0]),
    "palette all black": _palette([0, 0, 0, 0, 0, 0]),
    "palette of another background": _palette([68, 1, 84, 253, 231, 37]),
    "palette that begins with white": _quantised,
    "transparency over black": _alpha(0),
    "transparency over white": _alpha(255),
    "faint transparency": _alpha(255, seen=200),
    "opaque colour": _opaque,
    "transparency over grey": _grey_alpha,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_mask_of_one_value_counts_however_it_is_written(tmp_path: Path, way: str, ending: str) -> None:
    path = _saved(tmp_path / f"m.{ending}", WAYS[way](_box()))
    assert np.array_equal(_seen(_load(tmp_path, path)), TRUTH)
    empty = _saved(tmp_path / f"e.{ending}", WAYS[way](_box(0)))
    if way not in ("palette that begins with white",):  # of one colour alone nobody can tell what it means
        assert _load(tmp_path, empty).gt_label is False


def test_a_tiff_of_floats(tmp_path: Path) -> None:
    path = _saved(tmp_path / "m.tif", Image.fromarray(_box(1).astype(np.float32)))
    assert np.array_equal(_seen(_load(tmp_path, path)), TRUTH)
    soft = _saved(tmp_path / "s.tif", Image.fromarray(_box(1).astype(np.float32) * 0.7 + np.float32(0.2)))
    assert np.array_equal(_seen(_load(tmp_path, soft)), TRUTH)


def test_a_tiff_of_one_bit_whose_white_is_zero(tmp_path: Path) -> None:
    path = _saved(tmp_path / "m.tif", Image.fromarray(TRUTH), tiffinfo={262: 0})
    with Image.open(path) as stored:
        assert stored.tag_v2[262] == 0  # type: ignore[attr-defined]
    assert np.array_equal(_seen(_load(tmp_path, path)), TRUTH)


DEEP = {
    "16 bit": (np.uint16, 65535),
    "8 bit": (np.uint8, 255),
    "fractions": (np.float32, 1),
    "double fractions": (np.float64, 1),
    "floats": (np.float32, 255),
    "64 bit floats": (np.float64, 65535),
    "signed": (np.int16, 1),
    "32 bit": (np.uint32, 70_000),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("white", ["miniswhite", "minisblack"])
def test_a_tiff_whose_white_is_zero_is_turned_round(tmp_path: Path, kind: str, white: str) -> None:
    dtype, high = DEEP[kind]
    for name, truth in (("m", _box(1)), ("e", _box(0)), ("f", _box(0) + 1)):
        array = (1 - truth if white == "miniswhite" else truth).astype(dtype) * dtype(high)
        tifffile.imwrite(tmp_path / f"{name}.tif", array, photometric=white)
        labelled = _load(tmp_path, tmp_path / f"{name}.tif")
        assert np.array_equal(_seen(labelled), truth.astype(bool))
        assert set(labelled.mask_values) <= {high} or name == "f"  # of one that is all 0 nobody knows what white is


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16])
def test_a_tiff_that_does_not_say_which_is_white_has_black_at_zero(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, _box(1).astype(dtype), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[262].overwrite(1)
        entry = file.pages[0].tags[262].offset
    with path.open("r+b") as stored:
        stored.seek(entry)
        stored.write((65000).to_bytes(2, "little"))  # another tag, which means nothing
    assert np.array_equal(_seen(_load(tmp_path, path)), TRUTH)


@pytest.mark.parametrize("dtype", [np.uint64, np.int64, np.float64, np.int32])
def test_whole_numbers_of_any_kind_are_labels(tmp_path: Path, dtype: type) -> None:
    tifffile.imwrite(tmp_path / "m.tif", _two(1, 2).astype(dtype), photometric="minisblack")
    labelled = _load(tmp_path, tmp_path / "m.tif", MaskValues((2,)))
    assert (labelled.mask_values, int(_seen(labelled).sum())) == ((1, 2), int((_two(1, 2) == 2).sum()))


def test_a_mask_of_the_highest_of_32_bits_is_a_lesion(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", _box(1).astype(np.uint32) * np.uint32(2**32 - 1), photometric="minisblack")
    assert np.array_equal(_seen(_load(tmp_path, tmp_path / "m.tif")), TRUTH)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_fractions_without_a_value_are_no_lesion_and_told(tmp_path: Path, value: float) -> None:
    array = np.where(TRUTH, 1, value).astype(np.float32)
    tifffile.imwrite(tmp_path / "m.tif", array, photometric="minisblack")
    labelled = _load(tmp_path, tmp_path / "m.tif")
    assert np.array_equal(_seen(labelled), TRUTH)
    assert labelled.warnings == ("the mask is not binary: m.tif holds NaN or Inf, which count as no lesion",)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_another_kind_of_picture_is_not_called_damaged(tmp_path: Path, kind: str) -> None:
    path = _saved(tmp_path / "m.png", Image.fromarray(_box()), format=kind)
    with pytest.raises(MaskError, match=r"m.png must be a .*PNG, JPEG, TIFF.*Convert it first"):
        _load(tmp_path, path)


def test_a_mask_of_several_pages_is_told_what_helps(tmp_path: Path) -> None:
    page = Image.fromarray(_box())
    path = _saved(tmp_path / "m.tif", page, save_all=True, append_images=[page])
    with pytest.raises(MaskError, match=r"m.tif must be one picture; given: 2 pages\. Save the page"):
        _load(tmp_path, path)


# --- several values ----------------------------------------------------------------------------------------------


def _two(first: int, second: int, dtype: type = np.uint8) -> np.ndarray:
    array = _box(first, dtype)
    array[26:34, 9:22] = second
    return array


def _indexed(first: int, second: int) -> Image.Image:
    image = Image.fromarray(_two(first, second), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, *[9] * 100])
    return image


def _coloured() -> Image.Image:
    array = np.zeros((ROWS, COLUMNS, 3), dtype=np.uint8)
    array[BOX], array[26:34, 9:22] = (255, 0, 0), (0, 255, 0)
    return Image.fromarray(array)


SEVERAL = {
    "1 and 2": (lambda: Image.fromarray(_two(1, 2)), (1, 2), "1, 2"),
    "128 and 255": (lambda: Image.fromarray(_two(128, 255)), (128, 255), "128, 255"),
    "1 and not known": (lambda: Image.fromarray(_two(1, 255)), (1, 255), "1, 255"),
    "16 bit": (lambda: Image.fromarray(_two(1, 500, np.uint16)), (1, 500), "1, 500"),
    "palette": (lambda: _indexed(1, 2), (1, 2), "1, 2"),
    "colours": (_coloured, (COLOUR + 0xFF0000, COLOUR + 0x00FF00), "#00ff00, #ff0000"),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_values_are_asked_for_and_chosen(tmp_path: Path, kind: str) -> None:
    make, (first, second), shown = SEVERAL[kind]
    path = _saved(tmp_path / "m.png", make())
    with pytest.raises(MeaningError, match=f"which values of the mask m.png are lesions; given: {shown}") as caught:
        _load(tmp_path, path)
    assert caught.value.values == tuple(sorted((first, second)))
    assert np.array_equal(_seen(_load(tmp_path, path, MaskValues((first,)))), TRUTH)
    assert np.array_equal(_seen(_load(tmp_path, path, EVERY_VALUE)), _two(1, 1) > 0)
    ignoring = _load(tmp_path, path, MaskValues((first,), (second,)))
    assert np.array_equal(_seen(ignoring), TRUTH)
    assert ignoring.ignored is not None
    assert np.array_equal(ignoring.ignored[..., 0].T, (_two(0, 1) > 0) & ~TRUTH)


def _squares(**squares: tuple[int, int]) -> np.ndarray:
    """``v85=(2, 1)``: one square of 85 with sides of 2 pixels; each in a place of its own."""
    array = np.zeros((ROWS, COLUMNS), dtype=np.uint8)
    for place, (value, (side, _)) in enumerate(squares.items()):
        row, column = 2 + 13 * (place // 4), 2 + 12 * (place % 4)
        array[row : row + side, column : column + side] = int(value[1:])
    return array


def _values(*sides: tuple[int, int]) -> np.ndarray:
    return _squares(**{f"v{value}": (side, 0) for value, side in sides})


FLAT = {
    "five labels": _values((1, 10), (2, 10), (3, 10), (255, 10)),
    "1 in 2 x 2 and not known": _values((1, 2), (255, 10)),
    "2 in a single pixel": _values((1, 8), (2, 1), (255, 10)),
    "one pixel each": _values((1, 1), (2, 1), (3, 1), (4, 1), (255, 10)),
    "no 1 in this one": _values((3, 2), (5, 1), (255, 10)),
    "many labels": _values(*((value, 4) for value in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)), (255, 8)),
    "spread labels": _values((85, 2), (170, 10), (255, 10)),
    "half in 2 x 2": _values((127, 2), (255, 10)),
}


@pytest.mark.parametrize("kind", FLAT)
def test_small_labels_are_no_shades(tmp_path: Path, kind: str) -> None:
    array = FLAT[kind]
    path = _saved(tmp_path / "m.png", Image.fromarray(array))
    *lesions, unknown = (int(value) for value in np.unique(array) if value)
    with pytest.raises(MeaningError) as caught:
        _load(tmp_path, path)
    assert caught.value.values == (*lesions, unknown)
    labelled = _load(tmp_path, path, MaskValues(tuple(lesions), (unknown,)))
    assert np.array_equal(_seen(labelled), np.isin(array, lesions))
    assert labelled.ignored is not None
    assert np.array_equal(labelled.ignored[..., 0].T, array == unknown)
    assert labelled.warnings == ()


def test_a_label_within_a_border_of_255_is_no_noise(tmp_path: Path) -> None:
    array = _values((255, 6), (1, 6), (2, 6), (3, 6))
    array[3:7, 3:7], array[15, 15], array[2:8, 14] = 1, 255, 255
    path = _saved(tmp_path / "m.png", Image.fromarray(array))
    assert _load(tmp_path, path, EVERY_VALUE).mask_values == (1, 2, 3, 255)


@pytest.mark.parametrize("values", [MaskValues((40, 90), (255,)), MaskValues((), chosen=True), MaskValues(None, (90,))])
def test_named_values_are_never_smoothed_away(tmp_path: Path, values: MaskValues) -> None:
    array = _box(255)
    array[7, 9:22], array[20, 9:22] = 40, 90  # looks like a smoothed edge
    path = _saved(tmp_path / "m.png", Image.fromarray(array))
    assert _load(tmp_path, path).mask_values == (255,)
    labelled = _load(tmp_path, path, MaskValues(values.lesion or (), values.ignored, chosen=values.chosen))
    assert labelled.mask_values == (40, 90, 255)
    said = "the mask looks smoothed or once lossy, but its values count as they are named: m.png"
    assert labelled.warnings == (said,)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_instances_are_labels_however_many(tmp_path: Path, share: float) -> None:
    side = 4 if share < 0.5 else 6
    array = np.zeros((80, 128), dtype=np.uint8)
    for number in range(160):
        row, column = 8 * (number // 16), 8 * (number % 16)
        array[row : row + side, column : column + side] = number + 1
    image = put_image(tmp_path / "image.png", size=(128, 80))
    mask = _saved(tmp_path / "m.png", Image.fromarray(array))
    labelled = load_labelled(Case("case", (image,), (mask,), values=EVERY_VALUE), masks_known=True)
    assert np.array_equal(_seen(labelled), array > 0)
    assert len(labelled.mask_values) == 160


def test_shades_of_two_colours_go_to_the_nearest(tmp_path: Path) -> None:
    large = _coloured().resize((COLUMNS * 2, ROWS * 2), Image.Resampling.BILINEAR)
    path = _saved(tmp_path / "m.png", large.resize((COLUMNS, ROWS), Image.Resampling.BILINEAR))
    with pytest.raises(MeaningError, match="given: #00ff00, #ff0000"):
        _load(tmp_path, path)
    red = _seen(_load(tmp_path, path, MaskValues((COLOUR + 0xFF0000,))))
    assert (red ^ TRUTH).sum() <= 0.1 * TRUTH.sum()


def test_more_labels_than_anyone_would_list_are_asked_for_too(tmp_path: Path) -> None:
    array = np.repeat(np.arange(12, dtype=np.uint8) * 3, 4)[None].repeat(ROWS, axis=0)
    with pytest.raises(MeaningError, match="given: 3, 6, 9, 12, "):
        _load(tmp_path, _saved(tmp_path / "m.png", Image.fromarray(array)))


# --- the wrong way round -----------------------------------------------------------------------------------------


def test_inverted_masks_are_told_and_can_be_read(tmp_path: Path) -> None:
    pairs_tree(tmp_path, count=3)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    report = check_dataset(open_dataset(tmp_path))
    told = {problem.kind: problem for problem in report.problems}
    assert told["mask_full"].mend == "If 0 means lesion, say --lesion-values 0"
    assert {case for problem in report.problems if problem.kind == "mask_full" for case in problem.cases} == {
        "00",
        "01",
        "02",
    }
    upright = open_dataset(tmp_path, lesion_values=[0])
    assert [upright.load(case).gt_label for case in upright] == [False, True, True]
    assert check_dataset(upright).ok
