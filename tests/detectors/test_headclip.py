"""HeadCLIP and AnomalyCLIP as detectors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from towers import clip_tower, timm_tower

from headclip_med.base.errors import ModelError
from headclip_med.detectors import ClassFeatures, Detector, HeadCLIP, HeadCLIPConfig, get_method, scoring
from headclip_med.detectors.anomalyclip import AnomalyCLIP
from headclip_med.encoders.head_weights import DynamicHeadWeights
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import EncodeOptions, encode_images


def classes(dim: int, layers=(3,), image: bool = True) -> ClassFeatures:
    vectors = F.normalize(torch.randn(2, dim, generator=torch.Generator().manual_seed(3)), dim=-1)
    return ClassFeatures(dict.fromkeys(layers, vectors), vectors if image else None, {})


def images(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["headclip", "anomalyclip"])
def test_the_family_of_headclip_follows_the_protocol(method: str) -> None:
    detector = get_method(method)(clip_tower(), classes(24))  # type: ignore[arg-type, call-arg]
    assert isinstance(detector, Detector)
    out = detector.score(images())
    assert out.maps.shape == (2, 32, 32)
    assert out.scores.shape == (2,)
    assert 0 <= out.maps.min() <= out.maps.max() <= 1
    assert detector.describe()["method"] == method


def test_headclip_is_the_equations_of_the_paper() -> None:
    tower, both = clip_tower(), classes(24)
    weights = HeadWeights(local=1 + 0.5 * torch.rand(4, 4, generator=torch.Generator().manual_seed(0)))
    out = HeadCLIP(tower, both, HeadCLIPConfig(map_sigma=40.0), weights).score(images())
    assert both.image is not None
    features = encode_images(tower, images(), EncodeOptions((3,)), head_weights=weights)
    p = (features.patch_features[3] @ both.image.T / 0.07).softmax(-1)[..., 1].view(2, 4, 4)
    maps = scoring.upsample(p, (32, 32), sigma=40.0 * 32 / 518)
    image_score = (features.global_feature @ both.image.T / 0.07).softmax(-1)[:, 1]
    torch.testing.assert_close(out.maps, maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.scores, 0.5 * image_score + 0.5 * maps.flatten(1).amax(1), atol=1e-5, rtol=0)


def test_anomalyclip_is_headclip_with_weights_of_one_and_no_joint_score() -> None:
    tower, both = clip_tower(), classes(24)
    ones = HeadWeights(local=torch.ones(4, 4))
    config = HeadCLIPConfig(jas=False, global_norm=False, position_mode="bilinear")
    same = HeadCLIP(tower, both, config, ones).score(images(size=64))
    anomalyclip = AnomalyCLIP(tower, both, None, HeadWeights(local=torch.full((4, 4), 9.0)))
    out = anomalyclip.score(images(size=64))
    torch.testing.assert_close(out.maps, same.maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.scores, same.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        {"feature_layers": (1, 3)},
        {"local_attention": "qk"},
        {"local_attention": "qq+kk+vv"},
        {"local_attention": "none"},
        {"local_start": 3},
        {"temperature": 0.01},
        {"global_norm": False},
        {"map_upsampling": "nearest", "map_sigma": 0.0},
        {"map_sigma": 100.0},
        {"jas": False},
        {"jas_weight": 1.0},
        {"jas_pool": "topk_mean", "jas_top_fraction": 0.2},
        {"jas_pool": "p99.5"},
        {"jas_pool": "lse"},
        {"jas_order": "before_smooth", "map_sigma": 100.0},
        {"jas_score_pool": True},
    ],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()),
)
def test_every_choice_of_the_configuration_changes_the_outcome(change: dict) -> None:
    tower, both = clip_tower(), classes(24, (1, 3))
    base = HeadCLIPConfig(map_sigma=30.0)
    reference, out = (HeadCLIP(tower, both, c).score(images(1)) for c in (base, replace(base, **change)))
    same = torch.equal(reference.maps, out.maps) and torch.equal(reference.scores, out.scores)
    assert not same


def test_scores_look_inside_the_patient_only() -> None:
    detector = HeadCLIP(clip_tower(), classes(24, image=False), HeadCLIPConfig(map_sigma=0))
    free = detector.score(images(1))
    peak = free.maps[0].flatten().argmax()
    valid = torch.ones(1, 32, 32, dtype=torch.bool)
    valid.view(-1)[peak] = False
    limited = detector.score(images(1), valid)
    assert free.scores.item() == pytest.approx(free.maps.max().item())
    assert limited.scores.item() == pytest.approx((free.maps * valid).max().item())


def test_centred_features_subtract_the_mean_before_normalising() -> None:
    tower = timm_tower()
    centre = torch.full((48,), 0.3)
    options = EncodeOptions((3,), local_attention="none")
    raw = tower.project(_tokens(tower, images(1)))
    out = encode_images(tower, images(1), options, centre={3: centre})
    torch.testing.assert_close(out.patch_features[3], F.normalize(raw - centre, dim=-1), atol=1e-5, rtol=0)


def _tokens(tower, pixels):
    model = tower.model
    x = model._pos_embed(model.patch_embed(pixels))
    for block in model.blocks:
        x = block(x)
    return x[:, tower.prefix :]


def test_without_image_classes_the_map_alone_decides() -> None:
    out = HeadCLIP(timm_tower(), classes(48, image=False)).score(images())
    torch.testing.assert_close(out.scores, out.maps.flatten(1).amax(1))


def test_class_features_for_another_tower_or_layer_are_refused() -> None:
    with pytest.raises(ModelError, match=r"shape \(2, 24\)"):
        HeadCLIP(clip_tower(), classes(48))
    with pytest.raises(ModelError, match=r"every tapped layer \[3\]; given: none for \[3\]"):
        HeadCLIP(clip_tower(), classes(24, layers=(1,)))


def test_class_features_follow_the_order_of_the_layers() -> None:
    """Layers used to be sorted on the way, so that (3, 1) took each other's class features."""
    tower, one, other = clip_tower(), classes(24).patch[3], classes(24).patch[3].flip(0)
    config = HeadCLIPConfig(feature_layers=(-1, 1))
    paired = ClassFeatures({3: one, 1: other}, None, {})
    same = HeadCLIP(tower, paired, replace(config, feature_layers=(1, 3))).score(images())
    torch.testing.assert_close(HeadCLIP(tower, paired, config).score(images()).maps, same.maps)


@pytest.mark.parametrize("where", ["patch", "image", "centre"])
def test_class_features_that_are_not_finite_are_refused(where: str) -> None:
    good = classes(24)
    bad = torch.full((24,) if where == "centre" else (2, 24), float("nan"))
    broken = replace(good, **{where: bad if where == "image" else {3: bad}})
    with pytest.raises(ModelError, match="Class features must be finite"):
        HeadCLIP(clip_tower(), broken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"jas_weight": 1.5}, "jas_weight"),
        ({"jas_top_fraction": 0.0}, "jas_top_fraction"),
        ({"map_sigma": -1.0}, "map_sigma"),
        ({"image_size": 0}, "image_size"),
        ({"feature_layers": ()}, "feature_layers"),
        ({"jas_pool": "median"}, "jas_pool must be one of max"),
        ({"lhw_layers": "some"}, "lhw_layers"),
        ({"lhw_branch": "global", "lhw_task_decoupled": True}, "lhw_branch must be 'local'"),
        ({"lhw_dynamic": True, "lhw_param": "softplus"}, "lhw_dynamic"),
    ],
)
def test_values_that_no_tower_can_run_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        HeadCLIPConfig(**change)


@pytest.mark.parametrize(("size", "near"), [(30, 32), (3, 8), (70, 72)])
def test_an_image_size_between_patches_names_the_nearest(size: int, near: int) -> None:
    with pytest.raises(ModelError, match=rf"multiple of the patch size 8; given: {size} pixels. Use {near}\."):
        HeadCLIP(clip_tower(), classes(24), HeadCLIPConfig(image_size=size))


@pytest.mark.parametrize(
    "change", [{"local_attention": "none"}, {"feature_layers": (0,)}, {"local_start": 3, "feature_layers": (1, 2)}]
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_head_weights_that_cannot_act_are_refused(change: dict, dynamic: bool) -> None:
    tower, config = clip_tower(), HeadCLIPConfig(**change)
    both = classes(24, config.feature_layers if "feature_layers" in change else (3,))
    weights = DynamicHeadWeights(tower.width, 4, 4) if dynamic else HeadWeights(local=torch.ones(4, 4))
    with pytest.raises(ModelError, match="must have a local path"):
        HeadCLIP(tower, both, config, weights)
    HeadCLIP(tower, both, config, HeadWeights(global_=torch.ones(4, 4)))


@pytest.mark.parametrize("attention", ["vv", "none"])
def test_a_local_start_outside_the_tower_is_refused(attention: str) -> None:
    """It used to switch the local path off without a word."""
    with pytest.raises(ModelError, match="below the tower's depth 4"):
        HeadCLIP(clip_tower(), classes(24), HeadCLIPConfig(local_start=4, local_attention=attention))


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="Did you mean headclip"):
        get_method("hedclip")


def test_the_same_image_scores_the_same_alone_in_a_batch_and_again() -> None:
    detector = HeadCLIP(clip_tower(), classes(24))
    batch = images(5)
    together, again = detector.score(batch), detector.score(batch)
    assert torch.equal(together.maps, again.maps)
    for i in range(5):
        alone = detector.score(batch[i : i + 1])
        torch.testing.assert_close(alone.maps[0], together.maps[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.scores[0], together.scores[i], atol=1e-5, rtol=0)
