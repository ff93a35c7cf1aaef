"""Texts → class features, through the frozen text side of a CLIP model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Tokenizer = Callable[[list[str]], Tensor]


def encode_texts(clip: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], batch: int = 64) -> Tensor:
    """L2-normalised float32 text features ``(n, D)``."""
    device = next(clip.parameters()).device
    chunks = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch):
            tokens = tokenizer(list(texts[start : start + batch])).to(device)
            chunks.append(F.normalize(clip.encode_text(tokens).float(), dim=-1))
    return torch.cat(chunks)


def class_features(clip: nn.Module, tokenizer: Tokenizer, normal: Sequence[str], abnormal: Sequence[str]) -> Tensor:
    """``(2, D)`` ``[normal, abnormal]``: the mean of each class's text features, L2-normalised."""
    means = [encode_texts(clip, tokenizer, texts).mean(dim=0) for texts in (normal, abnormal)]
    return F.normalize(torch.stack(means), dim=-1).clone()
