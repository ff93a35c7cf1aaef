"""All methods and controls on four sets, each left out of what is learned: python benchmarks/methods.py --out DIR

Leave one data set out of brain_mri_2d, polyps_2d, ms_flair and brats (HEADCLIP_SHARED): a method that learns is trained
on the others that have masks, its best step chosen on patients of these, and every model is then evaluated on the set
by ``headclip_med.evaluate`` beside the controls, with intervals and paired differences. Two towers: DINOv2 ViT-S/14,
and, where a method needs text, a CLIP ViT-B/32 of random weights, since no others are at hand: rows on it show that a
method runs and learns, not what it is worth. Twenty normal images of brain_mri_2d are what the memory compares with;
they and their copies are in nobody's test. One set a call (``--set NAME``) for several processes; ``--winclip N`` adds
WinCLIP on N cases in a table of its own, at seconds a slice; ``--table`` prints what earlier calls left in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from headclip_med.datasets import CaseDataset, open_dataset
from headclip_med.evaluation import ModelSpec, evaluate
from headclip_med.evaluation.record import EvaluationRecord, Metric
from headclip_med.evaluation.scorers import controls_for
from headclip_med.slicing.slices import evenly
from headclip_med.training.config import DataConfig, SliceConfig, TrainConfig
from headclip_med.training.loop import TrainWatcher
from headclip_med.training.run import train

SHARED = Path(os.environ.get("HEADCLIP_SHARED", "../shared"))
DINO = f"vit_small_patch14_dinov2@{SHARED / 'weights' / 'dinov2_vits14_timm_fp16.safetensors'}"
CLIP = "ViT-B-32-quickgelu"
SIDE = 224  # pixels, of every method but WinCLIP, which has its own 240
NORMALS = 20  # normal images that the memory sees; they are no longer in the set

SETS = {
    "brain_mri_2d": ("folders:", "brain_mri_2d", ()),
    "polyps_2d": ("pairs:", "polyps_2d", ()),
    "ms_flair": ("brats:", "ms_flair", ("t2f",)),
    "brats": ("brats:", "brats/TCGA-DU-7294", ("t2f",)),
}
WITH_MASKS = ("polyps_2d", "ms_flair", "brats")
SHOWN = (("case", "auroc"), ("pixel", "auroc"), ("pixel", "average_precision"), ("pixel", "aupro"), ("slice", "auroc"))


@dataclass(frozen=True)
class Row:
    """One line of the table: a method on a tower, whether it is trained first, and for what share of the steps."""

    name: str
    method: str
    tower: str
    options: dict[str, Any]
    trained: bool = True
    share: float = 1.0


class Losses(TrainWatcher):
    """The loss of every step: those of single batches differ more than a short training gains."""

    def __init__(self) -> None:
        self.losses = list[float]()

    def step(self, step: int, steps: int, loss: float) -> None:
        """One more."""
        self.losses.append(loss)

    def words(self) -> str:
        """Mean of the first and the last quarter."""
        quarter = max(1, len(self.losses) // 4)
        first, last = (sum(part) / quarter for part in (self.losses[:quarter], self.losses[-quarter:]))
        return f"loss {first:.3f} -> {last:.3f} (means of {quarter} steps)"


def rows(clip: str) -> list[Row]:
    """Every method, on the pretrained tower where it can do without text."""
    size = {"image_size": SIDE}
    return [
        Row("headclip, DINOv2", "headclip", DINO, {"feature_layers": (5, 8, 11), "fuse_intensity": False}),
        Row("vectors, DINOv2", "vectors", DINO, {**size, "feature_layers": (5, 8, 11)}),
        Row("mvfa, DINOv2", "mvfa", DINO, size),
        Row("anomalyclip, random CLIP", "anomalyclip", clip, size, share=0.5),
        Row("crane, random CLIP", "crane", clip, size, share=0.5),
        Row("crane+, random CLIP", "crane+", clip, {**size, "similarity_tower": DINO}, share=0.5),
        Row("mvfa, random CLIP", "mvfa", clip, size, share=0.25),  # it trains through the whole tower
        Row("clip-vv, random CLIP", "clip-vv", clip, {}, trained=False),
        Row("clip, random CLIP", "clip", clip, {}, trained=False),
    ]


def random_clip(folder: Path) -> str:
    """A CLIP ViT-B/32 of random weights as a file, with the name it is built by."""
    path = folder / "random_vit_b_32.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        clip = open_clip.create_model(CLIP, pretrained=None)
        save_file({name: value.contiguous() for name, value in clip.state_dict().items()}, path)
    return f"{CLIP}@{path}"


def dataset_of(name: str) -> CaseDataset:
    """A set by its name."""
    layout, folder, sequences = SETS[name]
    return open_dataset(f"{layout}{SHARED / 'data' / folder}", name=name, sequences=list(sequences) or None)


def without_normals(dataset: CaseDataset, folder: Path) -> CaseDataset:
    """Some normal images in a folder of their own, and the set without them and their copies."""
    normal = [case for case in dataset if case.label is False]
    chosen = evenly(normal, NORMALS)
    folder.mkdir(parents=True, exist_ok=True)
    for case in chosen:
        link = folder / case.images[0].name
        if not link.exists():
            link.symlink_to(case.images[0].resolve())
    seen = {dataset.load(case).image_sha256 for case in chosen}
    rest = tuple(case for case in dataset if dataset.load(case).image_sha256 not in seen)
    return replace(dataset, cases=rest, notes=(*dataset.notes, f"{len(chosen)} normal images are the memory's"))


def trained(row: Row, left_out: str, out: Path, steps: int, seed: int) -> Path:
    """The pack of a method that saw every set with masks but one."""
    folder = out / "packs" / left_out / row.name.replace(", ", "-").replace(" ", "-")
    if (folder / "pack.json").exists() and not (folder / "unfinished").exists():
        return folder
    data = tuple(
        DataConfig(path=f"{SETS[name][0]}{SHARED / 'data' / SETS[name][1]}", name=name, sequences=SETS[name][2])
        for name in WITH_MASKS
        if name != left_out
    )
    steps = max(1, round(row.share * steps))
    fields: dict[str, Any] = {
        "data": data, "model": row.tower, "method": row.method, "out": folder, "name": row.name, "image_size": SIDE,
        "slices": SliceConfig(lesion=24, free=24, copies=1 if row.method == "headclip" else 0), "steps": steps,
        "validate_every": min(20, max(1, steps // 2)), "seed": seed,
    }  # fmt: skip
    fields |= row.options if row.method == "headclip" else {"options": row.options}
    mark = folder / "unfinished"
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    losses = Losses()
    resume = (folder / "checkpoint.safetensors").exists()
    result = train(TrainConfig.model_validate(fields), resume=resume, watcher=losses)
    print(f"{left_out}: {row.name}: {losses.words()}, best step {result.fitted.best_step}", flush=True)
    mark.unlink()
    return folder


def specs(left_out: str, out: Path, steps: int, seed: int) -> dict[str, ModelSpec]:
    """The models of a set's table, by name."""
    clip, found = random_clip(out), {}
    for row in rows(clip):
        place = str(trained(row, left_out, out, steps, seed)) if row.trained else f"{row.method}:{row.tower}"
        weights = row.tower if row.trained else None
        found[row.name] = ModelSpec(place, "cpu", weights=weights)
    if left_out == "brain_mri_2d":
        normals = str(out / "normals")
        found["memory, DINOv2"] = ModelSpec(f"memory:{DINO}", "cpu", normals=normals)
        vectors = found["vectors, DINOv2"]
        found["vectors + memory, DINOv2"] = replace(vectors, normals=normals)
    if left_out in ("brain_mri_2d", "polyps_2d"):  # it was trained on the others
        found["headclip-tiny"] = ModelSpec("headclip-tiny", "cpu")
    return found


def main() -> None:
    """Train, evaluate, print."""
    words = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    words.add_argument("--out", type=Path, required=True)
    words.add_argument("--set", choices=list(SETS), action="append")
    words.add_argument("--steps", type=int, default=80)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--winclip", type=int, default=0, metavar="N", help="also WinCLIP, on the first N cases")
    words.add_argument("--table", action="store_true", help="only print what there is")
    asked = words.parse_args()
    for name in asked.set or list(SETS):
        if not asked.table:
            dataset = dataset_of(name)
            if name == "brain_mri_2d":
                dataset = without_normals(dataset, asked.out / "normals")
            models: dict[str, Any]
            if asked.winclip:
                few = replace(dataset, cases=tuple(evenly(dataset.cases, asked.winclip)))
                models = {
                    "winclip, random CLIP": ModelSpec(f"winclip:{random_clip(asked.out)}", "cpu", speed="balanced")
                }
                evaluate(models, few, asked.out / "tables" / f"{name}-winclip", resume=True)
                continue
            models = specs(name, asked.out, asked.steps, asked.seed)
            models |= {control: ModelSpec(control) for control in controls_for(dataset)}
            evaluate(models, dataset, asked.out / "tables" / name, resume=True)
        for path in sorted((asked.out / "tables").glob(f"{name}*/metrics.json")):
            print(table(EvaluationRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))))


def table(record: EvaluationRecord) -> str:
    """One set: a row per model, intervals where there are any, the paired difference of the first metric from
    brightness, and seconds a case."""
    inside = any("foreground" in model.levels for model in record.models)  # volumes: the air around is no merit
    levels = [("foreground" if level == "pixel" and inside else level, name) for level, name in SHOWN]
    shown = [(level, name) for level, name in levels if any(_metric(m.levels, level, name) for m in record.models)]
    facts = record.dataset
    lines = [
        f"### {facts.name}: {facts.counted} cases of {facts.patients} patients",
        "",
        "| | "
        + " | ".join(f"{level} {name}".replace("average_precision", "AP") for level, name in shown)
        + " | less intensity's | s |",
        "|---|" + "---:|" * (len(shown) + 2),
    ]
    for model in record.models:
        cells = [_cell(_metric(model.levels, level, name)) for level, name in shown]
        done = [case.seconds for case in model.cases if case.status == "done"]
        seconds = sum(done) / max(1, len(done))
        cells.append(_less_intensity(record, model.model, *shown[0]))
        lines.append(f"| {model.model} | " + " | ".join(cells) + f" | {seconds:.2f} |")
    return "\n".join(lines) + "\n"


def _less_intensity(record: EvaluationRecord, model: str, level: str, name: str) -> str:
    """The metric less that of brightness, on the same draws of cases."""
    for found in record.differences:
        pair, same = (found.first, found.second), (found.level, found.metric) == (level, name)
        if same and set(pair) == {model, "control:intensity"} and found.difference.value is not None:
            sign = 1 if pair[0] == model else -1
            ends = [100 * sign * end for end in (found.difference.low, found.difference.high) if end is not None]
            interval = f" [{min(ends):+.1f}, {max(ends):+.1f}]" if ends else ""
            return f"{100 * sign * found.difference.value:+.1f}{interval}"
    return ""


def _metric(levels: Any, level: str, name: str) -> Metric | None:
    found = levels.get(level)
    metric = None if found is None else found.metrics.get(name)
    return None if metric is None or metric.value is None else metric


def _cell(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "n/a"
    low, high = metric.low, metric.high
    interval = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * metric.value:.1f}{interval}"


if __name__ == "__main__":
    main()
