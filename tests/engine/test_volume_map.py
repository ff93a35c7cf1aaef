"""Findings and volume scores, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from affines import affine_of

from headclip_med.engine.volume_map import find_components, fuse_planes, smooth_along, volume_score

AFFINE = affine_of(("L", "P", "S"))  # x = 11 − i, y = −7 − 2j, z = 5 + 3k; 6 mm³ a voxel


def test_findings_by_hand() -> None:
    volume = np.zeros((6, 6, 6), np.float32)
    volume[1, 2, 3], volume[2, 3, 4] = 0.6, 0.9  # touch at a corner: one finding with 26-connectivity
    volume[5, 5, 0] = 0.7
    first, second = find_components(volume, AFFINE, 0.5, axis=2)
    assert (first.label, first.voxels, first.volume_mm3) == (1, 2, pytest.approx(12))
    assert first.peak == pytest.approx(0.9)
    assert first.mean == pytest.approx(0.75)
    assert first.peak_mm == (9, -13, 17)
    assert first.extent_mm == (2, 4, 6)
    assert (first.voxel_min, first.voxel_max, first.slices) == ((1, 2, 3), (2, 3, 4), (3, 4))
    np.testing.assert_allclose(first.centroid_mm, [11 - 1.6, -7 - 2 * 2.6, 5 + 3 * 3.6], rtol=1e-6)
    assert (second.label, second.peak_mm) == (2, (6, -17, 5))


def test_the_threshold_itself_counts_and_an_empty_map_has_no_findings() -> None:
    volume = np.zeros((3, 3, 3), np.float32)
    assert find_components(volume, AFFINE, 0.5, 0) == ()
    volume[1, 1, 1] = 0.5
    assert len(find_components(volume, AFFINE, 0.5, 0)) == 1


@pytest.mark.parametrize(
    ("scores", "expected"), [([], 0.0), ([0.3], 0.3), ([0.1] * 38 + [0.9, 0.7], 0.8), ([0.2, 0.8], 0.8)]
)
def test_volume_score_by_hand(scores: list[float], expected: float) -> None:
    assert volume_score(scores) == pytest.approx(expected)


def test_fusion_is_the_mean_and_leaves_its_inputs_alone() -> None:
    a, b = np.full((2, 2, 2), 0.2, np.float32), np.full((2, 2, 2), 0.6, np.float32)
    np.testing.assert_allclose(fuse_planes([a, b]), 0.4)
    assert a[0, 0, 0] == np.float32(0.2)


def test_smoothing_spreads_in_millimetres() -> None:
    volume = np.zeros((1, 1, 41), np.float32)
    volume[0, 0, 20] = 1
    smooth = smooth_along(volume, 2, AFFINE, 6.0)[0, 0]  # 3 mm steps: σ of two voxels
    assert smooth[20] == pytest.approx(1 / np.sqrt(2 * np.pi) / 2, rel=0.01)
    assert smooth_along(volume, 2, AFFINE, 0.0) is volume
