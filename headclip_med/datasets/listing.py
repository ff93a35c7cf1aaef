"""What a layout gives back, and the choice of sequences that several of them offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headclip_med.datasets.case import Case
from headclip_med.errors import InputError

UNKNOWN_PATIENTS = "patients are not known: every image counts as its own patient"


@dataclass(frozen=True)
class Listing:
    """Cases in order; ``notes``: what was passed over or guessed, in words; ``strays``: masks without an image."""

    cases: list[Case]
    notes: list[str] = field(default_factory=list)
    strays: list[Path] = field(default_factory=list)


def no_such_sequence(wrong: Sequence[str], there: Sequence[str]) -> InputError:
    """The error about sequences that the set does not have."""
    return InputError(f"A sequence must be one of {', '.join(there) or 'none here'}", ", ".join(wrong))
