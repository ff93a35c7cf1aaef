"""AnomalyCLIP: the published equations, and its training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from family_reference import dice, enlarge, focal, image_paths, project, smooth, text_features
from method_case import FewSteps, clip_built, labelled, noise, parts, vit_built
from prompt_files import small_clip
from torch import Tensor
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors import AnomalyCLIP
from headclip_med.detectors.anomalyclip import AnomalyCLIPConfig
from headclip_med.encoders.build import BuiltTower
from headclip_med.encoders.text import prompt_tokens


def prompts(built: BuiltTower, deep: int = 8, scale: float = 1.0) -> dict[str, Tensor]:
    """Prompts as large as embeddings of a random tower, so that the two classes lie apart."""
    draw, width = torch.Generator().manual_seed(7), built.clip.token_embedding.weight.shape[1]
    return {
        "prompt.context": scale * torch.randn(2, 12, width, generator=draw),
        "prompt.deep": scale * torch.randn(deep, 4, width, generator=draw),
    }


def reference_classes(built: BuiltTower, tensors: dict[str, Tensor]) -> Tensor:
    tokens = prompt_tokens(built.tokenizer)
    return text_features(built.clip, tokens, tensors["prompt.context"], tensors["prompt.deep"])


@pytest.mark.parametrize(("shape", "size"), [("ViT-B/16", 128), ("ViT-L/14@336", 112)])
def test_the_forward_is_the_published_one(shape: str, size: int) -> None:
    built = clip_built(shape)
    clip, tensors, pixels = built.clip, prompts(built), noise(1, size)
    depth = len(clip.visual.transformer.resblocks)
    taps = (depth // 2, depth - 1)
    detector = AnomalyCLIP.from_parts(parts(built, tensors, image_size=size, feature_layers=taps, map_sigma=20.0))
    out = detector.score(pixels)
    paths, classes = image_paths(clip, pixels, "vv"), reference_classes(built, tensors)
    abnormal = [torch.softmax(project(clip, paths.local[t])[:, 1:] @ classes.T / 0.07, -1)[..., 1] for t in taps]
    maps = smooth(sum(enlarge(p, size) for p in abnormal) / 2, 20 * size / 518)
    feature = F.normalize(paths.cls_token @ clip.visual.proj, dim=-1)  # without ln_post, as released
    score = torch.softmax(feature @ classes.T / 0.07, -1)[:, 1]
    assert maps.std() > 0.005, "a constant map would compare nothing"
    torch.testing.assert_close(out.maps, maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.scores, score, atol=1e-5, rtol=0)


def test_the_loss_is_the_published_one() -> None:
    built, batch = clip_built(), labelled()
    tensors = prompts(built)
    detector = AnomalyCLIP.from_parts(parts(built, tensors, feature_layers=(1, 3), map_weight=4.0))
    value = detector.loss(batch)
    paths, classes = image_paths(built.clip, batch.pixels, "vv"), reference_classes(built, tensors)
    feature = F.normalize(paths.cls_token @ built.clip.visual.proj, dim=-1)
    expected = F.cross_entropy(feature @ classes.T / 0.07, batch.labels.long())
    for tap in (1, 3):
        p = torch.softmax(project(built.clip, paths.local[tap])[:, 1:] @ classes.T / 0.07, -1)
        normal, abnormal = (enlarge(p[..., row], 32) for row in (0, 1))
        one = focal(abnormal, batch.mask) + dice(abnormal, batch.mask) + dice(normal, 1 - batch.mask)
        expected = expected + 4 * one
    torch.testing.assert_close(value, expected, atol=1e-5, rtol=0)


def test_the_loss_falls_and_scores_follow_the_prompts() -> None:
    detector, run = AnomalyCLIP.from_parts(parts()), FewSteps()
    before = detector.score(noise())
    tower = [p.clone() for p in detector.tower.model.parameters()]
    detector.fit(run)
    assert run.losses[-1] < 0.97 * run.losses[0]
    after, again = detector.score(noise()), AnomalyCLIP.from_parts(parts(tensors=detector.state())).score(noise())
    assert (after.maps - before.maps).abs().max() > 1e-3
    torch.testing.assert_close(after.maps, again.maps, atol=1e-6, rtol=0)
    torch.testing.assert_close(after.scores, again.scores, atol=1e-6, rtol=0)
    same = all(torch.equal(p, q) for p, q in zip(tower, detector.tower.model.parameters(), strict=True))
    assert same, "the tower is frozen"


def test_training_reaches_the_prompts_alone() -> None:
    detector = AnomalyCLIP.from_parts(parts())
    detector.loss(labelled()).backward()
    learned = dict(detector.learned().named_parameters())
    assert set(learned) == {"context", "deep"}
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in learned.values())
    assert all(p.grad is None for p in (*detector.tower.parameters(), *clip_built().clip.parameters()))


def test_state_is_enough_to_score_without_a_text_side_and_to_train_with_one() -> None:
    built = clip_built()
    first = AnomalyCLIP.from_parts(parts(built, prompts(built)))
    state = first.state()
    assert {name: tuple(v.shape) for name, v in state.items()} == {
        "patch_classes": (2, 24),
        "image_classes": (2, 24),
        "prompt.context": (2, 12, 32),
        "prompt.deep": (8, 4, 32),
    }
    blind = AnomalyCLIP.from_parts(parts(replace(built, clip=None, tokenizer=None), state))
    torch.testing.assert_close(blind.score(noise()).maps, first.score(noise()).maps, atol=1e-6, rtol=0)
    assert set(blind.state()) == {"patch_classes", "image_classes"}
    with pytest.raises(ModelError, match="must hold its prompts and have a text side"):
        blind.learned()
    again = AnomalyCLIP.from_parts(parts(built, state))
    torch.testing.assert_close(again.loss(labelled()), first.loss(labelled()), atol=1e-5, rtol=0)


def test_features_of_every_tap_and_a_centre_survive() -> None:
    built = vit_built()
    classes = F.normalize(torch.randn(2, 2, 48, generator=torch.Generator().manual_seed(0)), dim=-1)
    tensors = {"patch_classes": classes, "centre": torch.full((2, 48), 0.1)}
    detector = AnomalyCLIP.from_parts(parts(built, tensors, feature_layers=(1, 3)))
    state = detector.state()
    torch.testing.assert_close(state["patch_classes"], classes)
    assert torch.equal(state["centre"], tensors["centre"])
    assert "image_classes" not in state


def test_a_tower_alone_gets_fresh_prompts_by_its_seed() -> None:
    first, same, other = (AnomalyCLIP.from_parts(parts(seed=seed)).state()["prompt.context"] for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert 0.015 < first.std() < 0.025


@pytest.mark.parametrize(
    "change",
    [
        {"map_weight": 1.0},
        {"temperature": 0.1},
        {"round_deep": False},
        {"map_upsampling": "nearest"},
        {"feature_layers": (1, 3)},
        {"local_attention": "qk"},
        {"local_start": 2},
    ],
)
def test_every_choice_of_training_changes_the_loss(change: dict) -> None:
    tensors = prompts(clip_built())
    plain, changed = (AnomalyCLIP.from_parts(parts(tensors=tensors, **c)).loss(labelled()) for c in ({}, change))
    assert plain != changed


def test_the_learning_rate_is_the_configurations() -> None:
    slow, fast = (AnomalyCLIP.from_parts(parts(lr=lr)) for lr in (1e-5, 1e-2))
    for detector, change in ((slow, 1e-5), (fast, 1e-2)):
        before = detector.learned().context.detach().clone()
        detector.fit(FewSteps(steps=1))
        moved = (detector.learned().context.detach() - before).abs().max()
        assert float(moved) == pytest.approx(change, rel=1e-2)


def test_a_state_stays_what_it_was_while_training_goes_on() -> None:
    detector = AnomalyCLIP.from_parts(parts())
    detector.fit(FewSteps(steps=1))
    state = detector.state()
    copy = {name: value.clone() for name, value in state.items()}
    detector.fit(FewSteps(steps=1))
    assert all(torch.equal(value, copy[name]) for name, value in state.items())


def test_speed_keeps_what_was_learned() -> None:
    detector = AnomalyCLIP.from_parts(parts(feature_layers=(1, 3), image_size=64))
    detector.fit(FewSteps(steps=2, size=64))
    fast = detector.at_speed(0.5, early_exit=True)
    assert (fast.image_size, fast.layers) == (32, (1,))
    assert torch.equal(fast.state()["prompt.deep"], detector.state()["prompt.deep"])
    torch.testing.assert_close(fast.state()["patch_classes"], detector.state()["patch_classes"])


def test_the_same_image_scores_the_same_alone_and_in_a_batch() -> None:
    detector = AnomalyCLIP.from_parts(parts(tensors=prompts(clip_built())))
    together = detector.score(noise(3))
    alone = detector.score(noise(3)[1:2])
    torch.testing.assert_close(alone.maps[0], together.maps[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.scores[0], together.scores[1], atol=1e-5, rtol=0)


def test_a_patient_mask_leaves_the_image_score_as_it_is() -> None:
    """The score is of the class token alone, which no mask limits."""
    detector, valid = AnomalyCLIP.from_parts(parts()), torch.zeros(2, 32, 32, dtype=torch.bool)
    assert torch.equal(detector.score(noise(), valid).scores, detector.score(noise()).scores)


def _nan(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, float("nan"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {"prompt.context": t["prompt.context"]}, "must hold prompt.context and prompt.deep"),
        (lambda _t: {"head_weights": torch.ones(4, 2)}, "must hold prompt.context and prompt.deep"),
        (lambda t: {**t, "prompt.context": t["prompt.context"][:1]}, r"must be \(2, contexts, 32\)"),
        (lambda t: {**t, "prompt.context": torch.ones(2, 12, 8)}, r"must be \(2, contexts, 32\)"),
        (lambda t: {**t, "prompt.deep": torch.ones(9, 4, 32)}, "fewer than 9 blocks"),
        (lambda t: {**t, "prompt.deep": torch.ones(8, 13, 32)}, "at most the 12 context tokens"),
        (lambda t: {**t, "prompt.deep": _nan(t["prompt.deep"])}, "Prompts must be finite"),
        (lambda _t: {"patch_classes": torch.ones(2, 5)}, r"shape \(2, 24\)"),
    ],
)
def test_wrong_tensors_are_refused_in_words(change, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        AnomalyCLIP.from_parts(parts(tensors=change(prompts(clip_built()))))


def test_a_tower_without_a_text_side_cannot_start() -> None:
    with pytest.raises(ModelError, match="must have a tower with a text side"):
        AnomalyCLIP.from_parts(parts(vit_built()))


def test_values_that_cannot_train_are_refused() -> None:
    for wrong in ({"map_weight": -1.0}, {"lr": 0.0}, {"lr": float("inf")}):
        with pytest.raises(ModelError, match="map_weight must be 0 or more and lr positive"):
            AnomalyCLIPConfig(**wrong)


def test_a_short_text_side_gets_fewer_deep_prompts() -> None:
    state = AnomalyCLIP.from_parts(parts(small_clip(text_layers=3))).state()
    assert state["prompt.deep"].shape == (2, 4, 32)
