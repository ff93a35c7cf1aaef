"""CLIP and its V-V attention written out from their equations, on open_clip's own weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med.detectors.headclip import detector as headclip

NORMAL, ABNORMAL = ["normal brain", "a photo of the healthy brain"], ["brain with a lesion"]


def plain_classes(clip, tokenizer, normal: list[str], abnormal: list[str]) -> Tensor:
    """Mean of the normalised text features of each class, normalised."""
    rows = []
    for texts in (normal, abnormal):
        features = clip.encode_text(tokenizer(texts))
        rows.append((features / features.norm(dim=-1, keepdim=True)).mean(dim=0))
    both = torch.stack(rows)
    return both / both.norm(dim=-1, keepdim=True)


def plain_embedding(visual, pixels: Tensor) -> Tensor:
    """Tokens that enter the first block, position embeddings resampled as open_clip does on loading."""
    patches = F.conv2d(pixels, visual.conv1.weight, stride=visual.conv1.stride)
    side, width = patches.shape[-1], patches.shape[1]
    places = visual.positional_embedding[1:]
    native = round(len(places) ** 0.5)
    image = places.T.reshape(1, width, native, native)
    image = F.interpolate(image, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    positions = torch.cat([visual.positional_embedding[:1], image.flatten(2)[0].T])
    cls = visual.class_embedding.expand(len(pixels), 1, width)
    tokens = torch.cat([cls, patches.flatten(2).transpose(1, 2)], dim=1) + positions
    return F.layer_norm(tokens, (width,), visual.ln_pre.weight, visual.ln_pre.bias)


def plain_heads(block, tokens: Tensor) -> list[Tensor]:
    """q, k and v of the block, each ``(N, heads, T, d)``."""
    normed = F.layer_norm(tokens, tokens.shape[-1:], block.ln_1.weight, block.ln_1.bias)
    flat = normed @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    heads = block.attn.num_heads
    return [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in flat.chunk(3, dim=-1)]


def plain_attention(block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v of every head, through the output projection."""
    weights = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, dim=-1)
    merged = (weights @ value).transpose(1, 2).flatten(2)
    return merged @ block.attn.out_proj.weight.T + block.attn.out_proj.bias


def plain_mlp(block, tokens: Tensor) -> Tensor:
    """The block's MLP with OpenAI's activation, x · sigmoid(1.702 x)."""
    normed = F.layer_norm(tokens, tokens.shape[-1:], block.ln_2.weight, block.ln_2.bias)
    hidden = normed @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
    return (hidden * torch.sigmoid(1.702 * hidden)) @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias


def plain_abnormal(features: Tensor, classes: Tensor, temperature: float) -> Tensor:
    return torch.softmax(features @ classes.T / temperature, dim=-1)[..., 1]


@pytest.fixture
def few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three prompts instead of hundreds: the large text towers take seconds for those."""
    monkeypatch.setattr(headclip, "ensemble", lambda anatomy, abnormal: (NORMAL, ABNORMAL))
