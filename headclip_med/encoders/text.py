"""Texts → class features, through the frozen text side of a CLIP model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med.base.errors import ModelError

CONTEXT_TOKENS, DEEP_TOKENS, DEEP_BLOCKS = 12, 4, 8
NORMAL_TEXT, ABNORMAL_TEXT = "object.", "damaged object."
_PLACEHOLDER = "X"
_SPREAD = 0.02  # standard deviation of the initial embeddings


Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class TextSide:
    """The parts of a text transformer, by reference to the frozen model."""

    embedding: nn.Embedding
    positions: Tensor
    blocks: Sequence[nn.Module]
    batch_first: bool
    mask: Tensor
    norm: nn.Module
    projection: Tensor

    @property
    def width(self) -> int:
        """Length of a token's embedding."""
        return int(self.embedding.weight.shape[1])


def text_side(clip: nn.Module) -> TextSide:
    """View the text side of an open_clip model, if learned prompts can go through it.

    Args:
        clip: The model.

    Returns:
        Its parts, by reference.

    Raises:
        ModelError: no causal text transformer that ends in its end-of-text token.
    """
    text: Any = getattr(clip, "text", clip)
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    mask, projection = getattr(text, "attn_mask", None), getattr(text, "text_projection", None)
    usable = hasattr(text, "token_embedding") and pool == "argmax" and isinstance(mask, Tensor)
    if not usable or not isinstance(projection, Tensor) or getattr(text, "cls_emb", None) is not None:
        raise ModelError(
            "Learned prompts must go through a CLIP text transformer that ends in its end-of-text token",
            type(text).__name__,
            "Choose one of OpenAI's or open_clip's plain CLIP models",
        )
    return TextSide(
        embedding=text.token_embedding,
        positions=text.positional_embedding,
        blocks=tuple(text.transformer.resblocks),
        batch_first=bool(getattr(text.transformer, "batch_first", True)),
        mask=mask,
        norm=text.ln_final,
        projection=projection,
    )


def prompt_tokens(tokenizer: Tokenizer, contexts: int = CONTEXT_TOKENS) -> Tensor:
    """Tokenise the normal and the abnormal text with placeholders in front.

    Args:
        tokenizer: Of the CLIP model.
        contexts: Number of placeholders.

    Returns:
        Token numbers ``(2, length)``, ``[normal, abnormal]``.
    """
    front = " ".join([_PLACEHOLDER] * contexts)
    return tokenizer([f"{front} {NORMAL_TEXT}", f"{front} {ABNORMAL_TEXT}"])


class PromptLearner(nn.Module):
    """Learned prompts.

    Args:
        width: Of the text side.
        contexts: Placeholders of each text.
        deep_blocks, deep_tokens: Blocks after the first that get tokens of their own, and how many.
        round_deep: Round the deep tokens to 16 bits, as AnomalyCLIP's released code does with them.
        seed: Of the initial values.

    Raises:
        ModelError: more deep tokens than context tokens.
    """

    def __init__(
        self,
        width: int,
        *,
        contexts: int = CONTEXT_TOKENS,
        deep_blocks: int = DEEP_BLOCKS,
        deep_tokens: int = DEEP_TOKENS,
        round_deep: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if deep_tokens > contexts:
            raise ModelError(f"Deep tokens must be at most the {contexts} context tokens", deep_tokens)
        draw = torch.Generator().manual_seed(seed)
        self.context = nn.Parameter(_SPREAD * torch.randn(2, contexts, width, generator=draw))
        self.deep = nn.Parameter(_SPREAD * torch.randn(deep_blocks, deep_tokens, width, generator=draw))
        self.round_deep = round_deep

    def forward(self, side: TextSide, tokens: Tensor) -> Tensor:
        """Encode the learned prompts, so that gradients reach the prompts only.

        Args:
            side: The frozen text side.
            tokens: Of :func:`prompt_tokens`, with as many placeholders as there are context embeddings.

        Returns:
            ``(2, D)`` L2-normalised class features ``[normal, abnormal]``.

        Raises:
            ModelError: a text side with too few blocks for the deep prompts.
        """
        if len(self.deep) >= len(side.blocks):
            raise ModelError(f"A text side of {len(side.blocks)} blocks must have fewer deep prompts", len(self.deep))
        contexts = self.context.shape[1]
        embedded = side.embedding(tokens)
        x = torch.cat([embedded[:, :1], self.context, embedded[:, 1 + contexts :]], dim=1)
        length = x.shape[1]
        x = x + side.positions[:length]
        mask = side.mask[:length, :length]
        for number, block in enumerate(side.blocks):
            if 1 <= number <= len(self.deep):
                x = self._with_deep(x, self.deep[number - 1])
            x = (
                block(x, attn_mask=mask)
                if side.batch_first
                else block(x.transpose(0, 1), attn_mask=mask).transpose(0, 1)
            )
        ends = side.norm(x)[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]
        return F.normalize(ends @ side.projection, dim=-1)

    def _with_deep(self, x: Tensor, deep: Tensor) -> Tensor:
        count, deep = deep.shape[0], deep.expand(len(x), -1, -1)
        if self.round_deep:  # after expanding: each class's gradient is rounded too before they are added, as released
            deep = deep.half().float()
        return torch.cat([x[:, :1], deep, x[:, 1 + count :]], dim=1)


def encode_texts(clip: nn.Module, tokenizer: Tokenizer, texts: Sequence[str], batch: int = 64) -> Tensor:
    """Encode texts by a CLIP model.

    Args:
        clip: The model.
        tokenizer: Of the same model.
        texts: n texts.
        batch: How many at a time.

    Returns:
        ``(n, D)`` float32, L2-normalised.
    """
    device = next(clip.parameters()).device
    chunks = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch):
            tokens = tokenizer(list(texts[start : start + batch])).to(device)
            chunks.append(F.normalize(clip.encode_text(tokens).float(), dim=-1))
    return torch.cat(chunks)


def class_features(clip: nn.Module, tokenizer: Tokenizer, normal: Sequence[str], abnormal: Sequence[str]) -> Tensor:
    """Average the text features of each class.

    Args:
        clip: The model.
        tokenizer: Of the same model.
        normal, abnormal: Texts of each class.

    Returns:
        ``(2, D)`` ``[normal, abnormal]``, L2-normalised.
    """
    means = [encode_texts(clip, tokenizer, texts).mean(dim=0) for texts in (normal, abnormal)]
    return F.normalize(torch.stack(means), dim=-1).clone()
