"""A model name → everything that scores slices: tower, text side, pack and where each came from."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch

from headclip_med.base.errors import ModelError
from headclip_med.base.files import sha256_file
from headclip_med.base.names import method_names, split_method
from headclip_med.detectors import Detector, HeadCLIP, Parts, get_method
from headclip_med.encoders.adapters import tower_from_timm
from headclip_med.encoders.build import BuiltTower, build_tower, load_strictly, with_weights
from headclip_med.encoders.timm_vit import build_timm_vit
from headclip_med.encoders.weight_files import read_state, tensor_names
from headclip_med.encoders.weight_names import holds_clip
from headclip_med.encoders.weight_places import is_weights, split_architecture
from headclip_med.models.domains import Domain, get_domain, window_of
from headclip_med.models.pack import Pack, builtin_packs, is_pack, load_pack
from headclip_med.models.record import UNCALIBRATED, LedgerEntry, Threshold
from headclip_med.models.scope import Scope
from headclip_med.models.share import HUB_PREFIX, cached_pack, pack_place
from headclip_med.models.speed import SPEEDS, Speed
from headclip_med.slicing.intensity import Preprocessing, PreprocessingKind

# Of several packs for one tower, the one that a bare weight file gets: it was made on synthetic data only.
_GENERAL_PACKS = ("dinov2-vits14-synthetic",)
_ANY_WEIGHTS = "safetensors, .pt (OpenAI's too), .bin, or a Hugging Face folder"


class _FromPack:
    """What a model takes from its pack, or from the pack that lends the tower. Needs no tower."""

    pack: Pack | None
    lender: Pack | None

    @property
    def threshold(self) -> Threshold:
        """The pack's threshold, or an uncalibrated one."""
        return self.pack.record.threshold if self.pack else UNCALIBRATED

    @property
    def domain(self) -> Domain:
        """The domain the pack was made for, ``generic`` without a pack."""
        pack = self.pack or self.lender
        return get_domain(pack.record.domain if pack else "generic")

    @property
    def preprocessing(self) -> PreprocessingKind:
        """The pack's preprocessing of its images, ``own`` without one."""
        return (self.pack.record.preprocessing if self.pack else None) or "own"

    def expected(self, domain: Domain) -> list[tuple[str, Scope]]:
        """The images that it is for, in ``domain``: see :func:`headclip_med.models.scope.out_of_scope`."""
        record = None if self._trained is None else self._trained.record
        own = [] if record is None else [(f"{record.name} is for", record.scope or get_domain(record.domain).scope)]
        if record is None or domain.name != record.domain:
            own.append((f"the domain {domain.name} is for", domain.scope))
        return own

    @property
    def _trained(self) -> Pack | None:
        """The pack, or that of the lent tower where it was trained with it."""
        if self.pack is not None or self.lender is None:
            return self.pack
        return self.lender if self.lender.record.tower.kind == "embedded" else None

    @property
    def ledger(self) -> tuple[LedgerEntry, ...]:
        """What the model saw: its pack's data, or those of the pack that lends a tower which was trained with it."""
        return () if self._trained is None else self._trained.record.ledger


@dataclass(frozen=True)
class Model(_FromPack):
    """A tower with its pack, if any.

    Attributes:
        name: as the user gave it, without folders.
        method: name of the detector.
        built: the tower.
        pack: what the method learned, None for a tower alone.
        warnings: what a user should know about this combination.
        lender: the pack of another method that the tower was taken from, with its domain.
    """

    name: str
    method: str
    built: BuiltTower
    pack: Pack | None = None
    warnings: tuple[str, ...] = ()
    lender: Pack | None = None

    def provenance(self) -> dict[str, Any]:
        """Name weights and pack with their hashes.

        Returns:
            Plain JSON values.
        """
        facts: dict[str, Any] = {
            "model": self.name,
            "method": self.method,
            "tower": self.built.architecture,
            "weights": self.built.source,
            "weights_sha256": self.built.sha256,
        }
        if self.lender:
            facts["tower_of_pack"] = self.lender.record.name
        if self.pack:
            facts |= {"pack": self.pack.record.name, "pack_sha256": self.pack.sha256}
        return facts


@dataclass(frozen=True)
class KnownModel(_FromPack):
    """A model as far as it is known before its tower is built.

    Attributes:
        pack, lender: as of :class:`Model`, None for a weight file, whose fallback its content decides.
        identity: what :meth:`Model.provenance` will say, as far as it is known, and None for what it will not have.
    """

    pack: Pack | None
    lender: Pack | None
    identity: dict[str, Any]


def known_model(name: str, *, method: str | None = None, weights: str | Path | None = None) -> KnownModel | None:
    """Find what is known of a model without reading a tower, by hashes of its files.

    Args:
        name: As of :func:`load_model`.
        method: Detector, default the pack's or ``headclip``.
        weights: Weight file or folder of the tower.

    Returns:
        What is known, None where only its hub can tell.

    Raises:
        ModelError: a pack that cannot be read, or an unknown method.
    """
    asked, text = split_method(name)
    if text.startswith(HUB_PREFIX) and cached_pack(text) is None:
        return None
    place = pack_place(text, builtin_packs(), download=False)
    method = asked or method
    if not is_pack(place):
        file = Path(text.rpartition("@")[2]).expanduser()
        if not file.is_file():
            return None
        chosen = get_method(method or HeadCLIP.name)
        return KnownModel(
            None, None, {"model": _short(text), "method": chosen.name, "weights_sha256": sha256_file(file)}
        )
    pack = load_pack(place)
    chosen, same = _method_of(pack, method)
    tower = pack.record.tower
    embedded = tower.kind == "embedded" and tower.file is not None
    file = pack.folder / str(tower.file) if embedded else Path(str(weights).rpartition("@")[2]).expanduser()
    if not file.is_file():
        return None
    facts: dict[str, Any] = {"model": pack.record.name, "method": chosen.name, "weights_sha256": sha256_file(file)}
    facts |= {"pack_sha256": pack.sha256 if same else None, "tower_of_pack": None if same else pack.record.name}
    return KnownModel(pack if same else None, None if same else pack, facts)


def _method_of(pack: Pack, method: str | None) -> tuple[type[Detector], bool]:
    """The method that is meant, and whether it is what the pack was made for."""
    chosen, own = get_method(method or pack.record.method), get_method(pack.record.method)
    return chosen, chosen is own or (issubclass(chosen, HeadCLIP) and issubclass(own, HeadCLIP))


def load_model(
    name: str | Path,
    *,
    method: str | None = None,
    weights: str | Path | None = None,
    has_normals: bool = False,
) -> Model:
    """Load a model by name.

    Args:
        name: A built-in pack (``headclip-tiny``), a pack folder or single-file pack, ``hf-pack:ORG/NAME``, or a tower's
            name or weight file (:func:`headclip_med.encoders.build.build_tower`). ``METHOD:`` in front of any of them
            chooses the method.
        method: Detector, default the pack's or ``headclip``. A pack of another method lends its tower and its domain.
        weights: Weight file or folder of the tower, ``[ARCH@]FILE``: of a pack that carries none, which names its
            architecture, or of the architecture that ``name`` is.
        has_normals: Normal images of the task will be given, which some methods cannot do without.

    Returns:
        The model, on the CPU.

    Raises:
        ModelError: unknown name, unreadable or unfitting weights, a vision-only tower without class features, or a
            method that cannot do with these parts, which is said before any weight is read.
    """
    asked, text = split_method(str(name))
    if asked and method not in (None, asked):
        raise ModelError("A model must be given one method", f"{asked} in its name and {method} beside it")
    method = asked or method
    place = pack_place(text, builtin_packs())
    if is_pack(place):
        return _of_pack(load_pack(place), method, weights, has_normals)
    if place.is_dir() and not is_weights(place):
        raise ModelError(
            "A model folder must be a pack with a pack.json, or hold the weights of a tower",
            place.name,
            "See `headclip-med models list`",
        )
    text = with_weights(text, weights)
    chosen = get_method(method or HeadCLIP.name)
    check_method(chosen, _short(text), has_text=may_have_text(text), has_state=False, has_normals=has_normals)
    built = _tower_or_near_pack(text)
    check_method(chosen, _short(text), has_text=built.clip is not None, has_state=False, has_normals=has_normals)
    if built.clip is not None or not issubclass(chosen, HeadCLIP):
        return Model(_short(text), chosen.name, built, warnings=_notes(built, chosen))
    return _vision_only(_short(text), built, method)


def takes_weights(name: str) -> bool:
    """Tell whether weights can be given for a name: a pack without a tower of its own, or an architecture alone.

    Args:
        name: As of :func:`load_model`.

    Returns:
        True where they can.
    """
    text = split_method(name)[1]
    place = pack_place(text, builtin_packs())
    if is_pack(place):
        return load_pack(place).record.tower.kind != "embedded"
    return text in open_clip.list_models() or timm.is_model(text.removeprefix("timm:").split(".")[0])


def check_method(
    method: type[Detector],
    name: str,
    *,
    has_text: bool,
    has_state: bool,
    has_normals: bool = True,
    training: bool = False,
) -> None:
    """Refuse a method that a model of this kind cannot be run with.

    Args:
        method: Its class.
        name: What to call the model in the message.
        has_text: The tower has a text side.
        has_state: There is a pack that was trained or converted for the method.
        has_normals: Normal images of the task will be given.
        training: The method is to be trained, not to score.

    Raises:
        ModelError: no text side, nothing learned, or no normal images, where the method needs them.
    """
    needs = method.capabilities
    if (needs.uses_text or (training and needs.trains_text)) and not has_text:
        raise ModelError(
            f"The method {method.name} must have a tower with a text side",
            f"{name}, which is vision-only",
            "Choose a CLIP tower, or a method without text such as vectors",
        )
    if needs.needs_state and not has_state:
        raise ModelError(
            f"The method {method.name} must be given a pack that was trained or converted for it",
            name,
            f"Train one: `headclip-med train --method {method.name}`",
        )
    if needs.needs_normals and not has_normals:
        raise ModelError(
            f"The method {method.name} must be given normal images of the task", "none", "Add --normals DIR"
        )


def _of_pack(pack: Pack, method: str | None, weights: str | Path | None, has_normals: bool) -> Model:
    record = pack.record
    chosen, same = _method_of(pack, method)
    has_text = record.tower.kind == "open_clip"
    whose = f"the pack {record.name} of method {record.method}"
    check_method(chosen, whose, has_text=has_text, has_state=same, has_normals=has_normals)
    built = _embedded_tower(pack, weights) if record.tower.kind == "embedded" else _outer_tower(pack, weights)
    notes = _notes(built, chosen)
    if same:
        return Model(record.name, chosen.name, built, pack, (*notes, *_hash_warnings(pack, built)))
    note = f"of the pack {record.name} only the tower is used: it was made for the method {record.method}"
    return Model(record.name, chosen.name, built, None, (*notes, note), pack)


def _notes(built: BuiltTower, method: type[Detector]) -> tuple[str, ...]:
    """What is to be said of a tower's activation, where the method takes it as it is."""
    return () if method.own_activation else built.notes


def may_have_text(name: str) -> bool:
    """Tell whether the tower of a name can have a text side, as far as that is known without reading weights.

    Args:
        name: Of a tower, or its weight file.

    Returns:
        False where it cannot.
    """
    architecture, file = split_architecture(name)
    if name.startswith("timm:") or (architecture and timm.is_model(architecture.split(".")[0])):
        return False
    names = tensor_names(Path(file).expanduser())
    return holds_clip(names) if names else True


def _tower_or_near_pack(name: str) -> BuiltTower:
    """The tower of that name. An unknown name that is nearly a pack's is told so."""
    try:
        return build_tower(name)
    except ModelError as error:
        front, _, rest = name.partition(":")
        method = get_close_matches(front, method_names(), 1) if rest else []
        if method:
            hint = f"Did you mean {method[0]}:{rest}; see `headclip-med models methods`"
            raise ModelError(error.must, error.given, hint) from error
        near = get_close_matches(name, builtin_packs(), 1)
        if not near:
            raise
        hint = f"Did you mean {near[0]}; see `headclip-med models list`"
        raise ModelError(error.must, error.given, hint) from error


def detector_for(model: Model, domain: Domain, speed: Speed = SPEEDS["exact"]) -> Detector:
    """Make the model's detector: of its pack, or of its tower and the domain's prompts.

    Args:
        model: Tower and pack.
        domain: Words for the prompts.
        speed: Preset of quality and time.

    Returns:
        The detector.

    Raises:
        ModelError: parts that do not fit the method or each other.
    """
    pack = model.pack
    parts = Parts(
        built=model.built,
        config=pack.record.config if pack else {},
        tensors=pack.tensors if pack else {},
        anatomy=domain.anatomy,
        abnormal=domain.abnormal,
        name=f"pack {pack.record.name}" if pack else model.name,
    )
    return get_method(model.method).from_parts(parts).at_speed(speed.scale, speed.early_exit)


def _embedded_tower(pack: Pack, weights: str | Path | None = None) -> BuiltTower:
    tower = pack.record.tower
    if weights is not None:
        raise ModelError(
            f"The pack {pack.record.name} must be used with the tower that it carries",
            Path(weights).name,
            "Leave --weights out",
        )
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
    architecture = tower.name.partition("/")[0]
    if weights is None:
        return _hub_tower(pack, f"Add --weights FILE with the weights of {architecture}: {_ANY_WEIGHTS}")
    named, file = split_architecture(weights)
    of_file = is_weights(file) and not named and not tower.name.startswith("hf-hub:")
    built = build_tower(f"{architecture}@{file}" if of_file else str(weights))
    if built.architecture.split(".")[0] != architecture.split(".")[0] and not tower.name.startswith("hf-hub:"):
        raise ModelError(
            f"The weights for pack {pack.record.name} must be of its tower {tower.name}",
            built.architecture,
            f"Give those of {architecture} with --weights FILE",
        )
    return built


def _hub_tower(pack: Pack, do: str) -> BuiltTower:
    """The tower from the hub that its name stands for. Where it cannot be had, ``do`` says what else to do."""
    tower = pack.record.tower
    if not tower.has_a_source:
        raise ModelError(f"The weights of the tower of {pack.record.name} must be given", f"none for {tower.name}", do)
    name = f"timm:{tower.name}" if tower.kind == "timm" else tower.name
    try:
        return build_tower(name)
    except ModelError as error:
        pull = f"or run `headclip-med models pull {name}` on a machine with a network"
        raise ModelError(error.must, error.given, f"{do}; {pull}") from error


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
    return (
        f"pack {pack.record.name} was made with another weight file of {built.architecture} (sha256 differs): "
        "its numbers hold only where the weights in it are the same",
    )


def _short(name: str) -> str:
    """A name without folders, for records that leave the machine."""
    architecture, file = split_architecture(name)
    if not is_weights(file):
        return name
    return f"{architecture}@{Path(file).name}" if architecture else Path(file).name


def place_model(model: Model, device: torch.device, dtype: torch.dtype) -> Model:
    """Move the model to a device and store its image tower's matrices in another type, the text side in float32.

    Args:
        model: Tower and pack.
        device: Where to.
        dtype: Of the image tower's matrix products.

    Returns:
        The model itself.

    Raises:
        ModelError: the model was placed elsewhere or in another type before, where an engine relies on it.
    """
    model.built.tower.place(device, dtype)
    if model.built.clip is not None:
        model.built.clip.to(device)
    return model


def own_preprocessing(detector: Detector, domain: Domain, kind: PreprocessingKind = "own") -> Preprocessing:
    """Combine what the detector's tower and the domain say, before a case says more.

    Args:
        detector: Gives the input size, mean and spread.
        domain: Gives window, fit and channels.
        kind: ``own`` or ``released``.

    Returns:
        What a case's own window and channels replace parts of.
    """
    return Preprocessing(
        image_size=detector.image_size,
        mean=detector.tower.mean,
        std=detector.tower.std,
        window=window_of(domain),
        fit=domain.fit,
        channels=domain.channels,
        kind=kind,
    )
