"""A table of head weights from anywhere → a pack that uses them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headclip_med.base.errors import ModelError
from headclip_med.base.files import sha256_file
from headclip_med.encoders.build import BuiltTower
from headclip_med.encoders.head_weights import Branch, check_head_weights
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import first_local_block, resolve_layers
from headclip_med.encoders.tower import ImageTower
from headclip_med.encoders.weight_files import read_plain
from headclip_med.models.convert.prompts import is_prompt_checkpoint
from headclip_med.models.domains import get_domain
from headclip_med.models.new_pack import Conversion, tower_record, unknown_training
from headclip_med.models.pack import Pack, read_safetensors
from headclip_med.models.record import PACK_FORMAT, UNCALIBRATED, PackRecord, Threshold

SUFFIXES = (".safetensors", ".pt", ".pth", ".npy", ".json")
_NAME = "head_weights"  # which tensor of several is meant
_HEAD_FIELDS = ("lhw_dynamic", "lhw_task_decoupled", "lhw_layers", "lhw_param", "lhw_branch")


def read_head_weights(path: Path) -> Tensor:
    """Head weights ``(rows, heads)`` or ``(rows, heads, head_dim)``, float32.

    A file with several tensors must name one of them ``head_weights``.

    Raises:
        ModelError: an unknown kind of file, a damaged one, or no such table in it.
    """
    value = _read(path)
    if isinstance(value, Mapping):
        value = _only(value, path.name)
    try:
        table = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        table = torch.empty(0)
    if table.ndim not in (2, 3) or table.numel() == 0 or table.is_complex() or table.dtype == torch.bool:
        raise ModelError(
            "Head weights must be a table of numbers of the shape (layers, heads)",
            f"{path.name} with the shape {tuple(table.shape)}",
        )
    return table.detach().float().contiguous()


def convert_heads(
    weights: Tensor,
    built: BuiltTower,
    file: Path,
    *,
    layers: Sequence[int] | None = None,
    one_based: bool = False,
    base: Pack | None = None,
    branch: Branch | None = None,
    name: str | None = None,
    domain: str | None = None,
    trained_on: str | None = None,
) -> Conversion:
    """Put head weights on a tower: rows at the listed layers, 1 elsewhere.

    Args:
        weights: of :func:`read_head_weights`; file: where they came from, for the record.
        layers: of the rows; None: the rows are every block of the tower. one_based: they count from 1, as the
            AnomalyCLIP family does.
        base: the pack whose classes and configuration are kept, its own head weights replaced; None: class features
            come from the domain's prompts.
        branch: where the weights act, default the base's or ``local``.

    Raises:
        ModelError: rows, heads or layers that do not fit the tower, or weights that would not act.
    """
    tower, config = built.tower, dict(base.record.config) if base else {}
    acting: Branch = branch or config.get("lhw_branch", "local")
    if base is None and built.clip is None:
        raise ModelError(
            "Head weights for a tower without a text side must be put on a pack with class features",
            built.architecture,
            "Name one with --base",
        )
    table = place_rows(weights, tower, layers, one_based=one_based)
    _check_they_act(table, tower, acting, config.get("local_start"))
    config = {key: value for key, value in config.items() if key not in _HEAD_FIELDS}
    config |= {"lhw_layers": "all", "lhw_param": "free", "lhw_branch": acting}
    record = PackRecord(
        format=PACK_FORMAT,
        name=name or file.stem,
        title=f"Head weights from {file.name} for {built.architecture}",
        method="headclip",
        tower=base.record.tower if base else tower_record(built),
        config=config,
        domain=get_domain(domain).name if domain else (base.record.domain if base else "generic"),
        slice_smoothing_mm=base.record.slice_smoothing_mm if base else 0.0,
        threshold=_threshold(base),
        ledger=(*(base.record.ledger if base else ()), unknown_training(file.name, trained_on)),
        validation=_facts(file, table, base),
    )
    kept = {} if base is None else {k: v for k, v in base.tensors.items() if not k.startswith((_NAME, "dynamic."))}
    return Conversion(record, {**kept, _NAME: table})


def place_rows(
    weights: Tensor, tower: ImageTower, layers: Sequence[int] | None = None, *, one_based: bool = False
) -> Tensor:
    """Rows of the listed layers → ``(depth, heads)`` or ``(depth, heads, head_dim)``, 1 where no layer was listed.

    Raises:
        ModelError: a number of rows, heads or channels, or a layer, that does not fit; numbers that are not finite.
    """
    listed = range(tower.depth) if layers is None else _zero_based(layers, tower.depth, one_based)
    if len(weights) != len(listed):
        raise ModelError(
            f"Head weights must have a row for each of the {len(listed)} layers",
            f"{len(weights)} rows",
            "Name the rows' layers with --layers",
        )
    if weights.shape[1] != tower.heads:
        raise ModelError(f"Head weights must have the {tower.heads} heads of the tower", weights.shape[1])
    placed = torch.ones((tower.depth, *weights.shape[1:]))
    placed[list(listed)] = weights
    check_head_weights(HeadWeights(placed, None), tower)
    return placed


def parse_layers(text: str) -> list[int]:
    """``5,6,20-23`` → ``[5, 6, 20, 21, 22, 23]``.

    Raises:
        ModelError: anything else.
    """
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        plain = all(end.isdecimal() and len(end) <= 4 for end in (first, last))
        if not plain or int(last) < int(first):
            raise ModelError("Layers must be numbers and upward ranges joined by commas, such as 5,6,20-23", repr(text))
        layers += range(int(first), int(last) + 1)
    return layers


def _zero_based(layers: Sequence[int], depth: int, one_based: bool) -> tuple[int, ...]:
    if not one_based:
        return resolve_layers(layers, depth)
    outside = [layer for layer in layers if not 1 <= layer <= depth]
    if outside:
        raise ModelError(f"Layers counted from 1 must lie between 1 and {depth}", ", ".join(map(str, outside)))
    return resolve_layers([layer - 1 for layer in layers], depth)


def _check_they_act(table: Tensor, tower: ImageTower, branch: Branch, local_start: int | None) -> None:
    """Refuse weights of blocks without a local path, where the local branch alone would carry them."""
    start = first_local_block(tower.depth, local_start)
    idle = [layer for layer in range(start) if (table[layer] != 1).any()]
    if branch == "local" and idle:
        raise ModelError(
            f"Head weights of the local branch must be at blocks from {start} on, counted from 0",
            f"weights other than 1 at {', '.join(map(str, idle))}",
            "Leave these rows out, or name the branch global or both",
        )


def _threshold(base: Pack | None) -> Threshold:
    if base is None:
        return UNCALIBRATED
    old = base.record.threshold
    return Threshold(
        value=old.value, origin=f"of pack {base.record.name}, not calibrated with these weights: {old.origin}"
    )


def _facts(file: Path, table: Tensor, base: Pack | None) -> dict[str, Any]:
    rows = (table.flatten(1) != 1).any(dim=1).nonzero().flatten().tolist()
    facts: dict[str, Any] = {
        "converted_from": {"file": file.name, "sha256": sha256_file(file), "layout": "(layers, heads)"},
        "weighted_layers": rows,
    }
    return facts if base is None else facts | {"base": {"name": base.record.name, "sha256": base.sha256}}


def _read(path: Path) -> Any:
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(f"Head weights must be in a file of {', '.join(SUFFIXES)}", path.name)
    if not path.is_file():
        raise ModelError("The file of head weights must exist", path.name, "Check the path")
    if path.suffix.lower() == ".safetensors":
        return read_safetensors(path)
    if path.suffix.lower() in (".pt", ".pth"):
        value = read_plain(path)
        if is_prompt_checkpoint(value):
            raise ModelError("Head weights must be a table", f"{path.name}, which holds prompts")
        return value
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False)
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, EOFError, RecursionError) as error:
        raise ModelError(
            "Head weights must be in a whole file of plain numbers", f"{path.name} ({type(error).__name__})"
        ) from error


def _only(value: Mapping[Any, Any], file: str) -> Any:
    """The one table of a file, or that of the known name."""
    if _NAME in value:
        return value[_NAME]
    if len(value) == 1:
        return next(iter(value.values()))
    names = ", ".join(sorted(map(str, value))[:4]) or "nothing"
    raise ModelError(f"A file with several tensors must name one of them {_NAME}", f"{file} with {names}")
