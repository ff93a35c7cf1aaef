"""Metrics again, slowly and from their definitions, to test the fast ones against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import auc


def components(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    labels, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    return [labels == i + 1 for i in range(count)]


def pro_curve(maps: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]):
    """Every distinct score as a threshold, every component by itself."""
    regions = [(m, part) for m, mask in zip(maps, masks, strict=True) for part in components(mask)]
    normal = np.concatenate([m[~mask] for m, mask in zip(maps, masks, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]:
        overlap = np.mean([(m[part] >= threshold).mean() for m, part in regions])
        points.append((float((normal >= threshold).mean()), float(overlap)))
    return np.array(points).T


def aupro(maps: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]], limit: float = 0.3) -> float:
    rate, overlap = pro_curve(maps, masks)
    area = 0.0
    for a, b, c, d in zip(rate, rate[1:], overlap, overlap[1:], strict=False):
        if a >= limit:
            break
        if b > limit:
            d = c + (d - c) * (limit - a) / (b - a)
            b = limit
        area += (b - a) * (c + d) / 2
    return area / limit


def aupro_legacy(maps: NDArray[np.float32], masks: NDArray[np.bool_], steps: int = 200, limit: float = 0.3) -> float:
    """One threshold after the other, every image, every component: as slow as the code that papers used."""
    low, high = maps.min(), maps.max()
    overlaps, rates = [], []
    for threshold in np.arange(low, high, (high - low) / steps):
        above = maps > threshold
        found = [above[i][part].mean() for i in range(len(maps)) for part in components(masks[i])]
        overlaps.append(np.mean(found))
        rates.append((above & ~masks).sum() / (~masks).sum())
    rate, overlap = np.array(rates), np.array(overlaps)
    kept = rate < limit
    rate, overlap = rate[kept], overlap[kept]
    rate = (rate - rate.min()) / (rate.max() - rate.min())
    return float(auc(rate, overlap))
