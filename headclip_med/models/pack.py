"""Reading and writing a pack: what it must hold, checked before anything is built from it.

``pack.json`` is a :class:`PackRecord`. ``pack.safetensors`` holds, for a pack with its own class
features, ``patch_classes`` ``(2, D)`` or ``(taps, 2, D)``, taps in the order of the configuration's ``feature_layers``,
and optionally ``image_classes`` ``(2, D)`` and ``centre`` ``(taps, D)``. Prompts, learned or not, end as such features.

Head weights are trained parameters that become weights by ``lhw_param``: ``head_weights`` ``(rows, heads)``, or
``(rows, heads, head_dim)`` for one weight a channel, with one row for each layer of ``lhw_layers`` or one row for all
of them. With ``lhw_task_decoupled`` also ``head_weights_global``, of the same shapes but over every block. With
``lhw_dynamic`` there are instead ``dynamic.hidden.weight`` ``(hidden, width)``, ``dynamic.hidden.bias``,
``dynamic.output.weight`` ``(depth · heads, hidden)`` and ``dynamic.output.bias`` of :class:`DynamicHeadWeights`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from headclip_med.base.errors import ModelError
from headclip_med.base.files import sha256_file
from headclip_med.detectors import get_method
from headclip_med.detectors.base import read_method_config
from headclip_med.detectors.data import ClassFeatures
from headclip_med.detectors.headclip.parts import packed_classes, packed_head_weights
from headclip_med.encoders.head_weights import DynamicHeadWeights
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.tower import ImageTower
from headclip_med.models.record import (
    RECORD_NAME,
    PackRecord,
    parse_record,
)

TENSORS_NAME = "pack.safetensors"
HEADER_KEY = "headclip_med.pack"  # where the header of a single-file pack holds its record


@dataclass(frozen=True)
class Pack:
    """A validated pack: its folder, record and tensors (empty when it has none), and the hash of both.

    Of a pack in a single file, ``folder`` is where the file lies.
    """

    folder: Path
    record: PackRecord
    tensors: dict[str, Tensor]
    sha256: str

    def config(self) -> Any:
        """Read the method's configuration, such as a :class:`HeadCLIPConfig`.

        Returns:
            The configuration.

        Raises:
            ModelError: an unknown key or a value that is not allowed.
        """
        return read_method_config(get_method(self.record.method).Config, self.record.config, f"pack {self.record.name}")

    def class_features(self, tower: ImageTower) -> ClassFeatures | None:
        """Read the pack's own class features.

        Args:
            tower: The tower it is for.

        Returns:
            Class features of the taps and of the image, or None when they come from prompts.

        Raises:
            ModelError: features that do not fit the tower's taps.
        """
        return packed_classes(self.tensors, self.config(), tower, self.record.name)

    def head_weights(self, tower: ImageTower) -> HeadWeights | DynamicHeadWeights | None:
        """Read the pack's head weights, on every layer of the tower.

        Args:
            tower: The tower it is for.

        Returns:
            The weights, or what predicts them, or None.

        Raises:
            ModelError: the configuration and the tensors disagree, or the tensors do not fit the tower.
        """
        return packed_head_weights(self.tensors, self.config(), tower, self.record.name)


def load_pack(path: Path) -> Pack:
    """Read and check a pack.

    Args:
        path: Its folder, its ``pack.json``, or one of the two files that :func:`headclip_med.models.share.pack_to_file`
            writes.

    Returns:
        The pack.

    Raises:
        ModelError: no ``pack.json``, an invalid one, or tensors that cannot be read.
    """
    if path.suffix in (".safetensors", ".json") and path.is_file() and path.name != RECORD_NAME:
        return _from_file(path)
    folder = path.parent if path.name == RECORD_NAME and path.is_file() else path
    try:
        text = (folder / RECORD_NAME).read_bytes()
    except OSError as error:
        raise ModelError(
            "A pack must be a folder with a readable pack.json", f"{folder.name}: {error.strerror}"
        ) from error
    record = parse_record(text, folder)
    digest = hashlib.sha256(text)
    tensors: dict[str, torch.Tensor] = {}
    weights = folder / TENSORS_NAME
    if weights.exists():
        digest.update(weights.read_bytes())
        tensors = read_safetensors(weights)
    return Pack(folder, record, tensors, digest.hexdigest())


def is_pack(path: Path) -> bool:
    """Tell a pack folder or a file of a pack from a tower's weights or nothing.

    Args:
        path: Anything.

    Returns:
        True for a pack.
    """
    if path.suffix == ".safetensors" and path.is_file():
        return _header_record(path) is not None
    return (path / RECORD_NAME).is_file() or (path.suffix == ".json" and path.is_file())


def _from_file(path: Path) -> Pack:
    """A single-file pack, by its tensors or by the record beside them, which must then agree with the header."""
    file = path.with_suffix(".safetensors")
    if not file.is_file():
        raise ModelError(f"The tensors of a pack must lie beside {path.name}", f"no {file.name}", "Copy both files")
    text = _header_record(file)
    if text is None:
        raise ModelError(
            "A single-file pack must have its record in the header of its safetensors file",
            file.name,
            "Name the folder of the pack, or write the file with `headclip-med models export`",
        )
    record = parse_record(text, file)
    if path != file and parse_record(path.read_bytes(), path) != record:
        raise ModelError(
            f"{path.name} and the header of {file.name} must say the same", "two records", f"Use {file.name} alone"
        )
    if record.tower.kind == "embedded":
        raise ModelError("A single-file pack must not carry a tower of its own", file.name, "Use the pack's folder")
    return Pack(file.parent, record, read_safetensors(file), sha256_file(file))


def _header_record(path: Path) -> str | None:
    """The record in a safetensors file's header, None where there is none or the file is damaged."""
    try:
        with safe_open(path, framework="pt") as opened:
            found: str | None = (opened.metadata() or {}).get(HEADER_KEY)
            return found
    except (OSError, SafetensorError):
        return None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Args:
        path: The file.

    Returns:
        Tensors by name.

    Raises:
        ModelError: a file that cannot be read.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "Weights must be a readable safetensors file",
            f"{path.name}: {error}",
            "Copy or download the file again",
        ) from error


def builtin_packs() -> dict[str, Path]:
    """List the packs shipped inside the package.

    Returns:
        Folder by name.
    """
    here = Path(__file__).parent / "packs"
    return {folder.name: folder for folder in sorted(here.iterdir()) if (folder / RECORD_NAME).exists()}
