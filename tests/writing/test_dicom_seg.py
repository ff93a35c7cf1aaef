"""DICOM segmentations, read back by highdicom, dcmqi and pydicom, and judged by dciodvfy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import torch
from dicom_results import complete_series, dcmqi_segments, map_by_source, on_grid, result_of, validation_errors
from dicom_series import edit
from monai.data import MetaTensor
from monai.transforms import Orientation
from pydicom import dcmread

from headclip_med.base.errors import InputError, OutputError
from headclip_med.base.geometry import voxel_to_world, world_to_voxel
from headclip_med.engine.result import AnomalyResult
from headclip_med.engine.volume_map import find_components
from headclip_med.reading import load_volume, read_volume
from headclip_med.writing.dicom.frames import MOST_SEGMENTS, segment_volume
from headclip_med.writing.dicom.objects import write_dicom
from headclip_med.writing.dicom.options import DicomOptions

SERIES = {
    "axial": {},
    "sagittal": {"orientation": "sagittal"},
    "coronal": {"orientation": "coronal"},
    "oblique": {"orientation": "oblique"},
    "inverted": {"photometric": "MONOCHROME1"},
    "rescaled": {"per_slice_rescale": True},
    "single": {"slices": 1},
}


def written(path: Path, result: AnomalyResult, kind: str, **options: bool) -> Path:
    path.mkdir(exist_ok=True)
    return write_dicom(result, path, [kind], DicomOptions(**options))[kind]


def by_source(path: Path, result: AnomalyResult) -> np.ndarray:
    """Segment numbers ``(I, J, K)`` by the source instance that every frame says it was made from."""
    dataset = dcmread(path)
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    out = np.zeros(result.map_array.shape, dtype=np.uint8)
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        of = groups if "SegmentIdentificationSequence" in groups else shared
        number = of.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        uid = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        k = result.meta["slice_uids"].index(uid)
        out[:, :, k][frame.T > 0] = number
    return out


@pytest.mark.parametrize("kind", SERIES)
def test_findings_come_back_voxel_by_voxel(tmp_path: Path, kind: str) -> None:
    complete_series(tmp_path / "in", **SERIES[kind])
    result = result_of(tmp_path / "in")
    path = written(tmp_path / "out", result, "seg")
    expected = segment_volume(result)
    assert {1, 2} <= set(np.unique(expected)) or kind == "single"
    assert validation_errors(path) == []
    np.testing.assert_array_equal(by_source(path, result), expected)
    segments = dcmqi_segments(path, tmp_path / "dcmqi")
    assert set(segments) == {finding.label for finding in result.findings}
    for number, (array, affine) in segments.items():
        np.testing.assert_array_equal(on_grid(array, affine, result) > 0, expected == number)


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "oblique"])
def test_highdicom_fits_findings_onto_the_source(tmp_path: Path, orientation: str) -> None:
    complete_series(tmp_path / "in", orientation=orientation)
    result = result_of(tmp_path / "in")
    segmentation = hd.seg.segread(written(tmp_path / "out", result, "seg"))
    source = hd.get_volume_from_series([dcmread(path) for path in (tmp_path / "in").iterdir()])
    fitted = segmentation.get_volume(combine_segments=True).match_geometry(source)
    index = np.argwhere(fitted.array)
    lps = index @ fitted.affine[:3, :3].T + fitted.affine[:3, 3]
    place = np.round(world_to_voxel(result.affine, lps * [-1, -1, 1])).astype(int)
    found = np.zeros(result.map_array.shape, dtype=np.uint8)
    found[tuple(place.T)] = fitted.array[fitted.array > 0]
    np.testing.assert_array_equal(found, segment_volume(result))


def test_direction_cosines_of_few_digits_are_made_unit_vectors(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", orientation="oblique")
    for path in (tmp_path / "in").iterdir():
        edit(path, ImageOrientationPatient=[round(float(v), 4) for v in dcmread(path).ImageOrientationPatient])
    result = result_of(tmp_path / "in")
    segmentation = hd.seg.segread(written(tmp_path / "out", result, "seg"))
    cosines = segmentation.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    np.testing.assert_allclose(
        np.linalg.norm(np.reshape(np.array(cosines, dtype=float), (2, 3)), axis=1), 1, atol=1e-12
    )
    everything = hd.seg.segread(written(tmp_path / "all", result, "seg", keep_empty_frames=True))
    own = segmentation.get_volume(combine_segments=True)
    np.testing.assert_array_equal(
        own.match_geometry(everything.get_volume(combine_segments=True)).array,
        everything.get_volume(combine_segments=True).array,
    )


def test_a_map_is_kept_within_half_of_a_255th(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", orientation="oblique")
    result = result_of(tmp_path / "in")
    path = written(tmp_path / "out", result, "segscore")
    assert validation_errors(path) == []
    segmentation = hd.seg.segread(path)
    assert segmentation.segmentation_fractional_type.value == "PROBABILITY"
    frames = segmentation.get_pixels_by_source_instance(list(result.meta["slice_uids"]), rescale_fractional=True)
    np.testing.assert_allclose(frames[..., 0].transpose(2, 1, 0), result.map_array, atol=0.5 / 255 + 1e-6)
    array, affine = dcmqi_segments(path, tmp_path / "dcmqi")[1]
    stored = np.round(result.map_array * 255)
    values = on_grid(array, affine, result)
    assert (values > 0).sum() == (stored > 0).sum()


def test_nothing_found_is_an_empty_segment(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    result = result_of(tmp_path / "in", np.full((8, 9, 6), 0.1, dtype=np.float32))
    path = written(tmp_path / "out", result, "seg")
    assert validation_errors(path) == []
    segmentation = hd.seg.segread(path)
    assert segmentation.SegmentSequence[0].SegmentLabel == "No finding"
    assert segmentation.pixel_array.sum() == 0
    score = written(tmp_path / "out", result_of(tmp_path / "in", np.zeros((8, 9, 6), dtype=np.float32)), "segscore")
    assert validation_errors(score) == []


def test_empty_frames_are_kept_on_request(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    result = result_of(tmp_path / "in")
    assert dcmread(written(tmp_path / "out", result, "seg")).NumberOfFrames == 4  # 3 slices of one, 1 of the other
    path = written(tmp_path / "out", result, "seg", keep_empty_frames=True)
    assert dcmread(path).NumberOfFrames == 12
    assert validation_errors(path) == []
    np.testing.assert_array_equal(by_source(path, result), segment_volume(result))


def test_more_findings_than_segments_share_the_last_one(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", rows=24, columns=20)
    amap = np.zeros((20, 24, 6), dtype=np.float32)
    amap[::2, ::2, ::2] = np.random.default_rng(0).uniform(0.6, 1, (10, 12, 3))
    result = result_of(tmp_path / "in", amap)
    assert len(result.findings) == 360
    path = written(tmp_path / "out", result, "seg")
    segmentation = hd.seg.segread(path)
    assert segmentation.number_of_segments == MOST_SEGMENTS + 1
    last = segmentation.SegmentSequence[-1]
    assert last.SegmentLabel.startswith("310 further findings")
    assert "310 findings" in last.SegmentDescription
    np.testing.assert_array_equal(by_source(path, result) > 0, amap > 0.5)
    assert validation_errors(path) == []


def test_a_segment_says_what_found_it(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    result = result_of(tmp_path / "in")
    segmentation = hd.seg.segread(written(tmp_path / "out", result, "seg"))
    first, second = segmentation.SegmentSequence
    assert first.SegmentLabel == "Finding 1, score 0.90"
    assert "Research use only" in first.SegmentDescription
    assert first.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "headclip-med"
    assert "model=tiny" in algorithm.AlgorithmParameters
    assert "weights_sha256=abab" in algorithm.AlgorithmParameters
    assert first.TrackingUID != second.TrackingUID


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAR", "IPL"])
def test_a_volume_turned_by_a_transform_still_fits_its_source(tmp_path: Path, codes: str) -> None:
    series = complete_series(tmp_path / "in", orientation="oblique")
    turned = Orientation(axcodes=codes, labels=None)(read_volume(tmp_path / "in"))
    amap = np.zeros(turned.shape[1:], dtype=np.float32)
    place = np.round(world_to_voxel(np.asarray(turned.affine), series.mark_ras)).astype(int)
    amap[tuple(place)] = 0.9
    base = result_of(tmp_path / "in")
    result = replace(
        base,
        volume=turned,
        volume_map=MetaTensor(torch.from_numpy(amap[None]), meta=dict(turned.meta)),
        findings=find_components(amap, np.asarray(turned.affine), 0.5, 2),
    )
    expected = np.zeros(base.map_array.shape, dtype=np.uint8)
    expected[3, 5, 2] = 1  # dicom_series.MARK
    np.testing.assert_array_equal(by_source(written(tmp_path / "out", result, "seg"), base), expected)


def test_a_resampled_volume_is_taken_at_the_source_pixels(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    volume = load_volume(tmp_path / "in")
    affine = volume.affine.copy()
    affine[:3, :3] /= 2  # twice as many voxels in every direction, the first ones at the same place
    fine = replace(
        volume,
        array=np.kron(volume.array, np.ones((1, 2, 2, 2), dtype=np.float32)),
        affine=affine,
        meta={**volume.meta, "resampled": True},
    )
    ramp = np.linspace(0, 0.8, 12, dtype=np.float32) * np.ones((16, 18, 12), dtype=np.float32)
    ramp[4:9, 6:9, 2:5] = 0.95
    result = result_of(fine, ramp, threshold=0.9)
    path = written(tmp_path / "out", result, "pm")
    source = result_of(volume, ramp[::2, ::2, ::2].copy(), threshold=0.9)
    np.testing.assert_allclose(map_by_source(path, source), source.map_array, atol=1e-6)
    np.testing.assert_array_equal(by_source(written(tmp_path / "out", result, "seg"), source), segment_volume(source))


def test_an_irregular_stack_gets_a_frame_per_source_image(tmp_path: Path) -> None:
    complete_series(tmp_path / "in", slices=8, tilt_mm=0.9)
    files = sorted((tmp_path / "in").iterdir(), key=lambda path: float(dcmread(path).ImagePositionPatient[2]))
    for path in files[2:4]:
        path.unlink()  # a gap in a tilted stack
    kept = [dcmread(path) for path in [*files[:2], *files[4:]]]
    volume = load_volume(complete_and_return(tmp_path / "regular"))
    meta = {
        **volume.meta,
        "slice_files": [str(path) for path in [*files[:2], *files[4:]]],
        "slice_uids": [str(dataset.SOPInstanceUID) for dataset in kept],
        "slice_frames": [0] * 6,
    }
    result = result_of(replace(volume, meta=meta))
    path = written(tmp_path / "out", result, "seg", keep_empty_frames=True)
    assert validation_errors(path) == []
    np.testing.assert_array_equal(by_source(path, result), segment_volume(result))
    places = {
        tuple(float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient)
        for groups in dcmread(path).PerFrameFunctionalGroupsSequence
    }
    assert places == {tuple(float(v) for v in dataset.ImagePositionPatient) for dataset in kept}


def complete_and_return(folder: Path) -> Path:
    complete_series(folder)
    return folder


def test_an_inserted_empty_slice_has_no_source(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    volume = load_volume(tmp_path / "in")
    meta = {**volume.meta}
    for keyword in ("slice_files", "slice_uids"):
        meta[keyword] = [*meta[keyword][:2], "", *meta[keyword][3:]]
    path = written(tmp_path / "out", result_of(replace(volume, meta=meta)), "pm")
    assert dcmread(path).NumberOfFrames == 5


def test_a_source_that_changed_or_is_gone_is_refused(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    result = result_of(tmp_path / "in")
    first = next((tmp_path / "in").iterdir())
    edit(first, SOPInstanceUID="1.2.3")
    with pytest.raises(InputError, match=f"another image in {first.name}"):
        written(tmp_path / "out", result, "seg")
    first.unlink()
    with pytest.raises(InputError, match=f"no {first.name}"):
        written(tmp_path / "out", result, "seg")


def test_a_volume_that_knows_no_source_is_refused(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    volume = load_volume(tmp_path / "in")
    bare = replace(volume, meta={k: v for k, v in volume.meta.items() if k != "slice_files"})
    with pytest.raises(OutputError, match="knows its source images"):
        written(tmp_path / "out", result_of(bare), "seg")
    other = replace(volume, meta={**volume.meta, "source_format": "nifti"})
    with pytest.raises(OutputError, match="made from a DICOM source; given: nifti"):
        written(tmp_path / "out", result_of(other), "seg")


def test_two_images_in_one_place_are_refused(tmp_path: Path) -> None:
    complete_series(tmp_path / "in")
    volume = load_volume(tmp_path / "in")
    first, second = (Path(file) for file in volume.meta["slice_files"][:2])
    edit(first, ImagePositionPatient=list(dcmread(second).ImagePositionPatient))
    with pytest.raises(OutputError, match="own position"):
        written(tmp_path / "out", result_of(volume), "seg")


def test_the_mark_keeps_its_millimetres(tmp_path: Path) -> None:
    series = complete_series(tmp_path / "in", orientation="oblique")
    amap = np.zeros((8, 9, 6), dtype=np.float32)
    amap[3, 5, 2] = 0.9
    path = written(tmp_path / "out", result_of(tmp_path / "in", amap), "seg")
    array, affine = dcmqi_segments(path, tmp_path / "dcmqi")[1]
    np.testing.assert_allclose(voxel_to_world(affine, np.argwhere(array)[0]), series.mark_ras, atol=1e-3)
