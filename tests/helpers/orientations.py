"""All 48 ways in which a volume can be stored."""

from __future__ import annotations

import itertools

import numpy as np


def every_orientation() -> list[np.ndarray]:
    """All 48 ways in which array axes can run along patient axes, with three different voxel sizes."""
    affines = []
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, order] @ np.diag(np.array(signs) * (1.0, 1.5, 4.0))
        affine[:3, 3] = (-7.0, 11.5, 20.25)
        affines.append(affine)
    return affines
