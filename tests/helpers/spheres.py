"""A head with a bright sphere at known millimetres, on five grids."""

from __future__ import annotations

import numpy as np
from affines import affine_of, rotation

from headclip_med.base.geometry import voxel_to_world

CENTRE_MM, RADIUS_MM = (12.0, -9.0, 6.0), 9.0


GRIDS = {
    "RAS": (affine_of(("R", "A", "S"), (2, 2, 2)), (48, 52, 44)),
    "LPS": (affine_of(("L", "P", "S"), (2, 2, 2)), (48, 52, 44)),
    "oblique": (rotation(17, 0) @ rotation(-11, 2) @ affine_of(("L", "A", "S"), (2, 2, 2)), (50, 50, 46)),
    "anisotropic": (affine_of(("R", "P", "I"), (1.2, 1.2, 5.0)), (80, 84, 18)),
    "sagittal": (affine_of(("A", "I", "L"), (1.5, 1.5, 4.0)), (64, 60, 24)),
}


def sphere(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A dim, slightly noisy head with a bright sphere: array and affine with the sphere's centre at CENTRE_MM."""
    affine, shape = GRIDS[name]
    affine = affine.copy()
    affine[:3, 3] += np.array([3.0, -2.0, 1.0]) - voxel_to_world(affine, (np.array(shape) - 1) / 2)
    ras = voxel_to_world(affine, np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1))
    tissue = np.random.default_rng(0).normal(100, 15, shape).clip(50, 150)
    array = np.where(np.linalg.norm(ras / [38, 42, 36], axis=-1) < 1, tissue, 0.0)
    array += np.clip(RADIUS_MM + 0.5 - np.linalg.norm(ras - np.array(CENTRE_MM), axis=-1), 0, 1) * 300
    return array.astype(np.float32), affine
