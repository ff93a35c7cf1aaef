"""What handlers and data ask of a network, whatever its method."""

from __future__ import annotations

from typing import Protocol

from headclip_med.models.load import Model


class HasModel(Protocol):
    """A network that knows its model."""

    @property
    def model(self) -> Model:
        """The model with what is learned as it is now."""


class CutsFor(HasModel, Protocol):
    """A network that also says how large its input is."""

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
