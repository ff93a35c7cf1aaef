"""A training step of head weights, the plain way and from contributions: python benchmarks/head_weight_training.py

Plain: autograd through the tower's blocks for every step. Ours: what the frozen tower says is kept once
(:func:`headclip_med.encoders.image.local_contributions`, heads in 16 bits), and a step is one matrix product, the final
norm and the loss. Both take the same slices in the same order from the same start with the same optimiser, one after
the other in one run. Ratios are what counts; absolute times belong to the machine. The tower is DINOv2 ViT-S/14 from
``$HEADCLIP_SHARED/weights`` if it is there, else one of its shape with random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med.detectors.losses import patch_map_loss
from headclip_med.detectors.scoring import class_probabilities
from headclip_med.encoders.adapters import tower_from_timm
from headclip_med.encoders.build import build_tower
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import Contributions, EncodeOptions, encode_images, local_contributions
from headclip_med.encoders.timm_vit import TimmVitSpec, build_timm_vit
from headclip_med.encoders.tower import ImageTower
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.training.linear import in_half, stack_contributions, tapped_features
from headclip_med.training.synthetic import build_slice_bank

WEIGHTS = Path("weights") / "dinov2_vits14_timm_fp16.safetensors"
SHAPE = TimmVitSpec(img_size=518, patch_size=14, embed_dim=384, depth=12, num_heads=6)
RATE, LOGIT_SCALE = 1e-2, 5.0
VOLUMES = 3  # synthetic heads; the slices with most lesion are taken


@dataclass(frozen=True)
class Problem:
    """Slices ``(N, 3, S, S)``, lesion shares ``(N, Hp, Wp)``, and fixed class vectors with their centre."""

    tower: ImageTower
    options: EncodeOptions
    pixels: Tensor
    lesion: Tensor
    classes: Tensor
    centre: dict[int, Tensor]
    logit_scale: float

    def loss(self, features: dict[int, Tensor], chosen: list[int]) -> Tensor:
        """Focal and Dice terms of the recipe on the patch grid, summed over the taps."""
        truth = self.lesion[chosen]
        maps = [class_probabilities(part, self.classes, self.logit_scale)[..., 1] for part in features.values()]
        terms = [patch_map_loss(part.view_as(truth), truth, torch.ones_like(truth)) for part in maps]
        return torch.stack(terms).sum()


def make_tower() -> tuple[ImageTower, str]:
    """The tower and where its weights come from."""
    folder = os.environ.get("HEADCLIP_SHARED")
    path = Path(folder) / WEIGHTS if folder else None
    if path is not None and path.is_file():
        return build_tower(str(path)).tower, "DINOv2 ViT-S/14"
    torch.manual_seed(0)
    return tower_from_timm(build_timm_vit(SHAPE)), "random weights of the shape of DINOv2 ViT-S/14"


def make_problem(count: int, side: int) -> tuple[Problem, str]:
    """Synthetic slices with lesions, and class vectors along the difference of their means."""
    tower, name = make_tower()
    spec = Preprocessing(side, tower.mean, tower.std)
    bank = build_slice_bank(7, range(VOLUMES), max(24, count), spec)
    order = sorted(range(len(bank.masks)), key=lambda i: -int(bank.masks[i].sum()))[:count]
    levels = torch.from_numpy(bank.images[order]).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (tower.mean, tower.std))
    pixels = (levels[:, None].expand(-1, 3, -1, -1) - mean) / std
    lesion = F.avg_pool2d(torch.from_numpy(bank.masks[order]).float()[:, None], tower.patch_size)[:, 0]
    options = EncodeOptions(layers=(tower.depth - 1,), want_global=False)
    with torch.no_grad():
        raw = torch.cat(
            [
                encode_images(tower, one[None], options, normalise=False).patch_features[tower.depth - 1]
                for one in pixels
            ]
        )
    abnormal = lesion.flatten() >= 0.5
    found = raw.flatten(0, 1)
    direction = F.normalize(found[abnormal].mean(dim=0) - found[~abnormal].mean(dim=0), dim=-1)
    centre = {tower.depth - 1: found.mean(dim=0)}
    return Problem(tower, options, pixels, lesion, torch.stack([-direction, direction]), centre, LOGIT_SCALE), name


def plain(problem: Problem, weights: Tensor, chosen: list[int]) -> Tensor:
    """Loss of a batch by autograd through the tower."""
    out = encode_images(
        problem.tower,
        problem.pixels[chosen],
        problem.options,
        head_weights=HeadWeights(weights),
        centre=problem.centre,
    )
    return problem.loss(out.patch_features, chosen)


def ours(problem: Problem, kept: list[Contributions], weights: Tensor, chosen: list[int]) -> Tensor:
    """Loss of a batch from what was kept of its slices."""
    parts = stack_contributions([kept[i] for i in chosen])
    features = tapped_features(problem.tower, parts, HeadWeights(weights), problem.options, centre=problem.centre)
    return problem.loss(features, chosen)


@dataclass(frozen=True)
class Run:
    """Seconds, loss and gradient of every step, and the weights at the end."""

    seconds: list[float]
    losses: list[float]
    gradients: list[Tensor]
    weights: Tensor


def steps(loss_of: Callable[[Tensor, list[int]], Tensor], problem: Problem, count: int, batch: int) -> Run:
    """Train head weights for ``count`` steps after one that is not counted."""
    tower = problem.tower
    loss_of(torch.ones(tower.depth, tower.heads, requires_grad=True), list(range(batch))).backward()
    weights = torch.ones(tower.depth, tower.heads, requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=RATE)
    seconds, losses, gradients = [], [], []
    for step in range(count):
        chosen = [(step * batch + i) % len(problem.pixels) for i in range(batch)]
        begin = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(weights, chosen)
        loss.backward()
        optimiser.step()
        seconds.append(time.perf_counter() - begin)
        losses.append(float(loss.detach()))
        gradients.append(weights.grad.clone())
    return Run(seconds, losses, gradients, weights.detach().clone())


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="counted steps of each way (default: 5)")
    parser.add_argument("--batch", type=int, default=8, help="slices of a step (default: 8)")
    parser.add_argument("--slices", type=int, default=16, help="slices in all (default: 16)")
    parser.add_argument("--side", type=int, default=392, help="input side in pixels (default: 392)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    problem, tower = make_problem(options.slices, options.side)
    begin = time.perf_counter()
    whole = [local_contributions(problem.tower, one[None], problem.options) for one in problem.pixels]
    keeping = (time.perf_counter() - begin) / len(whole)
    kept = [in_half(part) for part in whole]
    mib = sum(t.nbytes for t in (kept[0].base, kept[0].heads)) / 2**20
    slow = steps(lambda w, chosen: plain(problem, w, chosen), problem, options.steps, options.batch)
    fast = steps(lambda w, chosen: ours(problem, kept, w, chosen), problem, options.steps, options.batch)
    full = steps(lambda w, chosen: ours(problem, whole, w, chosen), problem, 1, options.batch)
    report = {
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {options.threads} thread",
        "tower": tower,
        "side": options.side,
        "batch": options.batch,
        "steps": options.steps,
        "plain_seconds": statistics.median(slow.seconds),
        "ours_seconds": statistics.median(fast.seconds),
        "speed_up": statistics.median(slow.seconds) / statistics.median(fast.seconds),
        "seconds_to_keep_a_slice": keeping,
        "mib_kept_a_slice": mib,
        "loss": {"plain": slow.losses, "ours": fast.losses},
        "first_step": {
            "loss_difference": abs(slow.losses[0] - fast.losses[0]),
            "loss_difference_32_bits": abs(slow.losses[0] - full.losses[0]),
            "largest_gradient": float(slow.gradients[0].abs().max()),
            "gradient_difference": float((slow.gradients[0] - fast.gradients[0]).abs().max()),
            "gradient_difference_32_bits": float((slow.gradients[0] - full.gradients[0]).abs().max()),
        },
        "weight_difference_at_the_end": float((slow.weights - fast.weights).abs().max()),
    }
    first = report["first_step"]
    print(f"{tower}, {options.side} px, batch {options.batch}, {options.steps} steps of each; {report['machine']}")
    print(f"{'autograd through the tower':>32} {report['plain_seconds']:>9.3f} s a step")
    print(f"{'from what is kept':>32} {report['ours_seconds']:>9.3f} s a step: {report['speed_up']:.1f}× faster")
    print(f"{'keeping a slice, once':>32} {keeping:>9.3f} s, {mib:.1f} MiB")
    print(f"\nFirst step: loss {slow.losses[0]:.6f}, largest gradient {first['largest_gradient']:.3g}; differences")
    print(f"{'heads kept in 16 bits':>32} loss {first['loss_difference']:.2g}", end="")
    print(f", gradient {first['gradient_difference']:.2g}")
    print(f"{'heads kept in 32 bits':>32} loss {first['loss_difference_32_bits']:.2g}", end="")
    print(f", gradient {first['gradient_difference_32_bits']:.2g}")
    apart = report["weight_difference_at_the_end"]
    print(
        f"After {options.steps} steps: loss {slow.losses[-1]:.6f} and {fast.losses[-1]:.6f}, weights {apart:.2g} apart"
    )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
