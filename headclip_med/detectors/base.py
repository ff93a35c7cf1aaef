"""What every method is: a class that is made of parts, scores pixels, and says what else it can do.

A new method is one file with one subclass of :class:`Detector`; ``docs/adding_a_method.md`` shows one of forty lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from headclip_med.base.errors import ModelError
from headclip_med.detectors.data import Auxiliary, Capabilities, LabelledPixels, NormalPixels, SliceBatch
from headclip_med.detectors.descent import descend
from headclip_med.encoders.tower import ImageTower

if TYPE_CHECKING:
    from headclip_med.encoders.build import BuiltTower

Config = TypeVar("Config")


@dataclass(frozen=True)
class Parts:
    """What a detector is made of.

    Attributes:
        built: the tower, with its text side if it has one.
        config: fields of the method's own configuration that differ from its defaults.
        tensors: what was learned, by name, empty for a method that learned nothing.
        anatomy, abnormal: words of the domain for prompts, see :class:`headclip_med.models.domains.Domain`.
        name: what to call the model in a message.
    """

    built: BuiltTower
    config: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    anatomy: tuple[str, ...] = ("medical scan", "organ", "tissue")
    abnormal: tuple[str, ...] = ()
    name: str = "the model"


@dataclass(frozen=True)
class TowerConfig:
    """The configuration of a method that has no other choices, with ``image_size`` None for that of the tower."""

    image_size: int | None = None


class Detector(ABC):
    """A method with everything it needs to score pixels, stateless between calls.

    A subclass sets ``name``, ``capabilities`` and, where it has choices, ``Config`` (a dataclass whose defaults are the
    method's), and implements :meth:`score`. One that learns also implements :meth:`learned` and :meth:`loss`.

    Attributes:
        tower: the frozen image tower.
        image_size: side of the square input in pixels, a multiple of the patch size.
        own_activation: the method chooses the activation of its tower itself.
    """

    name: str
    capabilities: Capabilities
    Config: ClassVar[type] = TowerConfig
    own_activation: ClassVar[bool] = False
    tower: ImageTower

    def __init__(self, parts: Parts) -> None:
        """Read the configuration and check it against the tower.

        Args:
            parts: Tower, configuration and what was learned.

        Raises:
            ModelError: parts that do not fit the method or each other.
        """
        self.parts, self.tower = parts, parts.built.tower
        self.config: Any = read_method_config(self.Config, parts.config, parts.name)
        if self.capabilities.uses_text:
            text_of(parts.built, self.name)
        self._check_size()

    def _check_size(self) -> None:
        """Refuse an input that patches do not fill."""
        size = self.image_size
        if size % self.tower.patch_size:
            raise ModelError(
                f"The image size must be a multiple of the patch size {self.tower.patch_size}",
                f"{size} pixels",
                f"Use {self.tower.nearest_size(size)}",
            )

    @classmethod
    def from_parts(cls, parts: Parts) -> Detector:
        """Make the detector of these parts.

        Args:
            parts: Tower, configuration and what was learned.

        Returns:
            The detector.

        Raises:
            ModelError: parts that do not fit the method or each other.
        """
        return cls(parts)

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        chosen: int | None = getattr(self.config, "image_size", None)
        return self.tower.native_size if chosen is None else chosen

    @abstractmethod
    def score(self, pixels: Tensor, valid: Tensor | None = None) -> SliceBatch:
        """Score normalised pixels.

        Args:
            pixels: ``(N, 3, S, S)`` float32, normalised as the tower expects.
            valid: ``(N, S, S)`` bool, the patient, to which the scores are limited. None: everywhere.

        Returns:
            Maps ``(N, S, S)`` and scores ``(N,)``, in [0, 1].
        """

    def at_speed(self, scale: float, early_exit: bool) -> Detector:
        """Make the same detector at another input size, and without its last tap: what a speed preset asks for.

        Args:
            scale: Of the input's side, 1 for no change.
            early_exit: Leave the last of several taps out, where the method has some.

        Returns:
            A detector, or this one where nothing changes.

        Raises:
            ModelError: a method that cannot change its input size.
        """
        if scale == 1:
            return self
        size = self.tower.nearest_size(round(scale * self.image_size))
        changed = {**self.parts.config, "image_size": size}
        return type(self).from_parts(replace(self.parts, config=changed, tensors=self.state() or self.parts.tensors))

    def describe(self) -> dict[str, Any]:
        """Describe the method and its configuration.

        Returns:
            Plain JSON values.
        """
        config = asdict(self.config) if is_dataclass(self.config) and not isinstance(self.config, type) else {}
        return {"method": self.name, "image_size": self.image_size, "config": config}

    def state(self) -> dict[str, Tensor]:
        """Give what was learned: what :class:`Parts` of the same method are made of again.

        Returns:
            Tensors by name, on the CPU.
        """
        if not self.capabilities.trains:
            return {}
        return {name: value.detach().cpu().clone().contiguous() for name, value in self.learned().state_dict().items()}

    def learned(self) -> nn.Module:
        """Give the module whose parameters training changes.

        Returns:
            The module, on the tower's device.

        Raises:
            ModelError: the method learns nothing.
        """
        raise self._cannot("train", "it learns nothing")

    def loss(self, batch: LabelledPixels) -> Tensor:
        """Compute the loss of a batch, differentiable in :meth:`learned`.

        Args:
            batch: Labelled slices.

        Returns:
            A scalar.

        Raises:
            ModelError: the method learns nothing.
        """
        raise self._cannot("train", "it learns nothing")

    def fit(self, auxiliary: Auxiliary) -> None:
        """Learn from labelled images of other tasks: by default Adam on :meth:`loss`.

        Args:
            auxiliary: Batches, and the run around the fit.

        Raises:
            ModelError: the method learns nothing, or its loss is not finite.
        """
        descend(self.learned(), self.loss, auxiliary)

    def adapt(self, normals: NormalPixels) -> Detector | None:
        """Give the detector that has also seen normal images.

        Args:
            normals: Normal slices of the task at hand.

        Returns:
            None where the method has no way of its own: :func:`headclip_med.detectors.memory.adapted` then adds a
            memory of their patches.
        """
        return None

    def _cannot(self, what: str, why: str) -> ModelError:
        return ModelError(f"The method must be one that can {what}", f"{self.name}: {why}", "Choose another --method")


def read_method_config(kind: type[Config], values: Mapping[str, Any], whose: str) -> Config:
    """Read a method's configuration.

    Args:
        kind: Its dataclass.
        values: Fields that differ from the defaults.
        whose: What to call the model in a message.

    Returns:
        The configuration.

    Raises:
        ModelError: an unknown key or a value that is not allowed, the first of which is named.
    """
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ModelError(
            f"The configuration of {whose} must use known keys",
            ", ".join(unknown),
            f"Known are {', '.join(sorted(known))}",
        )
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(
            f"The configuration of {whose} must hold allowed values", f"{first['loc'][0]}: {first['msg']}"
        ) from error


def text_of(built: BuiltTower, method: str) -> tuple[nn.Module, Callable[[list[str]], Tensor]]:
    """Give the text side of a tower.

    Args:
        built: The tower.
        method: Name of the method, for the message.

    Returns:
        The CLIP model and its tokenizer.

    Raises:
        ModelError: a tower without a text side.
    """
    if built.clip is None or built.tokenizer is None:
        raise ModelError(
            f"The method {method} must have a tower with a text side",
            f"{built.architecture}, which is vision-only",
            "Choose a CLIP tower, or a method without text such as vectors",
        )
    return built.clip, built.tokenizer
