"""AnomalyCLIP and Crane written out from their equations, on an open_clip model's own weights and through no encoder of
ours: what the detectors are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Paths:
    """Of every block: the local path after it, the original path's tokens that enter it, and those with its attention
    added; last: the class token after the last block."""

    local: list[Tensor]
    entering: list[Tensor]
    attended: list[Tensor]
    cls_token: Tensor


def split(block: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value ``(N, heads, T, d)`` of tokens that enter a block."""
    flat = block.ln_1(tokens) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    n, t, _ = flat.shape
    return flat.view(n, t, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def merge(block: nn.Module, heads: Tensor) -> Tensor:
    """Heads ``(N, heads, T, d)`` → ``(N, T, width)`` through the output projection."""
    return heads.transpose(1, 2).flatten(2) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias


def weights(one: Tensor, other: Tensor) -> Tensor:
    return torch.softmax(one @ other.transpose(-2, -1) / one.shape[-1] ** 0.5, dim=-1)


@torch.no_grad()
def image_paths(clip: nn.Module, pixels: Tensor, kind: str, local_blocks: int = 19) -> Paths:
    """Both paths of ``kind`` ``vv`` or ``qq+kk+vv``; positions are resized bilinearly."""
    visual = clip.visual
    x = visual.conv1(pixels)
    grid = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    stored = visual.positional_embedding
    side = round((len(stored) - 1) ** 0.5)
    resized = F.interpolate(stored[1:].T.reshape(1, -1, side, side), grid, mode="bilinear").flatten(2)[0].T
    cls = visual.class_embedding.expand(len(x), 1, -1)
    x = visual.ln_pre(torch.cat([cls, x], dim=1) + torch.cat([stored[:1], resized]))
    blocks = visual.transformer.resblocks
    first = max(1, len(blocks) - local_blocks)
    local, paths = x, Paths([], [], [], x[:, 0])
    for number, block in enumerate(blocks):
        paths.entering.append(x)
        q, k, v = split(block, x)
        if number == first:
            local = x
        if number >= first:
            sums = [v] if kind == "vv" else [q, k, v]
            local = local + merge(block, sum(weights(t, t) for t in sums) @ v)
        x = x + merge(block, weights(q, k) @ v)
        paths.attended.append(x)
        x = x + block.mlp(block.ln_2(x))
        paths.local.append(local if number >= first else x)
    paths.cls_token = x[:, 0]
    return paths


def project(clip: nn.Module, tokens: Tensor) -> Tensor:
    """ln_post and projection, L2-normalised."""
    return F.normalize(clip.visual.ln_post(tokens) @ clip.visual.proj, dim=-1)


def text_features(
    clip: nn.Module, tokens: Tensor, context: Tensor, deep: Tensor, image: Tensor | None = None
) -> Tensor:
    """``(2, D)`` of learned prompts; with an image's feature as a thirteenth context token, if given."""
    rows = []
    for row, learned in zip(tokens, context, strict=True):
        front = learned if image is None else torch.cat([learned, image[None]])
        rest = clip.token_embedding(row[1 + len(learned) :])
        end = int(row.argmax()) + (0 if image is None else 1)
        x = torch.cat([clip.token_embedding(row[:1]), front, rest])[:77] + clip.positional_embedding
        for number, block in enumerate(clip.transformer.resblocks):
            if 1 <= number <= len(deep):
                x = torch.cat([x[:1], deep[number - 1].half().float(), x[1 + deep.shape[1] :]])
            x = block(x[None], attn_mask=clip.attn_mask)[0]
        rows.append(clip.ln_final(x[end]) @ clip.text_projection)
    return F.normalize(torch.stack(rows), dim=-1)


def enlarge(patches: Tensor, size: int, mode: str = "bilinear") -> Tensor:
    """``(N, P)`` → ``(N, size, size)``."""
    side = round(patches.shape[1] ** 0.5)
    return F.interpolate(patches.view(-1, 1, side, side), (size, size), mode=mode)[:, 0]


def smooth(maps: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(np.stack([gaussian_filter(m, sigma) for m in maps.detach().numpy()]))


def focal(abnormal: Tensor, truth: Tensor) -> Tensor:
    """Both classes, one-hot truth clamped to [1e-5, 1 − 1e-5], p_t + 1e-5, γ = 2, plain mean."""
    one_hot = torch.stack([truth == 0, truth == 1], dim=1).float().clamp(1e-5, 1 - 1e-5)
    p_t = (one_hot * torch.stack([1 - abnormal, abnormal], dim=1)).sum(dim=1) + 1e-5
    return (-((1 - p_t) ** 2) * torch.log(p_t)).mean()


def dice(p: Tensor, g: Tensor) -> Tensor:
    ratios = [(2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, g, strict=True)]
    return 1 - torch.stack(ratios).mean()
