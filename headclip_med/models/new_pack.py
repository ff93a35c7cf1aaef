"""What others trained → a new pack folder: its tower, its line in the ledger, its files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from headclip_med.base.errors import OutputError
from headclip_med.base.files import atomic_path, check_writable, save_tensors
from headclip_med.encoders.build import BuiltTower
from headclip_med.models.pack import TENSORS_NAME
from headclip_med.models.record import LedgerEntry, PackRecord, TowerRecord, write_record


@dataclass(frozen=True)
class Conversion:
    """A pack that is not written yet.

    Attributes:
        notes: what its user should know.
    """

    record: PackRecord
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def tower_record(built: BuiltTower) -> TowerRecord:
    """Name a tower as its hub knows it, and a weight file's tower by its architecture.

    Args:
        built: The tower.

    Returns:
        What ``pack.json`` says about it.
    """
    from_hub = built.source.startswith(f"{built.architecture}/")
    return TowerRecord(
        kind="open_clip" if built.kind == "open_clip" else "timm",
        name=built.source if from_hub else built.architecture,
        sha256=built.sha256,
    )


def unknown_training(file: str, trained_on: str | None) -> LedgerEntry:
    """Make a line of the ledger for weights that were trained elsewhere: without it a pack would pass as zero-shot.

    Args:
        file: Name of the weight file.
        trained_on: What the user says about it, or None.

    Returns:
        The line.
    """
    return LedgerEntry(
        name=trained_on or f"trained elsewhere, data not recorded in {file}", licence="not stated", count=0
    )


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that holds anything, and one that cannot be written to.

    Args:
        folder: Of the new pack, which need not exist.

    Raises:
        OutputError: in words.
    """
    check_writable(folder)
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if held:
        raise OutputError(
            f"The folder '{folder.name}' of a new pack must be empty", f"{held[0]} in it", "Choose another folder"
        )


def write_pack(folder: Path, conversion: Conversion, tower_file: Path | None = None) -> Path:
    """Write a new pack, ``pack.json`` last, so that an interrupted one is not taken for a pack.

    Args:
        folder: Of the new pack, empty or not there.
        conversion: What it holds.
        tower_file: Of an embedded tower, copied under its own name.

    Returns:
        The path of its ``pack.json``.

    Raises:
        OutputError: the folder holds something, or cannot be written to.
    """
    check_new_folder(folder)
    try:
        save_tensors(folder / TENSORS_NAME, conversion.tensors)
        if tower_file is not None:
            with atomic_path(folder / tower_file.name) as draft:
                shutil.copyfile(tower_file, draft)
        return write_record(folder, conversion.record)
    except BaseException:
        for path in folder.iterdir() if folder.is_dir() else ():  # all of it was written here
            path.unlink()
        raise
