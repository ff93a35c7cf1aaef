"""The small tower with everything that is learned beside it, and what it is judged by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med.detectors import scoring
from headclip_med.detectors.headclip.config import SIGMA_REFERENCE, HeadCLIPConfig
from headclip_med.encoders.adapters import tower_from_timm
from headclip_med.encoders.head_weights import place_head_weights
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import EncodeOptions, encode_images
from headclip_med.encoders.timm_vit import build_timm_vit
from headclip_med.training.pretraining.batches import PaintedBatch
from headclip_med.training.pretraining.config import PretrainConfig

PIXEL_MEAN, PIXEL_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
SIGMA = HeadCLIPConfig().map_sigma


@dataclass(frozen=True)
class Judged:
    """Abnormal probability on the patch grid ``(N, Hp, Wp)`` and log-odds of the pixels ``(N, H, W)``."""

    patches: Tensor
    logits: Tensor


class PretrainNetwork(nn.Module):
    """A timm ViT, class vectors of every tap, head weights of the local branch, and how brightness joins the map.

    All of it is trained end to end through the encoder and the scoring that inference uses.

    Args:
        config: Architecture, taps and seed.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.vit = build_timm_vit(config.tower)
            start_from_places(self.vit.pos_embed, config.image_size // config.patch_size)
            for block in self.vit.blocks:
                start_from_likeness(block.attn.qkv.weight, block.attn.proj.weight, config.heads)
            self.classes = nn.Parameter(F.normalize(torch.randn(len(config.taps), 2, config.width), dim=-1))
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.head_weights = nn.Parameter(torch.ones(config.depth - config.local_start, config.heads))
        self.fusion = nn.Parameter(torch.tensor([1.0, 2.0, -1.0]))
        self._options = EncodeOptions(config.taps, config.local_attention, config.local_start, want_global=False)
        self._view = [
            tower_from_timm(self.vit)
        ]  # the same parameters as parts; in a list, so that no state has them twice
        self.vit.requires_grad_(True)

    def forward(self, levels: Tensor, corner: tuple[int, int] = (0, 0)) -> Judged:
        """Score levels, with matrix products in bfloat16 and weights in float32.

        Args:
            levels: ``(N, H, W)`` in [0, 1].
            corner: Patch row and column of the whole square at which windows smaller than it begin.

        Returns:
            Probabilities of patches and log-odds of pixels.
        """
        size = (int(levels.shape[-2]), int(levels.shape[-1]))
        tower = self._view[0] if size[1] == self.config.image_size else self._view[0].for_window(*corner, size[1])
        pixels = ((levels - PIXEL_MEAN[0]) / PIXEL_STD[0])[:, None].expand(-1, 3, -1, -1)
        with torch.autocast("cpu", torch.bfloat16):
            features = encode_images(tower, pixels, self._options, head_weights=self.weights())
        taps = {layer: tap.float() for layer, tap in features.patch_features.items()}
        classes = dict(zip(self.config.taps, F.normalize(self.classes, dim=-1), strict=True))
        patches = scoring.patch_map(taps, classes, features.grid, logit_scale=self.log_scale.exp())
        smooth = scoring.upsample(patches, size, sigma=SIGMA * self.config.image_size / SIGMA_REFERENCE).clamp(0, 1)
        a, b, c = self.fusion
        return Judged(patches, a * torch.logit(smooth, eps=1e-6) + b * levels + c)

    def weights(self) -> HeadWeights:
        """Give the head weights of the local branch.

        Returns:
            As the encoder takes them.
        """
        return place_head_weights(self.head_weights, self.config.depth, local_start=self.config.local_start)

    def groups(self) -> list[dict[str, object]]:
        """List the parameters for an optimiser: matrices decay, few and slow ones do not.

        Returns:
            Groups with their learning rates.
        """
        rate, vit = self.config.learning_rate, list(self.vit.parameters())
        return [
            {"params": vit, "weight_decay": self.config.weight_decay, "lr": rate, "rate": rate},
            {"params": [self.classes], "weight_decay": 0.0, "lr": rate, "rate": rate},
            {
                "params": [self.log_scale, self.fusion, self.head_weights],
                "weight_decay": 0.0,
                "lr": 10 * rate,
                "rate": 10 * rate,
            },
        ]


class DetectionLoss(nn.Module):
    """Balanced cross-entropy of pixels, with small lesions weighing more than their area, and of patches, and Dice.

    Args:
        small_lesions: see :class:`PretrainConfig`.
    """

    def __init__(self, small_lesions: float) -> None:
        super().__init__()
        self.small_lesions = small_lesions

    def forward(self, judged: Judged, batch: PaintedBatch) -> Tensor:
        """Compute the loss of a batch, in which pixels outside the patient do not count.

        Args:
            judged: What the network says.
            batch: What is true.

        Returns:
            A scalar.
        """
        truth, inside = batch.lesions.float(), batch.inside
        area = truth.flatten(1).sum(dim=1).clamp(min=1)
        lesion = truth * area.pow(-self.small_lesions).view(-1, 1, 1)
        free = (inside & ~batch.lesions).float()
        weight = 0.5 * lesion / lesion.sum().clamp(min=1e-6) + 0.5 * free / free.sum().clamp(min=1)
        pixels = (weight * F.binary_cross_entropy_with_logits(judged.logits, truth, reduction="none")).sum()
        found = judged.logits.sigmoid() * inside
        dice = 1 - (2 * (found * truth).sum() + 1) / (found.sum() + truth.sum() + 1)
        return pixels + dice + 0.25 * self._patches(judged.patches, truth, inside.float())

    def _patches(self, patches: Tensor, truth: Tensor, inside: Tensor) -> Tensor:
        """A patch counts as lesion when a quarter of it is, as free when none of it is; the rest is left out."""
        covered, patient = (F.adaptive_avg_pool2d(part[:, None], patches.shape[-2:])[:, 0] for part in (truth, inside))
        probability = patches.clamp(1e-4, 1 - 1e-4)
        lesion, free = covered >= 0.25, (covered == 0) & (patient > 0.5)
        loss = patches.new_zeros(())
        if free.any():
            loss = loss - 0.5 * (1 - probability[free]).log().mean()
        return loss - 0.5 * probability[lesion].log().mean() if lesion.any() else loss


def start_from_places(positions: Tensor, side: int) -> None:
    """Initialise position embeddings ``(1, 1 + side², width)`` with sines and cosines of row and column.

    Args:
        positions: ``(1, 1 + side², width)``, set in place.
        side: Patches in a row.
    """
    quarter = positions.shape[-1] // 4
    pace = 100.0 ** (-torch.arange(quarter) / max(1, quarter))
    rows, cols = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = [wave(axis.flatten()[:, None] * pace) for axis in (rows, cols) for wave in (torch.sin, torch.cos)]
    with torch.no_grad():
        positions[0, 0] = 0
        positions[0, 1:, : 4 * quarter] = 0.3 * torch.cat(waves, dim=1)


def start_from_likeness(qkv: Tensor, out: Tensor, heads: int) -> None:
    """Initialise attention so that tokens look at those like them, position included.

    Queries and keys start equal, values times output as −0.4·1 + noise, as they come out of large trainings
    (Trockman and Kolter, Mimetic Initialization of Self-Attention Layers, ICML 2023, arXiv 2305.09828).

    Args:
        qkv: Weight ``(3 · width, width)``, set in place.
        out: Weight ``(width, width)``, set in place.
        heads: How many there are.
    """
    width = out.shape[0]
    per_head = width // heads
    with torch.no_grad():
        for head in range(heads):
            rows = 1.5 * torch.linalg.qr(torch.randn(width, per_head)).Q.T
            qkv[head * per_head : (head + 1) * per_head] = rows
            qkv[width + head * per_head : width + (head + 1) * per_head] = rows
        left, size, right = torch.linalg.svd(0.4 * torch.randn(width, width) / width**0.5 - 0.4 * torch.eye(width))
        qkv[2 * width :] = size.sqrt()[:, None] * right
        out.copy_(left * size.sqrt())
