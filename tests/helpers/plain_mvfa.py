"""MVFA's read-outs and logits written out from their equations, on open_clip's own weights."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional as F


def plain_block(block, x: Tensor) -> Tensor:
    n, t, width = x.shape
    heads = block.attn.num_heads
    qkv = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    q, k, v = (part.reshape(n, t, heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    weights = torch.softmax(q @ k.transpose(-1, -2) / sqrt(width // heads), dim=-1)
    x = x + block.attn.out_proj((weights @ v).transpose(1, 2).reshape(n, t, width))
    return x + block.mlp.c_proj(F.gelu(block.mlp.c_fc(block.ln_2(x))))


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def plain_read_outs(visual, state: dict[str, Tensor], pixels: Tensor) -> dict[str, list[Tensor]]:
    """Patch read-outs by head, one ``(N, P, B)`` a tap; ``pixels`` in [0, 1]."""
    grid = pixels.shape[-1] // visual.patch_size[0]
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    stored = visual.positional_embedding
    side = round(sqrt(len(stored) - 1))
    image = stored[1:].T.reshape(1, -1, side, side)
    image = F.interpolate(image, size=(grid, grid), mode="bicubic", antialias=True)
    positions = torch.cat([stored[:1], image.flatten(2)[0].T])
    x = torch.cat([visual.class_embedding.expand(len(pixels), 1, -1), patches], dim=1) + positions
    x, depth = visual.ln_pre(x), len(visual.transformer.resblocks)
    read: dict[str, list[Tensor]] = {"segmentation": [], "detection": []}
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        x = plain_block(block, x)
        if number % (depth // 4) == 0:
            tap, fed = number // (depth // 4) - 1, []
            for head, found in read.items():
                down = leaky(x @ state[f"{head}.down"][tap].T)
                found.append(down[:, 1:])
                if number < depth:
                    fed.append(leaky(down @ state[f"{head}.up"][tap].T))
            x = x if number == depth else 0.8 * x + 0.1 * fed[0] + 0.1 * fed[1]
    return read


def plain_logits(read: list[Tensor], texts: Tensor) -> list[Tensor]:
    return [100 * (each / each.norm(dim=-1, keepdim=True)) @ texts.T for each in read]
