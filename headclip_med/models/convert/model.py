"""A file that others trained → a pack folder: chooses the converter and the tower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headclip_med.base.errors import ModelError
from headclip_med.base.files import leaving_nothing
from headclip_med.encoders.build import build_tower, with_weights
from headclip_med.encoders.head_weights import Branch
from headclip_med.encoders.weight_files import read_plain, read_weights
from headclip_med.encoders.weight_names import tower_names
from headclip_med.models.convert.heads import convert_heads, parse_layers, read_head_weights
from headclip_med.models.convert.prompts import convert_prompts, is_prompt_checkpoint, read_prompts
from headclip_med.models.domains import get_domain
from headclip_med.models.load import load_model
from headclip_med.models.new_pack import Conversion, check_new_folder, write_pack
from headclip_med.slicing.intensity import PreprocessingKind

_TABLES = (".npy", ".json")  # head weights alone are kept in these


def convert_model(
    file: Path,
    out: Path,
    *,
    tower: str | None = None,
    weights: str | Path | None = None,
    method: str | None = None,
    base: str | None = None,
    layers: str | None = None,
    one_based: bool = False,
    branch: Branch | None = None,
    name: str | None = None,
    domain: str | None = None,
    preprocessing: PreprocessingKind | None = None,
    trained_on: str | None = None,
) -> Conversion:
    """Convert learned prompts, or a table of head weights, and write the pack into ``out``.

    Args:
        tower: a tower's name or weight file; may be left out with a ``base`` that carries or names its own.
        weights: weight file or folder of the tower, instead of its hub's.
        method: prompts only: that they were trained for; None: by the layout of the file.
        base: head weights only: the pack whose classes and configuration are kept.
        preprocessing: prompts only: that predictions begin with, ``own`` or ``released``.
        layers: head weights only: of the rows, such as ``5,6,20-23``; one_based: they count from 1.

    Raises:
        ModelError: a file that is neither, or that does not fit; OutputError: ``out`` holds something. A folder that
        was not there is not left behind.
    """
    with leaving_nothing(out):
        check_new_folder(out)
        listed = None if layers is None else parse_layers(layers)
        if domain is not None:
            get_domain(domain)
        named = with_weights(tower, weights) if tower is not None else None if weights is None else str(weights)
        if _holds_prompts(file):
            if base is not None or branch is not None or listed is not None or one_based:
                raise ModelError(
                    "A base, a branch and layers must be given with head weights only", f"{file.name}: prompts"
                )
            made = _of_prompts(
                file, named, method=method, name=name, domain=domain, preprocessing=preprocessing, trained_on=trained_on
            )
            write_pack(out, made)
            return made
        if method is not None or preprocessing is not None:
            raise ModelError(
                f"A {'method' if method else 'preprocessing'} must be given with prompts only",
                f"{file.name}: head weights",
            )
        return _of_heads(
            file,
            out,
            named,
            base,
            layers=listed,
            one_based=one_based,
            branch=branch,
            name=name,
            domain=domain,
            trained_on=trained_on,
        )


def _holds_prompts(file: Path) -> bool:
    """Whether it is a checkpoint of prompts; a tower's weights are refused, for they need no conversion."""
    if file.suffix.lower() in _TABLES:
        return False
    value = None if file.is_dir() else read_plain(file)
    if is_prompt_checkpoint(value):
        return True
    if isinstance(value, Mapping) and "head_weights" in value:
        return False
    try:
        tower_names(read_weights(file).state, file.name)
    except ModelError:
        return False
    raise ModelError(
        "A file to convert must hold prompts or head weights",
        f"{file.name}, the weights of a tower",
        "They need no conversion: name them with predict --model [ARCH@]FILE or --weights FILE, or here with --weights",
    )


def _of_prompts(file: Path, tower: str | None, *, domain: str | None, **options: Any) -> Conversion:
    if tower is None:
        raise ModelError(
            "Prompts must be converted with a tower, the one that they were trained for",
            file.name,
            "Name it with --tower, and its weights with --weights FILE; those of AnomalyCLIP and Crane belong to "
            "ViT-L-14-336-quickgelu",
        )
    return convert_prompts(read_prompts(file), build_tower(tower), domain=domain or "generic", **options)


def _of_heads(
    file: Path,
    out: Path,
    tower: str | None,
    base: str | None,
    **options: Any,
) -> Conversion:
    weights = read_head_weights(file)
    if base is None and tower is None:
        raise ModelError(
            "Head weights must be converted with a tower or a base pack", file.name, "Name it with --tower"
        )
    model = None if base is None else load_model(base, weights=tower)
    pack = model.pack if model else None
    if model is not None and pack is None:
        raise ModelError("The base must be a pack", model.name, "Name a tower with --tower")
    made = convert_heads(weights, model.built if model else build_tower(str(tower)), file, base=pack, **options)
    own_tower = pack.folder / pack.record.tower.file if pack and pack.record.tower.file else None
    write_pack(out, made, own_tower)
    return made
