"""Regions of the truth: who belongs together and how much a pixel weighs."""

from __future__ import annotations

import numpy as np
import pytest

from headclip_med.evaluation.metrics.counts import label_regions, region_weights


def test_voxels_that_share_a_corner_are_one_region() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    labels, count = label_regions(mask)
    assert count == 2
    assert labels[0, 0, 0] == labels[1, 1, 1] != labels[3, 3, 3]


def test_one_slice_has_the_regions_of_its_image() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((20, 20)) < 0.2
    assert label_regions(mask)[1] == label_regions(mask[..., None])[1]


@pytest.mark.parametrize("shape", [(15, 17), (9, 8, 7)])
def test_weights_are_in_the_order_of_the_mask_and_sum_to_the_regions(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(1).random(shape) < 0.08
    weights, count = region_weights(mask)
    labels, expected = label_regions(mask)
    assert count == expected
    sizes = np.bincount(labels.ravel())
    assert weights.tolist() == [1 / sizes[labels[place]] for place in zip(*np.nonzero(mask), strict=True)]
    assert weights.sum() == pytest.approx(count)


def test_a_mask_that_is_all_one_region() -> None:
    weights, count = region_weights(np.ones((3, 4), dtype=bool))
    assert count == 1
    assert weights == pytest.approx([1 / 12] * 12)
