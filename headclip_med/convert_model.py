"""A file that others trained → a pack folder: chooses the converter and the tower."""

from __future__ import annotations

from pathlib import Path

from headclip_med.encoders.build import build_tower
from headclip_med.errors import ModelError
from headclip_med.head_weights import Branch
from headclip_med.models import load_model
from headclip_med.packs.convert import PROMPT_METHODS as PROMPT_METHODS
from headclip_med.packs.convert import convert_prompts, is_prompt_checkpoint, read_plain_pickle, read_prompts
from headclip_med.packs.convert_heads import convert_heads, parse_layers, read_head_weights
from headclip_med.packs.domains import get_domain
from headclip_med.packs.new_pack import Conversion, check_new_folder, write_pack


def convert_model(
    file: Path,
    out: Path,
    *,
    tower: str | None = None,
    method: str | None = None,
    base: str | None = None,
    layers: str | None = None,
    one_based: bool = False,
    branch: Branch | None = None,
    name: str | None = None,
    domain: str | None = None,
    trained_on: str | None = None,
) -> Conversion:
    """Convert learned prompts, or a table of head weights, and write the pack into ``out``.

    Args:
        tower: a tower's name or weight file; may be left out with a ``base`` that carries or names its own.
        method: prompts only: that they were trained for; None: by the layout of the file.
        base: head weights only: the pack whose classes and configuration are kept.
        layers: head weights only: of the rows, such as ``5,6,20-23``; one_based: they count from 1.

    Raises:
        ModelError: a file that is neither, or that does not fit; OutputError: ``out`` holds something.
    """
    check_new_folder(out)
    listed = None if layers is None else parse_layers(layers)
    if domain is not None:
        get_domain(domain)
    if file.suffix.lower() in (".pt", ".pth") and is_prompt_checkpoint(read_plain_pickle(file)):
        if base is not None or branch is not None or listed is not None or one_based:
            raise ModelError(
                "A base, a branch and layers must be given with head weights only", f"{file.name}: prompts"
            )
        if tower is None:
            raise ModelError("Prompts must be converted with a tower", file.name, "Name it with --tower")
        prompts = read_prompts(file)
        made = convert_prompts(
            prompts,
            build_tower(tower),
            method=method,
            name=name,
            domain=domain or "generic",
            trained_on=trained_on,
        )
        write_pack(out, made)
        return made
    if method is not None:
        raise ModelError("A method must be given with prompts only", f"{file.name}: head weights")
    weights = read_head_weights(file)
    if base is None and tower is None:
        raise ModelError(
            "Head weights must be converted with a tower or a base pack", file.name, "Name it with --tower"
        )
    model = None if base is None else load_model(base, weights=tower)
    pack = model.pack if model else None
    if model is not None and pack is None:
        raise ModelError("The base must be a pack", model.name, "Name a tower with --tower")
    made = convert_heads(
        weights,
        model.built if model else build_tower(str(tower)),
        file,
        layers=listed,
        one_based=one_based,
        base=pack,
        branch=branch,
        name=name,
        domain=domain,
        trained_on=trained_on,
    )
    own_tower = pack.folder / pack.record.tower.file if pack and pack.record.tower.file else None
    write_pack(out, made, own_tower)
    return made
