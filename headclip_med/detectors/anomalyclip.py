"""AnomalyCLIP (arXiv 2310.18961): HeadCLIP's detector with head weights at 1, no joint score, and learned prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn

from headclip_med.base.errors import ModelError
from headclip_med.detectors import scoring
from headclip_med.detectors.base import Parts, read_method_config
from headclip_med.detectors.data import Auxiliary, Capabilities, ClassFeatures, LabelledPixels, SliceBatch
from headclip_med.detectors.descent import descend
from headclip_med.detectors.headclip.config import HeadCLIPConfig, at_speed
from headclip_med.detectors.headclip.detector import HeadCLIP
from headclip_med.detectors.headclip.parts import packed_classes
from headclip_med.detectors.losses import image_loss, map_loss
from headclip_med.detectors.prompted import Prompts, current, kept, prompts_of, trainable
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import resolve_layers
from headclip_med.encoders.tower import ImageTower


@dataclass(frozen=True)
class AnomalyCLIPConfig(HeadCLIPConfig):
    """HeadCLIP's choices, of which head weights and the joint score are not used, and those of training.

    Attributes:
        jas, jas_score_pool, global_norm, position_mode: whatever is asked for, those of the released code, which its
            prompts were trained with.
        round_deep: deep text tokens are rounded to 16 bits, as the released code does.
        map_weight: λ, weight of the maps' loss, where the image's has 1 [published: 4].
        lr: of Adam with β = (0.5, 0.999) [published: 1e-3].
        seed: of fresh prompts [published: 111].
    """

    jas: bool = False
    global_norm: bool = False
    position_mode: Literal["bicubic", "bilinear"] = "bilinear"
    round_deep: bool = True
    map_weight: float = 4.0
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """As of HeadCLIP; further, a training that could not run."""
        super().__post_init__()
        if not (0 <= self.map_weight < inf and 0 < self.lr < inf):
            raise ModelError("map_weight must be 0 or more and lr positive", f"{self.map_weight} and {self.lr}")


class AnomalyCLIP(HeadCLIP):
    """Learned object-agnostic prompts against V-V patch features (arXiv 2310.18961).

    As the released code computes it, where ``head_weights`` are ignored on purpose. The class token goes without the
    final norm and position embeddings are interpolated bilinearly. Of a tower alone the prompts are fresh: something to
    train, not to look at scans with. The released code adds the maps of several taps, which are averaged here.

    Args:
        tower: Frozen image tower.
        classes: ``[normal, abnormal]`` features of the taps and of the image.
        config: Choices of the method.
        head_weights: Ignored.
        prompts: What ``classes`` came from, to be trained on. None: the features alone are left.
    """

    name = "anomalyclip"
    # No text side is needed to score: packs of HeadCLIP on vision-only towers run under this method too.
    capabilities = Capabilities(
        zero_shot=True,
        uses_text=False,
        localises=True,
        trains=True,
        trains_text=True,
        needs_state=True,
        needs_masks=True,
    )
    Config = AnomalyCLIPConfig
    config: AnomalyCLIPConfig

    def __init__(
        self,
        tower: ImageTower,
        classes: ClassFeatures,
        config: HeadCLIPConfig | None = None,
        head_weights: HeadWeights | Callable[[Tensor], HeadWeights] | None = None,
        *,
        prompts: Prompts | None = None,
    ) -> None:
        super().__init__(tower, classes, _as_released(config or AnomalyCLIPConfig()), None)
        self.prompts, self._learning = prompts, False

    @classmethod
    def from_parts(cls, parts: Parts) -> AnomalyCLIP:
        """Make the detector of a pack, or of a tower with a text side alone, with fresh prompts.

        Args:
            parts: Tower, configuration and what was learned.

        Returns:
            The detector.

        Raises:
            ModelError: a pack without class features and prompts, or with some that do not fit the tower.
        """
        tower, config = parts.built.tower, read_method_config(AnomalyCLIPConfig, parts.config, parts.name)
        prompts = prompts_of(parts, cls.name, round_deep=config.round_deep, seed=config.seed)
        classes = packed_classes(parts.tensors, config, tower, parts.name.removeprefix("pack "))
        if classes is None:
            classes = _of_prompts(trainable(prompts, parts.name), resolve_layers(config.feature_layers, tower.depth))
        return cls(tower, classes, config, prompts=prompts)

    def at_speed(self, scale: float, early_exit: bool) -> AnomalyCLIP:
        """Change the speed as HeadCLIP does, and keep the prompts."""
        config = at_speed(self.config, self.tower, scale, early_exit)
        if config is self.config:
            return self
        return AnomalyCLIP(self.tower, self._current_classes(), config, prompts=self.prompts)

    def compute(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Score as HeadCLIP does, with the prompts as they are now."""
        self.classes = self._current_classes()
        return super().compute(pixels, valid)

    def learned(self) -> nn.Module:
        """Give the prompts, which scores follow from here on."""
        return self._learnable().learner

    def loss(self, batch: LabelledPixels) -> Tensor:
        """Sum CE of the image + λ Σ over taps of (focal + dice of abnormal + dice of normal), over the whole square.

        Softmax on the patch grid, then up-sampling to the input's size. The image side gets no gradient.
        """
        prompts, config = self._learnable(), self.config
        with torch.no_grad():
            features = self.encode(batch.pixels)
        classes, scale = prompts.features(), 1 / config.temperature
        truth = (batch.mask > 0.5).to(classes)
        assert features.global_feature is not None
        total = image_loss(scale * features.global_feature @ classes.T, batch.labels.to(classes.device))
        for patches in features.patch_features.values():
            grid = scoring.class_probabilities(patches, classes, scale)[..., 1].unflatten(-1, features.grid)
            maps = scoring.upsample(grid, truth.shape[-2:], sigma=0, mode=config.map_upsampling)
            total = total + config.map_weight * map_loss(batch.where_known(maps), truth)
        return total

    def fit(self, auxiliary: Auxiliary) -> None:
        """Run Adam with β = (0.5, 0.999) on :meth:`loss`, as of :class:`Detector`."""
        descend(self.learned(), self.loss, auxiliary, lr=self.config.lr)

    def state(self) -> dict[str, Tensor]:
        """Give the class features, which are enough to score, and the prompts that they came from, if any."""
        classes = self._current_classes()
        patch = torch.stack([classes.patch[layer] for layer in self.layers])
        tensors = {"patch_classes": patch[0] if bool((patch == patch[0]).all()) else patch}
        if classes.image is not None:
            tensors["image_classes"] = classes.image
        if classes.centre:
            tensors["centre"] = torch.stack([classes.centre[layer] for layer in self.layers])
        state = {name: kept(value) for name, value in tensors.items()}
        return state if self.prompts is None else state | self.prompts.tensors()

    def _learnable(self) -> Prompts:
        prompts = trainable(self.prompts, f"A detector of {self.name} that is trained")
        self._learning = True
        self.classes = self._current_classes()
        return prompts

    def _current_classes(self) -> ClassFeatures:
        """Those of the prompts once these may have changed, else as they came."""
        if not self._learning or self.prompts is None:
            return self.classes
        return _of_prompts(self.prompts, self.layers)


def _as_released(config: HeadCLIPConfig) -> AnomalyCLIPConfig:
    fixed = {"jas": False, "jas_score_pool": False, "global_norm": False, "position_mode": "bilinear"}
    return AnomalyCLIPConfig(**{**vars(config), **fixed})


def _of_prompts(prompts: Prompts, layers: tuple[int, ...]) -> ClassFeatures:
    both = current(prompts)
    return ClassFeatures(patch=dict.fromkeys(layers, both), image=both, centre={})
