"""Features × class features → anomaly maps, slice scores and the joint anomaly score.

Softmax is taken on the patch grid, before up-sampling (AnomalyCLIP, arXiv 2310.18961). Up-sampling, Gaussian
smoothing and the way back to a slice's own size are linear in each image axis, so each is one small matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import log
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn import functional as F

# References that are compared with at once, so that memory does not grow with the normal images.
_REFERENCES = 4096


Upsampling = Literal["bilinear", "nearest"]
Pool = Literal["max", "topk_mean", "p99.5", "lse"]

# Probabilities nearer to 0 or 1 than this count as this, so that their log-odds stay finite.
_CERTAIN = 1e-6

# Sharpness of the log-sum-exp pool: between the mean (0) and the maximum (infinity).
_LSE_SHARPNESS = 50.0


def half_cosine_distance(features: Tensor, references: Tensor) -> Tensor:
    """Compute ½ (1 − the largest cosine with any reference).

    Args:
        features: ``(N, T, D)`` L2-normalised.
        references: ``(M, D)`` L2-normalised.

    Returns:
        ``(N, T)`` in [0, 1].
    """
    parts = references.split(_REFERENCES)
    nearest = torch.stack([(features @ part.T).amax(dim=-1) for part in parts]).amax(dim=0)
    return ((1 - nearest) / 2).clamp(0, 1)


def class_probabilities(features: Tensor, class_features: Tensor, logit_scale: float) -> Tensor:
    """Compute softmax(logit_scale · cos(features, class_features)).

    Args:
        features: ``(..., D)`` L2-normalised.
        class_features: ``(2, D)`` ``[normal, abnormal]``, L2-normalised.
        logit_scale: 1 / temperature.

    Returns:
        ``(..., 2)`` probabilities of normal and abnormal.
    """
    return (logit_scale * (features @ class_features.T)).softmax(dim=-1)


def patch_map(
    patch_features: Mapping[int, Tensor],
    class_features: Mapping[int, Tensor],
    grid: tuple[int, int],
    *,
    logit_scale: float,
) -> Tensor:
    """Compute M = mean over layers of (p_abnormal + 1 − p_normal) / 2 on the patch grid.

    Released AnomalyCLIP code adds the layers instead: n times this, which leaves [0, 1].

    Args:
        patch_features: By layer, ``(N, P, D)`` L2-normalised.
        class_features: By layer, ``(2, D)`` ``[normal, abnormal]``, L2-normalised.
        grid: ``(Hp, Wp)`` with P = Hp·Wp.
        logit_scale: 1 / temperature.

    Returns:
        ``(N, Hp, Wp)`` in [0, 1].
    """
    maps = []
    for layer, features in patch_features.items():
        probabilities = class_probabilities(features, class_features[layer], logit_scale)
        maps.append((probabilities[..., 1] + 1 - probabilities[..., 0]) / 2)
    return torch.stack(maps).mean(dim=0).unflatten(-1, grid)


def upsample(patches: Tensor, size: tuple[int, int], *, sigma: float, mode: Upsampling = "bilinear") -> Tensor:
    """Enlarge patch maps to smooth maps.

    Args:
        patches: ``(N, Hp, Wp)``.
        size: ``(H, W)`` of the result in pixels.
        sigma: Of the Gaussian, in pixels of the result, 0 for none.
        mode: Interpolation.

    Returns:
        ``(N, H, W)``.
    """
    rows, cols = (
        torch.from_numpy(_upsampling_matrix(int(n), m, sigma, mode)).to(patches)
        for n, m in zip(patches.shape[-2:], size, strict=True)
    )
    return rows @ patches @ cols.T


@lru_cache(maxsize=64)
def _upsampling_matrix(source: int, target: int, sigma: float, mode: Upsampling) -> NDArray[np.float32]:
    """``(target, source)``: interpolation (half-pixel centres), then scipy's Gaussian with reflected edges.

    In numpy: a kept tensor would stay what it was made as, of inference mode or a tracer's.
    """
    matrix = _interpolation(source, target, mode)
    if sigma > 0:
        matrix = gaussian_filter1d(matrix, sigma, axis=0, mode="reflect")
    return matrix.astype(np.float32)


def _interpolation(source: int, target: int, mode: Upsampling) -> NDArray[np.float64]:
    """Weights ``(target, source)`` with edges repeated; in numpy, so that a tracer sees a constant."""
    places, rows = np.arange(target) * (source / target), np.arange(target)
    matrix = np.zeros((target, source))
    if mode == "nearest":
        matrix[rows, np.minimum(places.astype(np.int64), source - 1)] = 1
        return matrix
    centres = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    below = np.minimum(centres.astype(np.int64), source - 1)
    share = centres - below
    np.add.at(matrix, (rows, below), 1 - share)
    np.add.at(matrix, (rows, np.minimum(below + 1, source - 1)), share)
    return matrix


def pool_map(maps: Tensor, pool: Pool = "max", top_fraction: float = 0.01) -> Tensor:
    """Pool each map to one number: maximum, mean of the top fraction, 99.5th percentile, or a log-sum-exp average.

    Args:
        maps: ``(N, H, W)`` in [0, 1].
        pool: ``max``, ``topk_mean``, ``p99.5`` or ``lse``.
        top_fraction: Share of the pixels for ``topk_mean``, in (0, 1].

    Returns:
        ``(N,)``.
    """
    flat = maps.flatten(1)
    count = int(flat.shape[1])
    if pool == "max":
        return flat.amax(dim=1)
    if pool == "topk_mean":
        return flat.topk(max(1, round(top_fraction * count)), dim=1).values.mean(dim=1)
    if pool == "p99.5":
        return flat.topk(count + 1 - max(1, round(0.995 * count)), dim=1).values[:, -1]
    return (torch.logsumexp(_LSE_SHARPNESS * flat, dim=1) - log(count)) / _LSE_SHARPNESS


def score_pooled_feature(global_feature: Tensor, patch_features: Tensor, abnormal: Tensor) -> Tensor:
    """Draw the global feature to the abnormal patches: Crane's score-based pooling (arXiv 2504.11055).

    Args:
        global_feature: ``(N, D)`` L2-normalised.
        patch_features: ``(N, P, D)`` L2-normalised.
        abnormal: Probabilities ``(N, P)`` in [0, 1].

    Returns:
        ``(N, D)`` L2-normalised: half the global feature, half the probability-weighted patch mean.
    """
    pooled = F.normalize((abnormal.unsqueeze(-1) * patch_features).sum(dim=1), dim=-1)
    return F.normalize(0.5 * pooled + 0.5 * global_feature, dim=-1)


def grey_levels(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Average the channels of normalised pixels as they were before normalisation.

    Args:
        pixels: ``(N, 3, H, W)``, normalised.
        mean, std: That they were normalised with, per channel.

    Returns:
        ``(N, H, W)`` in [0, 1].
    """
    centre, spread = (
        torch.from_numpy(np.asarray(v, dtype=np.float32)).view(1, 3, 1, 1).to(pixels) for v in (mean, std)
    )
    return (pixels * spread + centre).mean(dim=1).clamp(0, 1)


def fuse_intensity(maps: Tensor, levels: Tensor, fusion: tuple[float, float, float]) -> Tensor:
    """Compute σ(a · logit(map) + b · level + c): what the tower says together with how bright the pixel is.

    On FLAIR lesions are bright, and a map on patches is too coarse to say where exactly.

    Args:
        maps: ``(N, H, W)`` in [0, 1].
        levels: ``(N, H, W)`` in [0, 1], intensities between the volume's own black and white.
        fusion: (a, b, c), which come from a logistic regression on auxiliary data.

    Returns:
        ``(N, H, W)`` in [0, 1].
    """
    a, b, c = fusion
    return (a * torch.logit(maps, eps=_CERTAIN) + b * levels + c).sigmoid()


def joint_score(image_score: Tensor | None, map_score: Tensor, weight: float) -> Tensor:
    """Compute the joint anomaly score S = (1 − weight) · s + weight · pooled map.

    Without an image-level score (a tower without class features for its global feature), S is the map's.

    Args:
        image_score: ``(N,)`` in [0, 1], or None.
        map_score: ``(N,)`` in [0, 1].
        weight: Share of the map, in [0, 1].

    Returns:
        ``(N,)`` in [0, 1].
    """
    return map_score if image_score is None else (1 - weight) * image_score + weight * map_score
