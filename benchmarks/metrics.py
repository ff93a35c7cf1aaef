"""Pixel metrics of many maps against the plain way, in one run: python benchmarks/metrics.py [--maps N] [--json FILE]

Plain: AUPRO at 200 thresholds, where every threshold goes through every image, labels its mask and visits its regions,
as the released code of the AnomalyCLIP family is structured. Ours: one pass over the maps for all pixel metrics and
both AUPROs. Maps are made one by one, which is not counted. Ratios are what counts; absolute times belong to the
machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from headclip_med.evaluation.metrics import curves
from headclip_med.evaluation.metrics.counts import CountSum, ScoreCounts, count_map
from headclip_med.evaluation.metrics.curves import expected_calibration_error

SIDE = 518
THRESHOLDS = 200
Map = NDArray[np.float32]
Mask = NDArray[np.bool_]


def make_maps(count: int) -> Iterator[tuple[Map, Mask]]:
    """Probabilities of smooth noise that is higher in 1 to 5 discs; about half of the images have no disc."""
    rows, columns = np.ogrid[:SIDE, :SIDE]
    for index in range(count):
        rng = np.random.default_rng(index)
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        for _ in range(rng.integers(1, 6) if rng.random() < 0.5 else 0):
            (row, column), radius = rng.uniform(0, SIDE, 2), rng.uniform(5, 50)
            mask |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        noise = ndimage.zoom(rng.standard_normal((37, 37), dtype=np.float32), SIDE / 37, order=1)
        logit = noise - 3 + 2 * ndimage.uniform_filter(mask.astype(np.float32), 9)
        yield (1 / (1 + np.exp(-logit))).astype(np.float32), mask


def peak_mib() -> float:
    """Peak resident memory of this process (Linux; getrusage's is inherited from the parent process)."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def all_metrics(counts: ScoreCounts) -> dict[str, float]:
    """Every pixel metric of the pooled counts."""
    negatives, positives, regions = counts.negatives, counts.positives, counts.regions
    return {
        "auroc": float(curves.auroc(negatives, positives)),
        "auroc_bound": float(curves.auroc_bound(negatives, positives)),
        "average_precision": float(curves.average_precision(negatives, positives)),
        "f1_max": float(curves.f1_max(negatives, positives)),
        "sensitivity_at_specificity_95": float(curves.sensitivity_at_specificity(negatives, positives, 0.95)),
        "aupro": float(curves.aupro(negatives, regions, counts.n_regions)),
        "aupro_legacy": float(curves.aupro_legacy(counts.scores, negatives, regions, counts.n_regions)),
        "ece": float(expected_calibration_error(counts.scores, negatives, positives)),
    }


def stream(count: int) -> dict[str, object]:
    """Ours: seconds without making the maps, metrics, and the peak memory of the process that this runs in."""
    total, seconds = CountSum(), 0.0
    for anomaly_map, mask in make_maps(count):
        begin = time.perf_counter()
        total.add(count_map(anomaly_map, mask))
        seconds += time.perf_counter() - begin
    begin = time.perf_counter()
    metrics = all_metrics(total.counts())
    at_end = time.perf_counter() - begin
    facts = {"maps": count, "regions": total.n_regions, "seconds": seconds + at_end, "seconds_at_end": at_end}
    return {**facts, "ms_per_map": 1000 * (seconds + at_end) / count, "peak_mib": peak_mib(), "metrics": metrics}


def plain_aupro(maps: NDArray[np.float32], masks: Mask, limit: float = 0.3) -> float:
    """AUPRO by the plain loop: threshold, image, label, region."""
    low, high = maps.min(), maps.max()
    above = np.zeros(maps.shape, dtype=bool)
    overlaps, rates = [], []
    for threshold in np.arange(low, high, (high - low) / THRESHOLDS):
        above[maps <= threshold], above[maps > threshold] = False, True
        shares = []
        for predicted, mask in zip(above, masks, strict=True):
            labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
            for label, box in zip(range(1, count + 1), ndimage.find_objects(labels), strict=True):
                region = labels[box] == label
                shares.append((predicted[box] & region).sum() / region.sum())
        overlaps.append(np.mean(shares))
        rates.append((above & ~masks).sum() / (~masks).sum())
    rate, overlap = np.array(rates), np.array(overlaps)
    rate, overlap = rate[rate < limit], overlap[rate < limit]
    rate = (rate - rate.min()) / (rate.max() - rate.min())
    return float((-np.diff(rate) * (overlap[1:] + overlap[:-1]) / 2).sum())


def compare(count: int) -> dict[str, object]:
    """The plain loop on ``count`` maps, and ours on the same ones, exact and in levels."""
    maps, masks = (np.stack(parts) for parts in zip(*make_maps(count), strict=True))
    begin = time.perf_counter()
    plain = plain_aupro(maps, masks)
    seconds, peak = time.perf_counter() - begin, peak_mib()
    ours = {}
    for exact in (False, True):
        total = CountSum(exact)
        for anomaly_map, mask in zip(maps, masks, strict=True):
            total.add(count_map(anomaly_map, mask, exact=exact))
        ours["exact" if exact else "levels"] = all_metrics(total.counts())
    return {
        "maps": count,
        "seconds": seconds,
        "ms_per_map": 1000 * seconds / count,
        "peak_mib": peak,
        "aupro_legacy": plain,
        "ours": ours,
    }


def in_own_process(work: object, count: int) -> dict[str, object]:
    """``work(count)`` in a fresh process, as a peak of memory never falls again."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (count,))


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=1000, help="maps that are streamed (default: 1000)")
    parser.add_argument("--plain-maps", type=int, default=100, help="maps of the plain loop (default: 100)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ours, plain = in_own_process(stream, options.maps), in_own_process(compare, options.plain_maps)
    report = {
        "machine": f"{platform.processor() or platform.machine()}, numpy {np.__version__}",
        "side": SIDE,
        "ours": ours,
        "plain": plain,
        "speed_up_per_map": plain["ms_per_map"] / ours["ms_per_map"],
    }
    head = f"{'':>22} {'maps':>6} {'seconds':>9} {'ms a map':>9} {'peak MiB':>9}"
    print(head)
    for name, row in (("plain AUPRO alone", plain), ("ours, every metric", ours)):
        numbers = f"{row['seconds']:>9.1f} {row['ms_per_map']:>9.2f} {row['peak_mib']:>9.0f}"
        print(f"{name:>22} {row['maps']:>6} {numbers}")
    print(f"{report['speed_up_per_map']:.0f}× a map; the plain loop's cost grows in proportion to the maps, so that")
    whole = plain["ms_per_map"] * options.maps / 1000
    print(f"{options.maps} maps would take it about {whole:.0f} s, and hold them all in memory.")
    print(f"\nOn the same {options.plain_maps} maps: AUPRO of the plain loop {plain['aupro_legacy']:.6f}")
    print(f"{'':>32} {'exact':>9} {'levels':>9}")
    for name, value in plain["ours"]["exact"].items():
        print(f"{name:>32} {value:>9.6f} {plain['ours']['levels'][name]:>9.6f}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
