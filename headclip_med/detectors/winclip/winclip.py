"""WinCLIP (arXiv 2303.14814): windows of patches against a prompt ensemble, and against windows of normal images.

Nothing is learned. The authors released no code; where the paper leaves a choice open, the public reimplementations
decide, and the choice is a field of :class:`WinCLIPConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med.base.errors import ModelError
from headclip_med.detectors import scoring
from headclip_med.detectors.base import Detector, Parts
from headclip_med.detectors.clip import Sigma, Size, Temperature
from headclip_med.detectors.data import Capabilities, NormalPixels, SliceBatch
from headclip_med.detectors.headclip.config import SIGMA_REFERENCE
from headclip_med.detectors.headclip.detector import prompted
from headclip_med.detectors.scoring import half_cosine_distance
from headclip_med.detectors.winclip.windows import WindowFeatures, encode_windows, harmonic_map, harmonic_mean

# Input side of the published method in pixels, for patches of 16.
_NATIVE = 240
# Normal slices that go through the tower at once.
_AT_ONCE = 4
_PATCHES = "references.patches"


@dataclass(frozen=True)
class WinCLIPConfig:
    """Choices of the method, of which the wording of the prompts is ours, the domain's and not industrial.

    Attributes:
        image_size: side of the square input in pixels. None: the multiple of the patch nearest to 240, as published.
        window_sizes: sides of the windows in patches, beside the whole image [published: 2 and 3].
        temperature: of every softmax [reimplementations: 0.07, while some take CLIP's own 0.01].
        patch_norm: final norm on the patch tokens that are compared with normal ones [reimplementations differ].
        map_sigma: σ in pixels at 518 px, scaled with the input [reimplementations: none].
    """

    image_size: Size | None = None
    window_sizes: tuple[Size, ...] = (2, 3)
    temperature: Temperature = 0.07
    patch_norm: bool = True
    map_sigma: Sigma = 0.0


class WinCLIP(Detector):
    """Windows of patches against the prompt ensemble (arXiv 2303.14814), training-free.

    Zero-shot, and few-normal-shot after :meth:`adapt`.

    Attributes:
        classes: ``(2, D)`` of the prompt ensemble.
        references: features of normal images by name, ``(M, D)`` each, L2-normalised, empty for zero-shot.

    Args:
        parts: Tower with its text side, configuration, and features of normal images.

    Raises:
        ModelError: a tower without a text side or whose feature is no class token, windows larger than the grid, or
            references that do not fit.
    """

    name = "winclip"
    capabilities = Capabilities(zero_shot=True, uses_text=True, localises=True)
    Config = WinCLIPConfig
    config: WinCLIPConfig

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        if self.tower.pool != "token":
            raise ModelError(
                f"The method {self.name} must have a tower whose feature is its class token",
                f"{parts.built.architecture}, which averages its patches",
                "Choose another CLIP tower, such as ViT-B-16",
            )
        self._check_sizes()
        self.references = self._checked_references(parts.tensors)
        self.classes = prompted(parts).to(self.tower.device)

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.config.image_size or self.tower.nearest_size(_NATIVE)

    @torch.inference_mode()
    def score(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Score pixels, where ``valid`` limits where the association's maximum is looked for with references."""
        features = self._encode(pixels)
        scores, patches = self._text_scores(features)
        if self.references:
            found = self._half_cosine_distance(features)
            scores = (scores + _highest(found, valid, self.tower.patch_size)) / 2
            patches = (patches + found) / 2
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        sigma = self.config.map_sigma * size[1] / SIGMA_REFERENCE
        return SliceBatch(scoring.upsample(patches, size, sigma=sigma).clamp(0, 1), scores)

    @torch.inference_mode()
    def adapt(self, normals: NormalPixels) -> WinCLIP:
        """Give the detector that compares with these normal images, in place of any it compared with before.

        All of their windows are kept, those outside the patient too, so that a query's background finds its like.
        """
        if not len(normals):
            raise ModelError(f"The method {self.name} must be given at least one normal slice", "none")
        batches = [self._encode(part) for part in normals.pixels.split(_AT_ONCE)]
        tensors = {
            _window_name(size): torch.cat([batch.windows[size].flatten(0, 1) for batch in batches])
            for size in self.config.window_sizes
        }
        tensors[_PATCHES] = torch.cat([batch.patches.flatten(0, 1) for batch in batches])
        adapted = copy(self)  # the prompts are as they were
        adapted.parts = replace(self.parts, tensors={name: each.cpu() for name, each in tensors.items()})
        adapted.references = adapted._checked_references(adapted.parts.tensors)
        return adapted

    def state(self) -> dict[str, Tensor]:
        """Give the features of the normal images, if there are any."""
        return dict(self.parts.tensors)

    def describe(self) -> dict[str, Any]:
        """Describe the method, its configuration and how many normal features of each kind it compares with."""
        kept = {name: len(each) for name, each in self.references.items()}
        return {**super().describe(), **({"references": kept} if kept else {})}

    def _encode(self, pixels: Tensor) -> WindowFeatures:
        return encode_windows(self.tower, pixels, self.config.window_sizes, patch_norm=self.config.patch_norm)

    def _text_scores(self, features: WindowFeatures) -> tuple[Tensor, Tensor]:
        """Probability of abnormal of the image ``(N,)`` and of its patches ``(N, Hp, Wp)``, over all scales."""
        image = self._abnormal(features.image)
        maps = [image[:, None, None].expand(-1, *features.grid)]
        for size, windows in features.windows.items():
            maps.append(harmonic_map(self._abnormal(windows), features.grid, size))
        return image, harmonic_mean(maps)

    def _abnormal(self, features: Tensor) -> Tensor:
        return scoring.class_probabilities(features, self.classes, 1 / self.config.temperature)[..., 1]

    def _half_cosine_distance(self, features: WindowFeatures) -> Tensor:
        """How unlike every normal feature the patches are ``(N, Hp, Wp)``: the mean over patches and window sizes."""
        maps = [half_cosine_distance(features.patches, self.references[_PATCHES]).unflatten(-1, features.grid)]
        for size, windows in features.windows.items():
            maps.append(
                harmonic_map(half_cosine_distance(windows, self.references[_window_name(size)]), features.grid, size)
            )
        return torch.stack(maps).mean(dim=0)

    def _check_sizes(self) -> None:
        sizes, side = self.config.window_sizes, self.image_size // self.tower.patch_size
        if not sizes or len(set(sizes)) < len(sizes) or max(sizes) > side:
            raise ModelError(
                f"window_sizes must name sides of at most the grid's {side} patches, each once",
                ", ".join(map(str, sizes)) or "none",
                "Published are 2 and 3",
            )

    def _checked_references(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """References on the tower's device, or nothing where there are no tensors."""
        if not tensors:
            return {}
        dims = dict.fromkeys(map(_window_name, self.config.window_sizes), self.tower.output_dim)
        want = {**dims, _PATCHES: self.tower.width}
        got = {name: int(each.shape[-1]) for name, each in tensors.items() if each.ndim == 2 and len(each)}
        if got != want or len(tensors) != len(want):
            raise ModelError(
                f"References of {self.parts.name} must be rows of the lengths {want}",
                {name: tuple(map(int, each.shape)) for name, each in tensors.items()},
                "Use those that were made with this tower and these window_sizes",
            )
        if not all(bool(each.isfinite().all()) for each in tensors.values()):
            raise ModelError("References must be finite numbers", "NaN or infinity", "Make them again")
        return {name: F.normalize(each.to(self.tower.device).float(), dim=-1) for name, each in tensors.items()}


def _window_name(size: int) -> str:
    return f"references.windows_{size}"


def _highest(maps: Tensor, valid: Tensor | None, patch: int) -> Tensor:
    """Maximum of patch maps ``(N, Hp, Wp)`` over the patches that ``valid (N, S, S)`` touches: ``(N,)``."""
    if valid is not None:
        maps = maps * F.max_pool2d(valid.to(maps), patch)
    return maps.flatten(1).amax(dim=1)
