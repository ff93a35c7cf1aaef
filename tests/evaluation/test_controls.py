"""A control knows one trivial thing, and the same image always gets the same map."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy.special import expit, logit
from small_cases import write_volume

from headclip_med import read_volume
from headclip_med.base import names as choices
from headclip_med.base.errors import InputError
from headclip_med.evaluation.controls import CONTROLS, make_control

EDGE, LENGTH = 32, 64
BRIGHT = np.broadcast_to((np.arange(LENGTH) >= EDGE)[:, None, None], (LENGTH, 6, 2))
INSIDE = np.ones(BRIGHT.shape, dtype=bool)


def step(*levels: tuple[float, float]) -> np.ndarray:
    """``(C, 64, 6, 2)``: a dark and a bright half, of the two levels of each channel; the edge lies before row 32."""
    return np.stack([np.where(BRIGHT, bright, dark) for dark, bright in levels]).astype(np.float32)


def test_the_shell_offers_every_control() -> None:
    assert tuple(CONTROLS) == choices.CONTROLS


def test_intensity_of_two_halves_is_one_standard_deviation_to_either_side() -> None:
    found = CONTROLS["intensity"](step((10, 30)), INSIDE, 2)
    np.testing.assert_allclose(found, np.where(BRIGHT, expit(1.0), expit(-1.0)), atol=1e-6)
    mean = CONTROLS["intensity"](step((10, 30), (50, 30)), INSIDE, 2)  # 30 in both halves
    np.testing.assert_allclose(mean, 0.5)


def test_redness_of_two_halves_is_the_share_of_red() -> None:
    """60 / (60 + 20 + 19 + 1) = 0.6 before the edge, 0.2 behind it, at the same brightness."""
    found = CONTROLS["redness"](step((60, 20), (20, 40), (19, 39)), INSIDE, 2)
    np.testing.assert_allclose(found, np.where(BRIGHT, expit(-1.0), expit(1.0)), atol=1e-5)


@pytest.mark.parametrize("height", [1.0, -250.0])
def test_edges_are_where_the_step_is(height: float) -> None:
    """Worked by hand: slopes of a unit step under a Gaussian of 1 voxel, then their mean under one of 4 voxels.

    Between k and k + 1 voxels from the edge the slope is the sum of i · w(i) over i > k, with w the Gaussian's weights:
    0.2420, 0.0540, 0.0044 and 0.0001 at 1, 2, 3 and 4 voxels.
    """
    slopes = np.zeros(LENGTH)
    for k, slope in enumerate([0.363781, 0.121811, 0.013831, 0.000535]):
        slopes[[EDGE + k, EDGE - 1 - k]] = slope
    weights = np.exp(-(np.arange(-16, 17) ** 2) / 32)
    density = np.convolve(slopes, weights / weights.sum(), mode="same")
    z = (density - density.mean()) / density.std()
    found = CONTROLS["edges"](step((0.0, height)), INSIDE, 2)
    np.testing.assert_allclose(logit(found[:, 3, 1]), z, atol=1e-3)
    assert (found == found[:, :1, :1]).all()
    assert found[[EDGE - 1, EDGE]].min() == found.max() > expit(2.0)
    np.testing.assert_allclose(found, found[::-1], atol=1e-4)


def test_edges_are_looked_for_within_slices_only() -> None:
    across, within = (CONTROLS["edges"](step((0.0, 7.0)), INSIDE, axis) for axis in (0, 1))
    assert (across == 0.5).all()  # each slice is of one level
    assert within.max() > 0.9
    flat = CONTROLS["edges"](step((7.3, 7.3)), INSIDE, 2)
    assert (flat == 0.5).all()


def test_edges_of_colours_are_those_of_their_mean() -> None:
    grey, colour = step((10, 30)), step((0, 60), (20, 20), (10, 10))
    np.testing.assert_allclose(CONTROLS["edges"](colour, INSIDE, 2), CONTROLS["edges"](grey, INSIDE, 2), atol=1e-5)


def test_edges_find_the_slice_and_the_place_of_a_block(tmp_path) -> None:
    result = make_control("edges").predict(read_volume(write_volume(tmp_path / "block.nii.gz", value=3000.0)))
    assert max(result.slices, key=lambda s: s.score).index == 3
    i, j, k = np.unravel_index(result.map_array.argmax(), result.map_array.shape)
    assert (6 <= i <= 9, 6 <= j <= 9, k) == (True, True, 3)
    assert (result.map_array[0] == 0).all()  # air


def test_chance_is_noise_that_knows_nothing_of_the_step() -> None:
    found = CONTROLS["chance"](step((10, 30)), INSIDE, 2)
    z = logit(found.astype(np.float64))
    assert (z.mean(), z.std()) == pytest.approx((0, 1), abs=1e-4)
    assert np.array_equal(found, CONTROLS["chance"](step((10, 30)), INSIDE, 0))
    assert not np.allclose(found, CONTROLS["chance"](step((10, 31)), INSIDE, 2), atol=0.1)


@pytest.mark.parametrize("name", CONTROLS)
def test_outside_the_patient_a_control_says_nothing(name: str) -> None:
    inside = INSIDE.copy()
    inside[:, :2] = False
    found = CONTROLS[name](step((60, 20), (20, 40), (19, 80)), inside, 2)
    assert (found[:, :2] == 0).all()
    assert (found[:, 2:] > 0).all()
    nothing = CONTROLS[name](step((60, 20), (20, 40), (19, 80)), np.zeros_like(inside), 2)
    assert (nothing == 0).all()


def test_intensity_finds_what_is_bright(tmp_path) -> None:
    volume = read_volume(write_volume(tmp_path / "bright.nii.gz"))
    result = make_control("intensity").predict(volume)
    assert result.findings[0].voxel_min == (6, 6, 3)
    assert result.findings[0].voxel_max == (9, 9, 3)
    assert max(result.slices, key=lambda s: s.score).index == 3
    assert result.pred_score > 0.9
    assert result.map_array.shape == (20, 24, 6)
    assert (result.map_array[0] == 0).all()  # air


@pytest.mark.parametrize("name", sorted(set(CONTROLS) - {"redness"}))
def test_a_control_repeats_itself_and_stays_in_range(name: str, tmp_path) -> None:
    volume = read_volume(write_volume(tmp_path / "a.nii.gz"))
    first, second = (make_control(name).predict(volume).map_array for _ in range(2))
    assert (first == second).all()
    assert first.min() >= 0
    assert first.max() <= 1


def test_redness_refuses_grey_images(tmp_path) -> None:
    volume = read_volume(write_volume(tmp_path / "grey.nii.gz"))
    with pytest.raises(InputError, match="colour images; given: 1 channel"):
        make_control("redness").predict(volume)


def test_a_threshold_of_the_user_is_said_to_be_so(tmp_path) -> None:
    nib.load(write_volume(tmp_path / "v.nii.gz"))
    control = make_control("chance", 0.4)
    result = control.predict(read_volume(tmp_path / "v.nii.gz"))
    assert (result.threshold, result.threshold_origin) == (0.4, "chosen by the user before the evaluation")
    assert np.isclose(make_control("intensity").threshold()[0], 1 / (1 + np.exp(-2)))


def test_a_misspelt_control_names_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean control:redness"):
        make_control("rednes")
