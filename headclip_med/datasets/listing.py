"""What a layout gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

from headclip_med.datasets.case import Case


@dataclass(frozen=True)
class Listing:
    """Cases in order, and what was passed over or guessed, in words."""

    cases: list[Case]
    notes: list[str] = field(default_factory=list)


UNKNOWN_PATIENTS = "patients are not known: every image counts as a patient of its own"
