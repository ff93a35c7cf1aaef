"""Names and files of the formats that a model can be exported in. Needs no torch until one is used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

from headclip_med.base.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from headclip_med.bundle.export.graph import ExportGraph
    from headclip_med.engine.card import ScoreCard

# pixels (N, 3, S, S) and valid (N, S, S) → maps (N, 1, S, S) and scores (N,)
Runner: TypeAlias = "Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]"


class Writer(Protocol):
    """What the module of a kind offers."""

    def check(self) -> None:
        """Refuse, before anything is loaded, where a package is missing."""

    def build(self, graph: ExportGraph) -> Any:
        """Trace the graph, once.

        Args:
            graph: float32 on the CPU.

        Returns:
            What :meth:`write` takes.
        """

    def write(self, built: Any, path: Path, card: ScoreCard) -> None:
        """Save what was built, with the card inside, as often as there is another card.

        Args:
            built: of :meth:`build`.
            path: of the file.
            card: of the model.
        """

    def reopen(self, path: Path) -> tuple[Runner, ScoreCard]:
        """Load a file from disk.

        Args:
            path: of the file.

        Returns:
            What runs it, and its card.

        Raises:
            ModelError: it cannot be read, or holds no card.
        """

    def runtime(self) -> str:
        """Name what runs the file here, with its version.

        Returns:
            One line.
        """


@dataclass(frozen=True)
class Kind:
    """One format.

    Attributes:
        name: as `--kind` takes it.
        file: usual name of the file.
        suffix: of the file.
        module: that writes it.
    """

    name: Literal["pt2", "onnx"]
    file: str
    suffix: str
    module: str

    def writer(self) -> Writer:
        """Import the module that writes this format, and torch with it.

        Returns:
            The module.
        """
        return cast(Writer, import_module(f"headclip_med.bundle.export.{self.module}"))


KINDS: dict[str, Kind] = {
    "pt2": Kind("pt2", "model.pt2", ".pt2", "program"),
    "onnx": Kind("onnx", "model.onnx", ".onnx", "onnx_file"),
}


def parse_kinds(text: str | None, out: Path) -> tuple[Kind, ...]:
    """Read the kinds of a comma-joined list.

    Args:
        text: such as ``pt2,onnx``. None: the kind that the file name ``out`` asks for, or pt2.
        out: where the export goes.

    Returns:
        Each kind once, in the order of the list.

    Raises:
        InputError: an unknown kind, one named twice, or none.
    """
    if text is None:
        return (next((kind for kind in KINDS.values() if kind.suffix == out.suffix), KINDS["pt2"]),)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names or len(set(names)) < len(names):
        raise InputError(
            f"The kinds must be among {', '.join(KINDS)}, each once",
            text or "none",
            "MONAI makes TorchScript of the bundle's network: python -m monai.bundle ckpt_export"
            if {"torchscript", "ts"} & set(unknown)
            else "",
        )
    return tuple(KINDS[name] for name in names)


def targets(kinds: tuple[Kind, ...], out: Path) -> dict[Kind, Path]:
    """Choose the file of each kind.

    Args:
        kinds: of :func:`parse_kinds`.
        out: a folder, where each kind gets its usual name, or the file of a single kind.

    Returns:
        Kind → path. Nothing is made.

    Raises:
        InputError: a file name for several kinds, or with a suffix of another kind or of none.
    """
    known = {kind.suffix for kind in KINDS.values()}
    if not out.is_dir() and any(map(str.isalpha, out.suffix)) and out.suffix not in known:
        raise InputError(
            f"An exported file must end in {', '.join(sorted(known))}",
            out.name,
            f"A folder of that name must exist before: mkdir '{out.name}'",
        )
    if out.is_dir() or out.suffix not in known:
        return {kind: out / kind.file for kind in kinds}
    if len(kinds) > 1:
        raise InputError("Several kinds must go to a folder", out.name, "Name a folder, or one kind")
    if out.suffix != kinds[0].suffix:
        raise InputError(f"A file of the kind {kinds[0].name} must end in {kinds[0].suffix}", out.name)
    return {kinds[0]: out}
