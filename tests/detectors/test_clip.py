"""CLIP as a detector, and its maps from V-V attention, against the published equations on the module's own weights."""

from __future__ import annotations

from dataclasses import replace

import method_case
import numpy as np
import pytest
import torch
from plain_clip import (  # noqa: F401
    ABNORMAL,
    NORMAL,
    few_texts,
    plain_abnormal,
    plain_attention,
    plain_classes,
    plain_embedding,
    plain_heads,
    plain_mlp,
)
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors import Detector, HeadCLIP
from headclip_med.detectors.clip import Clip, ClipVV
from headclip_med.detectors.prompts import ensemble

METHODS = (Clip, ClipVV)


def plain_features(visual, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Image feature ``(N, D)`` and V-V patch features after the last block ``(N, P, D)``, both normalised."""
    tokens, local = plain_embedding(visual, pixels), None
    blocks = visual.transformer.resblocks
    for layer, block in enumerate(blocks):
        query, key, value = plain_heads(block, tokens)
        if layer == max(1, len(blocks) - 19):
            local = tokens
        if local is not None:
            local = local + plain_attention(block, value, value, value)
        tokens = tokens + plain_attention(block, query, key, value)
        tokens = tokens + plain_mlp(block, tokens)
    assert local is not None
    features = [
        F.layer_norm(each, each.shape[-1:], visual.ln_post.weight, visual.ln_post.bias) @ visual.proj
        for each in (tokens[:, 0], local[:, 1:])
    ]
    image, patches = (each / each.norm(dim=-1, keepdim=True) for each in features)
    return image, patches


@pytest.mark.parametrize(("shape", "native"), [("ViT-B/16", (224, 224)), ("ViT-L/14@336", (336, 518))])
@pytest.mark.usefixtures("few_texts")
@torch.inference_mode()
def test_scores_and_maps_are_the_published_equations(shape: str, native: tuple[int, int]) -> None:
    built, size = method_case.clip_built(shape), 112
    pixels = method_case.noise(1, size)
    assert tuple(method.from_parts(method_case.parts(built)).image_size for method in METHODS) == native
    classes = plain_classes(built.clip, built.tokenizer, NORMAL, ABNORMAL)
    image, patches = plain_features(built.clip.visual, pixels)

    out = Clip.from_parts(method_case.parts(built, image_size=size)).score(pixels)
    score = plain_abnormal(image, classes, 0.01)
    torch.testing.assert_close(out.scores, score, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.maps, score.view(1, 1, 1).expand(1, size, size), atol=1e-5, rtol=0)

    out = ClipVV.from_parts(method_case.parts(built, image_size=size)).score(pixels)
    side = round(patches.shape[1] ** 0.5)
    grid = plain_abnormal(patches, classes, 0.07).view(1, 1, side, side)
    wide = F.interpolate(grid, size=(size, size), mode="bilinear", align_corners=False)[0, 0]
    smooth = torch.from_numpy(gaussian_filter(wide.numpy(), sigma=4 * size / 518))
    torch.testing.assert_close(out.maps[0], smooth, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.scores[0], (score[0] + smooth.max()) / 2, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_the_score_is_that_of_clip_s_own_forward_and_of_the_whole_ensemble() -> None:
    parts, pixels = method_case.parts(temperature=0.1), method_case.noise(3)
    clip, tokenizer = parts.built.clip, parts.built.tokenizer
    image = F.normalize(clip.encode_image(pixels), dim=-1)
    logits = 10 * image @ plain_classes(clip, tokenizer, *ensemble(parts.anatomy, parts.abnormal)).T
    torch.testing.assert_close(Clip.from_parts(parts).score(pixels).scores, logits.softmax(-1)[:, 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_maps_and_scores_have_the_shapes_and_ranges_of_the_protocol(method: type[Detector]) -> None:
    detector = method.from_parts(method_case.parts())
    out = detector.score(method_case.noise())
    assert (out.maps.shape, out.scores.shape) == ((2, 32, 32), (2,))
    assert out.maps.dtype == out.scores.dtype == torch.float32
    assert 0 <= out.maps.min() <= out.maps.max() <= 1
    assert 0 <= out.scores.min() <= out.scores.max() <= 1
    assert detector.describe() == {"method": method.name, "image_size": 32, "config": detector.describe()["config"]}


def test_vv_of_nothing_learned_is_headclip_of_nothing_learned_where_temperatures_agree() -> None:
    parts, pixels = method_case.parts(), method_case.noise()
    same = HeadCLIP.from_parts(parts).score(pixels)
    out = ClipVV.from_parts(replace(parts, config={"image_temperature": 0.07})).score(pixels)
    torch.testing.assert_close(out.maps, same.maps, atol=1e-6, rtol=0)
    torch.testing.assert_close(out.scores, same.scores, atol=1e-6, rtol=0)


def test_without_the_map_the_score_is_that_of_clip() -> None:
    parts, pixels = method_case.parts(), method_case.noise()
    out = ClipVV.from_parts(replace(parts, config={"map_weight": 0.0})).score(pixels)
    torch.testing.assert_close(out.scores, Clip.from_parts(parts).score(pixels).scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("method", "change"),
    [
        (Clip, {"temperature": 0.5}),
        (Clip, {"image_size": 64}),
        (ClipVV, {"temperature": 0.5}),
        (ClipVV, {"image_temperature": 0.5}),
        (ClipVV, {"image_size": 64}),
        (ClipVV, {"feature_layers": (1, 3)}),
        (ClipVV, {"local_start": 3}),
        (ClipVV, {"map_sigma": 0.0}),
        (ClipVV, {"map_weight": 1.0}),
    ],
)
def test_every_choice_changes_the_outcome(method: type[Detector], change: dict) -> None:
    base = {"map_sigma": 40.0} if method is ClipVV else {}
    reference, other = (method.from_parts(method_case.parts(**base | more)) for more in ({}, change))
    assert other.describe() != reference.describe()
    outcomes = [d.score(method_case.noise(1, d.image_size)) for d in (reference, other)]
    assert not (torch.equal(outcomes[0].maps, outcomes[1].maps) and torch.equal(outcomes[0].scores, outcomes[1].scores))


@pytest.mark.parametrize(
    ("method", "change", "words"),
    [
        (Clip, {"temperature": 0.0}, "temperature: Input should be greater than 0"),
        (Clip, {"image_size": 0}, "image_size: Input should be greater"),
        (Clip, {"image_size": 30}, r"multiple of the patch size 8; given: 30 pixels. Use 32"),
        (Clip, {"map_weight": 0.5}, "known keys; given: map_weight"),
        (ClipVV, {"temperature": float("nan")}, "temperature: Input should be"),
        (ClipVV, {"image_temperature": -1.0}, "image_temperature: Input should be greater than 0"),
        (ClipVV, {"map_sigma": -1.0}, "map_sigma: Input should be greater than or equal to 0"),
        (ClipVV, {"map_weight": 1.5}, "map_weight: Input should be less than or equal to 1"),
        (ClipVV, {"feature_layers": (4,)}, "between -4 and 3"),
        (
            ClipVV,
            {"feature_layers": (0, 3)},
            r"must lie in the V-V path; given: layers \[0, 3\], V-V path from block 1",
        ),
        (ClipVV, {"local_start": 4}, "below the tower's depth 4"),
        (ClipVV, {"image_size": 30}, r"multiple of the patch size 8; given: 30 pixels. Use 32"),
    ],
)
def test_choices_that_cannot_be_meant_are_refused(method: type[Detector], change: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        method.from_parts(method_case.parts(**change))


@pytest.mark.parametrize("method", METHODS)
def test_a_tower_without_text_is_refused(method: type[Detector]) -> None:
    assert method.capabilities.uses_text
    with pytest.raises(ModelError, match=f"{method.name} must have a tower with a text side"):
        method.from_parts(method_case.parts(method_case.vit_built()))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_learned(method: type[Detector]) -> None:
    detector = method.from_parts(method_case.parts())
    assert detector.capabilities.zero_shot
    assert not detector.capabilities.trains
    assert detector.capabilities.localises == (method is ClipVV)
    assert detector.state() == {}
    with pytest.raises(ModelError, match="one that can train"):
        detector.fit(method_case.FewSteps())
    again = method.from_parts(replace(detector.parts, tensors=detector.state()))
    pixels = method_case.noise()
    assert torch.equal(again.score(pixels).maps, detector.score(pixels).maps)


def test_the_map_counts_inside_the_patient_only() -> None:
    detector = ClipVV.from_parts(method_case.parts(map_sigma=0.0, map_weight=1.0))
    pixels, valid = method_case.noise(1), torch.ones(1, 32, 32, dtype=torch.bool)
    free = detector.score(pixels)
    valid[free.maps == free.maps.max()] = False
    limited = detector.score(pixels, valid)
    assert torch.equal(limited.maps, free.maps)
    assert limited.scores.item() == np.float32(free.maps[valid].max()) < free.scores.item()


@pytest.mark.parametrize("method", METHODS)
def test_the_same_image_scores_the_same_alone_and_in_a_batch(method: type[Detector]) -> None:
    detector, pixels = method.from_parts(method_case.parts()), method_case.noise(4)
    together = detector.score(pixels)
    for i in range(4):
        alone = detector.score(pixels[i : i + 1])
        torch.testing.assert_close(alone.maps[0], together.maps[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.scores[0], together.scores[i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_another_speed_is_another_input_size(method: type[Detector]) -> None:
    detector = method.from_parts(method_case.parts())
    assert detector.at_speed(1, True) is detector
    slower = detector.at_speed(2, False)
    assert slower.image_size == 64
    assert slower.score(method_case.noise(1, 64)).maps.shape == (1, 64, 64)
