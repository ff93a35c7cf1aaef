"""``.ts``: the map alone as TorchScript, for MONAI's model zoo and readers that know nothing newer."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headclip_med.base.errors import ModelError
from headclip_med.bundle.export.graph import ExportGraph, MapGraph
from headclip_med.bundle.export.kinds import Runner
from headclip_med.engine.card import CARD_KEY, ScoreCard, card_text, parse_card


def check() -> None:
    """PyTorch is always there."""


def runtime() -> str:
    """PyTorch's version."""
    return f"torch {torch.__version__} TorchScript, cpu"


def build(graph: ExportGraph) -> Any:
    """Trace pixels → map. A trace keeps what Python decided, so only sizes and layers may have decided anything;
    the parity at several batch sizes shows that the batch did not."""
    with torch.no_grad(), _deprecations_ignored(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.trace(MapGraph(graph), graph.example(2)[:1], check_trace=False)


def write(built: Any, path: Path, card: ScoreCard) -> None:
    """Save the module without its debug records, which name source files of this machine."""
    whole = io.BytesIO()
    with _deprecations_ignored():
        torch.jit.save(built, whole, _extra_files={CARD_KEY: card_text(card)})
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))


def reopen(path: Path) -> tuple[Runner, ScoreCard]:
    """As :func:`load_torchscript`; ``valid`` is not used."""
    maps_of, card = load_torchscript(path)

    def run(pixels: Tensor, valid: Tensor) -> tuple[Tensor, None]:
        return maps_of(pixels), None

    return run, card


def load_torchscript(path: Path, device: str = "cpu") -> tuple[Any, ScoreCard]:
    """An exported ``.ts`` file on ``device``: a module ``pixels → maps``, and its card.

    Raises:
        ModelError: not a file that :func:`write` made.
    """
    extra: dict[str, Any] = {CARD_KEY: ""}
    try:
        with _deprecations_ignored():
            module = torch.jit.load(path, map_location=device, _extra_files=extra)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            "A TorchScript model must be a readable .ts file", f"{path.name}: {type(error).__name__}", "Export it again"
        ) from error
    text = extra[CARD_KEY]
    return module, parse_card(text.decode() if isinstance(text, bytes) else text, path.name)


@contextmanager
def _deprecations_ignored() -> Iterator[None]:
    """PyTorch advises against TorchScript on each use; it is what this kind of file is."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is (deprecated|not supported)", category)
        yield
