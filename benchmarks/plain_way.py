"""The ways a user has today, as baselines: float32, one image at a time, unfused attention of all heads at once.

:class:`ReleasedWay` is structured as the released AnomalyCLIP code is: one pass through the tower gives the global
feature and the map, with one projection to queries, keys and values for both paths of a block. It is the baseline that
ratios are quoted against. :class:`PlainWay` makes two separate passes, as somebody does who puts V-V maps beside a
model's own forward; its pass for the map ends after the last tap. In both, head weights scale the heads' output for
every image. They work for any tower and score as the detector does: all differ by rounding only.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from headclip_med.detectors import HeadCLIP, scoring
from headclip_med.detectors.headclip.config import SIGMA_REFERENCE
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import first_local_block
from headclip_med.encoders.tower import Block, ImageTower


class PlainWay:
    """A detector's numbers the plain way.

    Args:
        detector: in float32, with V-V attention, a class token as its global feature, and at most static head weights
            of the local path's heads.
    """

    def __init__(self, detector: HeadCLIP) -> None:
        tower, config, weights = detector.tower, detector.config, detector.head_weights
        static = weights is None or (isinstance(weights, HeadWeights) and weights.foldable and weights.global_ is None)
        pools = tower.pool == "token" and config.jas_order == "after_smooth" and not config.jas_score_pool
        if config.local_attention != "vv" or not pools or not static:
            raise ValueError("Only V-V attention, default pooling and static local head weights have a plain way")
        self.detector = detector
        self.weights = weights if isinstance(weights, HeadWeights) else HeadWeights()
        self.start = first_local_block(tower.depth, config.local_start)
        self.tower: ImageTower = tower.for_size(detector.image_size, tower.depth - 1, config.position_mode)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> tuple[dict[int, Tensor], Tensor | None]:
        """``(1, 3, S, S)`` → patch features ``(1, P, D)`` by layer, and the global feature ``(1, D)`` if it counts."""
        wanted = self.detector.wants_image_score
        return self._patch_features(pixels), self._global_feature(pixels) if wanted else None

    @torch.inference_mode()
    def score(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """``(1, 3, S, S)`` → map ``(1, S, S)`` and score ``(1,)``."""
        config, classes = self.detector.config, self.detector.classes
        patches, feature = self.encode(pixels)
        side, scale = self.detector.image_size, 1 / config.temperature
        grid = scoring.patch_map(patches, classes.patch, self.tower.grid(pixels), logit_scale=scale)
        sigma = config.map_sigma * side / SIGMA_REFERENCE
        maps = scoring.upsample(grid, (side, side), sigma=sigma, mode=config.map_upsampling).clamp(0, 1)
        if config.intensity_fusion is not None:
            levels = scoring.grey_levels(pixels, self.tower.mean, self.tower.std)
            maps = scoring.fuse_intensity(maps, levels, config.intensity_fusion)
        pooled = scoring.pool_map(maps, config.jas_pool, config.jas_top_fraction)
        if feature is None or classes.image is None:
            return maps, pooled
        image = scoring.class_probabilities(feature, classes.image, scale)[:, 1]
        return maps, scoring.joint_score(image, pooled, config.jas_weight if config.jas else 0.0)

    def volume(self, source: Path, target: Path) -> int:
        """A NIfTI file → a map in its grid, every axial slice on its own; returns their number."""
        image = nib.load(str(source))
        stored = torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32))
        inside = stored[stored > 0]
        low, high = (float(np.percentile(inside.numpy(), share)) for share in (0.5, 99.5))
        maps = torch.zeros_like(stored)
        for index in range(stored.shape[2]):
            levels = ((stored[None, None, :, :, index] - low) / (high - low)).clamp(0, 1)
            found = self.score(model_input(levels, self.detector).to(self.tower.device))[0]
            maps[:, :, index] = F.interpolate(found[None].cpu(), size=stored.shape[:2], mode="bilinear")[0, 0]
        nib.Nifti1Image(maps.numpy(), image.affine).to_filename(target)
        return int(stored.shape[2])

    def picture(self, source: Path, target: Path) -> None:
        """An 8-bit picture → a map in its pixels."""
        with Image.open(source) as image:
            levels = torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32) / 255)
        found = self.score(model_input(levels[None, None], self.detector).to(self.tower.device))[0]
        np.save(target, F.interpolate(found[None].cpu(), size=levels.shape, mode="bilinear")[0, 0].numpy())

    def _global_feature(self, pixels: Tensor) -> Tensor:
        tokens = self.tower.embed(pixels)
        for block in self.tower.blocks:
            tokens = _ordinary(block, tokens)
        return self._class_feature(tokens)

    def _class_feature(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.tower.project(tokens[:, 0], norm=self.detector.config.global_norm), dim=-1)

    def _tapped(self, local: Tensor, layer: int) -> Tensor:
        features, centres = self.tower.project(local[:, self.tower.prefix :]), self.detector.classes.centre
        return F.normalize(features - centres[layer] if layer in centres else features, dim=-1)

    def _patch_features(self, pixels: Tensor) -> dict[int, Tensor]:
        tower, layers = self.tower, self.detector.layers
        tokens = tower.embed(pixels)
        local, taps = tokens, {}
        for layer, block in enumerate(tower.blocks[: max(layers) + 1]):
            before, tokens = tokens, _ordinary(block, tokens)
            on_path = layer >= self.start
            local = local + _value_value(block, before, self.weights.at("local", layer)) if on_path else tokens
            if layer in layers:
                taps[layer] = self._tapped(local, layer)
        return taps


class ReleasedWay(PlainWay):
    """A detector's numbers in one pass of both paths over all tokens, as the released code of the family takes them."""

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> tuple[dict[int, Tensor], Tensor | None]:
        """As of :class:`PlainWay`."""
        tower, layers, wanted = self.tower, self.detector.layers, self.detector.wants_image_score
        tokens = tower.embed(pixels)
        local, taps = tokens, {}
        for layer, block in enumerate(tower.blocks[: tower.depth if wanted else max(layers) + 1]):
            query, key, value = _projected(block, tokens)
            if self.start <= layer <= max(layers):
                heads, factors = _unfused(value, value, value), self.weights.at("local", layer)
                local = local + _merged(block, heads if factors is None else heads * factors)
            tokens = _advanced(block, tokens, _unfused(block.query_norm(query), block.key_norm(key), value))
            if layer < self.start:
                local = tokens
            if layer in layers:
                taps[layer] = self._tapped(local, layer)
        return taps, self._class_feature(tokens) if wanted else None


def model_input(levels: Tensor, detector: HeadCLIP) -> Tensor:
    """Grey levels ``(N, 1, H, W)`` in [0, 1] → the detector's input ``(N, 3, S, S)``, stretched to its square."""
    side, tower = detector.image_size, detector.tower
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (tower.mean, tower.std))
    return (F.interpolate(levels, size=(side, side), mode="bilinear").expand(-1, 3, -1, -1) - mean) / std


def _ordinary(block: Block, tokens: Tensor) -> Tensor:
    """One block as the tower defines it."""
    query, key, value = _projected(block, tokens)
    return _advanced(block, tokens, _unfused(block.query_norm(query), block.key_norm(key), value))


def _projected(block: Block, tokens: Tensor) -> Tensor:
    """Query, key and value ``(3, N, heads, T, d)``."""
    split = F.linear(block.norm1(tokens), block.qkv_weight, block.qkv_bias).unflatten(-1, (3, block.heads, -1))
    return split.permute(2, 0, 3, 1, 4)


def _merged(block: Block, heads: Tensor) -> Tensor:
    """Heads ``(N, heads, T, d)`` → the update ``(N, T, width)``."""
    return block.scale1(F.linear(heads.transpose(1, 2).flatten(2), block.out_weight, block.out_bias))


def _advanced(block: Block, tokens: Tensor, heads: Tensor) -> Tensor:
    """The rest of a block after its attention."""
    tokens = tokens + _merged(block, heads)
    return tokens + block.scale2(block.mlp(block.norm2(tokens)))


def _value_value(block: Block, tokens: Tensor, factors: Tensor | None) -> Tensor:
    """The local path's update of all tokens: values of its own, attended to by themselves."""
    width = tokens.shape[-1]
    bias = None if block.qkv_bias is None else block.qkv_bias[2 * width :]
    value = F.linear(block.norm1(tokens), block.qkv_weight[2 * width :], bias)
    value = value.unflatten(-1, (block.heads, -1)).transpose(1, 2)
    heads = _unfused(value, value, value)
    return _merged(block, heads if factors is None else heads * factors)


def _unfused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1) @ value
