"""The benchmarks' counting of work against numbers worked out by hand and against PyTorch's own counter."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from towers import clip_tower, timm_tower

from headclip_med.detectors import ClassFeatures, HeadCLIP, HeadCLIPConfig
from headclip_med.encoders.head_weights import place_head_weights
from headclip_med.encoders.tower import ImageTower


def benchmark(name: str) -> ModuleType:
    """A file of ``benchmarks``, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


flops, plain_way = benchmark("flops"), benchmark("plain_way")

# 2×2 patches of 2 px: P = 4, T = 5; the MLP is 8 → 32 → 8, so m = 512; the local path is in block 1.
TINY = flops.Work(
    width=8,
    depth=2,
    patch_size=2,
    image_size=4,
    prefix=1,
    mlp_weights=512,
    output_dim=4,
    projected=True,
    local_start=1,
    taps=(1,),
    wants_global=True,
    folded=False,
)
EMBEDDING = 768  # 2 · 4 · 12 · 8
BLOCK = {"qkv": 1920, "output": 640, "mlp": 5120, "attention": 800}  # 2·5·8·24, 2·5·64, 2·5·512, 4·25·8
BLOCK_TOTAL = 8480


def test_fewest_flops_with_a_global_feature() -> None:
    assert flops.original_path(TINY) == BLOCK
    assert dict(flops.useful(TINY)) == {
        "embedding": EMBEDDING,
        "qkv": 1920 + 128 + 640 + 640,  # in the last block the class token's query, all keys and values
        "output": 640 + 128,
        "mlp": 5120 + 1024,
        "attention": 800 + 160,
        "local_output": 512,  # 2 · 4 · 64
        "local_attention": 640,  # 4 · 4 · 5 · 8
        "projection": 320,  # 2 · (4 + 1) · 8 · 4
    }
    assert flops.useful(TINY).total() == 13440


def test_fewest_flops_of_a_map_alone() -> None:
    """Of the last block only the values are left, and no class token is projected."""
    alone = replace(TINY, wants_global=False)
    assert flops.useful(alone).total() == EMBEDDING + BLOCK_TOTAL + 640 + 512 + 640 + 256
    assert flops.useful(replace(alone, projected=False)).total() == EMBEDDING + BLOCK_TOTAL + 640 + 512 + 640


def test_blocks_after_the_last_tap() -> None:
    """Three blocks, the second tapped: the third runs for the class token, or not at all."""
    early = replace(TINY, depth=3)
    local, last = 640 + 512, 1408 + 128 + 1024 + 160
    assert flops.useful(early).total() == EMBEDDING + 2 * BLOCK_TOTAL + last + local + 320
    assert flops.useful(replace(early, wants_global=False)) == flops.useful(replace(TINY, wants_global=False))
    assert flops.skipped(early) == {
        "class and register rows of the local path": 160 + 128,
        "blocks after the last tap": 800 + 640,
        "dead part of the last block": BLOCK_TOTAL - last,
    }


@pytest.mark.parametrize("wants_global", [True, False])
@pytest.mark.parametrize(("depth", "taps"), [(2, (1,)), (5, (3,)), (5, (1, 2))])
def test_what_is_skipped_is_what_one_pass_has_more(depth: int, taps: tuple[int, ...], wants_global: bool) -> None:
    work = replace(TINY, depth=depth, taps=taps, wants_global=wants_global, prefix=3)
    assert flops.shared(work).total() == flops.useful(work).total() + sum(flops.skipped(work).values())


def test_plain_flops() -> None:
    """Two blocks for the map, whose second has values of its own and a local path of all tokens, then two more."""
    local = 640 + 640 + 800  # values, output projection, V-V attention of 5 tokens
    first, second = EMBEDDING + 2 * BLOCK_TOTAL + local + 256, EMBEDDING + 2 * BLOCK_TOTAL + 64
    assert flops.plain(TINY).total() == first + second
    assert flops.plain(replace(TINY, wants_global=False)).total() == first


def test_released_flops() -> None:
    """One pass: two blocks, whose second has a local path of all tokens beside it, and one projection of values."""
    local = 640 + 800  # output projection, V-V attention of 5 tokens
    assert flops.released(TINY).total() == EMBEDDING + 2 * BLOCK_TOTAL + local + 320
    assert flops.released(replace(TINY, wants_global=False)).total() == EMBEDDING + 2 * BLOCK_TOTAL + local + 256
    assert flops.useful(TINY).total() < flops.released(TINY).total() < flops.plain(TINY).total()


def test_fewest_bytes() -> None:
    matrices = 2 * (3 * 64 + 64 + 512)
    float32 = 12 * 8 + 5 * 8 + 8 * 4  # patch embedding, positions, projection
    slice_ = 3 * 40 + 8 + 2 * 32 + 4 * 16  # tokens in, out, in; class token out; local in and out; pixels and map
    assert flops.fewest_bytes(TINY, 1, 4) == 4 * (matrices + float32 + slice_)
    assert flops.fewest_bytes(TINY, 3, 2) == 2 * matrices + 4 * (float32 + 3 * slice_)
    assert flops.fewest_bytes(replace(TINY, folded=True), 1, 2) == flops.fewest_bytes(TINY, 1, 2) + 2 * 64
    alone = replace(TINY, wants_global=False)  # of the last block values and output projection
    assert flops.fewest_bytes(alone, 1, 4) == 4 * (768 + 2 * 64 + float32 + slice_ - 8)
    assert flops.fewest_bytes(replace(alone, folded=True), 1, 4) == flops.fewest_bytes(alone, 1, 4)


def test_a_tap_outside_the_local_path_is_refused() -> None:
    with pytest.raises(ValueError, match="on its local path"):
        replace(TINY, depth=4, local_start=2)


def make_detector(tower: ImageTower, layers: tuple[int, ...], with_image: bool) -> HeadCLIP:
    """Random classes and head weights that are not 1."""
    generator = torch.Generator().manual_seed(1)
    classes = F.normalize(torch.randn(2, tower.output_dim, generator=generator), dim=-1)
    factors = 1 + 0.3 * torch.randn(tower.depth - 2, tower.heads, generator=generator)
    return HeadCLIP(
        tower,
        ClassFeatures(dict.fromkeys(layers, classes), classes if with_image else None, {}),
        HeadCLIPConfig(image_size=48, feature_layers=layers, local_start=2, kernel="matmul"),
        place_head_weights(factors, tower.depth, local_start=2),
    )


@pytest.mark.parametrize(
    ("make_tower", "options", "layers", "with_image"),
    [
        pytest.param(clip_tower, {}, (3,), True, id="clip"),
        pytest.param(clip_tower, {}, (3,), False, id="clip, map alone"),
        pytest.param(timm_tower, {"reg_tokens": 4}, (1, 2), True, id="registers, early taps"),
        pytest.param(timm_tower, {}, (2,), False, id="dinov2, map alone"),
    ],
)
def test_counts_and_plain_way_of_real_towers(
    make_tower: Callable[..., ImageTower], options: dict[str, int], layers: tuple[int, ...], with_image: bool
) -> None:
    """PyTorch counts what both ways of today do; the detector needs no less than ``useful`` and gives their numbers."""
    detector = make_detector(make_tower(**options), layers, with_image)
    work = flops.work_of(detector)
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    for way, counted in ((plain_way.PlainWay, flops.plain), (plain_way.ReleasedWay, flops.released)):
        today = way(detector)
        with FlopCounterMode(display=False) as counter:
            today.encode(pixels)
        assert counter.get_total_flops() == counted(work).total()
        maps, score = today.score(pixels)
        ours = detector.score(pixels)
        torch.testing.assert_close(ours.maps, maps, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.scores, score, atol=1e-5, rtol=0)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        detector.encode(pixels)
    assert counter.get_total_flops() >= flops.useful(work).total()


def test_a_stem_of_convolutions_counts_each() -> None:
    # 3×3 of stride 1 with 3 → 4 channels on 4×4, then 2×2 of stride 2 with 4 → 8 channels on 2×2.
    stem = replace(TINY, stem=((3, 1, 3, 4), (2, 2, 4, 8)))
    assert flops.useful(stem)["embedding"] == 2 * 16 * 9 * 12 + 2 * 4 * 4 * 32
    assert flops.useful(TINY)["embedding"] == EMBEDDING
