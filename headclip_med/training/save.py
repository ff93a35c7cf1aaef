"""A trained adapter → a pack that any engine loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headclip_med.base.files import save_tensors
from headclip_med.encoders.build import BuiltTower
from headclip_med.models.new_pack import tower_record
from headclip_med.models.record import PACK_FORMAT, LedgerEntry, PackRecord, Threshold, write_record
from headclip_med.training.adapter import Adapter
from headclip_med.training.config import TrainConfig

TENSORS = "pack.safetensors"


def save_pack(
    folder: Path,
    adapter: Adapter,
    built: BuiltTower,
    config: TrainConfig,
    method: dict[str, Any],
    threshold: Threshold,
    ledger: tuple[LedgerEntry, ...],
    validation: dict[str, Any],
) -> Path:
    """Write ``pack.safetensors`` and ``pack.json`` into ``folder``; each whole or not at all.

    Args:
        method: of :func:`pack_config`.

    Raises:
        OutputError: when they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / TENSORS, pack_tensors(adapter))
    record = PackRecord(
        format=PACK_FORMAT,
        name=config.name,
        title=_title(adapter, config, built),
        method="headclip",
        tower=tower_record(built),
        config=method,
        domain=config.domain,
        scope=config.scope,
        preprocessing=config.recorded_preprocessing,
        threshold=threshold,
        ledger=ledger,
        validation=validation,
    )
    return write_record(folder, record)


@torch.no_grad()
def pack_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors of a pack; learned prompts are kept beside the class features that they end as."""
    patch, image = adapter.classes()
    tensors = {"patch_classes": patch.clone(), "centre": adapter.centre.clone()}
    if image is not None:
        tensors["image_classes"] = image.clone()
    if adapter.uses_prompts:
        tensors |= {f"prompt.{name}": value.clone() for name, value in adapter.classes.learner.named_parameters()}
        del tensors["centre"]
    heads = adapter.heads
    if heads is not None and heads.predictor is not None:
        tensors |= {f"dynamic.{name}": value.clone() for name, value in heads.predictor.state_dict().items()}
    elif heads is not None:
        tensors["head_weights"] = heads.theta.detach().clone()
    return {name: value.contiguous() for name, value in tensors.items()}


def pack_config(
    adapter: Adapter, config: TrainConfig, image_size: int, fusion: tuple[float, float, float] | None = None
) -> dict[str, Any]:
    """The method's configuration under which the tensors mean what they were trained for."""
    chosen: dict[str, Any] = {
        "image_size": image_size,
        "feature_layers": list(adapter.layers),
        "local_attention": config.local_attention,
        "temperature": float(1 / adapter.classes.log_scale.detach().exp()),
    }
    if config.local_start is not None:
        chosen["local_start"] = config.local_start
    if fusion is not None:
        chosen["intensity_fusion"] = list(fusion)
    heads = adapter.heads
    if heads is not None:
        chosen["lhw_branch"] = config.heads.branch
        if heads.predictor is not None:
            chosen["lhw_dynamic"] = True
        else:
            chosen |= {"lhw_layers": config.heads.layers, "lhw_param": config.heads.param}
    return chosen


def _title(adapter: Adapter, config: TrainConfig, built: BuiltTower) -> str:
    parts = ["learned prompts" if adapter.uses_prompts else "class vectors"]
    if adapter.heads is not None:
        parts.insert(0, "head weights")
    return f"{' and '.join(parts).capitalize()} for {built.architecture}, {config.domain}"
