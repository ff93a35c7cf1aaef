"""Where weights lie: files and folders by name, before any of them is read. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headclip_med.base.errors import ModelError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# What a folder's weights are called, the first one there is counts; an index names its shards.
_IN_FOLDER = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_CONFIGS = ("open_clip_config.json", "config.json")


def split_architecture(name: str | Path) -> tuple[str, str]:
    """Split ``[ARCH@]FILE``, where a folder may have an ``@`` in its name.

    Args:
        name: What a user wrote.

    Returns:
        Architecture, empty where none is named, and file.
    """
    architecture, at, file = str(name).partition("@")
    if not at or "/" in architecture or Path(name).expanduser().exists():
        return "", str(name)
    return architecture, file


def is_weights(name: str | Path) -> bool:
    """Tell whether a name stands for a local weight file or folder, there or not, rather than for a hub's model.

    Args:
        name: What a user wrote.

    Returns:
        True for a known ending, a file, or a folder with weights.
    """
    path = Path(name).expanduser()
    return path.suffix in SUFFIXES or path.is_file() or folder_weights(path) is not None


def weight_paths(path: Path) -> list[Path]:
    """List the files that hold the weights: the file itself, or the one in a folder, or its shards.

    Args:
        path: File or folder.

    Returns:
        Their paths, in order.

    Raises:
        ModelError: a folder without a weight file, or an index of shards that cannot be read.
    """
    if not path.is_dir():
        return [path]
    file = folder_weights(path)
    if file is None:
        held = ", ".join(sorted(each.name for each in path.iterdir())[:5]) or "nothing"
        raise ModelError(
            "A folder of weights must hold one weight file, such as model.safetensors",
            f"{path.name} with {held}",
            "Name the file itself",
        )
    if file.suffix != ".json":
        return [file]
    try:
        names = sorted(
            {Path(name).name for name in json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()}
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            "The index of shards must name them", f"{path.name}/{file.name}", "Download or copy it again"
        ) from error
    return [path / name for name in names]


def folder_weights(path: Path) -> Path | None:
    """Find the file that stands for a folder's weights: of a known name, or the only one with a known ending.

    Args:
        path: Anything.

    Returns:
        The file, or None where there is none or several.
    """
    if not path.is_dir():
        return None
    named = next((path / name for name in _IN_FOLDER if (path / name).is_file()), None)
    others = [each for each in sorted(path.iterdir()) if each.suffix in SUFFIXES and each.is_file()]
    return named or (others[0] if len(others) == 1 else None)


def config_beside(file: Path) -> dict[str, Any]:
    """Read what describes the weights in a file, in the JSON file beside it.

    Args:
        file: A weight file.

    Returns:
        Its values, empty where there is none.
    """
    for name in _CONFIGS:
        try:
            config = json.loads((file.parent / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict):
            return config
    return {}
