"""PNG, JPEG, TIFF and BMP → a plane."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headclip_med.errors import InputError
from headclip_med.reading import load, read_volume

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
