"""A weight file or folder of any common kind → its tensors by name, and what lies beside them.

Read are safetensors, PyTorch's files (``.pt``, ``.pth``, ``.bin``, ``.ckpt``), TorchScript archives such as OpenAI's
``ViT-L-14-336px.pt``, and folders of Hugging Face and open_clip, whole or in shards. The content decides which of them
a file is, never its ending. Nothing that is stored in a file is run.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from headclip_med.base.errors import ModelError
from headclip_med.base.files import sha256_file
from headclip_med.encoders.inert_pickle import Inert, computes_quick_gelu, is_torchscript, read_zip
from headclip_med.encoders.weight_places import config_beside, folder_weights, weight_paths

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")  # of a whole model that was pickled
_AGAIN = "Download or copy it again"


@dataclass(frozen=True)
class Stored:
    """What a weight file or folder holds.

    Attributes:
        state: tensors by the names that they have there.
        name: of the file or folder, without those above it.
        sha256: of the file, of several shards together.
        config: of the JSON file beside the weights that describes them, empty where there is none.
        quick_gelu: whether a TorchScript archive computes QuickGELU. None: it does not say, or is none.
    """

    state: dict[str, Tensor]
    name: str
    sha256: str
    config: Mapping[str, Any] = field(default_factory=dict)
    quick_gelu: bool | None = None


def read_weights(path: Path) -> Stored:
    """Read a weight file, or the weights in a folder.

    Args:
        path: File or folder.

    Returns:
        Tensors by name, and what lies beside them.

    Raises:
        ModelError: missing, damaged, of another kind, or without tensors by name.
    """
    files = weight_paths(path)
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_state(file)
    archive = len(files) == 1 and is_torchscript(files[0])
    quick = computes_quick_gelu(files[0]) if archive else None
    return Stored(state, path.name, _sha256(files), config_beside(files[0]), quick)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a weight file out of what it is wrapped in.

    Args:
        path: File of safetensors or PyTorch.

    Returns:
        Tensors by name, without ``module.`` in front of names.

    Raises:
        ModelError: missing, damaged, of another kind, or without tensors by name.
    """
    value = _unwrapped(read_plain(path))
    state = dict(_tensors(value))
    if not state:
        held = ", ".join(map(str, list(_entries(value))[:4]))
        do = "Save the state dict that is meant as a file of its own, or name another file"
        raise ModelError("A weight file must hold tensors by name", f"{path.name}{held and f' with {held}'}", do)
    return {key.removeprefix("module."): value for key, value in state.items()}


def tensor_names(path: Path) -> list[str]:
    """List the tensors of a safetensors file or of a folder with one, read from its header.

    Args:
        path: File or folder.

    Returns:
        Their names, empty for any other file.
    """
    try:
        file = path if path.is_file() else folder_weights(path)
        if file is None or file.suffix != ".safetensors":
            return []
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (OSError, SafetensorError):
        return []  # what is wrong with it is said by whoever reads it


def read_plain(path: Path) -> Any:
    """Read what a safetensors or PyTorch file holds, where objects that are no plain values become :class:`Inert`.

    Args:
        path: File of safetensors or PyTorch.

    Returns:
        Tensors by name, or whatever was stored.

    Raises:
        ModelError: missing, damaged, or of another kind.
    """
    if not path.is_file():
        what = f"{path.name}, a folder" if path.is_dir() else path.name
        raise ModelError("The weight file must exist", what, "Check the path")
    try:
        with path.open("rb") as file:
            head = file.read(64)
        if not head or head.startswith((b"version https://git-lfs", b"<!DOCTYPE", b"<html")):
            what = "an empty file" if not head else "a web page" if head.startswith(b"<") else "a pointer of Git LFS"
            do = "Run `git lfs pull`" if head.startswith(b"version") else _AGAIN
            raise ModelError("A weight file must hold the weights themselves", f"{path.name}, {what}", do)
        return load_file(path) if _is_safetensors(path, head) else _read_pickled(path)
    except ModelError:
        raise
    except Exception as error:  # what a damaged file can raise has no bounds
        raise ModelError(
            "A weight file must be a whole file of safetensors or of PyTorch",
            f"{path.name}, which is damaged or of another kind",
            f"{_AGAIN}, or save its state dict as safetensors",
        ) from error


def _is_safetensors(path: Path, head: bytes) -> bool:
    """A length, and then the JSON of a header; a damaged one is told by its ending."""
    return head[8:9] == b"{" or (path.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80")))


def _read_pickled(path: Path) -> Any:
    """By PyTorch's own loader of plain values; what it refuses, and TorchScript, with inert objects."""
    if is_torchscript(path):
        return read_zip(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError):
        return read_zip(path)


def _unwrapped(value: Any) -> Any:
    """The innermost of the dictionaries that training code wraps a state dict in."""
    while isinstance(inner := _first(_entries(value), _WRAPPERS), (dict, Inert)):
        value = inner
    return value


def _first(entries: Mapping[Any, Any], names: Sequence[str]) -> Any:
    return next((entries[name] for name in names if name in entries), None)


def _entries(value: Any) -> Mapping[Any, Any]:
    return value.attributes if isinstance(value, Inert) else value if isinstance(value, Mapping) else {}


def _tensors(value: Any, prefix: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Tensors by name; those of modules within modules by their names with dots."""
    within = (*above, id(value))  # an object may hold itself
    for key, part in _entries(value).items():
        if isinstance(part, Tensor):
            yield f"{prefix}{key}", part
        elif key in _MODULE_PARTS:
            yield from _tensors(part, prefix, within)
        elif isinstance(part, Inert) and id(part) not in within:
            yield from _tensors(part, f"{prefix}{key}.", within)


def _sha256(files: Sequence[Path]) -> str:
    digests = [sha256_file(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
