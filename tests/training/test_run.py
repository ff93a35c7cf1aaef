"""A whole training run: what it leaves, what it never touches, and that it repeats itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_case import train_config, write_pairs
from typer.testing import CliRunner

from headclip_med import load_engine
from headclip_med.base.errors import CancelledError, InputError, ModelError, OutputError
from headclip_med.cli.main import app
from headclip_med.encoders.adapters import tower_from_open_clip
from headclip_med.encoders.build import BuiltTower, build_tower
from headclip_med.evaluation.metrics.counts import count_scores
from headclip_med.evaluation.metrics.curves import auroc
from headclip_med.models import load as models
from headclip_med.models.pack import load_pack
from headclip_med.training import run as run_module
from headclip_med.training.adapter import Adapter
from headclip_med.training.config import load_config
from headclip_med.training.objective import batch_loss
from headclip_med.training.run import active_groups, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "pack"
    train(train_config(folder, steps=10))
    return folder


def _banks(config):
    built = build_tower(config.model)
    adapter = Adapter(built, config)
    parts = run_module.auxiliary_parts(config)
    return built, adapter, *run_module._banks(built, adapter, parts, config, run_module._preprocessing(built, config))


def test_a_run_ends_in_a_pack_that_predicts(trained: Path) -> None:
    pack = load_pack(trained)
    assert pack.tensors["head_weights"].shape == (5, 2)
    assert pack.tensors["patch_classes"].shape == (2, 2, 64)
    entry = pack.record.ledger[0]
    assert (entry.name, entry.licence, entry.count) == ("pairs", "made here", 10)
    assert len(entry.image_sha256) == 10
    assert pack.record.validation["seed"] == 0
    assert "validation cases of the auxiliary data" in pack.record.threshold.origin
    tower = train_config(trained).model
    engine = load_engine(trained, "cpu", precision="float32", weights=tower)
    result = engine.predict(trained.parent / "pairs" / "images" / "01.png")
    assert result.map_array.shape == (64, 64, 1)
    truth = np.asarray(Image.open(trained.parent / "pairs" / "masks" / "01.png")).T > 0
    inside = result.map_array[..., 0]
    assert inside[truth].mean() > inside[~truth].mean()


def test_frozen_parts_stay_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def remember(name: str):
        built = build_tower(name)
        kept.append((built, {k: v.clone() for k, v in built.tower.model.state_dict().items()}))
        return built

    monkeypatch.setattr(run_module, "build_tower", remember)
    train(train_config(tmp_path / "pack", steps=4))
    built, before = kept[0]
    after = built.tower.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in built.tower.model.parameters())


def test_killed_and_resumed_is_bit_identical(tmp_path: Path) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    train(train_config(whole, steps=8))
    calls = iter(range(100))
    with pytest.raises(CancelledError, match="after step 5 of 8"):
        train(train_config(halved, steps=8), cancel=lambda: next(calls) >= 5)
    train(train_config(halved, steps=8), resume=True)
    for name in ("pack.safetensors", "pack.json"):
        assert (whole / name).read_bytes() == (halved / name).read_bytes(), name


def test_a_finished_run_can_go_on_for_more_steps(tmp_path: Path) -> None:
    train(train_config(tmp_path / "whole", steps=8))
    train(train_config(tmp_path / "longer", steps=4))
    train(train_config(tmp_path / "longer", steps=8), resume=True)
    whole, longer = (load_pack(tmp_path / name).tensors for name in ("whole", "longer"))
    assert all(torch.equal(whole[name], longer[name]) for name in whole)


@pytest.mark.parametrize("changes", [{}, {"heads": {"dynamic": True}}, {"heads": {"shape": "channel"}}])
def test_fast_and_slow_path_have_one_loss_and_one_gradient(tmp_path: Path, changes: dict) -> None:
    found = []
    for fast in (True, False):
        config = train_config(tmp_path / "pack", fast=fast, **changes)
        _, adapter, bank, _ = _banks(config)
        with torch.no_grad():  # away from the start, where much is symmetric
            for number, parameter in enumerate(adapter.heads.parameters()):
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        # cached contributions have 16 bits; both paths are compared in 32
        if fast:
            bank._keep = lambda index, bank=bank: _exact(bank, index)
        loss = batch_loss(adapter, bank, [0, 1, 2, 3], config, 0.2)
        loss.backward()
        found.append((loss.detach(), [p.grad for p in adapter.heads.parameters()]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    for fast, slow in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(fast, slow, atol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in found[0][1]) > 1e-3


def _exact(bank, index: int):
    from headclip_med.encoders.image import local_contributions
    from headclip_med.training.features import Kept

    return Kept(parts=local_contributions(bank.tower, bank.slices[index].pixels[None].float(), bank.options))


def test_the_pack_says_what_the_adapter_said(tmp_path: Path) -> None:
    config = train_config(tmp_path / "pack", steps=4)
    _, adapter, bank, _ = _banks(config)
    train(config)
    with torch.no_grad():
        adapter.load_state_dict(
            {**adapter.state_dict(), **_learned(tmp_path / "pack" / "checkpoint.safetensors", "best.")}
        )
        maps, _ = adapter.probabilities(*bank.features(adapter, [0, 1]))
    engine = load_engine(tmp_path / "pack", "cpu", precision="float32", weights=config.model)
    detector = engine.scorer.detector(engine.scorer.model.domain)
    pixels = torch.stack([bank.slices[i].pixels for i in (0, 1)]).float()
    features = detector.encode(pixels)
    from headclip_med.detectors.scoring import patch_map

    scale = 1 / detector.config.temperature
    theirs = patch_map(features.patch_features, detector.classes.patch, features.grid, logit_scale=scale)
    assert torch.allclose(maps.mean(dim=0), theirs.flatten(1), atol=2e-3)  # 16-bit cache against 32 bits


def _learned(path: Path, prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in load_file(path).items() if k.startswith(prefix)}


@pytest.mark.parametrize("schedule", ["alternate", "text_then_heads"])
@pytest.mark.parametrize("param", ["softmax_mean1", "sigmoid2", "softplus"])
def test_every_schedule_and_parametrisation_runs(tmp_path: Path, schedule: str, param: str) -> None:
    train(train_config(tmp_path / "pack", schedule=schedule, heads={"param": param}))
    load_engine(tmp_path / "pack", "cpu", weights=train_config(tmp_path / "pack").model)
    pack = load_pack(tmp_path / "pack")
    assert pack.record.config["lhw_param"] == param
    assert all(tensor.isfinite().all() for tensor in pack.tensors.values())


@pytest.mark.parametrize("branch", ["global", "both"])
def test_other_branches_train_through_the_tower(tmp_path: Path, branch: str) -> None:
    config = train_config(tmp_path / "pack", heads={"branch": branch}, classes={"image": True}, steps=2)
    train(config)
    pack = load_pack(tmp_path / "pack")
    assert pack.record.config["lhw_branch"] == branch
    load_engine(tmp_path / "pack", "cpu", weights=config.model)


def test_brightness_joins_the_map_when_asked(tmp_path: Path) -> None:
    config = train_config(tmp_path / "pack", fuse_intensity=True, steps=2)
    train(config)
    _, b, _ = load_pack(tmp_path / "pack").record.config["intensity_fusion"]
    assert b > 1  # the squares are bright
    with_it = _auroc(tmp_path / "pack", config.model, tmp_path / "pairs")
    record = json.loads((tmp_path / "pack" / "pack.json").read_text())
    del record["config"]["intensity_fusion"]
    (tmp_path / "pack" / "pack.json").write_text(json.dumps(record))
    assert with_it > max(0.97, _auroc(tmp_path / "pack", config.model, tmp_path / "pairs"))


def _auroc(pack: Path, tower: str, pairs: Path) -> float:
    engine = load_engine(pack, "cpu", precision="float32", weights=tower)
    found = engine.predict(pairs / "images" / "01.png").map_array[..., 0]
    truth = np.asarray(Image.open(pairs / "masks" / "01.png")).T > 0
    counts = count_scores(found.ravel(), truth.ravel())
    return float(auroc(counts.negatives, counts.positives))


def _tiny_clip(name: str) -> BuiltTower:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
        vision = {"image_size": 64, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16}
        clip = open_clip.CLIP(24, vision, text).eval().requires_grad_(False)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    return BuiltTower(tower_from_open_clip(clip.visual), "open_clip", "tiny-clip", name, "1" * 64, clip, tokenizer)


def test_prompts_and_heads_train_together_on_a_clip_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = _tiny_clip("tiny")
    before = {name: value.clone() for name, value in built.clip.state_dict().items()}
    monkeypatch.setattr(run_module, "build_tower", lambda name: built)
    monkeypatch.setattr(models, "build_tower", _tiny_clip)
    config = train_config(
        tmp_path / "pack", classes={"deep_blocks": 2}, loss={"joint": 1.0}, feature_layers=[1, 2], steps=4, model="tiny"
    )
    train(config)
    pack = load_pack(tmp_path / "pack")
    assert pack.tensors["prompt.context"].shape == (2, 12, 32)
    assert pack.tensors["prompt.deep"].shape == (2, 4, 32)
    assert pack.tensors["image_classes"].shape == (2, 24)
    assert all(torch.equal(before[name], value) for name, value in built.clip.state_dict().items())
    engine = load_engine(tmp_path / "pack", "cpu", precision="float32", weights="tiny")
    result = engine.predict(tmp_path / "pairs" / "images" / "01.png")
    assert 0 < result.pred_score < 1


def test_prompts_need_a_text_side(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Learned prompts must have a tower with a text side"):
        train(train_config(tmp_path / "pack", classes={"kind": "prompts"}))


def test_schedules_say_who_moves() -> None:
    assert active_groups("joint", 3, 10, 2) == ("classes", "heads")
    assert [active_groups("alternate", s, 10, 2)[0] for s in range(6)] == ["classes"] * 2 + ["heads"] * 2 + [
        "classes"
    ] * 2
    assert [active_groups("text_then_heads", s, 4, 1)[0] for s in range(4)] == ["classes"] * 2 + ["heads"] * 2


def test_several_processes_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of those that torchrun starts would write the same folder."""
    config = train_config(tmp_path / "pack")
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    for method in ("headclip", "vectors"):
        with pytest.raises(InputError, match="must run in one process; given: 2 of torchrun"):
            train(config.model_copy(update={"method": method}))
    assert not list(config.out.iterdir())


def test_bad_data_are_refused_in_words(tmp_path: Path) -> None:
    config = train_config(tmp_path / "pack")
    no_masks = tmp_path / "labels"
    for name in ("yes", "no"):
        (no_masks / name).mkdir(parents=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(
            no_masks / name / f"{name}.png"
        )
    healthy = write_pairs(tmp_path / "healthy")
    for path in (healthy / "masks").iterdir():
        Image.new("L", (64, 64)).save(path)
    sick = write_pairs(tmp_path / "sick")
    for path in (sick / "masks").iterdir():
        Image.new("L", (64, 64), 255).save(path)
    lonely = write_pairs(tmp_path / "lonely", 1)
    for data, words in (
        (no_masks, "must say where lesions are; given: labels has no masks"),
        (healthy, "must show lesions and something else; given: no lesion at all"),
        (sick, "must show lesions and something else; given: nothing but lesion"),
        (lonely, "validation part must not be empty"),
    ):
        with pytest.raises(InputError, match=words):
            train(train_config(config.out, data=[{"path": str(data)}]))
    assert not (config.out / "pack.json").exists()


def test_a_pack_is_no_tower_to_train_on(trained: Path, tmp_path: Path) -> None:
    for pack in ("headclip-tiny", str(trained)):
        with pytest.raises(InputError, match="Training must begin with a tower; given: the pack"):
            train(train_config(tmp_path / "pack", model=pack))


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    config = train_config(tmp_path / "pack", steps=4)
    train(config)
    before = (tmp_path / "pack" / "checkpoint.safetensors").read_bytes()
    wild = train_config(tmp_path / "wild", steps=8, heads={"lr": 1e30}, classes={"lr": 1e30})
    with pytest.raises(ModelError, match="loss must stay a finite number"):
        train(wild)
    with pytest.raises(OutputError, match="folder without a checkpoint"):
        train(config)
    assert (tmp_path / "pack" / "checkpoint.safetensors").read_bytes() == before


def test_another_configuration_cannot_take_up_a_run(tmp_path: Path) -> None:
    train(train_config(tmp_path / "pack", steps=4))
    with pytest.raises(InputError, match="must be resumed with the configuration"):
        train(train_config(tmp_path / "pack", steps=4, seed=9), resume=True)
    (tmp_path / "pack" / "checkpoint.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="readable file of an earlier run"):
        train(train_config(tmp_path / "pack", steps=4), resume=True)


def test_a_checkpoint_with_other_tensors_is_refused_in_words(tmp_path: Path) -> None:
    """As an earlier version wrote it."""
    config = train_config(tmp_path / "pack", steps=4)
    train(config)
    path = config.out / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        held = {name.replace("patch_vectors", "patch"): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = file.metadata()
    save_file(held, path, metadata=facts)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"the tensors that this version learns; given: checkpoint\.safetensors"):
        train(config, resume=True)
    assert path.read_bytes() == before


def test_whoever_is_not_in_turn_stays_as_it_was(tmp_path: Path) -> None:
    """Prompts or vectors first, then head weights: with moments kept apart too."""
    start = train_config(tmp_path / "start", schedule="text_then_heads")
    for out, steps in (("start", 0), ("half", 3), ("more", 5)):
        config, calls = start.model_copy(update={"out": tmp_path / out}), iter(range(100))
        with pytest.raises(CancelledError):
            train(config, cancel=lambda steps=steps, calls=calls: next(calls) >= steps)
    first, half, more = (load_file(tmp_path / out / "checkpoint.safetensors") for out in ("start", "half", "more"))
    vectors, heads = "now.classes.patch_vectors", "now.heads.theta"
    assert torch.equal(first[heads], half[heads])
    assert not torch.equal(first[vectors], half[vectors])
    assert torch.equal(half[vectors], more[vectors])
    assert not torch.equal(half[heads], more[heads])


def test_a_pack_for_another_tower_is_refused(trained: Path, tmp_path: Path) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="must be of its tower test_vit"):
        load_engine(trained, "cpu", weights=f"vit_tiny_patch16_224.augreg_in21k@{tmp_path / 'other.safetensors'}")


def test_the_command_line_reads_yaml_and_options(tmp_path: Path) -> None:
    config = train_config(tmp_path / "unused")
    file = tmp_path / "run.yaml"
    file.write_text(
        f"data: [{{path: 'pairs:{tmp_path / 'pairs'}'}}]\nmodel: '{config.model}'\nimage_size: 64\nlocal_start: 1\n"
        "steps: 2\nbatch: 4\nvalidate_every: 1\nvalidation: 0.4\n"
    )
    asked = ["train", "-c", str(file), "--out", str(tmp_path / "out"), "--set", "heads.lr=0.02", "--json"]
    ran = CliRunner().invoke(app, asked)
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["slices"]["training"] > 0
    assert CliRunner().invoke(app, asked).exit_code == 2
    for wrong, words in (("heads.rate=1", "heads.rate"), ("heads", "FIELD=VALUE"), ("steps=0", "steps")):
        ran = CliRunner().invoke(app, [*asked[:5], "--set", wrong])
        assert ran.exit_code == 2
        assert words in ran.stderr
    with pytest.raises(InputError, match="readable YAML"):
        load_config(tmp_path / "missing.yaml")
