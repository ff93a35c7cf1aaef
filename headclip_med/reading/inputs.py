"""What a user names on the command line → cases: one source each, and a unique name for its result folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from headclip_med.base.errors import InputError, readable
from headclip_med.base.files import RECORD_NAME
from headclip_med.reading.content import existing_path, headers_beside, identify

Source = Path | tuple[Path, ...]

# A file of these endings is meant as a case even when its content cannot be recognised: it fails with a
# message of its own instead of being passed over in silence.
_IMAGE_ENDINGS = (
    *(".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".zip"),
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
)

# File systems take 255 bytes; this leaves room for a suffix.
_LONGEST_NAME, _LONGEST_NAME_BYTES = 80, 200


@dataclass(frozen=True)
class CaseInput:
    """One case: a file, a folder with a DICOM series, or files of one grid.

    Attributes:
        name: of its result folder.
        source: what to read.
        fetch: brings the source here first, told how many parts are done and of how many, and asked whether to stop.
        known_content: the hash of the source's content where that can be told without fetching it.
    """

    name: str
    source: Source
    fetch: Callable[[Callable[[int, int], None], Callable[[], bool] | None], Source] | None = None
    known_content: Callable[[], str | None] | None = None


def expand_inputs(inputs: Sequence[str | Path], reserved: Iterable[str] = ()) -> list[CaseInput]:
    """List the cases that ``inputs`` stand for, in order, from the first bytes of files alone.

    * a file is one case, and ``a,b,c`` are the sequences of one case
    * a folder that contains DICOM, at any depth, is one series
    * any other folder is one case per image or volume in it, at any depth, without hidden files and without
      earlier results

    A path that does not exist stays a case: reading it gives the message.

    Args:
        inputs: What a user names.
        reserved: Names that no case may get.

    Returns:
        Cases with names that differ from each other.

    Raises:
        InputError: an empty name.
    """
    sources = [source for text in inputs for source in _sources(str(text))]
    names = _unique([case_name(source) for source in sources], reserved)
    return [CaseInput(name, source) for name, source in zip(names, sources, strict=True)]


def case_name(source: Source) -> str:
    """Name a case: by the file without its ending, the folder, or several files joined by ``+``.

    Args:
        source: What to read.

    Returns:
        A name for a folder, never empty.
    """
    if isinstance(source, tuple):
        return _shortened("+".join(case_name(path) for path in source))
    if source.is_dir():
        name = source.resolve().name
    else:
        lowered = source.name.lower()
        name = source.name[:-7] if lowered.endswith(".nii.gz") else source.stem
    return _shortened(readable(name).lstrip(".").strip()) or "case"


def _shortened(name: str) -> str:
    return name[:_LONGEST_NAME].encode()[:_LONGEST_NAME_BYTES].decode(errors="ignore").rstrip()


def _sources(text: str) -> list[Source]:
    if not text.strip():
        raise InputError("An input must be a file or a folder", "an empty name", "Check the variable or quotes")
    try:
        path = existing_path(text)
    except InputError:
        parts = tuple(_expanded(part.strip()) for part in text.split(",") if part.strip())
        return [parts if len(parts) > 1 else Path(text)]
    if path.is_dir():
        return _folder(path)
    return [path]


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no such user; reading says that there is no such file
        return Path(text)


def _folder(folder: Path) -> list[Source]:
    """One case for DICOM, else one per image; the folder itself when there is none, for reading's message."""
    images: list[Source] = []
    for path in _files(folder):
        kind = _kind(path)
        if kind == "dicom":
            return [folder]
        if kind is not None:
            images.append(path)
    return images or [folder]


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file() or (path.parent / RECORD_NAME).exists():
            continue
        if not headers_beside(path):
            yield path


def _kind(path: Path) -> str | None:
    try:
        return identify(path)
    except InputError:
        return "unrecognised" if path.name.lower().endswith(_IMAGE_ENDINGS) else None


def _unique(names: list[str], reserved: Iterable[str]) -> list[str]:
    """The same names with ``_2``, ``_3``, … where one is taken; upper and lower case count as equal."""
    taken = {name.casefold() for name in reserved}
    unique = []
    for name in names:
        candidate, number = name, 2
        while candidate.casefold() in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate.casefold())
        unique.append(candidate)
    return unique
