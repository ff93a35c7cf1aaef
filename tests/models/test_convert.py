"""Prompts that others trained → packs that say what they are."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from family_reference import enlarge, image_paths, project, smooth, text_features
from method_case import clip_built, noise
from prompt_files import WIDTH, learner_state, small_clip, write_prompts
from safetensors.torch import save_file
from torch.nn import functional as F
from typer.testing import CliRunner
from weight_formats import FORMS, QUICK, QuickGELU, archive, tiny_state

from headclip_med.base.errors import ModelError
from headclip_med.base.files import sha256_file
from headclip_med.cli.main import app
from headclip_med.detectors import Parts
from headclip_med.detectors.base import read_method_config
from headclip_med.detectors.crane.crane import Crane, CraneConfig
from headclip_med.detectors.crane.crane_plus import CranePlusConfig
from headclip_med.encoders.build import BuiltTower, build_tower
from headclip_med.encoders.text import prompt_tokens, text_side
from headclip_med.models import convert, new_pack
from headclip_med.models.convert import convert_prompts, read_prompts
from headclip_med.models.load import Model, detector_for, load_model
from headclip_med.models.new_pack import tower_record, write_pack
from headclip_med.models.pack import load_pack


@pytest.fixture(scope="module")
def built() -> BuiltTower:
    return small_clip()


@pytest.fixture(scope="module")
def state(built: BuiltTower) -> dict[str, torch.Tensor]:
    return learner_state(built)


@pytest.fixture
def checkpoint(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    return write_prompts(tmp_path / "epoch_15.pth", state)


def _family_features(state: dict[str, torch.Tensor], built: BuiltTower) -> torch.Tensor:
    """The released model's text path written out: replace tokens 1 to 12, then 1 to 4 before blocks 2 to 9."""
    side = text_side(built.clip)
    rows = []
    for name in ("pos", "neg"):
        x = torch.cat([state[f"{part}_{name}"][0, 0] for part in ("token_prefix", "ctx", "token_suffix")])
        x = x + side.positions
        for number, block in enumerate(side.blocks):
            if 1 <= number <= 8:
                x[1:5] = state[f"compound_prompts_text.{number - 1}"].half().float()
            x = block(x[None], attn_mask=side.mask)[0]
        end = int(state[f"tokenized_prompts_{name}"].argmax())
        rows.append(side.norm(x[end]) @ side.projection)
    return F.normalize(torch.stack(rows), dim=-1)


def test_class_features_are_those_of_the_released_model(
    checkpoint: Path, state: dict[str, torch.Tensor], built: BuiltTower
) -> None:
    made = convert_prompts(read_prompts(checkpoint), built)
    expected = _family_features(state, built)
    torch.testing.assert_close(made.tensors["patch_classes"], expected, atol=1e-5, rtol=0)
    assert torch.equal(made.tensors["image_classes"], made.tensors["patch_classes"])
    assert torch.equal(made.tensors["prompt.context"][1], state["ctx_neg"][0, 0])
    assert torch.equal(made.tensors["prompt.deep"][7], state["compound_prompts_text.7"])
    assert made.tensors["prompt.deep"].shape == (8, 4, WIDTH)


def test_the_pack_says_where_it_came_from_and_runs_as_anomalyclip(
    checkpoint: Path, built: BuiltTower, tmp_path: Path
) -> None:
    made = convert_prompts(read_prompts(checkpoint), built, trained_on="MVTec AD")
    assert made.notes == ()
    write_pack(tmp_path / "pack", made)
    pack = load_pack(tmp_path / "pack")
    assert pack.record.name == "epoch_15"
    assert pack.record.threshold.origin.startswith("a-priori")
    assert [entry.name for entry in pack.record.ledger] == ["MVTec AD"]
    assert pack.record.validation["tokens"] == "equal"
    assert pack.record.validation["token_embeddings"] == {"equal": True, "max_difference": 0, "relative": 0}
    assert pack.record.validation["converted_from"]["sha256"] == sha256_file(checkpoint)
    config = pack.config()
    assert (config.global_norm, config.position_mode, config.temperature) == (False, "bilinear", 0.07)
    assert (config.feature_layers, config.jas, config.local_attention) == ((-1,), False, "vv")
    model = Model("m", pack.record.method, built, pack)
    detector = detector_for(model, model.domain)
    assert detector.name == "anomalyclip"
    scored = detector.score(torch.zeros(1, 3, 32, 32))
    assert scored.maps.shape == (1, 32, 32)


def test_without_words_the_ledger_says_that_the_data_are_unknown(checkpoint: Path, built: BuiltTower) -> None:
    [entry] = convert_prompts(read_prompts(checkpoint), built).record.ledger
    assert entry.name == "trained elsewhere, data not recorded in epoch_15.pth"


def test_other_token_embeddings_are_told_and_measured(
    tmp_path: Path, state: dict[str, torch.Tensor], built: BuiltTower
) -> None:
    other = {**state, "token_suffix_neg": state["token_suffix_neg"] + 0.25}
    made = convert_prompts(read_prompts(write_prompts(tmp_path / "x.pth", other)), built)
    facts = made.record.validation["token_embeddings"]
    assert not facts["equal"]
    assert facts["max_difference"] == pytest.approx(0.25, abs=1e-6)
    assert "differ from those in the file by up to 0.25" in made.notes[0]
    assert made.record.validation["notes"] == list(made.notes)


def test_a_tower_with_another_activation_is_told(checkpoint: Path) -> None:
    gelu = convert_prompts(read_prompts(checkpoint), small_clip(quick=False))
    assert any("small computes GELU" in note for note in gelu.notes)


def test_a_tower_is_recorded_under_the_name_that_its_hub_knows(built: BuiltTower) -> None:
    assert tower_record(built).name == "small"
    assert tower_record(replace(built, source="small/openai")).name == "small/openai"


def test_the_released_crane_prompts_convert(shared: Path) -> None:
    file = shared / "weights" / "crane_mvtec_epoch_5.pth"
    built = small_clip(width=768, dim=16)
    made = convert_prompts(read_prompts(file), built)
    assert made.record.validation["tokens"] == "equal"
    assert not made.record.validation["token_embeddings"]["equal"], "the tower's weights are random"
    assert made.tensors["prompt.context"].shape == (2, 12, 768)
    stored = torch.load(file, weights_only=True, map_location="cpu")["prompt_learner"]
    own = {name: text_side(built.clip).embedding(tokens) for name, tokens in _both_texts(built)}
    random = {f"token_prefix_{name}": x[:1][None, None] for name, x in own.items()}
    random |= {f"token_suffix_{name}": x[13:][None, None] for name, x in own.items()}
    expected = _family_features({**stored, **random}, built)
    torch.testing.assert_close(made.tensors["patch_classes"], expected, atol=1e-5, rtol=0)


def _crane_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if "projections" not in key}


@pytest.fixture
def crane_checkpoint(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    return write_prompts(tmp_path / "epoch_5.pth", _crane_state(state))


def test_prompts_without_unused_layers_are_taken_for_cranes(crane_checkpoint: Path, built: BuiltTower) -> None:
    made = convert_prompts(read_prompts(crane_checkpoint), built)
    assert made.record.method == "crane"
    assert made.notes == ("epoch_5.pth is taken for prompts of crane; name crane+ or anomalyclip if it is of those",)
    plain = convert_prompts(read_prompts(crane_checkpoint), built, method="anomalyclip")
    assert (plain.record.method, plain.notes) == ("anomalyclip", ())
    assert torch.equal(plain.tensors["patch_classes"], made.tensors["patch_classes"])
    with pytest.raises(ModelError, match=r"one of anomalyclip, crane, crane\+; given: winclip"):
        convert_prompts(read_prompts(crane_checkpoint), built, method="winclip")


@pytest.mark.parametrize("method", ["crane", "crane+"])
def test_a_crane_pack_holds_all_of_its_configuration(
    crane_checkpoint: Path, built: BuiltTower, tmp_path: Path, method: str
) -> None:
    made = convert_prompts(read_prompts(crane_checkpoint), built, method=method)
    assert made.notes == ()
    write_pack(tmp_path / "pack", made)
    pack = load_pack(tmp_path / "pack")
    kind = {"crane": CraneConfig, "crane+": CranePlusConfig}[method]
    config = read_method_config(kind, pack.record.config, "the pack")
    released = {"crane+": {"values_after_attention": True}}.get(method, {})
    assert config == kind(feature_layers=(-1,), **released)
    assert set(pack.record.config) == {each.name for each in fields(kind)} - {"image_size", "local_start"}


def test_a_crane_pack_scores_and_trains_on(crane_checkpoint: Path, built: BuiltTower, tmp_path: Path) -> None:
    write_pack(tmp_path / "pack", convert_prompts(read_prompts(crane_checkpoint), built))
    pack = load_pack(tmp_path / "pack")
    detector = Crane.from_parts(Parts(built, pack.record.config, pack.tensors))
    assert detector.score(torch.zeros(1, 3, 32, 32)).maps.shape == (1, 32, 32)
    for name, value in detector.state().items():
        torch.testing.assert_close(value, pack.tensors[name])


def test_the_released_crane_prompts_score_on_a_tower_of_their_size(shared: Path) -> None:
    """The published forward with the released prompts, on random weights of ViT-L/14@336."""
    file, built = shared / "weights" / "crane_mvtec_epoch_5.pth", clip_built("ViT-L/14@336")
    made = convert_prompts(read_prompts(file), built)
    assert made.record.method == "crane"
    detector = Crane.from_parts(Parts(built, {**made.record.config, "image_size": 112}, made.tensors))
    stored = torch.load(file, weights_only=True, map_location="cpu")["prompt_learner"]
    context = torch.stack([stored[f"ctx_{name}"][0, 0] for name in ("pos", "neg")])
    deep = torch.stack([stored[f"compound_prompts_text.{block}"] for block in range(8)])
    clip, pixels = built.clip, noise(1, 112)
    classes = text_features(clip, prompt_tokens(built.tokenizer), context, deep)
    paths = image_paths(clip, pixels, "qq+kk+vv")
    patches, cls = project(clip, paths.local[-1])[0, 1:], project(clip, paths.cls_token)[0]
    abnormal = torch.softmax(patches @ classes.T / 0.07, -1)[:, 1]
    out = detector.score(pixels)
    expected = smooth(enlarge(abnormal[None], 112), 4 * 112 / 518)
    torch.testing.assert_close(out.maps, expected, atol=1e-5, rtol=0)
    feature = F.normalize(F.normalize((abnormal[:, None] * patches).sum(0), dim=0) + cls, dim=0)
    torch.testing.assert_close(out.scores, torch.softmax(feature @ classes.T / 0.07, -1)[1:], atol=1e-5, rtol=0)


def _both_texts(built: BuiltTower) -> list[tuple[str, torch.Tensor]]:
    return list(zip(("pos", "neg"), prompt_tokens(built.tokenizer), strict=True))


def _without(state: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in names}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: _without(s, "ctx_neg"), "must hold ctx_pos, ctx_neg and compound_prompts_text"),
        (lambda s: _without(s, "compound_prompts_text.3"), "must hold ctx_pos, ctx_neg and compound_prompts_text"),
        (lambda s: {**s, "ctx_neg": torch.ones(1, 1, 11, WIDTH)}, "ctx_pos and ctx_neg must have one shape"),
        (lambda s: {**s, "ctx_neg": torch.full((1, 1, 12, WIDTH), float("nan"))}, "matrices of finite numbers"),
        (lambda s: {**s, "ctx_pos": torch.ones(3)}, "matrices of finite numbers"),
        (lambda s: {**s, "compound_prompts_text.0": torch.ones(4, 5)}, "Deep prompts must all have one shape"),
        (lambda s: {**s, "tokenized_prompts_pos": s["tokenized_prompts_neg"]}, "must give the tokens .*trained with"),
        (
            lambda s: {**s, **{f"token_suffix_{n}": torch.ones(1, 1, 60, WIDTH) for n in ("pos", "neg")}},
            "must fit its tokens; given: 1 before and 60 after 12 contexts, of 77 tokens",
        ),
    ],
)
def test_a_wrong_checkpoint_is_refused_in_words(
    tmp_path: Path, state: dict[str, torch.Tensor], built: BuiltTower, change: Any, words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        convert_prompts(read_prompts(write_prompts(tmp_path / "x.pth", change(state))), built)


def test_a_tower_that_does_not_fit_is_refused(checkpoint: Path, built: BuiltTower) -> None:
    prompts = read_prompts(checkpoint)
    with pytest.raises(ModelError, match="must have the width of the prompts, 32; given: 48"):
        convert_prompts(prompts, small_clip(width=48))
    with pytest.raises(ModelError, match="vision-only"):
        convert_prompts(prompts, replace(built, clip=None))
    with pytest.raises(ModelError, match="3 blocks must have fewer deep prompts"):
        convert_prompts(prompts, small_clip(text_layers=3))


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"prompt_learner": {"ctx_pos": Path("x")}}, tmp_path / "unsafe.pth")
    torch.save({"other": torch.ones(1)}, tmp_path / "other.pth")
    for name, words in (
        ("gone.pth", "The weight file must exist; given: gone.pth"),
        ("empty.pth", "given: empty.pth, an empty file"),
        ("unsafe.pth", "must hold ctx_pos, ctx_neg"),
        ("other.pth", "a dictionary named prompt_learner"),
    ):
        with pytest.raises(ModelError, match=words):
            read_prompts(tmp_path / name)


def _run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["models", "convert", *map(str, arguments)])


def test_convert_prompts_of_a_clip_file(tmp_path: Path) -> None:
    """The whole command on a weight file of a real small architecture; its token embeddings are random."""
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-S-32-alt", pretrained=None)
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()}, tmp_path / "clip.safetensors")
    state = learner_state(small_clip(width=256))
    file, out = write_prompts(tmp_path / "prompts.pth", state), tmp_path / "pack"
    tower = f"ViT-S-32-alt@{tmp_path / 'clip.safetensors'}"
    ran = _run(file, "--tower", tower, "--out", out, "--json")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["record"]["tower"]["name"] == "ViT-S-32-alt"
    other = _run(file, "--tower", tower, "--out", tmp_path / "crane", "--method", "crane+", "--json")
    assert json.loads(other.stdout)["record"]["method"] == "crane+"
    assert "warning: the token embeddings of clip.safetensors differ from those in the file" in ran.stderr
    model = load_model(out, weights=f"ViT-S-32-alt@{tmp_path / 'clip.safetensors'}")
    assert detector_for(model, model.domain).name == "anomalyclip"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Prompts must be converted with a tower"),
        (("--domain", "brain"), "The domain must be one of"),
        (("--method", "cran"), "The method must be one of anomalyclip, crane, crane+"),
    ],
)
def test_wrong_use_is_one_message(checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    ran = _run(checkpoint, "--out", tmp_path / "pack", *arguments)
    assert ran.exit_code == 2
    assert ran.stdout == ""
    assert words in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.output
    assert not (tmp_path / "pack").exists()


@pytest.fixture(scope="module")
def tower_state() -> dict[str, torch.Tensor]:
    return tiny_state()


@pytest.fixture
def prompts_64(tmp_path: Path) -> Path:
    """Prompts for a text side of width 64."""
    return write_prompts(tmp_path / "epoch_15.pth", learner_state(small_clip(width=64)))


@pytest.mark.parametrize("form", FORMS)
def test_prompts_are_converted_with_a_tower_in_every_form(
    form: str, prompts_64: Path, tower_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """And the pack takes the same file alone: its record names the architecture."""
    (tmp_path / "in").mkdir()
    tower = FORMS[form](tmp_path / "in", tower_state)
    ran = _run(prompts_64, "--tower", tower, "--out", tmp_path / "pack", "--json")
    assert ran.exit_code == 0, ran.output
    model = load_model(tmp_path / "pack", weights=tower)
    assert model.pack.record.tower.name == QUICK
    assert model.warnings == ()
    expected = convert_prompts(read_prompts(prompts_64), build_tower(f"{QUICK}@{tower}"))
    assert torch.equal(model.pack.tensors["patch_classes"], expected.tensors["patch_classes"])


def test_the_tower_may_be_named_apart_from_its_weights(
    prompts_64: Path, tower_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(tower_state, tmp_path / "clip.safetensors")
    for number, words in enumerate((("--tower", QUICK), ("--tower", f"{QUICK}/openai"))):
        ran = _run(prompts_64, *words, "--weights", tmp_path / "clip.safetensors", "--out", tmp_path / f"p{number}")
        assert ran.exit_code == 0, ran.output
        expected = convert_prompts(read_prompts(prompts_64), build_tower(f"{QUICK}@{tmp_path / 'clip.safetensors'}"))
        pack = load_model(tmp_path / f"p{number}", weights=tmp_path / "clip.safetensors").pack
        assert torch.equal(pack.tensors["patch_classes"], expected.tensors["patch_classes"])


def _refusals(folder: Path, prompts: Path, state: dict[str, torch.Tensor]) -> dict[str, tuple[tuple[Any, ...], str]]:
    clip, code = folder / "clip.safetensors", folder / "code.pt"
    save_file(state, clip)
    torch.save({"prompt_learner": {"ctx_pos": Path("x")}}, code)
    torch.save({"prompt_learner": {}}, folder / "none.pth")
    table = folder / "table.npy"
    np.save(table, np.ones((7, 1)))
    named = ("--tower", f"{QUICK}@{clip}")
    archive(folder / "ViT-L-14-336px.pt", state, QuickGELU())
    return {
        "no file": ((folder / "gone.pth", *named), "must be a file that exists; given: gone.pth"),
        "no tower": ((prompts,), "must be converted with a tower"),
        "an unknown tower": ((prompts, "--tower", "ViT-L-14-337/openai"), "Did you mean ViT-L-14"),
        "a tower whose weights are missing": ((prompts, "--tower", QUICK), "must be a pack, a weight file"),
        "a missing weight file": (
            (prompts, "--tower", QUICK, "--weights", folder / "no.pt"),
            "must exist; given: no.pt",
        ),
        "an activation that nothing tells": ((prompts, "--tower", clip), "The architecture of clip.safetensors must"),
        "two architectures": ((prompts, "--tower", "ViT-B-16", "--weights", f"{QUICK}@{clip}"), "one architecture"),
        "another tower": ((prompts, "--tower", f"ViT-B-16@{clip}"), "must fit the architecture ViT-B-16"),
        "a tower to convert": ((clip, *named), "given: clip.safetensors, the weights of a tower"),
        "an archive to convert": ((folder / "ViT-L-14-336px.pt", *named), "the weights of a tower"),
        "code": ((code, *named), "must hold ctx_pos, ctx_neg"),
        "no prompts": ((folder / "none.pth", *named), "must hold ctx_pos, ctx_neg"),
        "a table": ((table, *named), "given: table.npy"),
        "a folder": ((folder, *named), "The file to convert must be a file that exists"),
        "an unknown domain": ((prompts, *named, "--domain", "brain"), "The domain must be one of"),
        "an unknown method": ((prompts, *named, "--method", "cran"), "The method must be one of"),
    }


def test_a_refused_conversion_leaves_no_folder(
    prompts_64: Path, tower_state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "in").mkdir()
    for name, (arguments, words) in _refusals(tmp_path / "in", prompts_64, tower_state).items():
        ran = _run(*arguments, "--out", tmp_path / "new" / "pack")
        said = " ".join(ran.stderr.split())
        assert (ran.exit_code, words in said) == (2, True), f"{name}: {said}"
        assert not (tmp_path / "new").exists(), name
        assert "weights_only" not in said, name


def test_an_interrupted_or_failed_conversion_leaves_nothing(
    checkpoint: Path, built: BuiltTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").mkdir()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(new_pack, "write_record", fail)
    monkeypatch.setattr(convert, "build_tower", lambda name: built)
    for out in (tmp_path / "new" / "pack", tmp_path / "kept"):
        with pytest.raises(KeyboardInterrupt):
            convert.convert_model(checkpoint, out, tower="small")
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "kept").iterdir())
