"""The small protocol that every detector follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from headclip_med.encoders.tower import ImageTower


@dataclass(frozen=True)
class Capabilities:
    """What a method can do and what it needs, so that a caller can refuse before anything is loaded."""

    zero_shot: bool
    uses_text: bool
    localises: bool
    needs_normals: bool = False
    needs_masks: bool = False
    adaptable: bool = False


@dataclass(frozen=True)
class ClassFeatures:
    """The ``[normal, abnormal]`` vectors that features are compared with, L2-normalised float32.

    Attributes:
        patch: by 0-based layer, ``(2, D)``.
        image: ``(2, D)`` for the global feature; None where it carries no class (then the map alone decides).
        centre: by layer, a mean feature ``(D,)`` subtracted before normalisation; empty for CLIP.
    """

    patch: dict[int, Tensor]
    image: Tensor | None
    centre: dict[int, Tensor]


@dataclass(frozen=True)
class SliceBatch:
    """What a detector says about a batch of slices.

    Attributes:
        maps: probability of abnormal, ``(N, S, S)`` float32 in [0, 1] at the model's input size.
        scores: ``(N,)`` float32 in [0, 1].
    """

    maps: Tensor
    scores: Tensor


@runtime_checkable
class Detector(Protocol):
    """A method with everything it needs to score pixels; stateless between calls."""

    name: str
    capabilities: Capabilities
    tower: ImageTower

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""

    def score(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Score normalised pixels ``(N, 3, S, S)``; ``valid (N, S, S)`` limits the scores to the patient."""

    def describe(self) -> dict[str, Any]:
        """The method's configuration as plain JSON values."""
