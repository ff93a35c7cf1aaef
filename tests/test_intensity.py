"""Intensity ranges, foreground, channels, and the exact way to the square and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headclip_med import intensity
from headclip_med.errors import InputError
from headclip_med.intensity import Placement, Preprocessing, place


def spec(**options: object) -> Preprocessing:
    return Preprocessing(**{"image_size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3, **options})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("brain", (40, 80)), ("Subdural", (75, 215)), ("40/80", (40, 80)), ("-600:1500", (-600, 1500))],
)
def test_windows_by_name_and_by_level_and_width(text: str, expected: tuple[float, float]) -> None:
    assert intensity.parse_window(text) == expected


@pytest.mark.parametrize("text", ["brian", "40", "40/0", "40/-1", "nan/80", "1/2/3", ""])
def test_a_window_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="A window must be one of brain"):
        intensity.parse_window(text)


def test_ct_window_by_hand() -> None:
    # brain 40/80: 0 HU is black, 40 HU is mid grey, 80 HU and bone are white, air is black.
    volume = np.array([-1000, 0, 40, 80, 1000], dtype=np.float32).reshape(1, 5, 1, 1)
    ranges = intensity.intensity_ranges(volume, volume[0] > -500, spec(window=(40, 80)), is_rgb=False)
    assert ranges == [(0, 80)]
    levels = intensity.rescale(torch.from_numpy(volume).permute(3, 0, 1, 2), ranges)
    assert levels.flatten().tolist() == [0, 0, 0.5, 1, 1]
    inverted = intensity.rescale(torch.from_numpy(volume).permute(3, 0, 1, 2), ranges, inverted=True)
    assert inverted.flatten().tolist() == [1, 1, 0.5, 0, 0]


def test_mr_percentiles_ignore_the_padding_around_a_stripped_brain() -> None:
    volume = np.zeros((1, 20, 20, 20), dtype=np.float32)
    volume[0, 5:15, 5:15, 5:15] = np.linspace(100, 200, 1000).reshape(10, 10, 10)
    mask = intensity.foreground(volume, modality="MR", is_rgb=False)
    assert mask.sum() == 1000
    ((low, high),) = intensity.intensity_ranges(volume, mask, spec(percentiles=(0, 100)), is_rgb=False)
    assert (low, high) == (100, 200)


def test_foreground_keeps_negative_interpolation_ripples_of_a_stripped_brain() -> None:
    """As in the MS volumes: padding is exactly 0, tissue reaches below it."""
    volume = np.zeros((1, 10, 10, 10), dtype=np.float32)
    volume[0, 2:8, 2:8, 2:8] = np.random.default_rng(0).normal(50, 60, (6, 6, 6))
    assert intensity.foreground(volume, modality=None, is_rgb=False).sum() == 216


def test_foreground_of_a_noisy_head_and_of_ct_and_of_colour() -> None:
    rng = np.random.default_rng(0)
    head = rng.normal(5, 2, (1, 24, 24, 24)).astype(np.float32)
    head[0, 6:18, 6:18, 6:18] += 100
    found = intensity.foreground(head, modality="MR", is_rgb=False)
    assert found.sum() == 12**3
    ct = np.full((1, 4, 4, 4), -1000, dtype=np.float32)
    ct[0, 1:3, 1:3, 1:3] = 30
    assert intensity.foreground(ct, modality="CT", is_rgb=False).sum() == 8
    assert intensity.foreground(np.zeros((3, 4, 4, 1), np.float32), modality=None, is_rgb=True).all()


def test_a_constant_foreground_still_gives_a_usable_range() -> None:
    volume = np.zeros((1, 8, 8, 8), dtype=np.float32)
    volume[0, 2:4] = 7
    ((low, high),) = intensity.intensity_ranges(volume, volume[0] > 0, spec(), is_rgb=False)
    assert high > low


def test_pad_keeps_the_shape_in_millimetres() -> None:
    # 100 rows of 1 mm by 100 columns of 2 mm: twice as wide as high.
    assert place((100, 100), (1, 2), 32, "pad") == Placement(32, top=8, left=0, height=16, width=32)
    assert place((100, 100), (1, 2), 32, "stretch") == Placement(32, 0, 0, 32, 32)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("shape", [(37, 53), (240, 155), (8, 64)])
def test_the_way_to_the_square_and_back_keeps_a_point_in_place(fit: str, shape: tuple[int, int]) -> None:
    """A smooth blob goes through the square and comes back with its centre of mass within 0.1 pixels."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    centre = (0.4 * shape[0], 0.55 * shape[1])
    blob = np.exp(-(((rows - centre[0]) / (0.15 * shape[0])) ** 2) - ((cols - centre[1]) / (0.15 * shape[1])) ** 2)
    where = place(shape, (1.0, 1.3), 128, fit)
    square = intensity.to_square(torch.from_numpy(blob).float()[None, None], where)
    back = intensity.from_square(square[:, 0], where, shape)[0].numpy()
    for axis_index, axis_centre in (
        (rows, (rows * blob).sum() / blob.sum()),
        (cols, (cols * blob).sum() / blob.sum()),
    ):
        assert (axis_index * back).sum() / back.sum() == pytest.approx(axis_centre, abs=0.1)


def test_neighbours_repeat_at_the_ends() -> None:
    assert [intensity.neighbour_indices(i, 5, 2) for i in (0, 2, 4)] == [(0, 0, 2), (0, 2, 4), (2, 4, 4)]


def test_two_channels_are_refused() -> None:
    with pytest.raises(InputError, match="one channel, or three"):
        intensity.three_channels(torch.zeros(1, 2, 4, 4))


def test_normalisation_by_hand() -> None:
    out = intensity.normalise(torch.full((1, 3, 1, 1), 0.75), spec())
    assert out.flatten().tolist() == [1, 1, 1]
