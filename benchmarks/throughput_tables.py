"""How ``throughput.py`` prints what it measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_BUSY = 0.1  # share of the cores

Column = tuple[str, str, Callable[[Any], str]]  # title, key, text

COLUMNS: tuple[Column, ...] = (
    ("batch", "batch", str),
    ("precision", "precision", str),
    ("GFLOP", "gflop_per_slice", "{:.2f}".format),
    ("ms a slice", "ms_per_slice", "{:.2f}".format),
    ("least ms", "least_ms", "{:.2f}".format),
    ("slices/s", "slices_per_s", "{:.1f}".format),
    ("TFLOP/s", "useful_tflop_per_s", "{:.3f}".format),
    ("of ceiling", "of_ceiling", "{:.0%}".format),
    ("× released", "times_released", "{:.2f}".format),
    ("FLOP/byte", "flop_per_byte", "{:.0f}".format),
    ("peak MiB", "peak_mib", "{:.0f}".format),
    ("map differs", "map_difference", "{:.1e}".format),
)
COMPILED: tuple[Column, ...] = (
    ("batch", "batch", str),
    ("precision", "precision", str),
    ("mode", "mode", str),
    ("first call s", "first_call_s", "{:.1f}".format),
    ("eager ms a slice", "eager_ms_per_slice", "{:.2f}".format),
    ("compiled ms a slice", "compiled_ms_per_slice", "{:.2f}".format),
    ("× eager", "times_eager", "{:.2f}".format),
    ("features differ", "feature_difference", "{:.1e}".format),
    ("failed", "error", escape),
)


def cells(row: dict[str, Any], columns: Sequence[Column]) -> list[str]:
    """A row's texts; empty where it lacks a value."""
    return ["" if row.get(key) is None else text(row[key]) for _, key, text in columns]


def towers_table(models: list[dict[str, Any]]) -> Table:
    """Every way of every model."""
    caption = (
        "GFLOP: useful ones, of released and plain rows what these do; TFLOP/s: useful ones over time, in every row; "
        "least ms: at the ceilings of this machine"
    )
    table = Table(title="A slice through the tower", caption=caption)
    for title in ("model", "way", *(title for title, _, _ in COLUMNS)):
        table.add_column(title, justify="left" if title in ("model", "way", "precision") else "right", no_wrap=True)
    for model in models:
        name = f"{model['model']}@{model['pixels']}" + (" (random)" if model["weights"] == "random" else "")
        for row in model["rows"]:
            table.add_row(name, f"{row['who']}: {row['stage']}", *cells(row, COLUMNS))
            name = ""
        table.add_section()
    return table


def compiled_table(models: list[dict[str, Any]]) -> Table:
    """What ``torch.compile`` gains."""
    table = Table("model", *(title for title, _, _ in COMPILED), title="torch.compile of the tower")
    for model in models:
        for row in model["compiled"]:
            table.add_row(f"{model['model']}@{model['pixels']}", *cells(row, COMPILED))
    return table


def volumes_table(volumes: list[dict[str, Any]]) -> Table:
    """File → map on disk."""
    table = Table("model", "way", "seconds", "slices/s", "× released", "slices scored", title="File → map on disk")
    for volume in volumes:
        name, settings = f"{volume['model']}@{volume['pixels']}", f"{volume['precision']}, batch {volume['batch']}"
        gain, scored = f"{volume['times_released']:.2f}", f"{volume['foreground_slices']} of {volume['slices']}"
        table.add_row(name, "released", *_pace(volume, "released"), "1.00", "all")
        table.add_row("", f"ours, {settings}", *_pace(volume, "ours"), gain, scored)
    return table


def pictures_table(pictures: list[dict[str, Any]]) -> Table:
    """A picture → map on disk, by the clock and by the processor."""
    clocks = ("wall", "user", "cpu")
    titles = ("model", "way", *(f"{clock} s" for clock in clocks), *(f"× released, {clock}" for clock in clocks))
    table = Table(*titles, title="Picture → map on disk")
    for picture in pictures:
        medians, gain = picture["median"], picture["times_released"]
        name = f"{picture['model']}@{picture['pixels']}"
        for who, label in (("released", "released"), ("ours", f"ours, {picture['precision']}")):
            spent = [f"{medians[clock][who]:.2f}" for clock in clocks]
            gains = ["1.00"] * len(clocks) if who == "released" else [f"{gain[clock]:.2f}" for clock in clocks]
            table.add_row(name if who == "released" else "", label, *spent, *gains)
    return table


def _pace(volume: dict[str, Any], who: str) -> tuple[str, str]:
    return f"{statistics.median(volume['seconds'][who]):.2f}", f"{volume['slices_per_s'][who]:.1f}"


def show_machine(console: Console, report: dict[str, Any]) -> None:
    """The machine, what it reaches at most, and whether other work made the numbers doubtful."""
    products, copy = report["ceilings"]["products"], report["ceilings"]["copy_gb_per_s"]
    reached = ", ".join(f"{name} {p['tflop_per_s']:.3g} TFLOP/s (side {p['side']})" for name, p in products.items())
    console.print(f"{report['machine']}; {report['device']}; torch {report['torch']}")
    console.print(f"ceilings: products of matrices {reached}; copy {copy:.1f} GB/s")
    busy = [share for share in report["others_busy"] if share is not None]
    if max(busy, default=0) > _BUSY:
        shares = " and ".join(f"{share:.0%}" for share in busy)
        console.print(f"doubtful: other work took {shares} of the cores before and after; repeat on an idle machine")


def show_counts(console: Console, model: dict[str, Any]) -> None:
    """A line on what was counted."""
    flops = model["flops_per_slice"]
    gflop = {key: f"{flops[key] / 1e9:.4g}" for key in ("useful", "shared", "released", "plain")}
    reasons = ", ".join(f"{reason} {count / 1e9:.2g}" for reason, count in flops["skipped"].items() if count)
    console.print(
        f"{model['model']}@{model['pixels']}: {gflop['useful']} GFLOP a slice are useful, of {gflop['shared']} in one "
        f"pass of everything (not needed: {reasons}); released {gflop['released']}, plain {gflop['plain']}"
    )
