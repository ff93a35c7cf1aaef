"""Losses worked by hand, and what they are for."""

from __future__ import annotations

import math

import pytest
import torch

from headclip_med.detectors.losses import dice_loss, patch_focal_loss, patch_map_loss, pull_to_one, score_loss
from headclip_med.training.batches import batch_indices


def _tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([rows])


def test_focal_by_hand() -> None:
    p, g = _tensor([0.9, 0.2]), _tensor([1.0, 0.0])
    everywhere = torch.ones_like(p)
    hit, miss = -(0.1**2) * math.log(0.9), -(0.2**2) * math.log(0.8)
    assert patch_focal_loss(p, g, everywhere) == pytest.approx((hit + miss) / 2, rel=1e-5)
    share = patch_focal_loss(p, g, everywhere, lesion_share=0.1)
    assert share == pytest.approx((hit / 0.2 + miss / 1.8) / 2, rel=1e-5)
    assert patch_focal_loss(p, g, _tensor([0.0, 1.0])) == pytest.approx(miss, rel=1e-5)


def test_dice_by_hand() -> None:
    p, g = _tensor([0.5, 0.5]), _tensor([1.0, 0.0])
    assert dice_loss(p, g) == pytest.approx(1 - (2 * 0.5 + 1) / (1 + 1 + 1))


def test_a_mean_over_images_is_the_mean_over_its_halves() -> None:
    draw = torch.Generator().manual_seed(0)
    p, g = torch.rand(4, 6, 6, generator=draw), (torch.rand(4, 6, 6, generator=draw) > 0.8).float()
    valid = (torch.rand(4, 6, 6, generator=draw) > 0.3).float()
    whole = patch_map_loss(p, g, valid, lesion_share=0.2)
    halves = [patch_map_loss(p[s], g[s], valid[s], lesion_share=0.2) for s in (slice(0, 2), slice(2, 4))]
    assert float(whole) == pytest.approx(float(sum(halves)) / 2, rel=1e-5)


def test_perfect_maps_cost_nothing() -> None:
    g = (torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.7).float()
    assert patch_map_loss(g, g, torch.ones_like(g), lesion_share=0.3) < 1e-3
    assert score_loss(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])) < 1e-4
    assert pull_to_one(torch.ones(3, 2)) == 0


def test_batches_hold_both_classes_and_use_every_slice_before_any_again() -> None:
    labels = [True] * 3 + [False] * 7
    seen: list[int] = []
    for step in range(6):
        batch = batch_indices(labels, step, 4, seed=5)
        assert sum(labels[i] for i in batch) == 2
        seen += batch
    lesions = [i for i in seen if labels[i]]
    assert sorted(lesions[:3]) == [0, 1, 2]
    assert sorted(lesions[3:6]) == [0, 1, 2]
    free = [i for i in seen if not labels[i]]
    assert sorted(free[:7]) == list(range(3, 10))


def test_a_step_is_a_function_of_seed_and_step() -> None:
    labels = [i % 3 == 0 for i in range(20)]
    assert batch_indices(labels, 7, 6, 1) == batch_indices(labels, 7, 6, 1)
    assert batch_indices(labels, 7, 6, 1) != batch_indices(labels, 7, 6, 2)


def test_one_class_alone_still_gives_batches() -> None:
    assert sorted(batch_indices([True] * 4, 0, 4, 0)) == [0, 1, 2, 3]
