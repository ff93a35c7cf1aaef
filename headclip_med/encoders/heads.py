"""Factors for attention heads, as the encoder applies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Site = Literal["head_output", "attention_temperature"]


@dataclass(frozen=True)
class HeadWeights:
    """Factors for the attention heads of a tower, where 1 leaves a head as it is.

    Attributes:
        local: for the local branch: ``(L, heads)``, ``(L, heads, head_dim)``, or ``(N, L, heads)`` when ``per_image``.
            None leaves the branch as it is.
        global_: for the ordinary path, same shapes.
        site: ``head_output`` scales a head's output (scaling its value is the same thing), ``attention_temperature``
            scales its logits.
        per_image: the leading axis counts the images of the batch.
    """

    local: Tensor | None = None
    global_: Tensor | None = None
    site: Site = "head_output"
    per_image: bool = False

    def to(self, device: torch.device | str) -> HeadWeights:
        """Copy the weights to another device.

        Args:
            device: Where to.

        Returns:
            The same weights there.
        """
        local, global_ = (None if t is None else t.to(device) for t in (self.local, self.global_))
        return HeadWeights(local, global_, self.site, self.per_image)

    @property
    def foldable(self) -> bool:
        """Whether the local factors can be multiplied into a copy of the output projection."""
        return self.local is not None and self.site == "head_output" and not self.per_image

    def at(self, branch: Literal["local", "global"], layer: int) -> Tensor | None:
        """Pick the factors of one layer.

        Args:
            branch: ``local`` or ``global``.
            layer: 0-based block.

        Returns:
            Broadcastable to ``(N, heads, T, head_dim)``, or None where the branch is left as it is.
        """
        tensor = self.local if branch == "local" else self.global_
        if tensor is None:
            return None
        if self.per_image:
            return tensor[:, layer, :, None, None]
        factors = tensor[layer]
        return factors[None, :, None, :] if factors.ndim == 2 else factors[None, :, None, None]
