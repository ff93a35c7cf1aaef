"""Crane and Crane+: the published equations, context-guided prompts, the attention of a second tower."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from family_reference import dice, enlarge, focal, image_paths, merge, project, smooth, split, text_features
from method_case import FewSteps, clip_built, labelled, noise, parts, vit_built
from prompt_files import small_clip
from torch import Tensor
from torch.nn import functional as F
from towers import timm_model

from headclip_med.base.errors import ModelError
from headclip_med.detectors.crane import crane_plus
from headclip_med.detectors.crane.crane import Crane, CraneConfig
from headclip_med.detectors.crane.crane_plus import CranePlus, CranePlusConfig, similarity_attention
from headclip_med.encoders.adapters import tower_from_timm
from headclip_med.encoders.build import BuiltTower
from headclip_med.encoders.image import quarters
from headclip_med.encoders.text import prompt_tokens


@lru_cache(maxsize=1)
def tiny() -> BuiltTower:
    """A CLIP whose features are as long as its text tokens, as those of OpenAI are."""
    return small_clip(dim=32)


def prompts(built: BuiltTower) -> dict[str, Tensor]:
    draw, width = torch.Generator().manual_seed(7), built.clip.token_embedding.weight.shape[1]
    return {
        "prompt.context": torch.randn(2, 12, width, generator=draw),
        "prompt.deep": torch.randn(8, 4, width, generator=draw),
    }


def crane(**config: Any) -> Crane:
    return Crane.from_parts(parts(tiny(), prompts(tiny()), **config))  # type: ignore[return-value]


def second(size: int = 64, seed: int = 3):
    """A small vision tower of ``size`` pixels with patches of 8 and registers: model, and tower as ours see it."""
    model = timm_model(seed, img_size=size, reg_tokens=4)
    tower = tower_from_timm(model)
    tower.mean, tower.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return model, tower


def plus(**config: Any) -> CranePlus:
    return CranePlus(parts(tiny(), prompts(tiny()), **config), second(32)[1])


def classes_of(built: BuiltTower, tensors: dict[str, Tensor], image: Tensor | None = None) -> Tensor:
    tokens = prompt_tokens(built.tokenizer)
    return text_features(built.clip, tokens, tensors["prompt.context"], tensors["prompt.deep"], image)


def image_feature(patches: Tensor, logits: Tensor, cls: Tensor) -> Tensor:
    """Score-based pooling of ``(V, P, D)`` with ``(V, P, 2)``."""
    abnormal = torch.softmax(logits.mean(0), -1)[:, 1:]
    pooled = F.normalize((abnormal * patches.mean(0)).sum(0), dim=0)
    return F.normalize(0.5 * pooled + 0.5 * cls, dim=0)


def d_attention(built: BuiltTower, model, pixels: Tensor, tokens: Tensor, block) -> Tensor:
    """The second view of a tap, ``(P, D)``, of one image."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (built.tower.mean, built.tower.std))
    new_mean, new_std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    seen = (pixels * std + mean - new_mean[:, None, None]) / new_std[:, None, None]
    seen = F.interpolate(seen, (64, 64), mode="bilinear", antialias=True)
    unit = F.normalize(model.forward_features(seen)[0, 5:], dim=-1)
    likeness = unit @ unit.T
    shifted = 3 * (likeness - 1.2 * likeness.mean())
    shifted[shifted < 0] = float("-inf")
    value = split(block, tokens)[2][:, :, 1:]
    return project(built.clip, merge(block, torch.softmax(shifted, -1) @ value))[0]


SHAPES = pytest.mark.parametrize(("shape", "size"), [("ViT-B/16", 128), ("ViT-L/14@336", 112)])


@SHAPES
def test_the_forward_of_both_is_the_published_one(shape: str, size: int) -> None:
    built, (model, tower) = clip_built(shape), second()
    clip, tensors, pixels = built.clip, prompts(built), noise(1, size)
    paths, static = image_paths(clip, pixels, "qq+kk+vv"), classes_of(built, tensors)
    cls = project(clip, paths.cls_token)[0]
    taps = {"ViT-B/16": (2, 5, 8, 11), "ViT-L/14@336": (5, 11, 17, 23)}[shape]
    e_views = torch.stack([project(clip, paths.local[tap])[0, 1:] for tap in taps])
    last, block = taps[-1], clip.visual.transformer.resblocks[taps[-1]]
    fewer = {"image_size": size, "map_sigma": 20.0}
    for name, detector, views, classes in (
        ("crane", Crane.from_parts(parts(built, tensors, **fewer)), e_views, static),
        (
            "crane at test with context",
            Crane.from_parts(parts(built, tensors, context_at_test=True, **fewer)),
            e_views,
            classes_of(built, tensors, cls),
        ),
        (
            "crane+",
            CranePlus(parts(built, tensors, **fewer), tower),
            torch.stack([e_views[-1], d_attention(built, model, pixels, paths.entering[last], block)]),
            static,
        ),
        (
            "crane+ as released",
            CranePlus(parts(built, tensors, values_after_attention=True, **fewer), tower),
            torch.stack([e_views[-1], d_attention(built, model, pixels, paths.attended[last], block)]),
            static,
        ),
    ):
        logits = views @ classes.T / 0.07
        rough = torch.stack([enlarge(torch.softmax(v, -1)[None, :, 1], size) for v in logits]).mean(0)
        maps = smooth(rough, 20 * size / 518)
        feature = image_feature(views, logits, cls)
        score = torch.softmax(feature @ classes.T / 0.07, -1)[1:]
        out = detector.score(pixels)
        assert maps.std() > 0.003, "a constant map would compare nothing"
        torch.testing.assert_close(out.maps, maps, atol=1e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
        torch.testing.assert_close(out.scores, score, atol=1e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def test_maps_of_mean_logits_are_those_of_the_industrial_scripts() -> None:
    detector, pixels = crane(map_fusion="logits", map_sigma=40.0), noise(1)
    paths, classes = image_paths(tiny().clip, pixels, "qq+kk+vv"), classes_of(tiny(), prompts(tiny()))
    logits = [project(tiny().clip, paths.local[tap])[0, 1:] @ classes.T / 0.07 for tap in range(4)]
    large = torch.stack([torch.stack([enlarge(v[None, :, row], 32) for row in (0, 1)], -1) for v in logits]).mean(0)
    expected = smooth(torch.softmax(large, -1)[..., 1], 40 * 32 / 518)
    torch.testing.assert_close(detector.score(pixels).maps, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_is_the_published_one(share: float) -> None:
    built, tensors, batch = tiny(), prompts(tiny()), labelled()
    paths = image_paths(built.clip, batch.pixels, "qq+kk+vv")
    cls = project(built.clip, paths.cls_token)
    views = torch.stack([project(built.clip, paths.local[tap])[:, 1:] for tap in range(4)])

    def expected(classes: Tensor) -> Tensor:
        logits = torch.stack([torch.stack([v[i] @ classes[i].T / 0.07 for i in range(4)]) for v in views])
        features = [image_feature(views[:, i], logits[:, i], cls[i]) for i in range(4)]
        image = torch.stack([f @ c.T / 0.01 for f, c in zip(features, classes, strict=True)])
        total = 0.2 * F.cross_entropy(image, batch.labels.long())
        for view in logits:
            p = torch.softmax(view, -1)
            normal, abnormal = (enlarge(p[..., row], 32, "nearest") for row in (0, 1))
            total = total + 2 * focal(abnormal, batch.mask) + 2 * dice((1 - normal + abnormal) / 2, batch.mask)
        return total

    guided = expected(torch.stack([classes_of(built, tensors, each) for each in cls]))
    static = expected(classes_of(built, tensors).expand(4, 2, -1))
    assert abs(float(guided - static)) > 1e-3, "the context would make no difference"
    value = crane(context_probability=share).loss(batch)
    torch.testing.assert_close(value, share * guided + (1 - share) * static, atol=1e-4, rtol=0)


def test_the_released_loss_is_reachable_by_its_name() -> None:
    """Four taps of one tensor, each with weight 2: one tap with weight 8, under prompts that see the image."""
    batch, built = labelled(), tiny()
    released, once = crane(recipe="released"), crane(feature_layers=(-1,), map_weight=8.0)
    torch.testing.assert_close(released.loss(batch), once.loss(batch), atol=1e-6, rtol=0)
    assert torch.equal(released.score(noise()).maps, crane(feature_layers=(-1,)).score(noise()).maps)
    assert released.layers == (3,)
    paths = image_paths(built.clip, batch.pixels, "qq+kk+vv")
    cls, patches = project(built.clip, paths.cls_token), project(built.clip, paths.local[-1])[:, 1:]
    classes = torch.stack([classes_of(built, prompts(built), each) for each in cls])
    logits = patches @ classes.mT / 0.07
    features = [image_feature(patches[i][None], logits[i][None], cls[i]) for i in range(4)]
    image = torch.stack([f @ c.T / 0.01 for f, c in zip(features, classes, strict=True)])
    total = 0.2 * F.cross_entropy(image, batch.labels.long())
    p = torch.softmax(logits, -1)
    normal, abnormal = (enlarge(p[..., row], 32, "nearest") for row in (0, 1))
    for _ in range(4):
        total = total + 2 * focal(abnormal, batch.mask) + 2 * dice((1 - normal + abnormal) / 2, batch.mask)
    torch.testing.assert_close(released.loss(batch), total, atol=1e-4, rtol=0)
    with pytest.raises(ModelError, match="must be left out as released"):
        crane(recipe="released", feature_layers=(0, 3))
    second_view = plus(recipe="released").loss(batch)
    torch.testing.assert_close(second_view, plus().loss(batch), msg="Crane+ has one tap")


def test_the_loss_falls_for_both_and_scores_follow_the_prompts() -> None:
    for detector, again in (
        (Crane.from_parts(parts(tiny())), lambda made: Crane.from_parts(made)),
        (CranePlus(parts(tiny()), second(32)[1]), lambda made: CranePlus(made, second(32)[1])),
    ):
        run, before = FewSteps(), detector.score(noise())
        detector.fit(run)
        assert run.losses[-1] < 0.97 * run.losses[0], detector.name
        after, same = detector.score(noise()), again(parts(tiny(), detector.state())).score(noise())
        assert (after.maps - before.maps).abs().max() > 1e-3
        torch.testing.assert_close(after.maps, same.maps, atol=1e-6, rtol=0)
        torch.testing.assert_close(after.scores, same.scores, atol=1e-6, rtol=0)


def test_training_reaches_the_prompts_alone() -> None:
    for detector in (crane(), plus()):
        detector.loss(labelled()).backward()
        learned = dict(detector.learned().named_parameters())
        assert set(learned) == {"context", "deep"}
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in learned.values())
        assert all(p.grad is None for p in (*detector.tower.parameters(), *tiny().clip.parameters()))


def test_an_interrupted_training_repeats_itself() -> None:
    """The released code draws which prompts a batch gets; a draw would come out differently after a resumption."""
    first, second_run = (crane(context_probability=0.5).loss(labelled()) for _ in range(2))
    assert torch.equal(first, second_run)


@pytest.mark.parametrize(
    "change",
    [
        {"feature_layers": (-1,)},
        {"local_attention": "vv"},
        {"local_start": 3},
        {"temperature": 0.2},
        {"map_fusion": "logits"},
        {"map_upsampling": "nearest"},
        {"map_sigma": 60.0},
        {"score_pooling": False},
        {"context_at_test": True},
        {"position_mode": "bicubic", "image_size": 48},
        {"round_deep": False},
    ],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()),
)
def test_every_choice_changes_the_scores(change: dict) -> None:
    size = change.get("image_size", 32)
    base = crane(map_sigma=10.0, image_size=size).score(noise(size=size))
    out = crane(**{"map_sigma": 10.0, **change}).score(noise(size=size))
    assert not (torch.equal(base.maps, out.maps) and torch.equal(base.scores, out.scores))


@pytest.mark.parametrize(
    "change",
    [
        {"train_temperature": 0.07},
        {"train_upsampling": "bilinear"},
        {"context_probability": 0.0},
        {"map_weight": 1.0},
        {"image_weight": 1.0},
        {"score_pooling": False},
        {"round_deep": False},
    ],
    ids=str,
)
def test_every_choice_of_training_changes_the_loss(change: dict) -> None:
    assert crane().loss(labelled()) != crane(**change).loss(labelled())


def test_learning_rate_and_seed_are_the_configurations() -> None:
    first, other = (Crane.from_parts(parts(tiny(), seed=seed)).state()["prompt.deep"] for seed in (0, 1))
    assert not torch.equal(first, other)
    detector = crane(lr=1e-2)
    before = detector.learned().context.detach().clone()
    detector.fit(FewSteps(steps=1))
    moved = (detector.learned().context.detach() - before).abs().max()
    assert float(moved) == pytest.approx(1e-2, rel=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {"feature_layers": (1, 3)},
        {"similarity_factor": 0.5},
        {"similarity_scale": 30.0},
        {"values_after_attention": True},
    ],
    ids=str,
)
def test_every_choice_of_crane_plus_changes_the_scores(change: dict) -> None:
    base, out = plus().score(noise()), plus(**change).score(noise())
    assert not torch.equal(base.maps, out.maps)


def test_the_second_tower_is_the_one_that_the_configuration_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def build(name: str) -> BuiltTower:
        asked.append(name)
        return replace(vit_built(), tower=second(32)[1])

    monkeypatch.setattr(crane_plus, "build_tower", build)
    detector = CranePlus.from_parts(parts(tiny(), prompts(tiny())))
    named = CranePlus.from_parts(parts(tiny(), prompts(tiny()), similarity_tower="timm:other"))
    assert asked == ["timm:vit_base_patch14_reg4_dinov2.lvd142m", "timm:other"]
    torch.testing.assert_close(detector.score(noise()).maps, plus().score(noise()).maps)
    assert named.describe()["config"]["similarity_tower"] == "timm:other"
    fast = detector.at_speed(0.5, early_exit=False)
    assert len(asked) == 2, "the second tower is kept, not read again"
    assert fast.image_size == 16


def test_attention_by_likeness_worked_by_hand() -> None:
    unit = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]]])
    # S = [[1, .8, -1], [.8, 1, -.8], [-1, -.8, 1]], mean (3 + 1.6 - 2 - 1.6) / 9 = 1/9, twice that is 2/9
    found = similarity_attention(unit, factor=2.0, scale=3.0)[0]
    near, far = torch.softmax(torch.tensor([3 * (1 - 2 / 9), 3 * (0.8 - 2 / 9)]), 0)
    torch.testing.assert_close(found, torch.tensor([[near, far, 0], [far, near, 0], [0, 0, 1]]))


def test_a_uniform_image_has_a_map_too() -> None:
    """The mean likeness is then above 1 / 1.2, so that nothing is left to attend to: the released code gives NaN."""
    same = F.normalize(torch.ones(1, 4, 8), dim=-1)
    torch.testing.assert_close(similarity_attention(same, 1.2, 3.0)[0], torch.eye(4))
    assert plus().score(torch.zeros(1, 3, 32, 32)).maps.isfinite().all()


def test_a_slice_does_not_depend_on_its_batch() -> None:
    for detector in (crane(), crane(context_at_test=True), plus()):
        together, alone = detector.score(noise(3)), detector.score(noise(3)[1:2])
        torch.testing.assert_close(alone.maps[0], together.maps[1], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.scores[0], together.scores[1], atol=1e-5, rtol=0)


def test_the_image_feature_is_drawn_to_patches_inside_the_patient_only() -> None:
    pixels, valid = noise(1), torch.zeros(1, 32, 32, dtype=torch.bool)
    valid[:, :8, :8] = True  # one patch
    paths, classes = image_paths(tiny().clip, pixels, "qq+kk+vv"), classes_of(tiny(), prompts(tiny()))
    one = F.normalize(torch.stack([project(tiny().clip, paths.local[tap])[0, 1] for tap in range(4)]).mean(0), dim=0)
    feature = F.normalize(0.5 * one + 0.5 * project(tiny().clip, paths.cls_token)[0], dim=0)
    expected = torch.softmax(feature @ classes.T / 0.07, -1)[1:]
    torch.testing.assert_close(crane().score(pixels, valid).scores, expected, atol=1e-5, rtol=0)
    outside = crane().score(pixels, torch.zeros_like(valid))
    torch.testing.assert_close(outside.scores, crane(score_pooling=False).score(pixels).scores, atol=1e-6, rtol=0)


def test_results_keep_their_shape_and_range() -> None:
    for detector in (crane(), plus(), crane(map_fusion="logits")):
        out = detector.score(noise())
        assert out.maps.shape == (2, 32, 32)
        assert out.scores.shape == (2,)
        assert out.maps.dtype == out.scores.dtype == torch.float32
        assert 0 <= out.maps.min() <= out.maps.max() <= 1
        assert 0 <= out.scores.min() <= out.scores.max() <= 1


def test_class_features_alone_are_enough_to_score() -> None:
    first = crane()
    state = first.state()
    assert set(state) == {"patch_classes", "image_classes", "prompt.context", "prompt.deep"}
    alone = Crane.from_parts(parts(tiny(), {"patch_classes": state["patch_classes"]}))
    torch.testing.assert_close(alone.score(noise()).maps, first.score(noise()).maps, atol=1e-6, rtol=0)
    with pytest.raises(ModelError, match="A detector of crane that is trained must hold its prompts"):
        alone.learned()


def test_speed_keeps_what_was_learned() -> None:
    detector = Crane.from_parts(parts(tiny(), image_size=64))
    detector.fit(FewSteps(steps=2, size=64))
    fast = detector.at_speed(0.5, early_exit=False)
    assert fast.image_size == 32
    torch.testing.assert_close(fast.state()["patch_classes"], detector.state()["patch_classes"])
    assert detector.at_speed(1, early_exit=True) is detector


def test_taps_are_the_quarters() -> None:
    assert quarters(24) == (5, 11, 17, 23)
    assert quarters(12) == (2, 5, 8, 11)
    assert quarters(2) == (0, 1)


@pytest.mark.parametrize(
    ("tensors", "config", "words"),
    [
        ({"patch_classes": torch.ones(2, 2, 32)}, {}, r"must be finite and of shape \(2, 32\)"),
        ({"patch_classes": torch.full((2, 32), float("nan"))}, {}, "must be finite"),
        ({"head_weights": torch.ones(4, 2)}, {}, "must hold prompt.context and prompt.deep, or class features"),
        ({"patch_classes": torch.ones(2, 32)}, {"context_at_test": True}, "with context_at_test must hold its prompts"),
        ({}, {"feature_layers": (4,)}, "Layers must lie between -4 and 3"),
        ({}, {"feature_layers": ()}, "Layers must lie between -4 and 3"),
        ({}, {"local_start": 4}, "first local block"),
        ({}, {"image_size": 30}, "Use 32"),
        ({}, {"map_fusion": "sum"}, "map_fusion"),
        ({}, {"context": 1}, "must use known keys"),
    ],
)
def test_wrong_parts_are_refused_in_words(tensors: dict, config: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Crane.from_parts(parts(tiny(), tensors, **config))


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (CraneConfig, {"temperature": 0.0}, "temperature must be positive"),
        (CraneConfig, {"train_temperature": float("nan")}, "train_temperature must be positive"),
        (CraneConfig, {"lr": 0.0}, "lr must be positive"),
        (CraneConfig, {"map_sigma": -1.0}, "map_sigma must be 0 or more"),
        (CraneConfig, {"map_weight": -1.0}, "map_weight must be 0 or more"),
        (CraneConfig, {"image_weight": float("inf")}, "image_weight must be 0 or more"),
        (CraneConfig, {"context_probability": 1.5}, "context_probability must lie in"),
        (CraneConfig, {"image_size": 0}, "image_size must be positive"),
        (CranePlusConfig, {"similarity_scale": 0.0}, "similarity_factor and similarity_scale must be positive"),
        (CranePlusConfig, {"similarity_factor": -1.0}, "similarity_factor and similarity_scale must be positive"),
    ],
)
def test_values_that_no_tower_can_run_are_refused(kind: type, values: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        kind(**values)


def test_towers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="must have a tower with a text side"):
        Crane.from_parts(parts(vit_built()))
    short = Crane.from_parts(parts(clip_built()))  # features of 24, text tokens of 32
    short.score(noise())
    with pytest.raises(ModelError, match="features of 24, tokens of 32"):
        short.loss(labelled())
    assert Crane.from_parts(parts(clip_built(), context_probability=0.0)).loss(labelled()).isfinite()
