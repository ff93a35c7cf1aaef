"""How much memory scoring takes, predicted before it runs, and how many slices at once fit into what is free."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from headclip_med.detectors import Detector
from headclip_med.encoders.attention import logit_bytes

# A GPU gets at most so many slices at once: more hardly gains, and the first results come later.
_MOST = 64
# On a CPU products of so many rows are as fast as they get: 15 % faster than of 200 to 600.
_TOKENS_CPU, _MOST_CPU = 2400, 8
_MOST_UNMEASURED = 16  # on devices that do not say what is free
# Share of the free memory that is planned with: the allocator's rounding and other programs need the rest.
_SHARE = 0.8
# Libraries keep buffers and packed weights of their own: with these two, what was counted bounds all that was measured
# (docs/performance.md), of which it is 1.0 to 3.5 times.
_BUFFERS, _MARGIN = 32 * 2**20, 1.75
_CGROUP = Path("/sys/fs/cgroup")


def slice_bytes(detector: Detector) -> int:
    """Bytes that scoring one slice takes beyond the weights, at its peak.

    Counted are the tensors that live at the same time in the largest moment of a block: both paths' tokens in float32,
    the normalised ones, q, k, v and the heads' outputs, or the MLP's hidden layer before and after its activation;
    on a CPU also a group of heads' logits and their softmax; then the taps, the pixels and the maps.
    """
    tower, size = detector.tower, detector.image_size
    patches = (size // tower.patch_size) ** 2
    tokens, item = tower.prefix + patches, tower.dtype.itemsize
    stream, narrow = tokens * tower.width * 4, tokens * tower.width * item
    hidden = tokens * max(p.shape[0] for p in tower.blocks[0].mlp.parameters()) * item
    logits = 2 * logit_bytes(tokens, tower.heads, item) if tower.device.type == "cpu" else 0
    attention = stream + narrow + 6 * narrow + logits
    mlp = 2 * stream + narrow + 2 * hidden
    taps = len(getattr(detector, "layers", (0,))) * 2 * patches * tower.output_dim * 4
    pictures = 10 * size * size * 4  # three channels twice, limits, maps and their copies
    return 2 * stream + max(attention, mlp) + taps + pictures


def batch_bytes(detector: Detector, batch: int) -> int:
    """Bytes that scoring a batch takes beyond the weights: an upper bound for :func:`slice_bytes`, by measurement."""
    return int(_BUFFERS + _MARGIN * batch * slice_bytes(detector))


def shortage(map_bytes: int, detector: Detector, batch: int, device: torch.device) -> str | None:
    """What to say when scoring a case is predicted to take more memory than is free, or None.

    Beside a batch of slices a CPU will hold two more copies of a map of ``map_bytes``: smoothed, and on its way
    to the disk.
    """
    needed = batch_bytes(detector, batch) + (2 * map_bytes if device.type == "cpu" else 0)
    free = free_bytes(device)
    if free is None or needed <= free:
        return None
    return (
        f"scoring is predicted to take {needed / 2**30:.1f} GiB more on {device.type}, where {free / 2**30:.1f} GiB "
        "are free: the system may stop it"
    )


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on the device now, within the limit of a container; None where it does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    return min(int(psutil.virtual_memory().available), _cgroup_free())


def fitting_batch(detector: Detector, device: torch.device) -> int:
    """Slices at once: on a CPU a few of few tokens, for longer matrix products; on a GPU what its free memory holds."""
    if device.type == "cpu":
        tokens = detector.tower.prefix + (detector.image_size // detector.tower.patch_size) ** 2
        return max(1, min(_MOST_CPU, round(_TOKENS_CPU / tokens)))
    free = free_bytes(device)
    if free is None:
        return _MOST_UNMEASURED
    return max(1, min(_MOST, int((_SHARE * free - _BUFFERS) / (_MARGIN * slice_bytes(detector)))))


def _cgroup_free() -> int:
    """What a container may still take; a very large number where there is no limit."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        return max(0, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no cgroup, or "max"
        return 2**62
