"""``pack.json``: what a pack says about itself, validated when it is read and when it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from headclip_med.base.errors import ModelError
from headclip_med.base.files import atomic_path
from headclip_med.encoders.timm_vit import TimmVitSpec
from headclip_med.models.scope import Scope
from headclip_med.slicing.intensity import PreprocessingKind

PACK_FORMAT: Literal["headclip_med/1"] = "headclip_med/1"
RECORD_NAME = "pack.json"
SHORT_HASH = 16  # characters of an image's sha256 in a ledger: enough to know it again


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TowerRecord(_Strict):
    """Which tower a pack belongs to.

    ``kind`` ``embedded``: built from ``spec`` with the weights in ``file`` beside ``pack.json``. ``timm`` /
    ``open_clip``: an architecture name, whose weights come from the user or a hub.
    """

    kind: Literal["embedded", "timm", "open_clip"]
    name: str
    sha256: str | None = None
    file: str | None = None
    spec: TimmVitSpec | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @property
    def has_a_source(self) -> bool:
        """Whether its weights come with the pack or can be had by name, as those of a local CLIP file cannot."""
        return self.kind != "open_clip" or "/" in self.name


class Threshold(_Strict):
    """A cut on the map and how it was chosen."""

    value: float
    origin: str


class LedgerEntry(_Strict):
    """One source of training data.

    ``content_sha256`` is of all its cases together, while ``image_sha256`` names each image by the first characters of
    its hash, so that a part of the set is known again too.
    """

    name: str
    licence: str
    count: int
    content_sha256: str | None = None
    image_sha256: tuple[str, ...] = ()


class PackRecord(_Strict):
    """Contents of ``pack.json``.

    Attributes:
        scope: the images that it is for, None: the domain's.
        preprocessing: that its predictions begin with, ``own`` where it says nothing.
    """

    format: Literal["headclip_med/1"]
    name: str
    title: str
    method: str
    tower: TowerRecord
    config: dict[str, Any] = {}
    domain: str = "generic"
    scope: Scope | None = None
    slice_smoothing_mm: float = 0.0
    preprocessing: PreprocessingKind | None = None
    threshold: Threshold
    ledger: tuple[LedgerEntry, ...] = ()
    validation: dict[str, Any] = {}


# Where nothing was calibrated: the middle of the probability scale, said as such.
UNCALIBRATED = Threshold(value=0.5, origin="a-priori: 0.5, not calibrated for this model")


def parse_record(text: bytes | str, path: Path) -> PackRecord:
    """Parse the record of a pack.

    Args:
        text: Of ``pack.json`` or of a single file's header.
        path: Where it stands, for the message.

    Returns:
        The record.

    Raises:
        ModelError: an invalid record, whose first fault is named.
    """
    try:
        return PackRecord.model_validate_json(text)
    except ValidationError as error:
        raise _wrong_record(path, error) from error


def record_text(record: PackRecord, path: Path) -> str:
    """Write a record, validated once more, as text.

    Args:
        record: Of a pack.
        path: Where it will stand, for the message.

    Returns:
        JSON with a line break at its end.

    Raises:
        ModelError: values that no pack may have.
    """
    try:
        return PackRecord.model_validate(record.model_dump()).model_dump_json(indent=1, exclude_none=True) + "\n"
    except ValidationError as error:
        raise _wrong_record(path, error) from error


def write_record(folder: Path, record: PackRecord) -> Path:
    """Write ``record``, validated once more, as the ``pack.json`` of an existing folder: whole or not at all.

    Args:
        folder: Of the pack.
        record: What it says.

    Returns:
        The path of its ``pack.json``.

    Raises:
        ModelError: values that no pack may have.
        OutputError: the folder cannot be written to.
    """
    path = folder / RECORD_NAME
    text = record_text(record, folder)
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")
    return path


def _wrong_record(path: Path, error: ValidationError) -> ModelError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    what = "record" if path.suffix in (".json", ".safetensors") else RECORD_NAME
    return ModelError(f"The {what} of {path.name} must follow the format {PACK_FORMAT}", f"{where}: {first['msg']}")
