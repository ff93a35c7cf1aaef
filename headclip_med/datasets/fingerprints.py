"""The first pass over a set: what can be read, which cases are copies, and the hash of it all."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headclip_med.base.errors import HeadclipError, InputError, internal_error
from headclip_med.datasets.case import Case
from headclip_med.datasets.dataset import CaseDataset
from headclip_med.datasets.truth import MeaningError
from headclip_med.datasets.values import NOT_KNOWN, MaskValues, ask_for_values

log = logging.getLogger(__name__)

# Ways to write the one value of a mask: sets mix them.
_WHITE = {1, 255, 65_535}


@dataclass(frozen=True)
class Fingerprint:
    """Content of one case, or why it cannot be read.

    Attributes:
        case: its name.
        image_sha256, sha256, label, has_mask: as of :class:`LabelledVolume`.
        error: why it cannot be read, empty where it can.
        values: of its masks beside 0.
        meaning: what they mean.
    """

    case: str
    image_sha256: str = ""
    sha256: str = ""
    label: bool | None = None
    has_mask: bool = False
    error: str = ""
    values: tuple[int, ...] = ()
    meaning: MaskValues = NOT_KNOWN


@dataclass(frozen=True)
class Inventory:
    """Cases that count, copies (case → the earlier case that it repeats) and failures (case → why), and one hash."""

    counted: tuple[str, ...]
    duplicates: dict[str, str]
    failed: dict[str, str]
    content_sha256: str


def fingerprint_case(dataset: CaseDataset, case: Case) -> Fingerprint:
    """Read one case and hash its content, where whatever goes wrong becomes its ``error``.

    Args:
        dataset: The set that it is of.
        case: The case.

    Returns:
        Its content.
    """
    try:
        labelled = dataset.load(case)
        has_mask = labelled.gt_mask is not None
        found = (labelled.image_sha256, labelled.sha256, labelled.gt_label, has_mask)
        return Fingerprint(case.name, *found, values=labelled.mask_values, meaning=case.values)
    except MeaningError as error:
        return Fingerprint(case.name, error=str(error), values=error.values, meaning=case.values)
    except HeadclipError as error:
        return Fingerprint(case.name, error=str(error))
    except Exception as error:  # the text may hold paths or patient data
        log.debug("case %s", case.name, exc_info=True)
        return Fingerprint(case.name, error=internal_error(error))


def take_inventory(fingerprints: Sequence[Fingerprint], seen: Iterable[str] = ()) -> Inventory:
    """Count every image once: the first of its copies in the set's order.

    Args:
        fingerprints: Of all cases, in order.
        seen: Hashes of images that were counted elsewhere and do not count again.

    Returns:
        Cases that count, copies and failures.

    Raises:
        InputError: the masks hold several values and nothing says which are lesions, or none holds a chosen one.
    """
    check_meaning(fingerprints)
    first: dict[str, str] = dict.fromkeys(seen, "a case of another set")
    counted, duplicates, failed = [], {}, {}
    for found in fingerprints:
        if found.error:
            failed[found.case] = found.error
        elif found.image_sha256 in first:
            duplicates[found.case] = first[found.image_sha256]
        else:
            first[found.image_sha256] = found.case
            counted.append(found.case)
    kept = set(counted)
    digest = content_sha256(f"{f.sha256} {f.label}" for f in fingerprints if f.case in kept)
    return Inventory(tuple(counted), duplicates, failed, digest)


def check_meaning(fingerprints: Sequence[Fingerprint]) -> None:
    """Raise what :func:`meaning_question` finds.

    Args:
        fingerprints: Of all cases.

    Raises:
        InputError: it must be asked what the values mean.
    """
    question = meaning_question(fingerprints)
    if question is not None:
        raise question


def meaning_question(fingerprints: Sequence[Fingerprint]) -> InputError | None:
    """Find what must be asked about the values of a set's masks before any of them is believed.

    One case with several values puts the single values of the others in question too.

    Args:
        fingerprints: Of all cases.

    Returns:
        The error to raise, or None.
    """
    open_sets = [set(f.values) - set(f.meaning.ignored) for f in fingerprints if f.meaning.lesion is None]
    every = {value for values in open_sets for value in values}
    kinds = {1 if value in _WHITE else value for value in every}
    if any(len(values) > 1 for values in open_sets) or len(kinds) > 1 or min(every, default=0) < 0:
        return ask_for_values(fingerprints[0].meaning, every, "the masks")
    chosen = [f for f in fingerprints if f.meaning.chosen and f.values]
    if chosen and not any(f.meaning.meaning(value) == "lesion" for f in chosen for value in (0, *f.values)):
        there = {value for f in chosen for value in f.values}
        must = f"Some mask must hold a lesion value ({chosen[0].meaning.shown(chosen[0].meaning.lesion or ())})"
        return InputError(must, f"the values {chosen[0].meaning.shown(sorted(there))}", "Choose among these")
    return None


def contradictions(fingerprints: Sequence[Fingerprint], inventory: Inventory) -> list[str]:
    """Find copies whose label differs from that of the case that counts.

    Args:
        fingerprints: Of all cases.
        inventory: Which of them count.

    Returns:
        One line each, in words.
    """
    labels = {found.case: found.label for found in fingerprints}
    return [
        f"{case} repeats {original} under another label; {original} counts"
        for case, original in inventory.duplicates.items()
        if labels[case] != labels[original]
    ]


def content_sha256(lines: Iterable[str]) -> str:
    """Hash cases, whatever their order and names.

    Args:
        lines: One a case.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
