"""DICOM → volume: every synthetic series that MONAI's readers get wrong, and refusals in words."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import MARK, MARK_HU, ORIENTATIONS, CtSeries, edit
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    JPEGLSLossless,
    RLELossless,
    SegmentationStorage,
)

from headclip_med.base.errors import InputError
from headclip_med.reading import list_series, load, read_volume
from headclip_med.reading.dicom import pixels as dicom_pixels


def _shared(*parts: str) -> Path:
    root = Path(os.environ.get("HEADCLIP_SHARED", Path(__file__).parents[3] / "shared"))
    path = root.joinpath("data", "dicom", *parts)
    if not path.exists():
        pytest.skip("no shared data")
    return path


@pytest.mark.parametrize("numbers", ["shuffled", "ones"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_marked_voxel_comes_out_at_its_millimetres(tmp_path: Path, orientation: str, numbers: str) -> None:
    series = CtSeries(orientation=orientation, instance_numbers=numbers).write(tmp_path)
    volume = read_volume(tmp_path)
    assert volume.shape == (1, series.columns, series.rows, series.slices)
    assert np.argwhere(volume.numpy()[0] == MARK_HU).tolist() == [list(MARK)]
    affine = volume.affine.numpy()
    assert (affine @ [*MARK, 1])[:3] == pytest.approx(series.mark_ras, abs=1e-4)
    np.testing.assert_allclose(affine, np.diag([-1.0, -1, 1, 1]) @ series.lps_affine, atol=1e-5)
    for k in range(series.slices):
        np.testing.assert_array_equal(volume.numpy()[0, :, :, k].T, series.hu(k))


def test_simpleitk_places_the_voxel_in_the_same_spot(tmp_path: Path) -> None:
    CtSeries(orientation="oblique").write(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    lps = np.array(image.TransformIndexToPhysicalPoint(MARK))
    assert image.GetPixel(*MARK) == MARK_HU
    assert (load(tmp_path).affine @ [*MARK, 1])[:3] == pytest.approx(lps * [-1, -1, 1], abs=1e-4)


def test_metadata_of_a_series(tmp_path: Path) -> None:
    series = CtSeries(orientation="sagittal").write(tmp_path / "study")
    meta = read_volume(tmp_path / "study").meta
    assert (meta["source_format"], meta["source_name"], meta["modality"]) == ("dicom", "study", "CT")
    assert (meta["is_rgb"], meta["is_2d"], meta["display_inverted"]) == (False, False, False)
    assert meta["default_window"] == [40.0, 80.0]
    # rows run to posterior, columns to inferior: their cross product points to the patient's right
    assert meta["slice_normal"] == pytest.approx([1, 0, 0], abs=1e-9)
    digests = sorted(hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "study").iterdir())
    assert meta["content_sha256"] == hashlib.sha256("".join(digests).encode()).hexdigest()
    by_place = {
        dcmread(p).SOPInstanceUID: dcmread(p).ImagePositionPatient for p in sorted((tmp_path / "study").iterdir())
    }
    ordered = sorted(by_place, key=lambda u: -float(by_place[u][0]))
    assert meta["slice_uids"] == ordered
    centre = series.lps_affine @ [(series.columns - 1) / 2, (series.rows - 1) / 2, 2, 1]
    assert meta["slice_positions"][2] == pytest.approx(list(centre[:3] * [-1, -1, 1]), abs=1e-4)
    assert "secret" not in str(meta).lower()


def test_every_slice_has_its_own_rescale(tmp_path: Path) -> None:
    series = CtSeries(per_slice_rescale=True).write(tmp_path)
    values = load(tmp_path).array[0]
    for k in range(series.slices):  # stored integers: exact to half a slope
        np.testing.assert_allclose(values[:, :, k].T, series.hu(k), atol=(1 + k) / 2)


def test_monochrome1_is_flagged_and_its_values_stay(tmp_path: Path) -> None:
    CtSeries(photometric="MONOCHROME1").write(tmp_path)
    volume = load(tmp_path)
    assert volume.meta["display_inverted"] is True
    assert volume.array[0][MARK] == MARK_HU


def _deflate(path: Path) -> None:
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(path)


BROKEN = {
    "gap": (CtSeries(missing=(3,)), r"evenly spaced.*6\.000 mm instead of 3\.000 mm.*46\.00 to 52\.00"),
    "two gaps": (CtSeries(slices=9, missing=(2, 6)), r"2 uneven step"),
    "duplicate": (
        CtSeries(duplicate=2),
        r"own position.*1 duplicate.*im\d+b?\.dcm and im\d+b?\.dcm at 46\.00",
    ),
    "tilt": (CtSeries(tilt_mm=0.5), r"a tilt of 9\.5 degrees"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_irregular_stack_is_refused_and_named(tmp_path: Path, case: str) -> None:
    series, words = BROKEN[case]
    series.write(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(tmp_path)
    assert "secret" not in str(caught.value).lower()


def test_a_missing_position_and_a_sideways_slice_are_named(tmp_path: Path) -> None:
    CtSeries().write(tmp_path)
    victim = sorted(tmp_path.iterdir())[1]
    position = dcmread(victim).ImagePositionPatient
    edit(victim, ImagePositionPatient=[position[0] + 2.0, position[1], position[2]])
    with pytest.raises(InputError, match=r"straight line|tilt"):
        read_volume(tmp_path)
    edit(victim, ImagePositionPatient=None)
    with pytest.raises(InputError, match=f"{victim.name} without valid position"):
        read_volume(tmp_path)


def test_a_step_within_tolerance_is_measured(tmp_path: Path) -> None:
    CtSeries(step=2.999).write(tmp_path)
    for path in tmp_path.iterdir():
        edit(path, SliceThickness=5, SpacingBetweenSlices=1)
    assert np.linalg.norm(load(tmp_path).affine[:3, 2]) == pytest.approx(2.999, abs=1e-5)


def test_two_series_are_listed_and_chosen(tmp_path: Path) -> None:
    first = CtSeries(series_number=4).write(tmp_path, "a")
    second = CtSeries(series_number=7, orientation="coronal", slices=4, modality="MR").write(tmp_path, "b")
    with pytest.raises(InputError, match=r"#1: series 4, CT, 6 × 8×9, axial; #2: series 7, MR, 4 × 8×9, coronal"):
        read_volume(tmp_path)
    for choice in (second.uid, second.uid[-8:], "7", 7, "#2", "2"):
        assert read_volume(tmp_path, series=choice).meta["modality"] == "MR"
    assert read_volume(tmp_path, series="4").shape[-1] == first.slices
    for choice, words in (("9", "fits none"), (first.uid[:4], "fits 2"), ("#3", "fits none")):
        with pytest.raises(InputError, match=words):
            read_volume(tmp_path, series=choice)
    assert [(s.number, s.series_number, s.images) for s in list_series(tmp_path)] == [(1, 4, 6), (2, 7, 4)]


def test_mixed_sizes_in_one_series_are_listed(tmp_path: Path) -> None:
    CtSeries(seed=1).write(tmp_path, "a")
    CtSeries(seed=1, rows=11, origin=(0.0, 0.0, 90.0)).write(tmp_path, "b")
    with pytest.raises(InputError, match=r"2 groups.*8×9.*8×11"):
        read_volume(tmp_path, series=None)


def test_what_is_no_slice_is_left_out_and_counted(tmp_path: Path) -> None:
    CtSeries().write(tmp_path / "deep" / "er")
    CtSeries(slices=3, series_number=1).write(tmp_path, "x")
    scout, segmentation, report = sorted(tmp_path.glob("x*"))
    edit(scout, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    edit(segmentation, SOPClassUID=SegmentationStorage)
    edit(report, Rows=None, Columns=None, PixelData=None)
    (tmp_path / "notes.txt").write_text("hello")
    CtSeries(slices=1).write(tmp_path, "deflated")
    broken = next(tmp_path.glob("deflated*"))
    _deflate(broken)
    broken.write_bytes(broken.read_bytes()[:-200] + b"\xff" * 200)
    volume = load(tmp_path)
    assert volume.array.shape[-1] == 6
    assert sorted(volume.meta["reader_warnings"]) == [
        "left out: 1 × DICOM object without an image",
        f"left out: 1 × damaged DICOM file ({broken.name})",
        "left out: 1 × derived object (segmentation or dose)",
        "left out: 1 × file that is not DICOM",
        "left out: 1 × localizer",
    ]


def test_a_single_file_is_one_slice_in_its_place(tmp_path: Path) -> None:
    series = CtSeries().write(tmp_path)
    path = sorted(tmp_path.iterdir())[0]
    volume = load(path)
    position = np.array([float(x) for x in dcmread(path).ImagePositionPatient]) * [-1, -1, 1]
    assert volume.array.shape == (1, 8, 9, 1)
    np.testing.assert_allclose(volume.affine[:3, 3], position)
    assert np.linalg.norm(volume.affine[:3, 2]) == pytest.approx(series.step)
    assert volume.meta["is_2d"] is False


def test_a_projection_has_no_place_but_a_spacing(tmp_path: Path) -> None:
    CtSeries(slices=1).write(tmp_path)
    path = next(tmp_path.iterdir())
    edit(path, ImageOrientationPatient=None, ImagePositionPatient=None)
    volume = load(path)
    assert volume.meta["is_2d"] is True
    np.testing.assert_allclose(np.diag(volume.affine), [-0.5, -0.7, 1, 1])
    edit(path, PixelSpacing=[0, 0])
    assert "one pixel counts as one millimetre" in load(path).meta["reader_warnings"][1]
    edit(path, ImagerPixelSpacing=[0.2, 0.1])
    volume = load(path)
    np.testing.assert_allclose(np.diag(volume.affine), [-0.1, -0.2, 1, 1])
    assert "detector" in volume.meta["reader_warnings"][1]


def test_colour_becomes_rgb(tmp_path: Path) -> None:
    CtSeries(slices=1, rows=2, columns=2).write(tmp_path)
    path = next(tmp_path.iterdir())
    pixels = np.arange(12, dtype=np.uint8) * 20
    edit(
        path,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PixelData=pixels.tobytes(),
    )
    volume = load(path)
    assert volume.meta["is_rgb"] is True
    np.testing.assert_allclose(volume.array[:, 1, 0, 0], [60, 80, 100])  # column 1 of row 0


def test_frames_that_are_claimed_but_not_there_are_refused(tmp_path: Path) -> None:
    CtSeries(slices=1).write(tmp_path)
    path = next(tmp_path.iterdir())
    edit(path, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=4)
    with pytest.raises(InputError, match="must hold pixel data"):
        read_volume(path)
    edit(path, NumberOfFrames=2**30)
    with pytest.raises(InputError, match="fit in 4 GiB"):
        read_volume(path)


def test_pixels_that_cannot_be_decoded_name_the_file_and_the_syntax(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CtSeries(slices=1).write(tmp_path)
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    edit(path, PixelData=b"\0\0")
    with pytest.raises(InputError, match=rf"{path.name} must hold pixel data.*Explicit VR Little Endian"):
        read_volume(path)
    path.write_bytes(whole[:-40])  # truncated in the pixels
    with pytest.raises(InputError, match=path.name):
        read_volume(path)
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = JPEGLSLossless
    from pydicom.encaps import encapsulate

    ds.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    monkeypatch.setattr(dicom_pixels, "has_decoder", lambda syntax: False)
    with pytest.raises(InputError, match=r"JPEG-LS.*pip install 'headclip-med\[dicom\]'"):
        read_volume(path)
    monkeypatch.undo()
    assert dicom_pixels.has_decoder(RLELossless)


def test_a_deflated_bomb_is_refused_before_it_inflates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headclip_med.reading import archive as module

    CtSeries(slices=1).write(tmp_path)
    path = next(tmp_path.iterdir())
    _deflate(path)
    assert load(path).array.shape == (1, 8, 9, 1)
    monkeypatch.setattr(module, "MAX_INFLATED_BYTES", 300)
    with pytest.raises(InputError, match="decompression bomb"):
        read_volume(path)


def test_odd_values_are_noted_without_quoting_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    CtSeries(slices=1).write(tmp_path)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes().replace(b"1.2.826.0.1", b"1.2.secret1"))
    volume = load(path)
    assert volume.meta["reader_warnings"][0].startswith("pydicom: Invalid value for VR UI")
    assert "secret" not in str(volume.meta["reader_warnings"]) + caplog.text


def test_a_folder_without_images_and_a_constant_series(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must contain DICOM images"):
        read_volume(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match="1 × file that is not DICOM"):
        read_volume(tmp_path)
    folder = tmp_path / "flat"
    CtSeries(slices=3).write(folder)
    for path in folder.iterdir():
        edit(path, PixelData=bytes(8 * 9 * 2))
    with pytest.raises(InputError, match="every voxel is -1024"):
        read_volume(folder)


def test_the_philips_series_of_the_shared_data() -> None:
    folder = _shared("ct_philips")
    volume = load(folder)
    assert volume.array.shape == (1, 512, 512, 28)
    assert np.linalg.norm(volume.affine[:3, 2]) == pytest.approx(5.0, abs=1e-3)
    assert volume.meta["reader_warnings"] == ["left out: 1 × DICOMDIR"]
    files = [str(path) for path in (folder / "S21570" / "S2010").glob("I*")]
    ordered = sorted(files, key=lambda path: float(dcmread(path).ImagePositionPatient[2]))
    image = sitk.ReadImage(ordered)
    np.testing.assert_array_equal(volume.array[0].T, sitk.GetArrayFromImage(image))
    lps = np.array(image.TransformIndexToPhysicalPoint((10, 400, 20)))
    assert (volume.affine @ [10, 400, 20, 1])[:3] == pytest.approx(lps * [-1, -1, 1], abs=1e-2)


@pytest.mark.parametrize("folder", ["pydicom_data", "mr_enhanced"])
def test_every_odd_file_is_read_or_refused_in_words(folder: str) -> None:
    read, messages = 0, []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in sorted(p for p in _shared(folder).rglob("*") if p.is_file()):
            try:
                volume = load(path)
            except InputError as problem:
                messages.append((path.name, str(problem)))
            else:
                assert volume.array.dtype == np.float32
                assert np.isfinite(volume.array).all()
                read += 1
    assert all(name in message for name, message in messages)
    assert read >= {"pydicom_data": 35, "mr_enhanced": 4}[folder]
    assert len(messages) >= {"pydicom_data": 5, "mr_enhanced": 1}[folder]


@pytest.mark.parametrize("syntax", ["JPEGBaseline8Bit", "JPEG2000", "JPEG2000Lossless", "JPEGLSLossless"])
def test_gdcm_decodes_only_what_nothing_else_does(syntax: str) -> None:
    """A damaged JPEG 2000 frame ended the process inside GDCM, and the whole cohort with it."""
    from pydicom import uid

    from headclip_med.reading.dicom.pixels import _plugins

    chosen = _plugins(getattr(uid, syntax))
    assert chosen
    assert "gdcm" not in chosen
    assert set(_plugins(uid.JPEGLosslessSV1)) <= {"gdcm"}
    assert _plugins(uid.ExplicitVRLittleEndian) == ("",)
