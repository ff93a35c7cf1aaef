"""Train the embedded model ``headclip-tiny`` from procedural anatomy with inserted lesions.

    python -m headclip_med.training.tiny --out PACK_FOLDER

Every image is synthetic (``headclip_med.phantom``), so the weights carry no patient and no foreign licence.
The tower is a small timm ViT; it is trained end to end through the same encoder and scoring that inference uses.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.fft import dct
from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med import scoring
from headclip_med.encoders.adapters import tower_from_timm
from headclip_med.encoders.image import EncodeOptions, encode_images
from headclip_med.encoders.timm_vit import TimmVitSpec, build_timm_vit
from headclip_med.hashing import sha256_file
from headclip_med.intensity import Preprocessing
from headclip_med.packs.pack import PACK_FORMAT, LedgerEntry, PackRecord, Threshold, TowerRecord, write_record
from headclip_med.training.calibration import calibrate_pack
from headclip_med.training.synthetic import SliceBank, build_bank, sample_batch

log = logging.getLogger(__name__)

ARCHITECTURE = TimmVitSpec(img_size=192, patch_size=8, embed_dim=128, depth=6, num_heads=8)
ENCODE = EncodeOptions(layers=(5,), local_attention="vv", local_start=3)
PIXELS = Preprocessing(image_size=ARCHITECTURE.img_size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
TEMPERATURE = 0.07


@dataclass(frozen=True)
class TinyTraining:
    """Recipe; the defaults made the shipped model."""

    seed: int = 20
    volumes: int = 220
    slices_per_volume: int = 40
    minutes: float = 42.0
    batch: int = 48
    crop: int = 64
    full_size_share: float = 0.35
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    image_weight: float = 0.3


@dataclass(frozen=True)
class TinyModel:
    """The trained tensors and how they came about."""

    state: dict[str, Tensor]
    patch_classes: Tensor
    image_classes: Tensor
    recipe: TinyTraining
    history: list[dict[str, float]] = field(default_factory=list)


def detection_loss(
    patches: Tensor, image_logits: Tensor, masks: Tensor, recipe: TinyTraining
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy of patches, lesion and lesion-free ones weighing the same, plus that of the global feature.

    Args:
        patches: ``(N, Hp, Wp)`` probability of abnormal; masks: ``(N, H, W)``. A patch counts as lesion when a
            quarter of it is, as lesion-free when none of it is; the rest is left out.
        image_logits: ``(N, 2)``.
    """
    covered = F.adaptive_avg_pool2d(masks[:, None], patches.shape[-2:])[:, 0]
    probability = patches.clamp(1e-4, 1 - 1e-4)
    lesion, free = covered >= 0.25, covered == 0
    local = -0.5 * (1 - probability[free]).log().mean()
    if lesion.any():
        local = local - 0.5 * probability[lesion].log().mean()
    image = F.cross_entropy(image_logits, (masks.flatten(1).sum(1) >= 8).long())
    return local + recipe.image_weight * image, {"patches": local.item(), "image": image.item()}


def start_from_local_spectra(patchify: nn.Conv2d) -> None:
    """Initialise the first rows of the patch embedding with the 2-D cosine basis of a patch.

    A token then starts as the spectrum of its patch, mean brightness first, instead of as random mixtures. Higher
    frequencies, weaker in images, get a larger gain.
    """
    side = patchify.kernel_size[0]
    basis = dct(np.eye(side), axis=0, norm="ortho")
    order = np.add.outer(np.arange(side), np.arange(side))
    plane = np.einsum("ua,vb->uvab", basis, basis) * (1 + order)[:, :, None, None]
    flat = torch.from_numpy(plane.reshape(side * side, 1, side, side)).float() / (3 * side)
    with torch.no_grad():
        patchify.weight[: side * side] = flat.expand(-1, 3, -1, -1)


def train_tiny(recipe: TinyTraining, bank: SliceBank, checkpoint: Callable[[TinyModel], object]) -> TinyModel:
    """Train for ``recipe.minutes``; a cosine schedule follows the clock. ``checkpoint`` is called now and then."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng([recipe.seed, 1])
    model = build_timm_vit(ARCHITECTURE)
    start_from_local_spectra(model.patch_embed.proj)
    tower = tower_from_timm(model)
    tower.requires_grad_(True)
    classes = nn.Parameter(F.normalize(torch.randn(2, 2, tower.output_dim), dim=-1))
    optimiser = torch.optim.AdamW(
        [*model.parameters(), classes],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        betas=(0.9, 0.98),
    )
    history: list[dict[str, float]] = []
    begin, step, done = time.monotonic(), 0, 0.0
    while done < 1:
        done = (time.monotonic() - begin) / (60 * recipe.minutes)
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * min(1, (step + 1) / 200) * 0.5 * (1 + np.cos(np.pi * min(done, 1)))
        full = done > 1 - recipe.full_size_share
        crop, count = (ARCHITECTURE.img_size, recipe.batch // 8) if full else (recipe.crop, recipe.batch)
        pixels, masks = sample_batch(bank, rng, count, crop, PIXELS)
        patch_classes, image_classes = F.normalize(classes, dim=-1)
        features = encode_images(tower, pixels, ENCODE)
        by_layer = dict.fromkeys(features.patch_features, patch_classes)
        patches = scoring.patch_map(features.patch_features, by_layer, features.grid, logit_scale=1 / TEMPERATURE)
        assert features.global_feature is not None
        image_logits = features.global_feature @ image_classes.T / TEMPERATURE
        loss, parts = detection_loss(patches, image_logits, masks, recipe)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 50 == 0:
            history.append({"step": step, "done": done, "loss": loss.item(), **parts})
            log.info("step %d, %.0f %%: %s", step, 100 * done, {k: round(v, 3) for k, v in history[-1].items()})
        if step % 500 == 0:
            checkpoint(_snapshot(model, classes, recipe, history))
    return _snapshot(model, classes, recipe, history)


def _snapshot(model: nn.Module, classes: Tensor, recipe: TinyTraining, history: list[dict[str, float]]) -> TinyModel:
    state = {name: tensor.detach().half() for name, tensor in model.state_dict().items()}
    patch_classes, image_classes = F.normalize(classes.detach(), dim=-1)
    return TinyModel(state, patch_classes.clone(), image_classes.clone(), recipe, list(history))


def save_tiny(model: TinyModel, folder: Path) -> Path:
    """Write a pack: ``tower.safetensors`` (float16), ``pack.safetensors``, ``training.json`` and ``pack.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state.items()}, folder / "tower.safetensors")
    save_file(
        {
            "patch_classes": model.patch_classes.contiguous(),
            "image_classes": model.image_classes.contiguous(),
        },
        folder / "pack.safetensors",
    )
    log_file = {"recipe": asdict(model.recipe), "history": model.history}
    (folder / "training.json").write_text(json.dumps(log_file, indent=1) + "\n")
    write_record(folder, tiny_record(folder, model.recipe))
    return folder


def tiny_record(folder: Path, recipe: TinyTraining) -> PackRecord:
    """What ``pack.json`` says about the tensors in ``folder``, with a threshold still to be calibrated."""
    return PackRecord(
        format=PACK_FORMAT,
        name="headclip-tiny",
        title="Embedded demonstration model, trained on synthetic heads only",
        method="headclip",
        tower=TowerRecord(
            kind="embedded",
            name="headclip-tiny-vit",
            sha256=sha256_file(folder / "tower.safetensors"),
            file="tower.safetensors",
            spec=ARCHITECTURE,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        config={
            "image_size": ARCHITECTURE.img_size,
            "feature_layers": list(ENCODE.layers),
            "local_attention": ENCODE.local_attention,
            "local_start": ENCODE.local_start,
            "temperature": TEMPERATURE,
        },
        domain="brain-mri",
        threshold=Threshold(value=0.5, origin="not calibrated yet"),
        ledger=(
            LedgerEntry(
                name=f"headclip_med.phantom, seed {recipe.seed}: synthetic heads",
                licence="Apache-2.0",
                count=recipe.volumes,
            ),
        ),
    )


def main() -> None:
    """Command-line entry: make the synthetic slices, train, calibrate, write the pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=TinyTraining.minutes)
    parser.add_argument("--volumes", type=int, default=TinyTraining.volumes)
    parser.add_argument("--seed", type=int, default=TinyTraining.seed)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = TinyTraining(seed=options.seed, minutes=options.minutes, volumes=options.volumes)
    bank = build_bank(recipe.seed, range(recipe.volumes), recipe.slices_per_volume, PIXELS)
    save_tiny(train_tiny(recipe, bank, lambda model: save_tiny(model, options.out)), options.out)
    calibrate_pack(options.out)


if __name__ == "__main__":
    main()
