"""NRRD and MetaImage → volume: geometry against SimpleITK's own physical points."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import os
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from headclip_med.base.errors import InputError
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
    "no sizes": (_HEAD + b"encoding: raw\n\n", "readable NRRD"),
    "data elsewhere": (
        _HEAD + b"sizes: 2 2 2\nencoding: raw\ndata file: ../secret.raw\n\n",
        "in the same folder",
    ),
    "data list": (_HEAD + b"sizes: 2 2 2\nencoding: raw\ndata file: LIST\na.raw\n", "one data file"),
    "singular": (
        _HEAD + b"sizes: 2 2 2\nspace directions: (1,0,0) (1,0,0) (0,0,1)\nencoding: raw\n\n" + bytes(range(16)),
        "a direction of its own for each axis",
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
    with pytest.raises(InputError, match="must hold the 240 bytes of its voxels; given: 220 bytes"):
        read_volume(path)


def test_a_real_nrrd_equals_simpleitk() -> None:
    root = Path(os.environ.get("HEADCLIP_SHARED", Path(__file__).parents[3] / "shared"))
    path = root / "data" / "nrrd" / "brain2_image.nrrd"
    if not path.is_file():
        pytest.skip("no shared data")
    volume, image = load(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.array[0].T, sitk.GetArrayFromImage(image))
    lps = np.array(image.TransformIndexToPhysicalPoint((100, 20, 7)))
    assert (volume.affine @ [100, 20, 7, 1])[:3] == pytest.approx(lps * [-1, -1, 1], abs=1e-6)


# -- headers and data files as they are met

VALUES = np.random.default_rng(0).integers(0, 900, (12, 14, 9)).astype("<i2")
RAW = VALUES.transpose(2, 1, 0).tobytes()
PLACE = np.array([[-0.9, 0, 0, 40], [0, -0.9, 0, -50], [0, 0, 3, -20], [0, 0, 0, 1.0]])
NRRD = {
    "type": "short",
    "dimension": "3",
    "sizes": "12 14 9",
    "encoding": "raw",
    "endian": "little",
    "space": "left-posterior-superior",
    "space directions": "(0.9,0,0) (0,0.9,0) (0,0,3)",
    "space origin": "(-40,50,-20)",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "-40 50 -20",
    "ElementSpacing": "0.9 0.9 3",
    "DimSize": "12 14 9",
    "ElementType": "MET_SHORT",
}
Fields = dict[str, str | None]


def _text(path: Path, fields: Fields, data: bytes = RAW, end: str = "\n") -> Path:
    """An image of :data:`VALUES` at :data:`PLACE` with header fields changed, None to leave one out."""
    is_nrrd = path.suffix in (".nrrd", ".nhdr")
    given = {**(NRRD if is_nrrd else META), **fields}
    if not is_nrrd:
        given["ElementDataFile"] = given.pop("ElementDataFile", None) or "LOCAL"
    separator = ": " if is_nrrd else " = "
    lines = [f"{name}{separator}{value}" for name, value in given.items() if value is not None]
    text = end.join([*(["NRRD0005"] if is_nrrd else []), *lines, *([""] if is_nrrd else []), ""])
    path.write_bytes(os.fsencode(text) + data)
    return path


def _same(path: Path) -> list[str]:
    """Read it, compare values and place, give back its warnings."""
    volume = load(path)
    np.testing.assert_array_equal(volume.array[0], VALUES)
    np.testing.assert_allclose(volume.affine, PLACE)
    return volume.meta["reader_warnings"]


_IN_WORDS = " ".join(map(str, VALUES.transpose(2, 1, 0).ravel())).encode()
ENCODED: dict[str, tuple[str, Fields, bytes]] = {
    "bzip2": (".nrrd", {"encoding": "bzip2"}, bz2.compress(RAW)),
    "bz2": (".nrrd", {"encoding": "bz2"}, bz2.compress(RAW)),
    "two bzip2 streams": (".nrrd", {"encoding": "bzip2"}, bz2.compress(RAW[:999]) + bz2.compress(RAW[999:])),
    "bzip2 after lines and bytes": (
        ".nrrd",
        {"encoding": "bzip2", "line skip": "2", "byte skip": "3"},
        b"a\nb\n" + bz2.compress(b"xyz" + RAW),
    ),
    "gzip": (".nrrd", {"encoding": "gzip"}, gzip.compress(RAW)),
    "GZ": (".nrrd", {"encoding": "GZ"}, gzip.compress(RAW)),
    "text": (".nrrd", {"encoding": "text", "endian": None}, _IN_WORDS),
    "ascii": (".nrrd", {"encoding": "ascii"}, _IN_WORDS + b"\n"),
    "hex": (".nrrd", {"encoding": "hex"}, RAW.hex().encode()),
    "big-endian": (".nrrd", {"endian": "big"}, VALUES.astype(">i2").transpose(2, 1, 0).tobytes()),
    "bytes skipped": (".nrrd", {"byte skip": "16"}, bytes(16) + RAW),
    "the last bytes": (".nrrd", {"byte skip": "-1"}, bytes(33) + RAW),
    "lines skipped": (".nrrd", {"lineskip": "2"}, b"a\nb\n" + RAW),
    "text in a MetaImage": (".mha", {"BinaryData": "False"}, _IN_WORDS),
    "big-endian MetaImage": (
        ".mha", {"BinaryDataByteOrderMSB": "True"}, VALUES.astype(">i2").transpose(2, 1, 0).tobytes(),
    ),
    "compressed": (".mha", {"CompressedData": "True"}, zlib.compress(RAW)),
    "compressed as gzip": (".mha", {"CompressedData": "True"}, gzip.compress(RAW)),
    "compressed, of a wrong size": (
        ".mha", {"CompressedData": "True", "CompressedDataSize": "40"}, zlib.compress(RAW),
    ),
    "the last bytes of a MetaImage": (".mha", {"HeaderSize": "-1"}, bytes(33) + RAW),
}  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("case", ENCODED)
def test_every_encoding_gives_the_same_voxels(tmp_path: Path, case: str, end: str) -> None:
    suffix, fields, data = ENCODED[case]
    assert _same(_text(tmp_path / f"scan{suffix}", fields, data, end)) == []


NAMES = {
    "plain": ("v.raw", "v.raw", False),
    "dot slash": ("v.raw", "./v.raw", False),
    "blanks": ("my volume.raw", "my volume.raw", False),
    "per cent": ("dose 50%.raw", "dose 50%.raw", False),
    "like a pattern": ("v%03d.raw", "v%03d.raw", False),
    "a folder below": ("data/v.raw", "data/v.raw", False),
    "a folder below, dots": ("data/v.raw", "./data/./v.raw", False),
    "Windows": ("data/v.raw", "data\\v.raw", False),
    "Windows, dot": ("data/v.raw", ".\\data\\v.raw", False),
    "a backslash in the name": ("a\\v.raw", "a\\v.raw", False),
    "another case": ("v.raw", "V.RAW", True),
    "letters beyond ASCII": ("größe.raw", "größe.raw", False),
    "decomposed letters": (unicodedata.normalize("NFD", "größe.raw"), "größe.raw", True),
    "Latin-1": ("größe.raw", os.fsdecode("größe.raw".encode("latin-1")), True),
    "no UTF-8 at all": (os.fsdecode(b"caf\xe9.raw"), os.fsdecode(b"caf\xe9.raw"), False),
    "absolute": ("v.raw", "/home/other/scans/v.raw", True),
    "absolute, Windows": ("v.raw", "C:\\scans\\v.raw", True),
    "the folder above": ("v.raw", "../v.raw", True),
    "another folder": ("v.raw", "gone/v.raw", True),
    "a name that begins as a list does": ("LISTED.raw", "LISTED.raw", False),
}


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
@pytest.mark.parametrize("case", NAMES)
def test_a_detached_header_finds_its_data_however_it_spells_them(tmp_path: Path, case: str, suffix: str) -> None:
    on_disk, in_header, is_said = NAMES[case]
    folder = tmp_path / "scans"
    try:
        (folder / on_disk).parent.mkdir(parents=True)
        (folder / on_disk).write_bytes(RAW)
    except OSError:
        pytest.skip("no such name on this file system")
    field = "data file" if suffix == ".nhdr" else "ElementDataFile"
    path = _text(folder / f"scan{suffix}", {field: in_header}, b"")
    assert len(_same(path)) == is_said
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, folder / on_disk))
    assert load(path).meta["content_sha256"] == hashlib.sha256("".join(digests).encode()).hexdigest()


ELSEWHERE = {
    "above": ("../v.raw", "no file v.raw there"),
    "above, hidden": ("data/../../v.raw", "no file v.raw there"),
    "absolute": ("{}/v.raw", "no file v.raw there"),
    "itself": ("scan.{}", "the header itself"),
    "a folder": ("data", "no file data there"),
    "a list": ("LIST", "a list of files"),
    "a list of slices": ("LIST 2", "a list of files"),
    "a pattern": ("v%03d.raw 1 9 1", "a list of files"),
    "of two spellings": ("W.raw", "no file W.raw there"),
}


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
@pytest.mark.parametrize("case", ELSEWHERE)
def test_no_data_are_taken_from_elsewhere(tmp_path: Path, case: str, suffix: str) -> None:
    in_header, words = ELSEWHERE[case]
    (tmp_path / "v.raw").write_bytes(RAW)
    (tmp_path / "scans" / "data").mkdir(parents=True)
    for name in ("w.raw", "w.RAW"):
        (tmp_path / "scans" / name).write_bytes(RAW)
    if len(list((tmp_path / "scans").glob("w*"))) < 2 and case == "of two spellings":
        pytest.skip("a file system that knows no case")
    field = "data file" if suffix == ".nhdr" else "ElementDataFile"
    in_header = in_header.format(suffix[1:] if case == "itself" else tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        load(_text(tmp_path / "scans" / f"scan{suffix}", {field: in_header}, b""))
    assert str(tmp_path) not in str(caught.value)


def test_a_file_whose_name_is_no_utf8_is_read(tmp_path: Path) -> None:
    for suffix in (".nrrd", ".mha"):
        try:
            path = _text(tmp_path / os.fsdecode(b"caf\xe9" + suffix.encode()), {})
        except OSError:
            pytest.skip("no such name on this file system")
        assert _same(path) == []


NO_PLACE: Fields = {"space": None, "space directions": None, "space origin": None}

SAID: dict[str, tuple[str, Fields, bytes, str]] = {
    "bytes behind": (".nrrd", {}, RAW + b"123", "3 bytes after the image are ignored"),
    "bytes behind in gzip": (".nrrd", {"encoding": "gzip"}, gzip.compress(RAW + b"123"), "3 bytes after the image"),
    "bytes behind a MetaImage": (".mha", {}, RAW + b"123", "3 bytes after the image"),
    "intensity": (".mha", {"ElementToIntensityFunctionSlope": "2"}, RAW, "are not applied"),
    "unknown unit": (".nrrd", {"space units": '"parsec" "parsec" "parsec"'}, RAW, "unknown unit parsec"),
}


@pytest.mark.parametrize("case", SAID)
def test_what_is_odd_in_a_header_is_said(tmp_path: Path, case: str) -> None:
    suffix, fields, data, words = SAID[case]
    (said,) = _same(_text(tmp_path / f"scan{suffix}", fields, data))
    assert words in said


def test_steps_that_are_not_known_are_a_millimetre_and_said(tmp_path: Path) -> None:
    volume = load(_text(tmp_path / "a.nrrd", {**NO_PLACE, "spacings": "nan 0.5 2"}))
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [1, 0.5, 2])
    assert "not known (nan 0.5 2)" in volume.meta["reader_warnings"][0]
    volume = load(_text(tmp_path / "a.mha", {"ElementSpacing": None}))
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [1, 1, 1])
    assert "no voxel sizes" in volume.meta["reader_warnings"][0]
    volume = load(_text(tmp_path / "b.nrrd", {"space origin": None}))
    assert volume.affine[:3, 3].tolist() == [0, 0, 0]
    assert "no place of the first voxel" in volume.meta["reader_warnings"][0]


@pytest.mark.parametrize(
    ("fields", "origin"),
    [
        ({"axis mins": "0 10 -20", "axis maxs": "10.8 22.6 7"}, (0.45, 10.45, -18.5)),
        ({"axismins": "0 10 -20", "axismaxs": "10.8 22.6 7", "centers": "cell cell cell"}, (0.45, 10.45, -18.5)),
        ({"axis mins": "0 10 -20", "axis maxs": "9.9 21.7 4", "centers": "node node node"}, (0, 10, -20)),
    ],
)
def test_the_ends_of_axes_tell_the_steps(tmp_path: Path, fields: Fields, origin: tuple[float, float, float]) -> None:
    volume = load(_text(tmp_path / "a.nrrd", {**NO_PLACE, **fields}))
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([-0.9, -0.9, 3]), atol=1e-9)
    np.testing.assert_allclose(volume.affine[:3, 3] * [-1, -1, 1], origin, atol=1e-9)
    assert not any("1 mm" in note for note in volume.meta["reader_warnings"])


@pytest.mark.parametrize("fields", [{}, {"axis mins": "0 0 0"}, {"axis maxs": "1 1 1"}])
def test_an_nrrd_without_voxel_sizes_says_that_a_millimetre_is_assumed(tmp_path: Path, fields: Fields) -> None:
    volume = load(_text(tmp_path / "a.nrrd", {**NO_PLACE, **fields}))
    np.testing.assert_allclose(np.abs(np.diag(volume.affine)), 1)
    assert "no voxel sizes in the header (spacings): 1 mm is assumed" in volume.meta["reader_warnings"]


def test_a_neutral_scale_of_intensity_needs_no_word(tmp_path: Path) -> None:
    fields: Fields = {"ElementToIntensityFunctionSlope": "1.0", "ElementToIntensityFunctionOffset": "0.0"}
    assert _same(_text(tmp_path / "a.mha", fields)) == []


@pytest.mark.parametrize(("unit", "factor"), [("cm", 10.0), ("um", 1e-3), ("mm", 1.0)])
def test_units_of_a_text_header_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    for suffix, field, value in ((".nrrd", "space units", f'"{unit}" ' * 3), (".mha", "DistanceUnits", unit)):
        volume = load(_text(tmp_path / f"a{suffix}", {field: value}))
        np.testing.assert_allclose(volume.affine[:3], PLACE[:3] * factor)
        assert len(volume.meta["reader_warnings"]) == (factor != 1)


@pytest.mark.parametrize("digits", [3, 4, 6])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_directions_rounded_to_a_few_digits_are_read(tmp_path: Path, suffix: str, digits: int) -> None:
    turn = np.round(np.array(GRIDS["oblique"][0]).reshape(3, 3).T, digits)  # a row an axis
    vectors = turn * [[0.9], [0.9], [3]] if suffix == ".nrrd" else turn
    fields: Fields = {
        "space directions" if suffix == ".nrrd" else "TransformMatrix": " ".join(
            f"({','.join(map(str, row))})" if suffix == ".nrrd" else " ".join(map(str, row)) for row in vectors.tolist()
        )
    }
    path = _text(tmp_path / f"a{suffix}", fields)
    image = sitk.ReadImage(str(path))
    lps = np.array(image.TransformIndexToPhysicalPoint((11, 13, 8)))
    assert (load(path).affine @ [11, 13, 8, 1])[:3] == pytest.approx(lps * [-1, -1, 1], abs=1e-9)


EIGHT = VALUES.astype("<i8").transpose(2, 1, 0).tobytes()
ENDS: Fields = {**NO_PLACE, "axis mins": "0 10 -20", "axis maxs": "10.8 22.6 7"}


CONTRADICTIONS: dict[str, tuple[str, Fields, bytes, str]] = {
    "no endian": (".nrrd", {"endian": None}, RAW, r"order of the bytes of a number \(endian\)"),
    "unknown encoding": (".nrrd", {"encoding": "lzma"}, RAW, "an encoding: raw, gzip.*given: lzma"),
    "no encoding": (".nrrd", {"encoding": None}, RAW, "an encoding.*given: none"),
    "sizes of 0": (".nrrd", {"sizes": "12 0 9"}, RAW, "must contain voxels"),
    "negative sizes": (".nrrd", {"sizes": "12 -14 9"}, RAW, "must contain voxels"),
    "fewer sizes": (".nrrd", {"sizes": "12 14"}, RAW, r"3 numbers \(sizes\); given: 12 14"),
    "another dimension": (".nrrd", {"dimension": "4"}, RAW, r"4 numbers \(sizes\)"),
    "a dimension in words": (".nrrd", {"dimension": "three"}, RAW, r"a whole number \(dimension\)"),
    "larger sizes": (".nrrd", {"sizes": "12 14 10"}, RAW, "the 3360 bytes of its voxels; given: 3024"),
    "another type": (".nrrd", {"type": "int"}, RAW, "the 6048 bytes of its voxels; given: 3024"),
    "bytes to skip": (".nrrd", {"byte skip": "-5"}, RAW, "given: 0 and -5"),
    "the last bytes of a stream": (".nrrd", {"encoding": "gzip", "byte skip": "-1"}, gzip.compress(RAW), "0 and -1"),
    "lines to skip": (".nrrd", {"line skip": "-1"}, RAW, "given: -1 and 0"),
    "a skip that reaches too far": (".nrrd", {"byte skip": "16"}, RAW, "given: 3008 bytes"),
    "a direction of 0": (".nrrd", {"space directions": "(0,0,0) (0,1,0) (0,0,1)"}, RAW, "direction of its own"),
    "a direction of NaN": (".nrrd", {"space directions": "(nan,0,0) (0,1,0) (0,0,1)"}, RAW, "3 numbers"),
    "no direction": (".nrrd", {"space directions": "none (0,1,0) (0,0,1)"}, RAW, "direction of its own"),
    "two directions": (".nrrd", {"space directions": "(1,0,0) (0,1,0)"}, RAW, "direction of its own"),
    "directions alike": (".nrrd", {"space directions": "(1,0,0) (2,0,0) (0,0,1)"}, RAW, "direction of its own"),
    "an origin of NaN": (".nrrd", {"space origin": "(nan,0,0)"}, RAW, r"3 numbers \(space origin\)"),
    "two units": (".nrrd", {"space units": '"cm" "mm" "mm"'}, RAW, "one unit for all axes"),
    "damaged gzip": (".nrrd", {"encoding": "gzip"}, gzip.compress(RAW)[:-6], "readable NRRD"),
    "damaged bzip2": (".nrrd", {"encoding": "bzip2"}, bz2.compress(RAW)[:-30], "readable NRRD"),
    "a bzip2 bomb": (".nrrd", {"encoding": "bzip2"}, bz2.compress(bytes(2**26 + 2**22)), "decompression bomb"),
    "MetaImage, sizes of 0": (".mha", {"DimSize": "12 0 9"}, RAW, "must contain voxels"),
    "MetaImage, negative sizes": (".mha", {"DimSize": "12 14 -9"}, RAW, "must contain voxels"),
    "MetaImage, fewer sizes": (".mha", {"DimSize": "12 14"}, RAW, r"3 numbers \(DimSize\)"),
    "MetaImage, more dimensions": (".mha", {"NDims": "4"}, RAW, r"4 numbers \(DimSize\)"),
    "MetaImage, no type": (".mha", {"ElementType": None}, RAW, "a type of voxel"),
    "MetaImage, two channels": (".mha", {"ElementNumberOfChannels": "2"}, RAW, "given: 3024 bytes"),
    "MetaImage, step 0": (".mha", {"ElementSpacing": "0 1 1"}, RAW, r"positive voxel sizes; given: 0 1 1"),
    "MetaImage, step negative": (".mha", {"ElementSpacing": "-1 1 1"}, RAW, "positive voxel sizes"),
    "MetaImage, step NaN": (".mha", {"ElementSpacing": "nan 1 1"}, RAW, r"3 numbers \(ElementSpacing\)"),
    "MetaImage, step with a comma": (".mha", {"ElementSpacing": "0,9 0,9 3"}, RAW, r"3 numbers \(ElementSpacing\)"),
    "MetaImage, size 0": (".mha", {"ElementSpacing": None, "ElementSize": "0 1 1"}, RAW, r"0 1 1 \(ElementSize\)"),
    "MetaImage, long direction": (".mha", {"TransformMatrix": "1 0 0 0 1 0 0 0 2"}, RAW, "directions of length 1"),
    "MetaImage, no direction": (".mha", {"TransformMatrix": "0 0 0 0 1 0 0 0 1"}, RAW, "directions of length 1"),
    "MetaImage, alike": (".mha", {"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, RAW, "each its own"),
    "MetaImage, six cosines": (".mha", {"TransformMatrix": "1 0 0 0 1 0"}, RAW, "9 numbers"),
    "MetaImage, place inf": (".mha", {"Offset": "inf 0 0"}, RAW, r"3 numbers \(Offset\)"),
    "MetaImage, data in the header": (".mha", {"HeaderSize": "16"}, RAW, r"from byte 16 on \(HeaderSize\)"),
    "MetaImage, data before the file": (".mha", {"HeaderSize": "-5"}, RAW, "from byte -5 on"),
    "MetaImage, data behind the file": (".mha", {"HeaderSize": "9999"}, RAW, "given: 0 bytes"),
    "MetaImage, damaged": (".mha", {"CompressedData": "True"}, zlib.compress(RAW)[:-40], "readable MetaImage"),
    "data of twice the bytes": (".nrrd", {"type": "int8"}, RAW, "the 3024 bytes of its data; given: 1512 by type"),
    "half of the slices": (".nrrd", {"sizes": "12 7 9", "encoding": "gzip"}, gzip.compress(RAW), "2 times into them"),
    "ends before starts": (".nrrd", {**ENDS, "axis maxs": "-1 1 1"}, RAW, r"ends that lie after.*\(axis mins\)"),
    "two ends": (".nrrd", {**ENDS, "axis maxs": "1 1"}, RAW, r"3 numbers \(axis maxs\)"),
    "MetaImage, long of 8 bytes": (".mha", {"ElementType": "MET_LONG"}, EIGHT, "given: 6048 by type and dimensions"),
    "MetaImage, short of floats": (".mha", {}, VALUES.astype("<f4").tobytes(), "the 6048 bytes of its data"),
    "MetaImage, a ninth": (".mha", {"DimSize": "12 14 1"}, RAW, "which go 9 times into them"),
    "MetaImage, packed": (".mha", {"CompressedData": "1"}, zlib.compress(EIGHT), "which go 4 times into them"),
    "MetaImage, slope in words": (".mha", {"ElementToIntensityFunctionSlope": "two"}, RAW, "1 numbers"),
    "MetaImage, one bit": (
        ".mha", {"CompressedData": "True"}, zlib.compress(RAW, 0)[:500] + b"?" + zlib.compress(RAW, 0)[501:],
        "readable MetaImage",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_text_header_that_contradicts_itself_is_refused(
    tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    suffix, fields, data, words = CONTRADICTIONS[case]
    with pytest.raises(InputError, match=words) as caught:
        load(_text(tmp_path / f"scan{suffix}", fields, data))
    assert str(tmp_path) not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("kind", "is_colour"), [("vector", True), ("RGB-color", True), ("list", False)])
def test_three_bytes_that_are_a_list_are_no_colour(tmp_path: Path, kind: str, is_colour: bool) -> None:
    values = np.random.default_rng(0).integers(0, 255, (3, 12, 14, 9), dtype=np.uint8)
    fields: Fields = {
        "type": "uint8", "dimension": "4", "sizes": "12 14 9 3", "endian": None, "kinds": f"space space space {kind}",
        "space directions": "(0.9,0,0) (0,0.9,0) (0,0,3) none",
    }  # fmt: skip
    path = _text(tmp_path / "a.nrrd", fields, values.transpose(0, 3, 2, 1).tobytes())
    if is_colour:
        np.testing.assert_array_equal(load(path).array, values)
        return
    np.testing.assert_array_equal(load(path, time=1).array[0], values[1])
    with pytest.raises(InputError, match="3 volumes"):
        load(path)


def test_a_long_comment_before_the_keys_of_a_metaimage_is_none_of_them(tmp_path: Path) -> None:
    path = _text(tmp_path / "a.mha", {})
    path.write_bytes(b"Comment = " + b"x" * 1500 + b"\n" + path.read_bytes())
    assert _same(path) == []


def test_an_empty_line_in_a_metaimage_header_is_no_end(tmp_path: Path) -> None:
    path = _text(tmp_path / "scan.mha", {})
    path.write_bytes(path.read_bytes().replace(b"NDims", b"\nNDims", 1))
    assert _same(path) == []


def test_a_full_temporary_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _text(tmp_path / "scan.nrrd", {})
    written = Path.open

    def full(self: Path, mode: str = "r", *more: object, **options: object) -> object:
        if mode == "ab":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(self, mode, *more, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match=r"unpacked to the temporary folder.*Free some space"):
        load(path)
