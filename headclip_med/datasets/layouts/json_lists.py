"""Sets that JSON lists: AnomalyCLIP's ``meta.json``, and one object a line as AA-CLIP and MoECLIP have it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headclip_med.base.errors import InputError
from headclip_med.datasets.case import Case
from headclip_med.datasets.layouts.lists import (
    Listing,
    as_list,
    as_object,
    inside,
    json_file,
    needed,
    one_file,
    parse_json,
    read_label,
    read_object,
    read_text,
)
from headclip_med.datasets.layouts.patients import with_patients
from headclip_med.datasets.names import split_of, stem_of
from headclip_med.datasets.values import EVERY_VALUE


def recognise_meta(root: Path) -> bool:
    """Tell whether there is a JSON file with splits of classes.

    Args:
        root: The file or its folder.

    Returns:
        True where there is.
    """
    path = json_file(root, "meta.json")
    try:
        return path is not None and any(isinstance(read_object(path).get(split), dict) for split in ("test", "train"))
    except InputError:  # said when the layout is named
        return False


def list_meta(root: Path) -> Listing:
    """List the cases of ``{"test": {class: [{img_path, mask_path, cls_name, specie_name, anomaly}]}}``.

    Paths are relative to the file.

    Args:
        root: The file or its folder.

    Returns:
        The cases.

    Raises:
        InputError: another structure, a path that leaves the folder, or a label that is none, with the entry in which
            it is.
    """
    path = needed(json_file(root, "meta.json"), root, "a file meta.json")
    cases = []
    for split, classes in read_object(path).items():
        for category, rows in as_object(classes, f"{path.name}, {split}").items():
            place = f"{path.name}, {split}/{category}"
            for number, row in enumerate(as_list(rows, place), start=1):
                where = f"{place} entry {number}"
                cases.append(_entry(path.parent, as_object(row, where), where, split_of(split), category))
    return _listing(path, cases)


def recognise_lines(root: Path) -> bool:
    """Tell whether this is a ``.jsonl`` file, or the folder has exactly one.

    Args:
        root: The file or its folder.

    Returns:
        True where it is.
    """
    return one_file(root, ".jsonl") is not None


def list_lines(root: Path) -> Listing:
    """List the cases of ``{"image_path", "label", "class_name", "mask_path"}`` a line.

    Paths are relative to the file.

    Args:
        root: The file or its folder.

    Returns:
        The cases.

    Raises:
        InputError: as :func:`list_meta`, with the line in which it is.
    """
    path = needed(one_file(root, ".jsonl"), root, "one file that ends in .jsonl")
    cases = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path.name}, line {number}"
            cases.append(_entry(path.parent, as_object(parse_json(line, where), where), where, "", ""))
    return _listing(path, cases)


def _listing(path: Path, cases: list[Case]) -> Listing:
    notes: list[str] = []
    return Listing(with_patients(path.parent, cases, notes, by_numbers=False), notes, why=path.name)


def _entry(folder: Path, row: Mapping[str, Any], where: str, split: str, category: str) -> Case:
    image = row.get("img_path") or row.get("image_path") or row.get("filename")
    if not isinstance(image, str) or not image:
        raise InputError("Every entry must name its image", where, "Add img_path (meta.json) or image_path (jsonl)")
    mask = row.get("mask_path") or row.get("maskname") or ""
    label = read_label(row.get("anomaly", row.get("label")), where)
    kind = str(row.get("specie_name") or "")
    path = inside(folder, image, where)
    return Case(
        name=f"{kind}_{stem_of(path)}" if kind else stem_of(path),
        images=(path,),
        masks=(inside(folder, str(mask), where),) if mask else (),
        label=label,
        category=str(row.get("cls_name") or row.get("class_name") or row.get("clsname") or category),
        split=split,
        columns={"kind": kind} if kind and label else {},
        values=EVERY_VALUE,
    )
