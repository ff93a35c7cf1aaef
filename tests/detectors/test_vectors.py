"""The text-free detector: two learned vectors a tap on any frozen tower."""

from __future__ import annotations

from math import exp, sqrt

import pytest
import timm
import torch
from method_case import FewSteps, clip_built, labelled, noise, parts, vit_built
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F
from towers import timm_tower

from headclip_med.base.errors import ModelError
from headclip_med.detectors.vectors import Vectors, middle_and_last
from headclip_med.encoders.build import BuiltTower

SIZE = 112


def dino_built() -> BuiltTower:
    """A random tower as DINOv2 with registers has it: patches of 14, layer scale, four register tokens."""
    tower = timm_tower(img_size=SIZE, patch_size=14, embed_dim=64, depth=6, reg_tokens=4, no_embed_class=True)
    return BuiltTower(tower, "timm", "vit_small_random", "random", "0" * 64)


def trained(built: BuiltTower, **config: object) -> Vectors:
    """A detector whose vectors moved off their initial values."""
    detector = Vectors(parts(built, **config))
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in detector.learned().parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return detector


# The plain reference: raw tokens of each block by hand, then the equations.


def plain_attention(block, x: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    n, t, width = x.shape
    qkv = x @ weight.T + bias
    q, k, v = (part.reshape(n, t, heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    weights = torch.softmax(q @ k.transpose(-1, -2) / sqrt(width // heads), dim=-1)
    return (weights @ v).transpose(1, 2).reshape(n, t, width)


def plain_features(built: BuiltTower, pixels: Tensor) -> tuple[list[Tensor], Tensor, int]:
    """Projected tokens after each block, the global feature and the number of prefix tokens; not normalised."""
    model, found = built.tower.model, []
    if isinstance(model, timm.models.vision_transformer.VisionTransformer):
        patches = model.patch_embed.proj(pixels).flatten(2).transpose(1, 2) + model.pos_embed
        prefix = torch.cat([model.cls_token, model.reg_token], dim=1).expand(len(pixels), -1, -1)
        x = torch.cat([prefix, patches], dim=1)
        for block in model.blocks:
            attention = block.attn
            y = plain_attention(block, block.norm1(x), attention.qkv.weight, attention.qkv.bias, attention.num_heads)
            x = x + block.ls1.gamma * attention.proj(y)
            x = x + block.ls2.gamma * block.mlp(block.norm2(x))
            found.append(model.norm(x))
        return found, found[-1][:, 0], 5
    patches, side = model.conv1(pixels).flatten(2).transpose(1, 2), SIZE // model.patch_size[0]
    stored = model.positional_embedding
    image = stored[1:].T.reshape(1, -1, round(sqrt(len(stored) - 1)), round(sqrt(len(stored) - 1)))
    image = F.interpolate(image, size=(side, side), mode="bicubic", antialias=True)
    x = torch.cat([model.class_embedding.expand(len(pixels), 1, -1), patches], dim=1)
    x = model.ln_pre(x + torch.cat([stored[:1], image.flatten(2)[0].T]))
    for block in model.transformer.resblocks:
        attention = block.attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        x = x + attention.out_proj(plain_attention(block, block.ln_1(x), weight, bias, attention.num_heads))
        x = x + block.mlp(block.ln_2(x))
        found.append(model.ln_post(x) @ model.proj)
    return found, found[-1][:, 0], 1


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def plain_score(built: BuiltTower, state: dict[str, Tensor], pixels: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """p_abnormal of both taps ``(N, g, g)``, smooth maps and joint scores."""
    tokens, feature, prefix = plain_features(built, pixels)
    scale, depth = exp(state["log_scale"]), len(tokens)
    patches = []
    for tap, number in enumerate((depth // 2, depth)):
        logits = scale * unit(tokens[number - 1][:, prefix:]) @ unit(state["patch_vectors"][tap]).T
        p = torch.softmax(logits, dim=-1)[..., 1]
        patches.append(p.unflatten(-1, (round(sqrt(p.shape[1])),) * 2))
    coarse = (patches[0] + patches[1]) / 2
    fine = F.interpolate(coarse[:, None], size=SIZE, mode="bilinear", align_corners=False)[:, 0]
    smooth = [gaussian_filter(each.double().numpy(), 4 * SIZE / 518, mode="reflect") for each in fine]
    maps = torch.stack([torch.from_numpy(each) for each in smooth]).float()
    image = torch.softmax(scale * unit(feature) @ unit(state["image_vectors"]).T, dim=-1)[:, 1]
    return patches, maps, 0.5 * image + 0.5 * maps.amax(dim=(1, 2))


@pytest.mark.parametrize("shape", ["DINOv2-like", "ViT-B/16", "ViT-L/14@336"])
@torch.no_grad()
def test_maps_scores_and_loss_are_those_of_the_equations(shape: str) -> None:
    built = dino_built() if shape == "DINOv2-like" else clip_built(shape)
    detector, batch = trained(built, image_size=SIZE), labelled(2, SIZE)
    state = detector.state()
    out = detector.score(batch.pixels)
    patches, maps, scores = plain_score(built, state, batch.pixels)
    torch.testing.assert_close(out.maps, maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.scores, scores, atol=1e-5, rtol=0)
    side = patches[0].shape[-1]
    g = batch.mask.unflatten(1, (side, -1)).unflatten(3, (side, -1)).mean(dim=(2, 4))
    of_maps = 0.0
    for p in patches:
        true_class = g.clamp(1e-5, 1 - 1e-5) * p + (1 - g).clamp(1e-5, 1 - 1e-5) * (1 - p) + 1e-5
        of_maps += float((-((1 - true_class) ** 2) * true_class.log()).mean())
        for a, b in ((p, g), (1 - p, 1 - g)):
            overlap = (2 * (a * b).sum(dim=(1, 2)) + 1) / (a.sum(dim=(1, 2)) + b.sum(dim=(1, 2)) + 1)
            of_maps += float(1 - overlap.mean())
    image = 2 * scores - maps.amax(dim=(1, 2))
    of_images = -(batch.labels * image.log() + (1 - batch.labels) * (1 - image).log()).mean()
    assert float(detector.loss(batch)) == pytest.approx(float(of_images) + 4 * of_maps, abs=1e-4)


def test_the_default_taps_are_half_way_up_and_the_last_block() -> None:
    assert [middle_and_last(depth) for depth in (1, 2, 12, 24)] == [(0,), (0, 1), (5, 11), (11, 23)]


def test_clip_at_336_is_run_at_518_and_any_other_tower_at_its_own_size() -> None:
    built = vit_built()
    assert Vectors(parts(built)).image_size == 32
    built.tower.native_size, built.tower.patch_size = 336, 14
    assert Vectors(parts(built)).image_size == 518
    assert Vectors(parts(built, image_size=28)).image_size == 28


@pytest.mark.parametrize("built", [clip_built, vit_built], ids=["CLIP", "DINOv2"])
def test_training_lowers_the_loss_and_leaves_the_tower_alone(built) -> None:
    tower = built()
    before = {name: value.clone() for name, value in tower.tower.model.state_dict().items()}
    detector, run = Vectors(parts(tower, lr=0.02)), FewSteps()
    scale = detector.state()["log_scale"].clone()
    detector.fit(run)
    assert run.losses[-1] < 0.7 * run.losses[0]
    assert detector.state()["log_scale"] != scale
    assert all(torch.equal(value, before[name]) for name, value in tower.tower.model.state_dict().items())


def test_the_published_learning_rate_lowers_the_loss_too() -> None:
    run = FewSteps()
    Vectors(parts(vit_built())).fit(run)
    assert run.losses[-1] < run.losses[0]


@pytest.mark.parametrize("change", [{"lr": 1e-2}, {"betas": (0.9, 0.9)}, {"map_weight": 0.0}])
def test_training_follows_the_configuration(change: dict) -> None:
    runs = [FewSteps(3), FewSteps(3)]
    for run, config in zip(runs, ({}, change), strict=True):
        Vectors(parts(**config)).fit(run)
    assert runs[0].losses[-1] != runs[1].losses[-1]


@pytest.mark.parametrize("built", [clip_built, vit_built], ids=["CLIP", "DINOv2"])
def test_the_state_makes_the_same_detector_again(built) -> None:
    detector = Vectors(parts(built(), seed=3))
    detector.fit(FewSteps(2))
    again = Vectors.from_parts(parts(built(), detector.state()))
    expected, out = detector.score(noise()), again.score(noise())
    assert set(detector.state()) == {"patch_vectors", "image_vectors", "log_scale"}
    assert torch.equal(out.maps, expected.maps)
    assert torch.equal(out.scores, expected.scores)


@pytest.mark.parametrize(
    "change",
    [
        {"feature_layers": (1, 3)},
        {"feature_layers": (1,)},
        {"local_attention": "vv"},
        {"temperature": 0.01},
        {"map_sigma": 60.0},
        {"jas_weight": 1.0},
        {"seed": 5},
    ],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()),
)
def test_every_choice_of_the_configuration_changes_the_outcome(change: dict) -> None:
    base = {"feature_layers": (0, 3)}
    reference, out = (Vectors(parts(**config)).score(noise()) for config in (base, {**base, **change}))
    assert not (torch.equal(reference.maps, out.maps) and torch.equal(reference.scores, out.scores))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 0}, "image_size must be positive"),
        ({"image_size": 30}, "multiple of the patch size 8; given: 30 pixels. Use 32"),
        ({"feature_layers": (4,)}, "Layers must lie between -4 and 3"),
        ({"local_attention": "kk"}, "local_attention"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"map_weight": -1.0}, "map_weight must be 0 or more"),
        ({"map_sigma": -1.0}, "map_sigma must be 0 or more"),
        ({"jas_weight": 1.5}, "jas_weight must lie"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"betas": (0.5, 1.0)}, "betas must lie"),
        ({"width": 1}, "width"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_that_cannot_be_run_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Vectors(parts(**change))


def test_tensors_that_do_not_fit_are_refused_in_words() -> None:
    state = Vectors(parts()).state()
    for built, tensors, words in (
        (vit_built(), state, r"given: image_vectors \(2, 24\), patch_vectors \(2, 2, 24\)"),
        (clip_built(), {**state, "more": state["log_scale"]}, r"given: more \(\)"),
        (clip_built(), {"log_scale": state["log_scale"]}, "image_vectors missing, patch_vectors missing"),
        (clip_built(), {**state, "log_scale": torch.tensor(float("nan"))}, "must be finite numbers"),
    ):
        with pytest.raises(ModelError, match=words):
            Vectors(parts(built, tensors))


def test_scores_look_inside_the_patient_only() -> None:
    detector = trained(vit_built(), jas_weight=1.0)
    valid = torch.zeros(2, 32, 32, dtype=torch.bool)
    valid[:, 8:24, :16] = True
    out = detector.score(noise(), valid)
    assert torch.equal(out.maps, detector.score(noise()).maps)
    assert torch.equal(out.scores, out.maps[:, 8:24, :16].amax(dim=(1, 2)))


def test_nothing_is_learned_from_outside_the_patient() -> None:
    detector, batch = trained(clip_built()), labelled()
    valid = batch.valid.clone()
    valid[:, :16] = False
    mask = batch.mask.clone()
    mask[:, :16] = 1 - mask[:, :16]
    first, other = (detector.loss(type(batch)(batch.pixels, each, valid, batch.labels)) for each in (batch.mask, mask))
    assert torch.equal(first, other)


def test_the_same_image_scores_the_same_alone_in_a_batch_and_again() -> None:
    detector = trained(vit_built())
    together = detector.score(noise(5))
    assert torch.equal(detector.score(noise(5)).maps, together.maps)
    assert together.maps.shape == (5, 32, 32)
    assert together.maps.dtype == together.scores.dtype == torch.float32
    for i in range(5):
        alone = detector.score(noise(5)[i : i + 1])
        torch.testing.assert_close(alone.maps[0], together.maps[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.scores[0], together.scores[i], atol=1e-5, rtol=0)


def test_a_tower_in_16_bits_scores_nearly_the_same_and_trains() -> None:
    built = vit_built()
    built.tower.place(torch.device("cpu"), torch.bfloat16)
    half = Vectors(parts(built))
    torch.testing.assert_close(
        half.score(noise()).maps, Vectors(parts(vit_built())).score(noise()).maps, atol=0.02, rtol=0
    )
    half.loss(labelled()).backward()
    assert all(each.grad.dtype == torch.float32 for each in half.learned().parameters())


def test_another_speed_keeps_the_vectors() -> None:
    detector = trained(vit_built())
    again = Vectors.from_parts(parts(vit_built(), detector.state()))
    fast = again.at_speed(0.5, early_exit=True)
    assert fast.image_size == 16
    assert torch.equal(fast.state()["patch_vectors"], detector.state()["patch_vectors"])


def test_the_tower_needs_no_text_side() -> None:
    assert not Vectors.capabilities.uses_text
    assert Vectors.capabilities.needs_state
    assert Vectors(parts(vit_built())).describe()["method"] == "vectors"
