"""MVFA: adapters between frozen blocks, as the authors' released code computes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import cos, pi, sin, sqrt

import numpy as np
import pytest
import torch
from method_case import FewSteps, clip_built, labelled, noise, normals, parts, vit_built
from open_clip.transformer import QuickGELU
from plain_mvfa import (
    plain_logits,
    plain_read_outs,
)
from prompt_files import small_clip
from scipy.ndimage import map_coordinates
from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors import NormalPixels
from headclip_med.detectors.mvfa.bank import build_read_out_bank, distances, views
from headclip_med.detectors.mvfa.mvfa import MVFA
from headclip_med.encoders.build import BuiltTower
from headclip_med.encoders.image import quarters

SIZE = 112
NORMAL, ABNORMAL = ["a healthy brain", "brain"], ["a brain with a tumour"]


@pytest.fixture(scope="module", params=["ViT-B/16", "ViT-L/14@336"])
def full(request: pytest.FixtureRequest) -> Iterator[tuple[BuiltTower, MVFA]]:
    """A detector on a random CLIP of a real shape; of texts only three, which take 80 times longer than an image."""
    built = clip_built(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headclip_med.detectors.headclip.detector.ensemble", lambda *_: (NORMAL, ABNORMAL))
        detector = MVFA(parts(built, image_size=SIZE))
        with torch.no_grad():  # farther from zero than at the start, so that feedback and slopes show
            for parameter in detector.learned().parameters():
                parameter.mul_(2)
        yield built, detector


@pytest.fixture
def tiny() -> MVFA:
    return MVFA(parts(image_size=32))


# The plain reference: the published equations on open_clip's own weights.


@contextmanager
def gelu_texts(clip: nn.Module) -> Iterator[nn.Module]:
    """The text side with GELU, for as long as it is needed."""
    blocks = clip.transformer.resblocks
    before = [block.mlp.gelu for block in blocks]
    for block in blocks:
        block.mlp.gelu = nn.GELU()
    yield clip
    for block, activation in zip(blocks, before, strict=True):
        block.mlp.gelu = activation


def plain_texts(built: BuiltTower) -> Tensor:
    rows = []
    for texts in (NORMAL, ABNORMAL):
        with gelu_texts(built.clip) as clip:
            features = clip.encode_text(built.tokenizer(texts))
        mean = (features / features.norm(dim=-1, keepdim=True)).mean(dim=0)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


def plain_upsample(patches: Tensor) -> Tensor:
    """``(N, P, C)`` → ``(N, C, S, S)``."""
    side = round(sqrt(patches.shape[1]))
    image = patches.transpose(1, 2).unflatten(-1, (side, side))
    return F.interpolate(image, size=SIZE, mode="bilinear", align_corners=True)


def in_unit_range(built: BuiltTower, pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (built.tower.mean, built.tower.std))
    return pixels * std + mean


def plain_zero_shot(built: BuiltTower, state: dict[str, Tensor], pixels: Tensor) -> tuple[Tensor, Tensor]:
    texts = plain_texts(built)
    read = plain_read_outs(built.clip.visual, state, in_unit_range(built, pixels))
    maps, scores = 0, 0
    for logits in plain_logits(read["segmentation"], texts):
        maps = maps + torch.softmax(plain_upsample(logits), dim=1)[:, 1]
    for logits in plain_logits(read["detection"], texts):
        scores = scores + torch.softmax(logits, dim=-1)[..., 1].mean(dim=1)
    return maps / 4, scores / 4


def plain_views(image: Tensor) -> list[Tensor]:
    """Eleven views by scipy: coordinates from −1 to 1 over the image, mirrored at its border."""
    side = image.shape[-1]
    rows, cols = ((2 * each + 1) / side - 1 for each in np.indices((side, side)))
    places = [(cos(a) * cols - sin(a) * rows, sin(a) * cols + cos(a) * rows) for a in (-pi / 8, -pi / 16)]
    places += [(cos(a) * cols - sin(a) * rows, sin(a) * cols + cos(a) * rows) for a in (pi / 16, pi / 8)]
    places += [(cols + x, rows + y) for x, y in ((0.1, 0.1), (-0.1, 0.1), (-0.1, -0.1), (0.1, -0.1))]
    moved = []
    for x, y in places:
        at = [((y + 1) * side - 1) / 2, ((x + 1) * side - 1) / 2]
        channels = [map_coordinates(c.numpy().astype(float), at, order=1, mode="reflect") for c in image]
        moved.append(torch.from_numpy(np.stack(channels)).float())
    return [image, *moved, image.flip(-1), image.flip(-2)]


@torch.no_grad()
def test_maps_and_scores_are_those_of_the_published_equations(full: tuple[BuiltTower, MVFA]) -> None:
    built, detector = full
    out = detector.score(noise(1, SIZE))
    maps, scores = plain_zero_shot(built, detector.state(), noise(1, SIZE))
    assert maps.std() > 0.01  # nothing is hidden by saturation
    torch.testing.assert_close(out.maps, maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.scores, scores, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_loss_is_the_published_one(full: tuple[BuiltTower, MVFA]) -> None:
    built, detector = full
    batch = labelled(2, SIZE)
    read = plain_read_outs(built.clip.visual, detector.state(), in_unit_range(built, batch.pixels))
    texts, expected = plain_texts(built), torch.zeros(())
    for logits in plain_logits(read["segmentation"], texts):
        p = torch.softmax(plain_upsample(logits), dim=1)
        one_hot = torch.stack([1 - batch.mask, batch.mask], dim=1).clamp(1e-5, 1 - 1e-5)
        true_class = (one_hot * p).sum(dim=1) + 1e-5
        expected += (-((1 - true_class) ** 2) * true_class.log()).mean()
        overlap = 2 * (p[:, 1] * batch.mask).sum(dim=(1, 2)) + 1
        expected += 1 - (overlap / (p[:, 1].sum(dim=(1, 2)) + batch.mask.sum(dim=(1, 2)) + 1)).mean()
    for logits in plain_logits(read["detection"], texts):
        mean = torch.softmax(logits, dim=-1)[..., 1].mean(dim=1)
        chance = 1 / (1 + torch.exp(-mean))
        expected += -(batch.labels * chance.log() + (1 - batch.labels) * (1 - chance).log()).mean()
    torch.testing.assert_close(detector.loss(batch), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_memory_is_that_of_the_published_equations(
    full: tuple[BuiltTower, MVFA], monkeypatch: pytest.MonkeyPatch
) -> None:
    built, detector = full
    seen = normals(1, SIZE)
    monkeypatch.setattr("headclip_med.detectors.mvfa.bank.views", lambda image: views(image)[::4])  # three, for speed
    few = detector.adapt(seen)
    read, bank = (
        plain_read_outs(built.clip.visual, detector.state(), in_unit_range(built, pixels))
        for pixels in (noise(1, SIZE), torch.stack(plain_views(seen.pixels[0])[::4]))
    )
    maps, scores = plain_zero_shot(built, detector.state(), noise(1, SIZE))
    far = {}
    for head in ("segmentation", "detection"):
        total = torch.zeros(1, SIZE, SIZE)
        for each, rows in zip(read[head], bank[head], strict=True):
            each, rows = (x.flatten(0, 1) / x.flatten(0, 1).norm(dim=1, keepdim=True) for x in (each, rows))
            total += plain_upsample((1 - rows @ each.T).amin(dim=0)[None, :, None])[:, 0]
        far[head] = total / 4
    joint = 0.5 * maps + 0.5 * far["segmentation"]
    out = few.score(noise(1, SIZE))
    torch.testing.assert_close(out.maps, joint, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.scores, 0.5 * scores + 0.5 * far["detection"].mean(dim=(1, 2)), atol=1e-5, rtol=0)
    by_map = MVFA(replace(few.parts, config={"bank_score": "map_max"}))
    torch.testing.assert_close(by_map.score(noise(1, SIZE)).scores, joint.amax(dim=(1, 2)), atol=1e-5, rtol=0)


def test_the_views_are_the_published_ones() -> None:
    image = noise(1, 32)[0]
    torch.testing.assert_close(views(image), torch.stack(plain_views(image)), atol=1e-4, rtol=0)


def test_taps_are_the_ends_of_the_quarters_and_the_adapters_as_many_as_published() -> None:
    assert quarters(24) == (5, 11, 17, 23)
    assert quarters(12) == (2, 5, 8, 11)
    assert [quarters(depth) for depth in (1, 2, 3, 4)] == [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)]


@pytest.mark.parametrize("patch", [14, 16, 8])
def test_the_input_is_the_published_one_whatever_the_patch(patch: int) -> None:
    built = vit_built()
    built.tower.patch_size = patch
    assert MVFA(parts(built)).image_size == 240


def test_pixels_that_fill_no_patch_drop_out_and_the_map_is_whole() -> None:
    """As of a convolution over 240 pixels with patches of 14; here 36 with patches of 8."""
    detector, pixels = MVFA(parts(image_size=36)), noise(1, 36)
    cut = MVFA(parts(image_size=32)).score(pixels[..., :32, :32])
    out = detector.score(pixels, torch.ones(1, 36, 36, dtype=torch.bool))
    assert out.maps.shape == (1, 36, 36)
    torch.testing.assert_close(out.scores, cut.scores, atol=1e-6, rtol=0)
    torch.testing.assert_close(out.maps[0, ::35, ::35], cut.maps[0, ::31, ::31], atol=1e-6, rtol=0)
    changed = pixels.clone()
    changed[..., 32:] += 5
    assert torch.equal(detector.score(changed).maps, detector.score(pixels).maps)
    detector.loss(labelled(2, 36)).backward()
    assert detector.adapt(normals(1, 36)).score(pixels).maps.shape == (1, 36, 36)


def test_the_clip_computes_gelu_unless_told_otherwise() -> None:
    """The released code builds OpenAI's CLIP without its QuickGELU."""
    quick, gelu = clip_built(), small_clip(quick=False)
    assert MVFA(parts(quick)).tower.blocks[0].qkv_weight is quick.tower.blocks[0].qkv_weight, "nothing is copied"
    for own, expected in ((MVFA(parts(quick)), MVFA(parts(gelu))), (MVFA(parts(gelu)), MVFA(parts(gelu)))):
        assert torch.equal(own.score(noise()).maps, expected.score(noise()).maps)
    kept = MVFA(parts(quick, gelu=False)).score(noise()).maps
    assert 1e-5 < (kept - MVFA(parts(quick)).score(noise()).maps).abs().max() < 0.1
    assert any(isinstance(part, QuickGELU) for part in quick.clip.modules()), "the tower itself is as it was"


@pytest.mark.parametrize("built", [clip_built, vit_built], ids=["with texts", "without"])
def test_training_lowers_the_loss_and_leaves_the_tower_alone(built) -> None:
    tower = built()
    before = {name: value.clone() for name, value in tower.tower.model.state_dict().items()}
    detector, run = MVFA(parts(tower, lr=1e-3)), FewSteps()
    detector.fit(run)
    assert run.losses[-1] < 0.97 * run.losses[0]
    assert all(torch.equal(value, before[name]) for name, value in tower.tower.model.state_dict().items())


@pytest.mark.parametrize("change", [{"lr": 1e-2}, {"betas": (0.9, 0.9)}])
def test_the_optimiser_follows_the_configuration(change: dict) -> None:
    runs = [FewSteps(3), FewSteps(3)]
    for run, config in zip(runs, ({}, change), strict=True):
        MVFA(parts(**config)).fit(run)
    assert runs[0].losses[0] == runs[1].losses[0]
    assert runs[0].losses[-1] != runs[1].losses[-1]


def test_both_losses_reach_every_adapter_through_the_frozen_blocks(tiny: MVFA) -> None:
    segmentation, detection = tiny._margins(tiny._read_outs(noise()))
    for margins, head in ((segmentation, "detection"), (detection, "segmentation")):
        last = margins[-1].square().sum()
        up, down = torch.autograd.grad(last, [tiny.heads[head].up, tiny.heads[head].down], retain_graph=True)
        assert (up.flatten(1).norm(dim=1) > 0).all()
        assert (down.flatten(1).norm(dim=1) > 0).tolist() == [True, True, True, False]


def test_without_texts_every_tap_of_both_heads_learns_vectors() -> None:
    detector = MVFA(parts(vit_built(), bottleneck=10))
    assert detector.heads["detection"].classes.shape == (4, 2, 10)
    pixels = noise(1)
    read = detector._read_outs(pixels)[1, 2, 0]
    classes = F.normalize(detector.heads["detection"].classes[2], dim=-1)
    logits = 100 * read @ classes.T
    torch.testing.assert_close(
        detector._margins(detector._read_outs(pixels))[1, 2, 0], logits[:, 1] - logits[:, 0], atol=1e-4, rtol=0
    )
    assert set(MVFA(parts()).state()) == {f"{head}.{part}" for head in detector.heads for part in ("down", "up")}


@pytest.mark.parametrize("with_memory", [False, True])
@pytest.mark.parametrize("built", [clip_built, vit_built], ids=["with texts", "without"])
def test_the_state_makes_the_same_detector_again(built, with_memory: bool) -> None:
    detector = MVFA(parts(built(), seed=3))
    detector.fit(FewSteps(2))
    detector = detector.adapt(normals()) if with_memory else detector
    again = MVFA.from_parts(parts(built(), detector.state()))
    expected, out = detector.score(noise()), again.score(noise())
    assert torch.equal(out.maps, expected.maps)
    assert torch.equal(out.scores, expected.scores)
    assert again.describe()["memory"] == (352 if with_memory else 0)


@pytest.mark.parametrize(
    "change",
    [
        {"feature_layers": (1, 3)},
        {"temperature": 0.1},
        {"feedback": 0.3},
        {"clip_normalisation": True},
        {"gelu": False},
        {"bank_size": 3},
        {"bank_weight": 0.9},
        {"bank_score": "map_max"},
        {"seed": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_choice_of_the_configuration_changes_the_outcome(change: dict) -> None:
    reference, out = (MVFA(parts(**config)).adapt(normals()).score(noise()) for config in ({}, change))
    assert not (torch.equal(reference.maps, out.maps) and torch.equal(reference.scores, out.scores))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 0}, "image_size must be positive"),
        ({"image_size": 7}, "at least a patch of 8 pixels; given: 7 pixels"),
        ({"feature_layers": (4,)}, "Layers must lie between -4 and 3"),
        ({"bottleneck": 0}, "bottleneck must be at least 1"),
        ({"bottleneck": 7}, "text features, 24; given: 7. Leave bottleneck out"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"feedback": 0.6}, "feedback must lie between 0 and 0.5"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"betas": (1.0, 0.9)}, "betas must lie"),
        ({"bank_size": 0}, "bank_size must be at least 1"),
        ({"bank_weight": 2.0}, "bank_weight must lie"),
        ({"bank_score": "median"}, "bank_score"),
        ({"depth": 1}, "depth"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_that_cannot_be_run_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        MVFA(parts(**change))


def test_tensors_that_do_not_fit_are_refused_in_words(tiny: MVFA) -> None:
    state = tiny.adapt(normals()).state()
    nan = torch.full_like(state["segmentation.up"], float("nan"))
    for change, words in (
        ({"feature_layers": (1, 3)}, r"must fit its method.*given: detection.down \(4, 24, 32\)"),
        ({}, "segmentation.classes missing"),
    ):
        built = clip_built() if change else vit_built()
        with pytest.raises(ModelError, match=words):
            MVFA(parts(built, tiny.state(), **change))
    for broken, words in (
        ({"segmentation.up": nan}, "must be finite numbers"),
        ({"bank.detection": torch.zeros(4, 1, 24)}, "The memory of test must be bank.detection and bank.segmentation"),
        ({"bank.detection": torch.zeros(3)}, "The memory of test must be"),
        ({"bank.other": torch.zeros(4, 352, 24)}, "The memory of test must be"),
        ({"bank.detection": nan.new_full((4, 352, 24), float("nan"))}, "The memory of test must hold finite"),
    ):
        with pytest.raises(ModelError, match=words):
            MVFA(parts(tensors={**state, **broken}))
    with pytest.raises(ModelError, match="beside its adapters"):
        MVFA(parts(tensors={name: value for name, value in state.items() if name.startswith("bank.")}))


@pytest.mark.parametrize("bank_score", [None, "detection", "map_max"])
def test_scores_look_inside_the_patient_only(bank_score: str | None) -> None:
    detector = MVFA(parts(**({} if bank_score is None else {"bank_score": bank_score})))
    detector = detector if bank_score is None else detector.adapt(normals())
    valid = torch.zeros(2, 32, 32, dtype=torch.bool)
    valid[:, 8:24, :16] = True
    out = detector.score(noise(), valid)
    assert torch.equal(out.maps, detector.score(noise()).maps)
    read = detector._read_outs(noise())
    patches = detector._margins(read).sigmoid()[1].unflatten(-1, (4, 4))[:, :, 1:3, :2].mean(dim=(0, 2, 3))
    if bank_score is None:
        expected = patches
    elif bank_score == "detection":
        far = detector._upsample(distances(read[1], detector.bank[1]), noise()).mean(dim=0)
        expected = 0.5 * patches + 0.5 * far[:, 8:24, :16].mean(dim=(1, 2))
    else:
        expected = out.maps[:, 8:24, :16].amax(dim=(1, 2))
    torch.testing.assert_close(out.scores, expected, atol=1e-5, rtol=0)
    nowhere = detector.score(noise(), torch.zeros_like(valid))
    assert nowhere.scores.tolist() == [0, 0]


def test_the_same_image_scores_the_same_alone_in_a_batch_and_again(tiny: MVFA) -> None:
    for detector in (tiny, tiny.adapt(normals())):
        together = detector.score(noise(5))
        assert torch.equal(detector.score(noise(5)).maps, together.maps)
        assert together.maps.shape == (5, 32, 32)
        assert together.maps.dtype == together.scores.dtype == torch.float32
        for i in range(5):
            alone = detector.score(noise(5)[i : i + 1])
            torch.testing.assert_close(alone.maps[0], together.maps[i], atol=1e-5, rtol=0)
            torch.testing.assert_close(alone.scores[0], together.scores[i], atol=1e-5, rtol=0)


def test_a_remembered_image_is_near_and_another_is_far(tiny: MVFA) -> None:
    few = tiny.adapt(normals())
    assert few.bank is not None
    for pixels, near in ((normals().pixels, True), (noise(), False)):
        found = distances(few._read_outs(pixels)[0], few.bank[0])
        assert bool(found.amax() < 1e-5) == near
    again = few.adapt(NormalPixels(noise(), torch.ones(2, 32, 32, dtype=torch.bool)))
    assert again.bank is not None
    assert again.bank.shape == few.bank.shape  # anew, not on top
    assert distances(again._read_outs(noise())[0], again.bank[0]).amax() < 1e-5


def test_a_large_memory_is_a_random_part_of_all_views_of_all_images() -> None:
    def numbered(pixels: Tensor) -> Tensor:
        """A patch says of which image it is."""
        return pixels[None, None, :, :1, 0, :1].expand(2, 3, -1, 5, 7)

    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    bank, again, other = (build_read_out_bank(numbered, images, 60, seed) for seed in (0, 0, 1))
    assert bank.shape == (2, 3, 60, 7)
    assert torch.equal(bank, again)
    assert not torch.equal(bank, other)
    assert (torch.bincount(bank[0, 0, :, 0].round().long()) > 5).all()
    assert build_read_out_bank(numbered, images, 1000, 0).shape[2] == 4 * 11 * 5


def test_a_tower_in_16_bits_scores_nearly_the_same_and_trains(tiny: MVFA) -> None:
    built = clip_built.__wrapped__()
    built.tower.place(torch.device("cpu"), torch.bfloat16)
    half = MVFA(parts(built, image_size=32))
    torch.testing.assert_close(half.score(noise()).maps, tiny.score(noise()).maps, atol=0.05, rtol=0)
    half.loss(labelled()).backward()
    assert all(each.grad.dtype == torch.float32 for each in half.learned().parameters())


def test_no_normal_image_is_refused(tiny: MVFA) -> None:
    with pytest.raises(ModelError, match="at least one normal slice"):
        tiny.adapt(normals(0))


def test_another_speed_keeps_what_was_learned_and_the_memory(tiny: MVFA) -> None:
    few = tiny.adapt(normals())
    fast = few.at_speed(0.5, early_exit=True)
    assert fast.image_size == 16
    state = few.state()
    assert all(torch.equal(value, state[name]) for name, value in fast.state().items())
