"""A small CLIP and prompt checkpoints of the AnomalyCLIP family's layout for it."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
from torch import Tensor

from headclip_med.encoders.adapters import tower_from_open_clip
from headclip_med.encoders.build import BuiltTower
from headclip_med.encoders.text import prompt_tokens, text_side

WIDTH, DEPTH, HEADS, DIM = 32, 4, 2, 24


def small_clip(width: int = WIDTH, dim: int = DIM, text_layers: int = 9, *, quick: bool = True) -> BuiltTower:
    """A random CLIP whose image side has ``DEPTH`` blocks of ``HEADS`` heads, under a made-up architecture name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": 4, "layers": text_layers}
        vision = {"image_size": 32, "layers": DEPTH, "width": 32, "patch_size": 8, "head_width": 32 // HEADS}
        clip = open_clip.CLIP(dim, vision, text, quick_gelu=quick).eval().requires_grad_(False)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    return BuiltTower(tower_from_open_clip(clip.visual), "open_clip", "small", "small.pt", "0" * 64, clip, tokenizer)


def learner_state(built: BuiltTower) -> dict[str, Tensor]:
    """Everything that AnomalyCLIP saves, the projections that it never uses among it."""
    side = text_side(built.clip)
    tokens = prompt_tokens(built.tokenizer)
    embedded = side.embedding(tokens)
    draw = torch.Generator().manual_seed(1)
    state: dict[str, Tensor] = {}
    for row, name in enumerate(("pos", "neg")):
        state[f"ctx_{name}"] = torch.randn(1, 1, 12, side.width, generator=draw)
        state[f"token_prefix_{name}"] = embedded[row, :1].reshape(1, 1, 1, -1).clone()
        state[f"token_suffix_{name}"] = embedded[row, 13:].reshape(1, 1, 64, -1).clone()
        state[f"tokenized_prompts_{name}"] = tokens[row].reshape(1, 1, 77).int()
    for block in range(8):
        state[f"compound_prompts_text.{block}"] = torch.randn(4, side.width, generator=draw)
        state[f"compound_prompt_projections.{block}.weight"] = torch.randn(40, side.width, generator=draw)
        state[f"compound_prompt_projections.{block}.bias"] = torch.randn(40, generator=draw)
    return state


def write_prompts(path: Path, state: dict[str, Tensor]) -> Path:
    """The checkpoint as that family's training script saves it."""
    torch.save({"prompt_learner": state}, path)
    return path
