"""Presets, memory and work left out: what they change, and what they must not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import BrightnessDetector, oracle_engine
from small_cases import write_volume
from torch.nn import functional as F
from towers import clip_tower, timm_tower

from headclip_med import load_engine
from headclip_med.base.errors import InputError, ModelError
from headclip_med.detectors import HeadCLIPConfig
from headclip_med.detectors.headclip.config import at_speed
from headclip_med.encoders.attention import attend
from headclip_med.encoders.image import EncodeOptions, encode_images
from headclip_med.encoders.tower import ImageTower
from headclip_med.engine import memory
from headclip_med.engine.ask import Ask
from headclip_med.models.speed import SPEEDS
from headclip_med.reading.sources import load_source


def _tokens_through_the_last_mlp(tower: ImageTower, options: EncodeOptions) -> list[int]:
    """Tokens that go through the MLP of every block that is run."""
    seen: list[int] = []
    hooks = [
        block.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1])) for block in tower.blocks
    ]
    with torch.inference_mode():
        encode_images(tower, torch.zeros(1, 3, 32, 32), options)
    for hook in hooks:
        hook.remove()
    return seen


def test_nothing_is_computed_that_no_output_depends_on() -> None:
    tower = clip_tower()  # four blocks, 16 patches and a class token
    assert _tokens_through_the_last_mlp(tower, EncodeOptions((3,))) == [17, 17, 17, 1]
    assert _tokens_through_the_last_mlp(tower, EncodeOptions((3,), want_global=False)) == [17, 17, 17]
    assert _tokens_through_the_last_mlp(tower, EncodeOptions((1, 2), want_global=False)) == [17, 17]
    whole = EncodeOptions((2,), local_attention="none", want_global=False)
    assert _tokens_through_the_last_mlp(tower, whole) == [17, 17, 17]
    assert _tokens_through_the_last_mlp(tower, replace(whole, layers=(3,), want_global=True)) == [17, 17, 17, 17]


@pytest.mark.parametrize("kind", ["vv", "qk", "qq+kk+vv"])
def test_patch_features_do_not_depend_on_whether_the_global_feature_is_wanted(kind: str) -> None:
    tower, image = timm_tower(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        with_global, without = (
            encode_images(tower, image, EncodeOptions((2, 3), local_attention=kind, want_global=wanted))
            for wanted in (True, False)
        )
    for layer in (2, 3):
        torch.testing.assert_close(without.patch_features[layer], with_global.patch_features[layer])


@pytest.mark.parametrize(("heads", "tokens"), [(3, 40), (5, 1100)])  # all heads at once, and one at a time
def test_products_by_groups_of_heads_equal_the_fused_kernel(heads: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, tokens, 8, generator=generator) for _ in range(3))
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attend(q, k, v, kernel="matmul"), expected, atol=1e-5, rtol=1e-5)
    assert attend(q[:, :, :0], k, v).shape == (2, heads, 0, 8)


def test_fast_takes_three_quarters_of_the_input_and_leaves_the_last_tap_out() -> None:
    tower = timm_tower()  # patches of 8
    config = HeadCLIPConfig(image_size=96, feature_layers=(-1, 1, 2))
    assert at_speed(config, tower, SPEEDS["exact"].scale, SPEEDS["exact"].early_exit) is config
    assert at_speed(config, tower, SPEEDS["balanced"].scale, SPEEDS["balanced"].early_exit) is config
    fast = at_speed(config, tower, SPEEDS["fast"].scale, SPEEDS["fast"].early_exit)
    assert (fast.image_size, fast.feature_layers) == (72, (1, 2))
    assert at_speed(HeadCLIPConfig(feature_layers=(-1,)), tower, 0.75, True).feature_layers == (-1,)


def test_balanced_scores_fewer_slices_says_so_and_finds_the_lesion_exactly(tiny_pack: Path, tmp_path: Path) -> None:
    levels = np.full(41, 0.3, dtype=np.float32)
    levels[20:26] = 1.0
    array = np.zeros((20, 20, 41), dtype=np.float32)
    array[3:-3, 3:-3] = 0.3
    array[8:12, 8:12] = levels
    exact, balanced = oracle_engine(), oracle_engine(detector := BrightnessDetector())
    balanced.scorer.speed = SPEEDS["balanced"]
    expected, found = (e.predict(array, affine=np.eye(4), threshold=0.8) for e in (exact, balanced))
    assert sum(detector.batches) == sum(not s.interpolated for s in found.slices) < 25
    assert [w for w in found.warnings if "interpolated" in w] == [
        f"{41 - sum(detector.batches)} of 41 slices were not scored but interpolated, as the speed preset says"
    ]
    assert found.findings == expected.findings
    np.testing.assert_allclose(found.map_array, expected.map_array, atol=1e-6)
    assert found.pred_score == pytest.approx(expected.pred_score)


def test_the_preset_is_part_of_a_results_identity(tiny_pack: Path, tmp_path: Path) -> None:
    volume = write_volume(tmp_path / "a.nii.gz")
    engine = load_engine(tiny_pack, device="cpu", speed="fast")
    result = engine.predict(volume)
    assert result.provenance["speed"] == "fast"
    assert result.provenance["detector"]["image_size"] == 24
    with pytest.raises(InputError, match="The speed must be one of exact, balanced, fast; given: quick"):
        load_engine(tiny_pack, device="cpu", speed="quick")


def test_too_little_memory_is_said_before_the_first_slice(monkeypatch: pytest.MonkeyPatch, tiny_pack: Path) -> None:
    engine = load_engine(tiny_pack, device="cpu")
    volume = load_source(np.random.default_rng(0).random((20, 24, 6)), affine=np.eye(4))
    assert engine.begin(volume, Ask()).warnings == []
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    (warning,) = engine.begin(volume, Ask()).warnings
    assert "scoring is predicted to take 0.0 GiB more on cpu, where 0.0 GiB are free" in warning


def test_a_containers_limit_counts_as_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    without = memory.free_bytes(torch.device("cpu"))
    assert without is not None
    assert without > 10**6
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert memory.free_bytes(torch.device("cpu")) == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes(torch.device("cpu")) > 10**6


def test_a_gpus_batch_is_what_its_free_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = BrightnessDetector()
    cuda = torch.device("cuda")
    of_eight = memory.batch_bytes(detector, 8) / 0.8
    for free, batch in ((1000, 1), (int(of_eight) + 1000, 8), (int(of_eight) - 1000, 7), (10**12, 64), (None, 16)):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        assert memory.fitting_batch(detector, cuda) == batch


def test_predicting_a_file_imports_neither_monai_nor_napari(tiny_pack: Path, tmp_path: Path) -> None:
    """MONAI alone takes as long as everything else together before the first slice."""
    volume = write_volume(tmp_path / "a.nii.gz")
    code = (
        "import sys\nfrom headclip_med.cli.main import app\n"
        f"app(['predict', {str(volume)!r}, '--model', {str(tiny_pack)!r}, '--device', 'cpu', '--format', 'nifti', "
        f"'--out', {str(tmp_path / 'out')!r}], standalone_mode=False)\n"
        "print(sorted({'monai', 'napari'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]"


def test_a_cpus_batch_is_a_few_of_few_tokens() -> None:
    detector = BrightnessDetector()  # 64 px in patches of 8 pixels: 65 tokens
    assert memory.fitting_batch(detector, torch.device("cpu")) == 8
    detector.image_size = 192  # 577 tokens
    assert memory.fitting_batch(detector, torch.device("cpu")) == 4
    detector.image_size = 512
    assert memory.fitting_batch(detector, torch.device("cpu")) == 1


def test_openvino_without_an_exported_model_says_what_to_do(tiny_pack: Path) -> None:
    with pytest.raises(ModelError, match=r"given: openvino:GPU\. Export the model first"):
        load_engine(tiny_pack, device="openvino:GPU")
