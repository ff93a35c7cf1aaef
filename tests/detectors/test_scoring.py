"""Maps and scores on numbers worked by hand, and against scipy and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors import HeadCLIPConfig, scoring

NORMAL_ABNORMAL = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def test_probabilities_by_hand() -> None:
    # cos = (1, 0) and logit scale ln 3: softmax(ln 3, 0) = (3/4, 1/4).
    p = scoring.class_probabilities(torch.tensor([1.0, 0.0]), NORMAL_ABNORMAL, math.log(3))
    torch.testing.assert_close(p, torch.tensor([0.75, 0.25]))


def test_patch_map_averages_layers_row_by_row() -> None:
    features = torch.tensor([[[1.0, 0], [0, 1], [1, 0], [1, 0]]])
    maps = scoring.patch_map(
        {0: features, 1: features.flip(1)},
        {0: NORMAL_ABNORMAL, 1: NORMAL_ABNORMAL},
        (2, 2),
        logit_scale=math.log(3),
    )
    torch.testing.assert_close(maps, torch.tensor([[[0.25, 0.5], [0.5, 0.25]]]))


@pytest.mark.parametrize(
    ("grid", "size", "sigma"), [((37, 37), (518, 518), 4.0), ((3, 5), (24, 40), 1.5), ((4, 4), (9, 7), 0.0)]
)
def test_upsampling_equals_interpolate_then_scipy(grid, size, sigma) -> None:
    patches = torch.rand(2, *grid, generator=torch.Generator().manual_seed(0))
    bilinear = F.interpolate(patches[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    expected = [gaussian_filter(m.double().numpy(), sigma) if sigma else m.numpy() for m in bilinear]
    np.testing.assert_allclose(scoring.upsample(patches, size, sigma=sigma), np.stack(expected), atol=1e-5)


def test_pools_by_hand() -> None:
    maps = torch.zeros(1, 10, 20)
    maps[0, 0, :2] = torch.tensor([0.9, 0.5])
    assert scoring.pool_map(maps, "max").item() == pytest.approx(0.9)
    assert scoring.pool_map(maps, "topk_mean", 0.01).item() == pytest.approx(0.7)  # 1 % of 200 pixels: two
    assert scoring.pool_map(maps, "p99.5").item() == pytest.approx(0.5)
    lse = math.log((math.exp(45) + math.exp(25) + 198) / 200) / 50
    assert scoring.pool_map(maps, "lse").item() == pytest.approx(lse, rel=1e-5)


def test_joint_score_by_hand() -> None:
    s, m = torch.tensor([0.2]), torch.tensor([0.8])
    assert scoring.joint_score(s, m, 0.5).item() == pytest.approx(0.5)
    assert scoring.joint_score(s, m, 0.25).item() == pytest.approx(0.35)
    assert scoring.joint_score(None, m, 0.5).item() == pytest.approx(0.8)


def test_score_pooling_draws_the_global_feature_to_abnormal_patches() -> None:
    patches = torch.tensor([[[1.0, 0], [0, 1]]])
    pooled = scoring.score_pooled_feature(torch.tensor([[1.0, 0]]), patches, torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(pooled, torch.full((1, 2), math.sqrt(0.5)))


def test_brightness_joins_the_log_odds() -> None:
    maps, levels = torch.tensor([[[0.5, 0.8]]]), torch.tensor([[[0.25, 1.0]]])
    found = scoring.fuse_intensity(maps, levels, (2.0, 4.0, -1.0))
    # logit(0.5) = 0: 2 · 0 + 4 · 0.25 − 1 = 0; logit(0.8) = ln 4: 2 · ln 4 + 4 − 1
    assert found[0, 0].tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-(2 * math.log(4) + 3)))])
    assert scoring.fuse_intensity(torch.tensor([[[0.0, 1.0]]]), levels, (1.0, 0.0, 0.0)).isfinite().all()


def test_grey_levels_undo_the_normalisation() -> None:
    pixels = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)
    normalised = (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    assert scoring.grey_levels(normalised, mean, std).item() == pytest.approx(0.4)


def test_a_fusion_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ModelError, match="intensity_fusion must hold three finite numbers"):
        HeadCLIPConfig(intensity_fusion=(1.0, math.nan, 0.0))
