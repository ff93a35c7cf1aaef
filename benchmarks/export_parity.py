"""Exported files against the detector, in one run: python benchmarks/export_parity.py [--weights FILE] [--json FILE]

For each model: largest absolute difference of map and score from the eager float32 detector (reloaded files, batches
of 1 and 3), seconds to export, size of the file; then the median time of one slice (batch 1) of eager float32, eager
bfloat16 and each file, and its ratio to eager float32. The models are headclip-tiny, a ViT-B/16 CLIP at 224 px with
random weights and random class features, and, with --weights, the pack dinov2-vits14-brain-mri. Ratios are what
counts; absolute times belong to the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import open_clip
import torch
from torch.nn import functional as F

from headclip_med.encoders.adapters import tower_from_open_clip
from headclip_med.encoders.build import BuiltTower
from headclip_med.exports.kinds import KINDS
from headclip_med.exports.run import export_model
from headclip_med.models import Model, detector_for, load_model
from headclip_med.packs.pack import Pack, PackRecord, Threshold, TowerRecord

KIND_NAMES = ("pt2", "onnx", "torchscript")
TOWER = "ViT-B-16"


def random_clip() -> Model:
    """ViT-B/16 with random weights, head weights that are not 1, and random class features."""
    torch.manual_seed(0)
    visual = open_clip.create_model(TOWER, pretrained=None).visual.eval()
    tower = tower_from_open_clip(visual)
    classes = F.normalize(torch.randn(2, tower.output_dim), dim=-1)
    record = PackRecord(
        format="headclip_med/1",
        name=f"random {TOWER}",
        title="Random weights",
        method="headclip",
        tower=TowerRecord(kind="open_clip", name=TOWER),
        threshold=Threshold(value=0.5, origin="none"),
    )
    tensors = {"patch_classes": classes, "image_classes": classes, "head_weights": 1 + 0.3 * torch.randn(11, 12)}
    return Model(
        record.name,
        "headclip",
        BuiltTower(tower, "open_clip", TOWER, "random", ""),
        Pack(Path(), record, tensors, ""),
    )


def interleaved(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each way, taken in turns so that a busy machine slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(repeats + 3):
        for name, work in ways.items():
            begin = time.perf_counter()
            work()
            if round_ >= 3:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def measure(make: Callable[[], Model], repeats: int, threads: int) -> dict[str, object]:
    """One model's row."""
    model = make()
    with tempfile.TemporaryDirectory() as folder:
        files = export_model(model, Path(folder), [KINDS[name] for name in KIND_NAMES])
        runners = {file.kind: KINDS[file.kind].form().reopen(file.file)[0] for file in files}
        session = session_with(threads, Path(folder) / "model.onnx")
    exact, rough_model = detector_for(model, model.domain), make()
    rough_model.built.tower.cast(torch.bfloat16)
    rough = detector_for(rough_model, rough_model.domain)
    size = exact.image_size
    pixels, valid = torch.randn(1, 3, size, size), torch.ones(1, size, size)
    arrays = {"pixels": pixels.numpy(), "valid": valid.numpy()}
    ways = {
        "eager float32": lambda: exact.score(pixels, valid),
        "eager bfloat16": lambda: rough.score(pixels, valid),
        "pt2": lambda: runners["pt2"](pixels, valid),
        "torchscript": lambda: runners["torchscript"](pixels, valid),
        "onnx": lambda: session.run(None, arrays),
    }
    with torch.inference_mode():
        seconds = interleaved(ways, repeats)
    return {
        "model": model.name,
        "pixels": size,
        "files": [{**file.as_json(), "file": file.file.name, "card_file": file.card_file.name} for file in files],
        "seconds_per_slice": seconds,
        "ratio_to_eager_float32": {name: value / seconds["eager float32"] for name, value in seconds.items()},
    }


def session_with(threads: int, path: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime on as many threads as PyTorch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def show(row: dict) -> None:
    """A few lines per model."""
    print(f"{row['model']} at {row['pixels']} px")
    for file in row["files"]:
        parity = file["parity"]
        score = "none" if parity["score_error"] is None else f"{parity['score_error']:.1e}"
        print(
            f"  {file['kind']:>12}: map {parity['map_error']:.1e}, score {score}, {file['seconds']:.1f} s to export, "
            f"{file['bytes'] / 2**20:.1f} MiB"
        )
    for name, seconds in row["seconds_per_slice"].items():
        print(f"  {name:>14}: {1000 * seconds:7.1f} ms a slice, {row['ratio_to_eager_float32'][name]:.2f} of float32")


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="of vit_small_patch14_dinov2")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    makers: list[Callable[[], Model]] = [lambda: load_model("headclip-tiny"), random_clip]
    if options.weights:
        makers.append(lambda: load_model("dinov2-vits14-brain-mri", weights=options.weights))
    rows = [measure(make, options.repeats, options.threads) for make in makers]
    for row in rows:
        show(row)
    report = {
        "machine": f"{platform.processor() or platform.machine()}, {options.threads} threads",
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "models": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
