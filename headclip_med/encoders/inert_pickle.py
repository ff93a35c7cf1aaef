"""Tensors of PyTorch's zip files, TorchScript archives among them, without running anything that is stored in them.

A pickle names the classes and functions that rebuild its objects. Here such a name is looked up in a short list: the
builders of tensors are ours, every other class is an inert object that only keeps attributes, and no name is imported.
``torch.jit.load`` would compile the archive's code and run its ``__setstate__`` methods.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TORCHSCRIPT = "constants.pkl"
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Inert:
    """An object of any class of the file: its attributes, and nothing that acts."""

    attributes: dict[Any, Any]

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Take whatever arguments the file has for its own class."""
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            self.attributes |= part if isinstance(part, dict) else {}

    def __setitem__(self, key: Any, value: Any) -> None:
        self.attributes[key] = value

    def append(self, _: Any) -> None:
        """Forget an item of a list of some class."""


def is_torchscript(path: Path) -> bool:
    """Tell whether a file is a TorchScript archive.

    Args:
        path: A file.

    Returns:
        True where it is a zip file with TorchScript's record.
    """
    return zipfile.is_zipfile(path) and any(name.endswith(f"/{_TORCHSCRIPT}") for name in _names(path))


def computes_quick_gelu(path: Path) -> bool | None:
    """Tell whether the code of a TorchScript archive has QuickGELU's sigmoid, or GELU.

    Args:
        path: A TorchScript archive.

    Returns:
        True for QuickGELU, False for GELU, None where it has neither or both.
    """
    with zipfile.ZipFile(path) as archive:
        code = b"\n".join(archive.read(name) for name in archive.namelist() if re.search(r"/code/.*\.py$", name))
    quick, plain = b"torch.sigmoid(" in code, b"torch.gelu(" in code
    return None if quick == plain else quick


def read_zip(path: Path) -> Any:
    """Read the object that a zip file of PyTorch holds, with inert objects in the place of those of other classes.

    Args:
        path: A file of ``torch.save`` or a TorchScript archive.

    Returns:
        The object, such as a state dict.

    Raises:
        ValueError, KeyError, RuntimeError, and others of the standard library: no such file, or a damaged one.
    """
    with zipfile.ZipFile(path) as archive:
        records = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(records) != 1:
            raise ValueError("no data.pkl")
        with archive.open(records[0]) as record:
            return _Unpickler(record, archive, records[0].removesuffix("data.pkl")).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, record: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(record)
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Never imports ``module``."""
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        return _BUILDERS.get((module, name), Inert)

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._root}data/{key}"))
            if len(data) != count * dtype.itemsize:
                raise ValueError(f"storage {key} has {len(data)} bytes")
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)


def _itself(value: Any, *_: Any) -> Any:
    return value


_BUILDERS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _itself,
    ("torch._utils", "_rebuild_parameter_with_state"): _itself,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch.jit._pickle", "restore_type_tag"): _itself,
    **{("torch.jit._pickle", f"build_{kind}list"): _itself for kind in ("int", "tensor", "double", "bool")},
}
