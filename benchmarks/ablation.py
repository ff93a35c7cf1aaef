"""What each part of HeadCLIP is worth on real images: python benchmarks/ablation.py [--task TASK] [--json FILE]

The DINOv2 ViT-S/14 tower, adapted and tested on the data beside the project (HEADCLIP_SHARED), never on the same
patient. Tasks: brain, leave one data set out (two MS patients; one glioma; one contrast-enhanced tumour); flair, leave
one patient out of the three with FLAIR; colon, three folds of the polyp images. Rows: distance from the image's mean
feature (no adaptation), brightness or redness alone, a tower with random weights, class vectors on the tower's ordinary
tokens, the same on V-V attention, that with a joint score of map and global feature, head weights with vectors fitted
again to convergence, and vectors and weights with brightness in the map. Pixels are those of the model's square input
inside the patient; an image is a slice. Intervals are bootstraps over cases (colon: images) with seeds averaged; with
fewer than ten cases there are none.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from slice_measures import (
    METRICS,
    SHARED,
    SIGMA,
    TOWER,
    Fold,
    Scorer,
    Tally,
    control_scorer,
    cut_slices_of,
    fit_vectors,
    flair_folds,
    map_scorer,
    measure,
    numbers,
    pixel_metrics,
    pooled,
)
from torch.nn import functional as F

from headclip_med.datasets import CaseDataset, open_dataset
from headclip_med.encoders.build import BuiltTower, build_tower
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import EncodeOptions, encode_images, resolve_layers
from headclip_med.evaluation.metrics.resample import choose_bins, count_patients, no_interval, patient_draws
from headclip_med.evaluation.settings import Settings
from headclip_med.training.adapter import Adapter
from headclip_med.training.batches import batch_indices
from headclip_med.training.class_vectors import fit_class_vectors
from headclip_med.training.config import SliceConfig, TrainConfig
from headclip_med.training.features import FeatureBank
from headclip_med.training.fusion import fit_fusion
from headclip_med.training.objective import batch_loss, lesion_share
from headclip_med.training.run import start_vectors
from headclip_med.training.slices import TrainingSlice

_POLYPS = 120  # of the 200 images, so that a run ends within the hour on two cores


@dataclass(frozen=True)
class Task:
    """A domain: its folds, and how slices become features."""

    name: str
    folds: list[Fold]
    layers: tuple[int, ...]
    image_size: int
    control: str


def brain_folds(built: BuiltTower, image_size: int) -> list[Fold]:
    """One fold per data set, tested on it and adapted on the others."""
    data = SHARED / "data"
    sets = {
        "ms_flair": open_dataset(f"brats:{data / 'ms_flair'}", sequences=["t2f"]),
        "brats": open_dataset(f"brats:{data / 'brats' / 'TCGA-DU-7294'}", sequences=["t2f"]),
        "nrrd": _nrrd(data / "nrrd"),
    }
    config = SliceConfig(lesion=24, free=12, copies=0)
    cut = {name: cut_slices_of(dataset, "brain-mri", built, image_size, config) for name, dataset in sets.items()}
    return [Fold(name, [part for other in cut if other != name for part in cut[other]], cut[name]) for name in cut]


def colon_folds(built: BuiltTower, image_size: int) -> list[Fold]:
    """Three folds over the images in shuffled order."""
    dataset = open_dataset(f"pairs:{SHARED / 'data' / 'polyps_2d'}")
    order = np.random.default_rng(0).permutation(len(dataset))[:_POLYPS]
    chosen = replace(dataset, cases=tuple(dataset.cases[i] for i in order))
    slices = cut_slices_of(chosen, "colonoscopy", built, image_size, SliceConfig(copies=0))
    return [Fold(f"fold {k + 1}", [s for i, s in enumerate(slices) if i % 3 != k], slices[k::3]) for k in range(3)]


def _nrrd(folder: Path) -> CaseDataset:
    from headclip_med.datasets import Case

    case = Case("brain2", (folder / "brain2_image.nrrd",), (folder / "brain2_label.nrrd",), patient="brain2")
    return CaseDataset("nrrd", "csv", folder, (case,))


# Folds, tapped blocks and the trivial control of each task.
_TASKS: dict[str, tuple[Callable[[BuiltTower, int], list[Fold]], tuple[int, ...], str]] = {
    "brain": (brain_folds, (3, 5, 7), "brightness"),
    "flair": (flair_folds, (3, 5, 7), "brightness"),
    "colon": (colon_folds, (5, 8, 11), "redness"),
}


# --- variants: training slices → a function that maps a test slice to (map, image score) -----------------------------


def _options(task: Task, built: BuiltTower, local: str) -> EncodeOptions:
    layers = resolve_layers(task.layers, built.tower.depth)
    return EncodeOptions(layers, local, want_global=False)  # type: ignore[arg-type]


def _config(task: Task, seed: int, steps: int, heads: bool) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "data": [{"path": "."}],
            "model": "-",
            "out": ".",
            "feature_layers": task.layers,
            "heads": {"train": heads},
            "steps": steps,
            "seed": seed,
        }
    )


def joint_scorer(adapter: Adapter, train: Pictures, test: Pictures) -> Scorer:
    """The map as it is; the image's score is half the map's maximum, half what a vector on the global feature says."""
    image = fit_class_vectors(train.features, train.labels)
    says = image.logit_scale * 2 * (F.normalize(test.features - image.centre, dim=-1) @ image.abnormal)
    of_map = map_scorer(adapter)

    def score(bank: FeatureBank, index: int) -> tuple[NDArray[np.float32], float]:
        found, highest = of_map(bank, index)
        return found, 0.5 * highest + 0.5 * float(says[index].sigmoid())

    return score


@dataclass(frozen=True)
class Pictures:
    """Global features ``(N, D)`` and labels ``(N,)`` of slices."""

    features: torch.Tensor
    labels: torch.Tensor


@torch.no_grad()
def pictures(built: BuiltTower, slices: Sequence[TrainingSlice]) -> Pictures:
    """The tower's own global feature of every slice."""
    options = EncodeOptions((built.tower.depth - 1,), "none", want_global=True)
    features = [encode_images(built.tower, part.pixels[None].float(), options).global_feature for part in slices]
    return Pictures(
        torch.cat([f for f in features if f is not None]), torch.tensor([float(part.label) for part in slices])
    )


def train_heads(adapter: Adapter, bank: FeatureBank, config: TrainConfig) -> None:
    """Head weights and vectors together, then the vectors alone to convergence, as the row before had them."""
    share = lesion_share(bank)
    groups = adapter.groups()
    optimiser = torch.optim.Adam(
        [{"params": groups["heads"], "lr": config.heads.lr}, {"params": groups["classes"], "lr": config.classes.lr}],
        betas=(0.5, 0.999),
    )
    for step in range(config.steps):
        optimiser.zero_grad(set_to_none=True)
        batch_loss(adapter, bank, batch_indices(bank.labels, step, config.batch, config.seed), config, share).backward()
        optimiser.step()
    weights = adapter.weights()
    assert isinstance(weights, HeadWeights)
    start_vectors(adapter, adapter.classes, bank, config.seed, weights)  # type: ignore[arg-type]


def distance_scorer(bank: FeatureBank, index: int) -> tuple[NDArray[np.float32], float]:
    """No adaptation: how far a patch is from the mean of its own image, 1 − cosine, halved into [0, 1]."""
    from headclip_med.detectors.scoring import upsample

    part = bank.slices[index]
    truth = bank.truth([index])
    inside = truth.valid.flatten() > 0
    if not inside.any():
        return np.zeros(tuple(part.mask.shape), dtype=np.float32), 0.0
    maps = []
    for features in bank.raw_features(index).values():
        unit = F.normalize(features, dim=-1)
        centre = F.normalize(unit[inside].mean(dim=0), dim=0)
        maps.append((1 - unit @ centre) / 2)
    patches = torch.stack(maps).mean(dim=0).unflatten(0, truth.valid.shape[1:])[None]
    size = part.mask.shape[-1]
    found = upsample(patches, (size, size), sigma=SIGMA * size / 518).clamp(0, 1)[0] * part.valid
    return found.numpy(), float(found.max())


def intervals(tallies: Sequence[Tally]) -> dict[str, list[float]]:
    """95 % intervals over cases, the seeds of a draw averaged; empty with fewer than ten cases."""
    cases = sorted({case for case, _ in tallies[0].pixels})
    settings = Settings()
    if no_interval(len(cases), settings):
        return {}
    place = {case: i for i, case in enumerate(cases)}
    draws: dict[str, list[NDArray[np.float64]]] = {}
    for tally in tallies:
        bins = choose_bins(pooled(tally.pixels), settings.bins)
        table = count_patients(bins, len(cases), [(place[case], counts) for case, counts in tally.pixels])
        chunks = [pixel_metrics(*table.drawn(weights)) for weights in patient_draws(len(cases), settings)]
        for name in chunks[0]:
            draws.setdefault(name, []).append(np.concatenate([chunk[name] for chunk in chunks]))
    return {
        name: [float(v) for v in np.percentile(np.mean(parts, axis=0), [2.5, 97.5])] for name, parts in draws.items()
    }


# --- the study ---------------------------------------------------------------------------------------------------


def run_task(task: Task, built: BuiltTower, random: BuiltTower, seeds: Sequence[int], steps: int) -> dict[str, Any]:
    """Every variant on every fold and seed: ``{variant: {fold or all: {metric: …}}}``."""
    tallies: dict[str, dict[str, dict[int, Tally]]] = {}

    def note(variant: str, fold: str, seed: int, tally: Tally) -> None:
        tallies.setdefault(variant, {}).setdefault(fold, {})[seed] = tally

    for fold in task.folds:
        print(
            f"{task.name}, {fold.name}: {len(fold.train)} slices to adapt on, {len(fold.test)} to test on", flush=True
        )
        plain = {k: _bank(fold, k, built, _options(task, built, "none"), "fixed") for k in ("train", "test")}
        local = {k: _bank(fold, k, built, _options(task, built, "vv"), "linear") for k in ("train", "test")}
        noise = {k: _bank(fold, k, random, _options(task, random, "vv"), "linear") for k in ("train", "test")}
        note("no adaptation: distance from the image's mean", fold.name, 0, measure(distance_scorer, plain["test"]))
        control = control_scorer(task.control, built.tower.mean, built.tower.std)
        note(f"control: {task.control} alone", fold.name, 0, measure(control, plain["test"]))
        for seed in seeds:
            for words, banks, tower in (
                ("class vectors, random tower (V-V)", noise, random),
                ("class vectors, ordinary tokens", plain, built),
                ("class vectors, V-V", local, built),
            ):
                adapter = Adapter(tower, _config(task, seed, steps, heads=banks is not plain))
                fit_vectors(adapter, banks["train"], seed)
                note(words, fold.name, seed, measure(map_scorer(adapter), banks["test"]))
                if words == "class vectors, V-V":
                    if len({part.label for part in fold.test}) == 2:
                        joint = joint_scorer(adapter, *(pictures(built, part) for part in (fold.train, fold.test)))
                        note("class vectors, V-V, joint score", fold.name, seed, measure(joint, banks["test"]))
                    fusion = fit_fusion(adapter, banks["train"], len(banks["train"]), SIGMA, seed)
                    fuse = map_scorer(adapter, fusion)
                    note("class vectors, V-V, + brightness", fold.name, seed, measure(fuse, banks["test"]))
            config = _config(task, seed, steps, heads=True)
            adapter = Adapter(built, config)
            fit_vectors(adapter, local["train"], seed)
            begin = time.perf_counter()
            train_heads(adapter, local["train"], config)
            note("+ head weights", fold.name, seed, measure(map_scorer(adapter), local["test"]))
            fusion = fit_fusion(adapter, local["train"], len(local["train"]), SIGMA, seed)
            fuse = map_scorer(adapter, fusion)
            note("+ head weights, + brightness", fold.name, seed, measure(fuse, local["test"]))
            print(f"  seed {seed}: head weights in {time.perf_counter() - begin:.0f} s", flush=True)
    return {variant: summary(folds) for variant, folds in tallies.items()}


def _bank(fold: Fold, which: str, built: BuiltTower, options: EncodeOptions, mode: Any) -> FeatureBank:
    return FeatureBank(built.tower, options, getattr(fold, which), mode, 5 * 2**30)


def summary(folds: dict[str, dict[int, Tally]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, by fold and over the unweighted mean of the folds."""
    found: dict[str, Any] = {}
    for name, by_seed in folds.items():
        values = [numbers(tally) for tally in by_seed.values()]
        found[name] = {
            metric: {
                "mean": float(np.mean([v[metric] for v in values])),
                "sd": float(np.std([v[metric] for v in values])),
            }
            for metric in METRICS
        }
    seeds = list(next(iter(folds.values())))
    joined = [
        Tally(
            [part for by_seed in folds.values() for part in by_seed[seed].pixels],
            [part for by_seed in folds.values() for part in by_seed[seed].images],
        )
        for seed in seeds
    ]
    found["mean"] = {metric: float(np.mean([found[name][metric]["mean"] for name in folds])) for metric in METRICS}
    found["interval"] = intervals(joined)
    return found


def random_tower(image_size: int) -> BuiltTower:
    """The same architecture with random weights."""
    import timm

    from headclip_med.encoders.adapters import tower_from_timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=518)
    return BuiltTower(tower_from_timm(model), "timm", "vit_small_patch14_dinov2", "random", "0" * 64)


def show(task: str, found: dict[str, Any]) -> str:
    """A Markdown table: the mean over folds, and every fold's AUROC and AP."""
    folds = [name for name in next(iter(found.values())) if name not in ("mean", "interval")]
    heads = ["pixel AUROC", "AP", "F1-max", "AUPRO", "image AUROC", "image AP"]
    lines = [
        f"### {task}, mean of {len(folds)} folds",
        "",
        f"| | {' | '.join(heads)} | {' | '.join(f'{name}: AUROC, AP' for name in folds)} |",
        f"|---|{'---:|' * (len(heads) + len(folds))}",
    ]
    for variant, rows in found.items():
        cells = []
        for metric in METRICS:
            low_high = rows["interval"].get(metric)
            value = rows["mean"][metric]
            text = "n/a" if not np.isfinite(value) else f"{100 * value:.1f}"
            cells.append(text + (f" [{100 * low_high[0]:.1f}, {100 * low_high[1]:.1f}]" if low_high else ""))
        for name in folds:
            auroc, ap = rows[name]["auroc"], rows[name]["average_precision"]
            cells.append(
                f"{100 * auroc['mean']:.1f} ± {100 * auroc['sd']:.1f}, {100 * ap['mean']:.1f} ± {100 * ap['sd']:.1f}"
            )
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the asked tasks and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(_TASKS), action="append", help="default all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--image-size", type=int, default=280)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not TOWER.is_file():
        print(f"skipped: no shared data in {SHARED}")
        return
    built, random = build_tower(str(TOWER)), random_tower(options.image_size)
    report = {}
    for name in options.task or list(_TASKS):
        folds, layers, control = _TASKS[name]
        size = options.image_size
        task = Task(name, folds(built, size), layers, size, control)
        report[name] = run_task(task, built, random, range(options.seeds), options.steps)
        print(show(name, report[name]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
