"""Small labelled sets on disk, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def put_image(path: Path, seed: int = 0, size: tuple[int, int] = (6, 8)) -> Path:
    """A noisy grey picture of ``(columns, rows)``; another seed gives another one."""
    array = np.random.default_rng(seed).integers(0, 200, size[::-1]).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def put_mask(path: Path, pixels: Sequence[tuple[int, int]] = ((2, 3),), size: tuple[int, int] = (6, 8)) -> Path:
    """A mask of 255 at these ``(column, row)``, 0 elsewhere."""
    array = np.zeros(size[::-1], dtype=np.uint8)
    for column, row in pixels:
        array[row, column] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def put_volume(path: Path, seed: int = 0, affine: np.ndarray = LPS) -> Path:
    """A noisy volume of 4 × 5 × 3."""
    array = np.random.default_rng(seed).normal(100, 20, (4, 5, 3)).astype(np.float32)
    return put_array(path, array, affine)


def put_label(path: Path, voxels: Sequence[tuple[int, int, int]] = ((1, 2, 0),), affine: np.ndarray = LPS) -> Path:
    """A label volume of 4 × 5 × 3 with value 2 at these voxels."""
    array = np.zeros((4, 5, 3), dtype=np.uint8)
    for voxel in voxels:
        array[voxel] = 2
    return put_array(path, array, affine)


def put_array(path: Path, array: np.ndarray, affine: np.ndarray = LPS) -> Path:
    """A NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


def put_text(path: Path, text: str) -> Path:
    """A text file in UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def put_json(path: Path, content: object) -> Path:
    """A JSON file."""
    return put_text(path, json.dumps(content))


def pairs_tree(root: Path, count: int = 3) -> Path:
    """``images/00.png`` … with masks; the first mask is empty, so the first image is normal."""
    for number in range(count):
        put_image(root / "images" / f"{number:02}.png", seed=number)
        put_mask(root / "masks" / f"{number:02}.png", pixels=[(1, 2)] if number else [])
    return root
