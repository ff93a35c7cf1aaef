"""The memory of normal patches: the method ``memory``, and what ``--normals`` adds to any other."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from method_case import clip_built, noise, normals, parts, vit_built
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F
from training_case import write_pairs, write_tower
from typer.testing import CliRunner

from headclip_med.base.errors import InputError, ModelError
from headclip_med.cli.main import app
from headclip_med.detectors import HeadCLIP, NormalPixels
from headclip_med.detectors.memory import Memory, MemoryConfig, PatchBank, WithMemory, adapted, build_patch_bank
from headclip_med.encoders.image import EncodeOptions, encode_images
from headclip_med.engine.load import load_engine
from headclip_med.engine.normals import read_normals
from headclip_med.evaluation.scorers import EngineScorer
from headclip_med.models.load import load_model


def plain_map(built, seen: NormalPixels, pixels: torch.Tensor, layers: tuple[int, ...]) -> tuple[np.ndarray, float]:
    """The memory's map of one image, step by step, on normalised patch features of the ordinary path."""

    def features(images: torch.Tensor) -> list[torch.Tensor]:
        options = EncodeOptions(layers, local_attention="none", want_global=False)
        return [encode_images(built.tower, images, options).patch_features[layer] for layer in layers]

    both = torch.cat([seen.pixels, seen.pixels.flip(-1)])
    bank, count = features(both), len(seen)

    def distance(query: list[torch.Tensor], rows: list[torch.Tensor]) -> torch.Tensor:
        return sum((1 - (q @ r.T).max(dim=1).values) / 2 for q, r in zip(query, rows, strict=True)) / len(query)

    among = []
    for image in range(count):
        rest = [i for i in range(2 * count) if i not in (image, image + count)]
        among.append(distance([b[image] for b in bank], [b[rest].flatten(0, 1) for b in bank]))
    normal = torch.cat(among)
    median = normal.median()
    spread = 1.4826 * (normal - median).abs().median()
    found = distance([q[0] for q in features(pixels)], [b.flatten(0, 1) for b in bank])
    p = 1 / (1 + torch.exp(-((found - median) / spread - 3)))
    side = math.isqrt(len(p))
    size = int(pixels.shape[-1])
    grid = F.interpolate(p.view(1, 1, side, side), (size, size), mode="bilinear", align_corners=False)[0, 0]
    smooth = gaussian_filter(grid.double().numpy(), 4 * size / 518)
    return smooth, float(smooth.max())


@pytest.mark.parametrize(("shape", "size"), [("ViT-B/16", 224), ("ViT-L/14@336", 112)])
def test_memory_is_the_distance_to_the_nearest_normal_patch_on_the_scale_of_normal_images(
    shape: str, size: int
) -> None:
    built, seen = clip_built(shape), normals(2, size)
    depth = built.tower.depth
    detector = Memory(parts(built, image_size=size)).adapt(seen)
    out = detector.score(noise(1, size))
    expected, score = plain_map(built, seen, noise(1, size), (depth // 2 - 1, 3 * depth // 4 - 1))
    np.testing.assert_allclose(out.maps[0].numpy(), expected, atol=1e-5)
    assert float(out.scores[0]) == pytest.approx(score, abs=1e-5)


def test_what_was_seen_scores_lowest_what_is_like_it_next_and_something_else_above_even_odds() -> None:
    pattern = noise(1, seed=20)
    seen = NormalPixels(pattern + 0.2 * noise(4), normals(4).valid)
    detector = Memory(parts(vit_built())).adapt(seen)
    images = (seen.pixels[:1], pattern + 0.2 * noise(1, seed=9), noise(1, seed=9))
    known, alike, other = (detector.score(image).maps for image in images)
    assert float(known.max()) < float(alike.min())
    assert float(alike.mean()) < 0.25
    assert float(other.min()) > 0.5


def test_the_memory_is_averaged_with_the_map_it_is_added_to() -> None:
    base = HeadCLIP.from_parts(parts())
    seen, pixels = normals(3), noise()
    alone = Memory(parts()).adapt(seen).score(pixels)
    for weight in (0.0, 0.25, 1.0):
        out = WithMemory(base, seen, MemoryConfig(weight=weight)).score(pixels)
        plain = base.score(pixels)
        torch.testing.assert_close(out.maps, (1 - weight) * plain.maps + weight * alone.maps)
        torch.testing.assert_close(out.scores, (1 - weight) * plain.scores + weight * alone.scores)
    assert adapted(base, seen).describe()["memory"]["slices"] == 3


def test_the_bank_is_capped_and_covers_what_it_leaves_out() -> None:
    built, seen = vit_built(), normals(6)
    whole = build_patch_bank(built.tower, seen, (1,), MemoryConfig(bank_size=1000, candidates=1000))
    small = build_patch_bank(built.tower, seen, (1,), MemoryConfig(bank_size=20, candidates=1000))
    assert len(whole.features[1]) == 2 * 6 * 16
    assert len(small.features[1]) == 20
    draw = torch.Generator().manual_seed(0)
    chance = whole.features[1][torch.randperm(192, generator=draw)[:20]]
    left = whole.features[1][None]
    random_bank = PatchBank({1: chance}, 0, 1)
    assert small.distances({1: left}).max() < random_bank.distances({1: left}).max()


def test_background_is_not_remembered_and_not_scored() -> None:
    seen = normals(2)
    valid = seen.valid.clone()
    valid[:, :, 16:] = False
    half = build_patch_bank(vit_built().tower, NormalPixels(seen.pixels, valid), (1,), MemoryConfig())
    assert len(half.features[1]) == 2 * 2 * 8
    detector = Memory(parts(vit_built())).adapt(seen)
    inside = torch.zeros(1, 32, 32, dtype=torch.bool)
    inside[:, :8, :8] = True
    out = detector.score(noise(1), inside)
    assert float(out.scores[0]) == pytest.approx(float(out.maps[0, :8, :8].max()))
    with pytest.raises(ModelError, match="Normal images must show the patient"):
        build_patch_bank(vit_built().tower, NormalPixels(seen.pixels, valid & False), (1,), MemoryConfig())


def test_slices_of_one_volume_do_not_vouch_for_each_other() -> None:
    """They are nearly equal: with each left out alone, any other patient was abnormal all over."""
    first, second = noise(1, seed=20), noise(1, seed=21)
    pixels = torch.cat([first + 0.01 * noise(3), second + 0.01 * noise(3, seed=2)])
    valid = torch.ones(6, 32, 32, dtype=torch.bool)
    apart = build_patch_bank(vit_built().tower, NormalPixels(pixels, valid, (0, 0, 0, 1, 1, 1)), (1,), MemoryConfig())
    alone = build_patch_bank(vit_built().tower, NormalPixels(pixels, valid), (1,), MemoryConfig())
    assert apart.centre > 20 * alone.centre
    other = Memory(parts(vit_built())).adapt(NormalPixels(pixels, valid, (0, 0, 0, 1, 1, 1))).score(noise(1, seed=30))
    assert float(other.maps.mean()) < 0.5


def test_one_normal_image_is_compared_with_its_mirror_image() -> None:
    bank = build_patch_bank(vit_built().tower, normals(1), (1,), MemoryConfig())
    assert bank.centre > 0
    assert bank.spread > 0


def test_the_same_image_scores_the_same_alone_and_in_a_batch() -> None:
    detector, pixels = Memory(parts()).adapt(normals(3)), noise(3)
    together, alone = detector.score(pixels), detector.score(pixels[1:2])
    torch.testing.assert_close(together.maps[1:2], alone.maps, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("config", "words"),
    [({"bank_size": 0}, "at least one patch"), ({"weight": 1.5}, "between 0 and 1"), ({"candidates": 3}, "at least")],
)
def test_a_memory_that_could_hold_nothing_is_refused(config: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        MemoryConfig(**config)


def test_a_memory_without_normal_images_is_refused() -> None:
    with pytest.raises(ModelError, match="Add --normals DIR"):
        Memory(parts()).score(noise())
    with pytest.raises(ModelError, match="at least one normal slice"):
        Memory(parts()).adapt(replace(normals(1), pixels=torch.zeros(0, 3, 32, 32)))


# --- from the command line -------------------------------------------------------------------------------------------


@pytest.fixture
def normal_folder(tmp_path: Path) -> Path:
    """Four pictures of noise, one of them a copy."""
    folder = tmp_path / "normal"
    folder.mkdir()
    rng = np.random.default_rng(5)
    for number in range(3):
        Image.fromarray(rng.integers(60, 120, (64, 64)).astype(np.uint8)).save(folder / f"{number}.png")
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    return folder


def test_copies_of_normal_images_count_once(normal_folder: Path) -> None:
    assert len(read_normals(normal_folder).sources) == 3


def test_an_unreadable_normal_image_is_named(normal_folder: Path) -> None:
    (normal_folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 20)
    with pytest.raises(InputError, match=r"Every normal image must be readable.*broken"):
        read_normals(normal_folder)


@pytest.mark.parametrize(("name", "words"), [("nope", "must be a file or folder that exists"), ("", "no file")])
def test_a_folder_without_normal_images_is_told_once(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as told:
        read_normals(tmp_path / name)
    assert "Take it out of the folder" not in str(told.value)


def test_memory_is_refused_without_normals_before_anything_is_loaded() -> None:
    with pytest.raises(ModelError, match=r"must be given normal images of the task.*Add --normals DIR"):
        load_model("memory:no-such-tower@missing.safetensors")


def test_normals_change_the_map_and_stand_in_the_record(normal_folder: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", 4)
    scan = tmp_path / "pairs" / "images" / "01.png"
    with_normals = load_engine("headclip-tiny", "cpu", normals=normal_folder)
    plain = load_engine("headclip-tiny", "cpu")
    assert not np.allclose(with_normals.predict(scan).map_array, plain.predict(scan).map_array)
    facts = with_normals.scorer.identity()
    assert facts["normals"] == 3
    assert len(facts["normals_sha256"]) == 64
    assert not any("one alone" in words for words in with_normals.predict(scan).warnings)
    single = load_engine("headclip-tiny", "cpu", normals=normal_folder / "0.png")
    assert any("may look abnormal all over" in words for words in single.predict(scan).warnings)
    assert with_normals.scorer.threshold == (0.5, "a-priori: 0.5, not calibrated for this model")
    entry = EngineScorer(with_normals).ledger()[-1]
    assert entry["name"] == "normal (normal images)"
    assert entry["count"] == 3


def test_predict_with_memory_alone_on_a_vision_only_tower(normal_folder: Path, tmp_path: Path) -> None:
    tower = write_tower(tmp_path / "tower.safetensors")
    write_pairs(tmp_path / "pairs", 2)
    scan = str(tmp_path / "pairs" / "images" / "01.png")
    out = str(tmp_path / "out")
    options = ["predict", scan, "--out", out, "--model", f"memory:{tower}", "--device", "cpu", "--formats", "nifti"]
    refused = CliRunner().invoke(app, options)
    assert refused.exit_code == 2
    assert "Add --normals DIR" in refused.output
    done = CliRunner().invoke(app, [*options, "--normals", str(normal_folder)])
    assert done.exit_code == 0, done.output


def test_evaluating_on_the_normal_images_themselves_is_refused(normal_folder: Path, tmp_path: Path) -> None:
    tower = write_tower(tmp_path / "tower.safetensors")
    data = write_pairs(tmp_path / "pairs", 4)
    (normal_folder / "seen.png").write_bytes((data / "images" / "00.png").read_bytes())
    run = ["evaluate", "--data", f"pairs:{data}", "--model", f"memory:{tower}", "--normals", str(normal_folder)]
    done = CliRunner().invoke(app, [*run, "--out", str(tmp_path / "out"), "--bootstrap", "0", "--device", "cpu"])
    assert done.exit_code == 2
    assert "must not be evaluated on data that it was trained on" in done.output
