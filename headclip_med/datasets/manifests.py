"""Sets that a file lists: AnomalyCLIP's ``meta.json``, one JSON object a line, ``dataset.json``, a CSV of paths."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from headclip_med.datasets.case import Case
from headclip_med.datasets.listing import UNKNOWN_PATIENTS, Listing
from headclip_med.datasets.names import NORMAL_WORDS, files_in, label_of, named, stem_of
from headclip_med.errors import InputError

_CSV_FIELDS = ("image", "mask", "label", "patient", "name", "category", "split")
_SPLITS = {"training": "train", "train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}


# --- meta.json ---------------------------------------------------------------------------------------------------


def recognise_meta(root: Path) -> bool:
    """There is a ``meta.json`` here, or this is one."""
    return _file(root, "meta.json") is not None


def list_meta(root: Path, sequences: object = None) -> Listing:
    """``{"test": {class: [{img_path, mask_path, cls_name, specie_name, anomaly}]}}``, paths relative to the file."""
    path = _needed(root, "meta.json")
    content = _json(path)
    cases = []
    for split, classes in _mapping(content, path).items():
        for category, rows in _mapping(classes, path).items():
            for number, row in enumerate(rows, start=1):
                where = f"{path.name}, {split}/{category} entry {number}"
                cases.append(_entry(path.parent, _mapping(row, path), where, _SPLITS.get(split, split), category))
    return Listing(cases, [UNKNOWN_PATIENTS])


# --- jsonl -------------------------------------------------------------------------------------------------------


def recognise_jsonl(root: Path) -> bool:
    """This is a ``.jsonl`` file, or the folder has exactly one."""
    return _only(root, ".jsonl") is not None


def list_jsonl(root: Path, sequences: object = None) -> Listing:
    """``{"image_path", "label", "class_name", "mask_path"}`` a line, paths relative to the file."""
    path = _only(root, ".jsonl")
    if path is None:
        raise InputError("The jsonl layout must find one file that ends in .jsonl", root.name)
    cases = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"Every line of {path.name} must be a JSON object", f"line {number}") from error
        cases.append(_entry(path.parent, _mapping(row, path), f"{path.name}, line {number}", "", ""))
    return Listing(cases, [UNKNOWN_PATIENTS])


def _entry(folder: Path, row: Mapping[str, Any], where: str, split: str, category: str) -> Case:
    image = row.get("img_path") or row.get("image_path") or row.get("filename")
    if not isinstance(image, str) or not image:
        raise InputError("Every entry must name its image", where, "Add img_path (meta.json) or image_path (jsonl)")
    mask = row.get("mask_path") or row.get("maskname") or ""
    label = _label(row.get("anomaly", row.get("label")), where)
    kind = str(row.get("specie_name") or "")
    return Case(
        name=f"{kind}_{stem_of(Path(image))}" if kind else stem_of(Path(image)),
        images=(_inside(folder, image, where),),
        masks=(_inside(folder, str(mask), where),) if mask else (),
        label=label,
        category=str(row.get("cls_name") or row.get("class_name") or row.get("clsname") or category),
        split=split,
        columns={"kind": kind} if kind and label else {},
    )


# --- dataset.json ------------------------------------------------------------------------------------------------


def recognise_msd(root: Path) -> bool:
    """There is a ``dataset.json`` beside folders of images."""
    path = _file(root, "dataset.json")
    return path is not None and (named(path.parent, "imagestr") is not None or "training" in _text(path))


def list_msd(root: Path, sequences: Sequence[str] | None = None) -> Listing:
    """Medical Segmentation Decathlon and nnU-Net: images in ``imagesTr``, masks in ``labelsTr``."""
    path = _needed(root, "dataset.json")
    facts = _mapping(_json(path), path)
    rows = facts.get("training")
    if isinstance(rows, list) and rows and isinstance(rows[0], dict):
        return Listing([_decathlon(path, row, number) for number, row in enumerate(rows, start=1)])
    return _nnunet(path, facts, sequences)


def _decathlon(path: Path, row: Mapping[str, Any], number: int) -> Case:
    where = f"{path.name}, training entry {number}"
    if "image" not in row:
        raise InputError("Every entry must name its image", where)
    image = _inside(path.parent, str(row["image"]), where)
    mask = (_inside(path.parent, str(row["label"]), where),) if row.get("label") else ()
    return Case(stem_of(image), (image,), mask, patient=stem_of(image), split="train")


def _nnunet(path: Path, facts: Mapping[str, Any], sequences: Sequence[str] | None) -> Listing:
    channels = facts.get("channel_names") or facts.get("modality") or {}
    names = {str(name).lower(): int(number) for number, name in _mapping(channels, path).items()}
    wrong = [name for name in sequences or () if name.lower() not in names]
    if wrong:
        raise InputError(f"A sequence must be one of {', '.join(names) or 'none here'}", ", ".join(wrong))
    wanted = [names[name.lower()] for name in sequences] if sequences else [min(names.values(), default=0)]
    cases, notes = [], []
    if not sequences and len(names) > 1:
        notes.append(f"channel {next(n for n, i in names.items() if i == wanted[0])} is used, of {', '.join(names)}")
    for split, images, labels in (("train", "imagestr", "labelstr"), ("test", "imagests", "labelsts")):
        folder, truth = named(path.parent, images), named(path.parent, labels)
        by_stem = {stem_of(file): file for file in files_in(truth)} if truth else {}
        parts: dict[str, dict[int, Path]] = {}
        for file in files_in(folder) if folder else []:
            stem, _, channel = stem_of(file).rpartition("_")
            if stem and channel.isdigit():
                parts.setdefault(stem, {})[int(channel)] = file
        for stem, files in parts.items():
            if any(number not in files for number in wanted):
                notes.append(f"{stem}: left out, a channel is missing")
                continue
            mask = (by_stem[stem],) if stem in by_stem else ()
            cases.append(Case(stem, tuple(files[n] for n in wanted), mask, patient=stem, split=split))
    return Listing(cases, notes)


# --- csv ---------------------------------------------------------------------------------------------------------


def recognise_csv(root: Path) -> bool:
    """This is a CSV file with a column ``image``, or the folder has exactly one."""
    path = _only(root, ".csv")
    return path is not None and "image" in _columns(path)


def list_csv(root: Path, sequences: object = None) -> Listing:
    """Columns ``image`` (several joined by ``;``), and any of mask, label, patient, name, category, split; every other
    column is kept for subgroup tables. Paths are relative to the file, or absolute.

    Raises:
        InputError: no column ``image``, an empty one, or a label that is none, with the row's number.
    """
    path = _only(root, ".csv")
    if path is None or "image" not in _columns(path):
        raise InputError("A CSV of paths must have a column image", root.name)
    cases, patients = [], False
    for number, row in enumerate(_rows(path), start=2):
        where = f"{path.name}, row {number}"
        images = [part.strip() for part in row.get("image", "").split(";") if part.strip()]
        if not images:
            raise InputError("Every row must name its image", where)
        mask = row.get("mask", "")
        patients = patients or bool(row.get("patient"))
        cases.append(
            Case(
                name=row.get("name") or "+".join(stem_of(Path(image)) for image in images),
                images=tuple(path.parent / image for image in images),
                masks=(path.parent / mask,) if mask else (),
                label=_label(row.get("label"), where),
                patient=row.get("patient", ""),
                category=row.get("category", ""),
                split=_SPLITS.get(row.get("split", "").lower(), row.get("split", "")),
                columns={key: value for key, value in row.items() if key not in _CSV_FIELDS},
            )
        )
    return Listing(cases, [] if patients else [UNKNOWN_PATIENTS])


def _columns(path: Path) -> list[str]:
    first = _text(path).lstrip("\ufeff").partition("\n")[0]
    return [name.strip().strip('"') for name in first.split(_delimiter(first))]


def _rows(path: Path) -> list[dict[str, str]]:
    text = _text(path).lstrip("\ufeff")
    reader = csv.DictReader(text.splitlines(), delimiter=_delimiter(text.partition("\n")[0]))
    return [
        {str(key).strip(): (value or "").strip() for key, value in row.items() if isinstance(key, str)}
        for row in reader
    ]


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


# --- shared ------------------------------------------------------------------------------------------------------


def _label(value: object, where: str) -> bool | None:
    """0, 1, normal, abnormal, … ; None for nothing."""
    text = str("" if value is None else value).strip().lower()
    if text in ("", "none", "nan", "unknown"):
        return None
    if text in ("0", "0.0", "false"):
        return False
    if text in ("1", "1.0", "true"):
        return True
    known = label_of(text)
    if known is None:
        raise InputError(f"A label must be 0, 1, or a word such as {NORMAL_WORDS[1]} or abnormal", f"{text} ({where})")
    return known


def _inside(folder: Path, text: str, where: str) -> Path:
    """A listed path, which must stay within the folder of its list."""
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise InputError(
            "A path in a manifest must lie below the folder of the manifest",
            where,
            "Make the paths relative, or list the files in a CSV",
        )
    return folder / path


def _file(root: Path, name: str) -> Path | None:
    path = root if root.is_file() else root / name
    return path if path.name == name and path.is_file() else None


def _needed(root: Path, name: str) -> Path:
    path = _file(root, name)
    if path is None:
        raise InputError(f"This layout must find a file {name}", root.name)
    return path


def _only(root: Path, ending: str) -> Path | None:
    """The file itself, or the only one of that ending in the folder."""
    if root.is_file():
        return root if root.name.lower().endswith(ending) else None
    found = files_in(root, (ending,))
    return found[0] if len(found) == 1 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("A list of cases must be a readable text file in UTF-8", path.name) from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise InputError("A manifest must be valid JSON", f"{path.name}: {error}") from error


def _mapping(value: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path.name} must hold JSON objects where this layout expects them", type(value).__name__)
    return value
