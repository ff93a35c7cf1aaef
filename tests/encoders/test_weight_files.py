"""Weight files as users have them: the same weights in every form are the same tower, and refusals say what to do."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from torch import Tensor, nn
from weight_formats import (
    FORMS,
    GELU,
    HF_CONFIG,
    INTEGER_TENSORS,
    NAMED_FORMS,
    QUICK,
    GELULayer,
    QuickGELU,
    archive,
    hf_folder,
    hf_state,
    openai_state,
    tiny_clip,
    tiny_state,
)

from headclip_med.base.errors import ModelError
from headclip_med.encoders.build import BuiltTower, build_tower, recognise_architecture, with_weights
from headclip_med.encoders.clip_architecture import ClipFacts
from headclip_med.encoders.weight_names import tower_names


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return tiny_state()


def same_weights(built: BuiltTower, state: dict[str, Tensor]) -> None:
    """Bit by bit, and the same features of an image and of a text, which also compare heads and activation."""
    found = built.clip.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)
    clip = tiny_clip()
    clip.load_state_dict(state)
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(built.clip.encode_image(image), clip.encode_image(image))
    tokens = built.tokenizer(["a brain with a tumour"])
    assert torch.equal(built.clip.encode_text(tokens), clip.encode_text(tokens))


@pytest.mark.parametrize("form", FORMS)
def test_the_same_weights_in_every_form_are_the_same_tower(form: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
    built = build_tower(str(FORMS[form](tmp_path, state)))
    assert (built.architecture, built.notes) == (QUICK, ())
    same_weights(built, state)


@pytest.mark.parametrize("form", NAMED_FORMS)
def test_a_form_that_does_not_tell_its_activation_needs_a_name(
    form: str, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    path = NAMED_FORMS[form](tmp_path, state)
    same_weights(build_tower(f"{QUICK}@{path}"), state)
    with pytest.raises(ModelError, match=rf"The architecture of {path.name} must be known"):
        build_tower(str(path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_16_bits_are_the_rounded_ones(dtype: torch.dtype, tmp_path: Path, state: dict[str, Tensor]) -> None:
    rounded = {key: value.to(dtype) for key, value in state.items()}
    for form in ("OpenAI's archive", "OpenAI's state dict", "Hugging Face folder"):
        built = build_tower(str(FORMS[form](tmp_path, rounded)))
        same_weights(built, {key: value.float() for key, value in rounded.items()})


def test_openais_mixture_of_types_is_read_as_it_is(tmp_path: Path, state: dict[str, Tensor]) -> None:
    mixed = openai_state(state)
    expected = {key: mixed[key].float() for key in state}
    same_weights(build_tower(str(archive(tmp_path / "a.pt", mixed, QuickGELU()))), expected)


def test_a_folder_may_have_an_at_in_its_name(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """The ``@`` of ``ARCH@FILE`` is the first one, and none of a path's."""
    (tmp_path / "me@work").mkdir()
    plain = NAMED_FORMS["open_clip safetensors"](tmp_path / "me@work", state)
    same_weights(build_tower(f"{QUICK}@{plain}"), state)
    told = FORMS["OpenAI's archive"](tmp_path / "me@work", state)
    assert build_tower(str(told)).source == "ViT-L-14-336px.pt"
    assert with_weights(QUICK, plain) == f"{QUICK}@{plain}"
    with pytest.raises(ModelError, match=r"The weight file must exist; given: gone\.pt"):
        build_tower(str(tmp_path / "me@work" / "gone.pt"))


def test_quickgelu_is_told_from_gelu(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """By an archive's code and by a configuration; an explicit name wins and is told that it does not fit."""
    gelu = archive(tmp_path / "a.pt", state, GELULayer())
    assert build_tower(str(gelu)).architecture == GELU
    config = json.loads(json.dumps(HF_CONFIG).replace("quick_gelu", "gelu"))
    assert build_tower(str(hf_folder(tmp_path / "hf", state, config))).architecture == GELU
    quick = archive(tmp_path / "b.pt", state, QuickGELU())
    named = build_tower(f"{GELU}@{quick}")
    assert named.notes == (
        f"b.pt was trained with QuickGELU, {GELU} computes GELU: name the architecture with -quickgelu",
    )
    assert "without -quickgelu" in build_tower(f"{QUICK}@{gelu}").notes[0]


def test_a_configuration_may_leave_its_defaults_out(tmp_path: Path, state: dict[str, Tensor]) -> None:
    config = {"model_type": "clip", "vision_config": {**HF_CONFIG["vision_config"]}, "text_config": {}}
    del config["vision_config"]["hidden_act"]
    config["text_config"] = {"num_attention_heads": 1}
    assert build_tower(str(hf_folder(tmp_path / "hf", state, config))).architecture == QUICK


def test_heads_are_those_of_the_configuration(tmp_path: Path, state: dict[str, Tensor]) -> None:
    config = {**HF_CONFIG, "vision_config": {**HF_CONFIG["vision_config"], "num_attention_heads": 4}}
    built = build_tower(str(hf_folder(tmp_path / "hf", state, config)))
    assert built.tower.heads == 4
    assert built.architecture == "clip-w64-d2-h4-p8-32px-th1-quickgelu"


def test_pixels_are_normalised_as_a_folder_of_open_clip_says(tmp_path: Path, state: dict[str, Tensor]) -> None:
    tower = build_tower(str(FORMS["open_clip folder"](tmp_path, state))).tower
    assert (tower.mean, tower.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"])
def test_a_known_architecture_is_called_by_its_name(name: str) -> None:
    """Sizes are those of several; the activation and the text side tell which."""
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        state = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"]).state_dict()
    assert recognise_architecture(state, "x.pt", ClipFacts(quick_gelu=True)) == f"{name}-quickgelu"
    assert recognise_architecture(state, "x.pt", ClipFacts(quick_gelu=False)) == name
    with pytest.raises(ModelError, match=rf"several architectures fit: {name}, {name}-quickgelu.*need -quickgelu"):
        recognise_architecture(state, "x.pt")


def dinov2(registers: int) -> tuple[nn.Module, dict[str, Tensor]]:
    """A small DINOv2 of timm, and random weights for it under the names of Meta's own files."""
    sizes = {"img_size": 28, "patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 1.0}
    model = timm.models.vision_transformer.VisionTransformer(
        **sizes, num_classes=0, reg_tokens=registers, no_embed_class=registers > 0
    )
    state = {key: torch.randn_like(value) for key, value in model.state_dict().items()}
    state["mask_token"] = torch.zeros(1, 32)
    if registers:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.randn(1, 5, 32)
    return model, state


def of_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under those of ``Dinov2Model``."""
    names = {
        "cls_token": "embeddings.cls_token",
        "mask_token": "embeddings.mask_token",
        "register_tokens": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    found = {}
    for key, value in state.items():
        if ".attn.qkv." in key:
            block, end = key.split(".")[1], key.rpartition(".")[2]
            for part, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[f"encoder.layer.{block}.attention.attention.{part}.{end}"] = chunk
            continue
        new = names.get(key, key.replace("blocks.", "encoder.layer."))
        new = new.replace(".attn.proj.", ".attention.output.dense.")
        found[new.replace(".ls1.gamma", ".layer_scale1.lambda1").replace(".ls2.gamma", ".layer_scale2.lambda1")] = value
    return found


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("prefix", ["", "dinov2.", "module.backbone."])
def test_dinov2_of_meta_and_of_hugging_face_get_timms_names(registers: int, prefix: str) -> None:
    model, state = dinov2(registers)
    expected = timm.models.vision_transformer.checkpoint_filter_fn(dict(state), model)
    for named in (state, of_hugging_face(state)):
        found = tower_names({f"{prefix}{key}": value for key, value in named.items()}, "x.pt")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


class Evil:
    """What a pickle can run."""

    def __reduce__(self) -> tuple:
        return (open, (self.path, "w"))

    def __init__(self, path: str) -> None:
        self.path = path


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_file_is_run(legacy: bool, tmp_path: Path, state: dict[str, Tensor]) -> None:
    """The tensors are there all the same where PyTorch's format keeps them apart from the objects."""
    told = tmp_path / "run"
    value = {"state_dict": dict(state | INTEGER_TENSORS), "args": Evil(str(told))}
    torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    if legacy:
        with pytest.raises(ModelError, match="or save its state dict as safetensors"):
            build_tower(str(tmp_path / "x.pt"))
    else:
        same_weights(build_tower(str(tmp_path / "x.pt")), state)
    assert not told.exists()


class Loud(nn.Module):
    """A module whose code stops whoever reads it by ``torch.jit.load``."""

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return 1, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        raise RuntimeError("this was run")

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


def test_the_code_of_an_archive_is_not_run(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = archive(tmp_path / "x.pt", state, Loud())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(torch.jit.Error, match="this was run"):
            torch.jit.load(path)
    same_weights(build_tower(str(path)), state)


def _bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _cut(path: Path, source: Path) -> Path:
    return _bytes(path, source.read_bytes()[: source.stat().st_size // 2])


def _hole(path: Path, source: Path) -> Path:
    """An archive whose first tensor is too short."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry)[:-4] if entry.endswith("/data/0") else old.read(entry))
    return path


BAD = {
    "missing": (lambda d, s: d / "gone.pt", "The weight file must exist; given: gone.pt"),
    "empty": (lambda d, s: _bytes(d / "x.pt", b""), "must hold the weights themselves; given: x.pt, an empty file"),
    "Git LFS": (
        lambda d, s: _bytes(d / "x.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "a pointer of Git LFS. Run `git lfs pull`",
    ),
    "web page": (lambda d, s: _bytes(d / "x.pt", b"<!DOCTYPE html>"), "x.pt, a web page"),
    "half an archive": (
        lambda d, s: _cut(d / "x.pt", archive(d / "w.pt", s, QuickGELU())),
        "x.pt, which is damaged or of another kind",
    ),
    "half a file": (lambda d, s: _cut(d / "x.pt", FORMS["OpenAI's state dict"](d, s)), "x.pt, which is damaged"),
    "half a safetensors": (
        lambda d, s: _cut(d / "x.safetensors", FORMS["the same as safetensors"](d, s)),
        "x.safetensors, which is damaged",
    ),
    "an archive with a short tensor": (
        lambda d, s: _hole(d / "x.pt", archive(d / "w.pt", s, QuickGELU())),
        "x.pt, which is damaged",
    ),
    "text": (lambda d, s: _bytes(d / "x.pt", b"hello"), "x.pt, which is damaged or of another kind"),
    "another zip": (lambda d, s: _zip(d / "x.pt"), "x.pt, which is damaged or of another kind"),
    "a list": (lambda d, s: _saved(d / "x.pt", [1, 2]), "must hold tensors by name"),
    "optimiser": (lambda d, s: _saved(d / "x.pt", {"state_dict": {"step": 3}}), "must hold tensors by name"),
    "other tensors": (lambda d, s: _saved(d / "x.pt", {"a.b": torch.ones(1)}), "x.pt with tensors such as a.b"),
    "a ResNet": (
        lambda d, s: archive(d / "RN50.pt", {"visual.layer1.0.conv1.weight": torch.ones(2, 2, 1, 1)}, QuickGELU()),
        "must be a vision transformer; given: RN50.pt, a ResNet",
    ),
    "one side alone": (
        lambda d, s: _saved(d / "x.bin", {k: v for k, v in hf_state(s).items() if k.startswith("vision_model")}),
        "must hold the image side and the text side; given: x.bin without a text side",
    ),
    "two activations": (
        lambda d, s: hf_folder(
            d / "hf", s, {**HF_CONFIG, "text_config": {"hidden_act": "gelu", "num_attention_heads": 1}}
        ),
        "gelu or quick_gelu on both sides",
    ),
    "a folder without weights": (
        lambda d, s: _folder(d / "f", "notes.txt"),
        "A folder of weights must hold one weight file, such as model.safetensors; given: f with notes.txt",
    ),
    "a folder with two": (lambda d, s: _folder(d / "f", "a.pt", "b.pt"), "given: f with a.pt, b.pt"),
    "a missing shard": (lambda d, s: _without_shard(d, s), "The weight file must exist"),
    "sizes of no CLIP": (
        lambda d, s: _saved(d / "x.pt", dict(s)),
        "no known CLIP has its sizes: 2 blocks of width 64, patches of 8 at 32 px, features of 48; text width 64",
    ),
    "teacher and student": (
        lambda d, s: _saved(d / "x.pt", {"teacher": s, "student": s}),
        "x.pt with teacher, student",
    ),
    "no projection": (lambda d, s: _saved(d / "x.pt", _less(s, "visual.proj")), "x.pt: no tensor for visual.proj"),
    "a projection of another kind": (
        lambda d, s: _saved(d / "x.pt", {**s, "visual.conv1.weight": torch.ones(3)}),
        "x.pt: visual.conv1.weight of shape (3,)",
    ),
    "a block without its MLP": (
        lambda d, s: _saved(d / "x.pt", _less(s | INTEGER_TENSORS, "visual.transformer.resblocks.1.mlp")),
        "4 tensors missing such as visual.transformer.resblocks.1.mlp.c_fc.bias",
    ),
    "a ViT without blocks": (
        lambda d, s: _saved(d / "x.pt", {"patch_embed.proj.weight": torch.ones(4, 3, 2, 2)}),
        "a ViT of width 4, depth 0, patch 2",
    ),
    "a patch embedding of another kind": (
        lambda d, s: _saved(d / "x.pt", {"patch_embed.proj.weight": torch.ones(4)}),
        "must hold a CLIP or a timm vision transformer",
    ),
    "not a number": (
        lambda d, s: _saved(d / "x.pt", {**s, **INTEGER_TENSORS, "visual.proj": s["visual.proj"] / 0}),
        "NaN or infinity in visual.proj of x.pt",
    ),
    "a damaged configuration": (
        lambda d, s: hf_folder(d / "hf", s, {"model_type": "clip", "vision_config": [1], "text_config": "x"}),
        "no known CLIP has its sizes",
    ),
    "seven heads": (
        lambda d, s: hf_folder(
            d / "hf", s, {**HF_CONFIG, "vision_config": {**HF_CONFIG["vision_config"], "num_attention_heads": 7}}
        ),
        "no known CLIP has its sizes",
    ),
}


def _saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def _less(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(prefix)}


def _zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("readme.txt", "no weights")
    return path


def _folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text("x")
    return path


def _without_shard(folder: Path, state: dict[str, Tensor]) -> Path:
    made = FORMS["Hugging Face shards"](folder, state)
    next(made.glob("*-of-00002.bin")).unlink()
    return made


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_told_without_pytorchs_advice(
    kind: str, tmp_path: Path, state: dict[str, Tensor], recwarn: pytest.WarningsRecorder
) -> None:
    make, words = BAD[kind]
    with pytest.raises(ModelError) as caught:
        build_tower(str(make(tmp_path, state)))
    assert words in str(caught.value)
    told = " ".join([str(caught.value), *(str(each.message) for each in recwarn)])
    assert "weights_only" not in told
    assert caught.value.do, "every refusal says what to do"


class Circle:
    """An object that holds itself and a tensor's worth of nothing."""

    def __init__(self) -> None:
        self.me, self.model = self, 3


def test_objects_that_hold_themselves_have_no_endless_names(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("x/constants.pkl", b"")
        made.writestr("x/data.pkl", pickle.dumps(Circle()))
    with pytest.raises(ModelError, match=r"must hold tensors by name; given: x\.pt with me, model"):
        build_tower(str(path))


def test_a_pickle_that_asks_for_builtins_gets_nothing(tmp_path: Path) -> None:
    """The inert reader looks names up and imports none of them."""
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("x/constants.pkl", b"")
        made.writestr("x/data.pkl", pickle.dumps({"visual": Evil(str(tmp_path / "run"))}))
    with pytest.raises(ModelError, match="must hold tensors by name"):
        build_tower(str(path))
    assert not (tmp_path / "run").exists()
