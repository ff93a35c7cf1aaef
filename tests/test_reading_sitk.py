"""NRRD and MetaImage → volume: geometry against SimpleITK's own physical points."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from headclip_med.errors import InputError
from headclip_med.reading import load, read_volume

MARK = (3, 1, 2)
_C, _S = np.cos(0.35), np.sin(0.35)
GRIDS = {  # direction (LPS, row by row), spacing
    "lps": ((1, 0, 0, 0, 1, 0, 0, 0, 1), (1.0, 1.0, 1.0)),
    "ras": ((-1, 0, 0, 0, -1, 0, 0, 0, 1), (1.0, 1.0, 1.0)),
    "oblique": ((_C, -_S, 0, _S, _C, 0, 0, 0, 1), (0.9, 1.1, 2.0)),
    "anisotropic": ((1, 0, 0, 0, 1, 0, 0, 0, 1), (0.5, 0.7, 5.0)),
    "sagittal": ((0, 0, 1, 1, 0, 0, 0, -1, 0), (0.8, 0.8, 3.0)),
}


def _image(grid: str = "lps", array: np.ndarray | None = None, *, is_vector: bool = False) -> sitk.Image:
    if array is None:
        array = (np.arange(4 * 6 * 5).reshape(4, 6, 5) % 50).astype(np.int16)  # (K, J, I)
        array[MARK[::-1]] = 99
    image = sitk.GetImageFromArray(array, isVector=is_vector)
    if image.GetDimension() == 3:
        direction, spacing = GRIDS[grid]
        image.SetDirection([float(x) for x in direction])
        image.SetSpacing(spacing)
        image.SetOrigin((12.0, -34.5, 6.25))
    return image


def _save(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_marked_voxel_lies_where_simpleitk_says(tmp_path: Path, grid: str, suffix: str) -> None:
    image = _image(grid)
    volume = read_volume(_save(image, tmp_path / f"scan{suffix}"))
    assert volume.shape == (1, 5, 6, 4)
    assert np.argwhere(volume.numpy()[0] == 99).tolist() == [list(MARK)]
    lps = np.array(image.TransformIndexToPhysicalPoint(MARK))
    assert (volume.affine.numpy() @ [*MARK, 1])[:3] == pytest.approx(lps * [-1, -1, 1], abs=1e-4)
    assert volume.meta["reader_warnings"] == []
    assert volume.meta["source_format"] == ("nrrd" if "n" in suffix else "mha")


def test_three_bytes_are_colour(tmp_path: Path) -> None:
    colours = np.zeros((4, 6, 5, 3), np.uint8)
    colours[MARK[::-1]] = (200, 0, 7)
    volume = read_volume(_save(_image(array=colours, is_vector=True), tmp_path / "scan.nrrd"))
    assert volume.meta["is_rgb"] is True
    assert volume.numpy()[(slice(None), *MARK)].tolist() == [200, 0, 7]


def test_other_vectors_and_4d_need_a_choice(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 6, 5, 3)).astype(np.float32)
    path = _save(_image(array=vectors, is_vector=True), tmp_path / "vectors.mha")
    with pytest.raises(InputError, match="time="):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, time=2).numpy()[0], vectors[..., 2].transpose(2, 1, 0))
    frames = np.random.default_rng(1).normal(size=(2, 4, 6, 5)).astype(np.float32)
    path = _save(_image(array=frames), tmp_path / "frames.nrrd")
    with pytest.raises(InputError, match="2 volumes"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, time=1).numpy()[0], frames[1].transpose(2, 1, 0))


def test_a_plane_keeps_its_spacing_and_says_that_it_has_no_place(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(30, dtype=np.float32).reshape(6, 5))
    image.SetSpacing((0.5, 0.25))
    volume = load(_save(image, tmp_path / "plane.mha"))
    assert volume.array.shape == (1, 5, 6, 1)
    np.testing.assert_allclose(np.diag(volume.affine), [-0.5, -0.25, 1, 1])
    assert volume.meta["is_2d"] is True
    assert "position" in volume.meta["reader_warnings"][0]


def test_an_nrrd_without_a_space_is_a_warning(tmp_path: Path) -> None:
    header = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 3 4\nspacings: 1 1 2\nencoding: raw\n\n"
    (tmp_path / "scan.nrrd").write_bytes(header + bytes(range(24)))
    assert "orientation unknown" in load(tmp_path / "scan.nrrd").meta["reader_warnings"][0]


def test_a_wrong_name_is_read_as_what_it_is(tmp_path: Path) -> None:
    path = _save(_image(), tmp_path / "scan.nrrd").rename(tmp_path / "scan.nii.gz")
    volume = load(path)
    assert volume.meta["source_format"] == "nrrd"
    assert volume.meta["reader_warnings"] == ["the name promises nifti but the content is nrrd: read as nrrd"]


_HEAD = b"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nendian: little\n"
BAD = {
    "bomb": (_HEAD + b"sizes: 90000 90000 90000\nencoding: gzip\n\n", "fit in 4 GiB"),
    "no sizes": (_HEAD + b"\n", "readable NRRD"),
    "data elsewhere": (
        _HEAD + b"sizes: 2 2 2\nencoding: raw\ndata file: ../secret.raw\n\n",
        "in the same folder",
    ),
    "data list": (_HEAD + b"sizes: 2 2 2\nencoding: raw\ndata file: LIST\na.raw\n", "one data file"),
    "singular": (
        _HEAD + b"sizes: 2 2 2\nspace directions: (1,0,0) (1,0,0) (0,0,1)\nencoding: raw\n\n" + bytes(range(16)),
        "readable NRRD|invertible",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, words = BAD[case]
    (tmp_path / "scan.nrrd").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(tmp_path / "scan.nrrd")
    assert str(tmp_path) not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = _save(_image(), tmp_path / f"scan{suffix}")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="must be a readable"):
        read_volume(path)


def test_a_real_nrrd_equals_simpleitk() -> None:
    root = Path(os.environ.get("HEADCLIP_SHARED", Path(__file__).parents[2] / "shared"))
    path = root / "data" / "nrrd" / "brain2_image.nrrd"
    if not path.is_file():
        pytest.skip("no shared data")
    volume, image = load(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.array[0].T, sitk.GetArrayFromImage(image))
    lps = np.array(image.TransformIndexToPhysicalPoint((100, 20, 7)))
    assert (volume.affine @ [100, 20, 7, 1])[:3] == pytest.approx(lps * [-1, -1, 1], abs=1e-6)
