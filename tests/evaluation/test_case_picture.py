"""The picture of one case: the slice that is shown, its outlines, and everything that may be missing."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from writing_phantom import SHAPE, make_result

from headclip_med.evaluation import case_picture as module
from headclip_med.evaluation.case_picture import case_picture, key_slice_picture

TRUTH, FOUND = (0x00, 0xE5, 0xFF), (0xFF, 0xB0, 0x00)
AXIAL = np.diag([-1.0, -1.0, 4.0, 1.0])  # array axes run right to left, front to back: as displayed


def _near(picture: Image.Image, colour: tuple[int, int, int], within: int = 40) -> np.ndarray:
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return np.asarray(np.abs(pixels - colour).max(axis=2) < within)


def _middle(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """Pixels of a colour in the middle panel, without the legend below."""
    found = _near(picture, colour)
    return found[: int(0.85 * found.shape[0]), found.shape[1] * 3 // 10 : found.shape[1] * 6 // 10]


def _square(rows: slice, columns: slice, value: float = 1.0) -> np.ndarray:
    array = np.zeros((60, 60))
    array[rows, columns] = value
    return array


def test_both_outlines_are_where_the_masks_are() -> None:
    truth = _square(slice(5, 25), slice(5, 25)) > 0
    picture = case_picture(np.full((60, 60), 0.3), _square(slice(35, 55), slice(35, 55), 0.9), truth, 0.5, "a case")
    for colour, low, high in ((TRUTH, 5, 25), (FOUND, 35, 55)):
        rows, columns = np.nonzero(_middle(picture, colour))
        assert len(rows) > 50
        side = (high - low) / 60 * 241  # a panel is 241 pixels wide
        assert np.ptp(rows) == pytest.approx(side, abs=4)
        assert np.ptp(columns) == pytest.approx(side, abs=4)
    upper, lower = (np.nonzero(_middle(picture, colour))[0].mean() for colour in (TRUTH, FOUND))
    assert upper < lower


def test_lines_differ_in_style_too() -> None:
    mask = _square(slice(15, 45), slice(15, 45))
    solid = case_picture(np.zeros((60, 60)), np.zeros((60, 60)), mask > 0, 0.5, "")
    dashed = case_picture(np.zeros((60, 60)), mask, None, 0.5, "")
    assert _middle(dashed, FOUND).sum() < 0.85 * _middle(solid, TRUTH).sum()  # the same line with gaps


def test_without_truth_or_finding_there_is_no_outline() -> None:
    flat = np.full((60, 60), 0.1)
    for truth in (None, np.zeros((60, 60), dtype=bool)):
        picture = case_picture(flat, flat, truth, 0.5, "nothing")
        assert not _middle(picture, TRUTH).any()
        assert not _middle(picture, FOUND).any()


def test_it_is_small() -> None:
    noise = np.random.default_rng(0).random((512, 512, 3))
    picture = case_picture(noise, noise[..., 0], noise[..., 0] > 0.999, 0.9, "noise")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    assert picture.width <= 900
    assert buffer.tell() < 300_000  # the worst there is; a scan takes a fifth of it


def test_integers_and_floats_look_the_same() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    plain = np.zeros((16, 16))
    first, second = (case_picture(image, plain, None, 0.5, "x") for image in (grey, grey / 255))
    np.testing.assert_array_equal(np.asarray(first.convert("RGB")), np.asarray(second.convert("RGB")))


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (300, 4)])
def test_odd_shapes_and_names_are_drawn(shape: tuple[int, int]) -> None:
    full = np.ones(shape)
    assert case_picture(full, full, full > 0, 0.5, r"a$b$ \frac{ _x").width <= 900


def _shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What key_slice_picture hands to case_picture."""
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(module, "case_picture", lambda *facts, **_: calls.append(facts))
    return calls


def test_the_slice_with_the_largest_disagreement_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _shown(monkeypatch)
    amap = np.zeros(SHAPE)
    amap[2:4, 5:8, 3] = 0.9  # found and true: no disagreement, though the highest score
    amap[0, 0, 1] = 0.6  # one false voxel
    truth = np.zeros(SHAPE, dtype=bool)
    truth[2:4, 5:8, 3] = True
    truth[7:9, 1:3, 4] = True  # four missed voxels
    key_slice_picture(make_result(affine=AXIAL, amap=amap), truth)
    (_, anomaly, shown, threshold, title) = calls[0]
    assert title == "slice 5 of 6"
    assert threshold == 0.5
    np.testing.assert_array_equal(shown, truth[:, :, 4].T)  # rows go from front to back
    np.testing.assert_allclose(anomaly, amap[:, :, 4].T)


def test_without_truth_or_disagreement_the_highest_score_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _shown(monkeypatch)
    amap = np.zeros(SHAPE)
    amap[1, 1, 2] = 0.7
    result = make_result(affine=AXIAL, amap=amap)
    key_slice_picture(result, None)
    key_slice_picture(result, amap >= 0.5)
    assert [call[4] for call in calls] == ["slice 3 of 6"] * 2
    assert calls[0][2] is None


def test_truth_is_turned_as_the_image_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _shown(monkeypatch)
    flipped = np.diag([1.0, 1.0, 4.0, 1.0])  # both axes run against the display
    truth = np.zeros(SHAPE, dtype=bool)
    truth[1, 2, 3] = True
    image = np.where(truth, 100.0, 0.0)[None]
    key_slice_picture(make_result(affine=flipped, amap=np.zeros(SHAPE), image=image), truth)
    shown_image, _, shown_truth, *_ = calls[0]
    np.testing.assert_array_equal(np.asarray(shown_image) == 1, shown_truth)
    assert np.argwhere(np.asarray(shown_truth)).tolist() == [[SHAPE[1] - 1 - 2, SHAPE[0] - 1 - 1]]


def test_a_colour_image_keeps_its_colours() -> None:
    image = np.zeros((3, 40, 30, 1))
    image[0] = 255
    result = make_result(affine=AXIAL, amap=np.zeros((40, 30, 1)), image=image, meta={"is_2d": True, "is_rgb": True})
    picture = key_slice_picture(replace(result, slices=result.slices[:1]), None)
    assert _near(picture, (255, 0, 0)).mean() > 0.3  # two panels of three
