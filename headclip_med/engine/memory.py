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
    """Count the bytes that scoring one slice takes beyond the weights, at its peak.

    Counted are the tensors that live at the same time in the largest moment of a block: both paths' tokens in float32,
    the normalised ones, q, k, v and the heads' outputs, or the MLP's hidden layer before and after its activation.
    On a CPU also a group of heads' logits and their softmax. Then the taps, the pixels and the maps.

    Args:
        detector: On its device, in its type.

    Returns:
        Bytes.
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
    """Bound the bytes that scoring a batch takes beyond the weights, by :func:`slice_bytes` and a measured margin.

    Args:
        detector: On its device, in its type.
        batch: Slices at once.

    Returns:
        Bytes.
    """
    return int(_BUFFERS + _MARGIN * batch * slice_bytes(detector))


def shortage(map_bytes: int, detector: Detector, batch: int, device: torch.device) -> str | None:
    """Say when scoring a case is predicted to take more memory than is free.

    Beside a batch of slices a CPU will hold two more copies of a map of ``map_bytes``: smoothed, and on its way
    to the disk.

    Args:
        map_bytes: Size of the map of one plane.
        detector: Scores the slices.
        batch: Slices at once.
        device: Where they are scored.

    Returns:
        A sentence, or None where it fits or nothing is known.
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
    """Measure the memory that is free on the device now, within the limit of a container.

    Args:
        device: Any device.

    Returns:
        Bytes, None for devices other than CUDA and the CPU.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    return min(int(psutil.virtual_memory().available), _cgroup_free())


def fitting_batch(detector: Detector, device: torch.device) -> int:
    """Choose how many slices go at once.

    Args:
        detector: Scores the slices.
        device: Where they are scored.

    Returns:
        On a CPU 1 to 8, more of fewer tokens. On CUDA 1 to 64, what its free memory holds. Elsewhere 16.
    """
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
