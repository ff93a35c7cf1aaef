"""The steps as MONAI dictionary transforms, in a pipeline that anyone would write."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd, SaveImaged
from oracle import oracle_engine
from test_engine import CENTRE_MM, GRIDS, sphere

from headclip_med.errors import InputError
from headclip_med.transforms import AnomalyMapd, CutSlicesd, DetectSlicesd, ToPixelsd, WindowIntensityd


@pytest.fixture(params=["LPS", "oblique", "sagittal"])
def scan(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    array, affine = sphere(request.param)
    nib.Nifti1Image(array, affine).to_filename(tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def load() -> list:
    return [LoadImaged("image", reader="headclip_med.reading.NiftiReader"), EnsureChannelFirstd("image")]


def test_load_orient_engine_invert_save_gives_the_sources_own_grid(scan: Path, tmp_path: Path) -> None:
    before = Compose([*load(), Orientationd("image", "RAS", labels=None)])
    after = Compose(
        [
            AnomalyMapd("image", model=oracle_engine(), threshold=0.6),
            Invertd("anomaly_map", transform=before, orig_keys="image"),
            SaveImaged("anomaly_map", output_dir=tmp_path / "out", resample=False, print_log=False),
        ]
    )
    out = after(before({"image": scan}))
    source = nib.load(scan)
    (saved,) = (nib.load(p) for p in (tmp_path / "out").rglob("*.nii.gz"))
    assert saved.shape == source.shape
    np.testing.assert_allclose(saved.affine, source.affine, atol=1e-5)
    mask = np.asarray(saved.dataobj) >= 0.6
    centre = nib.affines.apply_affine(saved.affine, np.argwhere(mask).mean(axis=0))
    np.testing.assert_allclose(centre, CENTRE_MM, atol=1.0)
    np.testing.assert_allclose(out["anomaly_map_result"].findings[0].centroid_mm, CENTRE_MM, atol=1.0)


def test_step_by_step_equals_the_engine(scan: Path) -> None:
    engine = oracle_engine()
    mean, std = engine._detectors["any"].tower.mean, engine._detectors["any"].tower.std
    steps = Compose([*load(), WindowIntensityd("image"), CutSlicesd("image"), ToPixelsd("image", 64, mean, std)])
    ready = steps({"image": scan})
    out = Compose([DetectSlicesd("image", model=engine), Invertd("anomaly_map", transform=steps, orig_keys="image")])(
        ready
    )
    result = engine.predict(scan)
    inside = result.map_array > 0
    np.testing.assert_allclose(out["anomaly_map"].numpy()[0][inside], result.map_array[inside], atol=1e-6)
    np.testing.assert_allclose(out["anomaly_map"].affine, result.affine, atol=1e-6)
    assert out["anomaly_map_scores"].shape == (len(result.slices),)


def test_cut_slices_there_and_back() -> None:
    for name in GRIDS:
        array, affine = sphere(name)
        volume = MetaTensor(array[None], affine=affine)
        cut = CutSlicesd("image", plane="coronal")
        back = cut.inverse(cut({"image": volume}))["image"]
        np.testing.assert_array_equal(back.numpy(), array[None])


def scan_of(array: np.ndarray, affine: np.ndarray | None = None, **meta: object) -> MetaTensor:
    return MetaTensor(array.astype(np.float32), affine=np.eye(4) if affine is None else affine, meta=dict(meta))


def test_a_plain_image_is_cut_as_the_engine_cuts_it_whatever_plane_is_asked_for() -> None:
    image = scan_of(np.random.default_rng(0).random((1, 12, 10, 1)), is_2d=True)
    cut = CutSlicesd("image", plane="coronal")({"image": image})["image"]
    assert cut.shape == (1, 1, 10, 12)
    assert cut.meta["plane_reason"] == "a 2-D image has one plane"


def test_a_single_sagittal_slice_is_not_cut_into_strips() -> None:
    volume = scan_of(np.random.default_rng(0).random((1, 1, 12, 10)))
    cut = CutSlicesd("image")({"image": volume})["image"]
    assert cut.shape == (1, 1, 10, 12)
    assert cut.meta["plane_reason"] == "a single slice"


def test_ct_without_a_window_gets_the_brain_window_and_says_so() -> None:
    """Brain 40/80: 0 HU is black, 40 HU mid grey, 80 HU white; the warning of an earlier step stays."""
    hu = np.array([-1000.0, 0, 40, 80, 1000]).reshape(1, 5, 1, 1)
    out = WindowIntensityd("image")({"image": scan_of(hu, modality="CT", reader_warnings=["first"])})["image"]
    assert out.numpy().ravel().tolist() == [0, 0, 0.5, 1, 1]
    first, said = out.meta["reader_warnings"]
    assert first == "first"
    assert "brain window 40/80" in said
    bone = WindowIntensityd("image", window="bone")({"image": scan_of(hu, modality="CT")})["image"]
    assert bone.numpy().ravel()[3] == pytest.approx((80 + 800) / 2800)
    assert "reader_warnings" not in bone.meta


def test_monochrome1_is_windowed_as_monochrome2() -> None:
    rng = np.random.default_rng(0)
    mono2 = rng.integers(0, 6, (1, 24, 24, 24)).astype(float)
    mono2[0, 6:18, 6:18, 6:18] = rng.integers(60, 120, (12, 12, 12))
    step = WindowIntensityd("image")
    one = step({"image": scan_of(4095 - mono2, modality="MR", display_inverted=True)})["image"]
    two = step({"image": scan_of(mono2, modality="MR")})["image"]
    np.testing.assert_allclose(one.numpy(), two.numpy(), atol=1e-5)
    assert two.numpy()[0, 0].max() == 0  # air is below the patient's darkest voxels


def test_a_wrong_window_or_plane_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="A window must be one of"):
        WindowIntensityd("image", window="brian")
    with pytest.raises(InputError, match="A plane must be one of"):
        CutSlicesd("image", plane="oblique")({"image": scan_of(np.arange(8.0).reshape(1, 2, 2, 2))})
