"""Time and memory against slices, image size, planes and cases: python benchmarks/growth.py [--json FILE] [--plot FILE]

Each point is a process of its own, as a peak never falls again: it loads the embedded model (with --weights the pack
dinov2-vits14-brain-mri at 518 px too), warms up on two slices, and then scores. Memory is the peak beyond what the
process held once the model was loaded and warm, so that the libraries and the model do not count; beside it stands what
``headclip_med.engine.memory`` predicts for a batch. Straight lines are fitted by least squares; R² says how straight
they are.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from machine import describe, peak_bytes

from headclip_med import load_engine
from headclip_med.cohort.demo import demo_phantom
from headclip_med.cohort.options import CaseOptions
from headclip_med.cohort.run import run_cohort
from headclip_med.engine.ask import Ask
from headclip_med.engine.memory import batch_bytes
from headclip_med.reading.inputs import expand_inputs

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Point:
    """What one process does."""

    line: str
    x: float
    slices: int = 32
    side: int = 128  # of a slice, voxels
    planes: str | None = None
    cases: int = 1
    model: str = "headclip-tiny"
    weights: str | None = None
    pixels: int | None = None
    repeats: int = 3


def points(weights: str | None) -> list[Point]:
    """All of them, line by line."""
    lines = [Point("slices", n, slices=n) for n in (20, 155, 300, 600)]
    lines += [Point("thousand voxels a slice", n * n / 1000, side=n) for n in (64, 128, 256, 512)]
    lines += [Point("planes", n, slices=128, planes=p) for n, p in enumerate(("axial", "axial,coronal", "all"), 1)]
    lines += [Point("cases", n, cases=n) for n in (1, 4, 8, 16)]
    if weights:
        dino = {"model": "dinov2-vits14-brain-mri", "weights": weights, "pixels": 518, "side": 240, "repeats": 0}
        lines += [Point("slices at 518 px", n, slices=n, **dino) for n in (20, 155, 300, 600)]
    return lines


def volume(point: Point) -> np.ndarray:
    """A head of ``side × side × slices`` voxels, of which every slice shows something."""
    head = demo_phantom().array[16:112, 16:128, 40:90]
    sides = (point.side, point.side, point.slices)
    picked = (np.linspace(0, n - 1, m).round().astype(int) for n, m in zip(head.shape, sides, strict=True))
    return head[np.ix_(*picked)].astype(np.float32)


def measure(point: Point) -> dict[str, Any]:
    """Seconds and peak memory of one point; for a process of its own."""
    engine = load_engine(point.model, "cpu", weights=point.weights)
    if point.pixels:
        _at_size(engine, point.pixels)
    with tempfile.TemporaryDirectory() as folder:
        out, array = Path(folder), volume(point)
        nib.Nifti1Image(array[:, :, :2], np.eye(4)).to_filename(out / "warm.nii")
        engine.predict(out / "warm.nii")
        files = [out / f"case{n}.nii" for n in range(point.cases)]
        for file in files:
            nib.Nifti1Image(array, np.eye(4)).to_filename(file)
        del array
        took: list[float] = []

        def run() -> None:
            begin = time.perf_counter()
            options = CaseOptions(Ask(plane=point.planes), formats=("nifti",))
            summary = run_cohort(engine, expand_inputs(files), out / "results", options)
            took.append(time.perf_counter() - begin)
            assert summary.ok, summary

        peak = peak_bytes(run, CPU)
        for _ in range(point.repeats):
            run()
    detector = engine.scorer.detector(engine.scorer.model.domain)
    return {
        **asdict(point),
        "weights": None,
        "seconds": statistics.median(took[1:] or took),
        "peak_mib": None if peak is None else peak / 2**20,
        "predicted_batch_mib": batch_bytes(detector, engine.batch_size) / 2**20,
        "volume_mib": point.side**2 * point.slices * 4 / 2**20,
    }


def _at_size(engine: Any, pixels: int) -> None:
    """The engine's detector at another input size."""
    record = engine.scorer.model.pack.record
    record.config["image_size"] = pixels
    engine.scorer._detectors.clear()


def straight(rows: Sequence[dict[str, Any]], key: str) -> dict[str, float]:
    """Least-squares line through ``key`` against x, and R²."""
    x, y = (np.array([row[name] for row in rows], dtype=float) for name in ("x", key))
    slope, start = np.polyfit(x, y, 1)
    residual, spread = float(((y - slope * x - start) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return {"slope": float(slope), "at_zero": float(start), "r2": 1 - residual / spread if spread else 1.0}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds above, memory below, a column per line."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["line"] for row in rows))
    figure = Figure(figsize=(3.2 * len(names), 5.2), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        own = [row for row in rows if row["line"] == name]
        for axis, key, label in ((axes[0][column], "seconds", "seconds"), (axes[1][column], "peak_mib", "peak, MiB")):
            x, y = [row["x"] for row in own], [row[key] for row in own]
            fit = straight(own, key)
            axis.plot(x, y, "o", color="#1f6feb")
            axis.plot([0, max(x)], [fit["at_zero"], fit["at_zero"] + fit["slope"] * max(x)], "-", color="#9aa4b2", lw=1)
            axis.set(xlabel=name, ylabel=label if column == 0 else "", xlim=(0, None), ylim=(0, 1.08 * max(y)))
            axis.set_title(f"R² {fit['r2']:.3f}", fontsize=9)
            axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the lines, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="of vit_small_patch14_dinov2")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for row in pool.imap(measure, points(options.weights), chunksize=1):
            rows.append(row)
            memory = f"volume {row['volume_mib']:.0f}, batch predicted {row['predicted_batch_mib']:.0f}"
            took = f"{row['seconds']:7.2f} s, peak {row['peak_mib']:6.0f} MiB beyond the model"
            print(f"{row['line']:>23} {row['x']:>6.0f}: {took} ({memory})", flush=True)
    lines = {}
    for name in dict.fromkeys(row["line"] for row in rows):
        own = [row for row in rows if row["line"] == name]
        lines[name] = {key: straight(own, key) for key in ("seconds", "peak_mib")}
        print(f"{name}: seconds {lines[name]['seconds']}, MiB {lines[name]['peak_mib']}")
    if options.plot:
        draw(rows, options.plot)
    if options.json:
        options.json.write_text(json.dumps({**describe(CPU), "points": rows, "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
