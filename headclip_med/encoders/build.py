"""A name → a tower: where its weights come from, and their hash.

Names: ``open_clip:ARCH/TAG`` (or ``ARCH/TAG``), ``hf-hub:ORG/NAME``, ``timm:ARCH``, or a local weight file
(safetensors; ``.pt``/``.pth``/``.bin`` with ``weights_only=True``), recognised by its tensors or told as ``ARCH@FILE``.
A timm architecture whose weights expect differently normalised pixels by training must be told with its tag, as in
``vit_small_patch16_224.dino@FILE``: the tensors of DINO, DeiT, MAE and supervised ViTs look alike.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from headclip_med.encoders.adapters import tower_from_open_clip, tower_from_timm
from headclip_med.encoders.text import Tokenizer
from headclip_med.encoders.tower import ImageTower
from headclip_med.errors import ModelError
from headclip_med.hashing import sha256_file as sha256_file  # part of this module's interface

# Vision-only ViTs that a weight file is recognised as, by (width, depth, patch, registers, layer scale).
_TIMM_BY_SHAPE: dict[tuple[int, int, int, int, bool], str] = {
    (384, 12, 14, 0, True): "vit_small_patch14_dinov2",
    (768, 12, 14, 0, True): "vit_base_patch14_dinov2",
    (1024, 24, 14, 0, True): "vit_large_patch14_dinov2",
    (384, 12, 14, 4, True): "vit_small_patch14_reg4_dinov2",
    (768, 12, 14, 4, True): "vit_base_patch14_reg4_dinov2",
    (1024, 24, 14, 4, True): "vit_large_patch14_reg4_dinov2",
}

_WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class BuiltTower:
    """A tower and what belongs to it.

    Attributes:
        tower: frozen, float32, on the CPU.
        kind: ``open_clip`` or ``timm``; architecture: the name there.
        source: where the weights came from, without a local folder; sha256: of the weight file.
        clip, tokenizer: the text side, or None for a vision-only tower.
    """

    tower: ImageTower
    kind: str
    architecture: str
    source: str
    sha256: str
    clip: nn.Module | None = None
    tokenizer: Tokenizer | None = None


def build_tower(name: str) -> BuiltTower:
    """Build the tower that ``name`` stands for (see the module's text).

    A hub is contacted only for names that stand for hub weights, and only when they are not cached.

    Raises:
        ModelError: unknown name, missing or unreadable file, weights that do not fit, no network.
    """
    architecture, _, file = name.rpartition("@")
    if file.endswith(_WEIGHT_SUFFIXES):
        return _from_file(Path(file).expanduser(), architecture or None)
    if name.startswith("timm:"):
        return _from_timm_hub(name.removeprefix("timm:"))
    return _from_open_clip_hub(name.removeprefix("open_clip:"))


def _from_file(path: Path, architecture: str | None) -> BuiltTower:
    state = read_state(path)
    if architecture is None:
        architecture = recognise(state, path.name)
    if "visual.conv1.weight" in state:
        clip = _fetch(f"The text side of {architecture}", lambda: _open_clip_model(architecture, None))
        load_strictly(clip, state, path.name, architecture)
        return _open_clip_tower(clip, architecture, path.name, sha256_file(path))
    _check_normalisation_known(architecture, path.name)
    model = _timm_model(architecture, pretrained=False)
    load_strictly(model, state, path.name, architecture)
    return BuiltTower(tower_from_timm(model), "timm", architecture, path.name, sha256_file(path))


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a weight file; pickles only with ``weights_only=True``.

    Raises:
        ModelError: missing, empty, truncated, or not a plain dictionary of tensors.
    """
    if not path.is_file():
        raise ModelError("The weight file must exist", path.name, "Check the path")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        first = str(error).strip().splitlines()
        raise ModelError(
            "A weight file must be a whole safetensors file, or a .pt that loads with weights_only=True",
            f"{path.name}: {first[0] if first else type(error).__name__}",
            "Download it again, or save it as safetensors",
        ) from error
    while isinstance(state, dict) and isinstance(inner := state.get("state_dict", state.get("model")), dict):
        state = inner
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError("A weight file must hold a dictionary of tensors", path.name)
    return {key.removeprefix("module."): value for key, value in state.items()}


def recognise(state: dict[str, Tensor], file: str) -> str:
    """The architecture that a state dict belongs to, by the shapes of its tensors.

    Raises:
        ModelError: no architecture, or several, fit; the message says how to name one.
    """
    tell = f"Name it yourself as ARCHITECTURE@{file}"
    if "visual.conv1.weight" in state:
        fitting = [name for name in open_clip.list_models() if _clip_shape(name) == _clip_state_shape(state)]
        if len(fitting) == 1:
            return fitting[0]
        what = "several architectures fit: " + ", ".join(fitting[:6]) if fitting else "no known CLIP has its shapes"
        raise ModelError(f"The architecture of {file} must be known", what, tell)
    if "patch_embed.proj.weight" in state:
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        depth = 1 + max(int(m.group(1)) for key in state if (m := re.match(r"blocks\.(\d+)\.", key)))
        registers = state["reg_token"].shape[1] if "reg_token" in state else 0
        shape = (width, depth, patch, registers, "blocks.0.ls1.gamma" in state)
        if shape in _TIMM_BY_SHAPE:
            return _TIMM_BY_SHAPE[shape]
        raise ModelError(
            f"The architecture of {file} must be known",
            f"a ViT of width {width}, depth {depth}, patch {patch}",
            f"{tell}, with its tag where it has several: vit_small_patch16_224.dino@{file}",
        )
    raise ModelError(
        "A weight file must hold an open_clip model or a timm vision transformer",
        f"{file} with tensors such as {', '.join(sorted(state)[:3])}",
        "Convert the weights, or name another file",
    )


def _check_normalisation_known(architecture: str, file: str) -> None:
    """Refuse a timm name without a tag where its tags expect differently normalised pixels."""
    if "." in architecture or not timm.is_model(architecture):
        return
    configs = {name: timm.get_pretrained_cfg(name) for name in timm.list_pretrained(f"{architecture}.*")}
    if len({(tuple(config.mean), tuple(config.std)) for config in configs.values() if config}) > 1:
        raise ModelError(
            f"The training of {architecture} must be named, since its weights differ in the pixels that they expect",
            file,
            f"Name it as ARCH.TAG@FILE with ARCH.TAG one of {', '.join(sorted(configs))}",
        )


def _clip_state_shape(state: dict[str, Tensor]) -> tuple[int, ...]:
    width, _, patch, _ = state["visual.conv1.weight"].shape
    depth = len({key.split(".")[3] for key in state if key.startswith("visual.transformer.resblocks.")})
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    text = state.get("ln_final.weight", state.get("text.ln_final.weight", torch.empty(0)))
    return width, depth, patch, grid * patch, state["visual.proj"].shape[1], text.shape[0]


def _clip_shape(name: str) -> tuple[int, ...] | None:
    config: dict[str, Any] = open_clip.get_model_config(name) or {}
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    if not isinstance(vision.get("layers"), int) or "patch_size" not in vision:
        return None
    return (
        vision["width"],
        vision["layers"],
        vision["patch_size"],
        vision["image_size"],
        config["embed_dim"],
        text.get("width", 0),
    )


def load_strictly(model: nn.Module, state: dict[str, Tensor], file: str, architecture: str) -> None:
    """Load ``state`` with every key and shape matching, or raise :class:`ModelError` naming the first mismatch."""
    own = model.state_dict()
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    odd = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or extra or odd:
        given = "; ".join(
            part
            for part in (
                f"{len(missing)} tensors missing such as {missing[0]}" if missing else "",
                f"{len(extra)} unknown such as {extra[0]}" if extra else "",
                odd[0] if odd else "",
            )
            if part
        )
        raise ModelError(
            f"The weights in {file} must fit the architecture {architecture}",
            given,
            "Name the architecture as ARCH@FILE",
        )
    model.load_state_dict({key: value.float() for key, value in state.items()})


def _from_timm_hub(architecture: str) -> BuiltTower:
    from huggingface_hub import hf_hub_download

    config = (
        timm.get_pretrained_cfg(architecture, allow_unregistered=False)
        if timm.is_model(architecture.split(".")[0])
        else None
    )
    if config is None or not config.hf_hub_id:
        raise _unknown(architecture, timm.list_models("vit_*"))
    path = Path(_fetch(_weights_of(architecture), lambda: hf_hub_download(config.hf_hub_id, "model.safetensors")))
    model = _timm_model(architecture, pretrained=True, file=str(path))
    return BuiltTower(tower_from_timm(model), "timm", architecture, config.hf_hub_id, sha256_file(path))


def _from_open_clip_hub(name: str) -> BuiltTower:
    if name.startswith("hf-hub:"):
        clip = _fetch(_weights_of(name), lambda: _open_clip_model(name, None))
        return _open_clip_tower(clip, name, name, state_sha256(clip))
    architecture, _, tag = name.partition("/")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if architecture not in open_clip.list_models():
        raise _unknown(architecture, open_clip.list_models())
    if tag not in tags:
        raise ModelError(
            f"A pretrained tag of {architecture} must be named",
            name,
            f"Write for example {architecture}/{tags[0]}" if tags else "Give a weight file as ARCH@FILE",
        )
    config = open_clip.get_pretrained_cfg(architecture, tag)
    path = Path(_fetch(_weights_of(name), lambda: open_clip.download_pretrained(config)))
    clip = _fetch(_weights_of(name), lambda: _open_clip_model(architecture, tag))
    return _open_clip_tower(clip, architecture, name, sha256_file(path))


def _open_clip_tower(clip: nn.Module, architecture: str, source: str, sha256: str) -> BuiltTower:
    clip.eval().requires_grad_(False)
    visual: Any = clip.visual
    tower = tower_from_open_clip(visual, getattr(visual, "image_mean", None), getattr(visual, "image_std", None))
    tokenizer = _fetch(f"The tokenizer of {architecture}", lambda: open_clip.get_tokenizer(architecture))
    return BuiltTower(tower, "open_clip", architecture, source, sha256, clip, tokenizer)


def _open_clip_model(architecture: str, tag: str | None) -> nn.Module:
    known = architecture in open_clip.list_models() or architecture.startswith("hf-hub:")
    if not known:
        raise _unknown(architecture, open_clip.list_models())
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # open_clip logs to the root logger that weights are random, which is meant here
    try:
        # A text side of Hugging Face would otherwise be downloaded first and then overwritten.
        model: nn.Module = open_clip.create_model(architecture, pretrained=tag, pretrained_hf=False)
    finally:
        root.setLevel(level)
    return model


def _timm_model(architecture: str, *, pretrained: bool, file: str | None = None) -> nn.Module:
    if not timm.is_model(architecture.split(".")[0]):
        raise _unknown(architecture, timm.list_models("vit_*"))
    architecture_name, _, tag = architecture.partition(".")
    if tag and architecture not in (tags := timm.list_pretrained(f"{architecture_name}.*")):
        raise _unknown(architecture, tags)
    overlay = {"file": file} if file else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # timm warns about mapped or deprecated model names
        model: nn.Module = timm.create_model(
            architecture, pretrained=pretrained, num_classes=0, pretrained_cfg_overlay=overlay
        )
    return model


def state_sha256(model: nn.Module) -> str:
    """Digest of a state dict's names and bytes, where no single file stands for it."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _weights_of(name: str) -> str:
    return f"The weights of {name}"


def _fetch(what: str, fetch: Callable[[], Any]) -> Any:
    """Run a hub's loading code; whatever it raises becomes one message."""
    try:
        return fetch()
    except ModelError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()
        raise ModelError(
            f"{what} must be in the cache or on a hub that can be reached",
            first[0][:200] if first else type(error).__name__,
            "Run `headclip-med models pull` on a machine with a network, or give a local file as ARCH@FILE",
        ) from error


def _unknown(architecture: str, known: list[str]) -> ModelError:
    near = get_close_matches(architecture, known, 3)
    return ModelError(
        "The model must be a pack, a weight file, an open_clip name ARCH/TAG or timm:ARCH",
        architecture,
        f"Did you mean {' or '.join(near)}" if near else "See `headclip-med models list`",
    )
