"""Fit class vectors for a vision-only tower on synthetic heads: logistic regression on its frozen patch features.

    python -m headclip_med.training.class_vectors --tower WEIGHT_FILE --out PACK_FOLDER [--layers 5 8]

The vectors are the converged solution of a convex problem, so they do not depend on a training run.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from headclip_med.encoders.attention import LocalAttention
from headclip_med.encoders.build import build_tower
from headclip_med.encoders.image import EncodeOptions, encode_images, resolve_layers
from headclip_med.encoders.tower import ImageTower
from headclip_med.models.record import PACK_FORMAT, LedgerEntry, PackRecord, Threshold, TowerRecord, write_record
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.training.synthetic import SliceBank, build_slice_bank, sample_batch
from headclip_med.training.threshold import calibrate_pack

log = logging.getLogger(__name__)

_SEED = 21
_LESION_FREE_PER_SLICE = 40


@dataclass(frozen=True)
class PatchSamples:
    """Projected patch features before normalisation, by layer ``(M, D)``, and their labels ``(M,)``."""

    features: dict[int, Tensor]
    labels: Tensor


@dataclass(frozen=True)
class ClassFit:
    """One layer's fit: ``centre (D,)``, ``abnormal (D,)`` unit vector (normal is its negative), and the inverse
    temperature at which the softmax equals the fitted logistic function."""

    centre: Tensor
    abnormal: Tensor
    logit_scale: float


def sample_patches(
    tower: ImageTower, bank: SliceBank, spec: Preprocessing, options: EncodeOptions, slices: int
) -> PatchSamples:
    """Sample features of lesion patches and of as many lesion-free ones inside the head.

    A patch counts as lesion from a quarter of its area on.

    Args:
        tower: Frozen.
        bank: Synthetic slices.
        spec: Gives the input size, mean and spread.
        options: Which layers are tapped and how.
        slices: How many are drawn.

    Returns:
        Features by layer with their labels, of each slice at most 40 lesion-free ones.
    """
    rng = np.random.default_rng(_SEED)
    generator = torch.Generator().manual_seed(_SEED)
    rows: dict[int, list[Tensor]] = {layer: [] for layer in options.layers}
    labels: list[Tensor] = []
    for _ in range(slices):
        pixels, masks = sample_batch(bank, rng, 1, spec.image_size, spec)
        with torch.inference_mode():
            taps = _raw_taps(tower, pixels, options)
            grid = tower.grid(pixels)
            covered = F.adaptive_avg_pool2d(masks[:, None], grid).flatten()
            bright = F.adaptive_avg_pool2d(pixels[:, :1], grid).flatten()
        inside = bright > bright.min() + 1e-3
        lesion = torch.nonzero((covered >= 0.25) & inside)[:, 0]
        free = torch.nonzero((covered == 0) & inside)[:, 0]
        free = free[torch.randperm(len(free), generator=generator)[:_LESION_FREE_PER_SLICE]]
        keep = torch.cat([lesion, free])
        for layer, features in taps.items():
            rows[layer].append(features[keep])
        labels.append(torch.cat([torch.ones(len(lesion)), torch.zeros(len(free))]))
    return PatchSamples({layer: torch.cat(parts) for layer, parts in rows.items()}, torch.cat(labels))


def _raw_taps(tower: ImageTower, pixels: Tensor, options: EncodeOptions) -> dict[int, Tensor]:
    """Projected features of one image without normalisation, ``(P, D)`` by layer."""
    features = encode_images(tower, pixels, options, normalise=False)
    return {layer: taps[0].clone() for layer, taps in features.patch_features.items()}


def fit_class_vectors(features: Tensor, labels: Tensor, decay: float = 1e-3) -> ClassFit:
    """Fit class-balanced logistic regression without intercept on centred, normalised features, to convergence.

    ``centre`` is the mean of the two classes' means, so that the boundary goes through the origin.

    Args:
        features: ``(M, D)``, not normalised.
        labels: ``(M,)``, 1 for lesion, 0 for none, both of which must occur.
        decay: Of the squared length of the direction.

    Returns:
        Centre, direction and inverse temperature.
    """
    means = [features[labels == label].mean(dim=0) for label in (0, 1)]
    centre = (means[0] + means[1]) / 2
    unit = F.normalize(features - centre, dim=-1)
    weight = torch.where(labels > 0, 0.5 / (labels > 0).sum(), 0.5 / (labels == 0).sum())
    direction = torch.zeros(features.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([direction], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-7)

    def closure() -> Tensor:
        optimiser.zero_grad()
        losses = F.binary_cross_entropy_with_logits(unit @ direction, labels, reduction="none")
        loss = (weight * losses).sum() + decay * direction.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    fitted = direction.detach()
    # softmax over (−a, a) at scale s is a logistic function of 2·s·cos, so s is half the fitted norm.
    return ClassFit(centre, F.normalize(fitted, dim=0), float(fitted.norm()) / 2)


def ranking_quality(vectors: ClassFit, features: Tensor, labels: Tensor) -> float:
    """Give the probability that a lesion patch scores above a lesion-free one (AUROC), from ranks.

    Args:
        vectors: Of :func:`fit_class_vectors`.
        features: ``(M, D)``, not normalised.
        labels: ``(M,)``, 1 for lesion.

    Returns:
        In [0, 1].
    """
    score = F.normalize(features - vectors.centre, dim=-1) @ vectors.abnormal
    ranks = score.argsort().argsort().double() + 1
    lesions = int((labels > 0).sum())
    free = len(labels) - lesions
    return float((ranks[labels > 0].sum() - lesions * (lesions + 1) / 2) / (lesions * free))


def write_vectors_pack(
    folder: Path,
    name: str,
    tower: TowerRecord,
    spec: Preprocessing,
    options: EncodeOptions,
    fits: dict[int, ClassFit],
) -> None:
    """Write ``pack.safetensors`` and ``pack.json`` with a threshold still to be calibrated.

    Args:
        folder: Of the pack, made where it is not there.
        name: Of the pack.
        tower: What the vectors were fitted on.
        spec: Gives the input size.
        options: Which layers were tapped and how.
        fits: By layer, at least of those in ``options``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ordered = [fits[layer] for layer in options.layers]
    save_file(
        {
            "patch_classes": torch.stack([torch.stack([-f.abnormal, f.abnormal]) for f in ordered]),
            "centre": torch.stack([f.centre for f in ordered]),
        },
        folder / "pack.safetensors",
    )
    record = PackRecord(
        format=PACK_FORMAT,
        name=name,
        title=f"Class vectors for {tower.name}, fitted on synthetic heads only",
        method="headclip",
        tower=tower,
        config={
            "image_size": spec.image_size,
            "feature_layers": list(options.layers),
            "local_attention": options.local_attention,
            "temperature": 1 / float(np.mean([f.logit_scale for f in ordered])),
        },
        domain="brain-mri",
        threshold=Threshold(value=0.5, origin="not calibrated yet"),
        ledger=(
            LedgerEntry(
                name=f"headclip_med.datasets.phantom, seed {_SEED}: synthetic heads",
                licence="Apache-2.0",
                count=_VOLUMES,
            ),
        ),
    )
    write_record(folder, record)


_VOLUMES = 30
_TRAIN_VOLUMES = 22


def main() -> None:
    """Sample, fit every asked layer, report the held-out quality, write and calibrate the pack, as the command asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", required=True, help="weight file or ARCH.TAG@FILE of a timm ViT")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", default=[5])
    parser.add_argument("--local-attention", default="none", choices=["vv", "qk", "qq+kk+vv", "none"])
    parser.add_argument("--image-size", type=int, default=392)
    parser.add_argument("--slices", type=int, default=220)
    choice = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    built = build_tower(choice.tower)
    local: LocalAttention = choice.local_attention
    layers = resolve_layers(choice.layers, built.tower.depth)
    options = EncodeOptions(layers, local, want_global=False)
    spec = Preprocessing(choice.image_size, built.tower.mean, built.tower.std)
    train, held_out = (
        sample_patches(built.tower, build_slice_bank(_SEED, numbers, 24, spec), spec, options, slices)
        for numbers, slices in (
            (range(_TRAIN_VOLUMES), choice.slices),
            (range(_TRAIN_VOLUMES, _VOLUMES), choice.slices // 3),
        )
    )
    fits = {}
    for layer in options.layers:
        fits[layer] = fit_class_vectors(train.features[layer], train.labels)
        quality = ranking_quality(fits[layer], held_out.features[layer], held_out.labels)
        log.info("layer %d: held-out patch AUROC %.4f", layer, quality)
    record = TowerRecord(kind="timm", name=built.architecture, sha256=built.sha256)
    write_vectors_pack(choice.out, choice.out.name, record, spec, options, fits)
    calibrate_pack(choice.out, choice.tower, heads=8)


if __name__ == "__main__":
    main()
