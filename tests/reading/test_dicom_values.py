"""Stored samples → values: bits that are no sample, scales that say nothing or half, syntaxes that nothing decodes."""

from __future__ import annotations

import io
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_results import tool
from dicom_series import CtSeries, edit, write_enhanced
from PIL import Image
from pydicom import dcmread, uid
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import Tag

from headclip_med.base.errors import InputError
from headclip_med.reading import load

NATIVE = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
}
COMPRESSED = {"RLE": uid.RLELossless, "JPEG-LS": uid.JPEGLSLossless, "JPEG 2000": uid.JPEG2000Lossless}
SHAPE = (64, 48)  # JPEG 2000 wants more than a few pixels


def _one(folder: Path, **options: Any) -> Path:
    CtSeries(slices=1, rows=SHAPE[0], columns=SHAPE[1], **options).write(folder)
    return next(folder.iterdir())


def _write(path: Path, cells: np.ndarray, syntax: str, **tags: Any) -> None:
    """``cells`` as the pixels of the file at ``path`` in a transfer syntax, with elements set once they are encoded."""
    ds, width = dcmread(path), cells.dtype.itemsize * 8
    own = {"BitsAllocated": width, "BitsStored": width, "HighBit": width - 1}
    for keyword, value in {**own, "PixelRepresentation": int(cells.dtype.kind == "i"), "RescaleIntercept": 0}.items():
        setattr(ds, keyword, value)
    ds.add_new("PixelData", "OW" if width > 8 else "OB", cells.tobytes())
    if syntax in COMPRESSED.values():
        ds.compress(syntax, generate_instance_uid=False)
    for keyword, value in tags.items():
        if isinstance(value, DataElement):
            ds[keyword] = value
        else:
            setattr(ds, keyword, value)
    ds.file_meta.TransferSyntaxUID = syntax
    if syntax == uid.ExplicitVRBigEndian:
        big = Dataset()
        big.update(ds)
        big.file_meta, big.preamble = ds.file_meta, bytes(128)
        big.PixelData = cells.astype(cells.dtype.newbyteorder(">")).tobytes()
        big.save_as(path, implicit_vr=False, little_endian=False)
    else:
        ds.save_as(path, implicit_vr=syntax == uid.ImplicitVRLittleEndian, little_endian=True)


@pytest.mark.parametrize("syntax", [*NATIVE, *COMPRESSED])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "high"), [(12, 11), (12, 13), (12, 15), (10, 15), (8, 7)])
def test_bits_outside_the_stored_ones_are_no_value(
    tmp_path: Path, bits: int, high: int, signed: bool, syntax: str
) -> None:
    """Overlays lay in the high bits, or samples did; intensities were wrong without a word."""
    path, rng = _one(tmp_path), np.random.default_rng(bits + high)
    low = -(2 ** (bits - 1)) if signed else 0
    values = rng.integers(low, low + 2**bits, SHAPE)
    cells = (values & (2**bits - 1)) << (high + 1 - bits)
    cells |= rng.integers(0, 2 ** (15 - high), SHAPE) << (high + 1)  # above
    cells |= rng.integers(0, 2 ** (high + 1 - bits), SHAPE)  # and below
    stored = cells.astype(np.uint16).view(np.int16 if signed else np.uint16)
    _write(path, stored, {**NATIVE, **COMPRESSED}[syntax], BitsStored=bits, HighBit=high)
    np.testing.assert_array_equal(load(path).array[0, :, :, 0].T, values)


@pytest.mark.parametrize("width", [8, 32])
def test_bits_outside_the_stored_ones_of_other_cells(tmp_path: Path, width: int) -> None:
    path, rng = _one(tmp_path), np.random.default_rng(width)
    values, kind = rng.integers(0, 32, SHAPE), np.dtype(f"u{width // 8}")
    junk = rng.integers(0, 2 ** (width - 6), SHAPE)
    _write(path, ((junk << 6) | (values << 1) | 1).astype(kind), NATIVE["explicit"], BitsStored=5, HighBit=5)
    np.testing.assert_array_equal(load(path).array[0, :, :, 0].T, values)


@pytest.mark.parametrize("syntax", ["JPEG-LS", "JPEG 2000"])
def test_a_compressed_sample_of_its_own_bits_lies_where_it_lies(tmp_path: Path, syntax: str) -> None:
    """A codestream of 12 bits has none above, whatever HighBit says."""
    path = _one(tmp_path)
    ds, values = dcmread(path), np.random.default_rng(0).integers(0, 4096, SHAPE).astype(np.uint16)
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept = 12, 11, 0, 0
    ds.PixelData = values.tobytes()
    ds.compress(COMPRESSED[syntax], generate_instance_uid=False)
    ds.HighBit = 15
    ds.save_as(path)
    np.testing.assert_array_equal(load(path).array[0, :, :, 0].T, values)


def test_bits_outside_the_stored_ones_of_frames_and_of_colours(tmp_path: Path) -> None:
    path, rng = _one(tmp_path), np.random.default_rng(1)
    values = rng.integers(0, 4096, (3, *SHAPE))
    _write(path, ((values << 3) | 0x8005).astype(np.uint16), NATIVE["explicit"], BitsStored=12, HighBit=14)
    edit(path, NumberOfFrames=3, ImagePositionPatient=None, ImageOrientationPatient=None)
    np.testing.assert_array_equal(load(path).array[0].T, values)
    colours = values.transpose(1, 2, 0)
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    edit(path, NumberOfFrames=1, **colour, PixelData=((colours << 3) | 0x8005).astype(np.uint16).tobytes())
    np.testing.assert_allclose(load(path).array[..., 0].T, colours * (255 / 4095), rtol=1e-6)


def test_a_high_bit_that_cannot_be_is_ignored_and_said(tmp_path: Path) -> None:
    path = _one(tmp_path)
    before = load(path).array
    for high in (3, 31):
        edit(path, HighBit=high)
        volume = load(path)
        np.testing.assert_array_equal(volume.array, before)
        assert "HighBit contradicts BitsStored in 1 image(s), and is ignored" in volume.meta["reader_warnings"]


def test_an_overlay_in_unused_bits_is_said(tmp_path: Path) -> None:
    path = _one(tmp_path)
    ds = dcmread(path)
    ds.add_new((0x6000, 0x0102), "US", 12)
    ds.save_as(path)
    assert "overlays in 1 image(s) are ignored" in load(path).meta["reader_warnings"]


def test_padding_that_is_stated_with_the_other_sign_is_padding(tmp_path: Path) -> None:
    path = _one(tmp_path)
    values = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    values[:5] = -2000
    _write(path, values, NATIVE["explicit"])
    ds = dcmread(path)
    ds.add_new("PixelPaddingValue", "US", 63536)
    ds.save_as(path)
    volume = load(path)
    assert volume.array.min() == values[5:].min()
    assert f"{5 * SHAPE[1]} pixels hold the padding value" in " ".join(volume.meta["reader_warnings"])


@pytest.mark.parametrize(("frames", "shape"), [(3, (15, 21)), (5, (3, 7)), (2, (8, 8))])
def test_frames_of_one_bit_that_end_within_a_byte_are_read(tmp_path: Path, frames: int, shape: tuple[int, int]) -> None:
    path = _one(tmp_path)
    bits = np.random.default_rng(0).integers(0, 2, (frames, *shape)).astype(np.uint8)
    ds = dcmread(path)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"):
        del ds[keyword]
    ds.Rows, ds.Columns, ds.NumberOfFrames = *shape, frames
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 1, 1, 0, 0
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    ds.add_new("PixelData", "OB", packed + bytes(len(packed) % 2))
    ds.save_as(path)
    np.testing.assert_array_equal(load(path).array[0].transpose(2, 1, 0), bits)
    np.testing.assert_array_equal(load(path, time=1).array[0, :, :, 0].T, bits[1])


COLOURS = ("Red", "Green", "Blue")


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big endian"])
@pytest.mark.parametrize(
    ("bits", "stored", "factor"), [(8, "u1", 1), (8, "u2", 1), (8, "u2", 256), (8, "u2", 257), (16, "u2", 257)]
)
def test_a_palette_is_as_bright_as_its_entries(
    tmp_path: Path, syntax: str, bits: int, stored: str, factor: int
) -> None:
    """Entries of 8 bits stored one a word of 16 came out 257 times too dark."""
    path = _one(tmp_path)
    indices = (np.arange(np.prod(SHAPE)) % 256).astype(np.uint8).reshape(SHAPE)
    entries = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2])
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, column in zip(COLOURS, entries, strict=True):
        words = (column * factor).astype(f"<{stored}").view("<u2")
        descriptor = DataElement(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, bits])
        tags[descriptor.keyword] = descriptor
        tags[f"{colour}PaletteColorLookupTableData"] = words.astype(
            ">u2" if syntax == "big endian" else "<u2"
        ).tobytes()
    _write(path, indices, NATIVE[syntax], **tags)
    expected = entries[:, indices] if factor != 256 else entries[:, indices] * 256 / 257
    np.testing.assert_allclose(load(path).array[..., 0].transpose(0, 2, 1), expected, atol=1e-3)


SCALES = {
    "both": ({"RescaleSlope": 2, "RescaleIntercept": -10}, 2, -10),
    "neither": ({"RescaleSlope": None, "RescaleIntercept": None}, 1, 0),
    "slope alone": ({"RescaleSlope": 2, "RescaleIntercept": None}, 2, 0),
    "intercept alone": ({"RescaleSlope": None, "RescaleIntercept": -10}, 1, -10),
    "slope empty": ({"RescaleSlope": "", "RescaleIntercept": -10}, 1, -10),
    "intercept empty": ({"RescaleSlope": 2, "RescaleIntercept": ""}, 2, 0),
    "both empty": ({"RescaleSlope": "", "RescaleIntercept": ""}, 1, 0),
}


@pytest.mark.parametrize("case", SCALES)
def test_a_rescale_that_is_empty_or_alone(tmp_path: Path, case: str) -> None:
    """An empty element crashed, one alone was ignored: it is absent, and the other one neutral."""
    tags, slope, intercept = SCALES[case]
    path = _one(tmp_path)
    stored = dcmread(path).pixel_array
    edit(path, **tags)
    np.testing.assert_array_equal(load(path).array[0, :, :, 0].T, stored * slope + intercept)


@pytest.mark.parametrize("case", SCALES)
@pytest.mark.parametrize("place", ["frame", "shared", "file"])
def test_a_rescale_of_frames_that_is_empty_or_alone(tmp_path: Path, case: str, place: str) -> None:
    tags, slope, intercept = SCALES[case]
    write_enhanced(CtSeries(), tmp_path / "a.dcm")
    ds = dcmread(tmp_path / "a.dcm")
    item = Dataset()
    for keyword, value in tags.items():
        if value is not None:
            setattr(item, keyword, value)
    for frame in ds.PerFrameFunctionalGroupsSequence:
        if place == "frame":
            frame.PixelValueTransformationSequence = [item]
        else:
            del frame.PixelValueTransformationSequence
    if place == "shared":
        ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [item]
    if place == "file":
        ds.update(item)
    ds.save_as(tmp_path / "a.dcm")
    volume = load(tmp_path / "a.dcm")
    for k, frame in enumerate(volume.meta["slice_frames"]):
        expected = ds.pixel_array[frame] * slope + intercept
        np.testing.assert_array_equal(volume.array[0, :, :, k].T, expected)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("value", ["abc", "1.0.0", "2\\3", "inf", "nan", "1_0", "1,0,0"])
def test_a_rescale_that_is_no_number_is_refused(tmp_path: Path, keyword: str, value: str) -> None:
    CtSeries().write(tmp_path)
    victim = sorted(tmp_path.iterdir())[1]
    ds, raw = dcmread(victim), value.encode() + b" " * (len(value) % 2)
    ds._dict[Tag(keyword)] = RawDataElement(Tag(keyword), "LO", len(raw), raw, 0, False, True)
    ds.save_as(victim)
    with pytest.raises(InputError, match=rf"{victim.name} must have a scale; given: one that is no number"):
        load(tmp_path)
    assert load(tmp_path, on_irregular="keep").meta["slice_uids"].count("") == 1


# What one of several images lacks of the scale that the others state, and the element that is named.
LACKING = {
    "slope": ({"RescaleSlope": None}, "RescaleSlope"),
    "slope empty": ({"RescaleSlope": ""}, "RescaleSlope"),
    "intercept": ({"RescaleIntercept": None}, "RescaleIntercept"),
    "intercept empty": ({"RescaleIntercept": ""}, "RescaleIntercept"),
    "both": ({"RescaleSlope": None, "RescaleIntercept": None}, "RescaleIntercept"),
}


@pytest.mark.parametrize("case", LACKING)
@pytest.mark.parametrize("place", [0, 3])
def test_a_slice_without_the_scale_of_the_others_is_refused(tmp_path: Path, case: str, place: int) -> None:
    """It was read with a neutral one: 1024 too high among slices in Hounsfield units."""
    series = CtSeries().write(tmp_path)
    files = sorted(tmp_path.iterdir(), key=lambda path: float(dcmread(path).ImagePositionPatient[2]))
    for path in files:
        edit(path, RescaleSlope=2)
    tags, keyword = LACKING[case]
    edit(files[place], **tags)
    with pytest.raises(InputError, match=rf"{files[place].name} must have a scale; given: no {keyword}, unlike the"):
        load(tmp_path)
    volume = load(tmp_path, on_irregular="keep")
    assert [k for k, uid_ in enumerate(volume.meta["slice_uids"]) if not uid_] == [place]
    np.testing.assert_array_equal(volume.array[0, :, :, 5].T, 2 * (series.hu(5) + 1024) - 1024)


@pytest.mark.parametrize("how", ["absent", "empty sequence", "empty item"])
def test_a_frame_without_the_scale_of_the_others_is_refused(tmp_path: Path, how: str) -> None:
    write_enhanced(CtSeries(), tmp_path / "a.dcm")
    ds = dcmread(tmp_path / "a.dcm")
    frame = ds.PerFrameFunctionalGroupsSequence[2]
    del frame.PixelValueTransformationSequence
    if how != "absent":
        frame.PixelValueTransformationSequence = [] if how == "empty sequence" else [Dataset()]
    ds.save_as(tmp_path / "a.dcm")
    with pytest.raises(InputError, match=r"must have a scale; given: no RescaleIntercept, unlike the others"):
        load(tmp_path / "a.dcm")


def test_a_slice_without_a_scale_among_neutral_ones_is_read(tmp_path: Path) -> None:
    CtSeries(slices=3).write(tmp_path)
    files = sorted(tmp_path.iterdir())
    for path in files:
        edit(path, RescaleIntercept=0)
    before = load(tmp_path).array
    edit(files[1], RescaleSlope=None, RescaleIntercept="")
    np.testing.assert_array_equal(load(tmp_path).array, before)


def test_empty_elements_of_a_frame_are_those_of_all_frames(tmp_path: Path) -> None:
    series = write_enhanced(CtSeries(), tmp_path / "a.dcm")
    ds = dcmread(tmp_path / "a.dcm")
    for frame in ds.PerFrameFunctionalGroupsSequence:
        measures, plane = Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness, plane.ImageOrientationPatient = None, None, None
        frame.PixelMeasuresSequence, frame.PlaneOrientationSequence = [measures], [plane]
    ds.save_as(tmp_path / "a.dcm")
    volume = load(tmp_path / "a.dcm")
    assert volume.meta["is_2d"] is False
    np.testing.assert_allclose(volume.affine, np.diag([-1.0, -1, 1, 1]) @ series.lps_affine, atol=1e-5)


@pytest.mark.parametrize(
    ("tags", "window"),
    [
        ({"WindowCenter": ""}, None),
        ({"WindowWidth": ""}, None),
        ({"WindowCenter": "", "WindowWidth": ""}, None),
        ({"WindowWidth": 0}, None),
        ({"WindowCenter": 40, "WindowWidth": [80, 1500]}, [40, 80]),
    ],
)
def test_a_window_that_is_empty_or_alone_is_none(tmp_path: Path, tags: dict[str, Any], window: Any) -> None:
    path = _one(tmp_path)
    edit(path, **tags)
    assert load(path).meta.get("default_window") == window


def test_a_slope_of_zero_says_nothing_and_is_said(tmp_path: Path) -> None:
    CtSeries().write(tmp_path)
    stored = load(tmp_path).array + 1024
    for path in tmp_path.iterdir():
        edit(path, RescaleSlope=0, RescaleIntercept=-10)
    volume = load(tmp_path)
    np.testing.assert_array_equal(volume.array, stored - 10)
    assert "RescaleSlope is 0" in " ".join(volume.meta["reader_warnings"])


def test_a_slope_of_zero_among_others_is_a_slice_without_a_scale(tmp_path: Path) -> None:
    series = CtSeries().write(tmp_path)
    victim = min(tmp_path.iterdir(), key=lambda path: float(dcmread(path).ImagePositionPatient[2]))
    edit(victim, RescaleSlope=0)
    with pytest.raises(InputError, match=rf"{victim.name} must have a scale; given: RescaleSlope 0, unlike the others"):
        load(tmp_path)
    kept = load(tmp_path, on_irregular="keep")
    np.testing.assert_array_equal(kept.array[0, :, :, 1].T, series.hu(1))
    edit(victim, PixelData=bytes(2 * series.rows * series.columns))  # of one value: its slope does not matter
    assert (load(tmp_path).array[..., 0] == -1024).all()


MISDESCRIBED = {
    "12 bits in a cell": ({"BitsAllocated": 12}, "12 bits allocated to a sample"),
    "more bits than a cell": ({"BitsStored": 24}, "24 bits stored in 16"),
    "no sign": ({"PixelRepresentation": None}, "no PixelRepresentation"),
    "an empty sign": ({"PixelRepresentation": []}, "no PixelRepresentation"),
    "no colour": ({"PhotometricInterpretation": None}, "no PhotometricInterpretation"),
    "no cell": ({"BitsAllocated": None, "BitsStored": None}, "no BitsAllocated and no BitsStored"),
}


@pytest.mark.parametrize("case", MISDESCRIBED)
def test_pixels_whose_form_is_not_said_are_refused_by_the_element(tmp_path: Path, case: str) -> None:
    tags, words = MISDESCRIBED[case]
    path = _one(tmp_path)
    edit(path, **tags)
    with pytest.raises(InputError, match=rf"must say how its pixels are stored; given: {words}\."):
        load(path)


def test_elements_with_one_meaning_may_be_missing(tmp_path: Path) -> None:
    path = _one(tmp_path)
    before = load(path).array
    edit(path, BitsStored=None, HighBit=None, SamplesPerPixel=None, NumberOfFrames="")
    np.testing.assert_array_equal(load(path).array, before)


def _renamed(path: Path, syntax: str) -> None:
    """The file as it is, but that its meta group names another transfer syntax."""
    content, meta, out = path.read_bytes(), read_file_meta_info(path), io.BytesIO()
    meta.TransferSyntaxUID = uid.UID(syntax)
    write_file_meta_info(out, meta)
    path.write_bytes(content[:132] + out.getvalue() + content[144 + struct.unpack_from("<I", content, 140)[0] :])


UNKNOWN = {
    "JPEG XL": ("1.2.840.10008.1.2.4.110", r"JPEG XL Lossless \(1\.2\.840", "Export it again uncompressed"),
    "JPEG XL recompressed": ("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression", "Export it again uncompressed"),
    "General Electric": ("1.2.840.113619.5.2", "private syntax of General Electric", "gdcmconv --raw"),
    "private": ("1.3.46.670589.33.1.4.1", r"a private syntax \(1\.3\.46", "Export it again uncompressed"),
    "spectral selection": ("1.2.840.10008.1.2.4.53", "JPEG Spectral Selection", "gdcmconv --raw"),
    "progressive": ("1.2.840.10008.1.2.4.55", "JPEG Full Progression", "gdcmconv --raw"),
    "MPEG-2": ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile", "Export single pictures"),
    "MPEG-4": ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264", "Export single pictures"),
    "HEVC": ("1.2.840.10008.1.2.4.107", "HEVC/H.265", "Export single pictures"),
    "JPIP": ("1.2.840.10008.1.2.4.94", "JPIP Referenced", "Export it again uncompressed"),
    "no syntax at all": ("1.2.840.10008.5.1.4.1.1.2", "CT Image Storage", "Export it again uncompressed"),
}


@pytest.mark.parametrize("case", UNKNOWN)
@pytest.mark.parametrize("slices", [1, 3])
def test_a_syntax_that_nothing_decodes_is_named_with_a_way_that_works(tmp_path: Path, case: str, slices: int) -> None:
    """Users were told to install what was installed, or to copy a file that was whole."""
    syntax, name, do = UNKNOWN[case]
    CtSeries(slices=slices).write(tmp_path)
    for path in tmp_path.iterdir():
        _renamed(path, syntax)
    for policy in ("error", "keep"):
        with pytest.raises(InputError, match=rf"transfer syntax.*given: .*{name}.*{do}") as caught:
            load(tmp_path, on_irregular=policy)
        assert not {"damaged", "pip install", "Copy", "--on-irregular"} & set(str(caught.value).split())
        assert "pip install" not in str(caught.value)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55", "1.2.840.113619.5.2"])
def test_gdcm_converts_what_users_are_told_to_convert_with_it(tmp_path: Path, syntax: str) -> None:
    program = tool("gdcmconv")
    path = _one(tmp_path)
    ds, out = dcmread(path), io.BytesIO()
    values = (np.indices(SHAPE).sum(0) * 2 % 256).astype(np.uint8)
    if syntax.endswith("113619.5.2"):
        expected = np.arange(values.size, dtype=np.uint16).reshape(SHAPE)
        ds.PixelData, ds.PixelRepresentation = expected.astype(">u2").tobytes(), 0
    else:
        Image.fromarray(values).save(out, "JPEG", progressive=True, quality=100)
        expected = np.asarray(Image.open(out))
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.PixelData = encapsulate([out.getvalue()])
        ds["PixelData"].is_undefined_length = True
    ds.RescaleIntercept = 0
    is_private = syntax.endswith("113619.5.2")
    ds.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if is_private else uid.JPEGBaseline8Bit
    ds.save_as(path, implicit_vr=is_private, little_endian=True)
    _renamed(path, syntax)
    with pytest.raises(InputError, match="gdcmconv --raw IN OUT"):
        load(path)
    subprocess.run([program, "--raw", path, tmp_path / "raw.dcm"], check=True, capture_output=True, timeout=30)
    np.testing.assert_allclose(load(tmp_path / "raw.dcm").array[0, :, :, 0].T, expected, atol=1)


def test_lossy_jpeg_of_12_bits_is_told_a_way_that_works(tmp_path: Path) -> None:
    program, path = tool("gdcmconv"), Path(str(get_testdata_file("JPGExtended.dcm")))
    with pytest.raises(InputError, match=r"decoder of JPEG Extended.*gdcmconv --raw IN OUT"):
        load(path)
    subprocess.run([program, "--raw", path, tmp_path / "raw.dcm"], check=True, capture_output=True, timeout=30)
    assert load(tmp_path / "raw.dcm").array.shape == (1, 256, 1024, 1)
