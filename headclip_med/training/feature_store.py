"""What a run computes before it learns, on disk while it lasts, so that one that was stopped does not repeat it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from headclip_med.base.errors import OutputError
from headclip_med.base.files import save_tensors
from headclip_med.encoders.image import EncodeOptions

_KEPT = "kept"  # folder in that of the run


class FeatureStore:
    """Tensors by slice, in files of their own that are named by everything that decides them.

    A slice whose file cannot be written is computed again, as without a store.

    Args:
        folder: Of the run.
        tower: sha256 of its weights.
        options: Which layers are tapped and how.
        mode: What is kept of a slice, see :data:`headclip_med.training.features.Mode`.
    """

    def __init__(self, folder: Path, tower: str, options: EncodeOptions, mode: str) -> None:
        self._folder, self._full = kept_folder(folder), False
        decides = (tower, sorted(asdict(options).items()), mode, torch.__version__, torch.get_num_threads())
        self._key = repr(decides).encode()

    def read(self, pixels: Tensor) -> dict[str, Tensor] | None:
        """Read what was kept of the slice with these pixels.

        Args:
            pixels: ``(3, S, S)``.

        Returns:
            Tensors by name, None where nothing was kept.
        """
        try:
            return load_file(self._file(pixels))
        except (OSError, SafetensorError):
            return None

    def write(self, pixels: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Keep what a slice's features are.

        Args:
            pixels: ``(3, S, S)`` of the slice.
            tensors: By name.
        """
        if self._full:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_tensors(self._file(pixels), tensors)
        except (OSError, OutputError):
            self._full = True  # the run goes on from memory

    def _file(self, pixels: Tensor) -> Path:
        content: Any = pixels.contiguous().numpy().tobytes()
        return self._folder / f"{hashlib.sha256(self._key + content).hexdigest()[:32]}.safetensors"


def kept_folder(out: Path) -> Path:
    """Name the folder where a run in ``out`` keeps slices and features until it is done.

    Args:
        out: Folder of the run.

    Returns:
        A folder in it.
    """
    return out / _KEPT


def remove_kept(out: Path) -> None:
    """Remove what a run in ``out`` kept, once its pack is written or it was refused.

    Args:
        out: Folder of the run.
    """
    shutil.rmtree(kept_folder(out), ignore_errors=True)
