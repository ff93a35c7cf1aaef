"""Write what was trained as a pack that any engine loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from headclip_med.base.files import save_tensors
from headclip_med.encoders.build import BuiltTower
from headclip_med.models.new_pack import tower_record
from headclip_med.models.pack import TENSORS_NAME
from headclip_med.models.record import PACK_FORMAT, PackRecord, Threshold, write_record
from headclip_med.training.adapter import Adapter
from headclip_med.training.auxiliary import Part
from headclip_med.training.config import TrainConfig
from headclip_med.training.loop import Fitted, TrainWatcher
from headclip_med.training.threshold import choose_threshold


def save_trained(
    config: TrainConfig,
    built: BuiltTower,
    title: str,
    tensors: Mapping[str, Tensor],
    method: dict[str, Any],
    fitted: Fitted,
    parts: Sequence[Part],
    watcher: TrainWatcher,
) -> Threshold:
    """Write the pack into ``config.out``, choose its threshold with it, and write that too.

    Args:
        config: Of the run.
        built: The tower.
        title: Of the pack.
        tensors: What was learned, by name.
        method: The method's configuration under which the tensors mean what they were trained for.
        fitted: For the record.
        parts: Auxiliary data, for the ledger and the threshold.
        watcher: Is told when the threshold is chosen.

    Returns:
        The threshold, in (0, 1).

    Raises:
        OutputError: A file that cannot be written. Each is whole or not there.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    save_tensors(config.out / TENSORS_NAME, tensors)
    record = PackRecord(
        format=PACK_FORMAT,
        name=config.name,
        title=title,
        method=config.method,
        tower=tower_record(built),
        config=method,
        domain=config.domain,
        scope=config.scope,
        preprocessing=config.recorded_preprocessing,
        threshold=Threshold(value=0.5, origin="not chosen yet"),
        ledger=tuple(part.entry for part in parts),
        validation={
            "seed": config.seed,
            "best_step": fitted.best_step,
            "average_precision": fitted.best_score,
            "history": fitted.history,
        },
    )
    write_record(config.out, record)
    watcher.stage("choosing the threshold")
    threshold = choose_threshold(config, parts)
    write_record(config.out, record.model_copy(update={"threshold": threshold}))
    return threshold


@torch.no_grad()
def pack_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """Give the tensors of a pack, learned prompts beside the class features that they end as.

    Args:
        adapter: As it was trained.

    Returns:
        ``patch_classes (taps, 2, D)``, and as far as they were learned ``image_classes (2, D)``, ``centre (taps, D)``,
        ``prompt.*``, and ``head_weights`` or ``dynamic.*``.
    """
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
    """Give the method's configuration under which the tensors mean what they were trained for.

    Args:
        adapter: As it was trained.
        config: Of the run.
        image_size: Side of the square input in pixels.
        fusion: (a, b, c) of brightness, or None.

    Returns:
        Fields of the method's configuration by name.
    """
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


def pack_title(adapter: Adapter, config: TrainConfig, built: BuiltTower) -> str:
    """Say what was learned, for which tower and domain.

    Args:
        adapter: As it was trained.
        config: Of the run.
        built: The tower.

    Returns:
        One line.
    """
    parts = ["learned prompts" if adapter.uses_prompts else "class vectors"]
    if adapter.heads is not None:
        parts.insert(0, "head weights")
    return f"{' and '.join(parts).capitalize()} for {built.architecture}, {config.domain}"
