"""Exported files against the detector, in one run: python benchmarks/export_parity.py [--weights FILE] [--json FILE]

For each model: largest absolute difference of map and score from the eager float32 detector (reloaded files, batches
of 1 and 3), seconds to export, size of the file; then the median time of one slice (batch 1) of eager float32, eager
bfloat16, each file, and OpenVINO where it is installed, with its ratio to eager float32. The models are headclip-tiny,
a ViT-B/16 CLIP at 224 px with random weights and random class features, and, with --weights, the pack
dinov2-vits14-brain-mri. Ratios are what counts; absolute times belong to the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from machine import interleaved
from subjects import random_model

from headclip_med.bundle.export.formats import KINDS
from headclip_med.bundle.export.run import export_model
from headclip_med.engine.onnx_graph import OPENVINO, OpenVinoSession, open_session
from headclip_med.models.load import Model, detector_for, load_model

TOWER = "ViT-B-16"


def random_clip() -> Model:
    """ViT-B/16 with random weights and class features, and head weights that are not 1."""
    model = random_model(TOWER)
    tensors = {**model.pack.tensors, "head_weights": 1 + 0.3 * torch.randn(11, 12)}
    return replace(model, pack=replace(model.pack, tensors=tensors))


def measure(make: Callable[[], Model], repeats: int, threads: int) -> dict[str, object]:
    """One model's row."""
    model = make()
    with tempfile.TemporaryDirectory() as folder:
        files = export_model(model, Path(folder), list(KINDS.values()))
        runners = {file.kind: KINDS[file.kind].writer().reopen(file.file)[0] for file in files}
        session = session_with(threads, Path(folder) / "model.onnx")
        compiled = openvino_with(Path(folder) / "model.onnx")
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
        "onnx": lambda: session.run(None, arrays),
        **{name: partial(opened.run, ["anomaly_map"], arrays) for name, opened in compiled.items()},
    }
    with torch.inference_mode():
        times = interleaved(ways, repeats, torch.device("cpu"), warm_up=3)
        expected = exact.score(pixels, valid).maps.numpy()
    seconds = {name: statistics.median(found) for name, found in times.items()}
    errors = {
        name: float(np.abs(opened.run(["anomaly_map"], arrays)[0][:, 0] - expected).max())
        for name, opened in compiled.items()
    }
    return {
        "model": model.name,
        "pixels": size,
        "files": [{**file.as_json(), "file": file.file.name, "card_file": file.card_file.name} for file in files],
        "seconds_per_slice": seconds,
        "openvino_map_errors": errors,
        "ratio_to_eager_float32": {name: value / seconds["eager float32"] for name, value in seconds.items()},
    }


def session_with(threads: int, path: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime on as many threads as PyTorch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def openvino_with(path: Path) -> Mapping[str, OpenVinoSession]:
    """OpenVINO in the hardware's own precision and in float32, on every core; nothing where it is not installed."""
    if find_spec(OPENVINO) is None:
        return {}
    own = open_session(path, OPENVINO, "auto")
    return {f"openvino {own.precision}": own, "openvino float32": open_session(path, OPENVINO, "float32")}


def show(row: dict) -> None:
    """A few lines per model."""
    print(f"{row['model']} at {row['pixels']} px")
    for file in row["files"]:
        parity = file["parity"]
        print(
            f"  {file['kind']:>12}: map {parity['map_error']:.1e}, score {parity['score_error']:.1e}, "
            f"{file['seconds']:.1f} s to export, {file['bytes'] / 2**20:.1f} MiB"
        )
    for name, error in row["openvino_map_errors"].items():
        print(f"  {name:>18}: map {error:.1e}")
    for name, seconds in row["seconds_per_slice"].items():
        print(f"  {name:>18}: {1000 * seconds:7.1f} ms a slice, {row['ratio_to_eager_float32'][name]:.2f} of float32")


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
