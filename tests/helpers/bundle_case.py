"""A small labelled set and how the bundle is run on it with a random pack: a workflow takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from headclip_med_workflows import bundle_root

ROOT = bundle_root("headclip_zero_shot")
TRAIN = [str(ROOT / "configs" / "train.yaml")]
EVALUATE = [*TRAIN, str(ROOT / "configs" / "evaluate.yaml")]
INFERENCE = [str(ROOT / "configs" / "inference.yaml")]


def write_patients(folder: Path, count: int = 4) -> Path:
    """Patients with a bright block each, as BraTS lays them out: ``patientN/{flair,seg}.nii.gz``; axes to L, P, S."""
    for number in range(count):
        rng = np.random.default_rng(number)
        image = np.zeros((20, 24, 6), dtype=np.float32)
        image[3:-3, 3:-3] = rng.normal(400, 20, (14, 18, 6))
        truth = np.zeros(image.shape, dtype=np.uint8)
        truth[6:11, 6 + number : 12 + number, 2:4] = 1
        image[truth > 0] += 500
        affine = np.diag([-1.0, -1.0, 3.0, 1.0])
        affine[:3, 3] = (9.5, 11.5, -7.0)
        case = folder / f"patient{number}"
        case.mkdir(parents=True)
        for name, array in (("flair", image), ("seg", truth)):
            saved = nib.Nifti1Image(array, affine)
            saved.set_qform(affine, 1)
            saved.set_sform(affine, 0)
            saved.to_filename(case / f"{name}.nii.gz")
    return folder


def settings(data: Path, out: Path, pack: Path, **changes: Any) -> dict[str, Any]:
    """Overrides for a run on ``data``."""
    return {
        "bundle_root": str(ROOT),
        "dataset_dir": str(data),
        "output_dir": str(out),
        "model": str(pack),
        **changes,
    }


def training(data: Path, out: Path, pack: Path, **changes: Any) -> dict[str, Any]:
    """Overrides for a short training run."""
    short = {
        "ckpt_dir": str(out / "models"),
        "load_pretrain": False,
        "sequences": ["flair"],
        "val_fraction": 0.5,
        "max_epochs": 2,
        "batch_size": 4,
        "tensorboard": False,
    }
    return settings(data, out, pack, **short, **changes)
