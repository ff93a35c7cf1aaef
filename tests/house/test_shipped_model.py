"""The demonstration as a new user runs it: the embedded model itself, at full resolution."""

from __future__ import annotations

from pathlib import Path

from headclip_med.cohort.demo import run_demo


def test_the_shipped_model_finds_the_demonstrations_lesion(tmp_path: Path) -> None:
    """On a head it never saw. Measured: 0.4 mm, Dice 0.46; far below these, it is broken."""
    outcome = run_demo(tmp_path)
    assert outcome.distance_mm is not None
    assert outcome.distance_mm < 5
    assert outcome.dice > 0.4
