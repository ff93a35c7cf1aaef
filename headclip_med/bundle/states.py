"""Whether a checkpoint belongs to a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from headclip_med.base.errors import ModelError
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


def check_state(network: nn.Module, state: Mapping[str, Any], strict: bool, name: str) -> None:
    """Refuse a checkpoint of another network.

    Raises:
        ModelError: tensors that are missing, unknown or of another shape; ``strict`` False lets the first two pass.
    """
    own = network.state_dict()
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    other = sorted(key for key in set(own) & set(state) if state[key].shape != own[key].shape)
    if other or (strict and (missing or unknown)):
        kinds = (("missing", missing), ("unknown", unknown), ("of another shape", other))
        given = ", ".join(f"{len(names)} {kind} (first {names[0]})" for kind, names in kinds if names)
        raise ModelError(
            f"A checkpoint must hold the {len(own)} tensors of the network {name}",
            given,
            "Name the model that it was trained on, or another checkpoint; without one set load_pretrain to false",
        )
