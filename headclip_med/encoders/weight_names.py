"""Tensor names of other libraries → those of open_clip and timm, which towers are built with.

Known are OpenAI's state dicts and archives (open_clip's names and three integers), Hugging Face's ``CLIPModel`` and
``Dinov2Model``, and Meta's DINOv2 files; open_clip's and timm's own names stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from headclip_med.base.errors import ModelError

CLIP_KEY = "visual.conv1.weight"
TIMM_KEY = "patch_embed.proj.weight"
_HF_CLIP_KEY = "vision_model.embeddings.class_embedding"
_HF_DINO_KEY = "embeddings.patch_embeddings.projection.weight"
_RESNET_KEY = "visual.layer1.0.conv1.weight"

OPENAI_INTEGERS = ("input_resolution", "context_length", "vocab_size")

# What training code and other models put in front of a tower's names.
_PREFIXED = re.compile(
    r"(?P<prefix>(?:(?:module|_orig_mod|model|net|clip|clip_model|backbone|dinov2)\.)*)"
    rf"(?:{'|'.join(map(re.escape, (CLIP_KEY, TIMM_KEY, _HF_CLIP_KEY, _HF_DINO_KEY, _RESNET_KEY)))})"
)
_NOT_WEIGHTS = re.compile(r"(.*\.)?(position_ids|attn_mask)|" + "|".join(OPENAI_INTEGERS))

_HF_CLIP = (
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.weight", CLIP_KEY),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.", "ln_final."),
    (r"text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.self_attn\.([qkv])_proj\.(weight|bias)", r".attn.in_proj_\2.\1"),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"visual_projection\.weight", "visual.proj"),
    (r"text_projection\.weight", "text_projection"),
)
_TRANSPOSED = ("visual.proj", "text_projection")  # matrices, where Hugging Face has linear layers

_HF_DINO = (
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.(cls_token|mask_token|register_tokens)", r"\1"),
    (r"encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.(q|k|v)(?:uery|ey|alue)\.(weight|bias)", r".attn.qkv.\2.\1"),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1", r".ls\1.gamma"),
    (r"layernorm\.", "norm."),
)


def holds_clip(names: Iterable[str]) -> bool:
    """Tell whether tensors of these names are a CLIP's, whose names have the image side in them.

    Args:
        names: Of the tensors of a file.

    Returns:
        True for a CLIP.
    """
    found = (_PREFIXED.fullmatch(name) for name in names)
    return any(match and match[0].endswith((CLIP_KEY, _HF_CLIP_KEY)) for match in found)


def tower_names(state: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """Rename the tensors of a tower as open_clip or timm know them, without those that are no weights.

    Args:
        state: Under the names of the file, maybe with a prefix before all of a tower's.
        file: Name of the file, for messages.

    Returns:
        Tensors by their new names.

    Raises:
        ModelError: no vision transformer, or a CLIP without one of its two sides.
    """
    found = next((match for key in state if (match := _PREFIXED.fullmatch(key))), None)
    if found is None:
        names = ", ".join(sorted(state)[:3])
        raise ModelError(
            "A weight file must hold a CLIP or a plain vision transformer in the names of open_clip, OpenAI, "
            "Hugging Face or timm",
            f"{file} with tensors such as {names}",
            "Convert the weights, or name another file",
        )
    prefix = found["prefix"]
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    own = {key: value for key, value in own.items() if not _NOT_WEIGHTS.fullmatch(key)}
    if _RESNET_KEY in own:
        raise ModelError(
            "The CLIP image tower must be a vision transformer", f"{file}, a ResNet", "Choose a file of a ViT"
        )
    if _HF_CLIP_KEY in own:
        return _of_hf_clip(own, file)
    if _HF_DINO_KEY in own:
        own = _renamed(own, _HF_DINO)
    return _as_timm(own) if TIMM_KEY in own else own


def _of_hf_clip(state: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    renamed = _renamed(state, _HF_CLIP)
    if "ln_final.weight" not in renamed:
        raise ModelError(
            "A CLIP weight file must hold the image side and the text side",
            f"{file} without a text side",
            "Name the file of the whole CLIPModel",
        )
    return renamed | {key: renamed[key].T for key in _TRANSPOSED if key in renamed}


def _renamed(state: Mapping[str, Tensor], names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """Tensors by their new names; query, key and value of a block become one tensor, in this order."""
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        for old, new in names:
            key = re.sub(old, new, key)
        whole, _, part = key.rpartition(".")
        if part in ("q", "k", "v"):
            parts.setdefault(whole, {})[part] = value
        else:
            renamed[key] = value
    for whole, each in parts.items():
        renamed[whole] = torch.cat([each[part] for part in "qkv" if part in each])
    return renamed


def _as_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """No classifier, no mask token; where Meta's DINOv2 has registers, positions are those of the patches alone."""
    for name in ("head.weight", "head.bias", "mask_token"):
        state.pop(name, None)
    if "register_tokens" in state:
        positions = state["pos_embed"]
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        state["pos_embed"] = positions[:, 1:]
    return state
