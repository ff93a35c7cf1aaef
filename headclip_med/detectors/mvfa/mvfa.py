"""MVFA (arXiv 2403.12570): adapters between the blocks of a frozen CLIP, compared with a fixed text ensemble.

After a few blocks two bottleneck adapters, one for the map and one for the image score, read the residual stream out
into the space of the texts and feed a share of it back to all later blocks. As the authors' released code computes it;
:class:`MVFAConfig` and :class:`MVFA` say what is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors.base import Detector, Parts, read_method_config
from headclip_med.detectors.data import Auxiliary, Capabilities, LabelledPixels, NormalPixels, SliceBatch
from headclip_med.detectors.descent import descend
from headclip_med.detectors.headclip.detector import prompted
from headclip_med.detectors.losses import dice_loss, focal_loss
from headclip_med.detectors.mvfa.bank import build_read_out_bank, distances, named_bank, split_bank
from headclip_med.detectors.vectors import load_learned, unit_vectors
from headclip_med.encoders.build import with_gelu
from headclip_med.encoders.image import quarters, resolve_layers, run_block

# Input side in pixels of the published models.
_PUBLISHED_SIZE = 240

_HEADS = ("segmentation", "detection")


@dataclass(frozen=True)
class MVFAConfig:
    """Every choice of the method, with the published defaults unless marked as ours.

    Attributes:
        image_size: side of the square input in pixels. None: the published 240. Rows and columns that fill no patch
            drop out at the right and at the bottom, as of the released code's convolution: 2 pixels with patches of 14.
        feature_layers: tapped blocks, 0-based. None: the ends of the tower's four quarters, 5, 11, 17, 23 of 24.
        bottleneck: length of a read-out. None: that of the tower's features, 768 for ViT-L/14. With texts no other can
            be compared.
        temperature: of every softmax (cosines are multiplied by 100).
        feedback: share of each adapter in what the later blocks see, where the rest is the residual stream.
        gelu: the CLIP computes GELU on both sides, whatever it was trained with. The released code builds OpenAI's CLIP
            without its QuickGELU, which on random weights of ViT-L/14 moves the map by up to 0.002.
        clip_normalisation: feed pixels normalised as CLIP was trained. The released code feeds them in [0, 1] as they
            are, which is what off means.
        lr, betas: of Adam, as published for zero-shot training.
        bank_size: patches that the few-shot memory keeps per tap, a random subset. Ours, while the published one keeps
            all.
        bank_weight: share of the memory in map and score, beside the texts.
        bank_score: ``detection``: mean distance of the detection read-outs beside their text score, published for data
            without masks. ``map_max``: maximum of the joint map, published for data with masks.
        seed: of the initial values and of the memory's subset.
    """

    image_size: int | None = None
    feature_layers: tuple[int, ...] | None = None
    bottleneck: int | None = None
    temperature: float = 0.01
    feedback: float = 0.1
    gelu: bool = True
    clip_normalisation: bool = False
    lr: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    bank_size: int = 10_000
    bank_weight: float = 0.5
    bank_score: Literal["detection", "map_max"] = "detection"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no tower could be run with."""
        for holds, must, given in (
            (self.image_size is None or self.image_size >= 1, "image_size must be positive", self.image_size),
            (self.bottleneck is None or self.bottleneck >= 1, "bottleneck must be at least 1", self.bottleneck),
            (0 < self.temperature < inf, "temperature must be positive", self.temperature),
            (0 <= self.feedback <= 0.5, "feedback must lie between 0 and 0.5", self.feedback),
            (0 < self.lr < inf, "lr must be positive", self.lr),
            (all(0 <= beta < 1 for beta in self.betas), "betas must lie from 0 to below 1", self.betas),
            (self.bank_size >= 1, "bank_size must be at least 1", self.bank_size),
            (0 <= self.bank_weight <= 1, "bank_weight must lie between 0 and 1", self.bank_weight),
        ):
            if not holds:
                raise ModelError(must, given)


class Head(nn.Module):
    """The adapters of one task at all taps: ``down (taps, B, width)``, ``up (taps − 1, width, B)``.

    Of the last tap nothing is fed back, where the released code has a matrix that nothing uses.

    Args:
        taps: Number of taps.
        width: Of the tower's tokens.
        bottleneck: Length B of a read-out.
        draw: Generator of the initial values.
        learns_classes: Also learn ``classes (taps, 2, B)``, ``[normal, abnormal]`` vectors, for a tower without texts.
    """

    def __init__(self, taps: int, width: int, bottleneck: int, draw: torch.Generator, *, learns_classes: bool) -> None:
        super().__init__()
        self.down = nn.Parameter(_uniform((taps, bottleneck, width), draw))
        self.up = nn.Parameter(_uniform((taps - 1, width, bottleneck), draw))
        if learns_classes:
            self.classes = nn.Parameter(unit_vectors((taps, 2, bottleneck), draw))

    def read_out(self, tap: int, tokens: Tensor) -> Tensor:
        """Read tokens out into the bottleneck.

        Args:
            tap: From 0.
            tokens: ``(N, T, width)``.

        Returns:
            ``(N, T, B)``, not normalised.
        """
        return F.leaky_relu(F.linear(tokens, self.down[tap]))

    def feed_back(self, tap: int, read_out: Tensor) -> Tensor:
        """Compute what the residual stream takes up of a read-out.

        Args:
            tap: From 0, not the last one.
            read_out: ``(N, T, B)``.

        Returns:
            ``(N, T, width)``.
        """
        return F.leaky_relu(F.linear(read_out, self.up[tap]))


class MVFA(Detector):
    """Bottleneck adapters at four levels of the tower against organ prompts (arXiv 2403.12570).

    With a memory of normal images after :meth:`adapt`. Ours, and not as published: texts are
    :mod:`headclip_med.detectors.prompts`' ensemble of the domain's anatomy words, one set for a whole training run. The
    taps' maps and scores are averaged, a fixed share of the published sums that ranks alike, so that they stay
    probabilities. Nothing is scaled by the extremes of a test set, which makes the memory's share differ from the
    published one. Means over patches are taken over the patient where ``valid`` says where that is. :meth:`adapt`
    remembers normal images, while the published few-shot mode also trains the adapters on these and on as many abnormal
    images with their masks. A tower without a text side learns ``[normal, abnormal]`` vectors for every tap of both
    heads instead of comparing with texts.

    Attributes:
        layers: tapped blocks, 0-based, ascending.
        bank: ``(heads, taps, M, B)`` normal read-outs, or None.
    """

    name = "mvfa"
    capabilities = Capabilities(
        zero_shot=True, uses_text=False, localises=True, trains=True, needs_state=True, needs_masks=True
    )
    Config = MVFAConfig
    own_activation = True
    config: MVFAConfig

    def __init__(self, parts: Parts) -> None:
        """Build the adapters, and load what was learned.

        Args:
            parts: Tower, configuration and what was learned.

        Raises:
            ModelError: a bottleneck that cannot be compared with texts, or learned tensors that do not fit.
        """
        chosen_config = read_method_config(MVFAConfig, parts.config, parts.name)
        parts = replace(parts, built=with_gelu(parts.built)) if chosen_config.gelu else parts
        super().__init__(parts)
        tower, config = self.tower, self.config
        chosen = quarters(tower.depth) if config.feature_layers is None else config.feature_layers
        self.layers = tuple(sorted(resolve_layers(chosen, tower.depth)))
        has_text = parts.built.clip is not None
        bottleneck = config.bottleneck or tower.output_dim
        if has_text and bottleneck != tower.output_dim:
            raise ModelError(
                f"The bottleneck must be as long as the tower's text features, {tower.output_dim}",
                bottleneck,
                "Leave bottleneck out",
            )
        self.texts = prompted(parts).to(tower.device) if has_text else None
        draw = torch.Generator().manual_seed(config.seed)
        size = (len(self.layers), tower.width, bottleneck)
        self.heads = nn.ModuleDict({name: Head(*size, draw, learns_classes=not has_text) for name in _HEADS})
        learned, bank = split_bank(parts.tensors, _HEADS, len(self.layers), bottleneck, parts.name)
        if learned:
            load_learned(self.heads, learned, parts.name)
        self.heads.to(tower.device)
        self.bank = None if bank is None else bank.to(tower.device)

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.config.image_size or _PUBLISHED_SIZE

    def _check_size(self) -> None:
        if self.image_size < self.tower.patch_size:
            raise ModelError(
                f"The image size must be at least a patch of {self.tower.patch_size} pixels",
                f"{self.image_size} pixels",
            )

    @torch.inference_mode()
    def score(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Average over taps p_abnormal: of every pixel by segmentation, of the patches' mean by detection."""
        read_outs = self._read_outs(pixels)
        segmentation, detection = self._margins(read_outs)
        maps = self._upsample(segmentation, pixels).sigmoid().mean(dim=0)
        scores = self._mean_probabilities(detection, pixels, valid).mean(dim=0)
        if self.bank is None:
            return SliceBatch(maps, scores)
        far = torch.stack([distances(each, bank) for each, bank in zip(read_outs, self.bank, strict=True)])
        by_map, by_detection = (self._upsample(each, pixels).mean(dim=0).clamp(0, 1) for each in far)
        inside = torch.ones_like(maps) if valid is None else valid.to(maps)
        maps = maps.lerp(by_map, self.config.bank_weight)
        if self.config.bank_score == "map_max":
            return SliceBatch(maps, (maps * inside).flatten(1).amax(dim=1))
        return SliceBatch(maps, scores.lerp(_mean(by_detection, inside), self.config.bank_weight))

    def learned(self) -> nn.Module:
        """Give both heads."""
        return self.heads

    def loss(self, batch: LabelledPixels) -> Tensor:
        """Sum over taps focal + dice of abnormal (segmentation) + cross-entropy of the mean probability (detection).

        That mean, which lies in [0, 1], goes into the cross-entropy as a logit, as in the released code: even where it
        is right, 0.31 of an abnormal image's loss and 0.69 of a normal one's are left.
        """
        segmentation, detection = self._margins(self._read_outs(batch.pixels))
        truth = (batch.mask > 0.5).to(segmentation)
        maps = self._upsample(segmentation, batch.pixels).sigmoid()
        maps = torch.stack([batch.where_known(each) for each in maps])
        of_maps = torch.stack([focal_loss(each, truth) + dice_loss(each, truth) for each in maps]).sum()
        means = self._mean_probabilities(detection, batch.pixels, batch.valid)
        labels = batch.labels.to(means).expand_as(means)
        return of_maps + len(means) * F.binary_cross_entropy_with_logits(means, labels)

    def fit(self, auxiliary: Auxiliary) -> None:
        """Run Adam through the frozen blocks, which the adapters feed."""
        descend(self.learned(), self.loss, auxiliary, lr=self.config.lr, betas=self.config.betas)

    @torch.no_grad()
    def adapt(self, normals: NormalPixels) -> MVFA:
        """Give the detector with a memory of normal images, of all their patches: the background must look normal too.

        Patches only. In the released code the memory holds class tokens too, one for every image.

        Args:
            normals: Normal slices.

        Returns:
            The detector with its memory.

        Raises:
            ModelError: no normal image.
        """
        if not len(normals):
            raise ModelError("A memory must be given at least one normal slice", "none")
        bank = build_read_out_bank(self._read_outs, normals.pixels, self.config.bank_size, self.config.seed)
        return type(self)(replace(self.parts, tensors={**self.state(), **named_bank(_HEADS, bank)}))

    def state(self) -> dict[str, Tensor]:
        """Give the heads, and the memory where there is one."""
        return {**super().state(), **({} if self.bank is None else named_bank(_HEADS, self.bank))}

    def describe(self) -> dict[str, Any]:
        """Describe the method, its configuration and how many patches are remembered per tap."""
        return {**super().describe(), "memory": 0 if self.bank is None else int(self.bank.shape[2])}

    def _read_outs(self, pixels: Tensor) -> Tensor:
        """L2-normalised read-outs of the patches, ``(heads, taps, N, P, B)``."""
        keep, found = 1 - len(_HEADS) * self.config.feedback, []
        tokens = self.tower.embed(self._as_trained(self._whole_patches(pixels).to(self.tower.device)))
        for layer, block in enumerate(self.tower.blocks[: self.layers[-1] + 1]):
            tokens = run_block(block, tokens)
            if layer not in self.layers:
                continue
            tap = self.layers.index(layer)
            both = [head.read_out(tap, tokens) for head in self.heads.values()]
            found.append(torch.stack([F.normalize(each[:, self.tower.prefix :], dim=-1) for each in both]))
            if layer != self.layers[-1]:
                fed = [head.feed_back(tap, each) for head, each in zip(self.heads.values(), both, strict=True)]
                tokens = keep * tokens + self.config.feedback * (fed[0] + fed[1])
        return torch.stack(found, dim=1)

    def _whole_patches(self, pixels: Tensor) -> Tensor:
        """``(…, H, W)`` without the rows and columns that fill no patch."""
        patch = self.tower.patch_size
        rows, columns = (int(side) // patch * patch for side in pixels.shape[-2:])
        return pixels[..., :rows, :columns]

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        return self.tower.grid(self._whole_patches(pixels))

    def _as_trained(self, pixels: Tensor) -> Tensor:
        """Normalised pixels as the blocks are fed them: back in [0, 1] unless CLIP's normalisation is asked for."""
        if self.config.clip_normalisation:
            return pixels
        mean, std = (torch.tensor(each).view(1, 3, 1, 1).to(pixels) for each in (self.tower.mean, self.tower.std))
        return pixels * std + mean

    def _margins(self, read_outs: Tensor) -> Tensor:
        """(cos abnormal − cos normal) / temperature ``(heads, taps, N, P)``: the log-odds of the softmax of both."""
        if self.texts is not None:
            differences = (self.texts[1] - self.texts[0]).expand(*read_outs.shape[:2], -1)
        else:
            classes = torch.stack([F.normalize(head.classes, dim=-1) for head in self.heads.values()])
            differences = classes[:, :, 1] - classes[:, :, 0]
        return torch.einsum("htnpb,htb->htnp", read_outs, differences) / self.config.temperature

    def _upsample(self, patches: Tensor, pixels: Tensor) -> Tensor:
        """``(taps, N, P)`` → ``(taps, N, S, S)``, bilinear with the corners' centres on the corners, not smoothed.

        Log-odds are up-sampled, and the softmax taken after.
        """
        grid, size = self._grid(pixels), (int(pixels.shape[-2]), int(pixels.shape[-1]))
        return F.interpolate(patches.unflatten(-1, grid), size=size, mode="bilinear", align_corners=True)

    def _mean_probabilities(self, margins: Tensor, pixels: Tensor, valid: Tensor | None) -> Tensor:
        """p_abnormal ``(taps, N)``: the mean of the patches, each as much as it is patient; 0 where none is."""
        probabilities = margins.sigmoid()
        if valid is None:
            return probabilities.mean(dim=-1)
        seen = self._whole_patches(valid)[:, None].to(probabilities)
        shares = F.adaptive_avg_pool2d(seen, self._grid(pixels)).flatten(1)
        return _mean(probabilities, shares.expand_as(probabilities), dims=1)


def _mean(values: Tensor, weights: Tensor, dims: int = 2) -> Tensor:
    """Weighted mean over the last ``dims`` dimensions; 0 where all weights are 0."""
    axes = tuple(range(-dims, 0))
    return (values * weights).sum(dim=axes) / weights.sum(dim=axes).clamp_min(1e-6)


def _uniform(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Uniform within ±1/√fan-in, as PyTorch's linear layers begin."""
    return (2 * torch.rand(shape, generator=draw) - 1) / shape[-1] ** 0.5
