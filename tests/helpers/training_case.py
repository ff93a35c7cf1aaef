"""A tiny tower and labelled pictures on which training takes a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from headclip_med.training.config import TrainConfig


def write_tower(path: Path, seed: int = 0) -> str:
    """A small random ViT as a weight file, with the name it is built by."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model("test_vit.r160_in1k", pretrained=False, num_classes=0)
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * 0.1 if parameter.ndim > 1 else parameter.data
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return f"test_vit.r160_in1k@{path}"


def write_pairs(root: Path, count: int = 10, seed: int = 0) -> Path:
    """Noise with a bright square in every second picture."""
    rng = np.random.default_rng(seed)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        array = rng.integers(60, 120, (64, 64)).astype(np.uint8)
        mask = np.zeros(array.shape, dtype=np.uint8)
        if number % 2:
            i, j = rng.integers(4, 30, 2)
            array[i : i + 24, j : j + 24] += 110
            mask[i : i + 24, j : j + 24] = 255
        Image.fromarray(array).save(root / "images" / f"{number:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number:02}.png")
    return root


def train_config(folder: Path, **changes: object) -> TrainConfig:
    """A run on both; ``changes`` replace fields."""
    folder.mkdir(parents=True, exist_ok=True)
    tower = folder.parent / "tower.safetensors"
    name = f"test_vit.r160_in1k@{tower}" if tower.exists() else write_tower(tower)
    data = folder.parent / "pairs"
    if not data.exists():
        write_pairs(data)
    fields: dict[str, object] = {
        "data": [{"path": f"pairs:{data}", "licence": "made here"}],
        "model": name,
        "out": folder,
        "image_size": 64,
        "feature_layers": [2, 5],
        "local_start": 1,
        "steps": 6,
        "batch": 4,
        "validate_every": 2,
        "validation": 0.4,
        "slices": {"copies": 1},
    }
    return TrainConfig.model_validate({**fields, **changes})
