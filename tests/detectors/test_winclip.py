"""WinCLIP against the published equations, written as loops over windows and patches."""

from __future__ import annotations

from dataclasses import replace

import method_case
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
from torch import Tensor
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors import NormalPixels
from headclip_med.detectors import scoring as nearest
from headclip_med.detectors.scoring import half_cosine_distance
from headclip_med.detectors.winclip import windows as winclip_windows
from headclip_med.detectors.winclip.winclip import WinCLIP
from headclip_med.detectors.winclip.windows import harmonic_map, harmonic_mean, window_places

PATCHES, TWO, THREE = "references.patches", "references.windows_2", "references.windows_3"


def tiny(**config: object) -> WinCLIP:
    """On the tiny CLIP at 32 px, a grid of 4 × 4 patches."""
    return WinCLIP(method_case.parts(**{"image_size": 32, **config}))


def plain_run(visual, tokens: Tensor) -> Tensor:
    for block in visual.transformer.resblocks:
        tokens = tokens + plain_attention(block, *plain_heads(block, tokens))
        tokens = tokens + plain_mlp(block, tokens)
    return tokens


def plain_norm(visual, tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], visual.ln_post.weight, visual.ln_post.bias)


def plain_windows(side: int, size: int) -> list[list[int]]:
    """Patches of each window, numbered by rows."""
    places = range(side - size + 1)
    return [
        [side * (top + row) + left + col for row in range(size) for col in range(size)]
        for top in places
        for left in places
    ]


def plain_harmonic(scores: list[float], windows: list[list[int]], side: int) -> Tensor:
    """For every patch, the harmonic mean of the scores of the windows that hold it."""
    found = []
    for patch in range(side * side):
        covering = [1 / score for score, window in zip(scores, windows, strict=True) if patch in window]
        found.append(len(covering) / sum(covering))
    return torch.tensor(found).view(side, side)


def unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=-1, keepdim=True)


def plain_features(visual, pixels: Tensor, side: int, patch_norm: bool) -> dict[str, Tensor]:
    """Of one image: its own feature, those of its windows, and its patch tokens; each normalised."""
    tokens = plain_embedding(visual, pixels)
    whole = plain_run(visual, tokens)[0]
    found = {
        "image": plain_norm(visual, whole[:1]) @ visual.proj,
        PATCHES: plain_norm(visual, whole[1:]) if patch_norm else whole[1:],
    }
    for name, size in ((TWO, 2), (THREE, 3)):
        seen = torch.cat([tokens[:, [0, *(p + 1 for p in window)]] for window in plain_windows(side, size)])
        found[name] = plain_norm(visual, plain_run(visual, seen)[:, 0]) @ visual.proj
    return {name: unit(features) for name, features in found.items()}


def plain_text(found: dict[str, Tensor], classes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Score of the image, and the harmonic mean over the image and both window sizes ``(side, side)``."""
    image = plain_abnormal(found["image"], classes, 0.07)[0]
    inverse = torch.full((side, side), float(1 / image))
    for name, size in ((TWO, 2), (THREE, 3)):
        scores = plain_abnormal(found[name], classes, 0.07).tolist()
        inverse = inverse + 1 / plain_harmonic(scores, plain_windows(side, size), side)
    return image, 3 / inverse


def plain_association(found: dict[str, Tensor], normal: list[dict[str, Tensor]], side: int) -> Tensor:
    """Mean of the distances to normal patches and to normal windows of both sizes ``(side, side)``."""
    distances = {}
    for name in (PATCHES, TWO, THREE):
        cosines = found[name] @ torch.cat([each[name] for each in normal]).T
        distances[name] = (1 - cosines.max(dim=1).values) / 2
    maps = [distances[PATCHES].view(side, side)]
    for name, size in ((TWO, 2), (THREE, 3)):
        maps.append(plain_harmonic(distances[name].tolist(), plain_windows(side, size), side))
    return (maps[0] + maps[1] + maps[2]) / 3


@pytest.mark.parametrize(
    ("shape", "native", "size", "patch_norm"),
    [("tiny", 240, 32, False), ("tiny", 240, 32, True), ("ViT-B/16", 240, 64, True), ("ViT-L/14@336", 238, 56, True)],
)
@pytest.mark.usefixtures("few_texts")
@torch.inference_mode()
def test_scores_and_maps_are_the_published_equations(shape: str, native: int, size: int, patch_norm: bool) -> None:
    built, pixels, side = method_case.clip_built(shape), method_case.noise(1, size), 4
    assert WinCLIP(method_case.parts(built)).image_size == native
    classes = plain_classes(built.clip, built.tokenizer, NORMAL, ABNORMAL)
    found = plain_features(built.clip.visual, pixels, side, patch_norm)
    image, patches = plain_text(found, classes, side)

    detector = WinCLIP(method_case.parts(built, image_size=size, patch_norm=patch_norm))
    out = detector.score(pixels)
    torch.testing.assert_close(out.scores[0], image, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.maps[0], _wide(patches, size), atol=1e-5, rtol=0)

    normals = method_case.normals(2 if shape == "tiny" else 1, size)  # a second one takes seconds
    normal = [plain_features(built.clip.visual, each[None], side, patch_norm) for each in normals.pixels]
    distances = plain_association(found, normal, side)
    out = detector.adapt(normals).score(pixels)
    torch.testing.assert_close(out.scores[0], (image + distances.max()) / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.maps[0], _wide((patches + distances) / 2, size), atol=1e-5, rtol=0)


def _wide(patches: Tensor, size: int) -> Tensor:
    return F.interpolate(patches[None, None], size=(size, size), mode="bilinear", align_corners=False)[0, 0]


def test_windows_slide_over_the_grid_by_one_patch() -> None:
    assert window_places((3, 3), 2).tolist() == [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    assert window_places((3, 3), 3).tolist() == [list(range(9))]
    assert window_places((2, 3), 2).tolist() == [[0, 1, 3, 4], [1, 2, 4, 5]]
    assert len(window_places((15, 15), 2)) == 196
    assert len(window_places((15, 15), 3)) == 169


def test_a_patch_has_the_harmonic_mean_of_its_windows() -> None:
    """Worked by hand: the top edge is 2 / (1/0.2 + 1/0.4), the centre 4 / (5 + 2.5 + 5/3 + 1.25)."""
    scores = torch.tensor([[0.2, 0.4, 0.6, 0.8], [0.0, 0.5, 0.5, 0.5]])
    want = [
        [[0.2, 0.266667, 0.4], [0.3, 0.384, 0.533333], [0.6, 0.685714, 0.8]],
        [[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.5, 0.5, 0.5]],
    ]
    torch.testing.assert_close(harmonic_map(scores, (3, 3), 2), torch.tensor(want), atol=1e-6, rtol=0)
    # a grid of two rows and three columns: the middle column is in both windows
    got = harmonic_map(torch.tensor([[0.2, 0.6]]), (2, 3), 2)
    torch.testing.assert_close(got, torch.tensor([[[0.2, 0.3, 0.6]] * 2]), atol=1e-6, rtol=0)


def test_scales_are_joined_by_their_harmonic_mean() -> None:
    maps = [torch.tensor([0.2, 0.5, 0.0]), torch.tensor([0.3, 0.5, 1.0]), torch.tensor([0.6, 0.5, 1.0])]
    torch.testing.assert_close(harmonic_mean(maps), torch.tensor([0.3, 0.5, 0.0]))


def test_association_is_half_the_distance_to_the_nearest_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.6, 0.8]]])
    references = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, -1.0]])
    want = torch.tensor([[0.0, 0.2, 0.5, 0.02]])
    for at_once in (4096, 1, 2):
        monkeypatch.setattr(nearest, "_REFERENCES", at_once)
        torch.testing.assert_close(half_cosine_distance(features, references), want)


def test_windows_are_the_same_however_many_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, pixels = tiny(), method_case.noise(3)
    reference = detector.score(pixels).maps
    for at_once in (1, 7):
        monkeypatch.setattr(winclip_windows, "_SEQUENCES", at_once)
        torch.testing.assert_close(detector.score(pixels).maps, reference, atol=1e-6, rtol=0)


def test_a_window_of_the_whole_grid_is_the_image() -> None:
    out = tiny(window_sizes=(4,)).score(method_case.noise(2))
    torch.testing.assert_close(out.maps, out.scores.view(2, 1, 1).expand(2, 32, 32), atol=1e-6, rtol=0)


def test_maps_and_scores_have_the_shapes_and_ranges_of_the_protocol() -> None:
    for detector in (tiny(), tiny().adapt(method_case.normals())):
        out = detector.score(method_case.noise())
        assert (out.maps.shape, out.scores.shape) == ((2, 32, 32), (2,))
        assert out.maps.dtype == out.scores.dtype == torch.float32
        assert 0 <= out.maps.min() <= out.maps.max() <= 1
        assert 0 <= out.scores.min() <= out.scores.max() <= 1


def test_the_default_input_is_the_multiple_of_the_patch_nearest_to_240() -> None:
    assert WinCLIP(method_case.parts()).image_size == 240
    assert tiny().at_speed(0.75, False).image_size == 24


def test_a_normal_image_itself_has_no_distance_to_the_normal_images() -> None:
    normals, detector = method_case.normals(), tiny()
    zero_shot, out = (d.score(normals.pixels) for d in (detector, detector.adapt(normals)))
    torch.testing.assert_close(out.maps, zero_shot.maps / 2, atol=1e-4, rtol=0)
    torch.testing.assert_close(out.scores, zero_shot.scores / 2, atol=1e-4, rtol=0)
    other = detector.adapt(method_case.normals(seed=6)).score(normals.pixels)
    assert (other.scores > out.scores + 0.01).all()


def test_adapting_leaves_the_detector_as_it_was_and_replaces_what_was_seen() -> None:
    detector, pixels = tiny(), method_case.noise()
    before = detector.score(pixels)
    adapted = detector.adapt(method_case.normals(3))
    assert torch.equal(detector.score(pixels).maps, before.maps)
    assert adapted.describe()["references"] == {PATCHES: 48, TWO: 27, THREE: 12}
    assert "references" not in detector.describe()
    again, once = adapted.adapt(method_case.normals(1)), detector.adapt(method_case.normals(1))
    assert torch.equal(again.score(pixels).maps, once.score(pixels).maps)


def test_what_was_seen_survives_as_tensors() -> None:
    adapted, pixels = tiny().adapt(method_case.normals()), method_case.noise()
    state = adapted.state()
    assert {name: tuple(each.shape) for name, each in state.items()} == {
        PATCHES: (32, 32),
        TWO: (18, 24),
        THREE: (8, 24),
    }
    again = WinCLIP.from_parts(replace(adapted.parts, tensors=state))
    assert torch.equal(again.score(pixels).maps, adapted.score(pixels).maps)
    assert torch.equal(again.score(pixels).scores, adapted.score(pixels).scores)
    assert tiny().state() == {}
    faster = adapted.at_speed(0.75, False)
    assert faster.state().keys() == state.keys()
    assert faster.score(method_case.noise(1, 24)).maps.shape == (1, 24, 24)


def test_the_association_counts_inside_the_patient_only() -> None:
    """The only patch that differs from the normal image lies outside the patient."""
    normals, detector = method_case.normals(1), tiny(window_sizes=(1,))
    pixels = normals.pixels.clone()
    pixels[..., :8, :8] = method_case.noise(1, 8, seed=9)
    valid = torch.ones(1, 32, 32, dtype=torch.bool)
    adapted = detector.adapt(normals)
    free = adapted.score(pixels)
    assert torch.equal(adapted.score(pixels, valid).scores, free.scores)
    valid[..., :8, :8] = False
    limited = adapted.score(pixels, valid)
    assert torch.equal(limited.maps, free.maps)
    assert limited.scores < free.scores
    assert torch.equal(detector.score(pixels, valid).scores, detector.score(pixels).scores)
    nowhere = adapted.score(pixels, torch.zeros_like(valid))
    torch.testing.assert_close(nowhere.scores, detector.score(pixels).scores / 2)


@pytest.mark.parametrize(
    "change",
    [{"image_size": 40}, {"window_sizes": (2,)}, {"temperature": 0.01}, {"patch_norm": False}, {"map_sigma": 40.0}],
)
def test_every_choice_changes_the_outcome(change: dict) -> None:
    reference, other = tiny(), tiny(**change)
    assert other.describe() != reference.describe()
    outcomes = []
    for detector in (reference, other):
        size = detector.image_size
        outcomes.append(detector.adapt(method_case.normals(2, size)).score(method_case.noise(1, size)).maps)
    assert not torch.equal(*outcomes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"window_sizes": (2, 5)}, "at most the grid's 4 patches, each once; given: 2, 5"),
        ({"window_sizes": (2, 2)}, "each once; given: 2, 2"),
        ({"window_sizes": ()}, "given: none"),
        ({"window_sizes": (0,)}, "window_sizes: Input should be greater"),
        ({"temperature": 0.0}, "temperature: Input should be greater than 0"),
        ({"map_sigma": float("inf")}, "map_sigma: Input should be"),
        ({"image_size": 0}, "image_size: Input should be greater"),
        ({"image_size": 30}, r"multiple of the patch size 8; given: 30 pixels. Use 32"),
        ({"windows": (2,)}, "known keys; given: windows"),
    ],
)
def test_choices_that_cannot_be_meant_are_refused(change: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        tiny(**change)


def test_a_tower_without_text_is_refused() -> None:
    assert WinCLIP.capabilities.uses_text
    with pytest.raises(ModelError, match="winclip must have a tower with a text side"):
        WinCLIP(method_case.parts(method_case.vit_built()))


def test_a_tower_that_averages_its_patches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = method_case.parts()
    monkeypatch.setattr(parts.built.tower, "pool", "average")
    with pytest.raises(ModelError, match="feature is its class token; given: small, which averages its patches"):
        WinCLIP(parts)


def test_no_normal_image_is_refused() -> None:
    none = NormalPixels(method_case.noise(0), torch.ones(0, 32, 32, dtype=torch.bool))
    with pytest.raises(ModelError, match="at least one normal slice"):
        tiny().adapt(none)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({THREE: None}, "References of test must be rows"),
        ({TWO: torch.ones(3, 32)}, "References of test must be rows"),
        ({PATCHES: torch.ones(0, 32)}, "References of test must be rows"),
        ({PATCHES: torch.ones(32)}, "References of test must be rows"),
        ({"references.windows_5": torch.ones(3, 24)}, "References of test must be rows"),
        ({"head_weights": torch.ones(4)}, "References of test must be rows"),
        ({TWO: torch.full((3, 24), float("nan"))}, "References must be finite"),
    ],
)
def test_references_that_do_not_fit_are_refused(change: dict, words: str) -> None:
    good = {PATCHES: torch.ones(4, 32), TWO: torch.ones(4, 24), THREE: torch.ones(4, 24)}
    tensors = {name: each for name, each in {**good, **change}.items() if each is not None}
    with pytest.raises(ModelError, match=words):
        WinCLIP(method_case.parts(None, tensors, image_size=32))


def test_the_same_image_scores_the_same_alone_and_in_a_batch() -> None:
    for detector in (tiny(), tiny().adapt(method_case.normals())):
        pixels = method_case.noise(4)
        together = detector.score(pixels)
        for i in range(4):
            alone = detector.score(pixels[i : i + 1])
            torch.testing.assert_close(alone.maps[0], together.maps[i], atol=1e-5, rtol=0)
            torch.testing.assert_close(alone.scores[0], together.scores[i], atol=1e-5, rtol=0)
