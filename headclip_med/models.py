"""A model name → everything that scores slices: tower, text side, pack and where each came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from headclip_med.detectors import ClassFeatures, Detector, HeadCLIPConfig, make_detector
from headclip_med.detectors.headclip import input_size
from headclip_med.encoders.adapters import tower_from_timm
from headclip_med.encoders.build import BuiltTower, build_tower, load_strictly, read_state
from headclip_med.encoders.image import resolve_layers
from headclip_med.encoders.text import class_features
from headclip_med.encoders.timm_vit import build_timm_vit
from headclip_med.encoders.tower import ImageTower
from headclip_med.errors import ModelError
from headclip_med.hashing import sha256_file
from headclip_med.packs import Pack, builtin_packs, load_pack
from headclip_med.packs.domains import Domain, get_domain
from headclip_med.packs.pack import is_pack
from headclip_med.packs.record import UNCALIBRATED, Threshold
from headclip_med.packs.share import pack_place
from headclip_med.prompts import ensemble
from headclip_med.speed import SPEEDS, Speed

DEFAULT_MODEL = "headclip-tiny"

# Of several packs for one tower, the one that a bare weight file gets: it was made on synthetic data only.
_GENERAL_PACKS = ("dinov2-vits14-synthetic",)


@dataclass(frozen=True)
class Model:
    """A tower with its pack, if any.

    Attributes:
        name: as the user gave it, without folders.
        method: name of the detector; built: the tower; pack: None for a bare tower with a text side.
        warnings: what a user should know about this combination.
    """

    name: str
    method: str
    built: BuiltTower
    pack: Pack | None = None
    warnings: tuple[str, ...] = ()

    @property
    def threshold(self) -> Threshold:
        """The pack's threshold, or an uncalibrated one."""
        return self.pack.record.threshold if self.pack else UNCALIBRATED

    @property
    def domain(self) -> Domain:
        """The domain the pack was made for; ``generic`` without a pack."""
        return get_domain(self.pack.record.domain if self.pack else "generic")

    def provenance(self) -> dict[str, Any]:
        """Names and hashes of weights and pack, as plain JSON values."""
        facts: dict[str, Any] = {
            "model": self.name,
            "method": self.method,
            "tower": self.built.architecture,
            "weights": self.built.source,
            "weights_sha256": self.built.sha256,
        }
        if self.pack:
            facts |= {"pack": self.pack.record.name, "pack_sha256": self.pack.sha256}
        return facts


def load_model(name: str | Path, *, method: str | None = None, weights: str | Path | None = None) -> Model:
    """Load a model by name.

    Args:
        name: a built-in pack (``headclip-tiny``), a pack folder or single-file pack, ``hf-pack:ORG/NAME``, or a
            tower's name or weight file (:func:`headclip_med.encoders.build.build_tower`).
        method: detector, default the pack's or ``headclip``.
        weights: for a pack that carries no tower of its own, a tower's name or weight file instead of its hub.

    Raises:
        ModelError: unknown name, unreadable or unfitting weights, or a vision-only tower without class features.
    """
    text = str(name)
    place = pack_place(text, builtin_packs())
    if is_pack(place):
        pack = load_pack(place)
        built = _embedded_tower(pack) if pack.record.tower.kind == "embedded" else _outer_tower(pack, weights)
        return Model(pack.record.name, method or pack.record.method, built, pack, _hash_warnings(pack, built))
    if place.is_dir():
        raise ModelError("A model folder must be a pack with a pack.json", place.name, "See `headclip-med models list`")
    if weights is not None:
        raise ModelError("Weights must be given for a pack that carries none", f"{_short(text)}, which is no pack")
    built = _tower_or_near_pack(text)
    if built.clip is not None:
        return Model(_short(text), method or "headclip", built)
    return _vision_only(_short(text), built, method)


def _tower_or_near_pack(name: str) -> BuiltTower:
    """The tower of that name; an unknown name that is nearly a pack's is told so."""
    try:
        return build_tower(name)
    except ModelError as error:
        near = get_close_matches(name, builtin_packs(), 1)
        if not near:
            raise
        hint = f"Did you mean {near[0]}; see `headclip-med models list`"
        raise ModelError(error.must, error.given, hint) from error


def detector_for(model: Model, domain: Domain, speed: Speed = SPEEDS["exact"]) -> Detector:
    """The model's detector, with the pack's class features or those of the domain's prompts."""
    tower = model.built.tower
    config = at_speed(model.pack.config() if model.pack else HeadCLIPConfig(), tower, speed)
    classes = model.pack.class_features(tower) if model.pack else None
    if classes is None:
        classes = _prompted_classes(model.built, domain, resolve_layers(config.feature_layers, tower.depth))
    weights = model.pack.head_weights(tower) if model.pack else None
    return make_detector(model.method, tower, classes, config, weights)


def at_speed(config: HeadCLIPConfig, tower: ImageTower, speed: Speed) -> HeadCLIPConfig:
    """The configuration with the input size and the taps of a preset."""
    if speed.scale != 1:
        config = replace(config, image_size=tower.nearest_size(round(speed.scale * input_size(config, tower))))
    layers = sorted(resolve_layers(config.feature_layers, tower.depth))
    if speed.early_exit and len(layers) > 1:
        config = replace(config, feature_layers=tuple(layers[:-1]))
    return config


def _prompted_classes(built: BuiltTower, domain: Domain, layers: tuple[int, ...]) -> ClassFeatures:
    if built.clip is None or built.tokenizer is None:
        raise ModelError(
            "A tower without a text side must have a pack with class features",
            built.architecture,
            "Choose a CLIP tower, or a pack made for this tower",
        )
    both = class_features(built.clip, built.tokenizer, *ensemble(domain.anatomy, domain.abnormal))
    return ClassFeatures(patch=dict.fromkeys(layers, both), image=both, centre={})


def _embedded_tower(pack: Pack) -> BuiltTower:
    tower = pack.record.tower
    if tower.spec is None or tower.file is None:
        raise ModelError(f"Pack {pack.record.name} must name the file and the architecture of its tower", "neither")
    path = pack.folder / tower.file
    model = build_timm_vit(tower.spec)
    load_strictly(model, read_state(path), path.name, tower.name)
    built = BuiltTower(tower_from_timm(model), "timm", tower.name, path.name, sha256_file(path))
    if tower.mean and tower.std:
        built.tower.mean, built.tower.std = tower.mean, tower.std
    if tower.sha256 not in (None, built.sha256):
        raise ModelError(
            f"The weights of {pack.record.name} must have the sha256 in its pack.json",
            built.sha256[:16],
            "Install the package again: the file is damaged or was exchanged",
        )
    return built


def _outer_tower(pack: Pack, weights: str | Path | None) -> BuiltTower:
    """The tower that a pack names, from ``weights`` or from its hub."""
    tower = pack.record.tower
    if weights is None and not tower.has_a_source:
        raise ModelError(
            f"The weights of the tower of {pack.record.name} must be given",
            f"none for {tower.name}",
            "Add --weights FILE",
        )
    if weights is None:
        return build_tower(f"timm:{tower.name}" if tower.kind == "timm" else tower.name)
    built = build_tower(str(weights))
    if built.architecture.split(".")[0] != tower.name.split(".")[0].split("/")[0]:
        raise ModelError(
            f"The weights for pack {pack.record.name} must be of its tower {tower.name}", built.architecture
        )
    return built


def _vision_only(name: str, built: BuiltTower, method: str | None) -> Model:
    """A vision-only tower needs class features: take the most general built-in pack made for its architecture."""
    fitting = [
        pack
        for pack in map(load_pack, builtin_packs().values())
        if pack.record.tower.kind == "timm" and pack.record.tower.name == built.architecture.split(".")[0]
    ]
    if fitting:
        pack = min(fitting, key=lambda p: p.record.name not in _GENERAL_PACKS)
        others = [p.record.name for p in fitting if p is not pack]
        more = f"; for its domain take --model {' or '.join(others)} with --weights" if others else ""
        note = f"{name} has no text side: class features of the built-in pack {pack.record.name} are used{more}"
        return Model(name, method or pack.record.method, built, pack, (note, *_hash_warnings(pack, built)))
    raise ModelError(
        "A tower without a text side must have a pack with class features",
        f"{name} ({built.architecture}), for which no built-in pack exists",
        "Choose a CLIP tower, or a pack folder made for this tower",
    )


def _hash_warnings(pack: Pack, built: BuiltTower) -> tuple[str, ...]:
    if pack.record.tower.sha256 in (None, built.sha256):
        return ()
    return (f"pack {pack.record.name} was made on other weights of {built.architecture} (sha256 differs)",)


def _short(name: str) -> str:
    """A name without folders, for records that leave the machine."""
    head, at, file = name.rpartition("@")
    looks_local = Path(file).suffix in (".safetensors", ".pt", ".pth", ".bin")
    return f"{head}{at}{Path(file).name}" if looks_local else name


def place_model(model: Model, device: torch.device, dtype: torch.dtype) -> Model:
    """Move the model to ``device`` and store its image tower's matrices in ``dtype``; the text side stays float32.

    Raises:
        ModelError: the model was placed elsewhere or in another type before, where an engine relies on it.
    """
    model.built.tower.place(device, dtype)
    if model.built.clip is not None:
        model.built.clip.to(device)
    return model
