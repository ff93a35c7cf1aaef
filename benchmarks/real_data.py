"""What a model finds on the real sets beside the project: python benchmarks/real_data.py [MODEL ...] [--json FILE]

Rows: voxel (pixel) AUROC inside the foreground, of the map and of the trivial control (the intensity itself), Dice at
the model's own threshold, and the best Dice any threshold would give, which nobody has in practice. Few cases, no
intervals: a look, not an evaluation. Data: HEADCLIP_SHARED, default ../shared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata

from headclip_med import load_engine
from headclip_med.engine import Engine
from headclip_med.intensity import foreground
from headclip_med.training.calibration import dice_by_threshold

DATA = Path(os.environ.get("HEADCLIP_SHARED", "../shared")) / "data"
VOLUMES = {
    "ms_flair/patient07": ("ms_flair/patient07/flair.nii.gz", "ms_flair/patient07/seg.nii.gz"),
    "ms_flair/patient26": ("ms_flair/patient26/flair.nii.gz", "ms_flair/patient26/seg.nii.gz"),
    "brats/TCGA-DU-7294": (
        "brats/TCGA-DU-7294/TCGA-DU-7294-t2f.nii.gz",
        "brats/TCGA-DU-7294/TCGA-DU-7294-seg.nii.gz",
    ),
}


def auroc(score: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Probability that a positive scores above a negative, ties counting half."""
    positives = int(truth.sum())
    ranks = rankdata(score)[truth].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


def volume_rows(engine: Engine) -> Iterator[dict[str, object]]:
    """One row per volume with a lesion mask."""
    for name, (scan, mask) in VOLUMES.items():
        result = engine.predict(DATA / scan)
        truth = np.asarray(nib.load(DATA / mask).dataobj) > 0
        array = result.volume.numpy()
        inside = foreground(array, modality="MR", is_rgb=False)
        dice = dice_by_threshold(result.map_array, truth.astype(np.uint8))
        predicted = result.pred_mask > 0
        yield {
            "case": name,
            "auroc": auroc(result.map_array[inside], truth[inside]),
            "auroc_intensity": auroc(array[0][inside], truth[inside]),
            "dice": float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())),
            "best_dice": float(dice.max()),
            "findings": len(result.findings),
            "seconds": sum(result.timings.values()),
        }


def picture_row(engine: Engine) -> dict[str, object]:
    """Image-level AUROC on the brain MRI pictures, duplicates by pixel content counted once."""
    scores, means, labels, seen = [], [], [], set()
    for label, folder in ((0, "no"), (1, "yes")):
        for path in sorted((DATA / "brain_mri_2d" / folder).iterdir()):
            picture = np.asarray(Image.open(path).convert("RGB"))
            digest = hashlib.sha256(picture.tobytes() + str(picture.shape).encode()).hexdigest()
            if digest in seen:
                continue
            seen.add(digest)
            scores.append(engine.predict(path).pred_score)
            means.append(float(np.percentile(picture, 99)))
            labels.append(label)
    truth = np.array(labels) > 0
    return {
        "case": f"brain_mri_2d ({len(labels)} unique images)",
        "image_auroc": auroc(np.array(scores), truth),
        "image_auroc_99th_percentile": auroc(np.array(means), truth),
    }


def polyp_row(engine: Engine, every: int) -> dict[str, object]:
    """Pixel AUROC per polyp picture, averaged; the control is redness."""
    values, controls = [], []
    for path in sorted((DATA / "polyps_2d" / "images").iterdir())[::every]:
        result = engine.predict(path)
        mask = np.asarray(Image.open(DATA / "polyps_2d" / "masks" / path.name).convert("L")) > 127
        rgb = np.asarray(Image.open(path).convert("RGB"), dtype=float)
        redness = rgb[..., 0] / (rgb.sum(axis=-1) + 1)
        if mask.any() and not mask.all():
            values.append(auroc(result.map_array[:, :, 0].T.ravel(), mask.ravel()))
            controls.append(auroc(redness.ravel(), mask.ravel()))
    return {
        "case": f"polyps_2d ({len(values)} images)",
        "mean_pixel_auroc": float(np.mean(values)),
        "mean_pixel_auroc_redness": float(np.mean(controls)),
    }


def main() -> None:
    """Print one block per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["headclip-tiny"])
    parser.add_argument("--every", type=int, default=4, help="take every n-th polyp picture")
    parser.add_argument("--skip-pictures", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not DATA.is_dir():
        print(f"skipped: no shared data in {DATA}")
        return
    report = {}
    for name in options.models:
        engine = load_engine(name, "cpu")
        rows = list(volume_rows(engine))
        if not options.skip_pictures:
            rows += [picture_row(engine), polyp_row(engine, options.every)]
        report[Path(name).name] = rows
        print(f"{Path(name).name}, threshold {engine.model.threshold.value:.2f}")
        for row in rows:
            print("  " + ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{v}" for k, v in row.items()))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
