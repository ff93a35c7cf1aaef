"""Two learned vectors a tap and no text: a detector for any frozen tower, CLIP's image side or DINOv2.

UniADet (arXiv 2601.05552) and the study in VisualAD (CVPR 2026) found that the text side of CLIP detectors only yields
the two vectors that features are compared with, and that learning these directly is as good. This is that idea in its
smallest form on the recipe of AnomalyCLIP (arXiv 2310.18961), not either of those systems: :class:`VectorsConfig` says
what is whose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors import scoring
from headclip_med.detectors.base import Detector, Parts
from headclip_med.detectors.data import Auxiliary, Capabilities, LabelledPixels, SliceBatch
from headclip_med.detectors.descent import descend
from headclip_med.detectors.headclip.config import SIGMA_REFERENCE, HeadCLIPConfig, input_size
from headclip_med.detectors.losses import VALID_SHARE, image_loss, map_loss
from headclip_med.encoders.attention import LocalAttention
from headclip_med.encoders.image import EncodeOptions, ImageFeatures, encode_images, resolve_layers


@dataclass(frozen=True)
class VectorsConfig:
    """Every choice of the method.

    Attributes:
        image_size: side of the square input in pixels. None: 518 for CLIP at 336 as in the AnomalyCLIP family, else the
            size the tower was trained at.
        feature_layers: tapped blocks, 0-based. None: half way up and the last (ours): half way up patches still say
            what is there, at the top what it means. Each tap has vectors of its own, as in UniADet, which compares the
            class token at every tap too. Here that is done at the end of the tower alone.
        local_attention: ``none`` (ours): the tower's own patch tokens, which any tower has and vectors can fit. CLIP's
            texts need AnomalyCLIP's local path, ``vv``, because its patch tokens were never compared with anything.
        temperature: of every softmax before training. It is learned (ours).
        map_weight: of the maps' losses beside the image's, AnomalyCLIP's 4.
        map_sigma: σ in pixels at 518 px, AnomalyCLIP's 4, scaled with the input.
        jas_weight: share of the map's maximum in the score, as in :class:`HeadCLIPConfig`.
        lr, betas: of Adam, AnomalyCLIP's.
        seed: of the initial vectors.
    """

    image_size: int | None = None
    feature_layers: tuple[int, ...] | None = None
    local_attention: LocalAttention = "none"
    temperature: float = 0.07
    map_weight: float = 4.0
    map_sigma: float = 4.0
    jas_weight: float = 0.5
    lr: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no tower could be run with."""
        for holds, must, given in (
            (self.image_size is None or self.image_size >= 1, "image_size must be positive", self.image_size),
            (0 < self.temperature < inf, "temperature must be positive", self.temperature),
            (0 <= self.map_weight < inf, "map_weight must be 0 or more", self.map_weight),
            (0 <= self.map_sigma < inf, "map_sigma must be 0 or more", self.map_sigma),
            (0 <= self.jas_weight <= 1, "jas_weight must lie between 0 and 1", self.jas_weight),
            (0 < self.lr < inf, "lr must be positive", self.lr),
            (all(0 <= beta < 1 for beta in self.betas), "betas must lie from 0 to below 1", self.betas),
        ):
            if not holds:
                raise ModelError(must, given)


class ClassVectors(nn.Module):
    """Learned ``[normal, abnormal]`` for every tap and, where asked for, the global feature, and one logit scale.

    Args:
        patch: initial vectors ``(taps, 2, D)``.
        image: initial vectors ``(2, D)`` of the global feature, or None.
        temperature: initial one of the softmax, above 0.
        learns_scale: whether the temperature is learned too.

    Attributes:
        patch_vectors: ``(taps, 2, D)``.
        image_vectors: ``(2, D)`` or None. Both are compared by cosine.
        log_scale: logarithm of the factor of cosines, 1 / temperature.
    """

    def __init__(self, patch: Tensor, image: Tensor | None, temperature: float, *, learns_scale: bool = True) -> None:
        super().__init__()
        self.patch_vectors = nn.Parameter(patch)
        self.image_vectors = None if image is None else nn.Parameter(image)
        self.log_scale = nn.Parameter(torch.tensor(-log(temperature)), requires_grad=learns_scale)

    def forward(self) -> tuple[Tensor, Tensor | None]:
        """Give the vectors, L2-normalised.

        Returns:
            ``(taps, 2, D)``, and ``(2, D)`` or None.
        """
        image = None if self.image_vectors is None else F.normalize(self.image_vectors, dim=-1)
        return F.normalize(self.patch_vectors, dim=-1), image

    def patch_logits(self, tap: int, features: Tensor) -> Tensor:
        """Compare patches with the vectors of a tap.

        Args:
            tap: number of the tap, from 0.
            features: ``(N, P, D)``, L2-normalised.

        Returns:
            Logits ``(N, P, 2)``, ``[normal, abnormal]``.
        """
        return self.log_scale.exp() * (features @ F.normalize(self.patch_vectors[tap], dim=-1).T)

    def image_logits(self, feature: Tensor) -> Tensor:
        """Compare images with the vectors of the global feature.

        Args:
            feature: ``(N, D)``, L2-normalised.

        Returns:
            Logits ``(N, 2)``, ``[normal, abnormal]``.
        """
        assert self.image_vectors is not None
        return self.log_scale.exp() * (feature @ F.normalize(self.image_vectors, dim=-1).T)


class Vectors(Detector):
    """Two learned vectors a tap and no text, on any tower.

    Args:
        parts: tower, configuration and, where they were learned, tensors.

    Attributes:
        layers: tapped blocks, 0-based.
        vectors: what is learned.
    """

    name = "vectors"
    capabilities = Capabilities(
        zero_shot=True, uses_text=False, localises=True, trains=True, needs_state=True, needs_masks=True
    )
    Config = VectorsConfig
    config: VectorsConfig

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        tower, config = self.tower, self.config
        chosen = middle_and_last(tower.depth) if config.feature_layers is None else config.feature_layers
        self.layers = resolve_layers(chosen, tower.depth)
        draw, size = torch.Generator().manual_seed(config.seed), (2, tower.output_dim)
        patch, image = unit_vectors((len(self.layers), *size), draw), unit_vectors(size, draw)
        self.vectors = ClassVectors(patch, image, config.temperature)
        if parts.tensors:
            load_learned(self.vectors, parts.tensors, parts.name)
        self.vectors.to(tower.device)

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return input_size(HeadCLIPConfig(image_size=self.config.image_size), self.tower)

    @torch.inference_mode()
    def score(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Score slices by the taps' mean map, and by the joint score of the global feature and the map's maximum."""
        features = self._encode(pixels)
        patches = torch.stack(self._patch_maps(features)).mean(dim=0)
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        sigma = self.config.map_sigma * size[1] / SIGMA_REFERENCE
        maps = scoring.upsample(patches, size, sigma=sigma).clamp(0, 1)
        inside = maps if valid is None else maps * valid.to(maps)
        image_score = self._image_logits(features).softmax(dim=-1)[:, 1]
        return SliceBatch(
            maps, scoring.joint_score(image_score, scoring.pool_map(inside, "max"), self.config.jas_weight)
        )

    def learned(self) -> nn.Module:
        """Give the vectors and their scale."""
        return self.vectors

    def loss(self, batch: LabelledPixels) -> Tensor:
        """Compute AnomalyCLIP's loss on the patch grid.

        It is the cross-entropy of the image + 4 · Σ over taps of (focal + 2 dice). Ours: a patch's truth is the share
        of it that is lesion, and outside the patient map and truth are both 0. The tower learns nothing, so that its
        features need no gradient.
        """
        with torch.no_grad():
            features = self._encode(batch.pixels)
        mask, valid = (
            F.adaptive_avg_pool2d(each[:, None].float(), features.grid)[:, 0].to(self.tower.device)
            for each in (batch.mask, batch.valid)
        )
        inside = (valid >= VALID_SHARE).float()
        if batch.known is not None:
            known = F.adaptive_max_pool2d((~batch.known)[:, None].float(), features.grid)[:, 0] == 0
            inside = inside * known.to(inside)
        of_maps = torch.stack([map_loss(each * inside, mask * inside) for each in self._patch_maps(features)]).sum()
        of_images = image_loss(self._image_logits(features), batch.labels.to(self.tower.device))
        return of_images + self.config.map_weight * of_maps

    def fit(self, auxiliary: Auxiliary) -> None:
        """Train the vectors alone, with Adam."""
        descend(self.learned(), self.loss, auxiliary, lr=self.config.lr, betas=self.config.betas)

    def _encode(self, pixels: Tensor) -> ImageFeatures:
        return encode_images(self.tower, pixels, EncodeOptions(self.layers, self.config.local_attention))

    def _patch_maps(self, features: ImageFeatures) -> list[Tensor]:
        """p_abnormal of every tap on the patch grid, ``(N, Hp, Wp)`` each."""
        return [
            self.vectors.patch_logits(tap, features.patch_features[layer])
            .softmax(dim=-1)[..., 1]
            .unflatten(-1, features.grid)
            for tap, layer in enumerate(self.layers)
        ]

    def _image_logits(self, features: ImageFeatures) -> Tensor:
        logits: Tensor = self.vectors.image_logits(features.global_feature)
        return logits


def middle_and_last(depth: int) -> tuple[int, ...]:
    """Give the block half way up a tower and its last one, 0-based: 11 and 23 of 24.

    Args:
        depth: blocks of the tower, at least 1.

    Returns:
        Two blocks, or the only one of a tower of one.
    """
    return tuple(sorted({max(0, depth // 2 - 1), depth - 1}))


def unit_vectors(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Draw random directions of length 1, so that steps of a usual learning rate turn them.

    Args:
        shape: the last axis is that of a direction.
        draw: source of chance.

    Returns:
        Of that shape.
    """
    return F.normalize(torch.randn(shape, generator=draw), dim=-1)


def load_learned(module: nn.Module, tensors: Mapping[str, Tensor], whose: str) -> None:
    """Put ``tensors`` into ``module``.

    Args:
        module: set in place.
        tensors: by name.
        whose: what they belong to, for messages.

    Raises:
        ModelError: other names or shapes than the module's, or numbers that are not finite.
    """
    want = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in tensors.items()}
    if want != got:
        odd = sorted(name for name in {*want, *got} if want.get(name) != got.get(name))
        raise ModelError(
            f"The tensors of {whose} must fit its method, configuration and tower",
            ", ".join(f"{name} {got.get(name, 'missing')}" for name in odd),
            f"They must be {', '.join(f'{name} {shape}' for name, shape in want.items())}",
        )
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise ModelError(f"The tensors of {whose} must be finite numbers", "NaN or infinity", "Train it again")
    module.load_state_dict({name: value.float() for name, value in tensors.items()})
