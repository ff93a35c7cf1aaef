"""Under what conditions a model is evaluated: what it has seen, whether any of it is here, its threshold's origin."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

from headclip_med.base.errors import InputError
from headclip_med.evaluation.record import Kind, Protocol
from headclip_med.evaluation.scorers import CaseScorer
from headclip_med.models.record import SHORT_HASH

KINDS: tuple[str, ...] = get_args(Kind)

MEANINGS = {
    "zero-shot": "no training image at all",
    "auxiliary": "adapted on other, labelled data; nothing of this set",
    "leave-one-out": "adapted on the other sets of a collection, this one left out",
    "few-shot": "a few labelled images of this set were seen",
    "normals": "normal images of this set were seen",
    "control": "a trivial control",
}


def protocol_of(
    scorer: CaseScorer,
    dataset_sha256: str,
    images: Collection[str],
    declared: str | None = None,
    *,
    allow_overlap: bool = False,
) -> Protocol:
    """Describe the conditions under which one model is evaluated.

    Args:
        scorer: The model.
        dataset_sha256: Content hash of the set.
        images: Hash of each image in it, in hexadecimal digits.
        declared: The user's word for the kind, else it follows from the ledger: nothing in it is ``zero-shot``.
        allow_overlap: Mark, instead of refusing, a model that was trained on this very data.

    Returns:
        The protocol box.

    Raises:
        InputError: an unknown kind, a kind that the ledger contradicts, or a model trained on this very data.
    """
    ledger = scorer.ledger()
    kind, origin = _kind(scorer, declared)
    seen = overlap_with(ledger, dataset_sha256, images)
    if seen and not allow_overlap:
        raise InputError(
            "A model must not be evaluated on data that it was trained on",
            f"{seen} in the training ledger of {scorer.identity()['model']}",
            "Choose other data, or add --allow-overlap to have the result marked",
        )
    threshold, threshold_origin = scorer.threshold()
    return Protocol(
        kind=kind,
        kind_origin=origin,
        ledger=ledger,
        overlap=f"trained on data of this set: {seen}" if seen else "",
        threshold=threshold,
        threshold_origin=threshold_origin,
        provenance=scorer.identity(),
    )


def overlap_with(ledger: Sequence[Mapping[str, Any]], dataset_sha256: str, images: Collection[str]) -> str:
    """Find what of the set a model was trained on.

    Args:
        ledger: Entries with ``name``, and ``image_sha256`` (the first 16 digits of each) or ``content_sha256``.
        dataset_sha256: Content hash of the set.
        images: Hash of each image in it, in hexadecimal digits.

    Returns:
        That in words, empty for nothing.
    """
    here = {image[:SHORT_HASH] for image in images}
    found = []
    for entry in ledger:
        shared = len(here & set(entry.get("image_sha256", ())))
        if shared:
            found.append(f"{shared} of {len(here)} images are in {entry['name']}")
        elif entry.get("content_sha256") == dataset_sha256:
            found.append(str(entry["name"]))
    return ", ".join(found)


def check_kind(declared: str | None) -> None:
    """Refuse a kind that does not exist, or that only a control can have.

    Args:
        declared: The user's word, None is allowed.

    Raises:
        InputError: there is no such kind.
    """
    kinds = [kind for kind in KINDS if kind != "control"]
    if declared is not None and declared not in kinds:
        raise InputError(f"The protocol must be one of {', '.join(kinds)}", declared)


def _kind(scorer: CaseScorer, declared: str | None) -> tuple[Kind, str]:
    check_kind(declared)
    if scorer.identity().get("method") == "control":
        return "control", MEANINGS["control"]
    ledger = scorer.ledger()
    if declared == "zero-shot" and ledger:
        raise InputError(
            "A zero-shot model must have an empty training ledger",
            ", ".join(str(entry["name"]) for entry in ledger),
            "Leave --protocol out, or name auxiliary",
        )
    if scorer.identity().get("normals"):
        if declared in ("auxiliary", "leave-one-out"):
            raise InputError(
                "A model that compares with normal images of the set must be declared as normals or few-shot",
                declared,
                "Leave --protocol out",
            )
        return ("normals", MEANINGS["normals"]) if declared is None else (declared, _by_user(declared))  # type: ignore[return-value]
    if declared is not None:
        return declared, _by_user(declared)  # type: ignore[return-value]
    if ledger:
        return "auxiliary", "the model's training ledger is not empty"
    return "zero-shot", "the model has no training ledger"


def _by_user(kind: str) -> str:
    return f"declared by the user: {MEANINGS[kind]}"
