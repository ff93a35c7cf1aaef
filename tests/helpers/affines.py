"""Affines by the letters of their axes, and tilted ones."""

from __future__ import annotations

import numpy as np


def affine_of(axcodes: tuple[str, ...], steps=(1.0, 2.0, 3.0)) -> np.ndarray:
    """An axis-aligned affine whose array axes run towards ``axcodes``."""
    affine = np.zeros((4, 4))
    for axis, letter in enumerate(axcodes):
        row = next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        affine[row, axis] = steps[axis] * (1 if letter in "RAS" else -1)
    affine[:, 3] = [11, -7, 5, 1]
    return affine


def rotation(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    a, b = (i for i in range(3) if i != axis)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix
