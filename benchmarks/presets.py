"""What 16 bits and the speed presets cost in quality, and what they gain: python benchmarks/presets.py MODEL DATA …

    python benchmarks/presets.py dinov2-vits14-brain-mri ms_flair/ --sequences flair --weights FILE --json out.json

Every case of a labelled set (see ``headclip_med.open_dataset``), of copies the first, is predicted in
float32 and with each preset in the precision that the hardware gives, in turns. Printed are, against float32: the
largest and the mean difference of the map inside the patient, Spearman's correlation of the slice scores (the least of
all volumes; of the case scores for pictures) and seconds a case; and for each way AUROC, AP and AUPRO up to a
false-positive rate of 30 % over the pixels of all cases inside the patient, the image AUROC where there are both
kinds, and Dice at the model's threshold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import spearmanr

from headclip_med import Engine, load_engine, open_dataset
from headclip_med.datasets.case import LabelledVolume
from headclip_med.engine.result import AnomalyResult
from headclip_med.evaluation.controls import foreground_of
from headclip_med.evaluation.metrics.counts import CountSum, count_map, count_scores
from headclip_med.evaluation.metrics.curves import aupro, auroc, average_precision
from headclip_med.models.speed import SPEEDS

REFERENCE = "float32"


class Tally:
    """What one way has given so far."""

    def __init__(self) -> None:
        self.counts = CountSum()
        self.scores: list[float] = []
        self.labels: list[bool] = []
        self.seconds: list[float] = []
        self.largest, self.means, self.ranks = 0.0, list[float](), list[float]()
        self.dice: list[float] = []
        self.scored = self.seen = 0

    def add(self, found: AnomalyResult, exact: AnomalyResult, labelled: LabelledVolume, seconds: float) -> None:
        """Take in one case."""
        array = np.asarray(found.volume.as_tensor())
        truth, inside = labelled.gt_mask, foreground_of(found.volume, array)
        difference = np.abs(found.map_array - exact.map_array)[inside]
        self.largest = max(self.largest, float(difference.max()))
        self.means.append(float(difference.mean()))
        self.seconds.append(seconds)
        self.seen += sum(not s.background for s in found.slices)
        self.scored += sum(not s.background and not s.interpolated for s in found.slices)
        if len(found.slices) > 1:
            own, reference = ([s.score for s in r.slices if not s.background] for r in (found, exact))
            self.ranks.append(float(spearmanr(own, reference).statistic))
        if labelled.gt_label is not None:
            self.scores.append(found.pred_score)
            self.labels.append(bool(labelled.gt_label))
        if truth is not None and truth.any():
            self.counts.add(count_map(found.map_array, truth, inside=inside))
            mask = found.map_array >= found.threshold
            self.dice.append(2 * float((mask & truth).sum()) / float(mask.sum() + truth.sum()))

    def facts(self, reference: Tally) -> dict[str, Any]:
        """Numbers of this way as plain JSON values."""
        pixels, of_cases = self.counts.counts(), count_scores(np.array(self.scores), np.array(self.labels))
        rank = min(self.ranks) if self.ranks else float(spearmanr(self.scores, reference.scores).statistic)
        has_masks, both = pixels.n_positives > 0, 0 < sum(self.labels) < len(self.labels)
        return {
            "cases": len(self.seconds),
            "largest_difference": self.largest,
            "mean_difference": statistics.mean(self.means),
            "spearman": rank,
            "pixel_auroc": float(auroc(pixels.negatives, pixels.positives)) if has_masks else None,
            "pixel_ap": float(average_precision(pixels.negatives, pixels.positives)) if has_masks else None,
            "aupro": float(aupro(pixels.negatives, pixels.regions, pixels.n_regions)) if has_masks else None,
            "dice": statistics.mean(self.dice) if self.dice else None,
            "image_auroc": float(auroc(of_cases.negatives, of_cases.positives)) if both else None,
            "slices_scored": [self.scored, self.seen],
            "seconds": statistics.median(self.seconds),
            "times_float32": statistics.median(a / b for a, b in zip(reference.seconds, self.seconds, strict=True)),
        }


def engines(model: str, weights: str | None, device: str) -> dict[str, Engine]:
    """The reference, and every preset in the hardware's own precision."""
    made = {REFERENCE: load_engine(model, device, weights=weights, precision="float32")}
    return made | {name: load_engine(model, device, weights=weights, speed=name) for name in SPEEDS}


def show(facts: dict[str, dict[str, Any]]) -> Table:
    """A row for each way."""
    columns = {
        "largest_difference": "largest Δ",
        "mean_difference": "mean Δ",
        "spearman": "Spearman",
        "pixel_auroc": "pixel AUROC",
        "pixel_ap": "AP",
        "aupro": "AUPRO",
        "dice": "Dice",
        "image_auroc": "image AUROC",
        "times_float32": "× float32",
    }
    table = Table("way", *columns.values(), "slices scored", "s a case")
    for name, row in facts.items():
        cells = ["–" if row[key] is None else f"{row[key]:.4f}" for key in columns]
        table.add_row(name, *cells, "{} of {}".format(*row["slices_scored"]), f"{row['seconds']:.2f}")
    return table


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--sequences", help="joined by commas")
    parser.add_argument("--weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sequences = options.sequences.split(",") if options.sequences else None
    dataset = open_dataset(options.data, sequences=sequences)
    ways = engines(options.model, options.weights, options.device)
    seen: set[str] = set()
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for case in track(list(dataset)[: options.limit], "cases", console=Console(stderr=True)):
        labelled = dataset.load(case)
        if labelled.image_sha256 in seen:
            continue
        seen.add(labelled.image_sha256)
        found, seconds = {}, {}
        for name, engine in ways.items():
            begin = time.perf_counter()
            found[name] = engine.predict(labelled.volume)
            seconds[name] = time.perf_counter() - begin
        for name, result in found.items():
            tallies[name].add(result, found[REFERENCE], labelled, seconds[name])
    facts = {name: tally.facts(tallies[REFERENCE]) for name, tally in tallies.items()}
    console = Console(width=max(Console().width, 160))
    console.print(f"{options.model} on {dataset.name}: {facts[REFERENCE]['cases']} cases")
    console.print(show(facts))
    if options.json:
        report = {**describe(ways[REFERENCE].device), "model": options.model, "data": dataset.name, "ways": facts}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
