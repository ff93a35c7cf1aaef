"""``dataset.json``: the Medical Segmentation Decathlon's list of files, and nnU-Net's folders of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headclip_med.base.errors import InputError
from headclip_med.datasets.case import Case
from headclip_med.datasets.layouts.lists import (
    Listing,
    as_object,
    counted,
    inside,
    json_file,
    needed,
    no_such_sequence,
    read_object,
    told_apart,
)
from headclip_med.datasets.layouts.patterns import without_ending
from headclip_med.datasets.names import files_in, named, stem_of
from headclip_med.datasets.values import NOT_KNOWN, MaskValues, values_of_labels

_FOLDERS = (("train", "imagestr", "labelstr"), ("test", "imagests", "labelsts"))


def recognise(root: Path) -> bool:
    """Tell whether there is a ``dataset.json`` with a list of training cases, or beside folders of images.

    Args:
        root: The file or its folder.

    Returns:
        True where there is.
    """
    path = json_file(root, "dataset.json")
    try:
        return path is not None and (_rows(read_object(path)) is not None or _has_images(path))
    except InputError:  # said when the layout is named
        return False


def list_cases(root: Path, sequences: Sequence[str] | None = None) -> Listing:
    """List a case per entry of ``training``, or per name in ``imagesTr`` and ``imagesTs`` with its channels.

    Args:
        root: The file or its folder.
        sequences: Channels to read, the usual one by default.

    Returns:
        The cases.

    Raises:
        InputError: another structure, or a channel that the set does not have.
    """
    path = needed(json_file(root, "dataset.json"), root, "a file dataset.json")
    facts = read_object(path)
    rows = _rows(facts)
    values = values_of_labels(facts["labels"], path.name) if facts.get("labels") else NOT_KNOWN
    if rows is None or _has_channel_files(path):
        return _nnunet(path, facts, sequences, values)
    volumes, notes = _channels(path, facts, sequences)
    chosen = volumes if len(_channel_names(facts)) > 1 else []
    images = [_image(row, f"{path.name}, training entry {i}") for i, row in enumerate(rows, start=1)]
    said = _who([without_ending(image.removeprefix("./")) for image in images])
    cases = [
        _decathlon(path, row, who, f"{path.name}, training entry {i}", chosen, values)
        for i, (row, who) in enumerate(zip(rows, said, strict=True), start=1)
    ]
    return Listing(cases, notes, why=path.name)


def _rows(facts: Mapping[str, Any]) -> list[Any] | None:
    rows = facts.get("training")
    return rows if isinstance(rows, list) and rows else None


def _channel_names(facts: Mapping[str, Any]) -> Any:
    return facts.get("channel_names") or facts.get("modality") or {"0": "0"}


def _has_images(path: Path) -> bool:
    return any(named(path.parent, images) is not None for _, images, _ in _FOLDERS)


def _has_channel_files(path: Path) -> bool:
    """Old nnU-Net sets list ``case.nii.gz`` where ``case_0000.nii.gz`` lies."""
    folder = named(path.parent, "imagestr")
    return folder is not None and any(stem_of(file).endswith("_0000") for file in files_in(folder))


def _image(entry: Any, where: str) -> str:
    row = as_object(entry, where)
    if not row.get("image"):
        raise InputError("Every entry must name its image", where)
    return str(row["image"])


def _who(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Name and patient of every path: a name that repeats says nobody, then the folder above does."""
    names = told_apart(paths)
    if len({path.rpartition("/")[2] for path in paths}) == len(paths):
        return [(name, name) for name in names]
    folders = [path.rpartition("/")[0] for path in paths]
    different = list(dict.fromkeys(folders))
    patients = dict(zip(different, told_apart(different), strict=True))
    return [(name, patients[folder]) for name, folder in zip(names, folders, strict=True)]


def _decathlon(
    path: Path, row: Any, who: tuple[str, str], where: str, volumes: Sequence[int], values: MaskValues
) -> Case:
    """One entry; ``volumes`` are those to read of its 4-D file, none for a file of one volume."""
    image = inside(path.parent, str(row["image"]), where)
    mask = (inside(path.parent, str(row["label"]), where),) if row.get("label") else ()
    images = (image,) * max(len(volumes), 1)
    return Case(who[0], images, mask, patient=who[1], split="train", volumes=tuple(volumes), values=values)


def _nnunet(path: Path, facts: Mapping[str, Any], sequences: Sequence[str] | None, values: MaskValues) -> Listing:
    wanted, notes = _channels(path, facts, sequences)
    cases, strays, short = [], [], []
    for split, images, labels in _FOLDERS:
        folder, truth = named(path.parent, images), named(path.parent, labels)
        masks = {stem_of(file): file for file in files_in(truth)} if truth else {}
        parts = _parts(files_in(folder) if folder else [])
        for stem, files in parts.items():
            if any(number not in files for number in wanted):
                short.append(stem)
                continue
            mask = (masks[stem],) if stem in masks else ()
            images_of = tuple(files[n] for n in wanted)
            cases.append(Case(stem, images_of, mask, patient=stem, split=split, values=values))
        strays += [file for stem, file in masks.items() if stem not in parts]
    notes += [counted(short, "{} left out: a channel is missing", "case")] if short else []
    return Listing(cases, notes, strays, why=path.name)


def _channels(path: Path, facts: Mapping[str, Any], sequences: Sequence[str] | None) -> tuple[list[int], list[str]]:
    """Numbers of the channels to read: those asked for by name, else FLAIR, else the first."""
    named_channels = as_object(_channel_names(facts), path.name)
    wrong = [number for number in named_channels if not number.isdecimal()]
    if wrong:
        raise InputError(f"The channels of {path.name} must be numbered", wrong[0])
    names = {str(name).lower(): int(number) for number, name in named_channels.items()}
    missing = [name for name in sequences or () if name.lower() not in names]
    if missing:
        raise no_such_sequence(missing, list(names))
    if sequences:
        return [names[name.lower()] for name in sequences], []
    usual = "flair" if "flair" in names else min(names, key=lambda name: names[name])
    return [names[usual]], [f"channel {usual} is used, of {', '.join(names)}"] if len(names) > 1 else []


def _parts(files: Sequence[Path]) -> dict[str, dict[int, Path]]:
    """Case → channel number → file."""
    parts: dict[str, dict[int, Path]] = {}
    for file in files:
        stem, _, channel = stem_of(file).rpartition("_")
        if stem and channel.isdecimal():
            parts.setdefault(stem, {})[int(channel)] = file
    return parts
