"""HeadCLIP: a frozen tower, weighted attention heads, class features and a joint anomaly score.

An independent implementation of the ideas in HeadCLIP's abstract (arXiv 2505.22259) on the AnomalyCLIP recipe
(arXiv 2310.18961). What the abstract does not say is inferred; each inferred item is a field of
:class:`HeadCLIPConfig`, so that the paper, once read, changes a value and no code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from headclip_med import scoring
from headclip_med.detectors.base import Capabilities, ClassFeatures, SliceBatch
from headclip_med.encoders.attention import Kernel, LocalAttention
from headclip_med.encoders.heads import HeadWeights, Site
from headclip_med.encoders.image import (
    EncodeOptions,
    ImageFeatures,
    encode_images,
    first_local_block,
    resolve_layers,
)
from headclip_med.encoders.tower import ImageTower
from headclip_med.errors import ModelError
from headclip_med.head_weights import Branch, LayerChoice, Parametrisation, check_head_weights, fold

# Input side in pixels at which the AnomalyCLIP family smooths its maps with σ = 4.
SIGMA_REFERENCE = 518


@dataclass(frozen=True)
class HeadCLIPConfig:
    """Every choice of the method. [C] stands for confirmed in a primary source, [I] for inferred.

    Attributes:
        image_size: side of the square input in pixels; None: 518 for CLIP at 336 [C for the family], else the
            size the tower was trained at.
        feature_layers: tapped blocks, 0-based, negative from the end, each once [I: the last one]. The maps of several
            are averaged; the sum that AnomalyCLIP's code takes is that many times the mean, hence the same ranking.
        local_attention, local_start: of the local branch [I: AnomalyCLIP's V-V in the last 19 blocks].
        lhw_branch, lhw_layers, lhw_site: where head weights act [I: output of the heads, local branch, ``dual``: its
            blocks]; ``lhw_layers`` may also be ``all``, ``tapped`` or a number k for the last k blocks. Whether layers
            share a row and whether a head has one weight or one a channel is the shape of the weights themselves.
        lhw_param: how trained parameters become weights [I].
        lhw_dynamic: the weights are predicted from the class token instead [I].
        lhw_task_decoupled: the global path has weights of its own, for the image score [I].
        temperature: of every softmax [C: 0.07].
        global_norm: final norm on the class token [C: False in AnomalyCLIP's code; CLIP itself uses it].
        position_mode: interpolation of position embeddings [C: bilinear in AnomalyCLIP's code].
        map_upsampling, map_sigma: map at input size; σ in pixels at 518 px, scaled with the input [C: bilinear, 4].
        intensity_fusion: (a, b, c) of :func:`headclip_med.scoring.fuse_intensity`, ours and not the paper's; None: the
            map is the tower's alone.
        jas: joint anomaly score; off: the image score alone, as AnomalyCLIP.
        jas_weight: share of the pooled map [I: 0.5]; jas_pool, jas_top_fraction: how it is pooled [I: max].
        jas_order: pool after or before smoothing [I]; jas_score_pool: Crane's pooled feature for the image score.
    """

    image_size: int | None = None
    feature_layers: tuple[int, ...] = (-1,)
    local_attention: LocalAttention = "vv"
    local_start: int | None = None
    lhw_branch: Branch = "local"
    lhw_layers: LayerChoice = "dual"
    lhw_site: Site = "head_output"
    lhw_param: Parametrisation = "free"
    lhw_dynamic: bool = False
    lhw_task_decoupled: bool = False
    temperature: float = 0.07
    global_norm: bool = True
    position_mode: Literal["bicubic", "bilinear"] = "bicubic"
    map_upsampling: scoring.Upsampling = "bilinear"
    map_sigma: float = 4.0
    intensity_fusion: tuple[float, float, float] | None = None
    jas: bool = True
    jas_weight: float = 0.5
    jas_pool: scoring.Pool = "max"
    jas_top_fraction: float = 0.01
    jas_order: Literal["after_smooth", "before_smooth"] = "after_smooth"
    jas_score_pool: bool = False
    kernel: Kernel = "auto"

    def __post_init__(self) -> None:
        """Refuse what no tower could be run with; :class:`HeadCLIP` checks the rest against its tower."""
        _check_choices(self)
        _require(self.image_size is None or self.image_size >= 1, "image_size must be positive", self.image_size)
        _require(len(self.feature_layers) > 0, "feature_layers must name a layer", "none")
        _require(0 < self.temperature < inf, "temperature must be positive", self.temperature)
        _require(0 <= self.map_sigma < inf, "map_sigma must be 0 or more", self.map_sigma)
        fusion = self.intensity_fusion
        _require(
            fusion is None or all(map(isfinite, fusion)), "intensity_fusion must hold three finite numbers", fusion
        )
        _require(0 <= self.jas_weight <= 1, "jas_weight must lie between 0 and 1", self.jas_weight)
        _require(
            0 < self.jas_top_fraction <= 1, "jas_top_fraction must lie above 0 and at most at 1", self.jas_top_fraction
        )
        _require(
            not self.lhw_task_decoupled or self.lhw_branch == "local",
            "lhw_task_decoupled gives the global branch weights of its own, so lhw_branch must be 'local'",
            self.lhw_branch,
        )
        static = (self.lhw_layers, self.lhw_param, self.lhw_task_decoupled)
        _require(
            not self.lhw_dynamic or static == ("dual", "free", False),
            "lhw_dynamic must go with lhw_layers 'dual', lhw_param 'free' and no lhw_task_decoupled",
            static,
        )


def _check_choices(config: HeadCLIPConfig) -> None:
    for name, hint in get_type_hints(HeadCLIPConfig).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ModelError(f"{name} must be one of {', '.join(map(str, get_args(hint)))}", value)
    _require(
        isinstance(config.lhw_layers, int) or config.lhw_layers in ("dual", "all", "tapped"),
        "lhw_layers must be dual, all, tapped or a number of last layers",
        config.lhw_layers,
    )


def _require(holds: bool, must: str, given: object) -> None:
    if not holds:
        raise ModelError(must, given)


class HeadCLIP:
    """The detector.

    Args:
        tower: frozen image tower; classes: on any device, moved to the tower's.
        config: choices of the method; head_weights: static weights, a function of the class token, or None.
        name: under which results are recorded.

    Attributes:
        layers: tapped blocks, 0-based. classes, head_weights: as given, on the tower's device.
        folded: output projections with static local head weights in them, by layer, or None.

    Raises:
        ModelError: class features or head weights that do not fit the tower or are not finite, no class features for a
            tap, head weights that cannot act, layers outside the tower, or an image size that its patches do not fill.
    """

    capabilities = Capabilities(zero_shot=True, uses_text=True, localises=True, adaptable=True)

    def __init__(
        self,
        tower: ImageTower,
        classes: ClassFeatures,
        config: HeadCLIPConfig | None = None,
        head_weights: HeadWeights | Callable[[Tensor], HeadWeights] | None = None,
        *,
        name: str = "headclip",
    ) -> None:
        self.name, self.tower, self.config = name, tower, config or HeadCLIPConfig()
        self.layers = resolve_layers(self.config.feature_layers, tower.depth)
        self.classes = _checked_classes(classes, self.layers, tower)
        _check_image_size(self.image_size, tower)
        _check_local_path(self.config, self.layers, tower, head_weights)
        self.head_weights = head_weights.to(tower.device) if isinstance(head_weights, nn.Module) else head_weights
        self.folded: dict[int, Tensor] | None = None
        if isinstance(head_weights, HeadWeights):
            self.head_weights = check_head_weights(head_weights, tower).to(tower.device)
            self.folded = fold(self.head_weights, tower) if self.head_weights.foldable else None

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels, a multiple of the patch size."""
        return input_size(self.config, self.tower)

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """Features of ``pixels (N, 3, S, S)`` as this method taps them."""
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
        """Anomaly maps and joint scores of ``pixels (N, 3, S, S)``; see :class:`Detector`."""
        return self.compute(pixels, valid)

    def patch_maps(self, pixels: Tensor) -> Tensor:
        """Probability of abnormal on the patch grid ``(N, Hp, Wp)``, differentiable in the learned parts."""
        return self._patch_maps(self.encode(pixels))

    def compute(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """:meth:`score` for autograd and for exporters: the same numbers, outside inference mode."""
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
        """Method, configuration and whether head weights are in use."""
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


def input_size(config: HeadCLIPConfig, tower: ImageTower) -> int:
    """Side of the square input in pixels that ``config`` means for ``tower``."""
    if config.image_size is not None:
        return config.image_size
    return 518 if (tower.native_size, tower.patch_size) == (336, 14) else tower.native_size


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
