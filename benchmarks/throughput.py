"""Speed against the hardware's own limits and against the ways of today, in one run: python benchmarks/throughput.py

For each tower: FLOPs and bytes by the formulas of ``flops.py``; milliseconds and slices a second of the tower alone
(``encode``) and of tower and map (``score``), by precision and batch, in turns with the ways of ``plain_way.py``
(float32, one image, unfused attention) so that noise hits all; useful FLOPs over that time, and their ratio to the
matrix products of that type that this machine reached in the same run; the largest difference of the map from the
released way's on the same pixels; and peak memory beyond the loaded model, on a CPU of a fresh process each. Ratios are
against the released way, which takes score and map in one pass; the plain way makes two.
Then, for the embedded model (with --volume for every tower), a stored volume of 240×240×155 voxels → its map on disk;
the released way scores background slices too, since it does not know them. With --picture, for every tower, an 8-bit
picture → its map on disk, in seconds of the clock and of the processor. With --compile also ``torch.compile`` of
``encode``.

A tower is NAME or NAME@PIXELS: a built-in pack, vit_small_patch14_dinov2 (the head weights of its brain-MRI pack; its
own weights with --weights, else random ones), or any other open_clip or timm name, which gets random weights and
classes and V-V maps of its last block. Ratios are what counts; absolute times belong to the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import re
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import nibabel as nib
import numpy as np
import torch
from flops import Work, counts, fewest_bytes, plain, released, useful, work_of
from machine import PRECISIONS, ceilings, describe, highest, in_turns, interleaved, others_busy, peak_bytes, timed
from PIL import Image
from plain_way import PlainWay, ReleasedWay
from rich.console import Console
from subjects import Subject, build, detector_of, known, parse_tower, phantom_levels, phantom_pixels
from throughput_tables import (
    compiled_table,
    pictures_table,
    show_counts,
    show_machine,
    towers_table,
    volumes_table,
)
from torch import Tensor

from headclip_med import Engine, load_engine
from headclip_med.cohort.demo import LESION, SEED
from headclip_med.cohort.run import predict_case
from headclip_med.datasets.phantom import centred_affine, make_phantom
from headclip_med.detectors import HeadCLIP
from headclip_med.engine.device import choose_device, choose_dtype
from headclip_med.engine.torch_scorer import TorchScorer

TOWERS = ("headclip-tiny", "ViT-B-16@224", "vit_small_patch14_dinov2@392", "ViT-L-14-336@518")
VOLUME = (240, 240, 155)  # voxels of 1 mm
PARITY_IMAGES = 2
RELEASED, PLAIN, OURS = "released", "plain", "ours"
TODAY = {RELEASED: ReleasedWay, PLAIN: PlainWay}
TOWER, MAP = "tower", "tower + map"


class Way(NamedTuple):
    """One thing that is timed: who, how far, in which type, and slices at once."""

    who: str
    stage: str
    precision: str
    batch: int


@dataclass(frozen=True)
class Settings:
    """What is measured of every subject."""

    device: torch.device
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    repeats: int
    compile: bool
    memory: bool


def measure_tower(subject: Subject, settings: Settings) -> dict[str, Any]:
    """Counts, and a row for every way."""
    device, parity = settings.device, {}
    exactly = detector_of(subject, device, "float32")
    today = {who: way(exactly) for who, way in TODAY.items()}
    baseline = today[RELEASED]
    detectors = {name: detector_of(subject, device, name) for name in settings.precisions}
    pixels = phantom_pixels(baseline.detector, max(*settings.batches, PARITY_IMAGES))
    ways: dict[Way, Callable[[], object]] = {}
    for who, way in today.items():
        ways[Way(who, TOWER, "float32", 1)] = partial(way.encode, pixels[:1])
        ways[Way(who, MAP, "float32", 1)] = partial(way.score, pixels[:1])
    exact = [baseline.score(image[None]) for image in pixels[:PARITY_IMAGES]]
    for (name, detector), batch in itertools.product(detectors.items(), settings.batches):
        ways[Way(OURS, TOWER, name, batch)] = partial(detector.encode, pixels[:batch])
        ways[own := Way(OURS, MAP, name, batch)] = partial(detector.score, pixels[:batch])
        parity[own] = differences(detector, pixels[: max(batch, PARITY_IMAGES)], exact)
    with torch.inference_mode():
        seconds = interleaved(ways, settings.repeats, device)
        peaks = peak_memory(subject, settings, ways)
        compiled = [
            measure_compiled(detectors[name], name, pixels[:batch], mode, settings)
            for name, batch, mode in itertools.product(detectors, settings.batches, compile_modes(settings))
        ]
    work = work_of(baseline.detector)
    return {
        "model": subject.name,
        "pixels": baseline.detector.image_size,
        "weights": "random" if subject.random else "trained",
        "flops_per_slice": counts(work),
        "rows": [make_row(way, seconds, work) | parity.get(way, {}) | peaks.get(way, {}) for way in ways],
        "compiled": compiled,
    }


def differences(detector: HeadCLIP, pixels: Tensor, exact: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Largest absolute difference of map and score from the released way's, over its images."""
    ours = detector.score(pixels)
    maps, scores = (torch.cat(parts) for parts in zip(*exact, strict=True))
    return {
        "map_difference": float((ours.maps[: len(maps)] - maps).abs().max()),
        "score_difference": float((ours.scores[: len(scores)] - scores).abs().max()),
    }


def make_row(way: Way, seconds: dict[Way, list[float]], work: Work) -> dict[str, Any]:
    """Numbers of one way."""
    median, flops = statistics.median(seconds[way]), useful(work).total()
    reference = statistics.median(seconds[Way(RELEASED, way.stage, "float32", 1)])
    counted = {RELEASED: released, PLAIN: plain, OURS: useful}[way.who]
    moved = fewest_bytes(work, way.batch, PRECISIONS[way.precision].itemsize)
    return {
        **way._asdict(),
        "gflop_per_slice": counted(work).total() / 1e9,
        "ms_per_slice": 1e3 * median / way.batch,
        "slices_per_s": way.batch / median,
        "useful_tflop_per_s": way.batch * flops / median / 1e12,
        "times_released": way.batch * reference / median,
        "bytes_per_batch": moved,
        "flop_per_byte": way.batch * flops / moved,
        "seconds": seconds[way],
    }


def against_limits(model: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """A measured model with the share of the ceiling in every row, and the least a slice could take at the ceilings."""

    def compare(row: dict[str, Any]) -> dict[str, float]:
        products, copy = limits["products"][row["precision"]]["tflop_per_s"], limits["copy_gb_per_s"]
        computing = model["flops_per_slice"]["useful"] / products / 1e12
        moving = row["bytes_per_batch"] / row["batch"] / copy / 1e9
        return {"of_ceiling": row["useful_tflop_per_s"] / products, "least_ms": 1e3 * max(computing, moving)}

    return {**model, "rows": [{**row, **compare(row)} for row in model["rows"]]}


def peak_memory(
    subject: Subject, settings: Settings, ways: dict[Way, Callable[[], object]]
) -> dict[Way, dict[str, float | None]]:
    """Peak MiB beyond the model of every way that makes a map."""
    chosen = [way for way in ways if way.stage == MAP] if settings.memory else []
    if settings.device.type == "cpu":
        # A process each: what an earlier run left in the allocator would hide what a later one needs.
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            peaks = list(pool.imap(cpu_peak, [(subject, way) for way in chosen], chunksize=1))
    else:
        peaks = [peak_bytes(ways[way], settings.device) for way in chosen]
    return {way: {"peak_mib": None if p is None else p / 2**20} for way, p in zip(chosen, peaks, strict=True)}


def cpu_peak(job: tuple[Subject, Way]) -> int | None:
    """Bytes beyond the loaded model that one way needs; for a process of its own."""
    subject, way = job
    device = torch.device("cpu")
    detector = detector_of(subject, device, way.precision)
    pixels = phantom_pixels(detector, way.batch)
    score = detector.score if way.who == OURS else TODAY[way.who](detector).score
    return peak_bytes(partial(score, pixels), device)


def compile_modes(settings: Settings) -> tuple[str, ...]:
    """Modes of ``torch.compile`` to try; ``reduce-overhead`` means CUDA graphs."""
    if not settings.compile:
        return ()
    return ("default", "reduce-overhead") if settings.device.type == "cuda" else ("default",)


def measure_compiled(
    detector: HeadCLIP, precision: str, pixels: Tensor, mode: str, settings: Settings
) -> dict[str, Any]:
    """Eager and compiled ``encode`` in turns, and seconds of the first call from an empty cache; or why it failed."""
    facts: dict[str, Any] = {"precision": precision, "batch": len(pixels), "mode": mode}
    torch.compiler.reset()
    encode = torch.compile(detector.encode, mode=mode, dynamic=False)

    def run() -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return encode(pixels)

    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache):
        try:
            facts["first_call_s"] = timed(run, settings.device)
            ways = {"eager": partial(detector.encode, pixels), "compiled": run}
            seconds = interleaved(ways, settings.repeats, settings.device)
            found, eager = run().patch_features, detector.encode(pixels).patch_features
            facts["feature_difference"] = max(float((found[k] - eager[k]).abs().max()) for k in eager)
        except Exception as error:  # whatever a compiler raises is a result here
            first = (str(error).strip().splitlines() or [""])[0]
            return {**facts, "error": re.sub(r"(?<![\w.])/\S+", "…", f"{type(error).__name__}: {first}")}
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    per_slice = {f"{name}_ms_per_slice": 1e3 * median / len(pixels) for name, median in medians.items()}
    return {**facts, **per_slice, "times_eager": medians["eager"] / medians["compiled"]}


def write_volume(path: Path) -> None:
    """A synthetic head on a grid as of BraTS, one lesion, as int16."""
    phantom = make_phantom(SEED, shape=VOLUME, affine=centred_affine(VOLUME, (1.0, 1.0, 1.0)), lesions=(LESION,))
    nib.Nifti1Image(np.round(phantom.array).astype(np.int16), phantom.affine).to_filename(path)


def measure_volumes(subjects: Sequence[Subject], settings: Settings) -> list[dict[str, Any]]:
    """The same stored volume through each model."""
    with tempfile.TemporaryDirectory() as folder:
        write_volume(file := Path(folder) / "head.nii.gz")
        return [measure_volume(subject, settings, file) for subject in subjects]


def measure_volume(subject: Subject, settings: Settings, file: Path) -> dict[str, Any]:
    """Seconds from the stored volume to the map on disk, ours with every default, in turns with the released way."""
    device, numbers = settings.device, itertools.count()
    if subject.own:
        engine = load_engine(subject.name, str(device), weights=subject.weights)
    else:
        engine = Engine(TorchScorer(build(subject), device=str(device)))
    baseline, out = ReleasedWay(detector_of(subject, device, "float32")), file.parent
    ways = {
        RELEASED: lambda: baseline.volume(file, out / "released.nii.gz"),
        OURS: lambda: predict_case(engine, file, out, f"{subject.name}-{next(numbers)}"),
    }
    seconds = interleaved(ways, min(settings.repeats, 3), device, warm_up=1)
    record = json.loads((out / f"{subject.name}-0" / "result.json").read_text())
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "model": subject.name,
        "pixels": baseline.detector.image_size,
        "voxels": VOLUME,
        "precision": str(engine.scorer.dtype).removeprefix("torch."),
        "batch": engine.batch_size,
        "slices": len(record["slices"]),
        "foreground_slices": sum(not s["background"] for s in record["slices"]),
        "seconds": seconds,
        "timings": record.get("timings"),
        "slices_per_s": {name: len(record["slices"]) / median for name, median in medians.items()},
        "times_released": medians[RELEASED] / medians[OURS],
    }


def measure_pictures(subjects: Sequence[Subject], settings: Settings) -> list[dict[str, Any]]:
    """The same picture through each model, by precision."""
    with tempfile.TemporaryDirectory() as folder:
        levels = (phantom_levels()[0, 0].clamp(0, 1) * 255).round().to(torch.uint8)
        Image.fromarray(levels.numpy()).save(file := Path(folder) / "slice.png")
        asked = itertools.product(subjects, settings.precisions)
        return [measure_picture(subject, precision, settings, file) for subject, precision in asked]


def measure_picture(subject: Subject, precision: str, settings: Settings, file: Path) -> dict[str, Any]:
    """Seconds from the stored picture to the map on disk, ours with every default, in turns with the released way."""
    device, numbers, out = settings.device, itertools.count(), file.parent
    engine = Engine(TorchScorer(build(subject), device=str(device), precision=precision))  # type: ignore[arg-type]
    baseline = ReleasedWay(detector_of(subject, device, "float32"))
    ways = {
        RELEASED: lambda: baseline.picture(file, out / "released.npy"),
        OURS: lambda: predict_case(engine, file, out, f"{subject.name}-{precision}-{next(numbers)}"),
    }
    seconds = in_turns(ways, settings.repeats, device, warm_up=1)
    clocks = ("wall", "user", "cpu")
    medians = {
        clock: {name: statistics.median(getattr(each, clock) for each in found) for name, found in seconds.items()}
        for clock in clocks
    }
    return {
        "model": subject.name,
        "pixels": baseline.detector.image_size,
        "precision": precision,
        "seconds": {name: [each._asdict() for each in found] for name, found in seconds.items()},
        "median": medians,
        "times_released": {clock: medians[clock][RELEASED] / medians[clock][OURS] for clock in clocks},
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", action="append", help=f"NAME or NAME@PIXELS; may be repeated ({' '.join(TOWERS)})")
    parser.add_argument("--weights", type=Path, help="of vit_small_patch14_dinov2")
    parser.add_argument("--batch", type=int, action="append", help="may be repeated (1 4; on CUDA 1 16 64)")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="may be repeated (all that is fast)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--volume", action="store_true", help="file → map on disk for every tower")
    parser.add_argument("--picture", action="store_true", help="8-bit picture → map on disk for every tower")
    parser.add_argument("--no-volume", action="store_true", help="no file → map on disk at all")
    parser.add_argument(
        "--no-memory", action="store_true", help="no peak memory, for which a CPU loads each model again"
    )
    parser.add_argument("--threads", type=int, help="of PyTorch; fewer than the cores where others use them too")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    options.subjects = [parse_tower(text, options.weights) for text in options.tower or TOWERS]
    if unknown := [subject.name for subject in options.subjects if not known(subject.name)]:
        parser.error(f"no built-in pack, open_clip or timm model: {', '.join(unknown)}")
    return options


def settings_of(options: argparse.Namespace) -> Settings:
    """Options with what the device decides."""
    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    native = str(choose_dtype(device)).removeprefix("torch.")
    fast = tuple(PRECISIONS) if on_gpu else tuple(dict.fromkeys(("float32", native)))
    return Settings(
        device=device,
        batches=tuple(options.batch or ((1, 16, 64) if on_gpu else (1, 4))),
        precisions=tuple(options.precision or fast),
        repeats=options.repeats,
        compile=options.compile,
        memory=not options.no_memory,
    )


def main() -> None:
    """Print tables and write JSON."""
    options = parse()
    settings, console = settings_of(options), Console(width=max(Console().width, 200))
    if options.threads:
        torch.set_num_threads(options.threads)
    busy = [others_busy()]
    before = ceilings(settings.device, 5)
    models = [measure_tower(subject, settings) for subject in options.subjects]
    limits = highest(before, ceilings(settings.device, 5))
    busy.append(others_busy())
    models = [against_limits(model, limits) for model in models]
    facts = {"repeats": settings.repeats, "others_busy": busy, "ceilings": limits}
    report = {**describe(settings.device), **facts, "models": models}
    show_machine(console, report)
    for model in models:
        show_counts(console, model)
    console.print(towers_table(models))
    if settings.compile:
        console.print(compiled_table(models))
    whole = [] if options.no_volume else options.subjects if options.volume else [Subject("headclip-tiny")]
    if whole:
        report["volumes"] = measure_volumes(whole, settings)
        console.print(volumes_table(report["volumes"]))
    if options.picture:
        report["pictures"] = measure_pictures(options.subjects, settings)
        console.print(pictures_table(report["pictures"]))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
