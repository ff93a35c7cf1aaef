"""Crane (arXiv 2504.11055): AnomalyCLIP's prompts, told of the image as they learn, and a sum of three attentions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors import scoring
from headclip_med.detectors.base import Detector, Parts
from headclip_med.detectors.data import Auxiliary, Capabilities, LabelledPixels, SliceBatch
from headclip_med.detectors.descent import descend
from headclip_med.detectors.headclip.config import SIGMA_REFERENCE, HeadCLIPConfig, input_size
from headclip_med.detectors.losses import dice_loss, focal_loss, image_loss
from headclip_med.detectors.prompted import Prompts, current, kept, one_pair, prompts_of, trainable
from headclip_med.encoders.attention import LocalAttention
from headclip_med.encoders.image import EncodeOptions, encode_images, first_local_block, quarters, resolve_layers

_BETAS = (0.6, 0.999)  # of Adam, as released


@dataclass(frozen=True)
class CraneConfig:
    """Every choice of the method, with defaults as published, or as the authors' scripts for medical images have them.

    Attributes:
        image_size: side of the square input in pixels. None: 518 for CLIP at 336, else the size of the tower.
        feature_layers: tapped blocks, 0-based. None: the ends of the four quarters (5, 11, 17, 23 of 24). The released
            code adds to its taps in place, so that all four become the last one: ``(-1,)`` computes what it computes.
        local_attention, local_start: E-attention, in the last 19 blocks.
        temperature: of maps and scores.
        train_temperature: of the image's loss.
        map_fusion: the mean of the taps' probabilities, or (the scripts for industrial images) the probability of their
            mean logits.
        map_upsampling, train_upsampling: patches → pixels when scoring and when learning.
        map_sigma: σ in pixels at 518 px, scaled with the input.
        score_pooling: the image's feature is drawn to its abnormal patches.
        context_probability: share of the loss under texts that hold the image's feature. The released code draws, and
            always at 1. Here it is the expectation, which an interrupted run can repeat.
        context_at_test: such texts also when scoring [released scripts: False].
        map_weight, image_weight: of the two losses.
        recipe: ``released``: every tap is the last block, as the released code's aliasing makes it, so that its map's
            loss counts four times, 8 · (focal + dice), and ``feature_layers`` is left out.
        position_mode: interpolation of position embeddings.
        round_deep: deep text tokens in 16 bits.
        lr: of Adam with β = (0.6, 0.999).
        seed: of fresh prompts [published: 111].
    """

    image_size: int | None = None
    feature_layers: tuple[int, ...] | None = None
    local_attention: LocalAttention = "qq+kk+vv"
    local_start: int | None = None
    temperature: float = 0.07
    train_temperature: float = 0.01
    map_fusion: Literal["probabilities", "logits"] = "probabilities"
    map_upsampling: scoring.Upsampling = "bilinear"
    train_upsampling: scoring.Upsampling = "nearest"
    map_sigma: float = 4.0
    score_pooling: bool = True
    context_probability: float = 1.0
    context_at_test: bool = False
    map_weight: float = 2.0
    image_weight: float = 0.2
    recipe: Literal["published", "released"] = "published"
    position_mode: Literal["bicubic", "bilinear"] = "bilinear"
    round_deep: bool = True
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no tower could be run with."""
        for name in ("temperature", "train_temperature", "lr"):
            _require(0 < getattr(self, name) < inf, f"{name} must be positive", getattr(self, name))
        for name in ("map_sigma", "map_weight", "image_weight"):
            _require(0 <= getattr(self, name) < inf, f"{name} must be 0 or more", getattr(self, name))
        _require(0 <= self.context_probability <= 1, "context_probability must lie in [0, 1]", self.context_probability)
        given = self.feature_layers
        _require(
            self.recipe == "published" or given in (None, (-1,)), "feature_layers must be left out as released", given
        )
        _require(self.image_size is None or self.image_size >= 1, "image_size must be positive", self.image_size)


@dataclass(frozen=True)
class CraneViews:
    """What of a batch is compared with the class features.

    Attributes:
        patches: ``(V, N, P, D)`` L2-normalised, one view a tap (Crane+: two).
        image: ``(N, D)`` L2-normalised.
        grid: ``(Hp, Wp)`` with P = Hp·Wp.
    """

    patches: Tensor
    image: Tensor
    grid: tuple[int, int]


class Crane(Detector):
    """Prompts guided by the image, attention of all three kinds, score-based pooling (arXiv 2504.11055).

    Of a tower alone its prompts are fresh: something to train, not to look at scans with.

    Attributes:
        layers: tapped blocks, 0-based. prompts: None where a pack holds class features alone.
        classes: ``(2, D)``, what the static prompts end as.
        released_taps: of the released code, all of one tensor.
    """

    name = "crane"
    capabilities = Capabilities(
        zero_shot=True, uses_text=True, localises=True, trains=True, needs_state=True, needs_masks=True
    )
    Config = CraneConfig
    released_taps: ClassVar[int] = 4
    config: CraneConfig

    def __init__(self, parts: Parts) -> None:
        """Find the taps, the prompts and their class features.

        Args:
            parts: Tower with its text side, configuration and what was learned.
        """
        super().__init__(parts)
        config, depth = self.config, self.tower.depth
        self.layers = resolve_layers(_taps(config, depth), depth)
        if config.local_attention != "none":
            first_local_block(depth, config.local_start)
        self.prompts = prompts_of(parts, self.name, round_deep=config.round_deep, seed=config.seed)
        self.classes = one_pair(parts, self.prompts)
        self._learning = False
        if config.context_at_test:
            trainable(self.prompts, f"{parts.name} with context_at_test")

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels, a multiple of the patch size."""
        return input_size(HeadCLIPConfig(image_size=self.config.image_size), self.tower)

    def encode(self, pixels: Tensor) -> CraneViews:
        """Encode the patches of every tap and the image.

        Args:
            pixels: ``(N, 3, S, S)``, normalised.

        Returns:
            Their features.
        """
        features = encode_images(self.tower, pixels, self._options())
        assert features.global_feature is not None
        return CraneViews(torch.stack(list(features.patch_features.values())), features.global_feature, features.grid)

    @torch.inference_mode()
    def score(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Score pixels, where ``valid`` limits the patches that the image's feature is drawn to."""
        views = self.encode(pixels)
        classes = self._classes_for(views.image)
        logits = compare(views.patches, classes, self.config.temperature)
        feature = self._image_feature(views, logits, valid)
        image_logits = compare(feature[:, None], classes, self.config.temperature)[:, 0]
        return SliceBatch(self._maps(logits, views.grid), image_logits.softmax(dim=-1)[:, 1])

    def learned(self) -> nn.Module:
        """Give the prompts, which scores follow from here on."""
        return self._learnable().learner

    def loss(self, batch: LabelledPixels) -> Tensor:
        """Sum 2 Σ over views of (focal + dice) + 0.2 · CE of the image, over the whole square, for the prompts alone.

        Of a share ``context_probability`` under prompts that are told of the image, else under static ones.
        """
        prompts, share = self._learnable(), self.config.context_probability
        with torch.no_grad():
            views = self.encode(batch.pixels)
        guided = self._loss_of(views, prompts.features_of(views.image), batch) if share > 0 else 0.0
        static = self._loss_of(views, prompts.features(), batch) if share < 1 else 0.0
        return torch.as_tensor(share * guided + (1 - share) * static)

    def fit(self, auxiliary: Auxiliary) -> None:
        """Run Adam with β = (0.6, 0.999) on :meth:`loss`, as of :class:`Detector`."""
        descend(self.learned(), self.loss, auxiliary, lr=self.config.lr, betas=_BETAS)

    def state(self) -> dict[str, Tensor]:
        """Give the class features, which are enough to score, and the prompts that they came from, if any."""
        both = self._static_classes()
        state = {"patch_classes": kept(both), "image_classes": kept(both)}
        return state if self.prompts is None else state | self.prompts.tensors()

    def at_speed(self, scale: float, early_exit: bool) -> Detector:
        """Make the same detector, as it has learned by now, at another input size."""
        if scale == 1:
            return self
        size = self.tower.nearest_size(round(scale * self.image_size))
        return self._again(replace(self.parts, tensors=self.state(), config={**self.parts.config, "image_size": size}))

    def _again(self, parts: Parts) -> Crane:
        return type(self)(parts)

    def _options(self) -> EncodeOptions:
        config = self.config
        return EncodeOptions(
            self.layers, config.local_attention, config.local_start, position_mode=config.position_mode
        )

    def _learnable(self) -> Prompts:
        prompts = trainable(self.prompts, f"A detector of {self.name} that is trained")
        self._learning = True
        return prompts

    def _static_classes(self) -> Tensor:
        """Those of the prompts once these may have changed, else as they came."""
        return current(self.prompts) if self._learning and self.prompts is not None else self.classes

    def _classes_for(self, image: Tensor) -> Tensor:
        if self.config.context_at_test and self.prompts is not None:
            return self.prompts.features_of(image)
        return self._static_classes()

    def _loss_of(self, views: CraneViews, classes: Tensor, batch: LabelledPixels) -> Tensor:
        config, truth = self.config, (batch.mask > 0.5).to(classes)
        logits = compare(views.patches, classes, config.temperature)
        feature = self._image_feature(views, logits, None)
        image_logits = compare(feature[:, None], classes, config.train_temperature)[:, 0]
        total = config.image_weight * image_loss(image_logits, batch.labels.to(classes.device))
        map_weight = config.map_weight * (self.released_taps if config.recipe == "released" else 1)
        for view in logits:
            grid = view.softmax(dim=-1)[..., 1].unflatten(-1, views.grid)
            maps = scoring.upsample(grid, truth.shape[-2:], sigma=0, mode=config.train_upsampling)
            maps = batch.where_known(maps)
            total = total + map_weight * (focal_loss(maps, truth) + dice_loss(maps, truth))
        return total

    def _image_feature(self, views: CraneViews, logits: Tensor, valid: Tensor | None) -> Tensor:
        """The image's feature ``(N, D)``, half of it the patches' mean by their probability of abnormal."""
        if not self.config.score_pooling:
            return views.image
        abnormal = logits.mean(dim=0).softmax(dim=-1)[..., 1]
        if valid is not None:
            share = F.adaptive_avg_pool2d(valid[:, None].to(abnormal), views.grid)
            abnormal = abnormal * share.flatten(1)
        return scoring.score_pooled_feature(views.image, views.patches.mean(dim=0), abnormal)

    def _maps(self, logits: Tensor, grid: tuple[int, int]) -> Tensor:
        """Maps at the input's size ``(N, S, S)`` of logits ``(V, N, P, 2)``."""
        config, patch = self.config, self.tower.patch_size
        size = (grid[0] * patch, grid[1] * patch)
        sigma = config.map_sigma * size[1] / SIGMA_REFERENCE
        if config.map_fusion == "probabilities":
            patches = logits.softmax(dim=-1)[..., 1].mean(dim=0).unflatten(-1, grid)
            return scoring.upsample(patches, size, sigma=sigma, mode=config.map_upsampling).clamp(0, 1)
        margin = (logits[..., 1] - logits[..., 0]).mean(dim=0).unflatten(-1, grid)
        rough = scoring.upsample(margin, size, sigma=0, mode=config.map_upsampling).sigmoid()
        return scoring.upsample(rough, size, sigma=sigma).clamp(0, 1)


def _taps(config: CraneConfig, depth: int) -> tuple[int, ...]:
    if config.recipe == "released":
        return (-1,)
    return quarters(depth) if config.feature_layers is None else config.feature_layers


def compare(features: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Compute logits: cosine / temperature.

    Args:
        features: ``(…, N, P, D)`` L2-normalised.
        classes: ``(2, D)``, or each image's own ``(N, 2, D)``, L2-normalised.
        temperature: Above 0.

    Returns:
        ``(…, N, P, 2)``.
    """
    return features @ classes.mT / temperature


def _require(holds: bool, must: str, given: object) -> None:
    if not holds:
        raise ModelError(must, given)
