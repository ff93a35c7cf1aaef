"""HeadCLIP: a frozen tower, weighted attention heads, class features and a joint anomaly score.

An independent implementation of the ideas in HeadCLIP's abstract (arXiv 2505.22259) on the AnomalyCLIP recipe
(arXiv 2310.18961); what was inferred is told by :class:`HeadCLIPConfig`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from headclip_med.base.errors import ModelError
from headclip_med.detectors import scoring
from headclip_med.detectors.base import Detector, Parts, read_method_config
from headclip_med.detectors.data import Capabilities, ClassFeatures, SliceBatch
from headclip_med.detectors.headclip.config import SIGMA_REFERENCE, HeadCLIPConfig, at_speed, input_size
from headclip_med.detectors.headclip.parts import packed_classes, packed_head_weights
from headclip_med.detectors.prompts import ensemble
from headclip_med.encoders.head_weights import check_head_weights, fold
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import (
    EncodeOptions,
    ImageFeatures,
    encode_images,
    first_local_block,
    resolve_layers,
)
from headclip_med.encoders.text import class_features
from headclip_med.encoders.tower import ImageTower


class HeadCLIP(Detector):
    """Head weights, class features and a joint score on a frozen tower (arXiv 2505.22259).

    Attributes:
        layers: tapped blocks, 0-based.
        classes, head_weights: as given, on the tower's device.
        folded: output projections with static local head weights in them, by layer, or None.

    Args:
        tower: Frozen image tower.
        classes: ``[normal, abnormal]`` features of the taps and of the image, on any device, moved to the tower's.
        config: Choices of the method.
        head_weights: Static weights, a function of the class token, or None.
        name: Under which results are recorded.

    Raises:
        ModelError: class features or head weights that do not fit the tower or are not finite, no class features for a
            tap, head weights that cannot act, layers outside the tower, or an image size that its patches do not fill.
    """

    name = "headclip"
    capabilities = Capabilities(zero_shot=True, uses_text=False, localises=True, trains=True, needs_masks=True)
    Config = HeadCLIPConfig

    def __init__(
        self,
        tower: ImageTower,
        classes: ClassFeatures,
        config: HeadCLIPConfig | None = None,
        head_weights: HeadWeights | Callable[[Tensor], HeadWeights] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self.name, self.tower = name or self.name, tower
        self.config: HeadCLIPConfig = config or HeadCLIPConfig()
        self.layers = resolve_layers(self.config.feature_layers, tower.depth)
        self.classes = _checked_classes(classes, self.layers, tower)
        _check_image_size(self.image_size, tower)
        _check_local_path(self.config, self.layers, tower, head_weights)
        self.head_weights = head_weights.to(tower.device) if isinstance(head_weights, nn.Module) else head_weights
        self.folded: dict[int, Tensor] | None = None
        if isinstance(head_weights, HeadWeights):
            self.head_weights = check_head_weights(head_weights, tower).to(tower.device)
            self.folded = fold(self.head_weights, tower) if self.head_weights.foldable else None

    @classmethod
    def from_parts(cls, parts: Parts) -> HeadCLIP:
        """Make the detector of a pack, or of a tower alone with the class features of the domain's prompts."""
        tower, config = parts.built.tower, read_method_config(HeadCLIPConfig, parts.config, parts.name)
        name = parts.name.removeprefix("pack ")
        classes = packed_classes(parts.tensors, config, tower, name)
        if classes is None:
            both = prompted(parts)
            layers = resolve_layers(config.feature_layers, tower.depth)
            classes = ClassFeatures(patch=dict.fromkeys(layers, both), image=both, centre={})
        return cls(tower, classes, config, packed_head_weights(parts.tensors, config, tower, name))

    def at_speed(self, scale: float, early_exit: bool) -> HeadCLIP:
        """Change the speed, and keep the class features of the taps that stay."""
        config = at_speed(self.config, self.tower, scale, early_exit)
        if config is self.config:
            return self
        return HeadCLIP(self.tower, self.classes, config, self.head_weights, name=self.name)

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels, a multiple of the patch size."""
        return input_size(self.config, self.tower)

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """Encode pixels as this method taps them.

        Args:
            pixels: ``(N, 3, S, S)``, normalised.

        Returns:
            Patch features of every tap, and the global feature where it is needed.
        """
        config = self.config
        options = EncodeOptions(
            layers=self.layers,
            local_attention=config.local_attention,
            local_start=config.local_start,
            want_global=self.wants_image_score,
            global_norm=config.global_norm,
            position_mode=config.position_mode,
            kernel=config.kernel,
        )
        return encode_images(
            self.tower,
            pixels,
            options,
            head_weights=self.head_weights,
            folded=self.folded,
            centre=self.classes.centre,
        )

    @torch.inference_mode()
    def score(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Score pixels ``(N, 3, S, S)``: anomaly maps and joint scores."""
        return self.compute(pixels, valid)

    def patch_maps(self, pixels: Tensor) -> Tensor:
        """Compute the probability of abnormal on the patch grid, differentiable in the learned parts.

        Args:
            pixels: ``(N, 3, S, S)``, normalised.

        Returns:
            ``(N, Hp, Wp)`` in [0, 1].
        """
        return self._patch_maps(self.encode(pixels))

    def compute(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Score as :meth:`score` does, for autograd and for exporters: the same numbers, outside inference mode.

        Args:
            pixels: ``(N, 3, S, S)``, normalised.
            valid: ``(N, S, S)``, the patient, to which the scores are limited. None: everywhere.

        Returns:
            Maps ``(N, S, S)`` and scores ``(N,)``, in [0, 1].
        """
        features = self.encode(pixels)
        patches = self._patch_maps(features)
        maps = self._fused(self._upsample(patches, smooth=True), pixels)
        if not self.config.jas and self.classes.image is not None:
            image_score = self._image_score(features, patches)
            assert image_score is not None
            return SliceBatch(maps, image_score)
        pooled = (
            maps
            if self.config.jas_order == "after_smooth"
            else self._fused(self._upsample(patches, smooth=False), pixels)
        )
        inside = pooled if valid is None else pooled * valid.to(pooled)
        map_score = scoring.pool_map(inside, self.config.jas_pool, self.config.jas_top_fraction)
        score = scoring.joint_score(self._image_score(features, patches), map_score, self.config.jas_weight)
        return SliceBatch(maps, score)

    def describe(self) -> dict[str, Any]:
        """Describe the method, its configuration and whether head weights are in use."""
        return {
            "method": self.name,
            "head_weights": self.head_weights is not None,
            "image_size": self.image_size,
            "config": asdict(self.config),
        }

    def _fused(self, maps: Tensor, pixels: Tensor) -> Tensor:
        fusion = self.config.intensity_fusion
        if fusion is None:
            return maps
        return scoring.fuse_intensity(maps, scoring.grey_levels(pixels, self.tower.mean, self.tower.std), fusion)

    @property
    def wants_image_score(self) -> bool:
        """Whether the global feature has a part in the score, so that every block is run."""
        return self.classes.image is not None and not (self.config.jas and self.config.jas_weight == 1)

    def _patch_maps(self, features: ImageFeatures) -> Tensor:
        return scoring.patch_map(
            features.patch_features,
            self.classes.patch,
            features.grid,
            logit_scale=1 / self.config.temperature,
        )

    def _upsample(self, patches: Tensor, *, smooth: bool) -> Tensor:
        """Patch maps → maps of the input's own size, patch by patch."""
        height, width = (int(n) * self.tower.patch_size for n in patches.shape[-2:])
        sigma = self.config.map_sigma * width / SIGMA_REFERENCE if smooth else 0.0
        return scoring.upsample(patches, (height, width), sigma=sigma, mode=self.config.map_upsampling).clamp(0, 1)

    def _image_score(self, features: ImageFeatures, patches: Tensor) -> Tensor | None:
        """p_abnormal of the global feature ``(N,)``, or None where only the map decides."""
        feature = features.global_feature
        if feature is None or self.classes.image is None:
            return None
        if self.config.jas_score_pool:
            last = features.patch_features[max(self.layers)]
            feature = scoring.score_pooled_feature(feature, last, patches.flatten(1))
        return scoring.class_probabilities(feature, self.classes.image, 1 / self.config.temperature)[:, 1]


def prompted(parts: Parts) -> Tensor:
    """Encode the domain's prompt ensemble through the tower's text side.

    Args:
        parts: Tower with its text side, and the words of the domain.

    Returns:
        ``(2, D)`` ``[normal, abnormal]``, L2-normalised.

    Raises:
        ModelError: the tower has none.
    """
    if parts.built.clip is None or parts.built.tokenizer is None:
        raise ModelError(
            "A tower without a text side must have a pack with class features",
            parts.built.architecture,
            "Choose a CLIP tower, or a pack made for this tower",
        )
    return class_features(parts.built.clip, parts.built.tokenizer, *ensemble(parts.anatomy, parts.abnormal))


def _check_image_size(size: int, tower: ImageTower) -> None:
    if size % tower.patch_size:
        raise ModelError(
            f"The image size must be a multiple of the patch size {tower.patch_size}",
            f"{size} pixels",
            f"Use {tower.nearest_size(size)}",
        )


def _check_local_path(
    config: HeadCLIPConfig,
    layers: tuple[int, ...],
    tower: ImageTower,
    weights: HeadWeights | Callable[[Tensor], HeadWeights] | None,
) -> None:
    """Refuse a local path outside the tower, and head weights of a local path that no tap sees."""
    without = config.local_attention == "none"
    start = None if without and config.local_start is None else first_local_block(tower.depth, config.local_start)
    needs_local_path = weights is not None and (not isinstance(weights, HeadWeights) or weights.local is not None)
    if needs_local_path and (without or start is None or max(layers) < start):
        raise ModelError(
            "Head weights of the local branch, or predicted ones, must have a local path that a tapped layer sees",
            "local attention 'none'" if without else f"layers {list(layers)} tapped, local path from block {start}",
            "Set local_attention, local_start or feature_layers, or leave the head weights out",
        )


def _checked_classes(classes: ClassFeatures, layers: tuple[int, ...], tower: ImageTower) -> ClassFeatures:
    missing = [layer for layer in layers if layer not in classes.patch]
    if missing:
        raise ModelError(f"Class features must be given for every tapped layer {list(layers)}", f"none for {missing}")
    vectors = [*classes.patch.values(), *([] if classes.image is None else [classes.image])]
    shapes = {tuple(map(int, v.shape)) for v in vectors} | {(2, int(c.shape[-1])) for c in classes.centre.values()}
    if shapes != {(2, tower.output_dim)}:
        raise ModelError(
            f"Class features must have the shape (2, {tower.output_dim}) of the tower's features",
            sorted(shapes),
            "Use class features or a pack that was made for this tower",
        )
    if not all(v.isfinite().all() for v in (*vectors, *classes.centre.values())):
        raise ModelError("Class features must be finite numbers", "NaN or infinity", "Use another pack")
    device = tower.device
    return ClassFeatures(
        patch={layer: classes.patch[layer].to(device).float() for layer in layers},
        image=None if classes.image is None else classes.image.to(device).float(),
        centre={layer: centre.to(device).float() for layer, centre in classes.centre.items()},
    )
