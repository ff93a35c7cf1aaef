"""Which models there are, what one is, and fetching its weights ahead of time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headclip_med.base.errors import ModelError
from headclip_med.base.names import RECOMMENDED_TOWERS, method_names
from headclip_med.models.domains import get_domain
from headclip_med.models.pack import builtin_packs, is_pack, load_pack
from headclip_med.models.share import CARD_NAME, HUB_PREFIX, fetch_pack, pack_place


@dataclass(frozen=True)
class PackSummary:
    """A few lines about a built-in pack.

    Attributes:
        scope: images that it is for.
        mib: size of all its files in MiB.
        threshold: of the map, in [0, 1].
    """

    name: str
    title: str
    scope: str
    method: str
    tower: str
    mib: float
    threshold: float
    threshold_origin: str


@dataclass(frozen=True)
class MethodSummary:
    """One line about a method.

    Attributes:
        needs: what it cannot score without.
        learns: from what it can be trained.
        localises: its map says where.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    learns: str
    localises: bool


@dataclass(frozen=True)
class ModelInfo:
    """A model's card (Markdown, empty without one), record and hashes, as plain JSON values."""

    name: str
    card: str
    record: dict[str, Any]
    sha256: dict[str, str]


@dataclass(frozen=True)
class PulledModel:
    """Weights that now lie in the cache.

    Attributes:
        sha256: of the weight file.
    """

    name: str
    architecture: str
    source: str
    sha256: str


def list_packs() -> list[PackSummary]:
    """List the packs shipped in the package.

    Returns:
        A few lines about each.
    """
    return [_summary(folder) for folder in builtin_packs().values()]


def list_methods() -> list[MethodSummary]:
    """List every method: ours, then those of other packages.

    Returns:
        A line about each, where the title says why one cannot be loaded.
    """
    return [_method(name) for name in method_names()]


def model_info(name: str) -> ModelInfo:
    """Describe a model without running it, and without contacting a hub.

    Args:
        name: A built-in pack, a pack folder or single-file pack, ``hf-pack:ORG/NAME`` in the cache, a weight file
            (``[ARCH@]FILE``), ``ARCH/TAG`` or ``timm:ARCH``.

    Returns:
        Card, record and hashes.

    Raises:
        ModelError: unknown name, or a pack or file that cannot be read.
    """
    from headclip_med.encoders.weight_places import is_weights, split_architecture

    place = pack_place(name, builtin_packs(), download=False)
    if is_pack(place) or (place.is_dir() and not is_weights(place)):
        return _pack_info(place)
    if is_weights(split_architecture(name)[1]):
        return _file_info(name)
    return ModelInfo(name, "", _hub_record(name), {})


def check_known(name: str) -> None:
    """Refuse a name that cannot stand for any weights, before a hub is asked.

    Args:
        name: As of :func:`model_info`.

    Raises:
        ModelError: no table knows it, or its file cannot be read.
    """
    if not name.startswith((HUB_PREFIX, "hf-hub:")):
        model_info(name)


def pull_model(name: str) -> PulledModel:
    """Download a model's weights into the cache, or find them there, where a pack of the Hub is brought up to date.

    The tower of a Hub's pack comes with it where a hub has it, else the pack alone is pulled, with its own hash.

    Args:
        name: As of :func:`load_model`.

    Returns:
        Where the weights came from, and their hash.

    Raises:
        ModelError: unknown name, no network, or weights that do not fit.
    """
    from headclip_med.encoders.build import build_tower
    from headclip_med.models.load import load_model

    of_hub = name.startswith(HUB_PREFIX)
    place = fetch_pack(name, refresh=True) if of_hub else pack_place(name, builtin_packs())
    if of_hub:
        pack = load_pack(place)
        if not pack.record.tower.has_a_source:
            return PulledModel(pack.record.name, pack.record.tower.name, name, pack.sha256)
    found = is_pack(place) or place.is_dir()
    built = load_model(place).built if found else build_tower(name)
    shown = load_pack(place).record.name if of_hub else place.name if found else name
    return PulledModel(shown, built.architecture, built.source, built.sha256)


def _method(name: str) -> MethodSummary:
    from headclip_med.detectors import get_method

    try:
        method = get_method(name)
    except ModelError as error:
        return MethodSummary(name, str(error), (), "", False)
    can = method.capabilities
    needs = (
        *["a text side"] * can.uses_text,
        *["a trained or converted pack"] * can.needs_state,
        *["normal images (--normals)"] * can.needs_normals,
    )
    learns = ("images and masks" if can.needs_masks else "images") if can.trains else ""
    title = (method.__doc__ or name).strip().splitlines()[0].rstrip(".")
    return MethodSummary(name, title, needs, learns, can.localises)


def _summary(folder: Path) -> PackSummary:
    record = load_pack(folder).record
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return PackSummary(
        name=record.name,
        title=record.title,
        scope=str(record.scope or get_domain(record.domain).scope),
        method=record.method,
        tower=record.tower.name,
        mib=size / 2**20,
        threshold=record.threshold.value,
        threshold_origin=record.threshold.origin,
    )


def _pack_info(place: Path) -> ModelInfo:
    from headclip_med.base.files import sha256_file

    pack = load_pack(place)
    hashes = {"pack": pack.sha256}
    if pack.record.tower.file and (pack.folder / pack.record.tower.file).is_file():
        hashes["weights"] = sha256_file(pack.folder / pack.record.tower.file)
    card = place / CARD_NAME
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return ModelInfo(pack.record.name, text, pack.record.model_dump(mode="json"), hashes)


def _file_info(name: str) -> ModelInfo:
    from headclip_med.encoders.build import architecture_of
    from headclip_med.encoders.weight_files import read_weights
    from headclip_med.encoders.weight_names import tower_names
    from headclip_med.encoders.weight_places import split_architecture

    named, file = split_architecture(name)
    stored = read_weights(Path(file).expanduser())
    state = tower_names(stored.state, stored.name)
    record = {
        "architecture": named or architecture_of(stored, state),
        "tensors": len(state),
        "parameters": sum(tensor.numel() for tensor in state.values()),
    }
    return ModelInfo(stored.name, "", record, {"weights": stored.sha256})


def _hub_record(name: str) -> dict[str, Any]:
    """What open_clip or timm know about a name, from their own tables."""
    import open_clip
    import timm

    note = {"note": RECOMMENDED_TOWERS[name]} if name in RECOMMENDED_TOWERS else {}
    if name.startswith("timm:"):
        architecture = name.removeprefix("timm:")
        if timm.is_model(architecture.split(".")[0]):
            config = timm.get_pretrained_cfg(architecture)
            facts = {"hub": config.hf_hub_id, "licence": config.license, "input": config.input_size} if config else {}
            return {"kind": "timm", "architecture": architecture, **facts, **note}
    architecture, _, tag = name.removeprefix("open_clip:").partition("/")
    if architecture in open_clip.list_models():
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        vision = (open_clip.get_model_config(architecture) or {}).get("vision_cfg", {})
        return {
            "kind": "open_clip",
            "architecture": architecture,
            "tag": tag,
            "tags": tags,
            "vision": vision,
            **note,
        }
    raise ModelError(
        "The model must be a pack, a weight file, an open_clip name ARCH/TAG or timm:ARCH",
        name,
        "See `headclip-med models list`",
    )
