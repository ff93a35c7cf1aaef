"""Files that list cases: finding and reading them, labels in words, and paths that must stay where they belong."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from headclip_med.base.errors import InputError
from headclip_med.datasets.case import Case
from headclip_med.datasets.names import IMAGE_ENDINGS, VOLUME_ENDINGS, files_in, label_of, split_of

UNKNOWN_PATIENTS = "patients are not known: every image counts as its own patient"

_ENDINGS = (*IMAGE_ENDINGS, *VOLUME_ENDINGS)
# Images that labelled sets are not read from; tables, texts and the like are no loss.
_UNREAD = (
    ".gif",
    ".webp",
    ".dcm",
    ".dicom",
    ".npy",
    ".npz",
    ".mat",
    ".h5",
    ".hdf5",
    ".jp2",
    ".pgm",
    ".ppm",
    ".svs",
    ".zip",
)
_DEEPEST = 10  # folders below the root
_SHOWN = 8  # groups of files in notes


_NORMAL, _ABNORMAL = ("0", "0.0", "false"), ("1", "1.0", "true")
_NOTHING = ("", "none", "nan", "unknown")


@dataclass(frozen=True)
class Tree:
    """Images and volumes below a folder.

    Attributes:
        root: the folder.
        folders: names by folder, such as ``a/b/``, where the root itself is empty.
        others: how many files end otherwise, by ending.
        memory: what was found out about it once, as several layouts ask the same.
    """

    root: Path
    folders: Mapping[str, tuple[str, ...]]
    others: Mapping[str, int]
    memory: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def files(self) -> list[str]:
        """Every image and volume, relative to the root."""
        return [folder + name for folder, names in self.folders.items() for name in names]

    def path(self, file: str) -> Path:
        """Locate a file.

        Args:
            file: Relative to the root.

        Returns:
            Where it lies.
        """
        return self.root / file

    def below(self, folder: str) -> list[str]:
        """List the images and volumes in a folder and its folders.

        Args:
            folder: Relative to the root, with its ``/``.

        Returns:
            Files relative to the root.
        """
        return [inside + name for inside, names in self.folders.items() if inside.startswith(folder) for name in names]

    def children(self, folder: str) -> list[str]:
        """List the folders in a folder that hold images or volumes somewhere.

        Args:
            folder: Relative to the root, with its ``/``.

        Returns:
            Folders relative to the root, each with its ``/``, sorted.
        """
        found = {
            inside[: inside.index("/", len(folder)) + 1]
            for inside, names in self.folders.items()
            if names and inside.startswith(folder) and inside != folder
        }
        return sorted(found)


def read_tree(root: Path) -> Tree:
    """List a folder without hidden files and folders, and without links that lead back to where they come from.

    Args:
        root: The folder.

    Returns:
        What lies in it.

    Raises:
        OSError: a folder that cannot be read.
    """
    folders: dict[str, tuple[str, ...]] = {}
    others: dict[str, int] = defaultdict(int)
    seen: set[str] = set()

    def stop(error: OSError) -> None:
        raise error

    for place, inside, names in os.walk(root, followlinks=True, onerror=stop):
        here = os.path.realpath(place)
        relative = os.path.relpath(place, root).replace(os.sep, "/")
        folder = "" if relative == "." else f"{relative}/"
        inside[:] = sorted(n for n in inside if not n.startswith((".", "__")) and folder.count("/") < _DEEPEST)
        if here in seen:
            inside[:] = []
            continue
        seen.add(here)
        listed = sorted(n for n in names if not n.startswith("."))
        folders[folder] = tuple(n for n in listed if n.lower().endswith(_ENDINGS))
        for name in listed:
            if not name.lower().endswith(_ENDINGS):
                others[Path(name).suffix.lower() or name] += 1
    return Tree(root, dict(sorted(folders.items())), dict(others))


@dataclass(frozen=True)
class Listing:
    """What a layout finds.

    Attributes:
        cases: in order.
        notes: what was passed over or guessed, in words.
        strays: masks without an image.
        known: further files that the notes account for.
        why: what the layout was recognised by.
    """

    cases: list[Case]
    notes: list[str] = field(default_factory=list)
    strays: list[Path] = field(default_factory=list)
    known: list[Path] = field(default_factory=list)
    why: str = ""


def left_over(tree: Tree, listing: Listing) -> list[str]:
    """Note the files that are neither image nor mask of a case, counted by folder.

    Args:
        tree: What lies in the folder.
        listing: What was made of it.

    Returns:
        The notes.
    """
    used = {path for case in listing.cases for path in (*case.images, *case.masks)} | {*listing.strays, *listing.known}
    groups: dict[str, list[str]] = defaultdict(list)
    for folder, names in tree.folders.items():
        for name in names:
            if tree.path(folder + name) not in used:
                groups[re.sub(r"\d+", "#", folder)].append(folder + name)
    ordered = sorted(groups.values(), key=lambda files: (-len(files), files[0]))
    notes = [counted(files, "{} passed over, neither image nor mask of a case") for files in ordered[:_SHOWN]]
    rest = sum(map(len, ordered[_SHOWN:]))
    if rest:
        notes.append(f"{rest} further files in {len(ordered) - _SHOWN} folders passed over")
    unread = {ending: count for ending, count in tree.others.items() if ending in _UNREAD}
    many = [(ending, f"{count} file{'' if count == 1 else 's'}") for ending, count in sorted(unread.items())]
    return [*notes, *(f"{files} ending in {ending} passed over" for ending, files in many)]


def counted(names: Sequence[str], words: str, of: str = "file") -> str:
    """Say how many there are and an example, such as ``3 files passed over, such as a/b.png``.

    Args:
        names: At least one.
        words: With ``{}`` for the number.
        of: What is counted, in the singular.

    Returns:
        The text.
    """
    many = f"{len(names)} {of}{'s' if len(names) != 1 else ''}"
    return f"{words.format(many)}, such as {names[0]}"


def told_apart(paths: Sequence[str]) -> list[str]:
    """Shorten paths to the shortest ends that differ from each other, their folders joined by ``_``.

    Args:
        paths: With ``/`` between their parts.

    Returns:
        One name each.
    """
    parts = [path.split("/") for path in paths]
    found: dict[int, str] = {}
    depth = 1
    waiting = list(range(len(paths)))
    while waiting:
        ends: dict[str, list[int]] = defaultdict(list)
        for i in waiting:
            ends["_".join(parts[i][-depth:]).casefold()].append(i)
        waiting = [i for places in ends.values() for i in places if len(places) > 1 and depth < len(parts[i])]
        for i in set(range(len(paths))) - set(waiting) - set(found):
            found[i] = "_".join(parts[i][-depth:])
        depth += 1
    return [found[i] for i in range(len(paths))]


def split_in(folders: str) -> tuple[str, str]:
    """Find the split that one of some folders is named after (the last that is).

    Args:
        folders: With ``/`` between them.

    Returns:
        The split, empty where there is none, and the other folders.
    """
    parts = [part for part in folders.split("/") if part]
    splits = [part for part in parts if split_of(part) in ("train", "val", "test")]
    return (split_of(splits[-1]) if splits else ""), "/".join(part for part in parts if part not in splits)


def no_such_sequence(wrong: Sequence[str], there: Iterable[str]) -> InputError:
    """Make the error about sequences that the set does not have.

    Args:
        wrong: Those asked for.
        there: Those it has.

    Returns:
        The error to raise.
    """
    return InputError(f"A sequence must be one of {', '.join(there) or 'none here'}", ", ".join(wrong))


def read_label(value: object, where: str) -> bool | None:
    """Read a label: 0, 1, true, false or a word such as normal.

    Args:
        value: As it stands in the list.
        where: What to call the place in the message.

    Returns:
        True abnormal, False normal, None for nothing.

    Raises:
        InputError: anything else.
    """
    text = str("" if value is None else value).strip().lower()
    if text in _NOTHING:
        return None
    if text in (*_NORMAL, *_ABNORMAL):
        return text in _ABNORMAL
    known = label_of(text)
    if known is None:
        raise InputError("A label must be 0, 1, or a word such as normal or abnormal", f"{text!r} in {where}")
    return known


def inside(folder: Path, text: str, where: str) -> Path:
    """Locate a listed path, which must stay below its list, as one from elsewhere must not open other files.

    Args:
        folder: Of the list.
        text: The path in it.
        where: What to call the place in the message.

    Returns:
        Where it lies.

    Raises:
        InputError: an absolute path, or one with ``..``.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise InputError(
            "Paths in a JSON list must lie below the folder of the list",
            where,
            "Make the paths relative, or list the files in a CSV",
        )
    return folder / path


def one_file(root: Path, ending: str) -> Path | None:
    """Find the file of an ending.

    Args:
        root: The file itself, or a folder.
        ending: In lower case, with its dot.

    Returns:
        The file itself, or the only one in the folder, or None.
    """
    if root.is_file():
        return root if root.name.lower().endswith(ending) else None
    found = files_in(root, (ending,))
    return found[0] if len(found) == 1 else None


def json_file(root: Path, name: str) -> Path | None:
    """Find a JSON file by its name.

    Args:
        root: The file itself, or a folder.
        name: In the folder.

    Returns:
        The file, or None.
    """
    if root.is_file():
        return root if root.suffix.lower() == ".json" else None
    return root / name if (root / name).is_file() else None


def needed(path: Path | None, root: Path, what: str) -> Path:
    """Refuse where a layout finds no file.

    Args:
        path: What was found.
        root: Where it was looked for.
        what: What was looked for.

    Returns:
        ``path``.

    Raises:
        InputError: nothing was found.
    """
    if path is None:
        raise InputError(f"This layout must find {what}", root.name)
    return path


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.

    Returns:
        Its text.

    Raises:
        InputError: a file that cannot be read, or another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("A list of cases must be a readable text file in UTF-8", path.name) from error


def read_object(path: Path) -> Mapping[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        InputError: a file that cannot be read, or another structure.
    """
    return as_object(parse_json(read_text(path), path.name), path.name)


def parse_json(text: str, where: str) -> Any:
    """Parse a JSON text.

    Args:
        text: The text.
        where: What to call the place in the message.

    Returns:
        The value.

    Raises:
        InputError: no valid JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} must be valid JSON", str(error), "Correct it") from error


def as_object(value: Any, where: str) -> Mapping[str, Any]:
    """Check that a value is a JSON object.

    Args:
        value: Any value.
        where: What to call the place in the message.

    Returns:
        The value.

    Raises:
        InputError: anything else.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where} must hold a JSON object here", type(value).__name__)
    return value


def as_list(value: Any, where: str) -> list[Any]:
    """Check that a value is a JSON array.

    Args:
        value: Any value.
        where: What to call the place in the message.

    Returns:
        The value.

    Raises:
        InputError: anything else.
    """
    if not isinstance(value, list):
        raise InputError(f"{where} must hold a JSON array here", type(value).__name__)
    return value
