"""What ``headclip-tiny`` is worth on patients it never saw: python benchmarks/tiny_study.py --packs DIR

For each of three patients with FLAIR and each seed a tower is pretrained without that patient (the bundle
``headclip_tiny_pretraining``; a pack that is already in DIR is used as it is) and tested on slices of that patient,
beside brightness alone, the same recipe on a tower with random weights, and the same recipe on DINOv2 ViT-S/14. The
recipe: class vectors fitted to convergence on labelled FLAIR slices of the other patients, then brightness joined by
logistic regression. Rows say "as trained" for a pack as pretraining leaves it. Pixels are those of the model's square
input inside the patient. Intervals are of the mean over seeds, by Student's t.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from slice_measures import (
    SHARED,
    SIGMA,
    TOWER,
    Fold,
    Tally,
    control_scorer,
    fit_vectors,
    flair_folds,
    map_scorer,
    measure,
    numbers,
)

from headclip_med import load_engine
from headclip_med.datasets import open_dataset
from headclip_med.detectors import HeadCLIP
from headclip_med.encoders.adapters import tower_from_timm
from headclip_med.encoders.build import BuiltTower, build_tower
from headclip_med.encoders.image import EncodeOptions, resolve_layers
from headclip_med.encoders.timm_vit import build_timm_vit
from headclip_med.evaluation.case_picture import key_slice_picture
from headclip_med.evaluation.metrics.counts import count_scores, level_scores
from headclip_med.evaluation.metrics.curves import dice_curve
from headclip_med.models.domains import get_domain
from headclip_med.models.load import detector_for, load_model
from headclip_med.models.pack import is_pack
from headclip_med.training.adapter import Adapter
from headclip_med.training.config import TrainConfig
from headclip_med.training.features import FeatureBank
from headclip_med.training.fusion import fit_fusion
from headclip_med.training.pretraining.config import PretrainConfig
from headclip_med.training.pretraining.run import pretrain

SHOWN = ("auroc", "average_precision", "aupro", "image_auroc")
_VIT_SIZE = 448  # the same 32 × 32 patches as headclip-tiny has at its own size

Numbers = dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """A tower, the blocks that are tapped, and the first block of its V-V path."""

    built: BuiltTower
    taps: tuple[int, ...]
    local_start: int | None = None


def recipe_of_bundle(out: Path, seed: int, leave_out: Sequence[str]) -> PretrainConfig:
    """The bundle's recipe, on the data beside the project."""
    from headclip_med_workflows import bundle_root
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle_root("headclip_tiny_pretraining") / "configs" / "train.yaml"))
    changes = {"dataset_dir": str(SHARED / "data"), "output_dir": str(out), "seed": seed, "leave_out": list(leave_out)}
    for key, value in (*changes.items(), ("recipe::threshold", 0.5)):
        parser[key] = value
    config: PretrainConfig = parser.get_parsed_content("recipe")
    return config


def pack_of(packs: Path, patient: str, seed: int) -> Path:
    """The pack of one fold and seed, pretrained if it is not there."""
    folder = packs / f"{patient}-{seed}"
    if not is_pack(folder):
        pretrain(recipe_of_bundle(folder, seed, [patient]), resume=True)
    return folder


def by_recipe(recipe: Recipe, fold: Fold, seeds: Sequence[int]) -> Iterator[tuple[str, Numbers]]:
    """Numbers of the recipe without and with brightness in the map, for every seed of its draws."""
    tower = recipe.built.tower
    options = EncodeOptions(resolve_layers(recipe.taps, tower.depth), "vv", recipe.local_start, want_global=False)
    train, test = (FeatureBank(tower, options, part, "fixed", 2**30) for part in (fold.train, fold.test))
    for seed in seeds:
        config = TrainConfig.model_validate(
            {
                "data": [{"path": "."}],
                "model": "-",
                "out": ".",
                "feature_layers": recipe.taps,
                "local_start": recipe.local_start,
                "heads": {"train": False},
                "seed": seed,
            }
        )
        adapter = Adapter(recipe.built, config)
        fit_vectors(adapter, train, seed)
        yield "recipe", numbers(measure(map_scorer(adapter), test))
        fusion = fit_fusion(adapter, train, len(train), SIGMA, seed)
        yield "recipe + brightness", numbers(measure(map_scorer(adapter, fusion), test))


def as_trained(detector: HeadCLIP, fold: Fold) -> Numbers:
    """Numbers of a pack's own maps, an image's score being its map's maximum inside the patient."""

    def score(bank: FeatureBank, index: int) -> tuple[NDArray[np.float32], float]:
        part = bank.slices[index]
        out = detector.score(part.pixels[None].float(), part.valid[None])
        found = (out.maps[0] * part.valid).clamp(0, 1).numpy()
        return found, float(found.max())

    return numbers(measure(score, _no_features(fold)))


def of_brightness(built: BuiltTower, fold: Fold) -> Numbers:
    """Numbers of brightness alone: on one scan it ranks pixels as their z-score does."""
    score = control_scorer("brightness", built.tower.mean, built.tower.std)
    tally: Tally = measure(score, _no_features(fold))
    return numbers(tally)


def _no_features(fold: Fold) -> Any:
    @dataclass(frozen=True)
    class Slices:
        slices: list[Any]

    return Slices(fold.test)


def random_tiny(config: PretrainConfig, seed: int) -> BuiltTower:
    """headclip-tiny's architecture with timm's random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_timm_vit(config.tower)
    tower = tower_from_timm(model)
    tower.mean = tower.std = (0.5, 0.5, 0.5)
    return BuiltTower(tower, "embedded", "random", "random", "0" * 64)


def study(packs: Path, seeds: Sequence[int]) -> dict[str, dict[str, list[Numbers]]]:
    """``{row: {patient: [numbers of each seed]}}``."""
    found: dict[str, dict[str, list[Numbers]]] = {}

    def note(row: str, patient: str, values: Numbers) -> None:
        found.setdefault(row, {}).setdefault(patient, []).append(values)
        print(f"{patient}: {row}: " + ", ".join(f"{name} {100 * values[name]:.1f}" for name in SHOWN), flush=True)

    config = recipe_of_bundle(packs / "none", 0, ())
    vit = Recipe(build_tower(str(TOWER)), (3, 5, 7))
    size, taps, start = config.image_size, config.taps, config.local_start
    for fold in flair_folds(vit.built, _VIT_SIZE):
        for words, values in by_recipe(vit, fold, seeds):
            note(f"ViT-S/14, {words}", fold.name, values)
    for fold in flair_folds(random_tiny(config, 0), size):
        note("brightness alone", fold.name, of_brightness(random_tiny(config, 0), fold))
        for seed in seeds:
            for words, values in by_recipe(Recipe(random_tiny(config, seed), taps, start), fold, [seed]):
                note(f"random tower, {words}", fold.name, values)
            model = load_model(pack_of(packs, fold.name, seed))
            for words, values in by_recipe(Recipe(model.built, taps, start), fold, [seed]):
                note(f"headclip-tiny, {words}", fold.name, values)
            detector = detector_for(model, get_domain("brain-mri"))
            assert isinstance(detector, HeadCLIP)
            note("headclip-tiny, as trained", fold.name, as_trained(detector, fold))
    return found


def other_sequences(packs: Path, seeds: Sequence[int]) -> dict[str, dict[str, list[Numbers]]]:
    """The packs and brightness on T2, T1 and T1c of the patients left out, by ``PATIENT SEQUENCE``."""
    found: dict[str, dict[str, list[Numbers]]] = {}
    config = recipe_of_bundle(packs / "none", 0, ())
    blank = random_tiny(config, 0)
    for sequence in ("t2w", "t1n", "t1c"):
        for fold in flair_folds(blank, config.image_size, sequence):
            where = f"{fold.name} {sequence}"
            found.setdefault("brightness alone", {})[where] = [of_brightness(blank, fold)]
            for seed in seeds:
                detector = detector_for(load_model(pack_of(packs, fold.name, seed)), get_domain("brain-mri"))
                assert isinstance(detector, HeadCLIP)
                found.setdefault("headclip-tiny, as trained", {}).setdefault(where, []).append(
                    as_trained(detector, fold)
                )
    return found


def dice_curves(packs: Path, seeds: Sequence[int], pictures: Path | None) -> dict[str, NDArray[np.float64]]:
    """By patient, Dice of the whole FLAIR volume at every level of ``level_scores``, the mean over models that never
    saw the patient. Into ``pictures``: the slice of each patient where map and truth differ most."""
    curves: dict[str, list[NDArray[np.float64]]] = {}
    for part in ("ms_flair", "brats/TCGA-DU-7294"):
        dataset = open_dataset(f"brats:{SHARED / 'data' / part}", sequences=["t2f"])
        for case in dataset:
            labelled = dataset.load(case)
            assert labelled.gt_mask is not None
            for seed in seeds:
                result = load_engine(pack_of(packs, case.name, seed), "cpu").predict(labelled.volume)
                counts = count_scores(result.map_array.ravel(), labelled.gt_mask.ravel())
                curves.setdefault(case.name, []).append(dice_curve(counts))
                if pictures is not None and seed == seeds[0]:
                    pictures.mkdir(parents=True, exist_ok=True)
                    key_slice_picture(result, labelled.gt_mask).save(pictures / f"{case.name}.png")
    return {name: np.asarray(np.mean(parts, axis=0)) for name, parts in curves.items()}


def cautious_threshold(curves: NDArray[np.float64]) -> int:
    """Index of the highest level whose mean Dice is not worse than the best one's by more than a standard error.

    The error is that of the difference, over patients ``(patients, levels)``: where the data cannot tell levels apart,
    the one with the fewest false findings (the one-standard-error rule of Breiman et al., 1984).
    """
    worse = curves - curves[:, [int(curves.mean(axis=0).argmax())]]
    error = worse.std(axis=0, ddof=1) / np.sqrt(len(curves))
    return int(np.flatnonzero(worse.mean(axis=0) >= -error).max())


def show(found: dict[str, dict[str, list[Numbers]]]) -> str:
    """A Markdown table: by row, every patient's AUROC / AP / AUPRO / image AUROC, and the mean over patients."""
    places = list(next(iter(found.values())))
    lines = [
        f"| AUROC / AP / AUPRO / image AUROC | {' | '.join((*places, 'mean'))} |",
        f"|---|{'---|' * (len(places) + 1)}",
    ]
    for row, by_place in found.items():
        cells = [" / ".join(_cell([v[name] for v in by_place[place]]) for name in SHOWN) for place in places]
        seeds = min(len(values) for values in by_place.values())
        means = {n: [float(np.mean([by_place[p][s][n] for p in places])) for s in range(seeds)] for n in SHOWN}
        lines.append(f"| {row} | {' | '.join((*cells, ' / '.join(_cell(means[name]) for name in SHOWN)))} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    """Mean and half the width of its 95 % interval over seeds, in percent."""
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    spread = stats.t.ppf(0.975, len(values) - 1) * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return f"{mean:.1f} ± {100 * spread:.1f}"


def main() -> None:
    """Pretrain what is missing, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for the slice of each patient that went worst")
    options = parser.parse_args()
    if not TOWER.is_file():
        print(f"skipped: no shared data in {SHARED}")
        return
    tables: dict[str, Callable[[Path, Sequence[int]], dict[str, dict[str, list[Numbers]]]]] = {
        "FLAIR": study,
        "other sequences": other_sequences,
    }
    report = {}
    for title, measured in tables.items():
        report[title] = measured(options.packs, range(options.seeds))
        print(f"\n### {title}\n\n{show(report[title])}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    curves = dice_curves(options.packs, range(options.seeds), options.pictures)
    chosen = cautious_threshold(np.stack([*curves.values()]))
    found = ", ".join(f"{name} {curve[chosen]:.3f}" for name, curve in curves.items())
    print(f"threshold {level_scores()[chosen]:.3f}: Dice of whole volumes of patients left out: {found}")


if __name__ == "__main__":
    main()
