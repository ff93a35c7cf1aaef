"""The main job: a lesion at known millimetres comes out at the same millimetres, whatever the grid."""

from __future__ import annotations

import weakref
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, SpatialCropd
from oracle import BrightnessDetector, oracle_engine
from PIL import Image
from spheres import (
    CENTRE_MM,
    GRIDS,
    RADIUS_MM,
    sphere,
)

from headclip_med.base.errors import CancelledError, InputError, ModelError
from headclip_med.base.geometry import slice_centres, slice_frame, spacing, voxel_to_world
from headclip_med.detectors import SliceBatch
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.slicing.scan import Scan
from headclip_med.writing import write_result
from headclip_med.writing.record import load_result


@pytest.mark.parametrize("grid", GRIDS)
def test_a_lesion_comes_out_at_its_millimetres_in_map_findings_and_on_disk(grid: str, tmp_path: Path) -> None:
    array, affine = sphere(grid)
    source = tmp_path / "scan.nii.gz"
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.to_filename(source)
    result = oracle_engine().predict(source, threshold=0.6)

    assert result.map_array.shape == array.shape
    np.testing.assert_allclose(result.affine, affine, atol=1e-6)
    (finding,) = result.findings
    voxel = float(spacing(affine).max())
    np.testing.assert_allclose(finding.centroid_mm, CENTRE_MM, atol=0.25 * voxel)
    true_volume = 4 / 3 * np.pi * RADIUS_MM**3
    assert finding.volume_mm3 == pytest.approx(true_volume, rel=0.2)
    assert finding.volume_mm3 == pytest.approx(finding.voxels * abs(np.linalg.det(affine[:3, :3])))

    best = max(result.slices, key=lambda s: s.score)
    assert finding.slices[0] <= best.index <= finding.slices[1]

    (tmp_path / "out").mkdir()
    paths = write_result(result, tmp_path / "out")
    on_disk = nib.load(paths["map"])
    np.testing.assert_allclose(on_disk.affine, nib.load(source).affine, atol=1e-6)
    np.testing.assert_allclose(np.asarray(on_disk.dataobj), result.map_array)
    mask = np.asarray(nib.load(paths["mask"]).dataobj) > 0
    centre = voxel_to_world(on_disk.affine, np.argwhere(mask).mean(axis=0))
    np.testing.assert_allclose(centre, CENTRE_MM, atol=0.3 * voxel)
    record, *_ = load_result(tmp_path / "out")
    np.testing.assert_allclose(record.findings[0].centroid_mm, finding.centroid_mm)


def test_the_same_head_on_all_grids_gives_the_same_millimetres() -> None:
    centroids = [oracle_engine().predict(*_as_array(grid), threshold=0.6).findings[0].centroid_mm for grid in GRIDS]
    assert np.ptp(np.array(centroids), axis=0).max() < 1.0


def _as_array(grid: str):
    array, affine = sphere(grid)
    return (MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine)),)


@pytest.mark.parametrize("grid", ["oblique", "sagittal"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "all"])
def test_every_plane_finds_the_lesion(grid: str, plane: str) -> None:
    array, affine = sphere(grid)
    result = oracle_engine().predict(array, affine=affine, plane=plane, threshold=0.55)
    assert result.planes == (("axial", "coronal", "sagittal") if plane == "all" else (plane,))
    np.testing.assert_allclose(result.findings[0].centroid_mm, CENTRE_MM, atol=2)


def test_default_plane_is_the_acquisition_plane_and_said() -> None:
    array, affine = sphere("sagittal")
    result = oracle_engine().predict(array, affine=affine)
    assert result.planes == ("sagittal",)
    assert result.provenance["plane_reason"] == "largest voxel spacing"
    assert not result.warnings


def test_background_slices_never_reach_the_tower_and_score_zero() -> None:
    array, affine = sphere("RAS")
    detector = BrightnessDetector()
    result = oracle_engine(detector).predict(array, affine=affine)
    empty = [k for k in range(array.shape[2]) if not array[:, :, k].any()]
    assert empty
    assert all(result.slices[k].background and result.slices[k].score == 0 for k in empty)
    assert sum(detector.batches) == sum(not s.background for s in result.slices) < array.shape[2]
    assert result.map_array[:, :, empty].max() == 0


def test_a_dark_lesion_inside_the_head_still_counts_as_patient() -> None:
    """Intensity alone calls it background; holes of a slice's foreground are filled."""
    array, affine = sphere("RAS")
    i, j, k = (int(n) for n in np.round(np.linalg.inv(affine) @ [0, 0, 0, 1])[:3])
    array[i - 3 : i + 4, j - 3 : j + 4, k] = 0
    spec = Preprocessing(64, (0.5,) * 3, (0.5,) * 3)
    source = Scan(array[None], array > 0, affine, [(0, 100)], spec)
    inside = source.inside(slice_frame(affine, "axial"), [k])
    assert inside.sum() == (array[:, :, k] > 0).sum() + 49


def test_volume_score_is_the_mean_of_the_top_five_percent_of_slices() -> None:
    array, affine = sphere("RAS")
    result = oracle_engine().predict(array, affine=affine)
    scores = sorted((s.score for s in result.slices if not s.background), reverse=True)
    top = max(1, round(0.05 * len(scores)))
    assert result.pred_score == pytest.approx(np.mean(scores[:top]))


def test_batch_size_changes_nothing() -> None:
    array, affine = sphere("anisotropic")
    one, many = (oracle_engine(batch_size=n).predict(array, affine=affine) for n in (1, 7))
    np.testing.assert_array_equal(one.map_array, many.map_array)
    assert one.slices == many.slices


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    array, affine = sphere("RAS")
    detector = BrightnessDetector(memory=3)
    engine = oracle_engine(detector, batch_size=16)
    result = engine.predict(array, affine=affine)
    np.testing.assert_array_equal(result.map_array, oracle_engine().predict(array, affine=affine).map_array)
    assert max(detector.batches) == 2
    assert engine.batch_size == result.provenance["batch_size"] == 2
    assert not [w for w in engine.predict(array, affine=affine).warnings if "memory" in w], "remembered for later cases"
    assert [w for w in result.warnings if "out of memory" in w] == [
        f"out of memory on cpu: batch size lowered to {n}" for n in (8, 4, 2)
    ]


def test_one_slice_too_big_for_the_device_is_said_in_words() -> None:
    array, affine = sphere("RAS")
    with pytest.raises(ModelError, match="One slice must fit the memory"):
        oracle_engine(BrightnessDetector(memory=0)).predict(array, affine=affine)


def test_progress_counts_slices_and_cancel_stops() -> None:
    array, affine = sphere("RAS")
    seen: list[tuple[int, int]] = []
    oracle_engine(batch_size=5).predict(array, affine=affine, progress=lambda done, total: seen.append((done, total)))
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("after", [0, 1, 3])
def test_cancel_is_asked_before_every_batch(after: int) -> None:
    array, affine = sphere("RAS")
    detector, asked = BrightnessDetector(), []

    def cancel() -> bool:
        asked.append(1)
        return len(asked) > after

    with pytest.raises(CancelledError, match="stopped by the caller"):
        oracle_engine(detector).predict(array, affine=affine, cancel=cancel)
    assert len(detector.batches) == after
    result = oracle_engine().predict(array, affine=affine, cancel=lambda: False)
    assert result.pred_score > 0


def test_no_more_than_one_batch_of_pixels_is_alive_at_a_time() -> None:
    """Memory grows with the maps and nothing else, however many slices there are."""
    alive, most = set(), []

    class Watching(BrightnessDetector):
        def score(self, pixels: torch.Tensor, valid: torch.Tensor | None = None) -> SliceBatch:
            key = object()
            alive.add(key)
            weakref.finalize(pixels, alive.discard, key)
            most.append(len(alive))
            return super().score(pixels, valid)

    array, affine = sphere("RAS")
    oracle_engine(Watching(), batch_size=2).predict(array, affine=affine)
    assert len(most) > 10
    assert max(most) <= 2


@pytest.mark.parametrize("smooth_mm", [-1.0, float("nan"), float("inf"), 1e9])
def test_smoothing_beyond_the_volume_is_refused(smooth_mm: float) -> None:
    array, affine = sphere("RAS")
    with pytest.raises(InputError, match="must lie between 0 mm and the volume's 104 mm"):
        oracle_engine().predict(array, affine=affine, smooth_mm=smooth_mm)


def test_smoothing_along_the_normal_is_in_millimetres() -> None:
    array, affine = sphere("anisotropic")
    plain = oracle_engine().predict(array, affine=affine, smooth_mm=0)
    smooth = oracle_engine().predict(array, affine=affine, smooth_mm=5)
    assert smooth.map_array.max() < plain.map_array.max()
    assert smooth.map_array.sum() == pytest.approx(plain.map_array.sum(), rel=0.02)


def test_three_sequences_become_three_channels(tmp_path: Path) -> None:
    array, affine = sphere("RAS")
    paths = []
    for i in range(3):
        nib.Nifti1Image(array * (i + 1), affine).to_filename(tmp_path / f"s{i}.nii.gz")
        paths.append(tmp_path / f"s{i}.nii.gz")
    result = oracle_engine().predict(paths, threshold=0.6)
    assert result.volume.shape[0] == 3
    np.testing.assert_allclose(result.findings[0].centroid_mm, CENTRE_MM, atol=0.5)


def test_neighbouring_slices_become_channels(tmp_path: Path) -> None:
    """2.5-D: the oracle's map is the mean of three slices 4 mm apart, so a thin lesion fades to a third."""
    array = np.full((20, 20, 30), 100, np.float32)
    array[8:12, 8:12, 15] = 400
    affine = np.diag([1.0, 1, 4, 1])
    plain, spread = (oracle_engine().predict(array, affine=affine, channels=c) for c in ("repeat", "neighbours"))
    low, high = plain.display_window
    bright, dim = (400 - low) / (high - low), (100 - low) / (high - low)
    assert plain.map_array[10, 10, 15] == pytest.approx(min(bright, 1), abs=0.02)
    assert spread.map_array[10, 10, 15] == pytest.approx((min(bright, 1) + 2 * max(dim, 0)) / 3, abs=0.02)
    assert spread.map_array[10, 10, 14] == pytest.approx(spread.map_array[10, 10, 15], abs=0.02)
    assert spread.map_array[10, 10, 13] == pytest.approx(max(dim, 0), abs=0.02)
    with pytest.raises(InputError, match="Channels must be one of repeat, neighbours"):
        oracle_engine().predict(array, affine=affine, channels="both")  # type: ignore[arg-type]


def test_monochrome1_scores_as_its_monochrome2_twin_and_keeps_its_stored_values() -> None:
    array, affine = sphere("RAS")
    volume = MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine))
    plain = oracle_engine().predict(volume)
    stored = MetaTensor(volume.max() - volume, affine=volume.affine, meta={"display_inverted": True})
    inverted = oracle_engine().predict(stored)
    np.testing.assert_allclose(inverted.map_array, plain.map_array, atol=1e-4)
    np.testing.assert_array_equal(inverted.volume.numpy()[0], array.max() - array)


def test_a_plain_picture_goes_through(tmp_path: Path) -> None:
    """Columns run to the left and rows to the back, one pixel to the millimetre."""
    picture = np.full((40, 60, 3), 60, np.uint8)
    picture[10:20, 30:45] = [250, 240, 245]
    Image.fromarray(picture).save(tmp_path / "polyp.png")
    result = oracle_engine().predict(tmp_path / "polyp.png", threshold=0.6)
    assert result.map_array.shape == (60, 40, 1)
    assert len(result.slices) == 1
    assert result.pred_score == result.slices[0].score
    np.testing.assert_allclose(result.findings[0].centroid_voxel, (37, 14.5, 0), atol=0.5)
    assert (result.findings[0].centroid_mm, result.findings[0].volume_mm3) == (None, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"plane": "axal"}, "A plane must be one of axial, coronal, sagittal or all; given: axal"),
        ({"domain": "brain-mr"}, "Did you mean brain-mri"),
        ({"window": "brian"}, "A window must be"),
        ({"threshold": 1.5}, "between 0 and 1; given: 1.5"),
    ],
)
def test_wrong_options_are_refused_in_words(options: dict, words: str) -> None:
    array, affine = sphere("RAS")
    with pytest.raises(InputError, match=words):
        oracle_engine().predict(array, affine=affine, **options)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 4), np.float32), "must contain an image; given: every voxel is 0"),
        (np.full((4, 4, 4), np.nan, np.float32), "finite; given: 64 NaN"),
        (np.zeros((0, 4, 4), np.float32), "not empty"),
        (np.ones((4, 4), np.float32), r"shape \(C, I, J, K\)"),
    ],
)
def test_arrays_without_an_image_are_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        oracle_engine().predict(array, affine=np.eye(4))


def test_an_array_needs_its_affine() -> None:
    with pytest.raises(InputError, match="must come with its affine"):
        oracle_engine().predict(np.ones((4, 4, 4), np.float32))


def test_hounsfield_values_without_a_modality_are_not_guessed_silently() -> None:
    array, affine = sphere("RAS")
    result = oracle_engine().predict(np.where(array > 0, array, -1000).astype(np.float32), affine=affine)
    assert any("values look like CT" in warning for warning in result.warnings)


def acquired(plane: str = "axial") -> MetaTensor:
    """A volume that knows its acquired slices, as the DICOM reader gives it."""
    array, affine = sphere("RAS")
    axis = {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    centres = slice_centres(affine, array.shape, axis)  # type: ignore[arg-type]
    meta = {
        "slice_uids": [f"1.2.{i}" for i in range(len(centres))],
        "slice_positions": centres.tolist(),
        "slice_normal": np.eye(3)[axis].tolist(),
    }
    return MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine), meta=meta)


def test_acquired_slices_keep_their_uids_through_flips_and_crops() -> None:
    volume = acquired()
    uids = [s.uid for s in oracle_engine().predict(volume).slices]
    assert uids == volume.meta["slice_uids"]
    crop = SpatialCropd("v", roi_start=(4, 4, 6), roi_end=(40, 44, 40))
    flipped = Compose([Flipd("v", 2), crop])({"v": volume})["v"]
    assert [s.uid for s in oracle_engine().predict(flipped).slices] == uids[::-1][6:40]


def test_uids_of_acquired_slices_do_not_land_on_slices_of_other_planes() -> None:
    result = oracle_engine().predict(acquired(), plane="coronal")
    assert {s.uid for s in result.slices} == {None}


def test_the_plane_of_the_source_is_the_default() -> None:
    assert oracle_engine().predict(acquired("coronal")).planes == ("coronal",)


def test_several_planes_score_the_mean_of_their_volume_scores() -> None:
    array, affine = sphere("anisotropic")
    each = [oracle_engine().predict(array, affine=affine, plane=p).pred_score for p in ("axial", "coronal", "sagittal")]
    assert oracle_engine().predict(array, affine=affine, plane="all").pred_score == pytest.approx(np.mean(each))


def test_a_ct_array_can_say_so_and_a_files_own_window_is_used_and_said() -> None:
    array, affine = sphere("RAS")
    hu = np.where(array > 0, array - 60, -1000).astype(np.float32)
    result = oracle_engine().predict(hu, affine=affine, modality="CT")
    assert result.display_window == (0, 80)
    volume = MetaTensor(torch.from_numpy(hu)[None], affine=torch.from_numpy(affine), meta={"modality": "CT"})
    volume.meta["default_window"] = [50.0, 350.0]
    result = oracle_engine().predict(volume)
    assert result.display_window == (-125, 225)
    assert any("the file's own window 50/350 is used" in w for w in result.warnings)


def test_an_array_of_colours_is_windowed_as_a_picture() -> None:
    array = np.random.default_rng(0).integers(0, 255, (3, 24, 20, 1)).astype(np.uint8)
    options = {"affine": np.diag([-1.0, -1, 1, 1]), "plane": "axial"}
    assert oracle_engine().predict(array, is_rgb=True, **options).display_window == (0, 255)
    assert oracle_engine().predict(array, **options).display_window != (0, 255)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (123, {}, "The source must be a path"),
        ([np.ones((4, 4, 4))], {}, "The source must be a path"),
        ("scan.nii.gz", {"affine": np.eye(4)}, "with an array only"),
        (np.ones((4, 4, 4)), {"affine": "x"}, "4×4 matrix of numbers"),
        (np.array([["a"]]), {"affine": np.eye(4)}, "real numbers"),
        (np.ones((4, 4, 4), complex), {"affine": np.eye(4)}, "real numbers"),
        (MetaTensor(torch.rand(3, 8, 8)), {}, r"shape \(C, I, J, K\); given: \(3, 8, 8\)"),
        (MetaTensor(torch.rand(1, 8, 8, 8), meta={"space": "LPS"}), {}, "must lead to RAS mm; given: space LPS"),
    ],
    ids=["number", "arrays", "path-affine", "affine-text", "text", "complex", "2-D", "LPS"],
)
def test_odd_sources_are_refused_in_words(source: object, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        oracle_engine().predict(source, **options)  # type: ignore[arg-type]


def test_pending_lazy_operations_are_refused() -> None:
    array, affine = sphere("RAS")
    volume = MetaTensor(torch.from_numpy(array)[None], affine=torch.from_numpy(affine))
    pending = Flipd("v", 0, lazy=True)({"v": volume})["v"]
    with pytest.raises(InputError, match="no pending lazy operations"):
        oracle_engine().predict(pending)


@pytest.mark.parametrize(("plane", "window"), [(3, None), (None, 40), (None, (1, 2, 3))])
def test_options_of_the_wrong_kind_are_refused(plane: object, window: object) -> None:
    array, affine = sphere("RAS")
    with pytest.raises(InputError, match="must be"):
        oracle_engine().predict(array, affine=affine, plane=plane, window=window)  # type: ignore[arg-type]


def test_a_reversed_view_of_an_array_is_an_array() -> None:
    array, affine = sphere("RAS")
    result = oracle_engine().predict(array[::-1], affine=affine)
    np.testing.assert_array_equal(result.volume.numpy()[0], array[::-1])
