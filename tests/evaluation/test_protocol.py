"""What a model has seen is said, and a contradiction is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from headclip_med.base.errors import InputError
from headclip_med.evaluation.controls import make_control
from headclip_med.evaluation.protocol import protocol_of


@dataclass
class Stub:
    """A scorer that is only asked what it is."""

    entries: tuple[dict[str, Any], ...] = ()
    facts: dict[str, Any] = field(default_factory=lambda: {"model": "stub", "method": "headclip"})

    def identity(self) -> dict[str, Any]:
        return self.facts

    def ledger(self) -> tuple[dict[str, Any], ...]:
        return self.entries

    def threshold(self) -> tuple[float, str]:
        return 0.7, "validation split of the auxiliary data"


IMAGES = {"0123456789abcdef" + "0" * 48, "fedcba9876543210" + "0" * 48}
SEEN = ({"name": "set A", "licence": "CC-BY", "count": 3, "content_sha256": "a" * 64},)


def test_the_ledger_decides_the_kind() -> None:
    assert protocol_of(Stub(), "b" * 64, IMAGES).kind == "zero-shot"
    box = protocol_of(Stub(SEEN), "b" * 64, IMAGES)
    assert (box.kind, box.threshold, box.threshold_origin) == (
        "auxiliary",
        0.7,
        "validation split of the auxiliary data",
    )
    assert protocol_of(make_control("intensity"), "b" * 64, IMAGES).kind == "control"


def test_a_declared_kind_is_told_apart_from_a_derived_one() -> None:
    box = protocol_of(Stub(SEEN), "b" * 64, IMAGES, "leave-one-out")
    assert box.kind == "leave-one-out"
    assert "declared by the user" in box.kind_origin


def test_zero_shot_cannot_be_declared_of_a_trained_model() -> None:
    with pytest.raises(InputError, match="empty training ledger; given: set A"):
        protocol_of(Stub(SEEN), "b" * 64, IMAGES, "zero-shot")


def test_training_data_are_refused_as_test_data_unless_asked_for() -> None:
    with pytest.raises(InputError, match="trained on; given: set A"):
        protocol_of(Stub(SEEN), "a" * 64, IMAGES)
    assert "set A" in protocol_of(Stub(SEEN), "a" * 64, IMAGES, allow_overlap=True).overlap


def test_a_part_of_the_training_data_is_known_again() -> None:
    part = ({**SEEN[0], "content_sha256": "c" * 64, "image_sha256": ("0123456789abcdef", "1" * 16)},)
    with pytest.raises(InputError, match="1 of 2 images are in set A"):
        protocol_of(Stub(part), "b" * 64, IMAGES)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="must be one of zero-shot"):
        protocol_of(Stub(), "b" * 64, IMAGES, "control")
