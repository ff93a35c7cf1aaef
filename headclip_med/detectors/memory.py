"""A memory of normal patches: how far a patch is from every patch of normal images of the same task.

The idea of PatchCore (arXiv 2106.08265) on a frozen tower's ordinary patch features: a capped coreset of normal ones,
distance to the nearest of them. The distance becomes a probability by what normal images say of each other, each volume
left out in turn, so that it can be averaged with the map of a zero-shot method. Calibration and fusion are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors import scoring
from headclip_med.detectors.base import Detector, Parts
from headclip_med.detectors.data import Capabilities, NormalPixels, SliceBatch
from headclip_med.detectors.headclip.config import SIGMA_REFERENCE
from headclip_med.detectors.scoring import half_cosine_distance
from headclip_med.encoders.image import EncodeOptions, encode_images, resolve_layers
from headclip_med.encoders.tower import ImageTower

# Slices that go through the tower at once while a memory is built.
_AT_ONCE = 4
# A patch counts as patient from this share of it on.
_PATIENT_SHARE = 0.5
# Median absolute deviation to standard deviation, of normal noise; and how many of these above the median of normal
# patches are as likely abnormal as not.
_MAD_TO_SD, _EVEN_ODDS = 1.4826, 3.0


@dataclass(frozen=True)
class MemoryConfig:
    """Choices of the memory.

    Attributes:
        image_size: side of the square input in pixels. None: that of the tower, or of the method it is added to.
        layers: tapped blocks, 0-based. None: half way and three quarters up, where features are least class-bound.
        bank_size: patches kept per layer.
        candidates: random patches that they are chosen from.
        weight: share of the memory in map and score, where it is added to another method.
        map_sigma: σ in pixels at 518 px, as of the family.
        seed: of the random choice.
    """

    image_size: int | None = None
    layers: tuple[int, ...] | None = None
    bank_size: int = 2000
    candidates: int = 20_000
    weight: float = 0.5
    map_sigma: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a memory that could hold nothing, and weights that are none."""
        if self.bank_size < 1 or self.candidates < self.bank_size:
            raise ModelError(
                "The memory must keep at least one patch, of at least as many candidates",
                f"bank_size {self.bank_size}, candidates {self.candidates}",
            )
        if not 0 <= self.weight <= 1:
            raise ModelError("The memory's weight must lie between 0 and 1", self.weight)


@dataclass(frozen=True)
class PatchBank:
    """Normal patches and what their distances mean.

    Attributes:
        features: by layer, ``(M, D)`` L2-normalised.
        centre, spread: of the distances of normal patches to the bank of the other normal images, averaged over layers.
    """

    features: dict[int, Tensor]
    centre: float
    spread: float

    def distances(self, features: dict[int, Tensor]) -> Tensor:
        """Average over layers ½ (1 − cosine with the nearest normal patch).

        Args:
            features: By layer, ``(N, P, D)`` L2-normalised.

        Returns:
            ``(N, P)`` in [0, 1].
        """
        return torch.stack([half_cosine_distance(features[layer], bank) for layer, bank in self.features.items()]).mean(
            dim=0
        )

    def probabilities(self, features: dict[int, Tensor]) -> Tensor:
        """Turn distances into probabilities of abnormal: ½ at three robust deviations above what normal patches have.

        Args:
            features: By layer, ``(N, P, D)`` L2-normalised.

        Returns:
            ``(N, P)`` in [0, 1].
        """
        return torch.sigmoid((self.distances(features) - self.centre) / self.spread - _EVEN_ODDS)


def patch_features(tower: ImageTower, pixels: Tensor, layers: tuple[int, ...]) -> dict[int, Tensor]:
    """Encode patches by the tower's ordinary path.

    Args:
        tower: A frozen image tower.
        pixels: ``(N, 3, S, S)``, normalised.
        layers: Tapped blocks, 0-based.

    Returns:
        By layer, ``(N, P, D)`` L2-normalised.
    """
    options = EncodeOptions(layers, local_attention="none", want_global=False)
    return encode_images(tower, pixels, options).patch_features


@torch.inference_mode()
def build_patch_bank(
    tower: ImageTower, normals: NormalPixels, layers: tuple[int, ...], config: MemoryConfig
) -> PatchBank:
    """Choose patches of normal images and of their mirror images.

    Args:
        tower: A frozen image tower.
        normals: Normal slices.
        layers: Tapped blocks, 0-based.
        config: Size of the bank, and the seed of the choice.

    Returns:
        The patches, and what their distances mean.

    Raises:
        ModelError: no patch of patient in any of them.
    """
    both = NormalPixels(
        torch.cat([normals.pixels, normals.pixels.flip(-1)]), torch.cat([normals.valid, normals.valid.flip(-1)])
    )
    batches = [patch_features(tower, part, layers) for part in both.pixels.split(_AT_ONCE)]
    features = {layer: torch.cat([batch[layer] for batch in batches]) for layer in layers}
    size = (int(both.pixels.shape[-2]) // tower.patch_size, int(both.pixels.shape[-1]) // tower.patch_size)
    inside = F.adaptive_avg_pool2d(both.valid[:, None].float(), size).flatten(1).to(tower.device) >= _PATIENT_SHARE
    if not bool(inside.any()):
        raise ModelError("Normal images must show the patient", f"{len(normals)} slices of background")
    centre, spread = _spread_of_normals(features, inside, _left_out_together(normals))
    draw = torch.Generator().manual_seed(config.seed)
    kept = {layer: _coreset(each[inside], config, draw) for layer, each in features.items()}
    return PatchBank(kept, centre, spread)


def _left_out_together(normals: NormalPixels) -> Tensor:
    """A number for each slice ``(N,)``: its volume's, or its own where there is one volume alone."""
    volumes = torch.tensor(normals.volumes or range(len(normals)))
    return volumes if len(volumes.unique()) > 1 else torch.arange(len(normals))


def _spread_of_normals(features: dict[int, Tensor], inside: Tensor, groups: Tensor) -> tuple[float, float]:
    """Median and robust deviation of the distances of each image's patches to the images of other groups.

    A single image is compared with its mirror image, which is the second half of the features.
    """
    found, count = [], len(groups)
    for image in range(count):
        others = (groups != groups[image]).repeat(2).to(inside.device)
        if count == 1:
            others[1] = True
        rest = inside & others[:, None]
        if not bool(rest.any()) or not bool(inside[image].any()):
            continue
        each = [half_cosine_distance(part[image : image + 1, inside[image]], part[rest]) for part in features.values()]
        found.append(torch.stack(each).mean(dim=0).flatten())
    if not found:
        return 0.0, 1.0
    distances = torch.cat(found)
    median = distances.median()
    spread = _MAD_TO_SD * (distances - median).abs().median()
    return float(median), max(float(spread), 1e-4)


def _coreset(features: Tensor, config: MemoryConfig, draw: torch.Generator) -> Tensor:
    """Rows that leave no row far from all of them: each next one is the row farthest from those chosen so far."""
    if len(features) > config.candidates:
        features = features[torch.randperm(len(features), generator=draw)[: config.candidates].to(features.device)]
    if len(features) <= config.bank_size:
        return features
    chosen = [int(torch.randint(len(features), (1,), generator=draw))]
    nearest = features @ features[chosen[0]]
    while len(chosen) < config.bank_size:
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, features @ features[chosen[-1]])
    return features[chosen]


class WithMemory(Detector):
    """A detector that also compares with normal patches, and of :class:`Memory`, the comparison alone.

    Args:
        base: The detector that the memory is added to.
        normals: Normal slices at its input size.
        config: Choices of the memory.

    Raises:
        ModelError: no normal slice, or none that shows the patient.
    """

    def __init__(self, base: Detector, normals: NormalPixels, config: MemoryConfig | None = None) -> None:
        if not len(normals):
            raise ModelError("A memory must be given at least one normal slice", "none")
        self.base, self.tower, self.name = base, base.tower, base.name
        self.capabilities = replace(base.capabilities, needs_normals=False, localises=True)
        self.config = config or MemoryConfig()
        depth = self.tower.depth
        chosen = self.config.layers or (depth // 2 - 1, (3 * depth) // 4 - 1)
        self.layers = resolve_layers(tuple(dict.fromkeys(max(0, layer) for layer in chosen)), depth)
        self.bank = build_patch_bank(self.tower, normals, self.layers, self.config)
        self.slices = len(normals)

    @property
    def image_size(self) -> int:
        """As of the detector that the memory is added to."""
        return self.base.image_size

    @torch.inference_mode()
    def score(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Weigh the other method's map and score with the memory's, whose score is its map's maximum."""
        found = self._memory(pixels)
        inside = found if valid is None else found * valid.to(found)
        scores = inside.flatten(1).amax(dim=1)
        if isinstance(self.base, Memory):
            return SliceBatch(found, scores)
        other, share = self.base.score(pixels, valid), self.config.weight
        return SliceBatch(torch.lerp(other.maps, found, share), torch.lerp(other.scores, scores, share))

    def at_speed(self, scale: float, early_exit: bool) -> Detector:
        """Refuse, because a memory holds features of one input size."""
        raise self._cannot("change its speed", "normal images were seen at another size")

    def state(self) -> dict[str, Tensor]:
        """Give the bank beside what the other method learned."""
        bank = {f"memory.{layer}": each.cpu() for layer, each in self.bank.features.items()}
        return {**self.base.state(), **bank, "memory.scale": torch.tensor([self.bank.centre, self.bank.spread])}

    def describe(self) -> dict[str, Any]:
        """Describe both configurations, and how much is remembered."""
        sizes = [len(each) for each in self.bank.features.values()]
        own = {**super().describe()["config"], "layers": self.layers, "patches": sizes, "slices": self.slices}
        return {**self.base.describe(), "memory": own}

    def _memory(self, pixels: Tensor) -> Tensor:
        grid = self.tower.grid(pixels)
        patches = self.bank.probabilities(patch_features(self.tower, pixels, self.layers)).unflatten(-1, grid)
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        sigma = self.config.map_sigma * size[1] / SIGMA_REFERENCE
        return scoring.upsample(patches.float(), size, sigma=sigma).clamp(0, 1)


class Memory(Detector):
    """Distance to the nearest patch of normal images, without text or training.

    It scores only after :meth:`adapt`.
    """

    name = "memory"
    capabilities = Capabilities(zero_shot=False, uses_text=False, localises=True, needs_normals=True)
    Config = MemoryConfig

    def __init__(self, parts: Parts) -> None:
        """Keep the parts until normal images come.

        Args:
            parts: Tower and configuration.
        """
        super().__init__(parts)

    def adapt(self, normals: NormalPixels) -> Detector:
        """Give the detector that can score."""
        return WithMemory(self, normals, self.config)

    def score(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Refuse, because it has seen nothing yet."""
        raise ModelError("The method memory must be given normal images", "none", "Add --normals DIR")


def adapted(detector: Detector, normals: NormalPixels) -> Detector:
    """Give the detector that has also seen normal images: by the method's own way, or with a memory of their patches.

    Args:
        detector: Any detector.
        normals: Normal slices at its input size.

    Returns:
        The detector that compares with them.

    Raises:
        ModelError: normal images that the method can do nothing with.
    """
    return detector.adapt(normals) or WithMemory(detector, normals)
