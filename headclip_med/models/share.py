"""Packs that travel: as a single file, and through the Hugging Face Hub."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from headclip_med.base.errors import ModelError, OutputError
from headclip_med.base.files import atomic_path, save_tensors
from headclip_med.models.pack import HEADER_KEY, TENSORS_NAME, Pack, load_pack
from headclip_med.models.record import RECORD_NAME, record_text, write_record

HUB_PREFIX = "hf-pack:"
CARD_NAME = "README.md"
TOWER_NAME = "tower.safetensors"
# What a pack's repository holds; whatever else lies there, or in a local folder, does not travel.
HUB_FILES = (RECORD_NAME, TENSORS_NAME, TOWER_NAME, CARD_NAME)
_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)


def pack_to_file(source: Path, file: Path) -> Path:
    """Write a pack as ``NAME.safetensors``, its record in the header, with the same record beside it as ``NAME.json``.

    Args:
        source: A pack folder, or another single-file pack.
        file: ``NAME.safetensors``.

    Returns:
        ``file``.

    Raises:
        ModelError: an unreadable pack, or one with a tower of its own.
        OutputError: a file that cannot be written.
    """
    if file.suffix != ".safetensors" or file.name == TENSORS_NAME:
        raise OutputError("A single-file pack must be written to a NAME.safetensors of its own", file.name)
    pack = load_pack(source)
    if pack.record.tower.kind == "embedded":
        raise ModelError(
            "A pack must carry no tower of its own to be written as a single file",
            f"{pack.record.name}, with its tower in {pack.record.tower.file}",
            "Share its folder",
        )
    text = record_text(pack.record, file)
    beside = file.with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(file, pack.tensors, {HEADER_KEY: text})
    with atomic_path(beside) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")
    return file


def push_pack(source: Path, repo: str, token: str | None = None, *, private: bool = False) -> str:
    """Upload a pack to the Hub: record, tensors, tower of its own and card, nothing else of the folder.

    Args:
        source: A pack folder, or a single-file pack.
        repo: ``ORG/NAME``, created where it does not exist.
        token: Default the one that huggingface_hub finds (``HF_TOKEN``, ``hf auth login``).
        private: Create it so that others do not see it.

    Returns:
        The name under which :func:`fetch_pack` finds it.

    Raises:
        ModelError: an unreadable pack, a wrong name, no network or no right to write.
    """
    from huggingface_hub import HfApi

    name = target_name(repo)
    pack = load_pack(source)
    pack.config()

    def upload(folder: Path) -> None:
        api = HfApi(token=token)
        api.create_repo(name, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            repo_type="model",
            folder_path=folder,
            allow_patterns=list(HUB_FILES),
            commit_message=f"Pack {pack.record.name}, sha256 {pack.sha256[:16]}",
        )

    with tempfile.TemporaryDirectory(prefix="headclip-") as folder:
        _stage(pack, source, Path(folder))
        _in_words(f"Pack {name} must be writable on the Hub", lambda: upload(Path(folder)))
    return f"{HUB_PREFIX}{name}"


def fetch_pack(name: str, *, refresh: bool = False) -> Path:
    """Find a Hub's pack in the local cache, or download it when it is not there.

    Args:
        name: ``hf-pack:ORG/NAME[@REVISION]``.
        refresh: Ask the Hub also for a pack in the cache, since its branch may have moved.

    Returns:
        Its folder.

    Raises:
        ModelError: a wrong name, no network, or a repository that is no pack.
    """
    from huggingface_hub import snapshot_download

    repo, revision = parse_hub_name(name)
    folder = None if refresh else cached_pack(name)
    if folder is None:
        must = f"Pack {repo} must be in the cache or on a Hub that can be reached"
        fetch = lambda: snapshot_download(repo, revision=revision, allow_patterns=list(HUB_FILES))  # noqa: E731
        folder = Path(_in_words(must, fetch))
    if not _is_whole(folder):
        raise ModelError(
            f"The repository {repo} must hold {RECORD_NAME} and {TENSORS_NAME}",
            ", ".join(sorted(path.name for path in folder.iterdir())[:4]) or "neither",
            "Push it with `headclip-med models push`",
        )
    load_pack(folder)
    return folder


def cached_pack(name: str) -> Path | None:
    """Find a Hub's pack in the local cache.

    Args:
        name: ``hf-pack:ORG/NAME[@REVISION]``.

    Returns:
        Its folder, or None where it is not there as a whole.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, revision = parse_hub_name(name)
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(HUB_FILES), local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None
    return folder if _is_whole(folder) else None


def pack_place(name: str, builtin: Mapping[str, Path], *, download: bool = True) -> Path:
    """Locate the pack of a name: built in, on the Hub, or a local path, which need not exist.

    Args:
        name: What the user wrote.
        builtin: Folder by name.
        download: Download a Hub's pack that is not in the cache.

    Returns:
        Where it lies, or would.

    Raises:
        ModelError: a Hub's pack that cannot be had, or without ``download``, one that is not in the cache.
    """
    if not name.startswith(HUB_PREFIX):
        return builtin.get(name, Path(name).expanduser())
    if download:
        return fetch_pack(name)
    place = cached_pack(name)
    if place is None:
        raise ModelError("A Hub's pack must be in the cache", name, f"Run `headclip-med models pull {name}`")
    return place


def target_name(repo: str) -> str:
    """Read the name of the repository to push to.

    Args:
        repo: ``[hf-pack:]ORG/NAME``.

    Returns:
        ``ORG/NAME``.

    Raises:
        ModelError: another form, or a revision.
    """
    name, revision = parse_hub_name(repo)
    if revision is not None:
        raise ModelError("A pack must be pushed to ORG/NAME", repo, "Leave the revision out")
    return name


def parse_hub_name(name: str) -> tuple[str, str | None]:
    """Read the name of a repository.

    Args:
        name: ``[hf-pack:]ORG/NAME[@REVISION]``.

    Returns:
        Repository and revision, None for the default one.

    Raises:
        ModelError: another form.
    """
    found = _HUB_ID.fullmatch(name.removeprefix(HUB_PREFIX))
    if found is None:
        raise ModelError("A pack on the Hub must be named ORG/NAME, or ORG/NAME@REVISION to fetch it", name)
    return found["repo"], found["revision"]


def _stage(pack: Pack, source: Path, folder: Path) -> None:
    """Lay out in ``folder`` exactly what is uploaded. The tensors' file is there even where it is empty."""
    record = pack.record
    if record.tower.kind == "embedded":
        if record.tower.file is None or not (pack.folder / record.tower.file).is_file():
            raise ModelError(f"The tower of pack {record.name} must lie beside its pack.json", str(record.tower.file))
        shutil.copyfile(pack.folder / record.tower.file, folder / TOWER_NAME)
        record = record.model_copy(update={"tower": record.tower.model_copy(update={"file": TOWER_NAME})})
    save_file(pack.tensors, folder / TENSORS_NAME)
    write_record(folder, record)
    card = source / CARD_NAME
    if card.is_file():
        shutil.copyfile(card, folder / CARD_NAME)


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (RECORD_NAME, TENSORS_NAME))


def _in_words(must: str, work: Callable[[], Any]) -> Any:
    """Run code of the Hub. Whatever it raises becomes one message."""
    try:
        return work()
    except ModelError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()
        raise ModelError(
            must,
            first[0][:200] if first else type(error).__name__,
            "Check the name, the network, and `hf auth login` for a private one",
        ) from error
