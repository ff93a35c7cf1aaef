"""From a configuration to a pack: read, split, cut, fit, calibrate, save."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headclip_med.base.errors import CancelledError, HeadclipError, InputError, ModelError
from headclip_med.base.files import leaving_nothing, remove_file
from headclip_med.detectors import HeadCLIP, HeadCLIPConfig
from headclip_med.detectors.descent import optimise
from headclip_med.detectors.vectors import ClassVectors
from headclip_med.encoders.build import BuiltTower, build_tower
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import EncodeOptions, first_local_block, resolve_layers
from headclip_med.models.pack import builtin_packs, is_pack
from headclip_med.models.record import Threshold
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.training.adapter import Adapter
from headclip_med.training.augment import augmented
from headclip_med.training.auxiliary import Part, auxiliary_parts, check_labels, check_masks, run_identity, slices_of
from headclip_med.training.batches import batch_indices
from headclip_med.training.checkpoint import NAME, check_new_run, checkpoint_step
from headclip_med.training.class_vectors import fit_class_vectors
from headclip_med.training.config import Schedule, TrainConfig
from headclip_med.training.feature_store import FeatureStore, remove_kept
from headclip_med.training.features import FeatureBank, Mode
from headclip_med.training.fusion import fit_fusion
from headclip_med.training.loop import Fitted, Run, TrainWatcher
from headclip_med.training.method import check_trains, train_method
from headclip_med.training.objective import batch_loss, lesion_share, validate
from headclip_med.training.save import pack_config, pack_tensors, pack_title, save_trained
from headclip_med.training.track import tracked

# Patches per slice and class that start the class vectors, at most.
_PATCHES = 60

_BETAS = (0.5, 0.999)  # of Adam in the AnomalyCLIP recipe


@dataclass(frozen=True)
class Trained:
    """What a run ended with: the pack's folder, its tower, the fit, the threshold, and how many slices by use."""

    pack: Path
    tower: str
    fitted: Fitted
    threshold: Threshold
    slices: dict[str, int]


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    watcher: TrainWatcher | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Trained:
    """Train head weights and classes, or whatever another method learns, and write a pack into ``config.out``.

    The best step is chosen on patients of the auxiliary data that were held back, never on a target set.

    Args:
        config: Of the run.
        resume: Go on with the checkpoint in ``config.out``. Without one, begin.
        watcher: Is told of the run while it lasts.
        cancel: Asked before each step. True ends the run.

    Returns:
        Where the pack is, and what it is worth.

    Raises:
        HeadclipError: Unusable data, model, configuration or folder. The last good checkpoint is kept.
    """
    watcher = watcher or TrainWatcher()
    with leaving_nothing(config.out):
        _check_one_process()
        check_trains(config)
        check_new_run(config.out, resume)
        try:
            _check_tower(config)
            check_masks(config)
            torch.set_num_threads(config.threads)
            work = _train_heads if config.method == HeadCLIP.name else train_method
            with tracked(watcher, config) as watcher:
                trained = Trained(config.out, config.tower, *work(config, resume, watcher, cancel))
        except HeadclipError as error:
            if not isinstance(error, CancelledError) and checkpoint_step(config.out) is None:
                remove_kept(config.out)  # refused, so that nothing of it will be used
            raise
        remove_kept(config.out)
        return trained


def _check_one_process() -> None:
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "A training must run in one process",
            f"{os.environ['WORLD_SIZE']} of torchrun",
            "Start it without torchrun; head weights train in seconds",
        )


def _check_tower(config: TrainConfig) -> None:
    model = config.model
    if model is not None and (model in builtin_packs() or is_pack(Path(model).expanduser())):
        raise InputError(
            "Training must begin with a tower",
            f"the pack {Path(model).name}",
            "Name an architecture with --model and its weights with --weights FILE, ARCH/TAG of open_clip or timm:ARCH",
        )


def _train_heads(
    config: TrainConfig, resume: bool, watcher: TrainWatcher, cancel: Callable[[], bool] | None
) -> tuple[Fitted, Threshold, dict[str, int]]:
    watcher.stage("loading the tower")
    built = build_tower(config.tower)
    watcher.stage("reading the data")
    parts = auxiliary_parts(config)
    watcher.stage("cutting slices")
    spec = _preprocessing(built, config)
    adapter = Adapter(built, config)
    banks = _banks(built, adapter, parts, config, spec)
    fitted = _fit(adapter, *banks, config, run_identity(config, built, parts), resume, watcher, cancel)
    fusion = None
    if config.fuse_intensity:
        watcher.stage("weighing brightness")
        own = len(banks[0]) // (config.slices.copies + 1)  # the copies come after the slices themselves
        fusion = fit_fusion(adapter, banks[0], own, HeadCLIPConfig().map_sigma, config.seed)
    title, method = pack_title(adapter, config, built), pack_config(adapter, config, spec.image_size, fusion)
    threshold = save_trained(config, built, title, pack_tensors(adapter), method, fitted, parts, watcher)
    return fitted, threshold, {"training": len(banks[0]), "validation": len(banks[1])}


def _fit(
    adapter: Adapter,
    bank: FeatureBank,
    held_out: FeatureBank,
    config: TrainConfig,
    identity: dict[str, Any],
    resume: bool,
    watcher: TrainWatcher,
    cancel: Callable[[], bool] | None,
) -> Fitted:
    """Train ``adapter`` in place; it ends in the state that validated best."""
    groups, classes = adapter.groups(), adapter.classes
    optimiser = _optimiser(groups, config)
    share = lesion_share(bank) if config.loss.balanced else None
    epoch = math.ceil(len(bank) / config.batch)

    def start() -> None:
        if not (isinstance(classes, ClassVectors) and config.classes.fit_first):
            return
        watcher.stage("starting the class vectors")
        try:
            start_vectors(adapter, classes, bank, config.seed)
        except InputError:  # these data and this configuration can never begin
            remove_file(config.out / NAME)
            raise

    def only_active(step: int) -> None:
        active = active_groups(config.schedule, step, config.steps, epoch)
        for parameter in (each for name, group in groups.items() if name not in active for each in group):
            parameter.grad = None  # the optimiser passes over it, its moments included

    run = Run(
        config.out,
        identity,
        lambda step: batch_indices(bank.labels, step, config.batch, config.seed),
        steps=config.steps,
        every=config.validate_every,
        seed=config.seed,
        judge=lambda: validate(adapter, held_out),
        start=start,
        resume=resume,
        watcher=watcher,
        cancel=cancel,
    )
    optimise(
        adapter,
        lambda indices: batch_loss(adapter, bank, indices, config, share),
        run,
        optimiser,
        before_step=only_active,
        rates="the learning rates (heads.lr, classes.lr)",
    )
    return run.finish()


def active_groups(schedule: Schedule, step: int, steps: int, epoch: int) -> tuple[str, ...]:
    """Choose which parameters move in a step.

    Both move, or in turn an epoch each, or prompts in the first half and heads in the second.

    Args:
        schedule: ``joint``, ``alternate`` or ``text_then_heads``.
        step: From 0.
        steps: Of the run.
        epoch: Steps that see every slice once.

    Returns:
        ``classes``, ``heads`` or both.
    """
    if schedule == "joint":
        return ("classes", "heads")
    if schedule == "alternate":
        return ("classes",) if (step // max(1, epoch)) % 2 == 0 else ("heads",)
    return ("classes",) if step < steps // 2 else ("heads",)


def _optimiser(groups: dict[str, list[torch.nn.Parameter]], config: TrainConfig) -> torch.optim.Optimizer:
    rates = {"classes": config.classes.lr, "heads": config.heads.lr}
    used = [{"params": parameters, "lr": rates[name]} for name, parameters in groups.items() if parameters]
    if not used:
        raise ModelError("A training run must have something to learn", "neither head weights nor classes")
    return torch.optim.Adam(used, betas=_BETAS)


def _preprocessing(built: BuiltTower, config: TrainConfig) -> Preprocessing:
    tower = built.tower
    size = config.image_size
    if size is None:
        size = 518 if (tower.native_size, tower.patch_size) == (336, 14) else tower.native_size
    if size % tower.patch_size:
        raise InputError(
            f"The image size must be a multiple of the patch size {tower.patch_size}",
            size,
            f"Use {tower.nearest_size(size)}",
        )
    return Preprocessing(size, tower.mean, tower.std, kind=config.preprocessing)


def _banks(
    built: BuiltTower, adapter: Adapter, parts: Sequence[Part], config: TrainConfig, spec: Preprocessing
) -> tuple[FeatureBank, FeatureBank]:
    train_slices = slices_of(parts, "train", config, spec)
    held_out = slices_of(parts, "held_out", config, spec)
    check_labels("training", train_slices)
    check_labels("validation", held_out)
    copies = [
        augmented(part, copy, config.seed, built.tower.mean, built.tower.std)
        for copy in range(1, config.slices.copies + 1)
        for part in train_slices
    ]
    options = EncodeOptions(
        layers=resolve_layers(config.feature_layers, built.tower.depth),
        local_attention=config.local_attention,
        local_start=config.local_start,
        want_global=adapter.uses_prompts or config.classes.image,
    )
    mode = _mode(adapter, config, built.tower.depth)
    memory = config.cache_gib * 2**30
    valid = config.loss.foreground_only
    store = FeatureStore(config.out, built.sha256, options, mode)
    # a quarter of the memory is enough for validation, which has no copies
    return (
        FeatureBank(built.tower, options, [*train_slices, *copies], mode, 0.75 * memory, valid, store),
        FeatureBank(built.tower, options, held_out, mode, 0.25 * memory, True, store),
    )


def _mode(adapter: Adapter, config: TrainConfig, depth: int) -> Mode:
    """How features are made: the linear path wherever the weights allow it, unless it was switched off."""
    if adapter.heads is None:
        return "fixed"
    linear = config.heads.branch == "local" and config.local_attention != "none"
    linear = linear and min(adapter.layers) >= first_local_block(depth, config.local_start)
    if config.fast and not linear:
        raise InputError(
            "The fast path must have head weights on a local branch that begins before every tap",
            f"branch {config.heads.branch}, attention {config.local_attention}, taps {list(adapter.layers)}",
            "Set fast: false",
        )
    return "linear" if linear and config.fast is not False else "autograd"


@torch.no_grad()
def start_vectors(
    adapter: Adapter, classes: ClassVectors, bank: FeatureBank, seed: int, weights: HeadWeights | None = None
) -> None:
    """Centre, vectors and temperature from a converged logistic regression on frozen features, or on those under
    ``weights``.

    Without it most of what head weights seem to gain is made up for badly fitted vectors (docs/decisions.md).

    Args:
        adapter: Whose centre is set.
        classes: The adapter's vectors, which are set.
        bank: Training slices.
        seed: Of which patches of a slice are taken.
        weights: Of the heads. None: every one is 1.

    Raises:
        InputError: Patches of one class only.
    """
    draw = torch.Generator().manual_seed(seed)
    rows: dict[int, list[torch.Tensor]] = {layer: [] for layer in adapter.layers}
    labels: list[torch.Tensor] = []
    for index in range(len(bank)):
        truth = bank.truth([index])
        inside, lesion = truth.valid.flatten() > 0, truth.lesion.flatten()
        chosen = []
        for wanted in ((lesion >= 0.25) & inside, (lesion == 0) & inside):
            places = torch.nonzero(wanted)[:, 0]
            chosen.append(places[torch.randperm(len(places), generator=draw)[:_PATCHES]])
        keep = torch.cat(chosen)
        for layer, features in bank.raw_features(index, weights).items():
            rows[layer].append(features[keep])
        labels.append(torch.cat([torch.ones(len(chosen[0])), torch.zeros(len(chosen[1]))]))
    truth_of = torch.cat(labels)
    if not 0 < truth_of.sum() < len(truth_of):
        raise InputError(
            "Training slices must have patches with and without lesion",
            "lesions that fill no quarter of any patch" if not truth_of.any() else "nothing but lesion",
            "Set a larger image_size, or classes.fit_first: false",
        )
    scales = []
    for place, layer in enumerate(adapter.layers):
        with torch.enable_grad():
            vectors = fit_class_vectors(torch.cat(rows[layer]), truth_of)
        adapter.centre[place] = vectors.centre
        classes.patch_vectors[place] = torch.stack([-vectors.abnormal, vectors.abnormal])
        scales.append(vectors.logit_scale)
    classes.log_scale.fill_(float(np.log(np.mean(scales))))


__all__ = ["Trained", "start_vectors", "train", "validate"]
