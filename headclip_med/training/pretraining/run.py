"""Pretrain ``headclip-tiny``: a small tower that finds lesions painted into, and known in, real brains.

    python -m headclip_med.cli.pretrain CONFIG.yaml [--out PACK_FOLDER] [--resume]

The bundle ``headclip_tiny_pretraining`` runs the same. Batches depend on the seed and the step alone, so that the same
configuration gives the same file on a CPU, interrupted or not.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer, SimpleInferer
from scipy import ndimage
from torch import Tensor, nn

from headclip_med.base.errors import CancelledError
from headclip_med.base.fields import read_fields
from headclip_med.base.files import atomic_path, save_tensors, sha256_file
from headclip_med.detectors.descent import optimise
from headclip_med.models.pack import TENSORS_NAME
from headclip_med.models.record import PACK_FORMAT, LedgerEntry, PackRecord, Threshold, TowerRecord, write_record
from headclip_med.models.scope import Scope
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.training.checkpoint import check_new_run
from headclip_med.training.fusion import Fusion, logistic_fusion
from headclip_med.training.loop import Run, TrainWatcher
from headclip_med.training.pretraining.anatomy import Anatomy, read_anatomy
from headclip_med.training.pretraining.batches import PaintedBatch, PaintedSlices
from headclip_med.training.pretraining.config import PretrainConfig, pretraining_recipe
from headclip_med.training.pretraining.lesions import SEQUENCES
from headclip_med.training.pretraining.network import PIXEL_MEAN, PIXEL_STD, DetectionLoss, PretrainNetwork
from headclip_med.training.stop import Stop, stopped_words
from headclip_med.training.threshold import calibrate_pack

log = logging.getLogger(__name__)

TOWER_NAME = "tower.safetensors"
# What the recipe is made for: brightness is weighed, and the threshold chosen, on FLAIR of brains alone.
_SCOPE = Scope(modalities=("MR",), colour=False, dimensions=3, sequences=("flair",), stripped=True)
_WARM_UP = 100  # steps to the full learning rate
_FUSION_SLICES, _FUSION_PIXELS = 96, 300  # labelled slices, and pixels of each and of each class


@dataclass(frozen=True)
class Pretrained:
    """The pack's folder, the loss of the last entry of the history, and how many slices were learned from."""

    pack: Path
    last_loss: float
    slices: int


class Pretrainer:
    """One run: what a bundle's ``run`` calls.

    Args:
        config: The recipe.
        network, slices, loss: Made from ``config``.
        ledger: Of the bank in ``slices``.
        inferer: Runs the network.
        max_epochs: Ends after so many times ``save_every`` steps, to be resumed. None: at the end of the schedule.
        resume: Go on with the checkpoint in ``config.out``. Without one, begin.
        watcher: Is told of the run.
        cancel: Asked before each step, None to listen to Ctrl-C and SIGTERM.
    """

    def __init__(
        self,
        config: PretrainConfig,
        network: PretrainNetwork,
        slices: PaintedSlices,
        ledger: tuple[LedgerEntry, ...],
        *,
        inferer: Inferer | None = None,
        loss: DetectionLoss | None = None,
        max_epochs: int | None = None,
        resume: bool = False,
        watcher: TrainWatcher | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> None:
        self.config, self.network, self.slices, self.ledger = config, network, slices, ledger
        self.inferer, self.loss = inferer or SimpleInferer(), loss or DetectionLoss(config.small_lesions)
        self.last_step = config.steps if max_epochs is None else min(config.steps, max_epochs * config.save_every)
        self.resume, self.watcher, self.cancel = resume, watcher or TrainWatcher(), cancel

    def run(self) -> Pretrained:
        """Train, weigh brightness, write the pack.

        Returns:
            The pack's folder and what it was learned from.

        Raises:
            OutputError: The folder cannot be written to, or holds the checkpoint of a run that is not resumed.
            ModelError: A loss that is not finite.
            CancelledError: It was stopped, by Ctrl-C and SIGTERM too. The last checkpoint is kept.
        """
        if self.cancel is not None:
            return self._run()
        with Stop(self.watcher, log.warning) as stop:
            self.watcher, self.cancel = stop, stop.cancel
            try:
                return self._run()
            except (KeyboardInterrupt, CancelledError) as error:
                words = stopped_words(stop.where, self.config.out)
                raise CancelledError(words) from error

    def _run(self) -> Pretrained:
        config = self.config
        check_new_run(config.out, self.resume)
        torch.set_num_threads(config.threads)
        history = self._train()
        self.watcher.stage("weighing brightness")
        self.network.eval()
        fusion = fit_network_fusion(self.network, self.slices.anatomy, config)
        save_pretrained(self.network, fusion, config, self.ledger, history)
        if config.threshold is None:
            self.watcher.stage("choosing the threshold")
            calibrate_pack(config.out)
        return Pretrained(config.out, history[-1]["loss"] if history else math.nan, len(self.slices.anatomy))

    def _train(self) -> list[dict[str, float]]:
        config, network = self.config, self.network
        run = Run(
            config.out,
            self._identity(),
            self.slices.__getitem__,
            steps=self.last_step,
            every=config.save_every,
            seed=config.seed,
            stage="pretraining",
            planned=config.steps,
            resume=self.resume,
            watcher=self.watcher,
            cancel=self.cancel,
        )
        optimiser = torch.optim.AdamW(network.groups(), betas=(0.9, 0.98))

        def at_pace(step: int) -> None:
            """Warm up, then fall by half a cosine; no gradient is longer than 1."""
            pace = min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / config.steps))
            for group in optimiser.param_groups:
                group["lr"] = group["rate"] * pace
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)

        optimise(network, self._loss_of, run, optimiser, before_step=at_pace, rates="learning_rate")
        return run.finish().history

    def _loss_of(self, batch: PaintedBatch) -> Tensor:
        pull = self.config.head_decay * (self.network.head_weights - 1).square().sum()
        loss: Tensor = self.loss(self.inferer(batch.levels, self.network, batch.corner), batch) + pull
        return loss

    def _identity(self) -> dict[str, Any]:
        fields = self.config.model_dump(
            mode="json", exclude={"out", "name", "sources", "threshold", "threshold_origin", "save_every"}
        )
        return {"configuration": fields, "data": [entry.model_dump(mode="json") for entry in self.ledger]}


@torch.no_grad()
def fit_network_fusion(network: PretrainNetwork, bank: Anatomy, config: PretrainConfig) -> Fusion | None:
    """Fit how brightness joins the map, from labelled slices as they are.

    Classes are balanced for a and b. The offset c then gets the log-odds of lesion among the slices' pixels, so that
    healthy tissue lies near 0 and not near a half.

    Args:
        network: As it was trained.
        bank: Slices, of which those with a lesion are used.
        config: Names the sequences, and gives the seed.

    Returns:
        (a, b, c) of :func:`headclip_med.detectors.scoring.fuse_intensity`, None without labelled slices.
    """
    wanted = torch.tensor([SEQUENCES.index(name) for name in config.fuse_on])
    labelled = bank.lesions.flatten(1).any(dim=1) & torch.isin(bank.sequence, wanted)
    places = torch.nonzero(labelled)[:, 0]
    if len(places) == 0:
        return None
    if len(places) > _FUSION_SLICES:
        places = places[torch.linspace(0, len(places) - 1, _FUSION_SLICES).round().long()]
    draw = torch.Generator().manual_seed(config.seed)
    rows, labels, shares = [], [], []
    a, b, c = network.fusion
    for place in places:
        levels = bank.images[place][None].float() / 255
        odds = ((network(levels).logits - b * levels - c) / a)[0]
        share = _share_of_lesion(bank.lesions[place])
        for label, of_class in ((1.0, share > 0), (0.0, bank.inside[place] & (share == 0))):
            found = torch.nonzero(of_class.flatten())[:, 0]
            found = found[torch.randperm(len(found), generator=draw)[:_FUSION_PIXELS]]
            rows.append(torch.stack([odds.flatten()[found], levels.flatten()[found]], dim=1))
            labels.append(torch.full((len(found),), label))
            shares.append(share.flatten()[found] if label else torch.ones(len(found)))
    fitted = logistic_fusion(torch.cat(rows), torch.cat(labels), torch.cat(shares))
    return fitted[0], fitted[1], fitted[2] + _prior_odds(bank, places)


def _prior_odds(bank: Anatomy, places: Tensor) -> float:
    """log(π / (1 − π)), π being the share of lesion among the pixels of the patient."""
    lesion, inside = (int(part[places].sum()) for part in (bank.lesions, bank.inside))
    return math.log(lesion / max(1, inside - lesion))


def _share_of_lesion(lesions: Tensor) -> Tensor:
    """``(S, S)`` bool → 1 / area of the lesion that a pixel is of, 0 elsewhere: so every lesion weighs the same."""
    regions, count = ndimage.label(lesions.numpy(), structure=np.ones((3, 3)))
    areas = np.bincount(regions.ravel(), minlength=count + 1).astype(np.float32)
    return torch.from_numpy(np.where(regions > 0, 1 / areas[regions], 0).astype(np.float32))


def save_pretrained(
    network: PretrainNetwork,
    fusion: Fusion | None,
    config: PretrainConfig,
    ledger: tuple[LedgerEntry, ...],
    history: list[dict[str, float]],
) -> Path:
    """Write the pack: ``tower.safetensors`` (float16), ``pack.safetensors``, ``training.json`` and ``pack.json``.

    Args:
        network: As it was trained.
        fusion: (a, b, c) of brightness, or None.
        config: The recipe.
        ledger: What it was learned from.
        history: Losses by step.

    Returns:
        Path of ``pack.json``.

    Raises:
        OutputError: One cannot be written.
    """
    folder = config.out
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().half().contiguous() for name, tensor in network.vit.state_dict().items()}
    learned = {
        "patch_classes": nn.functional.normalize(network.classes.detach(), dim=-1).contiguous(),
        "head_weights": network.head_weights.detach().clone(),
    }
    save_tensors(folder / TOWER_NAME, state)
    save_tensors(folder / TENSORS_NAME, learned)
    recipe = config.model_dump(mode="json", exclude={"out", "sources"})
    with atomic_path(folder / "training.json") as draft:
        draft.write_text(json.dumps({"recipe": recipe, "history": history}, indent=1) + "\n")
    return write_record(folder, _record(network, fusion, config, ledger))


def _record(
    network: PretrainNetwork, fusion: Fusion | None, config: PretrainConfig, ledger: tuple[LedgerEntry, ...]
) -> PackRecord:
    threshold = Threshold(value=0.5, origin="not calibrated yet")
    if config.threshold is not None:
        threshold = Threshold(value=config.threshold, origin=config.threshold_origin or "set by the configuration")
    return PackRecord(
        format=PACK_FORMAT,
        name=config.name,
        title="Small tower trained on lesions painted into brains and on those known in them",
        method="headclip",
        tower=TowerRecord(
            kind="embedded",
            name="headclip-tiny-vit",
            sha256=sha256_file(config.out / TOWER_NAME),
            file=TOWER_NAME,
            spec=config.tower,
            mean=PIXEL_MEAN,
            std=PIXEL_STD,
        ),
        config={
            "image_size": config.image_size,
            "feature_layers": list(config.taps),
            "local_attention": config.local_attention,
            "local_start": config.local_start,
            "temperature": math.exp(-float(network.log_scale.detach())),
            "intensity_fusion": None if fusion is None else list(fusion),
        },
        domain="brain-mri",
        scope=_SCOPE,
        threshold=threshold,
        ledger=ledger,
    )


def preprocessing(config: PretrainConfig) -> Preprocessing:
    """Say how volumes become the tower's squares.

    Args:
        config: Gives the side in pixels.

    Returns:
        Size, mean and spread.
    """
    return Preprocessing(config.image_size, PIXEL_MEAN, PIXEL_STD)


def read_bank(config: PretrainConfig, watcher: TrainWatcher | None = None) -> tuple[Anatomy, tuple[LedgerEntry, ...]]:
    """Cut the slices of every source, and collect their lines in the data ledger.

    Args:
        config: Names the sources.
        watcher: Is told of every volume.

    Returns:
        Slices and ledger.
    """
    watcher = watcher or TrainWatcher()
    return read_anatomy(config, preprocessing(config), lambda name: watcher.stage(f"cutting slices: {name}"))


def pretrain(
    config: PretrainConfig,
    *,
    resume: bool = False,
    watcher: TrainWatcher | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Pretrained:
    """Read, train, write: see :class:`Pretrainer`.

    Args:
        config: The recipe.
        resume: Go on with the checkpoint in ``config.out``.
        watcher: Is told of the run.
        cancel: Asked before each step.

    Returns:
        The pack's folder and what it was learned from.
    """
    anatomy, ledger = read_bank(config, watcher)
    slices, network = PaintedSlices(anatomy, config), PretrainNetwork(config)
    return Pretrainer(config, network, slices, ledger, resume=resume, watcher=watcher, cancel=cancel).run()


def load_pretrain_config(path: Path, **changes: Any) -> PretrainConfig:
    """Read a configuration from a YAML file, with ``changes`` on top.

    Args:
        path: Of the file.
        changes: Fields by name.

    Returns:
        The configuration, checked.

    Raises:
        InputError: An unreadable file, an unknown field, or a value that a field may not have.
    """
    return pretraining_recipe(**{**read_fields(path), **changes})
