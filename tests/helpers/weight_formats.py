"""A tiny random CLIP, written in every form in which people have CLIP weights."""

from __future__ import annotations

import json
import re
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

# As headclip_med.encoders.clip_architecture names it, without and with QuickGELU.
GELU = "clip-w64-d2-h1-p8-32px-th1"
QUICK = f"{GELU}-quickgelu"
_VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 64}
_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 9}
INTEGERS = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
HF_CONFIG = {
    "model_type": "clip",
    "projection_dim": 48,
    "text_config": {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 9, "hidden_act": "quick_gelu"},
    "vision_config": {
        "hidden_size": 64,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
        "patch_size": 8,
        "image_size": 32,
        "hidden_act": "quick_gelu",
    },
}


def tiny_clip(*, quick: bool = True) -> nn.Module:
    """A random CLIP of 32 px, patches of 8, two image blocks, nine text blocks."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        clip = open_clip.CLIP(48, dict(_VISION), dict(_TEXT), quick_gelu=quick)
        for name, parameter in clip.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.02)
    return clip.eval().requires_grad_(False)


def tiny_state() -> dict[str, Tensor]:
    """Its tensors, as open_clip names them."""
    return {key: value.detach().clone().contiguous() for key, value in tiny_clip().state_dict().items()}


class QuickGELU(nn.Module):
    """The activation as OpenAI's archives have it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class GELULayer(nn.Module):
    """The other one."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(x)


class Part(nn.Module):
    """A module that holds tensors and further modules under the names of a state dict."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def nested(state: Mapping[str, Tensor]) -> nn.Module:
    """Modules within modules whose state dict has these names."""
    root = Part()
    for key, value in state.items():
        *path, name = key.split(".")
        here: nn.Module = root
        for step in path:
            if step not in here._modules:
                here.add_module(step, Part())
            here = here._modules[step]
        if value.is_floating_point():
            here.register_parameter(name, nn.Parameter(value, requires_grad=False))
        else:
            here.register_buffer(name, value)
    return root


def archive(path: Path, state: Mapping[str, Tensor], activation: nn.Module | None = None) -> Path:
    """A TorchScript archive, as OpenAI gives its models away."""
    model = nested(state)
    if activation is not None:
        model.add_module("activation", activation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(path))
    return path


def openai_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the three integers, matrices in 16 bits and the rest in 32."""
    mixed = {key: value.half() if value.ndim > 1 and "embedding" not in key else value for key, value in state.items()}
    return mixed | {key: torch.tensor(value) for key, value in INTEGERS.items()}


_TO_HF = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.conv1\.weight$", "vision_model.embeddings.patch_embedding.weight"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def hf_state(state: Mapping[str, Tensor], *, older: bool = True) -> dict[str, Tensor]:
    """Hugging Face's names of a ``CLIPModel``; older releases also keep the positions' numbers."""
    named: dict[str, Tensor] = {}
    for key, value in state.items():
        new = key
        for old, replacement in _TO_HF:
            new = re.sub(old, replacement, new)
        if key in ("visual.proj", "text_projection"):
            value = value.T
        packed = re.fullmatch(r"(.*)\.attn\.in_proj_(weight|bias)", new)
        if packed:
            for name, part in zip("qkv", value.chunk(3), strict=True):
                named[f"{packed[1]}.self_attn.{name}_proj.{packed[2]}"] = part.clone()
        else:
            named[new] = value.contiguous()
    if older:
        named["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        named["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    return named


def hf_folder(folder: Path, state: Mapping[str, Tensor], config: dict | None = None) -> Path:
    """A folder as ``CLIPModel.save_pretrained`` leaves it."""
    folder.mkdir(parents=True)
    save_file(hf_state(state), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(HF_CONFIG if config is None else config))
    return folder


def hf_shards(folder: Path, state: Mapping[str, Tensor]) -> Path:
    """The same in two pickled shards with an index."""
    folder.mkdir(parents=True)
    named = hf_state(state, older=False)
    keys, places = sorted(named), {}
    for number, part in enumerate((keys[::2], keys[1::2]), start=1):
        name = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({key: named[key] for key in part}, folder / name)
        places |= dict.fromkeys(part, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text(json.dumps(HF_CONFIG))
    return folder


def open_clip_folder(folder: Path, state: Mapping[str, Tensor]) -> Path:
    """A folder as a repository of open_clip on the Hub holds it."""
    folder.mkdir(parents=True)
    torch.save(dict(state), folder / "open_clip_pytorch_model.bin")
    model = {"embed_dim": 48, "quick_gelu": True, "vision_cfg": _VISION, "text_cfg": _TEXT}
    pixels = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": pixels}))
    return folder


def _saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def _tensors(path: Path, state: Mapping[str, Tensor]) -> Path:
    save_file(dict(state), path)
    return path


def _beside(path: Path) -> Path:
    (path.parent / "config.json").write_text(json.dumps(HF_CONFIG))
    return path


# Every form: made in an empty folder from a state dict under open_clip's names; the path that a user gives.
FORMS: dict[str, Callable[[Path, Mapping[str, Tensor]], Path]] = {
    "OpenAI's archive": lambda d, s: archive(d / "ViT-L-14-336px.pt", s | INTEGER_TENSORS, QuickGELU()),
    "an archive without an activation": lambda d, s: archive(d / "clip.pt", s | INTEGER_TENSORS),
    "OpenAI's state dict": lambda d, s: _saved(d / "clip.pt", s | INTEGER_TENSORS),
    "the same as safetensors": lambda d, s: _tensors(d / "clip.safetensors", s | INTEGER_TENSORS),
    "Hugging Face folder": lambda d, s: hf_folder(d / "clip-vit-tiny", s),
    "Hugging Face file": lambda d, s: hf_folder(d / "clip", s) / "model.safetensors",
    "Hugging Face .bin": lambda d, s: _beside(_saved(d / "pytorch_model.bin", hf_state(s))),
    "Hugging Face shards": lambda d, s: hf_shards(d / "sharded", s),
    "open_clip folder": lambda d, s: open_clip_folder(d / "laion", s),
    "a name without an ending": lambda d, s: _saved(d / "ViT-tiny", s | INTEGER_TENSORS),
    "DataParallel": lambda d, s: _saved(d / "x.pth", {f"module.{k}": v for k, v in (s | INTEGER_TENSORS).items()}),
    "compiled": lambda d, s: _saved(d / "x.pt", {f"_orig_mod.{k}": v for k, v in (s | INTEGER_TENSORS).items()}),
}
# The same where nothing says the activation: the architecture is named.
NAMED_FORMS: dict[str, Callable[[Path, Mapping[str, Tensor]], Path]] = {
    "open_clip safetensors": lambda d, s: _tensors(d / "open_clip_model.safetensors", s),
    "open_clip .bin": lambda d, s: _saved(d / "open_clip_pytorch_model.bin", dict(s)),
    "training checkpoint": lambda d, s: _saved(
        d / "epoch_1.pt", {"epoch": 1, "name": "x", "state_dict": {f"module.{k}": v for k, v in s.items()}}
    ),
    "a checkpoint with objects of other classes": lambda d, s: _saved(
        d / "last.ckpt", {"hyper_parameters": Namespace(lr=1.0), "state_dict": {f"model.{k}": v for k, v in s.items()}}
    ),
    "a whole pickled model": lambda d, s: _saved(d / "model.pt", _loaded(s)),
    "Hugging Face file alone": lambda d, s: _tensors(d / "model.safetensors", hf_state(s)),
    "parameters": lambda d, s: _saved(d / "x.pt", {k: nn.Parameter(v) for k, v in s.items()}),
}
INTEGER_TENSORS = {key: torch.tensor(value) for key, value in INTEGERS.items()}


def _loaded(state: Mapping[str, Tensor]) -> nn.Module:
    clip = tiny_clip()
    clip.load_state_dict(dict(state))
    return clip
