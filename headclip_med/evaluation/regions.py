"""Connected regions of the truth: every region counts the same in AUPRO, however small."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Labels and number of regions; neighbours by a corner belong together (8 in an image, 26 in a volume)."""
    labels, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, dtype=bool))
    return labels, int(count)


def region_weights(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], int]:
    """1 / size of its region for each pixel of ``mask`` in the order of ``np.nonzero``, and the number of regions."""
    if not mask.any():
        return np.zeros(0), 0
    box = tuple(slice(int(where.min()), int(where.max()) + 1) for where in np.nonzero(mask))
    labels, count = label_regions(mask[box])
    found = labels[mask[box]]
    return 1.0 / np.bincount(found, minlength=count + 1)[found], count
