"""Make networks by the name of their model, and the bundle's ``models/`` from the embedded pack.

As a command: ``python -m headclip_med.bundle.build_model [BUNDLE_ROOT]``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from headclip_med_workflows import bundle_root
from safetensors.torch import save_file
from torch import Tensor

from headclip_med.base.errors import InputError, ModelError
from headclip_med.base.files import atomic_path
from headclip_med.base.names import DEFAULT_MODEL
from headclip_med.bundle.handlers import write_ledger
from headclip_med.bundle.network import DetectorNetwork, HeadCLIPNetwork, MethodNetwork
from headclip_med.detectors import HeadCLIP, get_method
from headclip_med.detectors.base import read_method_config
from headclip_med.encoders.build import BuiltTower, build_tower
from headclip_med.encoders.head_weights import initial_theta
from headclip_med.encoders.image import first_local_block
from headclip_med.engine.device import Precision
from headclip_med.models.domains import get_domain
from headclip_med.models.load import Model, check_method, detector_for, load_model, may_have_text
from headclip_med.models.new_pack import tower_record
from headclip_med.models.pack import Pack, builtin_packs, is_pack
from headclip_med.models.record import PACK_FORMAT, UNCALIBRATED, PackRecord
from headclip_med.models.share import pack_place


def build_network(
    model: str | Path = DEFAULT_MODEL,
    *,
    weights: str | Path | None = None,
    domain: str | None = None,
    learn: Sequence[str] = (),
    precision: Precision = "auto",
) -> HeadCLIPNetwork | MethodNetwork:
    """Build a network by the name of its model.

    Args:
        model: built-in pack, pack folder, tower by name or file.
        weights: of the tower of a pack that carries none.
        domain: whose prompts become the class features of a CLIP tower without a pack, default ``generic``.
        learn: ``heads``, ``classes``. Other methods learn what is theirs. Head weights are there either way, so that
            checkpoints fit. At first they are the pack's, or 1.
        precision: ``auto`` takes 16 bits where the hardware multiplies them. Train in ``float32``.

    Returns:
        A :class:`HeadCLIPNetwork` for HeadCLIP's family, else one that scores by the model's method.

    Raises:
        ModelError: a model that cannot be had, or head weights that a bundle cannot learn.
        InputError: a domain of another pack, or something unknown to be learned.
    """
    loaded = load_model(model, weights=weights)
    if not issubclass(get_method(loaded.method), HeadCLIP):
        return MethodNetwork(_in_domain(loaded, domain), precision)
    loaded = with_pack(loaded, domain)
    return HeadCLIPNetwork(_with_head_weights(loaded, "heads" in learn), learn, precision)


def new_method(
    model: str,
    method: str,
    *,
    options: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    domain: str | None = None,
    precision: Precision = "float32",
) -> MethodNetwork:
    """Put a method on a tower, before it has learned anything.

    Args:
        model: tower by name or weight file, or a pack, of which only the tower is used.
        method: one that learns.
        options: fields of the method's configuration.
        weights: of the tower of a pack that carries none.
        domain: of preprocessing and of the prompts, default the pack's, or ``generic``.
        precision: as of :func:`build_network`.

    Returns:
        A network whose parameters are what the method learns.

    Raises:
        ModelError: a method that learns nothing, or that cannot do with this tower. Said before weights are read.
    """
    chosen = get_method(method)
    if issubclass(chosen, HeadCLIP) and method == HeadCLIP.name:
        raise ModelError("The method must be another than headclip", method, "Run the workflow train for it")
    if not chosen.capabilities.trains:
        raise ModelError("The method must be one that learns", method, "It needs no training: use it as it is")
    read_method_config(chosen.Config, options or {}, f"the method {method}")
    place = pack_place(model, builtin_packs())
    lender = load_model(model, weights=weights) if is_pack(place) else None
    has_text = may_have_text(model) if lender is None else lender.built.clip is not None
    check_method(chosen, Path(model).name, has_text=has_text, has_state=True, training=True)
    built = build_tower(model) if lender is None else lender.built
    lent = None if lender is None else lender.pack
    record = _record(
        f"{method}-untrained",
        method,
        built,
        domain or (lent.record.domain if lent else "generic"),
        title=f"{method} on {built.architecture}",
        tower=tower_record(built) if lent is None else lent.record.tower,
        config=dict(options or {}),
        ledger=lent.record.ledger if lent is not None and lent.record.tower.kind == "embedded" else (),
    )
    pack = Pack(lent.folder if lent else Path(), record, {}, "")
    return MethodNetwork(Model(record.name, method, built, pack), precision)


def with_pack(model: Model, domain: str | None = None) -> Model:
    """Give a model class features in its pack: those that it has, or those of the domain's prompts.

    Args:
        model: of HeadCLIP's family.
        domain: whose prompts, where the pack has no class features. None: the model's.

    Returns:
        The model, whose pack has ``patch_classes (taps, 2, D)``.

    Raises:
        InputError: a domain for a pack that was made for another one.
        ModelError: a model of another method.
    """
    if model.pack is not None and "patch_classes" in model.pack.tensors:
        if domain not in (None, model.pack.record.domain):
            raise _other_domain(model.pack, domain)
        return model
    chosen = get_domain(domain) if domain else model.domain
    detector = detector_for(model, chosen)
    if not isinstance(detector, HeadCLIP):
        raise ModelError("A network must be of the HeadCLIP family", detector.name, "Use method headclip")
    classes = detector.classes
    tensors = {"patch_classes": torch.stack([classes.patch[layer] for layer in detector.layers])}
    if classes.image is not None:
        tensors["image_classes"] = classes.image
    tensors = {name: value.detach().cpu() for name, value in tensors.items()}
    if model.pack is not None:
        record = model.pack.record.model_copy(update={"domain": chosen.name})
        return replace(model, pack=replace(model.pack, record=record, tensors={**model.pack.tensors, **tensors}))
    title = f"Prompts of the domain {chosen.name} for {model.built.architecture}"
    record = _record(model.name, model.method, model.built, chosen.name, title=title)
    return replace(model, pack=Pack(Path(), record, tensors, ""))


def build(root: Path) -> list[Path]:
    """Write ``model.pt``, ``model.safetensors`` and the data ledger ``model.json`` into ``root/models``.

    Args:
        root: folder of the bundle.

    Returns:
        The files, in this order.

    Raises:
        OutputError: they cannot be written.
    """
    folder = root / "models"
    folder.mkdir(parents=True, exist_ok=True)
    network = build_network("headclip-tiny", precision="float32")
    state, pack = _compact_state(network), network.model.pack
    assert pack is not None
    checkpoint, tensors = folder / "model.pt", folder / "model.safetensors"
    with atomic_path(checkpoint) as draft:
        torch.save(state, draft)
    with atomic_path(tensors) as draft:
        save_file(state, draft)
        draft.chmod(0o644)  # safetensors writes it for its owner alone
    return [checkpoint, tensors, write_ledger(checkpoint, pack.record.ledger)]


def _in_domain(model: Model, domain: str | None) -> Model:
    """The model for another domain, which a pack cannot be given."""
    if domain is None or domain == model.domain.name:
        return model
    if model.pack is not None:
        raise _other_domain(model.pack, domain)
    title = f"{model.method} on {model.built.architecture}"
    record = _record(model.name, model.method, model.built, domain, title=title)
    return replace(model, pack=Pack(Path(), record, {}, ""))


def _other_domain(pack: Pack, domain: str | None) -> InputError:
    return InputError(
        f"The domain of the pack {pack.record.name} must stay {pack.record.domain}",
        domain,
        "Leave the domain out, or choose another pack",
    )


def _record(name: str, method: str, built: BuiltTower, domain: str, **facts: Any) -> PackRecord:
    """The record of a pack that is made in memory."""
    known = {
        "format": PACK_FORMAT,
        "name": name,
        "method": method,
        "tower": tower_record(built),
        "domain": get_domain(domain).name,
        "threshold": UNCALIBRATED,
    }
    return PackRecord(**{**known, **facts})


def _with_head_weights(model: Model, learned: bool) -> Model:
    """``model`` with head weights: its own, or all 1 on every head of the local branch, which changes no number."""
    pack = model.pack
    assert pack is not None
    config = pack.config()
    if "head_weights" in pack.tensors:
        return model
    if config.lhw_dynamic or config.local_attention == "none" or config.lhw_branch != "local":
        if not learned:
            return model
        raise ModelError(
            "Head weights that are learned in a bundle must be static and of the local branch",
            f"lhw_dynamic {config.lhw_dynamic}, local attention {config.local_attention}, branch {config.lhw_branch}",
            "Learn classes alone, or use `headclip-med train`",
        )
    tower = model.built.tower
    rows = tower.depth - first_local_block(tower.depth, config.local_start)
    theta = initial_theta((rows, tower.heads), config.lhw_param)
    return replace(model, pack=replace(pack, tensors={**pack.tensors, "head_weights": theta}))


def _compact_state(network: DetectorNetwork) -> dict[str, Tensor]:
    """The network's tensors, in 16 bits where that loses nothing: half the size on disk, the same network."""
    state: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        half = value.half()
        state[name] = (half if torch.equal(half.float(), value.float()) else value).contiguous().clone()
    return state


if __name__ == "__main__":
    written = build(Path(sys.argv[1]) if len(sys.argv) > 1 else bundle_root("headclip_zero_shot"))
    sys.stdout.write("".join(f"{path.name}\n" for path in written))
