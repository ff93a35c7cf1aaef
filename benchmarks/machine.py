"""What a machine can do at most, and how time and memory are taken on it."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SIDES = (4096, 2048, 1024, 512)
_LONGEST = 0.5  # seconds that one product may take
_COPIED = 256 * 2**20  # bytes


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Seconds(NamedTuple):
    """How long something took: by the clock, and of all cores for this process, which other work lengthens less.

    ``user`` is its own work, ``cpu`` with the system's for it, such as memory that is asked for and given back.
    """

    wall: float
    user: float
    cpu: float


def clocked(work: Callable[[], object], device: torch.device) -> Seconds:
    """Seconds until the device is done."""
    finish(device)
    begin, before = time.perf_counter(), os.times()
    work()
    finish(device)
    wall, after = time.perf_counter() - begin, os.times()
    user = after.user - before.user
    return Seconds(wall, user, user + after.system - before.system)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds until the device is done."""
    return clocked(work, device).wall


def interleaved(
    ways: Mapping[Key, Callable[[], object]], repeats: int, device: torch.device, warm_up: int = 2
) -> dict[Key, list[float]]:
    """Wall seconds of each way, ``repeats`` each, taken in turns so that a busy machine slows all of them."""
    rounds = in_turns(ways, repeats, device, warm_up)
    return {key: [each.wall for each in found] for key, found in rounds.items()}


def in_turns(
    ways: Mapping[Key, Callable[[], object]], repeats: int, device: torch.device, warm_up: int = 2
) -> dict[Key, list[Seconds]]:
    """As :func:`interleaved`, with the processor's seconds too."""
    for _ in range(warm_up):
        for work in ways.values():
            clocked(work, device)
    rounds = [{key: clocked(work, device) for key, work in ways.items()} for _ in range(repeats)]
    return {key: [times[key] for times in rounds] for key in ways}


def ceilings(device: torch.device, repeats: int) -> dict[str, Any]:
    """TFLOP/s of square matrix products by type, and GB/s of a copy, read and written bytes together."""
    products = {name: product_ceiling(device, dtype, repeats) for name, dtype in PRECISIONS.items()}
    return {"products": products, "copy_gb_per_s": copy_ceiling(device, repeats)}


def highest(*measured: dict[str, Any]) -> dict[str, Any]:
    """The best of several measurements of :func:`ceilings`: other work on the machine only lowers them."""
    products = {
        name: max((m["products"][name] for m in measured), key=lambda p: p["tflop_per_s"]) for name in PRECISIONS
    }
    return {"products": products, "copy_gb_per_s": max(m["copy_gb_per_s"] for m in measured)}


@torch.inference_mode()
def product_ceiling(device: torch.device, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Median TFLOP/s of the largest square product that is not too slow here, and its side."""
    probe = statistics.median(interleaved({0: _product(device, dtype, _SIDES[-1])}, 3, device)[0])
    side = next((n for n in _SIDES if probe * (n / _SIDES[-1]) ** 3 <= _LONGEST), _SIDES[-1])
    seconds = statistics.median(interleaved({0: _product(device, dtype, side)}, repeats, device)[0])
    return {"side": side, "tflop_per_s": 2 * side**3 / seconds / 1e12}


def _product(device: torch.device, dtype: torch.dtype, side: int) -> Callable[[], object]:
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return partial(torch.mm, a, b)


def copy_ceiling(device: torch.device, repeats: int) -> float:
    """Median GB/s, of 256 MiB that no cache holds."""
    source = torch.ones(_COPIED // 4, device=device)
    target = torch.empty_like(source)
    seconds = statistics.median(interleaved({0: partial(target.copy_, source)}, repeats, device)[0])
    return 2 * _COPIED / seconds / 1e9


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """Most memory that ``work`` needs at once beyond what is there now; on a CPU of this process, None where unknown.

    On a CPU the first call counts, so ask in a fresh process.
    """
    if device.type == "cuda":
        finish(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        finish(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu" or not Path("/proc/self/status").exists():
        return None
    _forget_peak()
    before = _resident_peak()
    work()
    return _resident_peak() - before


def _forget_peak() -> None:
    """Give back what loading freed, and set Linux's peak to what is resident now: neither may hide what running needs.

    Where the C library or the kernel cannot do it, the number is too low.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident_peak() -> int:
    status = Path("/proc/self/status").read_text()  # getrusage's peak is inherited from the parent process
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def others_busy(seconds: float = 1.0) -> float | None:
    """Share of all cores that was busy while this process slept, in [0, 1]; None where it is unknown."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    before = _cpu_times(stat)
    time.sleep(seconds)
    total, idle = (after - earlier for after, earlier in zip(_cpu_times(stat), before, strict=True))
    return 1 - idle / total if total else None


def _cpu_times(stat: Path) -> tuple[int, int]:
    """Ticks of all cores since boot, and those without work."""
    ticks = [int(field) for field in stat.read_text().splitlines()[0].split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def describe(device: torch.device) -> dict[str, str]:
    """Machine, device and versions in words."""
    info, threads = Path("/proc/cpuinfo"), torch.get_num_threads()
    named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    cpu = named.group(1) if named else platform.processor() or platform.machine()
    return {
        "machine": f"{cpu}, {threads} thread{'' if threads == 1 else 's'}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "float32_products": torch.get_float32_matmul_precision(),
    }
