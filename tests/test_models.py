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
from safetensors.torch import load_file, save_file
from test_engine import sphere

from headclip_med import load_engine
from headclip_med.detectors import Detector
from headclip_med.encoders.build import build_tower, recognise, sha256_file
from headclip_med.encoders.text import class_features
from headclip_med.encoders.timm_vit import TimmVitSpec, build_timm_vit
from headclip_med.errors import HeadclipError, ModelError
from headclip_med.models import detector_for, load_model
from headclip_med.packs import builtin_packs, load_pack
from headclip_med.packs.domains import DOMAINS, get_domain
from headclip_med.prompts import ABNORMAL_STATES, NORMAL_STATES, TEMPLATES, ensemble

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
        recognise(state, "x.safetensors")
    assert build_tower(str(clip_file)).architecture == SMALL_CLIP


def test_a_vision_only_file_is_recognised_by_its_tensors(dinov2_like: Path) -> None:
    assert recognise(load_file(dinov2_like), "dino.safetensors") == "vit_small_patch14_dinov2"


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
        ("headclip-tinny", "must be a pack, a weight file"),
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
