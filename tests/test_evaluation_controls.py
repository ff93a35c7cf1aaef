"""A control knows one trivial thing, and the same image always gets the same map."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from small_cases import write_volume

from headclip_med import read_volume
from headclip_med.errors import InputError
from headclip_med.evaluation.controls import CONTROLS, make_control


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
