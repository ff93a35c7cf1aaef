"""A name → a tower: where its weights come from, and their hash.

Names: ``open_clip:ARCH/TAG`` (or ``ARCH/TAG``), ``hf-hub:ORG/NAME``, ``timm:ARCH``, or a local weight file or folder
(:mod:`headclip_med.encoders.weight_files`), recognised by its tensors and what lies beside it or told as ``ARCH@FILE``.
A timm architecture whose weights expect differently normalised pixels by training must be told with its tag, as in
``vit_small_patch16_224.dino@FILE``: the tensors of DINO, DeiT, MAE and supervised ViTs look alike.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from headclip_med.base.errors import ModelError
from headclip_med.base.files import sha256_file  # part of this module's interface
from headclip_med.encoders.adapters import tower_from_open_clip, tower_from_timm
from headclip_med.encoders.clip_architecture import ClipFacts, facts_of, named_clips, own_clip, own_name, sizes_of
from headclip_med.encoders.text import Tokenizer
from headclip_med.encoders.tower import ImageTower
from headclip_med.encoders.weight_files import Stored, read_weights
from headclip_med.encoders.weight_names import CLIP_KEY, TIMM_KEY, tower_names
from headclip_med.encoders.weight_places import is_weights, split_architecture

# Vision-only ViTs that a weight file is recognised as, by (width, depth, patch, registers, layer scale).
_TIMM_BY_SHAPE: dict[tuple[int, int, int, int, bool], str] = {
    (384, 12, 14, 0, True): "vit_small_patch14_dinov2",
    (768, 12, 14, 0, True): "vit_base_patch14_dinov2",
    (1024, 24, 14, 0, True): "vit_large_patch14_dinov2",
    (384, 12, 14, 4, True): "vit_small_patch14_reg4_dinov2",
    (768, 12, 14, 4, True): "vit_base_patch14_reg4_dinov2",
    (1024, 24, 14, 4, True): "vit_large_patch14_reg4_dinov2",
}

_ONE = "Name the architecture with --model and the file with --weights"
_ANY_CLIP = "ViT-B-32"  # has the tokenizer of CLIP's own vocabulary


@dataclass(frozen=True)
class BuiltTower:
    """A tower and what belongs to it.

    Attributes:
        tower: frozen, float32, on the CPU.
        kind: ``open_clip`` or ``timm``.
        architecture: the name there.
        source: where the weights came from, without a local folder.
        sha256: of the weight file.
        clip, tokenizer: the text side, or None for a vision-only tower.
        notes: what a user should know about these weights in this architecture.
    """

    tower: ImageTower
    kind: str
    architecture: str
    source: str
    sha256: str
    clip: nn.Module | None = None
    tokenizer: Tokenizer | None = None
    notes: tuple[str, ...] = ()


def build_tower(name: str) -> BuiltTower:
    """Build the tower that ``name`` stands for (see the module's text).

    A hub is contacted only for names that stand for hub weights, and only when they are not cached.

    Args:
        name: Of a hub's model, or a local weight file or folder.

    Returns:
        The tower, frozen on the CPU, with its text side if it has one.

    Raises:
        ModelError: unknown name, missing or unreadable file, weights that do not fit, no network.
    """
    architecture, file = split_architecture(name)
    path = Path(file).expanduser()
    if is_weights(file) or (path.is_dir() and file.partition("/")[0] not in open_clip.list_models()):
        return _from_file(path, architecture or None)
    if name.startswith("timm:"):
        return _from_timm_hub(name.removeprefix("timm:"))
    return _from_open_clip_hub(name.removeprefix("open_clip:"))


def with_weights(name: str, weights: str | Path | None) -> str:
    """Name a tower that takes its weights from a local file or folder instead of a hub.

    Args:
        name: ``ARCH`` or ``ARCH/TAG``, maybe with ``open_clip:`` or ``timm:`` in front of it.
        weights: ``[ARCH@]FILE``, or None to leave the name as it is.

    Returns:
        ``ARCH@FILE``.

    Raises:
        ModelError: weights that are no file, a second file, or two architectures.
    """
    if weights is None:
        return name
    named, file = split_architecture(weights)
    architecture = name.removeprefix("open_clip:").removeprefix("timm:").partition("/")[0]
    if is_weights(split_architecture(name)[1]) or name.startswith("hf-hub:"):
        raise ModelError("A tower must be given one set of weights", f"{_short(name)} and {_short(file)}", _ONE)
    if not is_weights(file):
        raise ModelError("Weights must be a file, or a folder with one", _short(file), "Check the path")
    if named and named.split(".")[0] != architecture.split(".")[0]:
        raise ModelError("A tower must have one architecture", f"{architecture} and {named}", _ONE)
    return f"{named or architecture}@{file}"


def _short(name: str) -> str:
    return Path(name).name


def _from_file(path: Path, named: str | None) -> BuiltTower:
    stored = read_weights(path)
    state = tower_names(stored.state, stored.name)
    is_clip = CLIP_KEY in state
    if named and (timm.is_model(named.split(".")[0]) if is_clip else named in open_clip.list_models()):
        raise _unfitting(stored.name, named, "those of a CLIP" if is_clip else "those of a vision-only ViT")
    if is_clip:
        return _clip_from_file(stored, state, named)
    architecture = named or recognise_architecture(state, stored.name)
    _check_normalisation_known(architecture, stored.name)
    model = _timm_model(architecture, pretrained=False)
    load_strictly(model, state, stored.name, architecture)
    return BuiltTower(tower_from_timm(model), "timm", architecture, stored.name, stored.sha256)


def _clip_from_file(stored: Stored, state: dict[str, Tensor], named: str | None) -> BuiltTower:
    facts = facts_of(stored, sizes_of(state, stored.name))
    architecture = named or recognise_architecture(state, stored.name, facts)
    clip = own_clip(architecture, state)
    of_our_name = clip is not None
    if clip is None:
        clip = _fetch(f"The text side of {architecture}", lambda: _open_clip_model(architecture, None))
    load_strictly(clip, state, stored.name, architecture)
    built = _open_clip_tower(clip, architecture, stored.name, stored.sha256, of_our_name=of_our_name)
    if facts.mean is not None and facts.std is not None:
        built.tower.mean, built.tower.std = facts.mean, facts.std
    return replace(built, notes=_activation_note(facts, clip, architecture, stored.name))


def has_quick_gelu(module: nn.Module) -> bool:
    """Tell whether a CLIP, or a block of it, computes QuickGELU.

    Args:
        module: The model or a part of it.

    Returns:
        True where any part of it is a QuickGELU.
    """
    return any(isinstance(part, QuickGELU) for part in module.modules())


def with_gelu(built: BuiltTower) -> BuiltTower:
    """Put GELU in the place of QuickGELU on both sides of a CLIP.

    Args:
        built: The tower and its CLIP.

    Returns:
        The same CLIP with its very parameters, or ``built`` itself where there is nothing to change.
    """
    if built.clip is None or not has_quick_gelu(built.clip):
        return built
    shared = {id(tensor): tensor for tensor in (*built.clip.parameters(), *built.clip.buffers())}
    clip = deepcopy(built.clip, shared)
    for module in list(clip.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, QuickGELU):
                setattr(module, name, nn.GELU())
    tower = tower_from_open_clip(clip.visual, built.tower.mean, built.tower.std)
    return replace(built, tower=tower, clip=clip)


def _activation_note(facts: ClipFacts, clip: nn.Module, architecture: str, file: str) -> tuple[str, ...]:
    if facts.quick_gelu in (None, has_quick_gelu(clip)):
        return ()
    trained, computed = ("QuickGELU", "GELU") if facts.quick_gelu else ("GELU", "QuickGELU")
    do = "with -quickgelu" if facts.quick_gelu else "without -quickgelu"
    return (f"{file} was trained with {trained}, {architecture} computes {computed}: name the architecture {do}",)


def architecture_of(stored: Stored, state: Mapping[str, Tensor]) -> str:
    """Find the architecture of a weight file as :func:`recognise_architecture` does.

    Args:
        stored: What the file holds, and what lies beside it.
        state: Its tensors under the names of open_clip or timm.

    Returns:
        The architecture's name.

    Raises:
        ModelError: as of :func:`recognise_architecture`.
    """
    facts = facts_of(stored, sizes_of(state, stored.name)) if CLIP_KEY in state else None
    return recognise_architecture(state, stored.name, facts)


def recognise_architecture(state: Mapping[str, Tensor], file: str, facts: ClipFacts | None = None) -> str:
    """Find the architecture of a state dict by the shapes of its tensors, and of a CLIP by further facts.

    Args:
        state: Tensors under the names of open_clip or timm.
        file: Name of the file, for messages.
        facts: What is known of a CLIP beside its tensors.

    Returns:
        The architecture's name, of open_clip, timm or our own.

    Raises:
        ModelError: no architecture, or several, fit, with how to name one.
    """
    tell = f"Name it yourself as ARCHITECTURE@{file}"
    if CLIP_KEY in state:
        return _recognised_clip(state, file, facts or ClipFacts(), tell)
    if TIMM_KEY in state and state[TIMM_KEY].ndim == 4:
        width, _, patch, _ = state[TIMM_KEY].shape
        depth = len({m.group(1) for key in state if (m := re.match(r"blocks\.(\d+)\.", key))})
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
        "A weight file must hold a CLIP or a timm vision transformer",
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


def _recognised_clip(state: Mapping[str, Tensor], file: str, facts: ClipFacts, tell: str) -> str:
    sizes = sizes_of(state, file)
    fitting = named_clips(sizes, facts)
    if len(fitting) == 1:
        return fitting[0]
    own = None if fitting else own_name(sizes, facts)
    if own is not None:
        return own
    what = (
        "several architectures fit: " + ", ".join(fitting[:6]) if fitting else f"no known CLIP has its sizes: {sizes}"
    )
    do = f"{tell}; OpenAI's weights need -quickgelu" if fitting else f"{tell}, or put its config.json beside it"
    raise ModelError(f"The architecture of {file} must be known", what, do)


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], file: str, architecture: str) -> None:
    """Load weights with every key and shape matching.

    Args:
        model: The model that is loaded into.
        state: Tensors under the model's own names, of any float type.
        file: Name of the file, for messages.
        architecture: Name of the architecture, for messages.

    Raises:
        ModelError: a missing, unknown, misshapen or not finite tensor, the first of which is named.
    """
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
        raise _unfitting(file, architecture, given)
    broken = next((key for key in own if not state[key].sum(dtype=torch.float32).isfinite()), None)
    if broken is not None and not state[broken].isfinite().all():
        raise ModelError("Weights must be finite numbers", f"NaN or infinity in {broken} of {file}", "Use another file")
    model.load_state_dict({key: value.float() for key, value in state.items()})


def _unfitting(file: str, architecture: str, given: str) -> ModelError:
    return ModelError(
        f"The weights in {file} must fit the architecture {architecture}",
        given,
        "Give the weights of that architecture, or name theirs as ARCH@FILE",
    )


def _from_timm_hub(architecture: str) -> BuiltTower:
    from huggingface_hub import hf_hub_download

    config = (
        timm.get_pretrained_cfg(architecture, allow_unregistered=False)
        if timm.is_model(architecture.split(".")[0])
        else None
    )
    if config is None or not config.hf_hub_id:
        raise _unknown(architecture, timm.list_models("vit_*"))
    path = Path(_fetch_weights(f"timm:{architecture}", lambda: hf_hub_download(config.hf_hub_id, "model.safetensors")))
    model = _timm_model(architecture, pretrained=True, file=str(path))
    return BuiltTower(tower_from_timm(model), "timm", architecture, config.hf_hub_id, sha256_file(path))


def _from_open_clip_hub(name: str) -> BuiltTower:
    if name.startswith("hf-hub:"):
        clip = _fetch_weights(name, lambda: _open_clip_model(name, None))
        return _open_clip_tower(clip, name, name, state_sha256(clip))
    architecture, _, tag = name.partition("/")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if architecture not in open_clip.list_models():
        raise _unknown(architecture, open_clip.list_models())
    if tag not in tags:
        raise ModelError(
            f"A pretrained tag of {architecture} must be named",
            name,
            f"Write for example {architecture}/{tags[0]}, or add --weights FILE" if tags else "Add --weights FILE",
        )
    config = open_clip.get_pretrained_cfg(architecture, tag)
    path = Path(_fetch_weights(name, lambda: open_clip.download_pretrained(config)))
    clip = _fetch_weights(name, lambda: _open_clip_model(architecture, tag))
    return _open_clip_tower(clip, architecture, name, sha256_file(path))


def _open_clip_tower(
    clip: nn.Module, architecture: str, source: str, sha256: str, *, of_our_name: bool = False
) -> BuiltTower:
    clip.eval().requires_grad_(False)
    visual: Any = clip.visual
    tower = tower_from_open_clip(visual, getattr(visual, "image_mean", None), getattr(visual, "image_std", None))
    more = {"context_length": clip.context_length} if of_our_name else {}
    name = _ANY_CLIP if of_our_name else architecture
    tokenizer = _fetch(f"The tokenizer of {architecture}", lambda: open_clip.get_tokenizer(name, **more))
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
    """Digest the names and bytes of a state dict, where no single file stands for it.

    Args:
        model: The model with its weights.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _fetch_weights(name: str, fetch: Callable[[], Any]) -> Any:
    pull = f"Run `headclip-med models pull {name}` on a machine with a network"
    return _fetch(f"The weights of {name}", fetch, f"{pull}, or name a local file with --weights FILE")


def _fetch(what: str, fetch: Callable[[], Any], do: str = "Try again on a machine with a network") -> Any:
    """Run a hub's loading code; whatever it raises becomes one message."""
    try:
        return fetch()
    except ModelError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()
        given = first[0][:200] if first else type(error).__name__
        raise ModelError(f"{what} must be in the cache or on a hub that can be reached", given, do) from error


def _unknown(architecture: str, known: list[str]) -> ModelError:
    near = get_close_matches(architecture, known, 3)
    return ModelError(
        "The model must be a pack, a weight file, an open_clip name ARCH/TAG or timm:ARCH",
        architecture,
        f"Did you mean {' or '.join(near)}" if near else "See `headclip-med models list`",
    )
