"""The main job against the plain way, in one run: python benchmarks/predict.py [--tower ViT-B-16] [--json FILE]

Plain: float32, one slice at a time, the tower's own forward for the global feature, then a second, separate pass for
the V-V maps with unfused attention, background slices included. Ours: what ``Engine.predict`` does by default here.
Ratios are what counts; absolute times belong to the machine. Also: peak memory against the number of slices.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med import load_engine
from headclip_med.demo import demo_phantom
from headclip_med.detectors import ClassFeatures, HeadCLIP
from headclip_med.device import choose_dtype
from headclip_med.encoders.adapters import tower_from_open_clip
from headclip_med.encoders.image import first_local_block


def plain_clip(visual: torch.nn.Module, pixels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Score and map of one image the way released code computes them, in float32."""
    with torch.inference_mode():
        score = (F.normalize(visual(pixels), dim=-1) @ classes.T / 0.07).softmax(-1)[:, 1]
        tokens = visual._embeds(pixels)
        local, blocks = None, visual.transformer.resblocks
        for index, block in enumerate(blocks):
            if index == first_local_block(len(blocks)):
                local = tokens
            if local is not None:
                normed, heads = block.ln_1(tokens), block.attn.num_heads
                _, _, value = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
                value = value.unflatten(-1, (heads, -1)).transpose(1, 2)
                weights = (value @ value.transpose(-1, -2) / value.shape[-1] ** 0.5).softmax(-1)
                local = local + block.attn.out_proj((weights @ value).transpose(1, 2).flatten(2))
            tokens = block(tokens)
        features = F.normalize(visual.ln_post(local)[:, 1:] @ visual.proj, dim=-1)
        grid = round(features.shape[1] ** 0.5)
        maps = (features @ classes.T / 0.07).softmax(-1)[..., 1].view(-1, 1, grid, grid)
        return score, F.interpolate(maps, size=pixels.shape[-2:], mode="bilinear")


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def compare_tower(name: str, repeats: int) -> dict[str, object]:
    """Seconds per slice of both ways on the same random weights and pixels, and how far their maps differ."""
    torch.manual_seed(0)
    visual = open_clip.create_model(name, pretrained=None).visual.eval()
    size = visual.image_size[0]
    pixels = torch.randn(1, 3, size, size)
    classes = F.normalize(torch.randn(2, visual.output_dim), dim=-1)
    plain_maps = plain_clip(visual, pixels, classes)[1]
    plain = median_seconds(lambda: plain_clip(visual, pixels, classes), repeats)
    tower = tower_from_open_clip(visual)
    dtype = choose_dtype(torch.device("cpu"))
    detector = HeadCLIP(tower.cast(dtype), ClassFeatures({tower.depth - 1: classes}, classes, {}))
    ours = median_seconds(lambda: detector.score(pixels), repeats)
    exact = F.interpolate(plain_maps, size=(size, size))[:, 0]
    smooth = detector.score(pixels).maps
    return {
        "tower": name,
        "pixels": size,
        "dtype": str(dtype),
        "plain_s_per_slice": plain,
        "ours_s_per_slice": ours,
        "speed_up": plain / ours,
        "mean_map_difference": float((smooth - exact).abs().mean()),
    }


def peak_memory(job: tuple[str, int]) -> tuple[int, float]:
    """Slices, and the peak resident memory in MiB of a process that scored ``copies`` of a stored volume stacked up."""
    file, copies = job
    stack = np.concatenate([np.load(file)] * copies, axis=2)
    load_engine(device="cpu").predict(stack, affine=np.eye(4))
    status = Path("/proc/self/status").read_text()  # Linux; getrusage's peak is inherited from the parent process
    return stack.shape[2], int(status.split("VmHWM:")[1].split()[0]) / 1024


def whole_volume() -> dict[str, object]:
    """File-less main job of the embedded model on the demonstration volume, and memory against the slices."""
    engine, phantom = load_engine(device="cpu"), demo_phantom()
    seconds = median_seconds(lambda: engine.predict(phantom.array, affine=phantom.affine), 3)
    result = engine.predict(phantom.array, affine=phantom.affine)
    scored = sum(not s.background for s in result.slices)
    # A process each: a peak never falls again, so a second run in one process would hide behind the first.
    with (
        tempfile.TemporaryDirectory() as folder,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        np.save(file := f"{folder}/volume.npy", phantom.array)
        peaks = dict(pool.imap(peak_memory, [(file, copies) for copies in (1, 2, 4)]))
    return {
        "slices": scored,
        "seconds": seconds,
        "slices_per_s": scored / seconds,
        "timings": result.timings,
        "peak_mib_by_slices": peaks,
    }


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", action="append", help="open_clip architecture; may be repeated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "towers": [compare_tower(name, options.repeats) for name in options.tower or ["ViT-B-16"]],
        "embedded": whole_volume(),
    }
    for row in report["towers"]:
        print(
            f"{row['tower']:>16} at {row['pixels']} px: plain {row['plain_s_per_slice']:.3f} s, ours "
            f"{row['ours_s_per_slice']:.3f} s ({row['dtype']}), {row['speed_up']:.1f}× a slice"
        )
    volume = report["embedded"]
    rate = f"{volume['slices_per_s']:.1f} a second"
    print(f"   headclip-tiny: {volume['slices']} slices in {volume['seconds']:.1f} s, {rate}")
    print(f"   peak memory by slices (MiB): {volume['peak_mib_by_slices']}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
