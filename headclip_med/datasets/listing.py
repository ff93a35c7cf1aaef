"""What lies below a folder, and what a layout makes of it: nothing is passed over without being counted and named."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headclip_med.base.errors import InputError
from headclip_med.datasets.case import Case
from headclip_med.datasets.names import IMAGE_ENDINGS, VOLUME_ENDINGS, split_of

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


@dataclass(frozen=True)
class Tree:
    """Images and volumes below a folder.

    Attributes:
        folders: names by folder, such as ``a/b/``; the root itself is empty. others: how many files end otherwise.
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
        """Where a file lies."""
        return self.root / file

    def below(self, folder: str) -> list[str]:
        """Images and volumes in a folder and its folders."""
        return [inside + name for inside, names in self.folders.items() if inside.startswith(folder) for name in names]

    def children(self, folder: str) -> list[str]:
        """Folders in a folder that hold images or volumes somewhere, each with its ``/``."""
        found = {
            inside[: inside.index("/", len(folder)) + 1]
            for inside, names in self.folders.items()
            if names and inside.startswith(folder) and inside != folder
        }
        return sorted(found)


def read_tree(root: Path) -> Tree:
    """List a folder; hidden files and folders are left out, and links that lead back to where they come from."""
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
        cases: in order. notes: what was passed over or guessed, in words. strays: masks without an image.
        known: further files that the notes account for. why: what the layout was recognised by.
    """

    cases: list[Case]
    notes: list[str] = field(default_factory=list)
    strays: list[Path] = field(default_factory=list)
    known: list[Path] = field(default_factory=list)
    why: str = ""


def left_over(tree: Tree, listing: Listing) -> list[str]:
    """Notes about the files that are neither image nor mask of a case, counted by folder."""
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
    """``words`` with how many there are and an example, such as ``3 files passed over, such as a/b.png``."""
    many = f"{len(names)} {of}{'s' if len(names) != 1 else ''}"
    return f"{words.format(many)}, such as {names[0]}"


def told_apart(paths: Sequence[str]) -> list[str]:
    """The shortest ends of paths that differ from each other, their folders joined by ``_``."""
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
    """The split that one of some folders is named after (the last that is), and the others."""
    parts = [part for part in folders.split("/") if part]
    splits = [part for part in parts if split_of(part) in ("train", "val", "test")]
    return (split_of(splits[-1]) if splits else ""), "/".join(part for part in parts if part not in splits)


def no_such_sequence(wrong: Sequence[str], there: Iterable[str]) -> InputError:
    """The error about sequences that the set does not have."""
    return InputError(f"A sequence must be one of {', '.join(there) or 'none here'}", ", ".join(wrong))
