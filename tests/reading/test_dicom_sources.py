"""Where DICOM comes from: zip archives, DICOMDIR, lists, files without a preamble; and what hostile ones cannot do."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_series import CtSeries, edit
from pydicom import dcmread, uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset

from headclip_med.base.errors import InputError
from headclip_med.reading import archive, list_series, load, read_volume
from headclip_med.reading.dicom import decode as dicom_decode
from headclip_med.reading.dicom.pixels import Claim, claimed_size


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in members.items():
            out.writestr(name, content)
    return path


def _series(folder: Path) -> dict[str, bytes]:
    CtSeries().write(folder)
    return {f"study/{path.name}": path.read_bytes() for path in folder.iterdir()}


def test_a_zipped_series_is_the_series(tmp_path: Path) -> None:
    path = _zip(tmp_path / "study.zip", {**_series(tmp_path / "s"), "README.txt": b"hello"})
    zipped, plain = load(path), load(tmp_path / "s")
    np.testing.assert_array_equal(zipped.array, plain.array)
    assert zipped.meta["content_sha256"] == plain.meta["content_sha256"]
    assert zipped.meta["source_name"] == "study.zip"
    assert all(Path(file).is_file() for file in zipped.meta["slice_files"])
    assert "left out: 1 × file that is not DICOM" in zipped.meta["reader_warnings"]
    assert [info.images for info in list_series(path)] == [6]


def test_a_zipped_nifti_is_the_nifti(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    nib.save(image, tmp_path / "scan.nii.gz")
    path = _zip(tmp_path / "a.zip", {"deep/scan.nii.gz": (tmp_path / "scan.nii.gz").read_bytes()})
    assert read_volume(path).shape == (1, 3, 4, 5)
    two = _zip(tmp_path / "b.zip", {n: (tmp_path / "scan.nii.gz").read_bytes() for n in ("a.nii.gz", "b.nii.gz")})
    with pytest.raises(InputError, match="one DICOM series or one image; given: 2 images"):
        load(two)


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "a\\..\\out", "C:/out", "a//b"])
def test_a_member_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    path = _zip(tmp_path / "bad.zip", {"good": b"x", name: b"x"})
    with pytest.raises(InputError, match="a name that leads elsewhere"):
        load(path)
    assert not (tmp_path / "out").exists()


def test_links_passwords_and_damage_in_archives_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as out:
        out.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="no links"):
        load(tmp_path / "link.zip")
    whole = _zip(tmp_path / "a.zip", _series(tmp_path / "s")).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="readable zip archive"):
        load(tmp_path / "cut.zip")
    locked = bytearray(whole)
    locked[whole.rfind(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(InputError, match="not be encrypted"):
        load(tmp_path / "locked.zip")
    (tmp_path / "none.zip").write_bytes(_zip(tmp_path / "e.zip", {"a/": b""}).read_bytes())
    with pytest.raises(InputError, match="1 to 50000 files"):
        load(tmp_path / "none.zip")


def test_archives_that_grow_too_far_are_refused_before_they_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = _zip(tmp_path / "bomb.zip", {"a": bytes(70_000_000)})
    assert bomb.stat().st_size < 100_000
    with pytest.raises(InputError, match="decompression bomb"):
        load(bomb)
    monkeypatch.setattr(archive, "_MOST_MEMBERS", 3)
    with pytest.raises(InputError, match="1 to 3 files; given: 6"):
        load(_zip(tmp_path / "many.zip", _series(tmp_path / "s")))


def test_a_member_never_grows_beyond_its_listing(tmp_path: Path) -> None:
    path = _zip(tmp_path / "liar.zip", {"a": bytes(1_000_000)})
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.find(mark) + at, 10)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"readable zip archive|one DICOM series"):
        load(path)


def test_the_oldest_unpacked_archive_makes_room_where_all_take_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = _series(tmp_path / "s")
    first = Path(load(_zip(tmp_path / "0.zip", members)).meta["slice_files"][0])
    for n in range(1, 9):
        load(_zip(tmp_path / f"{n}.zip", members))
        assert first.exists()
    monkeypatch.setattr(archive, "_KEPT_BYTES", 1)
    last = [Path(load(_zip(tmp_path / f"{n}.zip", members)).meta["slice_files"][0]) for n in range(9, 14)]
    assert not first.exists()
    assert [path.exists() for path in last] == [False, True, True, True, True]


def test_a_deflated_file_is_capped_by_growth_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CtSeries(slices=1).write(tmp_path)
    path = next(tmp_path.iterdir())
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    ds.add_new(0x00091010, "OB", bytes(2_000_000))
    ds.save_as(path)
    assert load(path).array.shape == (1, 8, 9, 1)
    monkeypatch.setattr(archive, "_HARMLESS_BYTES", 1000)
    with pytest.raises(InputError, match="200 times its size"):
        load(path)


def test_the_dicomdir_of_pydicom_lists_its_series() -> None:
    path = Path(str(get_testdata_file("DICOMDIR")))
    infos = list_series(path)
    assert [str(i) for i in infos if i.modality == "CT"] == [
        "#6: series 2, CT, 4 × 16×16, axial",
        "#15: series 5, CT, 5 × 16×16, axial",
    ]
    assert load(path, series="#15").array.shape == (1, 16, 16, 5)


def _dicomdir(folder: Path, names: list[object]) -> Path:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.DirectoryRecordSequence = []
    for name in names:
        record = Dataset()
        record.add_new("ReferencedFileID", "CS", name)
        ds.DirectoryRecordSequence.append(record)
    ds.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


@pytest.mark.filterwarnings("ignore:.*for VR CS")
def test_a_dicomdir_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    CtSeries(slices=1, series_number=1).write(tmp_path / "outside")
    outside = next((tmp_path / "outside").iterdir())
    medium = tmp_path / "medium"
    series = CtSeries().write(medium / "deep")
    (medium / "LINK").symlink_to(outside)
    inside = [["DEEP", path.name.upper()] for path in (medium / "deep").iterdir()]
    hostile = [["..", "outside", outside.name], "LINK", str(outside), ["GONE"], "../outside/" + outside.name]
    volume = load(_dicomdir(medium, [*inside, *hostile]))
    assert volume.array.shape[3] == series.slices
    assert sorted(volume.meta["reader_warnings"]) == [
        "left out: 1 × missing file of the DICOMDIR",
        "left out: 4 × file named outside the DICOMDIR's folder",
    ]


def test_a_list_of_files_of_one_series_is_a_volume(tmp_path: Path) -> None:
    CtSeries().write(tmp_path)
    files = sorted(tmp_path.iterdir())
    np.testing.assert_array_equal(read_volume(files).numpy(), read_volume(tmp_path).numpy())


def test_a_file_without_preamble_or_meta_is_read(tmp_path: Path) -> None:
    CtSeries().write(tmp_path)
    expected = load(tmp_path).array
    for path in tmp_path.iterdir():
        ds = dcmread(path)
        bare, out = Dataset(), io.BytesIO()
        bare.update(ds)
        bare.save_as(out, implicit_vr=True, little_endian=True)
        path.write_bytes(out.getvalue())
    np.testing.assert_array_equal(load(tmp_path).array, expected)


def test_a_pipe_is_refused_and_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="a pipe, socket or device"):
        load(tmp_path / "pipe")
    CtSeries().write(tmp_path)
    assert load(tmp_path).array.shape[3] == 6


def test_a_series_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CtSeries().write(tmp_path)
    genuine, victim = dicom_decode.open_dicom, sorted(tmp_path.iterdir())[3]

    def change(header: object) -> object:
        victim.write_bytes(victim.read_bytes() + b"\0\0")
        return genuine(header)  # type: ignore[arg-type]

    monkeypatch.setattr(dicom_decode, "open_dicom", change)
    for policy in ("error", "keep"):
        with pytest.raises(InputError, match=f"{victim.name} must not change while it is read"):
            load(tmp_path, on_irregular=policy)
    monkeypatch.setattr(dicom_decode, "open_dicom", lambda header: header.path.unlink() or genuine(header))
    with pytest.raises(InputError, match=r"must not change while it is read.*went away"):
        load(tmp_path)


def test_a_frame_that_claims_to_be_larger_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    CtSeries(slices=1, rows=32, columns=32).write(tmp_path)
    path = next(tmp_path.iterdir())
    ds = dcmread(path)
    ds.compress(uid.JPEG2000Lossless)
    ds.save_as(path)
    load(path)
    content = bytearray(path.read_bytes())
    at = content.find(b"\xff\x4f\xff\x51")
    assert claimed_size(bytes(content[at:])) == Claim(32, 32, 1, 16)
    struct.pack_into(">2I", content, at + 8, 60_000, 60_000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"32 × 32 pixels; given: a frame that claims 60000 × 60000 × 1"):
        load(path)


def test_a_jpeg_says_its_size() -> None:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (40, 30)).save(out, "JPEG")
    assert claimed_size(out.getvalue()) == Claim(30, 40, 3, 8)
    assert claimed_size(b"\xff\xd8\xff\xe0") is None
    assert claimed_size(b"") is None


def test_two_gigabytes_claimed_in_a_small_file(tmp_path: Path) -> None:
    CtSeries(slices=1).write(tmp_path)
    path = next(tmp_path.iterdir())
    content = bytearray(path.read_bytes())
    at = content.find(b"\xe0\x7f\x10\x00OW")
    struct.pack_into("<I", content, at + 8, 2**31)
    path.write_bytes(content[:-60])
    with pytest.raises(InputError, match=f"{path.name} must"):
        load(path)
    CtSeries(slices=1).write(tmp_path)
    edit(path, Rows=60_000, Columns=60_000)
    with pytest.raises(InputError, match="fit in 4 GiB"):
        load(path)


def test_a_whole_slide_is_refused_with_the_reason(tmp_path: Path) -> None:
    CtSeries(slices=1).write(tmp_path)
    path = next(tmp_path.iterdir())
    edit(path, SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6")
    with pytest.raises(InputError, match=r"a whole-slide image \(gigapixels"):
        load(path)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_of_either_byte_order_gives_the_same_colours(tmp_path: Path, bits: int) -> None:
    CtSeries(slices=1, rows=16, columns=16).write(tmp_path)
    path = next(tmp_path.iterdir())
    own = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    edit(path, **own, PhotometricInterpretation="PALETTE COLOR", PixelData=bytes(range(256)))
    ds, colours = dcmread(path), np.random.default_rng(0).integers(0, 2**bits, (3, 256))
    for order, syntax in (("<", uid.ExplicitVRLittleEndian), (">", uid.ExplicitVRBigEndian)):
        out = Dataset()
        out.update(ds)
        out.file_meta, out.preamble = ds.file_meta, bytes(128)
        out.file_meta.TransferSyntaxUID = syntax
        out["PixelData"].VR = "OB"
        for name, values in zip(("Red", "Green", "Blue"), colours, strict=True):
            words = values.astype("<u2") if bits == 16 else values.astype("u1").view("<u2")
            out.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, bits])
            out.add_new(f"{name}PaletteColorLookupTableData", "OW", words.astype(f"{order}u2").tobytes())
        out.save_as(path, implicit_vr=False, little_endian=order == "<")
        expected = colours.reshape(3, 16, 16) * (255 / (2**bits - 1))
        np.testing.assert_allclose(load(path).array[..., 0].transpose(0, 2, 1), expected, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("signed", [0, 1])
def test_integers_of_every_width(tmp_path: Path, bits: int, signed: int) -> None:
    CtSeries(slices=1).write(tmp_path)
    path = next(tmp_path.iterdir())
    values = np.arange(72).reshape(9, 8) - 36 * signed
    kind = f"<{'i' if signed else 'u'}{bits // 8}"
    edit(
        path,
        BitsAllocated=bits,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=signed,
        RescaleIntercept=0,
        PixelData=values.astype(kind).tobytes(),
    )
    np.testing.assert_array_equal(load(path).array[0, :, :, 0].T, values)


def test_one_bit_and_float_pixels(tmp_path: Path) -> None:
    CtSeries(slices=1, rows=8).write(tmp_path)
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    bits = np.arange(64) % 3 == 0
    packed = np.packbits(bits, bitorder="little").tobytes()
    own = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelRepresentation": 0, "RescaleIntercept": 0}
    edit(path, **own, PixelData=packed)
    np.testing.assert_array_equal(load(path).array[0, :, :, 0].T, bits.reshape(8, 8))
    for keyword, kind in (("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")):
        path.write_bytes(whole)
        values = np.linspace(-1, 1, 64).astype(kind)
        size = values.dtype.itemsize * 8
        edit(path, PixelData=None, RescaleIntercept=0, BitsAllocated=size, **{keyword: values.tobytes()})
        np.testing.assert_allclose(load(path).array[0, :, :, 0].T.ravel(), values, atol=1e-7)


def test_growth_is_checked_while_inflating(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path = tmp_path / "a"
    path.write_bytes(packer.compress(bytes(80_000_000)) + packer.flush())
    with pytest.raises(InputError, match="decompression bomb"):
        archive.check_inflated_file(path, 0)
