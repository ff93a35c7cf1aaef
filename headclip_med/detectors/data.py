"""What detectors take and give back: class features, slices, labelled and normal pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

Batch_co = TypeVar("Batch_co", covariant=True)


@dataclass(frozen=True)
class Capabilities:
    """What a method can do and what it needs, so that a caller can refuse before anything is loaded.

    Attributes:
        zero_shot: scores images of a task that it saw nothing of.
        uses_text: needs a tower with a text side.
        localises: its map says where. Otherwise the map is the slice's score everywhere.
        trains: :meth:`Detector.fit` learns from labelled images of other tasks.
        trains_text: it learns through a text side, which what was learned may then do without.
        needs_state: cannot score before it was trained, converted or fitted.
        needs_normals: cannot score before it saw normal images of the task.
        needs_masks: its training must be told where lesions are.
        adaptable: normal images of the task make it better, see :meth:`Detector.adapt`.
    """

    zero_shot: bool
    uses_text: bool
    localises: bool
    trains: bool = False
    trains_text: bool = False
    needs_state: bool = False
    needs_normals: bool = False
    needs_masks: bool = False
    adaptable: bool = True


@dataclass(frozen=True)
class ClassFeatures:
    """The ``[normal, abnormal]`` vectors that features are compared with, L2-normalised float32.

    Attributes:
        patch: by 0-based layer, ``(2, D)``.
        image: ``(2, D)`` for the global feature, or None where it carries no class (then the map alone decides).
        centre: by layer, a mean feature ``(D,)`` subtracted before normalisation, empty for CLIP.
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


@dataclass(frozen=True)
class LabelledPixels:
    """A batch to learn from.

    Attributes:
        pixels: ``(N, 3, S, S)`` float32, normalised as the tower expects.
        mask: ``(N, S, S)`` float32, 1 in a lesion.
        valid: ``(N, S, S)`` bool, the patient.
        labels: ``(N,)`` float32, 1 where there is a lesion.
        known: ``(N, S, S)`` bool, where something is known about the pixels. None: everywhere.
    """

    pixels: Tensor
    mask: Tensor
    valid: Tensor
    labels: Tensor
    known: Tensor | None = None

    def where_known(self, maps: Tensor) -> Tensor:
        """Set maps to 0, as the mask is, where nothing is known, so that no loss comes from there.

        Args:
            maps: ``(N, S, S)``.

        Returns:
            ``(N, S, S)``.
        """
        return maps if self.known is None else maps * self.known.to(maps)


@dataclass(frozen=True)
class NormalPixels:
    """Normal slices of the task at hand.

    Attributes:
        pixels: ``(N, 3, S, S)`` float32, normalised as the tower expects.
        valid: ``(N, S, S)`` bool, the patient.
        volumes: which volume each slice is of, N numbers, since slices of one are alike. Empty: each of its own.
    """

    pixels: Tensor
    valid: Tensor
    volumes: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)


class TrainingSteps(Protocol[Batch_co]):
    """Steps of a training and what stands around them: batches, validation, checkpoints.

    Attributes:
        steps: after which the run ends. seed: for a method that draws numbers of its own.
    """

    steps: int
    seed: int

    def begin(self, learned: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """Take up an interrupted run, if there is one.

        Args:
            learned: The module whose parameters the checkpoint holds.
            optimiser: Its optimiser, whose state comes back too.

        Returns:
            The step to go on with, 0 for a new run.
        """

    def batch(self, step: int) -> Batch_co:
        """Give the batch of a step, the same for the same seed.

        Args:
            step: From 0.

        Returns:
            Such as labelled slices.
        """

    def done(self, step: int, loss: float) -> None:
        """Report, validate and keep after a step.

        Args:
            step: How many steps are done.
            loss: Of the last one.
        """


# What a method learns from: labelled images of other tasks.
Auxiliary = TrainingSteps[LabelledPixels]
