"""The first pass over a set: what can be read, which cases are copies, and the hash of it all."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headclip_med.datasets.case import Case, CaseDataset
from headclip_med.errors import HeadclipError, internal_error

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprint:
    """Content of one case, or why it cannot be read."""

    case: str
    image_sha256: str = ""
    sha256: str = ""
    label: bool | None = None
    has_mask: bool = False
    error: str = ""


@dataclass(frozen=True)
class Inventory:
    """Cases that count, copies (case → the earlier case that it repeats) and failures (case → why), and one hash."""

    counted: tuple[str, ...]
    duplicates: dict[str, str]
    failed: dict[str, str]
    content_sha256: str


def fingerprint_case(dataset: CaseDataset, case: Case) -> Fingerprint:
    """Read one case and hash its content; whatever goes wrong becomes its ``error``."""
    try:
        labelled = dataset.load(case)
        has_mask = labelled.gt_mask is not None
        return Fingerprint(case.name, labelled.image_sha256, labelled.sha256, labelled.gt_label, has_mask)
    except HeadclipError as error:
        return Fingerprint(case.name, error=str(error))
    except Exception as error:  # the text may hold paths or patient data
        log.debug("case %s", case.name, exc_info=True)
        return Fingerprint(case.name, error=internal_error(error))


def take_inventory(fingerprints: Sequence[Fingerprint], seen: Iterable[str] = ()) -> Inventory:
    """Count every image once: the first of its copies in the set's order.

    Args:
        seen: hashes of images that were counted elsewhere and do not count again.
    """
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


def contradictions(fingerprints: Sequence[Fingerprint], inventory: Inventory) -> list[str]:
    """Copies whose label differs from that of the case that counts, in words."""
    labels = {found.case: found.label for found in fingerprints}
    return [
        f"{case} repeats {original} under another label; {original} counts"
        for case, original in inventory.duplicates.items()
        if labels[case] != labels[original]
    ]


def content_sha256(lines: Iterable[str]) -> str:
    """One hash over cases, whatever their order and names."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
