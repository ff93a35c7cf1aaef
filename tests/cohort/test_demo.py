"""The demo: a known lesion on a known grid, through the normal path, with honest numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from headclip_med.base.geometry import check_affine, voxel_to_world, voxel_volume
from headclip_med.cohort import demo
from headclip_med.cohort.demo import LESION, dice, run_demo
from headclip_med.engine.engine import Engine
from headclip_med.engine.load import load_engine
from headclip_med.training.synthetic import TRAINING_SEED_LIMIT


@pytest.fixture(scope="module")
def engine(tiny_pack: Path) -> Engine:
    return load_engine(tiny_pack, device="cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same head and lesion on a coarser grid, so that a run takes a second."""
    monkeypatch.setattr(demo, "SHAPE", (48, 54, 42))
    monkeypatch.setattr(demo, "SPACING_MM", 4.0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 1, 0, 0], [0, 1, 1, 0], 0.5),  # 2·1 / (2 + 2)
        ([1, 0, 0, 0], [1, 1, 1, 0], 0.5),  # 2·1 / (1 + 3)
        ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
        ([1, 0, 0, 0], [0, 0, 0, 1], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),
    ],
)
def test_dice_by_hand(a: list[int], b: list[int], expected: float) -> None:
    assert dice(np.array(a), np.array(b)) == expected


def test_the_volume_was_never_trained_on_and_lies_lps_and_oblique() -> None:
    assert demo.SEED >= 2_000_000 > TRAINING_SEED_LIMIT
    phantom = demo.demo_phantom()
    assert nib.aff2axcodes(phantom.affine) == ("L", "P", "S")
    assert np.count_nonzero(np.abs(phantom.affine[:3, :3]) > 0.1) > 3  # oblique: more than one entry per axis
    check_affine(phantom.affine, "the demo")
    middle = (np.array(phantom.array.shape) - 1) / 2
    assert voxel_to_world(phantom.affine, middle) == pytest.approx([0, 0, 0], abs=1e-9)


def test_the_lesion_lies_where_it_is_said_to_lie() -> None:
    phantom = demo.demo_phantom()
    centre = voxel_to_world(phantom.affine, np.argwhere(phantom.truth)).mean(axis=0)
    assert centre == pytest.approx(LESION.centre_mm, abs=1.5)
    planned = 4 / 3 * np.pi * np.prod(LESION.radii_mm)
    assert phantom.truth.sum() * voxel_volume(phantom.affine) == pytest.approx(planned, rel=0.25)


def test_the_demo_runs_the_normal_path_and_measures_what_it_wrote(tmp_path: Path, engine: Engine) -> None:
    outcome = run_demo(tmp_path / "out", engine)
    assert sorted(outcome.files) == ["map", "mask", "preview", "report", "result", "truth", "volume"]
    assert all(path.is_file() for path in outcome.files.values())
    truth, mask = (np.asarray(nib.load(outcome.files[kind]).dataobj) for kind in ("truth", "mask"))
    volume, volume_map = (nib.load(outcome.files[kind]) for kind in ("volume", "map"))
    np.testing.assert_allclose(volume_map.affine, volume.affine, atol=1e-6)
    np.testing.assert_allclose(volume.affine, demo.demo_affine(), atol=1e-5)
    assert outcome.dice == dice(mask, truth)
    assert outcome.lesion_volume_mm3 == pytest.approx(truth.sum() * 64.0)  # 4 mm voxels
    record = json.loads(outcome.files["result"].read_text())
    assert outcome.case.pred_score == record["pred_score"]
    assert outcome.threshold == record["threshold"] == 0.5


def test_a_perfect_detector_gets_a_perfect_demo(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = engine.finish

    def perfect(case: Any) -> Any:
        case.threshold = (0.001, "for a finding")
        result = genuine(case)
        truth = demo.demo_phantom().truth.astype(np.float32)[None]
        finding = replace(result.findings[0], centroid_mm=LESION.centre_mm)
        volume_map = replace(result.volume_map, array=truth)
        return replace(result, volume_map=volume_map, threshold=0.5, findings=(finding,))

    monkeypatch.setattr(engine, "finish", perfect)
    outcome = run_demo(tmp_path, engine)
    assert outcome.dice == 1.0
    assert outcome.found_mm == LESION.centre_mm
    assert outcome.distance_mm == pytest.approx(np.linalg.norm(np.subtract(outcome.lesion_mm, LESION.centre_mm)))
    assert outcome.distance_mm < 1.5
