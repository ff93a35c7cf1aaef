"""Which attention heads raise the score of a slice: torch is loaded only when somebody asks."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headclip_med.base.errors import InputError, MissingExtraError, ModelError
from headclip_med.base.types import RESEARCH_ONLY
from headclip_med.writing.record import ResultRecord

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class HeadRow:
    """What one head adds to the score.

    Attributes:
        layer: 0-based.
        head: 0-based.
        logits: its mean share of the score, which a positive one raises.
    """

    layer: int
    head: int
    logits: float


@dataclass(frozen=True, eq=False)
class HeadsOfSlice:
    """What the heads add to the score of one slice.

    Attributes:
        rows: the heads that raise the score most, highest first.
        place: such as ``axial slice 12 of 0 … 54``.
        patches: which patches were looked at, in words.
        parts: the mean logit and what it is the sum of.
        picture: the same as a picture, RGB.
        notes: what differs from the prediction, in words.
    """

    rows: tuple[HeadRow, ...]
    place: str
    patches: str
    parts: dict[str, float]
    picture: Image.Image
    notes: tuple[str, ...]
    research_use_only: str = RESEARCH_ONLY


def explain_heads(
    record: ResultRecord,
    source: str | Path,
    index: int,
    *,
    model: str | None = None,
    weights: str | Path | None = None,
    threshold: float | None = None,
) -> HeadsOfSlice:
    """Load the result's model, score one slice of its source again, and rank the heads. Seconds, for a thread.

    Args:
        record: what the prediction recorded.
        source: file or folder of the source image.
        index: of the slice, along the acquisition plane's axis.
        model: where the result's model is, when its name alone does not say.
        weights: as for ``predict``.
        threshold: on the map, in (0, 1), by default the result's own. Patches that reach it are looked at.

    Returns:
        The heads that raise the score most, with the patches looked at and a picture of all heads.

    Raises:
        MissingExtraError: torch is not installed.
        ModelError: the model is not here, is another one now, or has no heads with a path of their own.
        InputError: an unreadable source or no such slice.
    """
    name = model or _model_name(record)
    if find_spec("torch") is None:
        raise MissingExtraError(
            "Attention heads need torch", "not installed", "Run: pip install torch torchvision, or look at another tab"
        )
    import torch

    from headclip_med.detectors import HeadCLIP
    from headclip_med.detectors.headclip.attribution import acting_weights
    from headclip_med.engine.heads import explain_slice, view_slice
    from headclip_med.models.load import detector_for, load_model, place_model
    from headclip_med.writing.heads_picture import heads_picture

    loaded = place_model(load_model(name, weights=weights), torch.device("cpu"), torch.float32)
    _check_same(record, loaded.provenance())
    detector = detector_for(loaded, loaded.domain)
    if not isinstance(detector, HeadCLIP):
        raise ModelError("Heads must belong to a detector with a local path", loaded.method)
    view = view_slice(detector, loaded.domain, Path(source), index)
    found = explain_slice(detector, view, record.threshold if threshold is None else threshold)
    table = acting_weights(detector, view.pixels)
    picture = heads_picture({branch: part.numpy() for branch, part in table.items()}, loaded.name, found)
    rows = tuple(HeadRow(effect.layer, effect.head, effect.logits) for effect in found.effects)
    return HeadsOfSlice(rows, view.words, found.chosen, found.parts(), picture, _notes(record, view.words))


def _model_name(record: ResultRecord) -> str:
    known = record.provenance
    if known.get("export_sha256"):
        raise ModelError(
            "Heads must come from the model itself", "a result of an exported file", "Predict with the pack it is from"
        )
    name = known.get("model")
    if not isinstance(name, str) or not name:
        raise InputError("A result must name its model to look at heads", "none in its provenance")
    return name


def _check_same(record: ResultRecord, now: dict[str, Any]) -> None:
    """The weights must be those of the result."""
    for what in ("weights_sha256", "pack_sha256"):
        before = record.provenance.get(what)
        if before is not None and now.get(what) != before:
            raise ModelError(
                "Heads must come from the model that the result was made with",
                f"another {what.partition('_')[0]} hash under the same name",
                "Give the right one, or predict again",
            )


def _notes(record: ResultRecord, words: str) -> tuple[str, ...]:
    """How this slice may differ from the one of the prediction."""
    options = record.provenance.get("options")
    options = options if isinstance(options, dict) else {}
    notes = []
    changed = [name for name in ("window", "channels", "domain", "time") if options.get(name) is not None]
    if changed:
        notes.append(f"scored with the model's own {', '.join(changed)}, the prediction was asked for another")
    if record.planes[0] not in words and "image" not in words:
        notes.append(f"the prediction's plane was {record.planes[0]}")
    return tuple(notes)
