"""Intensity ranges, foreground, channels, and the exact way to the square and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from headclip_med.base.errors import InputError
from headclip_med.datasets.phantom import make_phantom
from headclip_med.reading import load
from headclip_med.slicing import intensity, pixels
from headclip_med.slicing.intensity import Placement, Preprocessing, place


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
    levels = pixels.rescale(torch.from_numpy(volume).permute(3, 0, 1, 2), ranges)
    assert levels.flatten().tolist() == [0, 0, 0.5, 1, 1]
    inverted = pixels.rescale(torch.from_numpy(volume).permute(3, 0, 1, 2), ranges, inverted=True)
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


def ball(size: int = 40, radius: float = 0.6) -> np.ndarray:
    """True inside a ball around the centre of a cube."""
    axis = np.linspace(-1, 1, size)
    return np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0) < radius


def head_in_air(noise: float, size: int = 40) -> np.ndarray:
    """Dark (30) and bright (100) halves of a ball, in air with the noise of a magnitude image."""
    rng = np.random.default_rng(0)
    signal = np.where(np.arange(size) < size // 2, 30.0, 100.0)[:, None, None] * ball(size)
    real, imaginary = rng.normal(signal, noise), rng.normal(0, noise, signal.shape)
    return np.hypot(real, imaginary)[None].astype(np.float32)


def share_kept(mask: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Share of the patient, and of everything else, that is foreground."""
    return float(mask[inside].mean()), float(mask[~inside].mean())


def test_monochrome1_air_is_background_and_levels_are_those_of_monochrome2() -> None:
    mono2 = head_in_air(noise=3).round()
    mono1 = 4095 - mono2
    masks = [
        intensity.foreground(v, modality="MR", inverted=inverted) for v, inverted in ((mono2, False), (mono1, True))
    ]
    np.testing.assert_array_equal(masks[0], masks[1])
    kept, air = share_kept(masks[1], ball())
    assert kept > 0.99
    assert air < 0.01
    levels = [
        pixels.rescale(
            torch.from_numpy(v)[0][:, None],
            intensity.intensity_ranges(v, mask, spec(), is_rgb=False),
            inverted=inverted,
        )
        for v, mask, inverted in ((mono2, masks[0], False), (mono1, masks[1], True))
    ]
    np.testing.assert_allclose(levels[0], levels[1], atol=1e-5)


def test_monochrome1_changes_nothing_for_ct_whose_values_are_hu() -> None:
    ct = np.array([-1000, -400, 40], dtype=np.float32).reshape(1, 3, 1, 1)
    for inverted in (False, True):
        found = intensity.foreground(ct, modality="CT", inverted=inverted)
        assert found.ravel().tolist() == [False, True, True]


@pytest.mark.parametrize("inverted", [False, True])
def test_a_plain_image_keeps_its_dark_anatomy(inverted: bool) -> None:
    """A chest in a black frame: lungs darker than Otsu's threshold stay, even where they are exactly black."""
    image = np.zeros((1, 40, 40, 1), dtype=np.float32)
    image[0, 5:35, 5:35] = 200
    image[0, 10:30, 10:18] = 20
    image[0, 15, 22] = 0
    found = intensity.foreground(255 - image if inverted else image, modality=None, is_2d=True, inverted=inverted)
    expected = np.zeros((40, 40, 1), dtype=bool)
    expected[5:35, 5:35] = True
    np.testing.assert_array_equal(found, expected)


def test_a_plain_image_without_a_border_is_all_foreground() -> None:
    image = np.random.default_rng(0).permutation(900).reshape(1, 30, 30, 1).astype(np.float32)
    assert (~intensity.foreground(image, modality=None, is_2d=True)).sum() <= 1  # one corner has its own value


@pytest.mark.parametrize(("noise", "at_least"), [(2.0, 0.99), (4.0, 0.99), (8.0, 0.93)])
def test_an_integer_noise_floor_is_no_padding(noise: float, at_least: float) -> None:
    """Rounded air holds many exact zeros in its corners; the dark half of the head stays all the same."""
    volume = np.maximum(head_in_air(noise).round() - noise, 0)
    volume[0, [0, 0, -1, -1], [0, -1, 0, -1]] = 0
    kept, air = share_kept(intensity.foreground(volume, modality="MR"), ball())
    assert kept > at_least
    assert air < 0.03


@pytest.mark.parametrize("padding", [-2048.0, 0.0])
@pytest.mark.parametrize("modality", ["MR", None])
def test_padding_around_a_round_field_of_view_with_noisy_air_in_it(padding: float, modality: str | None) -> None:
    volume = head_in_air(noise=4)
    axis = np.linspace(-1, 1, 40)
    outside = np.hypot(*np.meshgrid(axis, axis, indexing="ij")) >= 0.97
    volume[0, outside] = padding
    found = intensity.foreground(volume, modality=modality)
    kept, air = share_kept(found, ball())
    assert not found[outside].any()
    assert kept > 0.98
    assert air < 0.02


def test_a_ct_without_a_modality_and_with_a_round_field_of_view_keeps_the_whole_patient() -> None:
    rng = np.random.default_rng(0)
    volume = rng.normal(-1000, 10, (1, 40, 40, 40))
    volume[0, ball()] = rng.normal(40, 30, ball().sum())
    axis = np.linspace(-1, 1, 40)
    volume[0, np.hypot(*np.meshgrid(axis, axis, indexing="ij")) >= 0.97] = -3024
    volume = volume.round().astype(np.float32)
    for modality in ("CT", None):
        np.testing.assert_array_equal(intensity.foreground(volume, modality=modality), ball())


def test_a_stripped_brain_with_a_bright_tumour_is_not_cut_at_the_tumour() -> None:
    """Otsu would split tumour from brain; tissue is no narrow peak at the bottom, so nothing is cut."""
    volume = np.zeros((1, 40, 40, 40), dtype=np.float32)
    volume[0, ball()] = np.random.default_rng(0).normal(700, 150, ball().sum())
    volume[0, ball(radius=0.25)] = 2500
    np.testing.assert_array_equal(intensity.foreground(volume, modality="MR"), ball())


def test_a_crop_of_tissue_without_air_keeps_nearly_everything() -> None:
    volume = np.random.default_rng(0).normal(300, 50, (1, 20, 20, 20)).astype(np.float32)
    assert intensity.foreground(volume, modality="MR").mean() > 0.9


def test_a_mask_as_volume_and_a_constant_channel_do_not_disturb() -> None:
    volume = np.zeros((2, 20, 20, 20), dtype=np.float32)
    volume[0, :, :, 5:15] = 1
    found = intensity.foreground(volume, modality=None)
    np.testing.assert_array_equal(found, volume[0] > 0)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("ms_flair/patient07/flair.nii.gz", 0.15, 0.17),  # stripped: all that is not exactly 0
        ("nrrd/brain2_image.nrrd", 0.45, 0.6),  # a head in noisy air; the zeros are a part of the noise
        ("templates/ch2.nii.gz", 0.55, 0.62),
    ],
)
def test_foreground_of_real_volumes(shared: Path, name: str, low: float, high: float) -> None:
    if not (shared / "data" / name).is_file():
        pytest.skip("no shared data")
    volume = load(shared / "data" / name)
    assert low < intensity.foreground(volume.array, modality=volume.meta.get("modality")).mean() < high


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
    square = pixels.to_square(torch.from_numpy(blob).float()[None, None], where)
    back = pixels.from_square(square[:, 0], where, shape)[0].numpy()
    for axis_index, axis_centre in (
        (rows, (rows * blob).sum() / blob.sum()),
        (cols, (cols * blob).sum() / blob.sum()),
    ):
        assert (axis_index * back).sum() / back.sum() == pytest.approx(axis_centre, abs=0.1)


def test_neighbours_repeat_at_the_ends() -> None:
    assert [intensity.neighbour_indices(i, 5, 2) for i in (0, 2, 4)] == [(0, 0, 2), (0, 2, 4), (2, 4, 4)]


def test_two_channels_are_refused() -> None:
    with pytest.raises(InputError, match="one channel, or three"):
        pixels.three_channels(torch.zeros(1, 2, 4, 4))


def test_normalisation_by_hand() -> None:
    out = pixels.normalise(torch.full((1, 3, 1, 1), 0.75), spec())
    assert out.flatten().tolist() == [1, 1, 1]


@pytest.mark.parametrize(("spread", "excess"), [(15, 300), (5, 150)])
def test_an_even_brain_with_a_very_bright_lesion_is_not_taken_for_air(spread: float, excess: float) -> None:
    """Otsu puts the whole brain into the darker class; beside padding of 0, air would be near 0."""
    rng = np.random.default_rng(0)
    volume = np.zeros((1, 40, 40, 40), np.float32)
    volume[0, 8:32, 8:32, 8:32] = rng.normal(100, spread, (24, 24, 24)).clip(50, 150)
    volume[0, 12:20, 12:20, 12:20] += excess
    assert intensity.foreground(volume, modality="MR", is_rgb=False).sum() == 24**3


@pytest.mark.parametrize("skull", [True, False])
def test_the_order_in_which_voxels_are_stored_changes_nothing(skull: bool) -> None:
    """Above half a million voxels a sample is taken: the same one of a flipped and permuted volume."""
    array = make_phantom(3, shape=(90, 100, 80), skull=skull).array
    other = array[::-1, :, ::-1].transpose(2, 0, 1)
    masks = [intensity.foreground(v[None], modality="MR") for v in (array, other)]
    np.testing.assert_array_equal(masks[0][::-1, :, ::-1].transpose(2, 0, 1), masks[1])
    ranges = [
        intensity.intensity_ranges(v[None], mask, spec(), is_rgb=False)
        for v, mask in zip((array, other), masks, strict=True)
    ]
    assert ranges[0] == ranges[1]


def test_percentiles_of_a_sample_are_those_of_all_values() -> None:
    values = np.random.default_rng(0).permutation(np.arange(3_000_001, dtype=np.float32)).reshape(1, -1, 1, 1)
    ((low, high),) = intensity.intensity_ranges(values, values[0] >= 0, spec(percentiles=(0.5, 99.5)), is_rgb=False)
    assert (low, high) == pytest.approx((15_000, 2_985_000), abs=2)
