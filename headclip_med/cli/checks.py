"""What a command was given, looked at before anything heavy is imported: torch alone takes seconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from headclip_med.base import names as choices
from headclip_med.base.errors import HeadclipError, InputError, ModelError, OutputError

if TYPE_CHECKING:
    from headclip_med.reading.inputs import CaseInput

_WEIGHT_ENDINGS = (".safetensors", ".pt", ".pth", ".bin")
_HUBS = ("hf-pack:", "hf-hub:", "timm:", "open_clip:")


def check_model(name: str) -> None:
    """Refuse a model's name that stands for a file that is not there, or that is nearly a known one.

    Names of hubs are left to those who know them.

    Raises:
        ModelError: with what was probably meant.
    """
    text = choices.split_method(name)[1]
    if not text.strip():
        raise ModelError("A model must be named", "an empty name", "Check the variable or quotes")
    path = Path(text.rpartition("@")[2])
    if text in choices.pack_names() or text.startswith(_HUBS):
        return
    if _exists(path):
        if path.expanduser().is_dir() and not (path.expanduser() / "pack.json").is_file():
            hint = "Name the folder that holds the pack.json; see `headclip-med models list`"
            raise ModelError("A model folder must be a pack with a pack.json", path.name or text, hint)
        return
    check_weights(text)
    if path.suffix.lower() in (".onnx", ".json") or text.startswith(("/", "~", ".")) or "\\" in text:
        raise ModelError("The model must be a file or folder that exists", path.name, _near_path(path))
    front, colon, rest = text.partition(":")
    if colon and (near := get_close_matches(front.lower(), choices.method_names(), 1)):
        hint = f"Did you mean {near[0]}:{rest}; see `headclip-med models methods`"
        raise ModelError("A model's name must begin with a known method", text, hint)
    if "/" not in text and (near := get_close_matches(text.lower(), [*choices.pack_names(), *_beside(path)], 1)):
        hint = f"Did you mean {near[0]}; see `headclip-med models list`"
        raise ModelError("The model must be a pack, a weight file, an open_clip name ARCH/TAG or timm:ARCH", text, hint)


def check_file(path: Path | None, what: str) -> None:
    """Refuse a file that is not there, where None was not given."""
    if path is not None and not (_exists(path) and path.expanduser().is_file()):
        given = f"{path.name}, a folder" if _exists(path) else path.name
        raise InputError(f"{what} must be a file that exists", given, _near_path(path))


def check_place(path: Path | None, what: str) -> None:
    """Refuse a file or folder that is not there, where None was not given."""
    if path is not None and not _exists(path):
        raise InputError(f"{what} must be a file or folder that exists", path.name, _near_path(path))


def check_weights(weights: str | Path | None) -> None:
    """Refuse a weight file ``[ARCH@]FILE`` that is not there, while a tower's name is left to the hubs."""
    path = Path(str(weights).rpartition("@")[2])
    if weights is not None and not _exists(path) and path.suffix.lower() in _WEIGHT_ENDINGS:
        raise ModelError("The weight file must exist", path.name, _near_path(path))


def check_data(specs: Iterable[str]) -> None:
    """Refuse sets ``[LAYOUT:]PATH`` that are not there.

    Raises:
        InputError: no such path or layout.
    """
    from headclip_med.datasets import open_dataset

    for spec in specs:
        if not spec.strip():
            raise InputError("A set must be named", "an empty name", "Check the variable or quotes")
        head, colon, tail = spec.partition(":")
        text = tail if colon and head in choices.LAYOUTS else spec
        if not _exists(Path(text.partition("?")[0])):
            open_dataset(spec)  # says what is wrong with it


def check_inputs(inputs: Sequence[str], cases: Sequence[CaseInput], out: Path) -> None:
    """Refuse to begin where no case can be read or written, while where only some cannot, these fail one by one.

    Args:
        inputs: As they were typed.
        cases: What they stand for.
        out: Where results go.

    Raises:
        InputError, OutputError: what is wrong with the first one, or results that would lie among their sources.
    """
    if any(_same(Path(text), out) for text in inputs):
        hint = "Name a folder of its own, such as --out results"
        raise OutputError("The output folder must not be the input itself", out.name or str(out), hint)
    problems = [problem for case in cases if (problem := _problem(case, out)) is not None]
    if problems and len(problems) == len(cases):
        raise problems[0]


def _problem(case: CaseInput, out: Path) -> HeadclipError | None:
    """Why nothing can come of a case, as far as names and first bytes tell."""
    from headclip_med.reading.content import existing_path, identify, known_format
    from headclip_med.writing.folder import check_case_folder

    try:
        if case.fetch is None:
            for path in map(existing_path, case.source if isinstance(case.source, tuple) else [case.source]):
                if path.is_file():
                    identify(path)
                elif not any(known_format(file) for file in path.rglob("*") if file.is_file()):
                    raise InputError("The folder must hold images", f"{path.name} without any", "Check the path")
        check_case_folder(out, case.name)
    except HeadclipError as problem:
        return problem
    except OSError as problem:
        return InputError(f"{case.name} must be readable", problem.strerror or "", "Check the permissions")
    return None


def _exists(path: Path) -> bool:
    try:
        return path.expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a name too long, a NUL in it, no such user
        return False


def _same(one: Path, other: Path) -> bool:
    try:
        return one.expanduser().samefile(other)
    except (OSError, ValueError, RuntimeError):
        return False


def _beside(path: Path) -> list[str]:
    """Names in the folder where ``path`` would lie."""
    try:
        return sorted(entry.name for entry in path.expanduser().parent.iterdir())
    except (OSError, ValueError, RuntimeError):
        return []


def _near_path(path: Path) -> str:
    near = get_close_matches(path.name, _beside(path), 1)
    return f"Did you mean {path.parent / near[0]}" if near else "Check the path"
