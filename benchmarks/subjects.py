"""The models that ``throughput.py`` measures, by name: built-in packs, and any tower with random weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from unittest import mock

import open_clip
import timm
import torch
from plain_way import model_input
from torch import Tensor
from torch.nn import functional as F

from headclip_med.cohort.demo import demo_phantom
from headclip_med.detectors import HeadCLIP
from headclip_med.encoders.adapters import tower_from_open_clip, tower_from_timm
from headclip_med.encoders.build import BuiltTower
from headclip_med.engine.device import choose_dtype
from headclip_med.models.load import Model, detector_for, load_model, place_model
from headclip_med.models.pack import Pack, builtin_packs, load_pack
from headclip_med.models.record import PackRecord, Threshold, TowerRecord

# The pack that a tower's own name stands for.
PACK_OF = {"vit_small_patch14_dinov2": "dinov2-vits14-brain-mri"}


@dataclass(frozen=True)
class Subject:
    """A model to measure, small enough to be sent to another process; ``pixels`` None: the model's own size."""

    name: str
    pixels: int | None = None
    weights: str | None = None

    @property
    def random(self) -> bool:
        """Whether the tower's weights are random."""
        return self.weights is None and self.name not in builtin_packs()

    @property
    def own(self) -> bool:
        """Whether ``load_engine`` knows it by its name."""
        return self.name in builtin_packs() and self.pixels is None


def parse_tower(text: str, weights: Path | None) -> Subject:
    """``NAME[@PIXELS]`` → a subject; ``weights`` go to the tower that they are of."""
    name, _, pixels = text.partition("@")
    theirs = weights is not None and name in (*PACK_OF, *PACK_OF.values())
    return Subject(name, int(pixels) if pixels else None, str(weights) if theirs else None)


def known(name: str) -> bool:
    """Whether :func:`build` can make it."""
    return name in builtin_packs() or name in open_clip.list_models() or timm.is_model(name)


def build(subject: Subject) -> Model:
    """The subject's model, float32 on the CPU, the same numbers every time."""
    pack_name = PACK_OF.get(subject.name, subject.name)
    if pack_name not in builtin_packs():
        model = random_model(subject.name)
    elif subject.name in PACK_OF and subject.weights is None:
        model = replace(random_model(subject.name), pack=load_pack(builtin_packs()[pack_name]))
    else:
        model = load_model(pack_name, weights=subject.weights)
    if subject.pixels is None:
        return model
    config = {**model.pack.record.config, "image_size": subject.pixels}
    record = model.pack.record.model_copy(update={"config": config})
    return replace(model, pack=replace(model.pack, record=record))


def random_model(name: str) -> Model:
    """An open_clip or timm tower with random weights and random class features."""
    torch.manual_seed(0)
    if name in open_clip.list_models():
        with mock.patch.object(logging.getLogger(), "disabled", True):  # random weights are meant
            tower, kind = tower_from_open_clip(open_clip.create_model(name, pretrained=None).visual.eval()), "open_clip"
    else:
        tower, kind = tower_from_timm(timm.create_model(name, pretrained=False, num_classes=0)), "timm"
    classes = F.normalize(torch.randn(2, tower.output_dim), dim=-1)
    record = PackRecord(
        format="headclip_med/1",
        name=f"random {name}",
        title="Random weights",
        method="headclip",
        tower=TowerRecord(kind=kind, name=name),
        threshold=Threshold(value=0.5, origin="none"),
    )
    pack = Pack(Path(), record, {"patch_classes": classes, "image_classes": classes}, "")
    return Model(record.name, "headclip", BuiltTower(tower, kind, name, "random", ""), pack)


def detector_of(subject: Subject, device: torch.device, precision: str) -> HeadCLIP:
    """The subject's detector in its place, head weights folded in."""
    model = place_model(build(subject), device, choose_dtype(device, precision))
    return detector_for(model, model.domain)


@lru_cache
def phantom_levels() -> Tensor:
    """Axial slices of the demonstration head ``(112, 1, 128, 144)`` in [0, 1], the lesion's first."""
    array = torch.from_numpy(demo_phantom().array).permute(2, 0, 1)[:, None]
    return (array / array.max()).roll(-int(array.shape[0] * 0.6), dims=0)


def phantom_pixels(detector: HeadCLIP, count: int) -> Tensor:
    """``(count, 3, S, S)`` for the detector, on its device."""
    levels = phantom_levels()
    return model_input(levels[torch.arange(count) % len(levels)], detector).to(detector.tower.device)
