"""Learned prompts as the learned part of a detector: where they come from, what they end as, and their tensors.

A pack keeps the prompts beside the class features that they end as: the features are enough to score, without a text
side; the prompts are needed to train on, and where every image gets texts of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors.base import Parts, text_of
from headclip_med.encoders.text import DEEP_BLOCKS, PromptLearner, TextSide, prompt_tokens, text_side
from headclip_med.encoders.tower import ImageTower

_CONTEXT, _DEEP = "prompt.context", "prompt.deep"


@dataclass(frozen=True)
class Prompts:
    """Prompts that learn, and the frozen text side that they go through.

    Attributes:
        learner: what learns.
        side: the frozen text side.
        tokens: ``(2, length)`` token numbers of the normal and the abnormal text.
    """

    learner: PromptLearner
    side: TextSide
    tokens: Tensor

    def features(self) -> Tensor:
        """Encode the prompts, differentiable in them.

        Returns:
            ``(2, D)`` L2-normalised ``[normal, abnormal]``.
        """
        features: Tensor = self.learner(self.side, self.tokens)
        return features

    def features_of(self, images: Tensor) -> Tensor:
        """Encode the prompts with each image's feature as one more token after the contexts (Crane, arXiv 2504.11055).

        What follows moves on by one token and the last padding drops off, while deep tokens replace the same ones as
        ever.

        Args:
            images: ``(N, D)`` L2-normalised, where D is the width of the text side.

        Returns:
            ``(N, 2, D)`` L2-normalised ``[normal, abnormal]``.

        Raises:
            ModelError: an image feature that is no token of the text side.
        """
        if images.shape[-1] != self.side.width:
            raise ModelError(
                "Prompts guided by the image must have a tower whose features are as long as its text tokens",
                f"features of {images.shape[-1]}, tokens of {self.side.width}",
                "Set context_probability to 0 and context_at_test to false, or choose one of OpenAI's CLIP towers",
            )
        count, contexts = len(images), self.learner.context.shape[1]
        guided = torch.cat([self.learner.context.repeat(count, 1, 1), images.repeat_interleave(2, dim=0)[:, None]], 1)
        moved = torch.cat([self.tokens[:, : 1 + contexts], self.tokens[:, contexts:-1]], dim=1).repeat(count, 1)
        features: Tensor = functional_call(self.learner, {"context": guided}, (self.side, moved))
        return features.unflatten(0, (count, 2))

    def tensors(self) -> dict[str, Tensor]:
        """Copy the prompts as :func:`prompts_of` reads them.

        Returns:
            Tensors by name, on the CPU.
        """
        return {_CONTEXT: kept(self.learner.context), _DEEP: kept(self.learner.deep)}


def prompts_of(parts: Parts, method: str, *, round_deep: bool, seed: int) -> Prompts | None:
    """Find the prompts in ``parts``, or make fresh ones where nothing was learned yet.

    Args:
        parts: Tower with its text side, and what was learned.
        method: Name of the method, for messages.
        round_deep: Round deep tokens to 16 bits.
        seed: Of fresh prompts.

    Returns:
        The prompts, or None where only their features are.

    Raises:
        ModelError: no text side to learn through, prompts that do not fit it or are not finite.
    """
    tensors, built = parts.tensors, parts.built
    given = [name for name in (_CONTEXT, _DEEP) if name in tensors]
    if "patch_classes" in tensors and (not given or built.clip is None):
        return None
    if tensors and len(given) < 2:
        raise ModelError(
            f"{parts.name} must hold {_CONTEXT} and {_DEEP}, or class features, for the method {method}",
            ", ".join(sorted(tensors)),
            f"Train or convert a pack for {method}",
        )
    clip, tokenizer = text_of(built, method)
    side, device = text_side(clip), built.tower.device
    deep_blocks = min(DEEP_BLOCKS, len(side.blocks) - 1)
    learner = PromptLearner(side.width, deep_blocks=deep_blocks, round_deep=round_deep, seed=seed)
    if given:
        learner = _loaded(tensors, side, round_deep, parts.name)
    tokens = prompt_tokens(tokenizer, learner.context.shape[1])
    return Prompts(learner.to(device), side, tokens.to(device))


def one_pair(parts: Parts, prompts: Prompts | None) -> Tensor:
    """Give the class features of a method that compares every layer with the same pair.

    Args:
        parts: Tower and what was learned.
        prompts: The prompts, where there are some.

    Returns:
        ``(2, D)`` ``[normal, abnormal]`` on the tower's device.

    Raises:
        ModelError: none, or some that do not fit the tower.
    """
    stored = parts.tensors.get("patch_classes")
    if stored is None:
        return current(trainable(prompts, parts.name))
    return _checked_pair(stored, parts.built.tower, parts.name)


@torch.no_grad()
def current(prompts: Prompts) -> Tensor:
    """Encode the prompts as they are now, outside autograd.

    Args:
        prompts: What learns.

    Returns:
        ``(2, D)`` L2-normalised ``[normal, abnormal]``.
    """
    return prompts.features()


def trainable(prompts: Prompts | None, name: str) -> Prompts:
    """Refuse where only the features of prompts are left.

    Args:
        prompts: The prompts, or None.
        name: What to call the model in the message.

    Returns:
        The prompts.

    Raises:
        ModelError: no prompts.
    """
    if prompts is None:
        raise ModelError(
            f"{name} must hold its prompts and have a text side for this",
            "class features alone",
            "Use a pack that keeps its prompts, or start from the tower",
        )
    return prompts


def _loaded(tensors: Mapping[str, Tensor], side: TextSide, round_deep: bool, name: str) -> PromptLearner:
    context, deep = tensors[_CONTEXT].float(), tensors[_DEEP].float()
    shapes = tuple(context.shape), tuple(deep.shape)
    fits = context.ndim == deep.ndim == 3 and len(context) == 2
    if not fits or {context.shape[-1], deep.shape[-1]} != {side.width} or len(deep) >= len(side.blocks):
        raise ModelError(
            f"The prompts of {name} must be (2, contexts, {side.width}) and (blocks, tokens, {side.width}), "
            f"for fewer than {len(side.blocks)} blocks",
            shapes,
            "Choose the tower that they were trained for",
        )
    if not (context.isfinite().all() and deep.isfinite().all()):
        raise ModelError("Prompts must be finite numbers", "NaN or infinity", "Use another pack")
    learner = PromptLearner(
        side.width,
        contexts=context.shape[1],
        deep_blocks=len(deep),
        deep_tokens=deep.shape[1],
        round_deep=round_deep,
    )
    learner.load_state_dict({"context": context, "deep": deep})
    return learner


def _checked_pair(stored: Tensor, tower: ImageTower, name: str) -> Tensor:
    if tuple(stored.shape) != (2, tower.output_dim) or not stored.isfinite().all():
        raise ModelError(
            f"The class features of {name} must be finite and of shape (2, {tower.output_dim})",
            tuple(stored.shape),
            "Use a pack that was made for this tower and this method",
        )
    return F.normalize(stored.float(), dim=-1).to(tower.device)


def kept(tensor: Tensor) -> Tensor:
    """Copy a tensor for a pack, so that no later step changes it.

    Args:
        tensor: On any device.

    Returns:
        Contiguous, on the CPU, outside autograd.
    """
    return tensor.detach().cpu().contiguous().clone()
