"""What a file is called, how it is packed, and how its numbers are written has no influence on what is read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_results import complete_series, result_of
from dicom_series import CtSeries, edit, write_enhanced
from PIL import Image
from pydicom import dcmread, uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from headclip_med.base.errors import InputError
from headclip_med.reading import list_series, load, load_volume
from headclip_med.reading.content import identify, is_format
from headclip_med.reading.monai_readers import DicomSeriesReader, NiftiReader
from headclip_med.writing.dicom.objects import write_dicom

ENDINGS = (".img", ".IMG", ".hdr", ".nii", ".ima", "", ".png", ".nii.gz", ".img.gz", ".gz", ".zip", ".txt", ".001")


def _bare(path: Path) -> bytes:
    """The file at ``path`` without preamble, mark and meta group."""
    bare, out = Dataset(), io.BytesIO()
    bare.update(dcmread(path))
    bare.save_as(out, implicit_vr=True, little_endian=True)
    return out.getvalue()


@pytest.mark.parametrize("form", ["whole", "bare"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_content_decides_and_not_the_name(tmp_path: Path, ending: str, form: str) -> None:
    CtSeries().write(tmp_path / "dcm")
    expected = load(tmp_path / "dcm").array
    (tmp_path / "odd").mkdir()
    for path in (tmp_path / "dcm").iterdir():
        content = path.read_bytes() if form == "whole" else _bare(path)
        (tmp_path / "odd" / f"{path.stem}{ending}").write_bytes(content)
    np.testing.assert_array_equal(load(tmp_path / "odd").array, expected)
    single = sorted((tmp_path / "odd").iterdir())[0]
    assert load(single).array.shape[3] == 1
    assert DicomSeriesReader().verify_suffix(str(single))
    assert not NiftiReader().verify_suffix(str(single))


def test_a_dicom_header_beside_a_dicom_image_is_another_slice(tmp_path: Path) -> None:
    CtSeries(slices=2).write(tmp_path)
    for path, ending in zip(sorted(tmp_path.iterdir()), (".hdr", ".img"), strict=True):
        path.rename(tmp_path / f"scan{ending}")
    assert load(tmp_path).array.shape[3] == 2
    assert load(tmp_path / "scan.img").meta["source_format"] == "dicom"


@pytest.mark.parametrize("packed", [False, True])
def test_voxels_that_look_like_dicom_are_those_of_their_header(tmp_path: Path, packed: bool) -> None:
    """Group 8, element 5, ten bytes: a plausible first DICOM element, and plausible voxels."""
    voxels = np.arange(60, dtype="<i2").reshape(3, 4, 5)
    voxels[:, 0, 0] = 8, 5, 10
    nib.save(nib.Nifti1Pair(voxels, np.eye(4)), tmp_path / "scan.img")
    if packed:
        for name in ("scan.img", "scan.hdr"):
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
            (tmp_path / name).unlink()
    name = "scan.img.gz" if packed else "scan.img"
    assert identify(tmp_path / name) == "nifti"
    np.testing.assert_array_equal(load(tmp_path / name).array[0], voxels)


def test_voxels_without_a_header_say_so(tmp_path: Path) -> None:
    (tmp_path / "scan.img").write_bytes(bytes(range(1, 200)) * 10)
    with pytest.raises(InputError, match=r"must have its \.hdr file beside it"):
        load(tmp_path / "scan.img")
    picture = io.BytesIO()
    Image.new("L", (4, 4)).save(picture, "PNG")
    (tmp_path / "scan.img").write_bytes(picture.getvalue())
    assert identify(tmp_path / "scan.img") == "png"


@pytest.mark.parametrize("form", ["whole", "bare"])
def test_dicom_that_gzip_packed_is_read(tmp_path: Path, form: str) -> None:
    series = CtSeries(orientation="oblique").write(tmp_path / "dcm")
    plain = load(tmp_path / "dcm")
    (tmp_path / "gz").mkdir()
    for path in (tmp_path / "dcm").iterdir():
        content = path.read_bytes() if form == "whole" else _bare(path)
        (tmp_path / "gz" / f"{path.name}.gz").write_bytes(gzip.compress(content))
    volume = load(tmp_path / "gz")
    np.testing.assert_array_equal(volume.array, plain.array)
    np.testing.assert_array_equal(volume.affine, plain.affine)
    assert volume.meta["slice_uids"] == plain.meta["slice_uids"]
    assert [info.images for info in list_series(tmp_path / "gz")] == [series.slices]
    files = sorted((tmp_path / "gz").iterdir())
    assert load(files[0]).array.shape[3] == 1
    assert load_volume(files).array.shape[3] == series.slices
    (tmp_path / "dcm" / "copy.dcm.gz").write_bytes(gzip.compress(b"hello"))
    assert load(tmp_path / "dcm").meta["reader_warnings"] == ["left out: 1 × file that is not DICOM"]


def test_frames_that_gzip_packed_are_read(tmp_path: Path) -> None:
    write_enhanced(CtSeries(), tmp_path / "a.dcm")
    plain = load(tmp_path / "a.dcm")
    (tmp_path / "a.dcm.gz").write_bytes(gzip.compress((tmp_path / "a.dcm").read_bytes()))
    np.testing.assert_array_equal(load(tmp_path / "a.dcm.gz").array, plain.array)
    ds = dcmread(tmp_path / "a.dcm")
    del ds.PerFrameFunctionalGroupsSequence, ds.SharedFunctionalGroupsSequence
    ds.save_as(tmp_path / "cine.dcm")
    (tmp_path / "cine.dcm.gz").write_bytes(gzip.compress((tmp_path / "cine.dcm").read_bytes()))
    np.testing.assert_array_equal(load(tmp_path / "cine.dcm.gz").array, load(tmp_path / "cine.dcm").array)


def test_a_copy_that_gzip_packed_is_a_copy(tmp_path: Path) -> None:
    CtSeries().write(tmp_path)
    for path in list(tmp_path.iterdir()):
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    volume = load(tmp_path)
    assert volume.array.shape[3] == 6
    assert volume.meta["reader_warnings"] == ["left out: 6 × copy of another file (same SOPInstanceUID)"]


def test_dicom_results_of_a_packed_series_are_those_of_the_series(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    complete_series(tmp_path / "in")
    plain = dcmread(write_dicom(result_of(tmp_path / "in"), tmp_path, ["seg"])["seg"])
    for path in list((tmp_path / "in").iterdir()):
        (tmp_path / "in" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    result = result_of(tmp_path / "in")
    (tmp_path / "out").mkdir()
    packed = dcmread(write_dicom(result, tmp_path / "out", ["dicom"])["seg"])
    assert packed.PixelData == plain.PixelData
    assert packed.ReferencedSeriesSequence == plain.ReferencedSeriesSequence


def test_damaged_and_hostile_gzip_is_refused_or_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headclip_med.reading import archive as inflate

    CtSeries().write(tmp_path / "in")
    path = sorted((tmp_path / "in").iterdir())[0]
    content = path.read_bytes()
    victim = path.with_name(f"{path.name}.gz")
    victim.write_bytes(gzip.compress(content)[:-20])
    path.unlink()
    with pytest.raises(InputError, match="must be a readable DICOM file"):
        load(victim)
    kept = load(tmp_path / "in", on_irregular="keep")
    assert f"left out: 1 × damaged DICOM file ({victim.name})" in kept.meta["reader_warnings"]
    victim.write_bytes(gzip.compress(content))
    monkeypatch.setattr(inflate, "MAX_INFLATED_BYTES", 300)
    with pytest.raises(InputError, match="decompression bomb"):
        load(victim)


def test_a_deflated_file_is_packed_once(tmp_path: Path) -> None:
    CtSeries(slices=1).write(tmp_path)
    path = next(tmp_path.iterdir())
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    ds.save_as(path)
    (tmp_path / "a.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match=r"deflated and in gzip\. Unpack it with gunzip first"):
        load(tmp_path / "a.gz")


def _tar(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("scan.dcm")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


PACKED = {
    "png in gzip": (
        lambda dicom: gzip.compress(b"\x89PNG\r\n\x1a\n" + dicom),
        r"a png file\. Unpack it first \(gunzip",
    ),
    "tar in gzip": (lambda dicom: gzip.compress(_tar(dicom)), r"a tar archive\. Unpack it first \(gunzip"),
    "gzip in gzip": (lambda dicom: gzip.compress(gzip.compress(dicom)), r"a gzip archive\. Unpack it first \(gunzip"),
    "text in gzip": (lambda dicom: gzip.compress(b"hello " * 200), r"a text file\. Unpack it first \(gunzip"),
    "tar": (_tar, r"a tar archive\. Unpack it first"),
    "bzip2": (bz2.compress, r"a bzip2 archive\. Unpack it first"),
    "xz": (lzma.compress, r"an xz archive\. Unpack it first"),
    "7-Zip": (lambda dicom: b"7z\xbc\xaf\x27\x1c" + dicom, r"a 7-Zip archive\. Unpack it first"),
}


@pytest.mark.parametrize("case", PACKED)
def test_what_is_packed_otherwise_says_how_to_unpack_it(tmp_path: Path, case: str) -> None:
    pack, words = PACKED[case]
    CtSeries(slices=1).write(tmp_path)
    path = next(tmp_path.iterdir())
    path.write_bytes(pack(path.read_bytes()))
    with pytest.raises(InputError, match=words):
        load(path)
    assert not is_format(path, "dicom")


def _in_text(path: Path, keyword: str, vr: str, comma: bool) -> None:
    """The number(s) of an element as text of another value representation."""
    ds, tag = dcmread(path), Tag(tag_for_keyword(keyword))  # type: ignore[arg-type]
    found = ds[keyword].value
    text = "\\".join(str(float(x)) for x in (found if ds[keyword].VM > 1 else [found]))
    value = (text.replace(".", ",") if comma else text).encode()
    value += b" " * (len(value) % 2)
    ds._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    ds.save_as(path)


NUMERIC = (
    *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "RescaleSlope"),
    *("RescaleIntercept", "WindowCenter", "WindowWidth", "InstanceNumber", "SeriesNumber"),
)
COUNTS = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    "PixelPaddingValue",
)
TEXT = ("UT", "LT", "LO", "ST", "SH", "UC", "DS", "CS", "OB")
CASES = {
    **{f"{vr} for all": ((*NUMERIC, *COUNTS), vr) for vr in TEXT},
    "UN for all that is text": (NUMERIC, "UN"),
    **{f"UT for {keyword}": ((keyword,), "UT") for keyword in (*NUMERIC, *COUNTS)},
}


@pytest.mark.parametrize("comma", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*VR (IS|DS|CS)", "ignore:.*value length .* exceeds the maximum")
def test_numbers_in_unusual_text_are_numbers(tmp_path: Path, case: str, comma: bool) -> None:
    """A decimal comma, or text where numbers belong: the user was sent to a file that was then read at 1 mm."""
    keywords, vr = CASES[case]
    CtSeries(orientation="oblique", per_slice_rescale=True, slices=3).write(tmp_path)
    for path in tmp_path.iterdir():
        ds = dcmread(path)
        ds.add_new("PixelPaddingValue", "SS", -1)
        ds.save_as(path)
    plain = load(tmp_path)
    assert "padding" in plain.meta["reader_warnings"][0]
    for path in tmp_path.iterdir():
        for keyword in keywords:
            _in_text(path, keyword, vr, comma)
    volume = load(tmp_path)
    np.testing.assert_array_equal(volume.array, plain.array)
    np.testing.assert_allclose(volume.affine, plain.affine, atol=1e-9)
    assert volume.meta["default_window"] == [40.0, 80.0]
    assert list_series(tmp_path)[0].series_number == 4
    single = load(min(tmp_path.iterdir()))
    np.testing.assert_allclose(np.linalg.norm(single.affine[:3], axis=0)[:3], [0.5, 0.7, 3.0], atol=1e-6)


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "PixelSpacing", "ImageOrientationPatient", "RescaleSlope"])
@pytest.mark.parametrize("vr", ["UT", "DS"])
def test_numbers_of_frames_in_unusual_text_are_numbers(tmp_path: Path, keyword: str, vr: str) -> None:
    write_enhanced(CtSeries(orientation="oblique"), tmp_path / "a.dcm")
    plain, ds = load(tmp_path / "a.dcm"), dcmread(tmp_path / "a.dcm")
    for groups in (*ds.PerFrameFunctionalGroupsSequence, *ds.SharedFunctionalGroupsSequence):
        for element in groups:
            for item in element.value:
                if keyword in item:
                    found = item[keyword].value
                    text = "\\".join(str(x) for x in (found if item[keyword].VM > 1 else [found]))
                    value = text.replace(".", ",").encode()
                    value += b" " * (len(value) % 2)
                    item._dict[item[keyword].tag] = RawDataElement(
                        item[keyword].tag, vr, len(value), value, 0, False, True
                    )
    ds.save_as(tmp_path / "a.dcm")
    volume = load(tmp_path / "a.dcm")
    np.testing.assert_array_equal(volume.array, plain.array)
    np.testing.assert_allclose(volume.affine, plain.affine, atol=1e-9)


@pytest.mark.parametrize("comma", [False, True])
def test_dicom_results_about_numbers_in_unusual_text_are_the_same(tmp_path: Path, comma: bool) -> None:
    pytest.importorskip("highdicom")
    complete_series(tmp_path / "in")
    plain = dcmread(write_dicom(result_of(tmp_path / "in"), tmp_path, ["seg"])["seg"])
    for path in (tmp_path / "in").iterdir():
        for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "Rows"):
            _in_text(path, keyword, "UT", comma)
        _in_text(path, "SeriesNumber", "LO", comma)
    (tmp_path / "out").mkdir()
    odd = dcmread(write_dicom(result_of(tmp_path / "in"), tmp_path / "out", ["dicom"])["seg"])
    assert odd.PixelData == plain.PixelData
    assert odd.SharedFunctionalGroupsSequence == plain.SharedFunctionalGroupsSequence
    assert odd.SeriesNumber == plain.SeriesNumber


NO_NUMBER = ("", "abc", "0.5", "0.5\\0.5\\0.5", "0,5,0,5", "-1\\-1", "nan\\nan", "1.234,5\\1", "0\\0")


@pytest.mark.parametrize("value", NO_NUMBER)
def test_a_spacing_that_is_none_is_never_read_as_a_millimetre(tmp_path: Path, value: str) -> None:
    CtSeries().write(tmp_path)
    for path in tmp_path.iterdir():
        ds, tag = dcmread(path), Tag("PixelSpacing")
        raw = value.encode() + b" " * (len(value) % 2)
        ds._dict[tag] = RawDataElement(tag, "LO", len(raw), raw, 0, False, True)
        ds.save_as(path)
    for policy in ("error", "keep", "split", "resample"):
        for source in (tmp_path, min(tmp_path.iterdir())):
            with pytest.raises(InputError, match=r"without valid pixel spacing\. Set PixelSpacing") as caught:
                load(source, on_irregular=policy)
            assert "own path" not in str(caught.value)


def test_pictures_of_one_series_are_to_be_given_one_by_one(tmp_path: Path) -> None:
    CtSeries().write(tmp_path)
    for path in tmp_path.iterdir():
        edit(path, ImagePositionPatient=None, ImageOrientationPatient=None)
    with pytest.raises(InputError, match=r"own path, which is read as a picture without a place"):
        load(tmp_path)
    volume = load(min(tmp_path.iterdir()))
    assert volume.meta["is_2d"] is True
    np.testing.assert_allclose(np.diag(volume.affine), [-0.5, -0.7, 1, 1])
