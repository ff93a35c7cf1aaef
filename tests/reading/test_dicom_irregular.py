"""DICOM series that are no regular grid, under every policy; geometry against the known truth and dcm2niix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_oracles import assert_same, dcm2niix
from dicom_series import MARK, MARK_HU, CtSeries, edit, write_enhanced
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from headclip_med.base import names as choices
from headclip_med.base.errors import InputError
from headclip_med.reading import LoadedVolume, list_series, load, read_volume
from headclip_med.reading.dicom import decode as dicom_decode
from headclip_med.reading.dicom import pixels as dicom_pixels
from headclip_med.reading.dicom.grid import POLICIES

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _check_truth(volume: LoadedVolume, series: CtSeries, slices: dict[int, int]) -> None:
    """Every slice ``{k of the array: k of the truth}`` is exactly the source's, at its place to 1e-3 mm."""
    for k, true in slices.items():
        np.testing.assert_array_equal(volume.array[0, :, :, k].T, series.hu(true))
        for corner in ((0, 0), (series.columns - 1, series.rows - 1)):
            expected = TO_RAS @ series.lps_affine @ [*corner, true, 1]
            np.testing.assert_allclose(volume.affine @ [*corner, k, 1], expected, atol=1e-3)


def _said(volume: LoadedVolume) -> str:
    return "; ".join(volume.meta["reader_warnings"])


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "oblique"])
def test_keep_puts_empty_slices_where_positions_are_missing(tmp_path: Path, orientation: str) -> None:
    series = CtSeries(orientation=orientation, slices=9, missing=(3, 6, 7)).write(tmp_path)
    with pytest.raises(InputError, match=r"3 missing slice.*--on-irregular.*split.*resample.*keep \(empty slices"):
        load(tmp_path)
    volume = load(tmp_path, on_irregular="keep")
    assert volume.array.shape == (1, 8, 9, 9)
    _check_truth(volume, series, {k: k for k in range(9) if k not in series.missing})
    assert [k for k, uid in enumerate(volume.meta["slice_uids"]) if not uid] == [3, 6, 7]
    assert [k for k, file in enumerate(volume.meta["slice_files"]) if not file] == [3, 6, 7]
    assert (volume.array[..., [3, 6, 7]] == volume.array.min()).all()
    np.testing.assert_allclose(volume.meta["empty_positions"], np.array(volume.meta["slice_positions"])[[3, 6, 7]])
    assert "3 missing slice(s) are empty: never scored" in _said(volume)


def test_every_slice_is_the_pixel_matrix_of_its_file(tmp_path: Path) -> None:
    CtSeries(orientation="oblique", slices=7, missing=(4,)).write(tmp_path)
    meta = (volume := load(tmp_path, on_irregular="keep")).meta
    for k, (file, uid, frame) in enumerate(
        zip(meta["slice_files"], meta["slice_uids"], meta["slice_frames"], strict=True)
    ):
        if file:
            ds = dcmread(file)
            assert (ds.SOPInstanceUID, frame) == (uid, 0)
            np.testing.assert_array_equal(volume.array[0, :, :, k].T, ds.pixel_array + int(ds.RescaleIntercept))
            np.testing.assert_allclose(
                (volume.affine @ [0, 0, k, 1])[:3], np.array(ds.ImagePositionPatient) * [-1, -1, 1], atol=1e-3
            )
    assert len(meta["slice_files"]) == volume.array.shape[3] == 7
    assert read_volume(tmp_path, on_irregular="keep").meta["slice_files"] == meta["slice_files"]


def test_resample_leaves_wide_gaps_empty_and_says_so(tmp_path: Path) -> None:
    series = CtSeries(slices=8, missing=(4,)).write(tmp_path)
    volume = load(tmp_path, on_irregular="resample")
    assert volume.array.shape[3] == 8
    _check_truth(volume, series, {k: k for k in range(8) if k != 4})
    assert volume.meta["resampled"] is True
    assert len(volume.meta["slice_files"]) == 7
    assert np.array(volume.meta["empty_positions"]).shape == (1, 3)
    assert "resampled onto a regular grid of 3.000 mm" in _said(volume)


def test_resample_interpolates_uneven_steps(tmp_path: Path) -> None:
    series = CtSeries(slices=6, places=(0.0, 1.0, 2.2, 3.4, 4.0, 5.0)).write(tmp_path)
    with pytest.raises(InputError, match=r"different lengths.*split.*resample.*keep \(slice by slice"):
        load(tmp_path)
    volume = load(tmp_path, on_irregular="resample")
    assert volume.array.shape[3] == 6
    np.testing.assert_allclose(volume.affine, TO_RAS @ series.lps_affine, atol=1e-3)
    np.testing.assert_array_equal(volume.array[0, :, :, 1].T, series.hu(1))
    np.testing.assert_allclose(volume.array[0, :, :, 2].T, series.hu(1) / 6 + series.hu(2) * 5 / 6, atol=1e-3)


def test_keep_of_uneven_steps_keeps_every_slice_and_its_true_place(tmp_path: Path) -> None:
    series = CtSeries(slices=5, places=(0.0, 1.0, 2.0, 3.5, 5.7)).write(tmp_path)
    volume = load(tmp_path, on_irregular="keep")
    assert volume.array.shape[3] == 5
    for k, place in enumerate(series.places):
        np.testing.assert_array_equal(volume.array[0, :, :, k].T, series.hu(k))
        centre = (TO_RAS @ series.lps_affine @ [3.5, 4.0, place, 1])[:3]
        np.testing.assert_allclose(volume.meta["slice_positions"][k], centre, atol=1e-3)
    assert volume.meta["uneven"] is True
    assert "approximate (mean step 4.275 mm, from 3.000 to 6.600 mm)" in _said(volume)


def test_split_takes_the_largest_stretch_and_lists_all(tmp_path: Path) -> None:
    series = CtSeries(slices=10, missing=(3,)).write(tmp_path)
    volume = load(tmp_path, on_irregular="split")
    _check_truth(volume, series, dict(enumerate(range(4, 10))))
    assert "split into 2 regular stretches, the largest was read: #2" in _said(volume)
    assert [info.images for info in list_series(tmp_path, "split")] == [3, 6]
    assert [info.images for info in list_series(tmp_path)] == [9]
    first = load(tmp_path, on_irregular="split", series="#1")
    _check_truth(first, series, {0: 0, 1: 1, 2: 2})


def test_stretches_of_two_steps(tmp_path: Path) -> None:
    CtSeries(slices=8, places=(0.0, 0.5, 1.0, 1.5, 2.0, 4.0, 6.0, 8.0)).write(tmp_path)
    assert [info.images for info in list_series(tmp_path, "split")] == [5, 3]
    volume = load(tmp_path, on_irregular="split", series="#2")
    assert np.linalg.norm(volume.affine[:3, 2]) == pytest.approx(6.0, abs=1e-3)


def test_a_tilt_is_kept_in_the_affine(tmp_path: Path) -> None:
    series = CtSeries(tilt_mm=0.5, orientation="oblique").write(tmp_path)
    with pytest.raises(InputError, match=r"tilt of 9\.5 degrees.*--on-irregular.*resample.*keep \(a sheared volume\)"):
        load(tmp_path)
    with pytest.raises(InputError, match="tilt"):
        load(tmp_path, on_irregular="split")
    volume = load(tmp_path, on_irregular="keep")
    _check_truth(volume, series, {k: k for k in range(6)})
    assert volume.meta["sheared"] is True
    normal = np.cross(series.lps_affine[:3, 0], series.lps_affine[:3, 1])
    normal = normal / np.linalg.norm(normal) * [-1, -1, 1]
    np.testing.assert_allclose(volume.meta["slice_normal"], normal, atol=1e-6)


@pytest.mark.parametrize("tilt_mm", [0.5, -0.5, 0.3])
def test_a_tilt_is_resampled_to_an_orthogonal_grid(tmp_path: Path, tilt_mm: float) -> None:
    series = CtSeries(tilt_mm=tilt_mm).write(tmp_path)  # columns are 0.5 mm apart
    volume = load(tmp_path, on_irregular="resample")
    cosines = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=1e-6)
    expected = series.mark_ras
    found = np.argwhere(volume.array[0] == volume.array[0].max())
    at = (volume.affine @ [*found[0], 1])[:3]
    assert at == pytest.approx(expected, abs=1e-3 if abs(tilt_mm) == 0.5 else 0.5)
    if abs(tilt_mm) == 0.5:  # whole pixels: nothing is interpolated, nothing is lost
        assert volume.array.shape == (1, 8 + 5, 9, 6)
        assert volume.array[0][tuple(found[0])] == MARK_HU
        low = 5 if tilt_mm < 0 else 0
        for k in range(6):
            start = low + k * int(np.sign(tilt_mm))
            np.testing.assert_array_equal(volume.array[0, start : start + 8, :, k].T, series.hu(k))


def test_gaps_in_a_tilted_series_are_kept_with_the_tilt(tmp_path: Path) -> None:
    series = CtSeries(slices=8, tilt_mm=0.5, missing=(2, 5)).write(tmp_path)
    volume = load(tmp_path, on_irregular="keep")
    _check_truth(volume, series, {k: k for k in range(8) if k not in series.missing})
    assert len(volume.meta["empty_positions"]) == 2


def test_a_sideways_slice_is_resampled_or_split_off(tmp_path: Path) -> None:
    CtSeries(slices=6).write(tmp_path)
    by_place = sorted(tmp_path.iterdir(), key=lambda path: float(dcmread(path).ImagePositionPatient[2]))
    x, y, z = dcmread(by_place[3]).ImagePositionPatient
    edit(by_place[3], ImagePositionPatient=[x + 1.0, y, z])
    with pytest.raises(InputError, match=r"straight line.*split.*resample"):
        load(tmp_path, on_irregular="keep")
    assert load(tmp_path, on_irregular="resample").array.shape == (1, 10, 9, 6)
    assert load(tmp_path, on_irregular="split").array.shape[3] == 3


def test_a_stray_slice_far_away_is_no_volume_of_nothing(tmp_path: Path) -> None:
    CtSeries(slices=5, places=(0.0, 1.0, 2.0, 3.0, 5000.0)).write(tmp_path)
    with pytest.raises(InputError, match=r"4996 missing slices.*Choose on_irregular=.*split"):
        load(tmp_path, on_irregular="keep")
    assert load(tmp_path, on_irregular="split").array.shape[3] == 4


def test_copies_are_dropped_and_counted(tmp_path: Path) -> None:
    CtSeries(duplicate=2, twin_differs=False).write(tmp_path / "pixels")
    volume = load(tmp_path / "pixels")
    assert volume.array.shape[3] == 6
    assert "left out: 1 × copy of another slice (same place, same pixels)" in _said(volume)
    series = CtSeries().write(tmp_path / "uid" / "a")
    series.write(tmp_path / "uid" / "b")
    assert "left out: 6 × copy of another file (same SOPInstanceUID)" in _said(load(tmp_path / "uid"))


TWINS = {
    "echo": ("EchoTime", (4.6, 9.2), "echo time 9.2"),
    "echo number": ("EchoNumbers", (1, 2), "echo 2"),
    "phase": ("TemporalPositionIdentifier", (1, 2), "phase 2"),
    "b-value": ("DiffusionBValue", (0.0, 1000.0), "b-value 1000.0"),
    "acquisition": ("AcquisitionNumber", (1, 2), "acquisition 2"),
    "type": ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), "type ORIGINAL/PRIMARY/P"),
}


@pytest.mark.parametrize("case", TWINS)
def test_volumes_in_one_place_are_told_apart(tmp_path: Path, case: str) -> None:
    keyword, values, label = TWINS[case]
    _write_twins(tmp_path, [{keyword: value} for value in values])
    with pytest.raises(InputError, match="2 groups"):
        load(tmp_path)
    infos = list_series(tmp_path)
    assert [info.images for info in infos] == [6, 6]
    assert infos[1].label == label
    assert load(tmp_path, series="#2").array.shape == (1, 8, 9, 6)


def _write_twins(folder: Path, tags: list[dict[str, object]]) -> None:
    """The same slices once for each of ``tags``, with UIDs of their own."""
    for number, own in enumerate(tags):
        CtSeries().write(folder, f"part{number}_")
        for n, path in enumerate(sorted(folder.glob(f"part{number}_*"))):
            edit(path, SOPInstanceUID=f"1.2.3.{number}.{n}", **own)


def test_times_of_their_own_are_ranked_within_a_place(tmp_path: Path) -> None:
    _write_twins(tmp_path, [{}, {}, {}])
    for n, path in enumerate(sorted(tmp_path.iterdir())):
        edit(path, TriggerTime=float(n))
    infos = list_series(tmp_path)
    assert [(info.images, info.label) for info in infos] == [(6, f"trigger {n}") for n in (1, 2, 3)]


def test_enhanced_frames_become_a_volume_in_its_place(tmp_path: Path) -> None:
    series = write_enhanced(CtSeries(orientation="oblique", per_slice_rescale=False), tmp_path / "ct.dcm")
    volume = load(tmp_path / "ct.dcm")
    _check_truth(volume, series, {k: k for k in range(6)})
    meta = volume.meta
    assert sorted(meta["slice_frames"]) == list(range(6))
    assert len(set(meta["slice_files"])) == len(set(meta["slice_uids"])) == 1
    frames = dcmread(tmp_path / "ct.dcm").pixel_array
    for k, frame in enumerate(meta["slice_frames"]):
        np.testing.assert_array_equal(volume.array[0, :, :, k].T, frames[frame] - 1024.0)


def test_enhanced_frames_have_their_own_rescale_and_gaps(tmp_path: Path) -> None:
    series = write_enhanced(CtSeries(per_slice_rescale=True, slices=5, missing=(2,)), tmp_path / "ct.dcm")
    volume = load(tmp_path / "ct.dcm", on_irregular="keep")
    for k in (0, 1, 3, 4):
        np.testing.assert_allclose(volume.array[0, :, :, k].T, series.hu(k), atol=(1 + k) / 2)
    assert volume.meta["slice_uids"][2] == ""


def test_echoes_of_an_enhanced_object_are_groups(tmp_path: Path) -> None:
    series = write_enhanced(CtSeries(modality="MR"), tmp_path / "mr.dcm", echoes=(4.6, 9.2))
    with pytest.raises(InputError, match=r"2 groups.*echo time 4\.6.*echo time 9\.2"):
        load(tmp_path / "mr.dcm")
    first, second = (load(tmp_path / "mr.dcm", series=f"#{n}") for n in (1, 2))
    np.testing.assert_array_equal(first.array[0, :, :, 3].T, series.hu(3))
    np.testing.assert_array_equal(second.array, first.array + 1000)
    assert first.meta["content_sha256"] != second.meta["content_sha256"]


def test_a_cine_is_a_stack_of_pictures_or_one_of_them(tmp_path: Path) -> None:
    CtSeries(slices=1, rows=4, columns=5).write(tmp_path)
    path = next(tmp_path.iterdir())
    frames = np.arange(3 * 4 * 5, dtype="<i2").reshape(3, 4, 5)
    edit(path, NumberOfFrames=3, PixelData=frames.tobytes(), ImagePositionPatient=None, RescaleIntercept=0)
    volume = load(path)
    assert volume.array.shape == (1, 5, 4, 3)
    assert volume.meta["is_2d"] is True
    assert volume.meta["slice_frames"] == [0, 1, 2]
    np.testing.assert_array_equal(load(path, time=2).array[0, :, :, 0].T, frames[2])
    with pytest.raises(InputError, match="between 0 and 2"):
        load(path, time=3)


def test_padding_becomes_background(tmp_path: Path) -> None:
    CtSeries().write(tmp_path)
    for path in tmp_path.iterdir():
        ds = dcmread(path)
        pixels = ds.pixel_array.copy()
        pixels[0, :3] = 3000
        pixels[1, 0] = 3004
        ds.PixelData = pixels.tobytes()
        ds.add_new("PixelPaddingValue", "SS", 3000)
        ds.add_new("PixelPaddingRangeLimit", "SS", 3005)
        ds.save_as(path)
    volume = load(tmp_path)
    assert f"{6 * 4} pixels hold the padding value and are read as background" in _said(volume)
    assert (volume.array[0, :3, 0, :] == volume.array.min()).all()
    assert volume.array[0, 0, 1, 0] == volume.array.min()
    assert volume.array[0][MARK] == MARK_HU
    assert volume.array.min() >= -100  # of the values that are left


def _damage(folder: Path, place: int) -> Path:
    """Cut off the pixels of the slice at ``place``."""
    by_place = sorted(folder.iterdir(), key=lambda path: float(dcmread(path).ImagePositionPatient[2]))
    by_place[place].write_bytes(by_place[place].read_bytes()[:-60])
    return by_place[place]


def test_a_damaged_slice_is_named_and_left_to_the_policy(tmp_path: Path) -> None:
    series = CtSeries(slices=7).write(tmp_path)
    victim = _damage(tmp_path, 4)
    with pytest.raises(InputError, match=rf"{victim.name} must hold pixel data.*--on-irregular keep") as caught:
        load(tmp_path)
    assert str(caught.value).count("--on-irregular") == 1
    kept = load(tmp_path, on_irregular="keep")
    _check_truth(kept, series, {k: k for k in range(7) if k != 4})
    assert kept.meta["slice_uids"][4] == kept.meta["slice_files"][4] == ""
    assert f"1 damaged slice(s), empty slices in their place: {victim.name}" in _said(kept)
    cut = load(tmp_path, on_irregular="split")
    _check_truth(cut, series, {k: k for k in range(4)})
    resampled = load(tmp_path, on_irregular="resample")
    _check_truth(resampled, series, {k: k for k in range(7) if k != 4})
    assert len(resampled.meta["slice_files"]) == 6
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError, match="must hold pixel data"):
        load(tmp_path, on_irregular="keep")


def test_damage_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CtSeries(slices=7).write(tmp_path)
    _damage(tmp_path, 2)
    _damage(tmp_path, 4)
    monkeypatch.setattr(dicom_decode, "_MOST_WASTED_SECONDS", 0.0)
    with pytest.raises(InputError, match=r"in reasonable time; given: 1 damaged slices"):
        load(tmp_path, on_irregular="keep")


PLACELESS = {
    "position": {"ImagePositionPatient": None},
    "orientation": {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
    "pixel spacing": {"PixelSpacing": [0, 0]},
}


@pytest.mark.parametrize("what", PLACELESS)
def test_an_image_without_a_place_is_left_out_where_a_policy_allows_it(tmp_path: Path, what: str) -> None:
    series = CtSeries(slices=7).write(tmp_path)
    by_place = sorted(tmp_path.iterdir(), key=lambda path: float(dcmread(path).ImagePositionPatient[2]))
    edit(by_place[2], **PLACELESS[what])
    with pytest.raises(InputError, match=f"{by_place[2].name} without valid {what}.*--on-irregular keep"):
        load(tmp_path)
    volume = load(tmp_path, on_irregular="keep")
    _check_truth(volume, series, {k: k for k in range(7) if k != 2})
    assert f"left out: 1 × image without a place, first {by_place[2].name}" in _said(volume)


def test_an_unknown_policy_is_refused(tmp_path: Path) -> None:
    CtSeries().write(tmp_path)
    with pytest.raises(InputError, match=r"must be one of error, split, resample, keep; given: squeeze"):
        load(tmp_path, on_irregular="squeeze")


def test_the_command_line_offers_the_policies() -> None:
    assert choices.IRREGULAR == POLICIES


CONVERTED = {
    "axial": CtSeries(),
    "sagittal": CtSeries(orientation="sagittal"),
    "coronal": CtSeries(orientation="coronal"),
    "oblique": CtSeries(orientation="oblique"),
    "constant InstanceNumber": CtSeries(instance_numbers="ones"),
    "MONOCHROME1": CtSeries(photometric="MONOCHROME1"),
    "single slice": CtSeries(slices=1),
}


@pytest.mark.parametrize("case", [*CONVERTED, "enhanced"])
def test_geometry_equals_dcm2niix(tmp_path: Path, case: str) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    if case == "enhanced":
        write_enhanced(CtSeries(orientation="oblique"), source / "ct.dcm")
    else:
        CONVERTED[case].write(source)
    image = dcm2niix(source, out)
    assert_same(load(source), np.asarray(image.dataobj), image.affine)


@pytest.mark.parametrize(
    ("syntax", "frames", "words"),
    [
        (ExplicitVRLittleEndian, 200_000, r"200000 frames in \d+ bytes"),
        (ExplicitVRLittleEndian, 200, r"2048 bytes of pixels where the header says 409600"),
        (JPEGBaseline8Bit, 200_000, r"200000 frames in \d+ bytes"),
        (JPEGBaseline8Bit, 300, r"\d+ bytes of compressed pixels where the header says 300 frames"),
    ],
)
def test_a_header_that_claims_frames_without_end_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str, frames: int, words: str
) -> None:
    """Each claimed frame was tried and its failure kept: seven seconds and 90 MB for five kilobytes."""
    CtSeries(slices=1, rows=32, columns=32).write(tmp_path)
    path = next(tmp_path.iterdir())
    dataset = dcmread(path)
    del dataset.ImageOrientationPatient
    dataset.NumberOfFrames = frames
    if syntax == JPEGBaseline8Bit:
        dataset.PixelData = encapsulate([bytes(2000)])
        dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    monkeypatch.setattr(dicom_pixels, "pixel_array", lambda *_, **__: pytest.fail("a frame was tried"))
    with pytest.raises(InputError, match=words):
        load(path, on_irregular="keep")
