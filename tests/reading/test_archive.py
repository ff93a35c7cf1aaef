"""Archives in archives: read to a depth, bounded in size, and never outside their folder."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_series import CtSeries
from typer.testing import CliRunner

from headclip_med.base.errors import InputError
from headclip_med.cli.main import app
from headclip_med.reading import list_series, load
from headclip_med.reading.inputs import expand_inputs

VALUES = np.random.default_rng(0).integers(0, 900, (5, 6, 4)).astype(np.int16)
NIFTI = gzip.compress(nib.Nifti1Image(VALUES, np.eye(4)).to_bytes(), mtime=0)


def _zip(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in members.items():
            out.writestr(name, content)
    return packed.getvalue()


def _nested(content: bytes, levels: int) -> bytes:
    for level in range(levels):
        content = _zip({f"inner{level}.zip" if level else "scan.nii.gz": content})
    return content


def _load(folder: Path, content: bytes, name: str = "study.zip") -> np.ndarray:
    (folder / name).write_bytes(content)
    volume = load(folder / name)
    assert volume.meta["source_name"] == name
    return volume.array[0]


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_an_archive_in_an_archive_is_read(tmp_path: Path, levels: int) -> None:
    np.testing.assert_array_equal(_load(tmp_path, _nested(NIFTI, levels)), VALUES)


@pytest.mark.parametrize("levels", [4, 5, 40])
def test_archives_nested_without_bound_are_refused(tmp_path: Path, levels: int) -> None:
    with pytest.raises(InputError, match=r"study\.zip must hold its images within 3 archives.*Unpack it"):
        _load(tmp_path, _nested(NIFTI, levels))


def test_a_series_in_an_archive_in_an_archive_is_listed_and_read(tmp_path: Path) -> None:
    CtSeries().write(tmp_path / "s")
    inner = _zip({file.name: file.read_bytes() for file in (tmp_path / "s").iterdir()})
    array = _load(tmp_path, _zip({"export/inner.zip": inner, "README.txt": b"hello"}))
    np.testing.assert_array_equal(array, load(tmp_path / "s").array[0])
    assert [info.images for info in list_series(tmp_path / "study.zip")] == [6]


def test_several_archives_in_one_are_a_choice(tmp_path: Path) -> None:
    one = _zip({"scan.nii.gz": NIFTI})
    with pytest.raises(InputError, match=r"study\.zip must hold one DICOM series or one image; given: 2 images"):
        _load(tmp_path, _zip({"a.zip": one, "b.zip": one}))


def test_a_bomb_in_an_archive_is_weighed_against_what_came_from_outside(tmp_path: Path) -> None:
    """Each level alone grows by less than 200, both together by more."""
    noise = np.random.default_rng(1).integers(0, 256, 2**13, dtype=np.uint8).tobytes()
    inner = _zip({f"{n}.dcm": noise + bytes(2**20) for n in range(70)})
    outer = _zip({"inner.zip": inner})
    size = 70 * (2**13 + 2**20)
    assert size < 200 * len(inner) < 200 * 200 * len(outer)
    assert size > 200 * len(outer)
    with pytest.raises(InputError, match="a decompression bomb"):
        _load(tmp_path, outer)


@pytest.mark.parametrize("levels", [2, 3, 10])
def test_gzip_in_gzip_is_refused(tmp_path: Path, levels: int) -> None:
    content = NIFTI
    for _ in range(levels - 1):
        content = gzip.compress(content)
    (tmp_path / "scan.nii.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"scan\.nii\.gz must contain a NIfTI volume"):
        load(tmp_path / "scan.nii.gz")


def test_a_gzip_bomb_behind_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(NIFTI + gzip.compress(bytes(2**26 + 2**20)))
    with pytest.raises(InputError, match=r"the 592 bytes of its header and voxels"):
        load(tmp_path / "scan.nii.gz")


def test_shadows_of_macos_are_no_images(tmp_path: Path) -> None:
    pair = nib.Nifti1Pair(VALUES, np.eye(4)).to_file_map
    files = nib.Nifti1Pair.make_file_map({"image": io.BytesIO(), "header": io.BytesIO()})
    pair(files)
    header, image = (files[kind].fileobj.getvalue() for kind in ("header", "image"))
    shadow = b"\0\5\x16\7" + bytes(100)
    members = {"scan.HDR": header, "scan.IMG": image, "__MACOSX/._scan.IMG": shadow, "._scan.HDR": shadow}
    np.testing.assert_array_equal(_load(tmp_path, _zip(members)), VALUES)


def test_backslashes_of_windows_are_folders(tmp_path: Path) -> None:
    np.testing.assert_array_equal(_load(tmp_path, _zip({"export\\scan.nii.gz": NIFTI})), VALUES)


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a\\b", "a/b")])
def test_two_files_of_one_name_are_refused(tmp_path: Path, names: tuple[str, str], recwarn: object) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, NIFTI)
    with pytest.raises(InputError, match="must hold each file once; given: two of one name"):
        _load(tmp_path, packed.getvalue())


def _pair() -> tuple[bytes, bytes]:
    files = nib.Nifti1Pair(VALUES, np.eye(4)).make_file_map({"header": io.BytesIO(), "image": io.BytesIO()})
    image = nib.Nifti1Pair(VALUES, np.eye(4))
    image.to_file_map(files)
    return files["header"].fileobj.getvalue(), files["image"].fileobj.getvalue()


@pytest.mark.parametrize(("header", "data"), [("a.hdr", "a.img"), ("a.hdr", "a.img.gz"), ("a.hdr.gz", "a.img.gz")])
@pytest.mark.parametrize("folder", ["", "deep/"])
def test_the_halves_of_a_pair_are_one_image(tmp_path: Path, header: str, data: str, folder: str) -> None:
    members = {
        folder + name: gzip.compress(content) if name.endswith(".gz") else content
        for name, content in zip((header, data), _pair(), strict=True)
    }
    np.testing.assert_array_equal(_load(tmp_path, _zip(members)), VALUES)
    for name, content in members.items():
        (tmp_path / "pair" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pair" / name).write_bytes(content)
    assert len(expand_inputs([tmp_path / "pair"])) == 1


@pytest.mark.parametrize(("count", "levels"), [(8, 1), (5, 2)])
def test_a_cohort_of_archives_goes_back_to_its_images(tmp_path: Path, tiny_pack: Path, count: int, levels: int) -> None:
    """Of more than four archives, the first ones' DICOM results could not be written: their images were gone."""
    pytest.importorskip("highdicom")
    folder = tmp_path / "zips"
    folder.mkdir()
    for number in range(count):
        CtSeries(series_number=number + 1, seed=number).write(tmp_path / str(number))
        content = _zip({file.name: file.read_bytes() for file in (tmp_path / str(number)).iterdir()})
        for level in range(1, levels):
            content = _zip({f"inner{level}.zip": content})
        (folder / f"p{number}.zip").write_bytes(content)
    out, options = tmp_path / "out", ["--model", str(tiny_pack), "--device", "cpu", "--formats", "nifti,seg"]
    ran = CliRunner().invoke(app, ["predict", str(folder), "--out", str(out), *options])
    assert ran.exit_code == 0, ran.output
    assert len(list(out.rglob("*seg*.dcm"))) == count
