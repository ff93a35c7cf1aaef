"""Which architecture the tensors of a CLIP belong to: a name of open_clip, or one of our own that says its sizes.

Tensors tell sizes, but neither the activation nor, for certain, the number of attention heads. These come from what
lies beside them: the code of a TorchScript archive, OpenAI's three integers, a ``config.json`` or
``open_clip_config.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from headclip_med.base.errors import ModelError
from headclip_med.encoders.weight_files import Stored
from headclip_med.encoders.weight_names import CLIP_KEY, OPENAI_INTEGERS

# OpenAI's rule, where nothing says otherwise.
_HEAD_WIDTH = 64
_LAYER_NORM_EPS = 1e-5
# What Hugging Face's configurations leave out where it is this.
_HF_VISION: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 32}
_HF_VISION |= {"image_size": 224, "hidden_act": "quick_gelu", "layer_norm_eps": _LAYER_NORM_EPS}
_HF_TEXT: dict[str, Any] = {"num_attention_heads": 8, "hidden_act": "quick_gelu"}
_HF_SIDES = (("vision", _HF_VISION), ("text", _HF_TEXT))
_OWN_NAME = re.compile(
    r"clip-w\d+-d\d+-h(?P<heads>\d+)-p\d+-\d+px-th(?P<text_heads>\d+)(?P<quick>-quickgelu)?", re.ASCII
)


@dataclass(frozen=True)
class ClipSizes:
    """What tensors tell of a CLIP, where sizes of the text side are 0 if it is no CLIP's.

    Attributes:
        width, depth, patch: of the image side, the patch in pixels.
        size: side of its input in pixels.
        dim: length of the features of both sides.
        text_width, context, vocabulary: width, context length and vocabulary of the text side.
    """

    width: int
    depth: int
    patch: int
    size: int
    dim: int
    text_width: int
    context: int
    vocabulary: int

    def __str__(self) -> str:
        text = f"; text width {self.text_width}" if self.text_width else ""
        blocks = f"{self.depth} blocks of width {self.width}"
        return f"{blocks}, patches of {self.patch} at {self.size} px, features of {self.dim}{text}"


@dataclass(frozen=True)
class ClipFacts:
    """What tensors do not tell, None where nothing else does.

    Attributes:
        quick_gelu: whether the activation is QuickGELU.
        heads: of the image and of the text side.
        mean, std: of the pixels that the weights expect, per channel in [0, 1].
    """

    quick_gelu: bool | None = None
    heads: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def sizes_of(state: Mapping[str, Tensor], file: str) -> ClipSizes:
    """Read the sizes of a state dict under open_clip's names.

    Args:
        state: Tensors of a CLIP.
        file: Name of the file, for messages.

    Returns:
        Its sizes.

    Raises:
        ModelError: without what every CLIP with a vision transformer has.
    """
    needed = {CLIP_KEY: 4, "visual.positional_embedding": 2, "visual.proj": 2}
    odd = [key for key, axes in needed.items() if key not in state or state[key].ndim != axes]
    if odd:
        what = f"{odd[0]} of shape {tuple(state[odd[0]].shape)}" if odd[0] in state else f"no tensor for {odd[0]}"
        raise ModelError("A CLIP weight file must hold a whole vision transformer", f"{file}: {what}", "Check the file")
    width, _, patch, _ = state[CLIP_KEY].shape
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    empty = torch.empty(0, 0)
    norm, places, words = (
        state.get(name, state.get(f"text.{name}", empty))
        for name in ("ln_final.weight", "positional_embedding", "token_embedding.weight")
    )
    return ClipSizes(
        width,
        len({key.split(".")[3] for key in state if key.startswith("visual.transformer.resblocks.")}),
        patch,
        grid * patch,
        state["visual.proj"].shape[1],
        norm.shape[0],
        places.shape[0],
        words.shape[0],
    )


def facts_of(stored: Stored, sizes: ClipSizes) -> ClipFacts:
    """Read what lies beside the tensors, as far as it is about the same tower.

    Args:
        stored: What the weight file or folder holds.
        sizes: What its tensors tell.

    Returns:
        Activation, heads and pixel statistics as far as they are known.

    Raises:
        ModelError: a CLIP that open_clip cannot compute: two activations, or other layer norms.
    """
    if stored.quick_gelu is not None:
        return ClipFacts(stored.quick_gelu)
    of_open_clip = _part(stored.config, "model_cfg")
    vision, text = _part(of_open_clip, "vision_cfg"), _part(of_open_clip, "text_cfg")
    if (vision.get("width"), vision.get("layers")) == (sizes.width, sizes.depth):
        heads = sizes.width // vision.get("head_width", _HEAD_WIDTH), text.get("heads", 8)
        pixels = _part(stored.config, "preprocess_cfg")
        mean, std = (tuple(pixels[key]) if key in pixels else None for key in ("mean", "std"))
        return ClipFacts(bool(of_open_clip.get("quick_gelu", False)), heads, mean, std)
    if stored.config.get("model_type") == "clip":
        vision, text = (
            own | (_part(stored.config, f"{side}_config") or _part(stored.config, f"{side}_config_dict"))
            for side, own in _HF_SIDES
        )
        if (vision["hidden_size"], vision["num_hidden_layers"]) == (sizes.width, sizes.depth):
            return _hf_facts(vision, text, stored.name)
    if any(key.rpartition(".")[2] in OPENAI_INTEGERS for key in stored.state):
        return ClipFacts(quick_gelu=True)
    return ClipFacts()


def _part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section of a configuration, empty where there is none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _hf_facts(vision: Mapping[str, Any], text: Mapping[str, Any], file: str) -> ClipFacts:
    activations = {vision["hidden_act"], text["hidden_act"]}
    if not (activations <= {"gelu"} or activations <= {"quick_gelu"}) or vision["layer_norm_eps"] != _LAYER_NORM_EPS:
        raise ModelError(
            f"A CLIP must compute gelu or quick_gelu on both sides, and layer norms with {_LAYER_NORM_EPS}",
            f"{' and '.join(sorted(activations))}, {vision['layer_norm_eps']} in the configuration of {file}",
            "Choose another CLIP",
        )
    return ClipFacts(activations == {"quick_gelu"}, (vision["num_attention_heads"], text["num_attention_heads"]))


def named_clips(sizes: ClipSizes, facts: ClipFacts) -> list[str]:
    """List the architectures of open_clip with these sizes.

    Args:
        sizes: What tensors tell.
        facts: Activation and heads, which must fit too as far as they are known.

    Returns:
        Names of open_clip.
    """
    fitting = []
    for name in open_clip.list_models():
        config: dict[str, Any] = open_clip.get_model_config(name) or {}
        vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
        if _sizes_of_config(config) != sizes:
            continue
        heads = vision["width"] // vision.get("head_width", _HEAD_WIDTH), text.get("heads", 8)
        quick = bool(config.get("quick_gelu", False))
        if facts.quick_gelu in (None, quick) and facts.heads in (None, heads):
            fitting.append(name)
    return fitting


def _sizes_of_config(config: Mapping[str, Any]) -> ClipSizes | None:
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    if not isinstance(vision.get("layers"), int) or "patch_size" not in vision:
        return None
    return ClipSizes(
        vision["width"],
        vision["layers"],
        vision["patch_size"],
        vision["image_size"],
        config["embed_dim"],
        *(
            (text["width"], text.get("context_length", 77), text.get("vocab_size", 49408))
            if "width" in text
            else (0, 0, 0)
        ),
    )


def own_name(sizes: ClipSizes, facts: ClipFacts) -> str | None:
    """Name a CLIP that open_clip has no name for, as :func:`own_clip` reads it.

    Args:
        sizes: What tensors tell.
        facts: Activation and heads.

    Returns:
        The name, or None where too little is known.
    """
    heads = facts.heads or (sizes.width // _HEAD_WIDTH, sizes.text_width // _HEAD_WIDTH)
    divisible = all(
        count and not width % count for count, width in zip(heads, (sizes.width, sizes.text_width), strict=True)
    )
    if facts.quick_gelu is None or not divisible or sizes.vocabulary != 49408:
        return None
    quick = "-quickgelu" if facts.quick_gelu else ""
    return f"clip-w{sizes.width}-d{sizes.depth}-h{heads[0]}-p{sizes.patch}-{sizes.size}px-th{heads[1]}{quick}"


def own_clip(name: str, state: Mapping[str, Tensor]) -> nn.Module | None:
    """Build a random CLIP of a name of :func:`own_name`.

    Args:
        name: An architecture.
        state: Tensors that the sizes are taken from.

    Returns:
        The model, or None for any other name.
    """
    found = _OWN_NAME.fullmatch(name)
    if found is None or CLIP_KEY not in state:
        return None
    sizes = sizes_of(state, name)
    vision = {
        "image_size": sizes.size,
        "layers": sizes.depth,
        "width": sizes.width,
        "patch_size": sizes.patch,
        "head_width": sizes.width // int(found["heads"]),
        "mlp_ratio": _mlp_ratio(state, "visual."),
    }
    text = {
        "context_length": sizes.context,
        "vocab_size": sizes.vocabulary,
        "width": sizes.text_width,
        "heads": int(found["text_heads"]),
        "layers": len({key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")}),
        "mlp_ratio": _mlp_ratio(state, ""),
    }
    return open_clip.CLIP(sizes.dim, vision, text, quick_gelu=found["quick"] is not None)


def _mlp_ratio(state: Mapping[str, Tensor], side: str) -> float:
    hidden, width = state[f"{side}transformer.resblocks.0.mlp.c_fc.weight"].shape
    return hidden / width
