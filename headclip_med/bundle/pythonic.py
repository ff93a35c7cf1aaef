"""The bundle's workflows in plain Python, for those who run no ``$`` expressions: the same parts, nothing evaluated.

    from headclip_med.bundle.pythonic import HeadCLIPInference

    workflow = HeadCLIPInference(dataset_dir="scans", output_dir="out")
    workflow.initialize()
    workflow.run()
    workflow.finalize()

Settings have the names and the values of the configs' top-level keys. ``monai.bundle.create_workflow`` takes the
classes by their dotted names, and every property of MONAI's contract can be read and set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from headclip_med_workflows import bundle_root as installed_bundle
from monai.bundle import PythonicWorkflow
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import (
    CheckpointLoader,
    CheckpointSaver,
    EarlyStopHandler,
    LrScheduleHandler,
    MetricsSaver,
    StatsHandler,
    TensorBoardStatsHandler,
    ValidationHandler,
    from_engine,
)
from monai.transforms import (
    Compose,
    CopyItemsd,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    SaveImaged,
)
from monai.utils import set_determinism

from headclip_med.base.errors import InputError
from headclip_med.bundle.data import Cases, LoadCase, NameByCased, TrainingSlices, find_cases, find_images
from headclip_med.bundle.evaluator import CaseEvaluator, CaseLoader
from headclip_med.bundle.handlers import LedgerSaver, PackSaver, ScoreSaver, seen_by, whole_ledger
from headclip_med.bundle.inferer import HeadCLIPInferer, PatchGridInferer, TakeScoresd
from headclip_med.bundle.metrics import AnomalyMetrics
from headclip_med.bundle.network import HeadCLIPNetwork, build_network
from headclip_med.detectors.losses import MapLoss
from headclip_med.engine.device import Precision
from headclip_med.models.record import LedgerEntry
from headclip_med.reading import VolumeReader
from headclip_med.writing.monai_writer import NiftiMapWriter


@dataclass(frozen=True)
class Settings:
    """Values of the configs' top-level keys, as they stand there; paths default to the bundle's folder.

    Those of training alone, and those of evaluation and inference, are documented in the configs.
    """

    dataset_dir: str = ""
    output_dir: str = ""
    ckpt_dir: str = ""
    ckpt_path: str = ""
    load_pretrain: bool = True
    best_name: str = "model_trained.pt"
    device: str = ""
    model: str = "headclip-tiny"
    weights: str | None = None
    domain: str | None = None
    learn: Sequence[str] = ("heads", "classes")
    precision: Precision = "float32"
    layout: str | None = None
    sequences: Sequence[str] = ()
    lesion_values: int | str | Sequence[int | str] | None = None
    ignore_values: int | str | Sequence[int | str] | None = None
    val_fraction: float = 0.2
    seed: int = 0
    data_licence: str = "not stated"
    max_epochs: int = 20
    batch_size: int = 8
    learning_rate: float = 0.01
    amp: bool = False
    val_interval: int = 1
    patience: int = 10
    key_metric: str = "pixel_average_precision"
    tensorboard: bool = True
    held_out_only: bool = False
    allow_overlap: bool = False
    load_checkpoint: bool = True
    save_maps: bool = True
    pattern: str = "*"
    series: str | int | None = None
    time: int | None = None
    on_irregular: str = "error"


class _Workflow(PythonicWorkflow):
    """What the three workflows share: settings, network, and the order of a run.

    Args:
        settings: fields of :class:`Settings`.

    Raises:
        InputError: a setting that does not exist, with the nearest one that does.
    """

    kind = "train"
    defaults: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self, workflow_type: str | None = None, bundle_root: str | Path | None = None, **settings: Any
    ) -> None:
        root = Path(bundle_root) if bundle_root else installed_bundle("headclip_zero_shot")
        super().__init__(workflow_type=workflow_type or self.kind, meta_file=str(root / "configs" / "metadata.json"))
        _check_names(settings)
        places = {
            "dataset_dir": str(root / "data"),
            "output_dir": str(root / "eval"),
            "ckpt_dir": str(root / "models"),
            "ckpt_path": str(root / "models" / "model.pt"),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
        }
        self.root, self.settings = root, Settings(**{**places, **self.defaults, **settings})
        self._cases: Cases | None = None

    def finalize(self) -> None:
        """Nothing is left open."""
        set_determinism(None)

    def get_bundle_root(self) -> str:
        return str(self.root)

    def get_device(self) -> torch.device:
        return torch.device(self.settings.device)

    def get_dataset_dir(self) -> str:
        return self.settings.dataset_dir

    def get_network_def(self) -> HeadCLIPNetwork:
        chosen = self.settings
        network = build_network(
            chosen.model,
            weights=chosen.weights,
            domain=chosen.domain,
            learn=chosen.learn,
            precision=chosen.precision,
        )
        return network.to(self.device)

    def cases(self) -> Cases:
        """The labelled set, read once."""
        if self._cases is None:
            chosen = self.settings
            self._cases = find_cases(
                chosen.dataset_dir,
                layout=chosen.layout,
                sequences=chosen.sequences,
                lesion_values=chosen.lesion_values,
                ignore_values=chosen.ignore_values,
                val_fraction=chosen.val_fraction,
                seed=chosen.seed,
            )
        return self._cases

    def _loader(self) -> CheckpointLoader:
        return CheckpointLoader(self.settings.ckpt_path, {"model": self.network_def}, map_location=self.device)

    def _board(self, **options: Any) -> list[TensorBoardStatsHandler]:
        if not self.settings.tensorboard:
            return []
        return [TensorBoardStatsHandler(log_dir=self.settings.output_dir, **options)]

    def _metric(self) -> AnomalyMetrics:
        return AnomalyMetrics(self.settings.key_metric, self.network_def.model.threshold.value)


class HeadCLIPTraining(_Workflow):
    """``configs/train.yaml``: head weights and class vectors on a frozen tower."""

    def run(self) -> None:
        """Train, validating as it goes."""
        set_determinism(self.settings.seed)
        self.trainer.run()

    def get_train_preprocessing(self) -> Compose:
        both = ["image", "label"]
        return Compose(
            [
                RandFlipd(both, prob=0.5, spatial_axis=1),
                RandAffined(
                    both,
                    prob=0.5,
                    rotate_range=0.17,
                    scale_range=[0.1, 0.1],
                    translate_range=[8, 8],
                    mode=["bilinear", "nearest"],
                    padding_mode="border",
                ),
                RandAdjustContrastd(["image"], prob=0.3, gamma=[0.8, 1.25]),
                RandGaussianNoised(["image"], prob=0.3, std=0.05),
            ]
        )

    def get_train_dataset_data(self) -> list[dict[str, Any]]:
        return self.cases().training

    def get_train_dataset(self) -> TrainingSlices:
        chosen = self.settings
        return TrainingSlices(
            self.train_dataset_data,
            self.network_def,
            self.train_preprocessing,
            name=Path(chosen.dataset_dir).name,
            licence=chosen.data_licence,
        )

    def get_train_inferer(self) -> PatchGridInferer:
        return PatchGridInferer()

    def get_max_epochs(self) -> int:
        return self.settings.max_epochs

    def get_val_interval(self) -> int:
        return self.settings.val_interval

    def get_val_preprocessing(self) -> Compose:
        return _validation_transforms()

    def get_val_dataset_data(self) -> list[dict[str, Any]]:
        return self.cases().validation

    def get_val_dataset(self) -> Dataset:
        return Dataset(self.val_dataset_data, self.val_preprocessing)

    def get_val_inferer(self) -> HeadCLIPInferer:
        return HeadCLIPInferer()

    def get_val_postprocessing(self) -> Compose:
        return Compose([TakeScoresd(["pred"])])

    def get_val_key_metric(self) -> dict[str, AnomalyMetrics]:
        return {self.settings.key_metric: self._metric()}

    def _ledger(self) -> tuple[LedgerEntry, ...]:
        start = self.settings.ckpt_path if self.settings.load_pretrain else None
        return whole_ledger(self.network_def, [self.train_dataset.entry], start)

    def get_val_handlers(self) -> list[Any]:
        chosen = self.settings
        return [
            PackSaver(Path(chosen.ckpt_dir) / chosen.best_name, self.network_def, self._ledger()),
            CheckpointSaver(
                chosen.ckpt_dir,
                {"model": self.network_def},
                save_key_metric=True,
                key_metric_filename=chosen.best_name,
            ),
            StatsHandler(iteration_log=False),
            *self._board(iteration_log=False),
        ]

    def get_evaluator(self) -> SupervisedEvaluator:
        return SupervisedEvaluator(
            device=self.device,
            val_data_loader=DataLoader(self.val_dataset, batch_size=1),
            network=self.network_def,
            inferer=self.val_inferer,
            postprocessing=self.val_postprocessing,
            key_val_metric=self.val_key_metric,
            val_handlers=self.val_handlers,
            amp=self.settings.amp,
        )

    def get_train_handlers(self) -> list[Any]:
        loss = {"tag_name": "train_loss", "output_transform": from_engine(["loss"], first=True)}
        return [
            *([self._loader()] if self.settings.load_pretrain else []),
            ValidationHandler(self.val_interval, self.evaluator),
            StatsHandler(**loss),
            *self._board(**loss),
        ]

    def get_trainer(self) -> SupervisedTrainer:
        chosen, network = self.settings, self.network_def
        optimizer = torch.optim.Adam(
            [p for p in network.parameters() if p.requires_grad], lr=chosen.learning_rate, betas=(0.5, 0.999)
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, chosen.max_epochs)
        seen = LedgerSaver(Path(chosen.ckpt_dir) / "last.pt", self._ledger())
        last = CheckpointSaver(
            chosen.ckpt_dir,
            {"model": network, "optimizer": optimizer},
            save_final=True,
            final_filename="last.pt",
        )
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=self.max_epochs,
            train_data_loader=DataLoader(self.train_dataset, batch_size=chosen.batch_size, shuffle=True),
            network=network,
            optimizer=optimizer,
            loss_function=MapLoss(lesion_share=self.train_dataset.lesion_share),
            inferer=self.train_inferer,
            amp=chosen.amp,
            train_handlers=[LrScheduleHandler(schedule), *self.train_handlers, seen, last],
        )
        stop = EarlyStopHandler(
            chosen.patience, lambda engine: engine.state.metrics[chosen.key_metric], trainer=trainer
        )
        stop.attach(self.evaluator)
        return trainer


class _Scoring(_Workflow):
    """What evaluation and inference share: a network over a set of cases."""

    kind = "infer"
    defaults = {"learn": (), "precision": "auto"}  # noqa: RUF012

    def run(self) -> None:
        """Score every case."""
        self.evaluator.run()

    def get_dataset(self) -> Dataset:
        return Dataset(self.dataset_data, self.preprocessing)

    def get_inferer(self) -> HeadCLIPInferer:
        return HeadCLIPInferer()

    def get_key_metric(self) -> dict[str, AnomalyMetrics] | None:
        return None

    def get_evaluator(self) -> CaseEvaluator:
        return CaseEvaluator(
            device=self.device,
            val_data_loader=CaseLoader(self.dataset, batch_size=1),
            network=self.network_def,
            inferer=self.inferer,
            postprocessing=self.postprocessing,
            key_val_metric=self.key_metric,
            val_handlers=self.handlers,
            amp=self.settings.amp,
        )


class HeadCLIPEvaluation(_Scoring):
    """``configs/evaluate.yaml``: metrics and maps of a network on a labelled set; the metrics are in
    ``evaluator.state.metrics`` and in ``metrics.csv``."""

    def get_preprocessing(self) -> Compose:
        return _validation_transforms()

    def get_dataset_data(self) -> list[dict[str, Any]]:
        chosen = self.settings
        if chosen.held_out_only:
            return self.cases().validation
        checkpoint = chosen.ckpt_path if chosen.load_checkpoint else None
        return self.cases().everything(seen_by(self.network_def, checkpoint), chosen.allow_overlap)

    def get_postprocessing(self) -> Compose:
        steps: list[Any] = [TakeScoresd(["pred"])]
        if self.settings.save_maps:
            steps += [CopyItemsd(["pred"], names=["anomaly_map"])]
            steps += _to_disk("anomaly_map", self.preprocessing, self.settings.output_dir)
        return Compose(steps)

    def get_key_metric(self) -> dict[str, AnomalyMetrics] | None:
        return {self.settings.key_metric: self._metric()}

    def get_handlers(self) -> list[Any]:
        return [
            *([self._loader()] if self.settings.load_checkpoint else []),
            MetricsSaver(self.settings.output_dir, metrics="*", metric_details=None),
            StatsHandler(iteration_log=False),
            *self._board(iteration_log=False),
        ]


class HeadCLIPInference(_Scoring):
    """``configs/inference.yaml``: maps and scores of scans."""

    def get_preprocessing(self) -> Compose:
        chosen = self.settings
        reader = VolumeReader(chosen.series, chosen.time, chosen.on_irregular)
        return Compose(
            [
                LoadImaged("image", reader=reader),
                EnsureChannelFirstd("image"),
                NameByCased("image"),
                Orientationd("image", "RAS", labels=None),
            ]
        )

    def get_dataset_data(self) -> list[dict[str, Any]]:
        return find_images(self.settings.dataset_dir, self.settings.pattern)

    def get_postprocessing(self) -> Compose:
        return Compose([TakeScoresd("pred"), *_to_disk("pred", self.preprocessing, self.settings.output_dir)])

    def get_handlers(self) -> list[Any]:
        loader = [self._loader()] if self.settings.load_pretrain else []
        return [*loader, ScoreSaver(self.settings.output_dir), StatsHandler(iteration_log=False)]


def _validation_transforms() -> Compose:
    return Compose([LoadCase(), Orientationd(["image", "label"], "RAS", labels=None)])


def _to_disk(key: str, before: Compose, output_dir: str) -> list[Any]:
    """Back to the source's own grid, and into a NIfTI file."""
    return [
        Invertd(key, transform=before, orig_keys="image", nearest_interp=False, to_tensor=True),
        SaveImaged(
            key,
            output_dir=output_dir,
            output_postfix="anomaly_map",
            output_ext=".nii.gz",
            resample=False,
            writer=NiftiMapWriter,
            print_log=False,
        ),
    ]


def _check_names(settings: dict[str, Any]) -> None:
    known = [field.name for field in fields(Settings)]
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}" if near else f"Choose among {', '.join(known)}"
            raise InputError("A setting must be one of the bundle's", name, hint)
