"""The score card of an exported model: what its numbers mean, beside the file and inside it. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from headclip_med.base.errors import ModelError
from headclip_med.base.files import atomic_path
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.models.scope import Scope

CARD_FORMAT: Literal["headclip_med.export/1"] = "headclip_med.export/1"
# Key of the card among an ONNX file's metadata and a .pt2 file's extra files.
CARD_KEY = "score_card.json"

NORMALISATION = "probabilities in [0, 1] as the softmax gives them; nothing is rescaled by a slice, a volume or a set"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pixels(_Strict):
    """How slices become the graph's input. Fields as in :class:`headclip_med.slicing.intensity.Preprocessing`."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float]
    channels: Literal["repeat", "neighbours"]
    neighbour_mm: float
    fit: Literal["pad", "stretch"]
    min_foreground: float
    kind: Literal["own", "released"] = "own"


class Cut(_Strict):
    """The threshold on the map, and where it came from."""

    value: float
    origin: str


class Parity(_Strict):
    """Largest absolute difference from the eager float32 detector on the same input, on probabilities.

    ``images`` slices at batch sizes ``batches``.
    """

    map_error: float
    score_error: float
    images: int
    batches: tuple[int, ...]
    runtime: str


class Port(_Strict):
    """One input or output of the graph: its name, its shape in words, what it holds."""

    name: str
    shape: str
    meaning: str


class ScoreCard(_Strict):
    """Everything that decides an exported model's numbers.

    Attributes:
        kind: form of the file. model, method, tower, weights, weights_sha256, pack, pack_sha256: where it came from.
        domain: the class features in the graph are of this domain. scope: the images that it is for.
        detector: the method's configuration.
        pixels: preprocessing. threshold: on the map. slice_smoothing_mm: Gaussian along the slice normal.
        normalisation: in words. inputs, outputs: of the graph. parity: None before it was measured.
        ledger: what the model was trained on. versions: of the packages that exported it.
    """

    format: Literal["headclip_med.export/1"] = CARD_FORMAT
    research_use_only: str = RESEARCH_ONLY
    kind: Literal["pt2", "onnx"]
    model: str
    method: str
    tower: str
    weights: str
    weights_sha256: str | None = None
    pack: str | None = None
    pack_sha256: str | None = None
    domain: str
    scope: Scope | None = None
    detector: dict[str, Any]
    pixels: Pixels
    threshold: Cut
    slice_smoothing_mm: float
    normalisation: str = NORMALISATION
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    parity: Parity | None = None
    ledger: tuple[dict[str, Any], ...] = ()
    versions: dict[str, str]

    def provenance(self) -> dict[str, Any]:
        """Give names and hashes, under the keys of :meth:`headclip_med.models.load.Model.provenance`.

        Returns:
            Plain JSON values, those of a pack only where there is one.
        """
        facts: dict[str, Any] = {
            "model": self.model,
            "method": self.method,
            "tower": self.tower,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
        }
        if self.pack is not None:
            facts |= {"pack": self.pack, "pack_sha256": self.pack_sha256}
        return facts


def card_text(card: ScoreCard) -> str:
    """Write the card as JSON text.

    Args:
        card: The card.

    Returns:
        JSON with an indentation of one and a newline at its end.
    """
    return card.model_dump_json(indent=1) + "\n"


def parse_card(text: str, name: str) -> ScoreCard:
    """Read the card in ``text``, which came with the file ``name``.

    Args:
        text: JSON.
        name: The file's name, for messages.

    Returns:
        The card.

    Raises:
        ModelError: No card, or one of another format.
    """
    try:
        return ScoreCard.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(
            f"The score card of {name} must follow the format {CARD_FORMAT}",
            f"{where}: {first['msg']}",
            "Export the model again with `headclip-med bundle export`",
        ) from error


def card_path(file: Path) -> Path:
    """Name the place of an exported file's card: ``model.onnx`` → ``model.onnx.json``.

    Args:
        file: The exported file.

    Returns:
        The card's path, in the same folder.
    """
    return file.with_name(f"{file.name}.json")


def write_card(card: ScoreCard, file: Path, file_sha256: str) -> Path:
    """Write the card beside ``file`` with the file's own hash in it, whole or not at all.

    Args:
        card: The card.
        file: The exported file.
        file_sha256: Hash of its bytes, as hexadecimal digits.

    Returns:
        Where the card was written.

    Raises:
        OutputError: It cannot be written.
    """
    facts = {**card.model_dump(mode="json"), "file": file.name, "file_sha256": file_sha256}
    path = card_path(file)
    with atomic_path(path) as draft:
        draft.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    return path
