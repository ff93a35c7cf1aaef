"""PNG, JPEG, TIFF and BMP → a plane."""

from __future__ import annotations

import io
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image, ImageOps

from headclip_med.base.errors import InputError
from headclip_med.reading import LoadedVolume, load, read_volume

GREY = (np.arange(12, dtype=np.uint8).reshape(3, 4)) * 20  # 3 rows, 4 columns
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)


def _save(array: np.ndarray, path: Path, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_grey_goes_columns_first_towards_left_and_posterior(tmp_path: Path, suffix: str) -> None:
    volume = read_volume(_save(GREY, tmp_path / f"a{suffix}"))
    assert volume.shape == (1, 4, 3, 1)
    np.testing.assert_array_equal(volume.numpy()[0, :, :, 0], GREY.T)
    np.testing.assert_array_equal(volume.affine.numpy(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert (volume.meta["is_2d"], volume.meta["is_rgb"]) == (True, False)
    assert volume.meta["source_format"] == {".tif": "tiff"}.get(suffix, suffix[1:])
    assert volume.meta["reader_warnings"] == []


def test_colour_keeps_its_channels_and_equal_ones_become_grey(tmp_path: Path) -> None:
    volume = load(_save(COLOUR, tmp_path / "a.png"))
    np.testing.assert_array_equal(volume.array[..., 0].transpose(2, 1, 0), COLOUR)
    assert volume.meta["is_rgb"] is True
    grey = load(_save(np.stack([GREY] * 3, axis=-1), tmp_path / "b.png"))
    assert grey.array.shape == (1, 4, 3, 1)
    assert grey.meta["is_rgb"] is False


def test_sixteen_bits_survive(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 250
    for suffix in (".png", ".tif"):
        volume = load(_save(deep, tmp_path / f"a{suffix}"))
        np.testing.assert_array_equal(volume.array[0, :, :, 0], deep.T)


def test_transparency_is_composited_on_black_with_a_word(tmp_path: Path) -> None:
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[0, 1] = 0
    volume = load(_save(np.dstack([COLOUR, alpha]), tmp_path / "a.png"))
    assert volume.array[:, 1, 0, 0].tolist() == [0, 0, 0]
    assert volume.array[:, 2, 0, 0].tolist() == COLOUR[0, 2].tolist()
    assert volume.meta["reader_warnings"] == ["transparency is composited on black"]
    opaque = load(_save(np.dstack([COLOUR, np.full_like(alpha, 255)]), tmp_path / "b.png"))
    assert opaque.meta["reader_warnings"] == []


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_colours_that_are_all_transparent_are_read_with_a_word(tmp_path: Path, mode: str, suffix: str) -> None:
    if (mode, suffix) == ("LA", ".bmp"):
        mode = "RGBA"
    array = np.random.default_rng(0).integers(0, 256, (12, 10, len(mode))).astype(np.uint8)
    array[..., -1] = 0
    Image.fromarray(array, mode).save(tmp_path / f"a{suffix}")
    volume = load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(volume.array[..., 0].transpose(2, 1, 0), array[..., :-1])
    assert suffix == ".bmp" or "as if none were" in " ".join(volume.meta["reader_warnings"])


def test_deep_colours_that_are_all_transparent_are_read_with_a_word(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(1, 65536, (12, 10, 4)).astype(np.uint16)
    array[..., 3] = 0
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["unassalpha"])
    volume = load(tmp_path / "a.tif")
    np.testing.assert_allclose(volume.array[..., 0].transpose(2, 1, 0), array[..., :3] / 257, rtol=1e-6)
    assert "as if none were" in " ".join(volume.meta["reader_warnings"])


def test_palette_and_cmyk_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).quantize(16).save(tmp_path / "p.png")
    assert load(tmp_path / "p.png").array.shape == (3, 4, 3, 1)
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "c.tif")
    np.testing.assert_allclose(load(tmp_path / "c.tif").array[..., 0].transpose(2, 1, 0), COLOUR, atol=2)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    wide = np.zeros((16, 32), np.uint8)
    wide[:, :8] = 255  # a bright left edge becomes the top edge
    volume = load(_save(wide, tmp_path / "a.jpg", exif=exif, quality=95))
    assert volume.array.shape == (1, 16, 32, 1)
    assert volume.array[0, :, :6].min() > 200
    assert volume.array[0, :, 10:].max() < 60


def test_pages_need_a_choice(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY + 1)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="time="):
        read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif", time=1).numpy()[0, :, :, 0], GREY.T + 1)


def test_a_picture_named_as_a_volume_is_read_with_a_word(tmp_path: Path) -> None:
    path = _save(GREY, tmp_path / "a.png").rename(tmp_path / "a.nii.gz")
    assert load(path).meta["reader_warnings"] == ["the name promises nifti but the content is png: read as png"]


@pytest.mark.parametrize(("suffix", "keep"), [(".png", 60), (".jpg", 300), (".bmp", 70), (".tif", 100)])
def test_a_truncated_picture_is_refused(tmp_path: Path, suffix: str, keep: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    path = _save(noise, tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="must be a readable"):
        read_volume(path)


def test_constant_and_huge_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="every voxel is 9"):
        read_volume(_save(np.full((4, 4), 9, np.uint8), tmp_path / "flat.png"))
    path = _save(GREY, tmp_path / "a.png")
    for limit in (8, 2):  # above the limit: Pillow warns; above twice the limit: it raises
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InputError, match="decompression bomb"):
            read_volume(path)


# -- samples beyond 8 bits, white as zero, signs


def _noise(kind: str, samples: int = 0, seed: int = 0) -> np.ndarray:
    """Values over the whole range of a type, ``(20, 30[, samples])``."""
    rng, shape, dtype = np.random.default_rng(seed), (20, 30, samples)[: 3 if samples else 2], np.dtype(kind)
    if dtype.kind == "f":
        return rng.normal(0, 100, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def _plane_of(volume: LoadedVolume) -> np.ndarray:
    """``(rows, columns)``, or with three colours behind."""
    return volume.array[..., 0].transpose(2, 1, 0).squeeze()


def _tiff(
    path: Path,
    data: bytes,
    size: tuple[int, int],
    bits: int,
    *,
    order: str = "<",
    without: tuple[int, ...] = (),
    **tags: int,
) -> Path:
    """A grey TIFF of one strip, tag by tag; ``size`` in rows and columns."""
    codes = {"compression": (259, 1), "photometric": (262, 1), "fill_order": (266, 1), "sample_format": (339, 1)}
    entries = {256: size[1], 257: size[0], 258: bits, 277: 1, 278: size[0], 279: len(data)}
    entries |= {code: tags.get(name, default) for name, (code, default) in codes.items()}
    for code in without:
        del entries[code]
    entries[273] = 8 + 2 + 12 * (len(entries) + 1) + 4
    ifd = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    path.write_bytes(head + ifd + bytes(4) + data)
    return path


def _packed(values: np.ndarray, bits: int) -> bytes:
    """Rows of samples of a few bits each, high bits first."""
    digits = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def _lzw(data: bytes) -> bytes:
    """Bytes as libtiff packs them."""
    packed = io.BytesIO()
    Image.frombytes("L", (len(data), 1), data).save(packed, format="TIFF", compression="tiff_lzw")
    with tifffile.TiffFile(io.BytesIO(packed.getvalue())) as file:
        page: Any = file.pages[0]
        return packed.getvalue()[page.dataoffsets[0] : page.dataoffsets[0] + page.databytecounts[0]]


@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_tiff_white_is_zero_is_turned_round(
    tmp_path: Path, kind: str, order: str, compression: str | None, tile: tuple[int, int] | None
) -> None:
    stored, path = _noise(kind), tmp_path / "film.tif"
    tifffile.imwrite(path, stored, photometric="miniswhite", byteorder=order, compression=compression, tile=tile)
    volume = load(path)
    np.testing.assert_array_equal(_plane_of(volume), np.iinfo(kind).max - stored)
    assert (volume.meta["display_inverted"], volume.meta["reader_warnings"]) == (False, [])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("white_is_zero", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_tiff_of_few_bits_is_spread_and_white_is_white(
    tmp_path: Path, bits: int, white_is_zero: bool, fill_order: int, order: str
) -> None:
    stored, top = _noise("u1") >> (8 - bits), 2**bits - 1
    data = _packed(stored, bits)
    if fill_order == 2:
        data = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)).reshape(-1, 8)[:, ::-1]).tobytes()
    path = _tiff(
        tmp_path / "a.tif", data, (20, 30), bits, order=order, photometric=1 - white_is_zero, fill_order=fill_order
    )
    expected = top - stored if white_is_zero else stored
    np.testing.assert_array_equal(_plane_of(load(path)), expected.astype(int) * 255 // top)


def test_twelve_bits_are_read_or_refused_never_guessed(tmp_path: Path) -> None:
    stored = _noise("u2") >> 4
    path = _tiff(tmp_path / "a.tif", _packed(stored, 12), (20, 30), 12)
    np.testing.assert_array_equal(_plane_of(load(path)), stored)
    white = _tiff(tmp_path / "b.tif", _packed(stored, 12), (20, 30), 12, photometric=0)
    if find_spec("imagecodecs"):
        np.testing.assert_array_equal(_plane_of(load(white)), 4095 - stored)
        return
    with pytest.raises(InputError, match=r"12-bit unsigned samples, MINISWHITE.*pip install imagecodecs"):
        load(white)


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "u4", "f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_white_without_a_number_is_kept_as_stored_and_marked(tmp_path: Path, kind: str, order: str) -> None:
    stored, path = _noise(kind), tmp_path / "film.tif"
    tifffile.imwrite(path, stored, photometric="miniswhite", byteorder=order)
    volume = load(path)
    np.testing.assert_array_equal(_plane_of(volume), stored.astype(np.float32))
    assert volume.meta["display_inverted"] is True
    assert "low values are white" in volume.meta["reader_warnings"][0]


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "u4", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_tiff_signs_and_sizes_are_kept(
    tmp_path: Path, kind: str, order: str, compression: str | None, tile: tuple[int, int] | None
) -> None:
    stored, path = _noise(kind), tmp_path / "a.tif"
    predictor = compression is not None and kind in ("i2", "i4", "u4")
    tifffile.imwrite(path, stored, byteorder=order, compression=compression, predictor=predictor, tile=tile)
    np.testing.assert_array_equal(_plane_of(load(path)), stored.astype(np.float32))
    if tile is None and kind not in ("i8", "f2", "f8"):  # what SimpleITK can read of it
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), stored)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_grey_tiff_with_undefined_samples_keeps_the_others(
    tmp_path: Path, kind: str, compression: str | None, white_is_zero: bool, odd: float
) -> None:
    """One NaN made colour of it, and every value 257 times less."""
    array = np.arange(1, 1921).reshape(40, 48).astype(kind)
    array[0, :3] = odd
    path = tmp_path / "a.tif"
    if compression == "lzw":
        if kind != "f4":
            return
        Image.fromarray(array).save(path, compression="tiff_lzw")
    else:
        photometric = "miniswhite" if white_is_zero else "minisblack"
        tifffile.imwrite(path, array, photometric=photometric, compression=compression)
    volume = load(path)
    array[0, :3] = 4
    np.testing.assert_array_equal(volume.array[0, :, :, 0].T, array)
    assert "3 of 1920 voxels were NaN or Inf" in " ".join(volume.meta["reader_warnings"])


def test_lzw_is_read_where_it_is_exact_and_refused_where_bytes_would_be_swapped(tmp_path: Path) -> None:
    for kind, order, sample_format in (("u2", "<", 1), ("u2", ">", 1), ("i1", ">", 2), ("i2", "<", 2), ("u4", "<", 1)):
        stored = _noise(kind)
        data, path = _lzw(stored.astype(order + kind).tobytes()), tmp_path / "a.tif"
        _tiff(path, data, (20, 30), 8 * stored.itemsize, order=order, compression=5, sample_format=sample_format)
        np.testing.assert_array_equal(_plane_of(load(path)), stored.astype(np.float32), err_msg=f"{order}{kind}")
    big_endian = _tiff(
        tmp_path / "b.tif", _lzw(_noise("i2").byteswap().tobytes()), (20, 30), 16, order=">", compression=5,
        sample_format=2,
    )  # fmt: skip
    if find_spec("imagecodecs"):
        np.testing.assert_array_equal(_plane_of(load(big_endian)), _noise("i2"))
        return
    with pytest.raises(InputError, match=r"16-bit signed samples.*LZW, big-endian.*pip install imagecodecs"):
        load(big_endian)


def test_each_page_has_its_own_meaning(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(_noise("u2"), photometric="minisblack", metadata=None)
        file.write(_noise("u2", seed=1), photometric="miniswhite", metadata=None)
        file.write(_noise("i2", seed=2), photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(_plane_of(load(path, time=0)), _noise("u2"))
    np.testing.assert_array_equal(_plane_of(load(path, time=1)), 65535 - _noise("u2", seed=1))
    np.testing.assert_array_equal(_plane_of(load(path, time=2)), _noise("i2", seed=2))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bit_colour_keeps_its_depth(tmp_path: Path, order: str, planar: str, compression: str | None) -> None:
    stored, path = _noise("u2", 3), tmp_path / "a.tif"
    array = stored if planar == "contig" else np.moveaxis(stored, -1, 0)
    tifffile.imwrite(path, array, photometric="rgb", planarconfig=planar, byteorder=order, compression=compression)
    volume = load(path)
    np.testing.assert_allclose(_plane_of(volume), stored / 257, rtol=1e-6)
    assert volume.meta["reader_warnings"] == ["16-bit colour is scaled to 0 to 255"]
    grey = np.repeat(_noise("u2")[..., None], 3, axis=2)
    tifffile.imwrite(path, grey, photometric="rgb", byteorder=order, compression=compression)
    np.testing.assert_array_equal(_plane_of(load(path)), grey[..., 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_upright_at_any_depth(tmp_path: Path, orientation: int) -> None:
    stored = _noise("u1")
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    for kind in ("u1", "i2"):
        turn = [(0x0112, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / "a.tif", stored.astype(kind), extratags=turn)
        np.testing.assert_array_equal(_plane_of(load(tmp_path / "a.tif")), upright)


TIFF_REFUSED = {
    "floating-point colour": (lambda: _noise("f4", 3), {"photometric": "rgb"}, "32-bit floating-point samples, 3"),
    "complex": (lambda: _noise("f4").astype(np.complex64), {}, "complex samples"),
    "five samples": (lambda: _noise("u2", 5), {"photometric": "minisblack", "planarconfig": "contig"}, "5 a pixel"),
    "a volume in one page": (
        lambda: np.repeat(_noise("u2", 4)[..., 0][None], 16, axis=0),
        {"volumetric": True, "tile": (16, 16, 16)},
        "a page for each plane",
    ),
    "ImageJ's one page for a stack": (
        lambda: np.stack([_noise("u2"), _noise("u2", seed=1)]),
        {"imagej": True, "truncate": True},
        "a page for each plane",
    ),
}


@pytest.mark.parametrize("case", TIFF_REFUSED)
def test_a_tiff_that_would_be_guessed_is_refused(tmp_path: Path, case: str) -> None:
    array, options, words = TIFF_REFUSED[case]
    tifffile.imwrite(tmp_path / "a.tif", array(), **options)
    with pytest.raises(InputError, match=words):
        load(tmp_path / "a.tif")


def test_what_lies_beyond_grey_and_colour_is_said(tmp_path: Path) -> None:
    for kind in ("u1", "u2"):
        stored = _noise(kind, 2)
        tifffile.imwrite(
            tmp_path / "a.tif", stored, photometric="minisblack", planarconfig="contig", extrasamples=["unspecified"]
        )
        volume = load(tmp_path / "a.tif")
        np.testing.assert_array_equal(_plane_of(volume), stored[..., 0])
        assert "unknown meaning" in volume.meta["reader_warnings"][0]


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_truncated_deep_tiff_is_refused(tmp_path: Path, keep: float, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, _noise("f8"), compression=compression, rowsperstrip=4)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(InputError, match="must be a readable TIFF"):
        load(path)


def test_a_bomb_in_a_deep_tiff_is_refused(tmp_path: Path) -> None:
    data = zlib.compress(bytes(2**26 + 2**22), 9)
    path = _tiff(tmp_path / "a.tif", data, (20, 30), 16, compression=8, sample_format=2)
    with pytest.raises(InputError, match="decompression bomb"):
        load(path)


def _png(path: Path, samples: np.ndarray, colour_type: int, *more: tuple[bytes, bytes], bits: int = 16) -> Path:
    """A PNG, chunk by chunk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, colour_type, 0, 0, 0))
    rows = b"".join(b"\0" + _packed(row.reshape(1, -1), bits) for row in samples)
    chunks = [head, *(chunk(*one) for one in more), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def test_sixteen_bit_png_with_colour_or_alpha_keeps_its_depth(tmp_path: Path) -> None:
    stored = _noise("u2", 4)
    colour = load(_png(tmp_path / "rgb.png", stored[..., :3], 2))
    np.testing.assert_allclose(_plane_of(colour), stored[..., :3] / 257, rtol=1e-6)
    grey = np.repeat(stored[..., :1], 3, axis=2)
    np.testing.assert_array_equal(_plane_of(load(_png(tmp_path / "grey.png", grey, 2))), stored[..., 0])
    opaque = stored[..., :2].copy()
    opaque[..., 1] = 65535
    volume = load(_png(tmp_path / "la.png", opaque, 4))
    np.testing.assert_array_equal(_plane_of(volume), stored[..., 0])
    assert volume.meta["reader_warnings"] == []
    volume = load(_png(tmp_path / "la.png", stored[..., :2], 4))
    np.testing.assert_array_equal(_plane_of(volume), np.rint(stored[..., 0] * (stored[..., 1] / 65535)))
    assert volume.meta["reader_warnings"] == ["transparency is composited on black"]
    key = (b"tRNS", stored[0, 0, :1].astype(">u2").tobytes())
    volume = load(_png(tmp_path / "key.png", stored[..., :1], 0, key))
    np.testing.assert_array_equal(_plane_of(volume), stored[..., 0])
    assert volume.meta["reader_warnings"] == ["the grey that stands for transparent is kept as stored"]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_png_of_few_bits_is_spread(tmp_path: Path, bits: int) -> None:
    stored, top = _noise("u1") >> (8 - bits), 2**bits - 1
    _png(tmp_path / "a.png", stored[..., None], 0, bits=bits)
    np.testing.assert_array_equal(_plane_of(load(tmp_path / "a.png")), stored.astype(int) * 255 // top)
    colours = np.random.default_rng(4).integers(0, 256, (top + 1, 3)).astype(np.uint8)
    _png(tmp_path / "p.png", stored[..., None], 3, (b"PLTE", colours.tobytes()), bits=bits)
    np.testing.assert_array_equal(_plane_of(load(tmp_path / "p.png")), colours[stored])


def _bmp(
    path: Path, rows: list[bytes], bits: int, masks: bytes = b"", palette: bytes = b"", down: bool = False
) -> Path:
    """A BMP of 20 rows and 30 columns, field by field; ``down`` has a negative height."""
    data = b"".join(row + bytes(-len(row) % 4) for row in (rows if down else rows[::-1]))
    info = struct.pack("<IiiHHIIiiII", 40, 30, -20 if down else 20, 1, bits, 3 if masks else 0, len(data), 0, 0, 0, 0)
    start = 14 + len(info) + len(masks) + len(palette)
    path.write_bytes(b"BM" + struct.pack("<III", start + len(data), 0, start) + info + masks + palette + data)
    return path


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_a_bmp_with_a_palette_is_its_colours(tmp_path: Path, bits: int, down: bool) -> None:
    stored = _noise("u1") >> (8 - bits)
    colours = np.random.default_rng(3).integers(0, 256, (2**bits, 3)).astype(np.uint8)
    palette = b"".join(bytes([b, g, r, 0]) for r, g, b in colours)
    rows = [_packed(row[None], bits) for row in stored]
    volume = load(_bmp(tmp_path / "a.bmp", rows, bits, palette=palette, down=down))
    np.testing.assert_array_equal(_plane_of(volume), colours[stored])


@pytest.mark.parametrize("masks", [(0xF800, 0x07E0, 0x001F), (0x7C00, 0x03E0, 0x001F)])
def test_a_bmp_of_sixteen_bits_a_pixel_is_colour_of_eight(tmp_path: Path, masks: tuple[int, int, int]) -> None:
    stored = _noise("u2")
    volume = load(_bmp(tmp_path / "a.bmp", [row.tobytes() for row in stored], 16, struct.pack("<III", *masks)))
    tops = [mask // (mask & -mask) for mask in masks]
    expected = [(stored & m) // (m & -m) * 255 / top for m, top in zip(masks, tops, strict=True)]
    np.testing.assert_allclose(_plane_of(volume), np.stack(expected, axis=-1), atol=1)
    assert volume.meta["reader_warnings"] == []


def test_ink_and_light_are_told_apart_in_a_jpeg(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:64, :96]
    colour = np.stack([columns * 2, rows * 4, 255 - columns * 2], axis=-1).astype(np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(colour).convert("CMYK").save(path, quality=95)
    np.testing.assert_allclose(_plane_of(load(path)), colour, atol=12)
    content = path.read_bytes()
    mark = content.index(b"\xff\xee")  # Adobe's segment: without it nobody says which is meant
    path.write_bytes(content[:mark] + content[mark + 16 :])
    with pytest.raises(InputError, match="ink or light"):
        load(path)


def test_a_jpeg_of_another_kind_is_refused_with_what_can_be_read(tmp_path: Path) -> None:
    Image.fromarray(_noise("u1")).save(tmp_path / "a.jpg")
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    content[content.index(b"\xff\xc0") + 4] = 12  # bits a sample
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"must be a readable 8-bit JPEG.*or save it as PNG"):
        load(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "f4"])
def test_a_tiff_that_does_not_say_what_is_white_is_black_at_zero(tmp_path: Path, kind: str) -> None:
    stored = _noise(kind)
    kinds = {"u": 1, "i": 2, "f": 3}
    path = _tiff(
        tmp_path / "a.tif", stored.tobytes(), (20, 30), 8 * stored.itemsize, without=(262,),
        sample_format=kinds[kind[0]],
    )  # fmt: skip
    volume = load(path)
    np.testing.assert_array_equal(_plane_of(volume), stored)
    assert volume.meta["display_inverted"] is False
    assert volume.meta["reader_warnings"] == ["nothing says which values are white: 0 is read as black"]


def test_data_that_are_longer_than_their_bits_are_refused(tmp_path: Path) -> None:
    path = _tiff(tmp_path / "a.tif", _noise("u2").tobytes(), (20, 30), 16, without=(258,))
    with pytest.raises(InputError, match=r"bits a sample that make up its data; given: 1 and 1200 bytes"):
        load(path)
