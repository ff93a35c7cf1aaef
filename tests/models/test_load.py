"""Names → models: packs, weight files, CLIP towers with prompts, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from prompt_files import learner_state, small_clip, write_prompts
from safetensors.torch import load_file, save_file
from spheres import sphere
from weight_formats import GELU, QUICK, QuickGELU, archive, hf_folder, tiny_state

from headclip_med import load_engine
from headclip_med.base.errors import HeadclipError, ModelError
from headclip_med.base.files import sha256_file
from headclip_med.detectors import Detector
from headclip_med.detectors.prompts import ABNORMAL_STATES, NORMAL_STATES, TEMPLATES, ensemble
from headclip_med.encoders.build import build_tower, recognise_architecture
from headclip_med.encoders.head_weights import DynamicHeadWeights
from headclip_med.encoders.text import class_features
from headclip_med.encoders.timm_vit import TimmVitSpec, build_timm_vit
from headclip_med.engine.engine import Engine
from headclip_med.engine.torch_scorer import TorchScorer
from headclip_med.models.convert import convert_prompts, read_prompts
from headclip_med.models.domains import DOMAINS, get_domain
from headclip_med.models.load import detector_for, load_model, takes_weights
from headclip_med.models.new_pack import write_pack
from headclip_med.models.pack import builtin_packs, load_pack
from headclip_med.models.record import write_record

SMALL_CLIP = "ViT-S-32-alt"


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random small CLIP as a local safetensors file."""
    torch.manual_seed(0)
    model = open_clip.create_model(SMALL_CLIP, pretrained=None)
    path = tmp_path_factory.mktemp("weights") / "clip.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path


@pytest.fixture
def own_pack(tiny_pack: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pack that a test may change."""
    return shutil.copytree(tiny_pack, tmp_path / "own")


@pytest.fixture
def dinov2_like(tmp_path: Path) -> Path:
    """Random weights with the tensor shapes of DINOv2 ViT-S/14."""
    model = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=56)
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "dino.safetensors")
    return tmp_path / "dino.safetensors"


def test_prompts_are_anatomy_by_state_by_template() -> None:
    normal, abnormal = ensemble(("brain", "brain MRI"), ("{} with a tumour",))
    assert len(normal) == 2 * len(NORMAL_STATES) * len(TEMPLATES)
    assert len(abnormal) == 2 * (len(ABNORMAL_STATES) + 1) * len(TEMPLATES)
    assert "a medical image of the normal brain MRI" in normal
    assert "a photo of the brain with a tumour" in abnormal
    assert len(set(normal)) == len(normal)


def test_class_features_are_the_normalised_mean_of_their_texts(clip_file: Path) -> None:
    built = build_tower(f"{SMALL_CLIP}@{clip_file}")
    both = class_features(built.clip, built.tokenizer, ["a brain", "the brain"], ["a tumour"])
    with torch.inference_mode():
        texts = built.clip.encode_text(built.tokenizer(["a brain", "the brain", "a tumour"]), normalize=True)
    expected = torch.stack([texts[:2].mean(0), texts[2]])
    torch.testing.assert_close(both, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5, rtol=0)


def test_a_clip_file_with_prompts_runs_the_whole_job(clip_file: Path) -> None:
    engine = load_engine(f"{SMALL_CLIP}@{clip_file}", "cpu", precision="float32")
    array, affine = sphere("anisotropic")
    brain, liver = (engine.predict(array, affine=affine, domain=d) for d in ("brain-mri", "liver-ct"))
    assert not np.allclose(brain.map_array, liver.map_array), "the domain's prompts matter"
    assert brain.provenance["weights_sha256"] == sha256_file(clip_file)
    assert brain.provenance["model"] == f"{SMALL_CLIP}@clip.safetensors"
    assert "not calibrated" in brain.threshold_origin


def test_clip_models_with_two_activations_are_not_guessed(clip_file: Path) -> None:
    """Tensors cannot tell QuickGELU from GELU: a shape that both share must be named by the user."""
    state = open_clip.create_model("ViT-B-32", pretrained=None).state_dict()
    with pytest.raises(ModelError, match=r"several architectures fit: .*ViT-B-32.*Name it yourself as ARCHITECTURE@x"):
        recognise_architecture(state, "x.safetensors")
    assert build_tower(str(clip_file)).architecture == SMALL_CLIP


def test_a_vision_only_file_is_recognised_by_its_tensors(dinov2_like: Path) -> None:
    assert recognise_architecture(load_file(dinov2_like), "dino.safetensors") == "vit_small_patch14_dinov2"


def _vit_file(folder: Path) -> Path:
    """Random weights whose tensors could be DINO's, MAE's or a supervised ViT's."""
    model = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0)
    save_file({key: value.half() for key, value in model.state_dict().items()}, folder / "vit.safetensors")
    return folder / "vit.safetensors"


def test_the_normalisation_of_a_patch_16_file_is_never_guessed(tmp_path: Path) -> None:
    file = _vit_file(tmp_path)
    with pytest.raises(ModelError, match=r"vit_small_patch16_224\.dino@vit\.safetensors"):
        build_tower(str(file))
    with pytest.raises(ModelError, match=r"Name it as ARCH\.TAG@FILE .*augreg_in1k.*vit_small_patch16_224\.dino"):
        build_tower(f"vit_small_patch16_224@{file}")
    with pytest.raises(ModelError, match=r"Did you mean .*vit_small_patch16_224\.dino"):
        build_tower(f"vit_small_patch16_224.dinno@{file}")
    means = {tag: build_tower(f"vit_small_patch16_224.{tag}@{file}").tower.mean for tag in ("dino", "augreg_in1k")}
    assert means == {"dino": (0.485, 0.456, 0.406), "augreg_in1k": (0.5, 0.5, 0.5)}


def test_a_clip_file_never_asks_for_other_weights(clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some CLIPs name a Hugging Face text model, whose weights open_clip would download first."""
    asked: list[object] = []
    create = open_clip.create_model

    def record(*args: object, **kwargs: object) -> object:
        asked.append((kwargs.get("pretrained"), kwargs.get("pretrained_hf", True)))
        return create(*args, **kwargs)

    monkeypatch.setattr(open_clip, "create_model", record)
    build_tower(f"{SMALL_CLIP}@{clip_file}")
    assert asked == [(None, False)]


def test_a_text_side_that_cannot_be_had_is_told_in_words(clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip, "get_tokenizer", offline)
    with pytest.raises(ModelError, match=r"The tokenizer of ViT-S-32-alt must be in the cache .*no route to host"):
        build_tower(f"{SMALL_CLIP}@{clip_file}")


def test_two_engines_of_one_model_do_not_corrupt_each_other(tiny_pack: Path) -> None:
    """A second engine used to cast the tower of the first under its feet."""
    model = load_model(tiny_pack)
    array, affine = sphere("anisotropic")
    first = Engine(TorchScorer(model, device="cpu", precision="float32"))
    before = first.predict(array, affine=affine).map_array
    with pytest.raises(ModelError, match="Load the model again"):
        Engine(TorchScorer(model, device="cpu", precision="bfloat16"))
    np.testing.assert_array_equal(first.predict(array, affine=affine).map_array, before)
    again = Engine(TorchScorer(model, device="cpu", precision="float32")).predict(array, affine=affine)
    np.testing.assert_array_equal(again.map_array, before)


def test_a_pack_is_read_with_its_hashes(tiny_pack: Path) -> None:
    model = load_model(tiny_pack)
    assert model.provenance()["weights_sha256"] == sha256_file(tiny_pack / "tower.safetensors")
    detector = detector_for(model, get_domain("brain-mri"))
    assert detector.name == "headclip"
    assert load_model(tiny_pack, method="anomalyclip").method == "anomalyclip"


@pytest.mark.parametrize(
    ("param", "theta", "expected"),
    [("free", 1.5, 1.5), ("softmax_mean1", 3.0, 1.0), ("sigmoid2", 0.0, 1.0), ("softplus", 0.0, np.log(2))],
)
@pytest.mark.parametrize("branch", ["local", "global", "both"])
def test_head_weights_of_a_pack_by_parametrisation_and_branch(
    own_pack: Path, param: str, theta: float, expected: float, branch: str
) -> None:
    record = json.loads((own_pack / "pack.json").read_text())
    record["config"] |= {"lhw_param": param, "lhw_branch": branch, "lhw_layers": "all"}
    (own_pack / "pack.json").write_text(json.dumps(record))
    tensors = load_file(own_pack / "pack.safetensors")
    save_file(tensors | {"head_weights": torch.full((1, 2), theta)}, own_pack / "pack.safetensors")
    model = load_model(own_pack)
    assert model.pack is not None
    weights = model.pack.head_weights(model.built.tower)
    assert weights is not None
    for tensor, used in ((weights.local, branch != "global"), (weights.global_, branch != "local")):
        assert (tensor is not None) == used
        if tensor is not None:
            np.testing.assert_allclose(tensor, np.full((2, 2), expected), rtol=1e-6)


def test_a_pack_can_keep_weights_of_its_own_for_the_image_score(own_pack: Path) -> None:
    record = json.loads((own_pack / "pack.json").read_text())
    record["config"] |= {"lhw_task_decoupled": True, "lhw_layers": "all"}
    (own_pack / "pack.json").write_text(json.dumps(record))
    tensors = load_file(own_pack / "pack.safetensors")
    own = {"head_weights": torch.full((2, 2), 2.0), "head_weights_global": torch.full((2, 2), 3.0)}
    save_file(tensors | own, own_pack / "pack.safetensors")
    model = load_model(own_pack)
    assert model.pack is not None
    weights = model.pack.head_weights(model.built.tower)
    assert weights is not None
    assert weights.local is not None
    assert weights.global_ is not None
    assert (weights.local.unique().item(), weights.global_.unique().item()) == (2, 3)


def _change(folder: Path, config: dict, tensors: dict[str, torch.Tensor]) -> Path:
    """The pack in ``folder`` with further configuration and tensors."""
    record = json.loads((folder / "pack.json").read_text())
    record["config"] |= config
    (folder / "pack.json").write_text(json.dumps(record))
    own = load_file(folder / "pack.safetensors")
    save_file({**own, **tensors}, folder / "pack.safetensors")
    return folder


def _predictor(scale: float = 0.0) -> dict[str, torch.Tensor]:
    module = DynamicHeadWeights(32, 2, 2, hidden=8)
    torch.nn.init.constant_(module.output.bias, scale)
    return {f"dynamic.{name}": tensor for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("branch", ["local", "global"])
def test_predicted_head_weights_of_a_pack_act_like_their_values(own_pack: Path, branch: str) -> None:
    """With zero weights and a bias of 1.5 the prediction is 2.5 for every head and image."""
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = _detector(own_pack).score(pixels)
    dynamic = _detector(_change(own_pack, {"lhw_dynamic": True, "lhw_branch": branch}, _predictor(1.5))).score(pixels)
    assert not torch.allclose(dynamic.scores, plain.scores)
    tensors = {k: v for k, v in load_file(own_pack / "pack.safetensors").items() if not k.startswith("dynamic.")}
    save_file(tensors, own_pack / "pack.safetensors")
    static = _change(own_pack, {"lhw_dynamic": False}, {"head_weights": torch.full((1, 2), 2.5)})
    expected = _detector(static).score(pixels)
    torch.testing.assert_close(dynamic.maps, expected.maps)
    torch.testing.assert_close(dynamic.scores, expected.scores)


@pytest.mark.parametrize(
    ("config", "rows"),
    [({"lhw_layers": "tapped"}, (1, 2)), ({"lhw_layers": 1}, (1, 2)), ({"lhw_layers": "dual"}, (1, 2, 16))],
)
def test_every_shape_and_layer_choice_of_head_weights_acts(own_pack: Path, config: dict, rows: tuple) -> None:
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = _detector(own_pack).score(pixels)
    changed = _detector(_change(own_pack, config, {"head_weights": torch.full(rows, 3.0)})).score(pixels)
    assert not torch.allclose(changed.maps, plain.maps)


@pytest.mark.parametrize(
    ("config", "tensors", "words"),
    [
        (
            {"lhw_task_decoupled": True},
            {"head_weights": torch.ones(1, 2)},
            "the tensor head_weights_global .*missing",
        ),
        ({"lhw_task_decoupled": True}, {"head_weights_global": torch.ones(1, 2)}, "tensor head_weights .*missing"),
        ({}, {"head_weights_global": torch.ones(1, 2)}, "sets lhw_task_decoupled.*present"),
        ({"lhw_dynamic": True}, {}, r"tensors dynamic\.\* .*missing"),
        ({}, _predictor(), r"sets lhw_dynamic; given: lhw_dynamic False.*present"),
        ({"lhw_dynamic": True}, {**_predictor(), "head_weights": torch.ones(1, 2)}, "must have no tensor head_weights"),
        ({"lhw_dynamic": True}, {"dynamic.hidden.bias": torch.ones(3)}, "must fit the tower"),
        ({"lhw_dynamic": True}, _predictor(float("nan")), "must be finite"),
        ({"lhw_layers": 3}, {"head_weights": torch.ones(1, 2)}, "must be 1 to 2"),
        ({"feature_layers": [24]}, {}, "family's 24 is 23"),
        ({"temperature": 0}, {}, "temperature must be positive"),
    ],
)
def test_a_pack_whose_configuration_and_tensors_disagree_is_refused(
    own_pack: Path, config: dict, tensors: dict[str, torch.Tensor], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        _detector(_change(own_pack, config, tensors))


def test_class_features_of_a_pack_pair_with_its_layers_as_listed(own_pack: Path) -> None:
    """Rows used to go to sorted layers, whatever the order they were listed in."""
    rows = torch.stack([torch.eye(32)[:2], torch.eye(32)[2:4]])
    model = load_model(_change(own_pack, {"feature_layers": [-1, 0]}, {"patch_classes": rows}))
    assert model.pack is not None
    classes = model.pack.class_features(model.built.tower)
    assert classes is not None
    assert torch.equal(classes.patch[1], rows[0])
    assert torch.equal(classes.patch[0], rows[1])


def test_a_pack_record_is_written_whole_or_not_at_all(own_pack: Path) -> None:
    record = load_pack(own_pack).record
    write_record(own_pack, record)
    before = (own_pack / "pack.json").read_text()
    assert load_pack(own_pack).record == record
    assert "null" not in before
    with pytest.raises(ModelError, match=r"must follow the format headclip_med/1; given: threshold"):
        write_record(own_pack, record.model_copy(update={"threshold": None}))
    assert (own_pack / "pack.json").read_text() == before
    assert sorted(p.name for p in own_pack.iterdir()) == ["pack.json", "pack.safetensors", "tower.safetensors"]


def test_exchanged_weights_are_noticed(own_pack: Path) -> None:
    record = json.loads((own_pack / "pack.json").read_text())
    record["tower"]["sha256"] = "0" * 64
    (own_pack / "pack.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"must have the sha256 in its pack\.json"):
        load_model(own_pack)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "headclip_med/9"}, "must follow the format headclip_med/1"),
        ({"colour": "red"}, "colour"),
        ({"config": {"tempeature": 1}}, "must use known keys; given: tempeature"),
        ({"config": {"jas_pool": "median"}}, "must hold allowed values; given: jas_pool"),
        ({"method": "headlip"}, "Did you mean headclip"),
        ({"domain": "brain"}, "The domain must be one of"),
    ],
)
def test_a_wrong_pack_is_refused_in_words(own_pack: Path, change: dict, words: str) -> None:
    record = json.loads((own_pack / "pack.json").read_text()) | change
    (own_pack / "pack.json").write_text(json.dumps(record))
    with pytest.raises(HeadclipError, match=words):
        _detector(own_pack)


def _detector(folder: Path) -> Detector:
    model = load_model(folder)
    return detector_for(model, model.domain)


def test_weights_that_do_not_fit_name_the_first_mismatch(own_pack: Path) -> None:
    other = build_timm_vit(TimmVitSpec(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2))
    save_file(other.state_dict(), own_pack / "tower.safetensors")
    record = json.loads((own_pack / "pack.json").read_text())
    record["tower"]["sha256"] = None
    (own_pack / "pack.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"must fit the architecture .* is \(1, 1, 48\), not"):
        load_model(own_pack)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("headclip-tinny", "must be a pack, a weight file.*Did you mean headclip-tiny"),
        ("ViT-L-14-335/openai", "Did you mean ViT-L-14"),
        ("ViT-B-16/opnai", "A pretrained tag of ViT-B-16 must be named"),
        ("timm:vit_small_patch14_dinov9", "Did you mean vit_small_patch14"),
        ("nowhere.safetensors", "The weight file must exist"),
        ("RN50@nowhere.pt", "The weight file must exist"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load_model(name)


def test_damaged_and_unsafe_weight_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "short.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"weights": Path("x")}, tmp_path / "object.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for file in ("short.safetensors", "empty.pt", "object.pt", "list.pt"):
        with pytest.raises(ModelError, match="A weight file must"):
            build_tower(str(tmp_path / file))


def test_a_convolutional_clip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(ModelError):
        build_tower(f"RN50@{tmp_path / 'x.safetensors'}")


@pytest.mark.parametrize("name", builtin_packs())
def test_every_shipped_pack_is_whole(name: str) -> None:
    pack = load_pack(builtin_packs()[name])
    pack.config()
    assert pack.record.name == name
    assert 0 < pack.record.threshold.value < 1
    assert "not calibrated" not in pack.record.threshold.origin
    assert pack.record.ledger, "a pack says what it was trained on"
    assert all(entry.licence for entry in pack.record.ledger)
    assert pack.record.tower.sha256
    card = (pack.folder / "README.md").read_text()
    assert "not for medical use" in card.lower() or "not a medical device" in card.lower()
    assert sum(f.stat().st_size for f in pack.folder.iterdir()) <= 12e6


def test_domains_have_words_and_valid_windows() -> None:
    for domain in DOMAINS.values():
        assert domain.anatomy
        assert all("{}" in state for state in domain.abnormal)


def test_a_misspelt_method_in_front_of_a_model_is_told_the_right_one() -> None:
    with pytest.raises(ModelError, match=r"Did you mean winclip:headclip-tiny; see `headclip-med models methods`"):
        load_model("winclp:headclip-tiny")
    with pytest.raises(ModelError, match="one method; given: winclip in its name and clip beside it"):
        load_model("winclip:headclip-tiny", method="clip")


@pytest.fixture(scope="module")
def clip_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of prompts whose record names a tower that no hub has, with the weights beside it in three forms."""
    folder = tmp_path_factory.mktemp("clip_pack")
    state = tiny_state()
    save_file(state, folder / "clip.safetensors")
    archive(folder / "ViT-tiny.pt", state, QuickGELU())
    hf_folder(folder / "hf", state)
    file = write_prompts(folder / "epoch_15.pth", learner_state(small_clip(width=64)))
    write_pack(folder / "pack", convert_prompts(read_prompts(file), build_tower(str(folder / "ViT-tiny.pt"))))
    return folder


@pytest.mark.parametrize("weights", ["clip.safetensors", "ViT-tiny.pt", "hf", f"{QUICK}@{{}}/clip.safetensors"])
def test_a_pack_takes_weights_without_their_architecture(clip_pack: Path, weights: str) -> None:
    """Its record names the tower; nothing in ``clip.safetensors`` tells the activation."""
    file = weights.format(clip_pack) if "@" in weights else clip_pack / weights
    model = load_model(clip_pack / "pack", weights=file)
    expected = load_model(clip_pack / "pack", weights=clip_pack / "ViT-tiny.pt")
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = [detector_for(each, get_domain("generic")).score(pixels).maps for each in (model, expected)]
    assert torch.equal(*maps)
    other_file = model.built.sha256 != expected.built.sha256
    assert any("made with another weight file" in each for each in model.warnings) == other_file


def test_an_architecture_takes_weights_too(clip_pack: Path) -> None:
    for name in (QUICK, f"clip-vv:{QUICK}/openai", f"open_clip:{QUICK}"):
        model = load_model(name, weights=clip_pack / "clip.safetensors")
        assert model.built.architecture == QUICK
    assert load_model(clip_pack / "hf").built.architecture == QUICK
    assert takes_weights("ViT-B-16")
    assert takes_weights("timm:vit_small_patch14_dinov2")
    assert not takes_weights("ViT-B-16/openai"), "its hub's"
    assert not takes_weights("headclip-tiny")


def test_an_activation_that_the_weights_were_not_trained_with_is_told(clip_pack: Path) -> None:
    told = load_model(f"{GELU}@{clip_pack / 'ViT-tiny.pt'}").warnings
    assert told == (
        f"ViT-tiny.pt was trained with QuickGELU, {GELU} computes GELU: name the architecture with -quickgelu",
    )


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("pack", None, rf"none for {QUICK}. Add --weights FILE with the weights of {QUICK}: .*Hugging Face folder"),
        ("dinov2-vits14-brain-mri", None, r"Add --weights FILE .*; or run `headclip-med models pull timm:vit_small"),
        ("ViT-B-16-quickgelu/openai", None, "name a local file with --weights FILE"),
        ("ViT-B-16", None, "Write for example ViT-B-16/.*, or add --weights FILE"),
        ("ViT-S-32-alt", None, "Add --weights FILE"),
        ("headclip-tiny", "clip.safetensors", "tower that it carries; given: clip.safetensors. Leave --weights out"),
        ("pack", "gone.pt", "The weight file must exist; given: gone.pt"),
        ("ViT-B-16", "gone", "Weights must be a file, or a folder with one; given: gone"),
        ("ViT-B-16", f"{QUICK}@{{}}/clip.safetensors", "one architecture; given: ViT-B-16 and clip-w64"),
        ("{}/clip.safetensors", "hf", "one set of weights; given: clip.safetensors and hf"),
        ("hf-hub:some/model", "hf", "one set of weights"),
        ("dinov2-vits14-brain-mri", "ViT-tiny.pt", "must fit the architecture vit_small.*given: those of a CLIP"),
        ("ViT-B-16", "clip.safetensors", r"must fit the architecture ViT-B-16; given: .* missing"),
    ],
)
def test_missing_and_wrong_weights_name_the_option(
    clip_pack: Path, monkeypatch: pytest.MonkeyPatch, name: str, weights: str | None, words: str
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    given = None if weights is None else weights.format(clip_pack) if "@" in weights else str(clip_pack / weights)
    model = str(clip_pack / name) if name == "pack" else name.format(clip_pack)
    with pytest.raises(ModelError, match=words):
        load_model(model, weights=given)
