"""Small inputs for tests of whole runs: a random pack and a volume with a bright block."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np


def write_tiny_pack(folder: Path, seed: int = 0) -> Path:
    """Write a random pack that passes every check of a real one."""
    import torch
    from safetensors.torch import save_file
    from torch.nn.functional import normalize

    from headclip_med.base.files import sha256_file
    from headclip_med.encoders.timm_vit import TimmVitSpec, build_timm_vit

    folder.mkdir(parents=True, exist_ok=True)
    spec = TimmVitSpec(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = {name: tensor.contiguous() for name, tensor in build_timm_vit(spec).state_dict().items()}
        classes = normalize(torch.randn(2, 32), dim=-1)
    save_file(state, folder / "tower.safetensors")
    save_file({"patch_classes": classes, "image_classes": classes.clone()}, folder / "pack.safetensors")
    record = {
        "format": "headclip_med/1",
        "name": "tiny-random",
        "title": "Random weights for tests",
        "method": "headclip",
        "tower": {
            "kind": "embedded",
            "name": "tiny-random",
            "file": "tower.safetensors",
            "sha256": sha256_file(folder / "tower.safetensors"),
            "spec": asdict(spec),
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "config": {"local_start": 1},
        "threshold": {"value": 0.5, "origin": "not calibrated: random weights"},
    }
    (folder / "pack.json").write_text(json.dumps(record))
    return folder


def write_volume(path: Path, *, value: float = 900.0, shape: tuple[int, int, int] = (20, 24, 6)) -> Path:
    """A NIfTI file with a noisy box of tissue in air and a block of ``value`` in it; 1 × 1 × 3 mm, RAS."""
    array = np.zeros(shape, dtype=np.float32)
    array[3:-3, 3:-3] = np.random.default_rng(0).normal(400, 20, (shape[0] - 6, shape[1] - 6, shape[2]))
    array[6:10, 6:10, shape[2] // 2] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0])).to_filename(path)
    return path
