"""Step → what is learned from in it: slices of the bank, turned, painted and recoloured; decided by seed and step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from headclip_med.training.pretraining.anatomy import Anatomy
from headclip_med.training.pretraining.appearance import random_look, random_view
from headclip_med.training.pretraining.config import PretrainConfig
from headclip_med.training.pretraining.lesions import paint_lesions


@dataclass(frozen=True)
class PaintedBatch:
    """Slices or windows of them.

    Attributes:
        levels: ``(N, H, W)`` in [0, 1].
        lesions, inside: ``(N, H, W)`` bool.
        corner: Patch row and column at which the network is told that the windows begin.
    """

    levels: Tensor
    lesions: Tensor
    inside: Tensor
    corner: tuple[int, int] = (0, 0)


class PaintedSlices(torch.utils.data.Dataset[PaintedBatch]):
    """Batches by step: small windows first, whole slices at the end.

    Args:
        anatomy: Slices that are drawn from.
        config: Stages, seed and share of painted slices.
    """

    def __init__(self, anatomy: Anatomy, config: PretrainConfig) -> None:
        self.anatomy, self.config = anatomy, config
        self._has_lesion = anatomy.lesions.flatten(1).any(dim=1)
        self._chance = anatomy.share * (1 + self._has_lesion.float())

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> PaintedBatch:
        """The batch of one step; the same whatever was drawn before."""
        if not 0 <= step < len(self):
            raise IndexError(step)
        config, bank = self.config, self.anatomy
        draw = torch.Generator().manual_seed(_seed(config.seed, step))
        count, size = self._stage(step)
        whole = size == config.image_size
        corner = torch.randint((config.image_size - size) // config.patch_size + 1, (2,), generator=draw)
        chosen = torch.multinomial(self._chance, count, replacement=True, generator=draw)
        images = bank.images[chosen][:, None].float() / 255
        masks = torch.stack([part[chosen] for part in (bank.lesions, bank.inside, bank.brain)], dim=1).float()
        images, masks = random_view(images, masks, self._centres(chosen, masks, whole, size, draw), size, draw)
        known, inside, brain = (masks[:, i : i + 1] > 0.5 for i in range(3))
        wanted = (torch.rand(count, generator=draw) < config.painted).view(-1, 1, 1, 1)
        painted = paint_lesions(images, brain & wanted, known, bank.sequence[chosen], draw)
        levels = random_look(painted.images * inside, draw)
        lesions = painted.lesions & inside
        return PaintedBatch(levels[:, 0], lesions[:, 0], inside[:, 0], (int(corner[0]), int(corner[1])))

    def _stage(self, step: int) -> tuple[int, int]:
        """How many windows a step sees, and their side in pixels."""
        for stage in self.config.stages:
            if step < stage.steps:
                return stage.count, stage.size
            step -= stage.steps
        raise IndexError(step)

    def _centres(self, chosen: Tensor, masks: Tensor, whole: bool, size: int, draw: torch.Generator) -> Tensor:
        """What the middle of each window shows, ``(N, 2)``: about the middle, or the patient, or a known lesion."""
        count, side = len(chosen), masks.shape[-1]
        if whole:
            return torch.full((count, 2), (side - 1) / 2) + 8 * torch.randn(count, 2, generator=draw)
        to_lesion = self._has_lesion[chosen] & (torch.rand(count, generator=draw) < 0.5)
        places = torch.where(to_lesion[:, None], masks[:, 0].flatten(1), masks[:, 1].flatten(1)).clamp(min=1e-12)
        centre = torch.multinomial(places, 1, generator=draw)[:, 0]
        return torch.stack([centre // side, centre % side], dim=1) + size / 6 * torch.randn(count, 2, generator=draw)


def _seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:7], "little")
