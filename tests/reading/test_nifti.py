"""NIfTI → volume: geometry against nibabel, and one sentence for everything that cannot be read."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from headclip_med.base.errors import InputError
from headclip_med.reading import load, read_volume

SHAPE, MARK = (5, 6, 4), (3, 1, 2)


def _rotation(a: float, b: float) -> np.ndarray:
    z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return z @ x


def _affine(directions: np.ndarray, steps: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = directions * steps
    affine[:3, 3] = (-12.5, 30.0, 7.25)
    return affine


AFFINES = {
    "ras": _affine(np.eye(3), (1, 1, 1)),
    "lps": _affine(np.diag([-1.0, -1.0, 1.0]), (1, 1, 1)),
    "oblique": _affine(_rotation(0.4, -0.3), (0.9, 1.1, 2.0)),
    "anisotropic": _affine(np.eye(3), (0.5, 0.7, 5.0)),
    "sagittal": _affine(np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]), (0.8, 0.8, 3.0)),
}


def _marked(dtype: str = "float32", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    values = np.arange(np.prod(shape)).reshape(shape) % 50
    values[MARK[: len(shape)]] = 99
    return values.astype(dtype)


def _save(image: nib.Nifti1Image, path: Path) -> Path:
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr"])
def test_a_marked_voxel_lies_where_nibabel_says(tmp_path: Path, name: str, suffix: str) -> None:
    kind = nib.Nifti1Pair if suffix == ".hdr" else nib.Nifti1Image
    path = _save(kind(_marked("int16"), AFFINES[name]), tmp_path / f"scan{suffix}")
    volume = read_volume(path)
    found = np.argwhere(volume.numpy()[0] == 99)
    assert found.tolist() == [list(MARK)]
    expected = nib.affines.apply_affine(AFFINES[name], MARK)
    assert (np.asarray(volume.affine) @ [*MARK, 1])[:3] == pytest.approx(expected, abs=1e-4)
    assert volume.affine.numpy() == pytest.approx(nib.load(path).affine, abs=1e-9)
    np.testing.assert_array_equal(volume.numpy()[0], nib.load(path).get_fdata(dtype=np.float32))


def test_metadata_and_types_are_what_the_rest_of_the_house_expects(tmp_path: Path) -> None:
    path = _save(nib.Nifti1Image(_marked(), AFFINES["ras"]), tmp_path / "scan.nii.gz")
    volume = read_volume(str(path))
    assert volume.shape == (1, *SHAPE)
    assert str(volume.dtype) == "torch.float32"
    assert str(volume.affine.dtype) == "torch.float64"
    meta = volume.meta
    assert (meta["source_format"], meta["source_name"], meta["space"]) == ("nifti", "scan.nii.gz", "RAS")
    assert meta["content_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert meta["filename_or_obj"] == "scan.nii.gz"
    assert meta["original_channel_dim"] == "no_channel"
    assert meta["spatial_shape"].tolist() == list(SHAPE)
    assert (meta["qform_code"], meta["sform_code"]) == (0, 2)
    assert (meta["is_rgb"], meta["is_2d"], meta["reader_warnings"]) == (False, False, [])
    assert all(value is not None for value in meta.values())
    np.testing.assert_array_equal(meta["original_affine"], volume.affine.numpy())


def test_the_image_half_of_a_pair_is_enough(tmp_path: Path) -> None:
    _save(nib.Nifti1Pair(_marked(), AFFINES["lps"]), tmp_path / "scan.hdr")
    assert read_volume(tmp_path / "scan.img").numpy()[0][MARK] == 99
    (tmp_path / "scan.hdr").rename(tmp_path / "other.hdr")
    with pytest.raises(InputError, match=r"\.img file beside it"):
        read_volume(tmp_path / "other.hdr")


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["scan.img", "scan.img.gz", "SCAN.IMG"])
@pytest.mark.parametrize("beside", [False, True])
def test_a_single_file_is_told_by_its_content(tmp_path: Path, kind: Any, name: str, beside: bool) -> None:
    content = kind(_marked(), np.eye(4)).to_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    if beside:
        (tmp_path / f"{name[:4]}.hdr").write_bytes(b"ENVI\nsamples = 5\n")
    np.testing.assert_array_equal(load(tmp_path / name).array[0], _marked())


def test_nifti2_and_scale_slope(tmp_path: Path) -> None:
    image = nib.Nifti2Image(_marked("int16"), AFFINES["oblique"])
    image.header.set_slope_inter(2.0, -10.0)
    path = _save(image, tmp_path / "scan.nii")
    assert read_volume(path).numpy()[0][MARK] == pytest.approx(2 * 99 - 10, abs=0.01)


def test_the_sform_wins_and_a_disagreement_is_said(tmp_path: Path) -> None:
    image = nib.Nifti1Image(_marked(), AFFINES["ras"])
    shifted = AFFINES["ras"].copy()
    shifted[0, 3] += 2.5
    image.set_sform(AFFINES["ras"], code=1)
    image.set_qform(shifted, code=1)
    volume = load(_save(image, tmp_path / "scan.nii"))
    np.testing.assert_allclose(volume.affine, AFFINES["ras"], atol=1e-6)
    assert volume.meta["reader_warnings"] == ["sform and qform disagree by up to 2.5 mm: the sform is used"]


def test_the_qform_counts_where_the_sform_has_no_code(tmp_path: Path) -> None:
    image = nib.Nifti1Image(_marked(), None)
    image.set_sform(AFFINES["ras"], code=0)
    image.set_qform(AFFINES["lps"], code=1)
    volume = load(_save(image, tmp_path / "scan.nii"))
    np.testing.assert_allclose(volume.affine, AFFINES["lps"], atol=1e-5)
    assert volume.meta["reader_warnings"] == []


def test_no_orientation_is_a_warning(tmp_path: Path) -> None:
    image = nib.Nifti1Image(_marked(), None)
    image.header.set_zooms((1, 2, 3))
    path = _save(image, tmp_path / "scan.nii")
    volume = load(path)
    assert "orientation unknown" in volume.meta["reader_warnings"][0]
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [1, 2, 3])
    np.testing.assert_allclose(volume.affine, nib.load(path).affine)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001), ("unknown", 1.0)])
def test_units_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    image = nib.Nifti1Image(_marked(), AFFINES["anisotropic"])
    image.header.set_xyzt_units(unit)
    volume = load(_save(image, tmp_path / "scan.nii"))
    np.testing.assert_allclose(volume.affine[:3], AFFINES["anisotropic"][:3] * factor, rtol=1e-6)
    assert len(volume.meta["reader_warnings"]) == (unit != "unknown")


def test_a_time_point_is_chosen_and_never_guessed(tmp_path: Path) -> None:
    values = np.stack([_marked(), _marked() + 1000], axis=-1)
    path = _save(nib.Nifti1Image(values, AFFINES["ras"]), tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match=r"time= \(command line: --time\)"):
        read_volume(path)
    with pytest.raises(InputError, match="between 0 and 1"):
        read_volume(path, time=2)
    assert read_volume(path, time=1).numpy()[0][MARK] == 1099
    single = _save(nib.Nifti1Image(values[..., :1], AFFINES["ras"]), tmp_path / "single.nii")
    assert read_volume(single).shape == (1, *SHAPE)


def test_colour_voxels_are_three_channels(tmp_path: Path) -> None:
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"][MARK], colours["B"][MARK] = 200, 7
    volume = read_volume(_save(nib.Nifti1Image(colours, AFFINES["ras"]), tmp_path / "scan.nii"))
    assert volume.numpy()[(slice(None), *MARK)].tolist() == [200, 0, 7]
    assert volume.meta["is_rgb"] is True


@pytest.mark.parametrize(("slope", "inter"), [(1, 0), (1, 5), (2, 0), (np.inf, 0), (0, 7)])
def test_a_scale_of_colours_is_ignored_as_the_standard_says(tmp_path: Path, slope: float, inter: float) -> None:
    values = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
    image = nib.Nifti1Image(values.view([(channel, "u1") for channel in "RGB"])[..., 0], np.eye(4))
    path = _save(image, tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    struct.pack_into("<ff", content, 112, slope, inter)
    path.write_bytes(content)
    np.testing.assert_array_equal(load(path).array, np.moveaxis(values, -1, 0))


def test_two_dimensions_are_one_slice(tmp_path: Path) -> None:
    volume = read_volume(_save(nib.Nifti1Image(_marked(shape=(5, 6)), AFFINES["ras"]), tmp_path / "a.nii"))
    assert volume.shape == (1, 5, 6, 1)


def test_the_slice_axis_of_the_header_is_the_normal(tmp_path: Path) -> None:
    image = nib.Nifti1Image(_marked(), AFFINES["oblique"])
    image.header.set_dim_info(freq=0, phase=2, slice=1)
    volume = load(_save(image, tmp_path / "scan.nii"))
    np.testing.assert_allclose(volume.meta["slice_normal"], _rotation(0.4, -0.3)[:, 1], atol=1e-6)


def test_large_integers_are_rounded_with_a_word(tmp_path: Path) -> None:
    values = _marked("int64")
    values[0, 0, 0] = 2**24 + 1
    volume = load(_save(nib.Nifti1Image(values, AFFINES["ras"], dtype="int64"), tmp_path / "scan.nii"))
    assert "rounded" in volume.meta["reader_warnings"][0]


def test_some_nan_become_the_minimum_and_are_counted(tmp_path: Path) -> None:
    values = _marked() - 5
    values[0, 0, :3] = [np.nan, np.inf, -np.inf]
    volume = load(_save(nib.Nifti1Image(values, AFFINES["ras"]), tmp_path / "scan.nii"))
    assert volume.array[0, 0, 0, :3].tolist() == [-5, -5, -5]
    assert volume.meta["reader_warnings"] == ["3 of 120 voxels were NaN or Inf and are read as the minimum -5"]


def test_sequences_are_stacked_on_one_grid_only(tmp_path: Path) -> None:
    first = _save(nib.Nifti1Image(_marked(), AFFINES["ras"]), tmp_path / "flair.nii")
    second = _save(nib.Nifti1Image(_marked() * 2, AFFINES["ras"]), tmp_path / "t1.nii")
    volume = read_volume([first, second])
    assert volume.numpy()[(slice(None), *MARK)].tolist() == [99, 198]
    assert volume.meta["source_name"] == "flair.nii + t1.nii"
    moved = AFFINES["ras"].copy()
    moved[2, 3] += 0.01
    third = _save(nib.Nifti1Image(_marked(), moved), tmp_path / "t2.nii")
    with pytest.raises(InputError, match=r"flair\.nii and t2\.nii must lie on the same grid"):
        read_volume([first, third])
    small = _save(nib.Nifti1Image(_marked()[:4], AFFINES["ras"]), tmp_path / "small.nii")
    with pytest.raises(InputError, match="same shape"):
        read_volume([first, small])


def test_the_order_of_sequences_counts_in_their_hash(tmp_path: Path) -> None:
    paths = [_save(nib.Nifti1Image(_marked() * n, AFFINES["ras"]), tmp_path / f"{n}.nii") for n in (1, 2)]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    there, back = (read_volume(order).meta["content_sha256"] for order in (paths, paths[::-1]))
    assert there == hashlib.sha256("".join(digests).encode()).hexdigest()
    assert back == hashlib.sha256("".join(digests[::-1]).encode()).hexdigest()
    assert there != back


def test_a_series_asked_of_a_nifti_file_is_said_to_be_ignored(tmp_path: Path) -> None:
    path = _save(nib.Nifti1Image(_marked(), AFFINES["ras"]), tmp_path / "scan.nii")
    said = "only DICOM has series: the series option was ignored"
    assert read_volume(path, series="3").meta["reader_warnings"] == [said]
    assert said not in read_volume(path).meta["reader_warnings"]


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.img"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<i4", "<f4", ">f4", "<f8"])
def test_scaled_values_are_nibabels_own_whatever_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dtype: str
) -> None:
    """Scaled in float64 and rounded once, as nibabel's array cast to float32: equal to the last bit."""
    monkeypatch.setattr("headclip_med.reading.nifti._BLOCK_VOXELS", 100)  # two of the seven slices at once
    values = np.random.default_rng(0).integers(0, 250, (5, 9, 7, 2)).astype(dtype)
    kind = nib.Nifti1Pair if name.endswith(".img") else nib.Nifti1Image
    image = kind(values, AFFINES["ras"])
    image.header.set_data_dtype(dtype)
    image.header.set_slope_inter(0.1, -1000.3)
    path = _save(image, tmp_path / name)
    whole = np.asanyarray(nib.load(path).dataobj)
    for time in (0, 1):
        np.testing.assert_array_equal(load(path, time=time).array[0], whole[..., time].astype(np.float32))


def test_scaled_integers_take_little_more_memory_than_the_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headclip_med.reading.nifti._BLOCK_VOXELS", 2**14)
    values = np.random.default_rng(0).integers(0, 3000, (128, 128, 64)).astype(np.int16)
    image = nib.Nifti1Image(values, np.eye(4))
    image.header.set_slope_inter(0.1, -1000)
    path = _save(image, tmp_path / "scan.nii")
    tracemalloc.start()
    try:
        volume = load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / volume.array.size < 8  # bytes per voxel, 4 of them the volume itself; it was 16


def _header_bytes(**fields: object) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype("int16")
    header.set_data_shape(SHAPE)
    header["magic"], header["vox_offset"] = b"n+1", 352
    for key, value in fields.items():
        header[key] = value
    return header.binaryblock + b"\0\0\0\0"


def _shear() -> np.ndarray:
    affine = np.eye(4)
    affine[0, 1] = 0.3
    return affine


def _raw(affine: np.ndarray) -> bytes:
    fields = dict(zip(("srow_x", "srow_y", "srow_z"), affine[:3], strict=True))
    return _header_bytes(sform_code=1, **fields) + _marked("<i2").tobytes()


_VALID = _raw(np.eye(4))
BAD: dict[str, tuple[str, bytes, str]] = {
    "empty": ("scan.nii", b"", "must not be empty"),
    "text": ("scan.nii.gz", b"this is no image\n" * 40, "a text file"),
    "truncated": ("scan.nii", _VALID[:-50], "readable NIfTI"),
    "truncated gz": ("scan.nii.gz", gzip.compress(_VALID)[:-60], "readable"),
    "damaged gz": ("scan.nii.gz", b"\x1f\x8b" + b"\xff" * 100, "gzip"),
    "other gz": ("scan.nii.gz", gzip.compress(b"hello world" * 99), "must contain a NIfTI"),
    "bomb": (
        "scan.nii.gz",
        gzip.compress(_header_bytes(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])),
        "fit in 4 GiB",
    ),
    "far data": ("scan.nii", _header_bytes(vox_offset=1e9), "within 64 MiB"),
    "no voxels": ("scan.nii", _header_bytes(dim=[3, 5, 0, 4, 1, 1, 1, 1]), "must contain voxels"),
    "five dimensions": ("scan.nii", _header_bytes(dim=[5, 2, 2, 2, 2, 3, 1, 1]), "at most four dimensions"),
    "unknown type": ("scan.nii", _header_bytes(datatype=77), r"code 77 \(datatype\)"),
    "singular": ("scan.nii", _raw(np.diag([1.0, 0, 1, 1])), "invertible"),
    "sheared": ("scan.nii", _raw(_shear()), "orthogonal"),
    "nan affine": ("scan.nii", _raw(np.diag([1.0, np.nan, 1, 1])), "finite"),
    "far away": ("scan.nii", _raw(np.diag([1.0, 1e30, 1, 1])), "must be in millimetres"),
    "constant": ("scan.nii", _VALID[:352] + b"\x07\0" * 120, "every voxel is 7"),
    "analyze": ("scan.hdr", (348).to_bytes(4, "little") + bytes(344), "Analyze"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(tmp_path: Path, case: str) -> None:
    name, content, words = BAD[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(path)
    assert str(tmp_path) not in str(caught.value)


def test_the_valid_bytes_of_the_table_are_read(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(_VALID)
    assert read_volume(tmp_path / "scan.nii").shape == (1, *SHAPE)


def test_missing_files_and_arrays_without_an_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        read_volume(tmp_path / "nowhere.nii")
    with pytest.raises(InputError, match="at least one"):
        read_volume([])
    complex_path = _save(nib.Nifti1Image(_marked("complex64"), AFFINES["ras"]), tmp_path / "c.nii")
    with pytest.raises(InputError, match="real values"):
        read_volume(complex_path)
    nan = np.full(SHAPE, np.nan, dtype=np.float32)
    with pytest.raises(InputError, match="only NaN or Inf"):
        read_volume(_save(nib.Nifti1Image(nan, AFFINES["ras"]), tmp_path / "n.nii"))


def test_real_volumes_equal_nibabel() -> None:
    root = Path(os.environ.get("HEADCLIP_SHARED", Path(__file__).parents[3] / "shared"))
    path = root / "data" / "brats" / "TCGA-DU-7294" / "TCGA-DU-7294-t2f.nii.gz"
    if not path.is_file():
        pytest.skip("no shared data")
    volume, expected = load(path), nib.load(path)
    np.testing.assert_array_equal(volume.array[0], expected.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-9)


def test_a_damaged_gzip_stream_that_still_inflates_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(nib.Nifti1Image(_marked(), AFFINES["ras"]).to_bytes(), compresslevel=0))
    assert read_volume(path).shape == (1, *SHAPE)
    content = bytearray(path.read_bytes())
    content[500] ^= 1  # one bit of one voxel: nothing but the checksum tells
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"scan.nii.gz must be a readable NIfTI file"):
        read_volume(path)


# -- headers that contradict their format


def _scan(path: Path, before: bytes = b"", after: bytes = b"", **fields: object) -> Path:
    """A single file of :data:`SHAPE` at rest (sform 1), with header fields set; bytes before and after its data."""
    rows = dict(zip(("srow_x", "srow_y", "srow_z"), np.diag([2.0, 2.0, 3.0, 1.0])[:3], strict=True))
    header = _header_bytes(**{"sform_code": 1, **rows, **fields})
    path.write_bytes(header + before + _marked("<i2").tobytes(order="F") + after)
    return path


_PIXDIM = [1.0, 2.0, 2.0, 3.0, 1, 1, 1, 1]
READ_WITH_A_WORD: dict[str, tuple[dict[str, object], str | None]] = {
    "offset 0": ({"vox_offset": 0}, "cannot start at byte 0"),
    "offset inside the header": ({"vox_offset": 100}, "cannot start at byte 100"),
    "offset at the extension's mark": ({"vox_offset": 348}, "cannot start at byte 348"),
    "fourth dimension of 0": ({"dim": [4, *SHAPE, 0, 1, 1, 1]}, "beyond the third counts as 1"),
    "seven dimensions of 0": ({"dim": [7, *SHAPE, 1, 0, 0, 0]}, "beyond the third counts as 1"),
    "bits a voxel": ({"bitpix": 32}, r"32 bits a voxel \(bitpix\)"),
    "no bits a voxel": ({"bitpix": 0}, None),
    "slope NaN": ({"scl_slope": np.nan, "scl_inter": np.nan}, None),
    "intercept without a slope": ({"scl_slope": 0, "scl_inter": -1024}, "an intercept of -1024 without a slope"),
    "slope with an intercept of NaN": ({"scl_slope": 1, "scl_inter": np.nan}, "intercept of NaN"),
    "bytes behind": ({"after": b"\1\2\3"}, "3 bytes after the image are ignored"),
    "extension that reaches too far": ({"before": b"\xff" * 16, "vox_offset": 368}, None),
    "size of the header": ({"sizeof_hdr": 0}, "does not say its size"),
    "sign 0": ({"pixdim": [0.0, *_PIXDIM[1:]], "qform_code": 1, "sform_code": 0}, None),
    "code of no form": ({"sform_code": 77}, "sform's code 77 is none of NIfTI's: it is read as 2"),
    "negative code": ({"qform_code": -3}, "qform's code -3 is none of NIfTI's: it is read as 0"),
    "empty sform": ({"srow_x": 0, "srow_y": 0, "srow_z": 0, "qform_code": 1, "pixdim": _PIXDIM}, "sform is empty"),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("case", READ_WITH_A_WORD)
def test_a_contradiction_with_one_meaning_is_read_with_a_word(tmp_path: Path, case: str, suffix: str) -> None:
    fields, words = READ_WITH_A_WORD[case]
    path = _scan(tmp_path / "scan.nii", **({"pixdim": _PIXDIM} | fields))
    if suffix == ".nii.gz":
        content = gzip.compress(path.read_bytes())
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(content)
    volume = load(path)
    np.testing.assert_array_equal(volume.array[0], _marked("<i2"))
    np.testing.assert_allclose(volume.affine, np.diag([2.0, 2.0, 3.0, 1.0]))
    notes = volume.meta["reader_warnings"]
    assert len(notes) == (words is not None), notes
    if words:
        assert re.search(words, notes[0])


_Q = {"qform_code": 1, "sform_code": 0}
REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "offset inside, bytes behind": ({"vox_offset": 0, "after": b"123"}, r"data from byte 352 on.*0 on \(vox_offset\)"),
    "offset -16": ({"vox_offset": -16}, r"from byte -16 on \(vox_offset\)"),
    "offset NaN": ({"vox_offset": np.nan}, r"from byte nan on"),
    "offset of half a byte": ({"vox_offset": 352.5}, "352.5"),
    "offset behind the file": ({"vox_offset": 4000}, "damaged, truncated"),
    "no dimension": ({"dim": [0, *SHAPE, 1, 1, 1, 1]}, r"1 to 7 dimensions; given: 0 \(dim\[0\]\)"),
    "eight dimensions": ({"dim": [8, *SHAPE, 1, 1, 1, 1]}, "1 to 7 dimensions; given: 8"),
    "minus three dimensions": ({"dim": [-3, *SHAPE, 1, 1, 1, 1]}, "1 to 7 dimensions; given: -3"),
    "a dimension of 0": ({"dim": [3, 5, 6, 0, 1, 1, 1, 1]}, "must contain voxels"),
    "a negative dimension": ({"dim": [3, 5, -6, 4, 1, 1, 1, 1]}, "must contain voxels"),
    "a negative fourth dimension": ({"dim": [4, *SHAPE, -1, 1, 1, 1]}, "at most four dimensions"),
    "more slices than data": ({"dim": [3, 5, 6, 9, 1, 1, 1, 1]}, "damaged, truncated"),
    "no type": ({"datatype": 0}, r"code 0 \(datatype\)"),
    "bits of one": ({"datatype": 1}, r"code 1 \(datatype\)"),
    "bits and length contradict": (
        {"bitpix": 32, "after": b"1" * 240},
        "the 240 bytes of .*480 of them, and 32 bits a voxel",
    ),
    "two dimensions of three": ({"dim": [2, *SHAPE, 1, 1, 1, 1]}, rf"which go {SHAPE[2]} times into them"),
    "bytes where words lie": ({"datatype": 2, "bitpix": 8}, "which go 2 times into them"),
    "three volumes where one is named": ({"after": _marked("<i2").tobytes() * 2}, "which go 3 times into them"),
    "slope inf": ({"scl_slope": np.inf}, "a finite slope"),
    "intercept -inf": ({"scl_slope": 1, "scl_inter": -np.inf}, "a finite slope"),
    "step 0": ({**_Q, "pixdim": [1, 2, 0, 3, 1, 1, 1, 1]}, r"positive voxel sizes; given: \[2.0, 0.0, 3.0\]"),
    "step negative": ({**_Q, "pixdim": [1, -2, 2, 3, 1, 1, 1, 1]}, "positive voxel sizes"),
    "step NaN": ({**_Q, "pixdim": [1, 2, 2, np.nan, 1, 1, 1, 1]}, "positive voxel sizes"),
    "step inf": ({"sform_code": 0, "pixdim": [1, 2, 2, np.inf, 1, 1, 1, 1]}, "positive voxel sizes"),
    "step negative without a form": ({"sform_code": 0, "pixdim": [1, 2, -2, 3, 1, 1, 1, 1]}, "positive voxel sizes"),
    "sign of a half": ({**_Q, "pixdim": [0.5, 2, 2, 3, 1, 1, 1, 1]}, r"0.5 \(pixdim\[0\]\)"),
    "quaternion of length 1.1": ({**_Q, "pixdim": _PIXDIM, "quatern_b": 1.1}, "quaternion of length 1; given: 1.1"),
    "quaternion NaN": ({**_Q, "pixdim": _PIXDIM, "quatern_c": np.nan}, "finite"),
    "place inf": ({**_Q, "pixdim": _PIXDIM, "qoffset_x": np.inf}, "finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_contradiction_without_a_meaning_is_refused(tmp_path: Path, case: str) -> None:
    fields, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as caught:
        load(_scan(tmp_path / "scan.nii", **fields))
    assert str(tmp_path) not in str(caught.value)


def test_a_cut_off_4d_file_is_refused_whichever_volume_is_asked_for(tmp_path: Path) -> None:
    values = np.stack([_marked("<i2"), _marked("<i2")], axis=-1)
    path = _save(nib.Nifti1Image(values, AFFINES["ras"]), tmp_path / "scan.nii")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="the 480 bytes of 5 × 6 × 4 × 2 voxels of int16; given: 470 of them"):
        load(path, time=0)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1)])
@pytest.mark.parametrize("codes", [(0, 0), (1, 0)])
def test_a_single_slice_without_thickness_is_a_millimetre_thick(
    tmp_path: Path, shape: tuple[int, ...], codes: tuple[int, int]
) -> None:
    dim = [len(shape), *shape, *([1] * (7 - len(shape)))]
    pixdim = [1.0, 2.0, 2.0, 0.0, 1, 1, 1, 1]
    path = tmp_path / "scan.nii"
    header = _header_bytes(dim=dim, pixdim=pixdim, qform_code=codes[0], sform_code=codes[1])
    path.write_bytes(header + _marked("<i2", (5, 6)).tobytes(order="F"))
    volume = load(path)
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [2, 2, 1])
    assert any("1 mm is assumed" in note for note in volume.meta["reader_warnings"])


@pytest.mark.parametrize("turn", [(0.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0), (-1.0, 2.0, 0.5)])
@pytest.mark.parametrize("excess", [2e-7, 4e-7, 1e-6, 1e-5, 1e-4, 1e-3])
def test_quaternion_rounding_is_a_half_turn(tmp_path: Path, excess: float, turn: tuple[float, float, float]) -> None:
    """b² + c² + d² = 1 + a rounding has a clear meaning: a half turn about that axis."""
    axis = np.array(turn) / np.linalg.norm(turn)
    half_turn = 2 * np.outer(axis, axis) - np.eye(3)
    parts = dict(zip(("quatern_b", "quatern_c", "quatern_d"), axis * np.sqrt(1 + excess), strict=True))
    volume = load(_scan(tmp_path / "scan.nii", pixdim=_PIXDIM, qform_code=1, sform_code=0, **parts))
    np.testing.assert_allclose(volume.affine[:3, :3], half_turn * [2, 2, 3], atol=3e-3)
    said = [note for note in volume.meta["reader_warnings"] if "quaternion" in note]
    assert len(said) == (excess >= 1e-5)


def test_a_rounded_quaternion_beside_an_sform_changes_nothing(tmp_path: Path) -> None:
    path = _scan(tmp_path / "scan.nii", pixdim=_PIXDIM, qform_code=1, quatern_b=1.1)
    volume = load(path)
    np.testing.assert_allclose(volume.affine, np.diag([2.0, 2.0, 3.0, 1.0]))
    assert volume.meta["reader_warnings"] == ["the qform is damaged: the sform is used"]


@pytest.mark.parametrize("digits", [3, 4, 6])
def test_directions_rounded_to_a_few_digits_are_orthogonal_enough(tmp_path: Path, digits: int) -> None:
    affine = np.round(AFFINES["oblique"], digits)
    volume = load(_save(nib.Nifti1Image(_marked(), affine), tmp_path / "scan.nii"))
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)


def test_the_data_of_a_pair_are_judged_too(tmp_path: Path) -> None:
    for keep, words in ((-1, "damaged, truncated"), (None, "7 bytes after the image")):
        _save(nib.Nifti1Pair(_marked("<i2"), AFFINES["ras"]), tmp_path / "scan.hdr")
        data = tmp_path / "scan.img"
        data.write_bytes(data.read_bytes()[:keep] if keep else data.read_bytes() + bytes(7))
        if keep:
            with pytest.raises(InputError, match=words):
                load(data)
        else:
            assert words in load(data).meta["reader_warnings"][0]


@pytest.mark.parametrize("asked", ["scan.img", "scan.hdr"])
def test_an_analyze_pair_is_told_by_its_name(tmp_path: Path, asked: str) -> None:
    nib.save(nib.Spm99AnalyzeImage(_marked("<i2"), np.diag([-1.0, 1, 1, 1])), tmp_path / "scan.img")
    with pytest.raises(InputError, match=r"scan\.hdr must be .*Analyze 7\.5 header, which does not say how"):
        load(tmp_path / asked)
