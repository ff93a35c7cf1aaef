"""The encoder equals the libraries' own forward, and a plain reference of the V-V path."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F
from towers import SHAPES, clip_tower, clip_visual, timm_model, timm_tower

from headclip_med.base.errors import HeadclipError, InputError, ModelError
from headclip_med.encoders.adapters import tower_from_open_clip, tower_from_timm
from headclip_med.encoders.attention import attend, attend_locally
from headclip_med.encoders.head_weights import DynamicHeadWeights, check_head_weights, fold, place_head_weights
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import EncodeOptions, encode_images, first_local_block, resolve_layers
from headclip_med.encoders.timm_vit import TimmVitSpec, build_timm_vit
from headclip_med.encoders.tower import interpolate_positions


def pixels(size: int, count: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def reference_local_features(visual, image: Tensor, start: int, weights: Tensor | None = None) -> Tensor:
    """AnomalyCLIP's local path, written head by head from the published equations."""
    heads = visual.transformer.resblocks[0].attn.num_heads
    x = visual._embeds(image)
    local = None
    for layer, block in enumerate(visual.transformer.resblocks):
        if layer == start:
            local = x
        if local is not None:
            u = block.ln_1(x)
            width = u.shape[-1]
            w_v, b_v = block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :]
            value, d = u @ w_v.T + b_v, width // heads
            outputs = []
            for h in range(heads):
                v = value[..., h * d : (h + 1) * d]
                o = torch.softmax(v @ v.transpose(1, 2) / d**0.5, dim=-1) @ v
                outputs.append(o if weights is None else weights[layer, h] * o)
            local = local + torch.cat(outputs, dim=-1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
        x = block(x)
    return F.normalize(visual.ln_post(local)[:, 1:] @ visual.proj, dim=-1)


@pytest.mark.parametrize("shape", ["tiny", "ViT-B/16", "ViT-L/14@336"])
def test_open_clip_global_path_and_vv_path_equal_plain_references(shape: str) -> None:
    visual = clip_visual(shape)
    tower = tower_from_open_clip(visual)
    image, last = pixels(SHAPES[shape]["image_size"]), tower.depth - 1
    start = first_local_block(tower.depth)
    weights = 1 + 0.3 * torch.randn(tower.depth, tower.heads, generator=torch.Generator().manual_seed(2))
    head_weights = HeadWeights(local=weights)
    with torch.inference_mode():
        features = encode_images(tower, image, EncodeOptions((last,)), head_weights=head_weights)
        folded = encode_images(
            tower,
            image,
            EncodeOptions((last,), want_global=False),
            head_weights=head_weights,
            folded=fold(head_weights, tower),
        )
        torch.testing.assert_close(features.global_feature, F.normalize(visual(image), dim=-1), atol=1e-5, rtol=0)
        expected = reference_local_features(visual, image, start, weights)
    torch.testing.assert_close(features.patch_features[last], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(folded.patch_features[last], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 3}, {"reg_tokens": 2, "no_embed_class": True}, {"qk_norm": True}]
)
def test_timm_global_and_plain_patch_features_equal_timm(options: dict) -> None:
    model = timm_model(**options)
    tower = tower_from_timm(model)
    image = pixels(32, 2)
    with torch.inference_mode():
        features = encode_images(tower, image, EncodeOptions((3,), local_attention="none"))
        tokens = F.normalize(model.forward_features(image), dim=-1)
    assert tower.prefix == 1 + options.get("reg_tokens", 0)
    torch.testing.assert_close(features.global_feature, tokens[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(features.patch_features[3], tokens[:, tower.prefix :], atol=1e-5, rtol=0)


def test_timm_middle_layer_and_larger_grid_equal_timm() -> None:
    model = timm_model(dynamic_img_size=True)
    tower = tower_from_timm(model)
    image = pixels(48)
    with torch.inference_mode():
        features = encode_images(tower, image, EncodeOptions((1,), local_attention="none", want_global=False))
        (expected,) = model.get_intermediate_layers(image, n=[1], norm=True)
    assert features.grid == (6, 6)
    assert features.global_feature is None
    torch.testing.assert_close(features.patch_features[1], F.normalize(expected, dim=-1), atol=1e-5, rtol=0)


def test_encoding_never_touches_the_frozen_weights() -> None:
    tower = clip_tower()
    before = {name: value.clone() for name, value in tower.model.state_dict().items()}
    weights = HeadWeights(local=torch.full((4, 4), 1.5), global_=torch.full((4, 4), 0.5))
    encode_images(tower, pixels(64), EncodeOptions((2, 3)), head_weights=weights, folded=fold(weights, tower))
    after = tower.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not any(module._forward_hooks for module in tower.modules())


def test_position_embeddings_interpolate_functionally() -> None:
    # A 2×2 grid whose value is its row: on 4 rows, bilinear half-pixel sampling gives 0, 1/4, 3/4, 1.
    positions = torch.tensor([9.0, 0, 0, 1, 1]).view(1, 5, 1)
    bigger = interpolate_positions(positions, (4, 4), prefix=1, mode="bilinear")
    assert bigger[0, 0, 0] == 9
    np.testing.assert_allclose(bigger[0, 1:, 0].view(4, 4)[:, 0], [0, 0.25, 0.75, 1])
    assert interpolate_positions(positions, (2, 2), prefix=1) is positions


def test_attention_by_hand_and_all_kernels_agree() -> None:
    # One head of width 1: q·k = 0 and ln 3, so the weights are 1/4 and 3/4 and the output 3.
    q, k = torch.tensor([[[[1.0]]]]), torch.tensor([[[[0.0], [np.log(3.0)]]]], dtype=torch.float32)
    v = torch.tensor([[[[0.0], [4.0]]]])
    for kernel in ("fused", "matmul"):
        torch.testing.assert_close(attend(q, k, v, kernel=kernel), torch.tensor([[[[3.0]]]]))
    big = torch.randn(2, 3, 50, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attend(big, big, big, kernel="fused"), attend(big, big, big, kernel="matmul"))


def test_local_attention_choices() -> None:
    generator = torch.Generator().manual_seed(0)
    qkv = tuple(torch.randn(1, 2, 5, 8, generator=generator) for _ in range(3))
    ordinary = attend(*qkv)
    q, k, v = qkv
    expected = {
        "vv": attend(v, v, v),
        "qk": ordinary,
        "qq+kk+vv": attend(q, q, v) + attend(k, k, v) + attend(v, v, v),
    }
    for kind, full in expected.items():
        torch.testing.assert_close(attend_locally(kind, qkv, ordinary, prefix=1), full[:, :, 1:])


@pytest.mark.parametrize("kind", ["vv", "qk", "qq+kk+vv", "none"])
def test_head_weights_of_one_change_nothing_and_others_do(kind: str) -> None:
    tower, image, options = timm_tower(), pixels(32), EncodeOptions((3,), local_attention=kind)
    plain = encode_images(tower, image, options)
    ones = torch.ones(4, 4)
    for weights in (HeadWeights(ones, ones), HeadWeights(ones, ones, "attention_temperature")):
        same = encode_images(tower, image, options, head_weights=weights)
        torch.testing.assert_close(same.patch_features[3], plain.patch_features[3], atol=1e-5, rtol=0)
        torch.testing.assert_close(same.global_feature, plain.global_feature, atol=1e-5, rtol=0)
    local = encode_images(tower, image, options, head_weights=HeadWeights(local=2 * ones))
    changed = not torch.allclose(local.patch_features[3], plain.patch_features[3], atol=1e-3)
    assert changed == (kind != "none"), "local weights act on the local branch only"
    torch.testing.assert_close(local.global_feature, plain.global_feature)
    both = encode_images(tower, image, options, head_weights=HeadWeights(global_=2 * ones))
    assert not torch.allclose(both.global_feature, plain.global_feature, atol=1e-3)


def test_features_before_the_last_norm_are_linear_in_the_local_head_weights() -> None:
    """The consequence that fast training rests on: x(w) − x(0) doubles with w (docs: method, LHW)."""
    tower, image = clip_tower(), pixels(32)
    taps = []

    def record(tokens: Tensor, *, norm: bool = True) -> Tensor:
        taps.append(tokens.double())
        return tokens

    tower.project = record  # type: ignore[method-assign]
    for factor in (0.0, 1.0, 2.0):
        weights = HeadWeights(local=torch.full((4, 4), factor))
        encode_images(tower, image, EncodeOptions((3,), want_global=False), head_weights=weights)
    zero, one, two = taps
    torch.testing.assert_close(two - zero, 2 * (one - zero), atol=1e-5, rtol=1e-5)


def test_per_channel_weights_fold_to_the_same_features() -> None:
    tower, image = timm_tower(), pixels(32)
    weights = HeadWeights(local=1 + 0.5 * torch.rand(4, 4, 12, generator=torch.Generator().manual_seed(0)))
    unfolded = encode_images(tower, image, EncodeOptions((3,)), head_weights=weights)
    folded = encode_images(tower, image, EncodeOptions((3,)), head_weights=weights, folded=fold(weights, tower))
    torch.testing.assert_close(folded.patch_features[3], unfolded.patch_features[3], atol=1e-5, rtol=0)


def test_dynamic_head_weights_start_at_the_frozen_tower_and_differ_per_image_once_trained() -> None:
    tower, images = clip_tower(), pixels(32, 2)
    dynamic = DynamicHeadWeights(tower.width, tower.depth, tower.heads)
    plain = encode_images(tower, images, EncodeOptions((3,)))
    start = encode_images(tower, images, EncodeOptions((3,)), head_weights=dynamic)
    torch.testing.assert_close(start.patch_features[3], plain.patch_features[3], atol=1e-5, rtol=0)
    torch.nn.init.normal_(dynamic.output.weight)
    factors = dynamic(torch.randn(2, tower.width)).local
    assert factors is not None
    assert factors.shape == (2, 4, 4)
    assert not torch.allclose(factors[0], factors[1])


def test_place_head_weights_leaves_unchosen_layers_at_one() -> None:
    weights = place_head_weights(torch.full((3, 2), 5.0), depth=4, layers="dual")
    assert weights.global_ is None
    assert weights.local is not None
    assert weights.local[:, 0].tolist() == [1, 5, 5, 5]
    with pytest.raises(ModelError, match="1 or 3 rows"):
        place_head_weights(torch.ones(2, 2), depth=4, layers="dual")


@pytest.mark.parametrize(
    ("layers", "tapped", "expected"),
    [("tapped", (3, 1), [1, 6, 1, 5]), (2, (), [1, 1, 5, 6]), ("all", (), [5, 6, 7, 8]), ("dual", (), [1, 5, 6, 7])],
)
def test_head_weights_go_to_the_layers_that_were_chosen(layers: object, tapped: tuple, expected: list[int]) -> None:
    rows = torch.arange(5.0, 9.0)[: sum(e > 1 for e in expected), None].expand(-1, 2)
    weights = place_head_weights(rows, depth=4, layers=layers, tapped=tapped)  # type: ignore[arg-type]
    assert weights.local is not None
    assert weights.local[:, 0].tolist() == expected


@pytest.mark.parametrize("count", [0, 5, -1])
def test_more_last_layers_than_there_are_are_refused(count: int) -> None:
    with pytest.raises(ModelError, match="must be 1 to 4"):
        place_head_weights(torch.ones(1, 2), depth=4, layers=count)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (HeadWeights(local=torch.full((4, 4), float("nan"))), "local head weights must be finite"),
        (HeadWeights(global_=torch.full((4, 4), float("inf"))), "global head weights must be finite"),
        (HeadWeights(local=torch.ones(4, 4, 16)), "must have 12 channels a head; given: 16"),
    ],
)
def test_head_weights_that_cannot_be_used_are_refused(weights: HeadWeights, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        check_head_weights(weights, timm_tower())


def test_head_weights_for_another_tower_are_refused() -> None:
    with pytest.raises(ModelError, match=r"\(4, 4\) of the tower; given: \(12, 6\)"):
        check_head_weights(HeadWeights(local=torch.ones(12, 6)), timm_tower())


@pytest.mark.parametrize(
    ("depth", "start"),
    [(24, 5), (12, 1), (4, 1)],
)
def test_local_path_covers_the_last_19_blocks(depth: int, start: int) -> None:
    assert first_local_block(depth) == start


def test_layers_count_from_the_end_too() -> None:
    assert resolve_layers((-1, 3), 12) == (11, 3)


@pytest.mark.parametrize("layers", [(24,), (0, -25), (), (23, -1)])
def test_layers_outside_the_tower_or_named_twice_are_refused(layers: tuple[int, ...]) -> None:
    words = "differ from each other" if layers == (23, -1) else "Layers are 0-based: the AnomalyCLIP family's 24 is 23"
    with pytest.raises(ModelError, match=words):
        resolve_layers(layers, 24)


@pytest.mark.parametrize(("depth", "start"), [(12, 0), (12, 12), (12, -3), (1, None)])
def test_a_local_path_outside_the_tower_is_refused(depth: int, start: int | None) -> None:
    with pytest.raises(ModelError, match="at least 1 and below the tower's depth"):
        first_local_block(depth, start)
    if depth == 12:
        tower = timm_tower()
        with pytest.raises(ModelError, match="below the tower's depth 4"):
            encode_images(tower, pixels(32), EncodeOptions((3,), local_start=start))


def test_an_image_size_that_is_no_multiple_of_the_patch_is_refused_in_words() -> None:
    with pytest.raises(HeadclipError, match="multiple of the patch size 8; given: 30×30"):
        encode_images(timm_tower(), pixels(30), EncodeOptions((3,)))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_clip_pooling_before_or_after_the_final_norm_equals_open_clip(pool: str, after: bool) -> None:
    visual = clip_visual("tiny", pool_type=pool, final_ln_after_pool=after)
    torch.nn.init.normal_(visual.ln_post.weight)  # at 1 the order matters less
    features = encode_images(tower_from_open_clip(visual), pixels(32, 2), EncodeOptions((3,)))
    torch.testing.assert_close(features.global_feature, F.normalize(visual(pixels(32, 2)), dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "vit_tiny_patch16_224"])
def test_distilled_and_post_norm_towers_are_refused_in_words(name: str) -> None:
    post_norm = {} if "distilled" in name else {"block_fn": timm.models.vision_transformer.ResPostBlock}
    model = timm.create_model(name, pretrained=False, num_classes=0, depth=1, **post_norm)
    with pytest.raises(ModelError, match=r"VisionTransformerDistilled|must have standard attention"):
        tower_from_timm(model)


@pytest.mark.parametrize(
    "make",
    [lambda: tower_from_open_clip(torch.nn.Linear(2, 2)), lambda: tower_from_timm(torch.nn.Linear(2, 2))],
)
def test_other_architectures_are_refused(make) -> None:
    with pytest.raises(ModelError, match="must be a"):
        make()


def test_clip_with_qk_norm_blocks_is_refused_rather_than_run_wrongly() -> None:
    with pytest.raises(ModelError, match="CustomResidualAttentionBlock"):
        clip_tower(qk_norm=True)


def test_bfloat16_matrices_keep_the_features() -> None:
    tower, image = clip_tower(), pixels(32)
    exact = encode_images(tower, image, EncodeOptions((3,)))
    rough = encode_images(tower.cast(torch.bfloat16), image, EncodeOptions((3,)))
    cosine = (exact.patch_features[3] * rough.patch_features[3]).sum(-1)
    assert rough.patch_features[3].dtype == torch.float32
    assert 0.999 < cosine.min() < 0.9999999


def test_a_window_of_a_tower_keeps_the_positions_of_its_place() -> None:
    model = build_timm_vit(TimmVitSpec(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2))
    tower = tower_from_timm(model)
    pixels = torch.rand(2, 3, 32, 32)
    whole = tower.embed(pixels)[:, 1:].unflatten(1, (4, 4))
    window = tower.for_window(1, 2, 16).embed(pixels[..., 8:24, 16:32])[:, 1:].unflatten(1, (2, 2))
    torch.testing.assert_close(window, whole[:, 1:3, 2:4])
    with pytest.raises(InputError, match="within the 4×4 patches"):
        tower.for_window(3, 3, 16)
