"""Every choice of HeadCLIP, and what a choice means for a tower.

What the paper's abstract does not say is inferred; each inferred item is a field, so that the paper, once read, changes
a value and no code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Literal, get_args, get_origin, get_type_hints

from headclip_med.base.errors import ModelError
from headclip_med.detectors import scoring
from headclip_med.encoders.attention import Kernel, LocalAttention
from headclip_med.encoders.head_weights import Branch, LayerChoice, Parametrisation
from headclip_med.encoders.heads import Site
from headclip_med.encoders.image import resolve_layers
from headclip_med.encoders.tower import ImageTower

# Input side in pixels at which the AnomalyCLIP family smooths its maps with σ = 4.
SIGMA_REFERENCE = 518


@dataclass(frozen=True)
class HeadCLIPConfig:
    """Every choice of the method, where [C] stands for confirmed in a primary source and [I] for inferred.

    Attributes:
        image_size: side of the square input in pixels. None: 518 for CLIP at 336 [C for the family], else the size the
            tower was trained at.
        feature_layers: tapped blocks, 0-based, negative from the end, each once [I: the last one]. The maps of several
            are averaged. The sum that AnomalyCLIP's code takes is that many times the mean, hence the same ranking.
        local_attention, local_start: of the local branch [I: AnomalyCLIP's V-V in the last 19 blocks].
        lhw_branch, lhw_layers, lhw_site: where head weights act [I: output of the heads, local branch, ``dual``: its
            blocks]. ``lhw_layers`` may also be ``all``, ``tapped`` or a number k for the last k blocks. Whether layers
            share a row and whether a head has one weight or one a channel is the shape of the weights themselves.
        lhw_param: how trained parameters become weights [I].
        lhw_dynamic: the weights are predicted from the class token instead [I].
        lhw_task_decoupled: the global path has weights of its own, for the image score [I].
        temperature: of every softmax [C: 0.07].
        global_norm: final norm on the class token [C: False in AnomalyCLIP's code, while CLIP itself uses it].
        position_mode: interpolation of position embeddings [C: bilinear in AnomalyCLIP's code].
        map_upsampling, map_sigma: map at input size, and σ in pixels at 518 px, scaled with the input [C: bilinear, 4].
        intensity_fusion: (a, b, c) of :func:`headclip_med.detectors.scoring.fuse_intensity`, ours and not the paper's.
            None: the map is the tower's alone.
        jas: joint anomaly score. Off: the image score alone, as AnomalyCLIP.
        jas_weight: share of the pooled map [I: 0.5].
        jas_pool, jas_top_fraction: how it is pooled [I: max].
        jas_order: pool after or before smoothing [I].
        jas_score_pool: Crane's pooled feature for the image score.
        kernel: attention kernel.
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


def at_speed(config: HeadCLIPConfig, tower: ImageTower, scale: float, early_exit: bool) -> HeadCLIPConfig:
    """Change the input size and the taps of a configuration as a speed preset asks for.

    Args:
        config: Choices of the method.
        tower: The tower it is for.
        scale: Of the input's side, 1 for no change.
        early_exit: Leave the last of several taps out.

    Returns:
        The changed configuration, or ``config`` itself where nothing changes.
    """
    if scale != 1:
        config = replace(config, image_size=tower.nearest_size(round(scale * input_size(config, tower))))
    layers = sorted(resolve_layers(config.feature_layers, tower.depth))
    if early_exit and len(layers) > 1:
        config = replace(config, feature_layers=tuple(layers[:-1]))
    return config


def input_size(config: HeadCLIPConfig, tower: ImageTower) -> int:
    """Find the side of the square input that a configuration means for a tower.

    Args:
        config: Choices of the method.
        tower: The tower it is for.

    Returns:
        In pixels.
    """
    if config.image_size is not None:
        return config.image_size
    return 518 if (tower.native_size, tower.patch_size) == (336, 14) else tower.native_size
