"""CLIP as it comes: an image against two texts, and maps from V-V attention. Nothing is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from headclip_med.base.errors import ModelError
from headclip_med.detectors import scoring
from headclip_med.detectors.base import Detector, Parts
from headclip_med.detectors.data import Capabilities, SliceBatch
from headclip_med.detectors.headclip.config import SIGMA_REFERENCE, HeadCLIPConfig, input_size
from headclip_med.detectors.headclip.detector import prompted
from headclip_med.encoders.image import EncodeOptions, encode_images, first_local_block, resolve_layers

Size = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Sigma = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class ClipConfig:
    """Choices of CLIP's own score.

    Attributes:
        image_size: side of the square input in pixels. None: that of the tower.
        temperature: of the softmax, where 0.01 is where CLIP's learned scale of 100 ended (arXiv 2103.00020).
    """

    image_size: Size | None = None
    temperature: Temperature = 0.01


class Clip(Detector):
    """CLIP with the prompt ensemble (arXiv 2103.00020), training-free, a score and no map.

    A softmax over the normal and the abnormal ensemble of the global feature. It does not localise: its map is the
    slice's score everywhere.
    """

    name = "clip"
    capabilities = Capabilities(zero_shot=True, uses_text=True, localises=False)
    Config = ClipConfig
    config: ClipConfig

    def __init__(self, parts: Parts) -> None:
        """Encode the domain's prompts.

        Args:
            parts: Tower and configuration.
        """
        super().__init__(parts)
        self.classes = prompted(parts).to(self.tower.device)

    @torch.inference_mode()
    def score(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Score the whole slice, for which ``valid`` changes nothing."""
        features = encode_images(self.tower, pixels, EncodeOptions((), local_attention="none"))
        scores = _abnormal(features.global_feature, self.classes, self.config.temperature)
        return SliceBatch(scores[:, None, None].repeat(1, *pixels.shape[-2:]), scores)


@dataclass(frozen=True)
class ClipVVConfig:
    """Choices of the maps without training, whose parts are published and whose combination is ours.

    Attributes:
        image_size: side of the square input in pixels. None: 518 for CLIP at 336, else that of the tower.
        feature_layers: tapped blocks, 0-based, negative from the end. The maps of several are averaged.
        local_start: first block of the V-V path, 0-based. None: the last 19 blocks (AnomalyCLIP, arXiv 2310.18961).
        temperature: of the map's softmax.
        image_temperature: of the image score's, CLIP's own as in ``clip``.
        map_sigma: σ in pixels at 518 px, scaled with the input, as of the family.
        map_weight: share of the map's maximum in the score, where 0 leaves the score of ``clip``.
    """

    image_size: Size | None = None
    feature_layers: tuple[int, ...] = (-1,)
    local_start: int | None = None
    temperature: Temperature = 0.07
    image_temperature: Temperature = 0.01
    map_sigma: Sigma = 4.0
    map_weight: Share = 0.5


class ClipVV(Detector):
    """V-V patch features (CLIP Surgery, arXiv 2304.05653) against the prompt ensemble, training-free.

    The image score is :class:`Clip`'s and the map's maximum.

    Attributes:
        layers: tapped blocks, 0-based. classes: ``(2, D)`` of the prompt ensemble.
    """

    name = "clip-vv"
    capabilities = Capabilities(zero_shot=True, uses_text=True, localises=True)
    Config = ClipVVConfig
    config: ClipVVConfig

    def __init__(self, parts: Parts) -> None:
        """Encode the domain's prompts, and check the taps.

        Args:
            parts: Tower and configuration.

        Raises:
            ModelError: a tap before the V-V path.
        """
        super().__init__(parts)
        self.layers = resolve_layers(self.config.feature_layers, self.tower.depth)
        start = first_local_block(self.tower.depth, self.config.local_start)
        if min(self.layers) < start:
            raise ModelError(
                "Tapped layers must lie in the V-V path",
                f"layers {list(self.layers)}, V-V path from block {start}",
                "Use later feature_layers or an earlier local_start",
            )
        self.classes = prompted(parts).to(self.tower.device)

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return input_size(HeadCLIPConfig(image_size=self.config.image_size), self.tower)

    @torch.inference_mode()
    def score(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Score the map, and its maximum together with the image's probability."""
        config = self.config
        features = encode_images(self.tower, pixels, EncodeOptions(self.layers, local_start=config.local_start))
        patches = scoring.patch_map(
            features.patch_features,
            dict.fromkeys(self.layers, self.classes),
            features.grid,
            logit_scale=1 / config.temperature,
        )
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        maps = scoring.upsample(patches, size, sigma=config.map_sigma * size[1] / SIGMA_REFERENCE).clamp(0, 1)
        inside = maps if valid is None else maps * valid.to(maps)
        image_score = _abnormal(features.global_feature, self.classes, config.image_temperature)
        return SliceBatch(maps, scoring.joint_score(image_score, scoring.pool_map(inside), config.map_weight))


def _abnormal(features: Tensor | None, classes: Tensor, temperature: float) -> Tensor:
    """Probability of abnormal of global features ``(N, D)``: ``(N,)``."""
    assert features is not None
    return scoring.class_probabilities(features, classes, 1 / temperature)[:, 1]
