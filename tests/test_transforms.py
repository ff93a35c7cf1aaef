"""The steps as MONAI dictionary transforms, in a pipeline that anyone would write."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd, SaveImaged
from oracle import oracle_engine
from test_engine import CENTRE_MM, GRIDS, sphere

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
        from monai.data import MetaTensor

        volume = MetaTensor(array[None], affine=affine)
        cut = CutSlicesd("image", plane="coronal")
        back = cut.inverse(cut({"image": volume}))["image"]
        np.testing.assert_array_equal(back.numpy(), array[None])
