"""Train the embedded model ``headclip-tiny`` from procedural anatomy with inserted lesions.

    python -m headclip_med.training.tiny --out PACK_FOLDER

Every image is synthetic (``headclip_med.phantom``), so the weights carry no patient and no foreign licence.
The tower is a small timm ViT; it is trained end to end through the same encoder and scoring that inference uses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct
from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med import scoring
from headclip_med.encoders.adapters import tower_from_timm
from headclip_med.encoders.image import EncodeOptions, encode_images
from headclip_med.encoders.timm_vit import TimmVitSpec, build_timm_vit
from headclip_med.geometry import slice_frame, spacing
from headclip_med.intensity import (
    Preprocessing,
    foreground,
    intensity_ranges,
    normalise,
    place,
    rescale,
    three_channels,
    to_square,
)
from headclip_med.phantom import CONTRASTS, centred_affine, make_phantom, random_lesions
from headclip_med.slices import cut_slices
from headclip_med.types import PLANES

log = logging.getLogger(__name__)

# Seeds of training volumes lie below this; the demo and the tests use seeds above it.
TRAINING_SEED_LIMIT = 1_000_000

ARCHITECTURE = TimmVitSpec(img_size=192, patch_size=8, embed_dim=128, depth=6, num_heads=8)
ENCODE = EncodeOptions(layers=(5,), local_attention="vv", local_start=3)
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


@dataclass
class SliceBank:
    """Training slices: ``images (N, S, S)`` uint8 in display orientation, ``masks`` likewise (0 or 1)."""

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]


@dataclass(frozen=True)
class TinyModel:
    """The trained tensors and how they came about."""

    state: dict[str, Tensor]
    patch_classes: Tensor
    image_classes: Tensor
    recipe: TinyTraining
    history: list[dict[str, float]] = field(default_factory=list)


def build_bank(recipe: TinyTraining) -> SliceBank:
    """Synthetic slices of all planes, contrasts and resolutions, windowed exactly as inference does."""
    images, masks = [], []
    for number in range(recipe.volumes):
        rng = np.random.default_rng([recipe.seed, number])
        image, mask = _volume_slices(rng, int(rng.integers(TRAINING_SEED_LIMIT)), recipe.slices_per_volume)
        images.append(image)
        masks.append(mask)
        if number % 20 == 19:
            log.info("made %d of %d volumes", number + 1, recipe.volumes)
    return SliceBank(np.concatenate(images), np.concatenate(masks))


def _volume_slices(rng: np.random.Generator, seed: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    step = rng.uniform(1.3, 2.2, 3) if rng.random() < 0.5 else np.full(3, rng.uniform(1.2, 2.0))
    shape = tuple(int(n) for n in np.ceil(np.array([176.0, 212, 184]) / step))
    phantom = make_phantom(
        seed,
        shape=shape,  # type: ignore[arg-type]
        affine=centred_affine(shape, tuple(step)),  # type: ignore[arg-type]
        contrast=_random_contrast(rng),
        lesions=random_lesions(rng, int(rng.choice(5, p=[0.25, 0.2, 0.25, 0.15, 0.15])), (3.5, 20.0)),
        skull=bool(rng.random() < 0.5),
        noise=float(rng.uniform(0.005, 0.05)),
        bias=float(rng.uniform(0.0, 0.35)),
    )
    volume = phantom.array[None]
    spec = _preprocessing()
    mask = foreground(volume, modality=None, is_rgb=False)
    ranges = intensity_ranges(volume, mask, spec, is_rgb=False)
    both = torch.from_numpy(np.concatenate([volume, phantom.truth[None].astype(np.float32)]))
    images, masks = [], []
    for plane in PLANES:
        frame = slice_frame(phantom.affine, plane)
        share = mask.mean(axis=tuple(a for a in range(3) if a != frame.axis))
        chosen = _choose_slices(rng, share, phantom.truth, frame.axis, count // 3)
        cut = cut_slices(both, frame, chosen.tolist())
        steps = spacing(phantom.affine)
        where = place(cut.shape[2:], (steps[frame.row_axis], steps[frame.col_axis]), spec.image_size, spec.fit)
        images.append(to_square(rescale(cut[:, :1], ranges), where)[:, 0])
        masks.append(to_square(cut[:, 1:], where)[:, 0] > 0.5)
    stacked = (torch.cat(images) * 255).round().to(torch.uint8).numpy()
    return stacked, torch.cat(masks).to(torch.uint8).numpy()


def _choose_slices(
    rng: np.random.Generator, share: NDArray[np.float64], truth: NDArray[np.uint8], axis: int, count: int
) -> NDArray[np.int64]:
    """Half of the slices through a lesion where there is one, the rest anywhere in the head."""
    lesion = truth.any(axis=tuple(a for a in range(3) if a != axis))
    anywhere = rng.choice(np.flatnonzero(share > 0.02), count)
    if lesion.any():
        anywhere[: count // 2] = rng.choice(np.flatnonzero(lesion), count // 2)
    return anywhere


def _random_contrast(rng: np.random.Generator) -> str | tuple[float, ...]:
    if rng.random() < 0.75:
        return str(rng.choice(list(CONTRASTS), p=[0.5, 0.25, 0.25]))
    return tuple(float(v) for v in rng.uniform(0.1, 1.0, 6))


def _preprocessing() -> Preprocessing:
    return Preprocessing(image_size=ARCHITECTURE.img_size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def sample_batch(bank: SliceBank, rng: np.random.Generator, count: int, crop: int) -> tuple[Tensor, Tensor]:
    """Random crops, flips, gamma, noise and gaps: pixels ``(N, 3, crop, crop)`` and masks ``(N, crop, crop)``."""
    size = bank.images.shape[1]
    images = np.empty((count, crop, crop), dtype=np.float32)
    masks = np.empty((count, crop, crop), dtype=np.float32)
    for i, pick in enumerate(rng.integers(len(bank.images), size=count)):
        top, left = _crop_corner(rng, bank.masks[pick], size - crop)
        window = (slice(top, top + crop), slice(left, left + crop))
        image, mask = bank.images[pick][window], bank.masks[pick][window]
        if rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        images[i] = _augment(image.astype(np.float32) / 255, rng)
        masks[i] = mask
    pixels = three_channels(torch.from_numpy(images).clamp(0, 1)[:, None])
    return normalise(pixels, _preprocessing()), torch.from_numpy(masks)


def _crop_corner(rng: np.random.Generator, mask: NDArray[np.uint8], room: int) -> tuple[int, int]:
    """A crop's corner within ``[0, room]``; two times in three near a lesion pixel when there is one."""
    top, left = (int(n) for n in rng.integers(room + 1, size=2))
    rows, cols = np.nonzero(mask)
    if room and len(rows) and rng.random() < 2 / 3:
        i = rng.integers(len(rows))
        half = (mask.shape[0] - room) // 2
        jitter = rng.integers(-half // 2, half // 2 + 1, size=2)
        top = int(np.clip(rows[i] - half + jitter[0], 0, room))
        left = int(np.clip(cols[i] - half + jitter[1], 0, room))
    return top, left


def _augment(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    tissue = image > 0
    image = np.power(image, np.exp(rng.uniform(-0.4, 0.4)))
    image = image * rng.uniform(0.75, 1.1) + rng.uniform(-0.03, 0.05)
    image = image + rng.normal(0, rng.uniform(0, 0.03), image.shape)
    return np.asarray(image * tissue, dtype=np.float32)


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
        [*model.parameters(), classes], lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
    )
    history: list[dict[str, float]] = []
    begin, step, done = time.monotonic(), 0, 0.0
    while done < 1:
        done = (time.monotonic() - begin) / (60 * recipe.minutes)
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * min(1, (step + 1) / 200) * 0.5 * (1 + np.cos(np.pi * min(done, 1)))
        full = done > 1 - recipe.full_size_share
        crop, count = (ARCHITECTURE.img_size, recipe.batch // 8) if full else (recipe.crop, recipe.batch)
        pixels, masks = sample_batch(bank, rng, count, crop)
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


def _snapshot(
    model: nn.Module, classes: Tensor, recipe: TinyTraining, history: list[dict[str, float]]
) -> TinyModel:
    state = {name: tensor.detach().half() for name, tensor in model.state_dict().items()}
    patch_classes, image_classes = F.normalize(classes.detach(), dim=-1)
    return TinyModel(state, patch_classes.clone(), image_classes.clone(), recipe, list(history))


def save_tiny(model: TinyModel, folder: Path) -> Path:
    """Write ``tower.safetensors`` (float16), ``pack.safetensors`` (class features) and ``training.json``."""
    import json

    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state.items()}, folder / "tower.safetensors")
    save_file(
        {"patch_classes": model.patch_classes.contiguous(), "image_classes": model.image_classes.contiguous()},
        folder / "pack.safetensors",
    )
    log_file = {"recipe": asdict(model.recipe), "history": model.history}
    (folder / "training.json").write_text(json.dumps(log_file, indent=1) + "\n")
    return folder


def main() -> None:
    """Command-line entry: train with the shipped recipe and write the pack's tensors."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=TinyTraining.minutes)
    parser.add_argument("--volumes", type=int, default=TinyTraining.volumes)
    parser.add_argument("--seed", type=int, default=TinyTraining.seed)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = TinyTraining(seed=options.seed, minutes=options.minutes, volumes=options.volumes)
    save_tiny(train_tiny(recipe, build_bank(recipe), lambda model: save_tiny(model, options.out)), options.out)


if __name__ == "__main__":
    main()
