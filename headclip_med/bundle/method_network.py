"""Any method as one network module, for bundles: what it learns is the module's parameters, its loss is its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headclip_med.base.errors import InputError, ModelError
from headclip_med.bundle.data import IGNORE
from headclip_med.bundle.states import check_state
from headclip_med.detectors import Detector, HeadCLIP, LabelledPixels, get_method
from headclip_med.detectors.base import read_method_config
from headclip_med.encoders.build import build_tower
from headclip_med.engine.device import Precision, choose_dtype
from headclip_med.engine.engine import Engine
from headclip_med.engine.torch_scorer import TorchScorer
from headclip_med.models.domains import get_domain
from headclip_med.models.load import Model, check_method, detector_for, load_model, may_have_text
from headclip_med.models.new_pack import tower_record
from headclip_med.models.pack import Pack, builtin_packs, is_pack
from headclip_med.models.record import PACK_FORMAT, UNCALIBRATED, PackRecord
from headclip_med.models.share import pack_place


class MethodNetwork(nn.Module):
    """Model pixels → one anomaly map, by whatever method the model is of.

    Args:
        model: with a pack whose tensors are the method's state, or without any for a method that learned nothing.
        precision: of the tower's matrix products, as of :class:`headclip_med.engine.torch_scorer.TorchScorer`.

    Attributes:
        tower: the frozen model that owns the tower's weights. learned: what training changes.
    """

    def __init__(self, model: Model, precision: Precision = "auto") -> None:
        super().__init__()
        self._model, self._precision = model, precision
        self.tower = model.built.tower.model
        self._detector = detector_for(model, model.domain)
        self.learned = self._detector.learned() if self._detector.capabilities.trains else nn.Module()
        self._engine: tuple[object, Engine[TorchScorer]] | None = None

    def forward(self, pixels: Tensor) -> Tensor:
        """Probability of abnormal ``(N, 1, S, S)`` in [0, 1] of normalised ``pixels (N, 3, S, S)``."""
        check_pixels(pixels)
        device = self._place()
        return self._now().score(pixels.to(device)).maps[:, None].float()

    def loss(self, pixels: Tensor, label: Tensor) -> Tensor:
        """The method's own loss.

        Args:
            pixels: ``(N, 3, S, S)``; label: ``(N, 1, S, S)``, 1 in a lesion, 255 outside the patient.
        """
        self._place()
        mask = (label[:, 0] == 1).float()
        return self._detector.loss(LabelledPixels(pixels, mask, label[:, 0] != IGNORE, mask.flatten(1).amax(dim=1)))

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self._detector.image_size

    @property
    def model(self) -> Model:
        """The model with what is learned as it is now; what an engine or a pack is made of."""
        pack = self._model.pack
        if pack is None:
            return self._model
        return replace(self._model, pack=replace(pack, tensors=self._detector.state(), sha256=""))

    def as_engine(self, batch_size: int | None = None) -> Engine[TorchScorer]:
        """The engine that scores cases with these weights; made anew only after they changed or moved."""
        key = (batch_size, *((id(t), t._version, t.device) for t in (*self.parameters(), *self.buffers())))
        if self._engine is None or self._engine[0] != key:
            device = self._place()
            scorer = TorchScorer(self.model, device=str(device), precision=self._precision, batch_size=batch_size)
            self._engine = (key, Engine(scorer))
        return self._engine[1]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module, but a checkpoint of another network is refused in words."""
        check_state(self, state_dict, strict, self._model.name)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def train(self, mode: bool = True) -> MethodNetwork:
        """Training mode for what is learned; the tower stays in evaluation mode."""
        super().train(mode)
        self.tower.eval()
        return self

    def _now(self) -> Detector:
        """The detector on what is learned as it is now: a method may keep what follows from it."""
        return detector_for(self.model, self._model.domain)

    def _place(self) -> torch.device:
        tower = self._model.built.tower
        device = tower.device
        tower.place(device, choose_dtype(device, self._precision))
        if self._model.built.clip is not None:
            self._model.built.clip.to(device)
        return device


class MethodLoss(nn.Module):
    """A method's own loss for a trainer's ``loss_function``; it takes pixels where others take maps.

    Args:
        network: of :func:`new_method`.
    """

    def __init__(self, network: MethodNetwork) -> None:
        super().__init__()
        self._network = [network]  # in a list: the loss owns none of its parameters

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """The loss of pixels ``(N, 3, S, S)`` as :class:`PixelsInferer` hands them on, with their labels."""
        return self._network[0].loss(pred, label)


def check_pixels(pixels: Tensor) -> None:
    """Refuse what is no model input, such as one channel from ``SliceInferer``.

    Raises:
        InputError: another shape than ``(N, 3, H, W)``.
    """
    shape = tuple(int(n) for n in pixels.shape)
    if len(shape) != 4 or shape[1] != 3:
        do = "Repeat a single channel three times and normalise it as the tower expects, or use HeadCLIPInferer"
        raise InputError("The input of the network must be pixels (N, 3, S, S)", shape, do)


def new_method(
    model: str,
    method: str,
    *,
    options: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    domain: str | None = None,
    precision: Precision = "float32",
) -> MethodNetwork:
    """A method on a tower, before it has learned anything.

    Args:
        model: tower by name or weight file, or a pack, of which only the tower is used; weights: of the tower of a pack
            that carries none. options: fields of the method's configuration.
        domain: of preprocessing and of the prompts; default the pack's, or ``generic``.

    Raises:
        ModelError: a method that learns nothing, or that cannot do with this tower; said before weights are read.
    """
    chosen = get_method(method)
    if issubclass(chosen, HeadCLIP) and method == HeadCLIP.name:
        raise ModelError("The method must be another than headclip", method, "Run the workflow train for it")
    if not chosen.capabilities.trains:
        raise ModelError("The method must be one that learns", method, "It needs no training: use it as it is")
    read_method_config(chosen.Config, options or {}, f"the method {method}")
    place = pack_place(model, builtin_packs())
    lender = load_model(model, weights=weights) if is_pack(place) else None
    has_text = may_have_text(model) if lender is None else lender.built.clip is not None
    check_method(chosen, Path(model).name, has_text=has_text, has_state=True, training=True)
    built = build_tower(model) if lender is None else lender.built
    lent = None if lender is None else lender.pack
    record = PackRecord(
        format=PACK_FORMAT,
        name=f"{method}-untrained",
        title=f"{method} on {built.architecture}",
        method=method,
        tower=tower_record(built) if lent is None else lent.record.tower,
        config=dict(options or {}),
        domain=get_domain(domain or (lent.record.domain if lent else "generic")).name,
        threshold=UNCALIBRATED,
        ledger=lent.record.ledger if lent is not None and lent.record.tower.kind == "embedded" else (),
    )
    pack = Pack(lent.folder if lent else Path(), record, {}, "")
    return MethodNetwork(Model(record.name, method, built, pack), precision)


def in_domain(model: Model, domain: str | None) -> Model:
    """The model for another domain, which a pack cannot be given.

    Raises:
        InputError: a domain for a pack that was made for another one.
    """
    if domain is None or domain == model.domain.name:
        return model
    if model.pack is not None:
        raise InputError(
            f"The domain of the pack {model.name} must stay {model.domain.name}",
            domain,
            "Leave the domain out, or choose another pack",
        )
    record = PackRecord(
        format=PACK_FORMAT,
        name=model.name,
        title=f"{model.method} on {model.built.architecture}",
        method=model.method,
        tower=tower_record(model.built),
        domain=get_domain(domain).name,
        threshold=UNCALIBRATED,
    )
    return replace(model, pack=Pack(Path(), record, {}, ""))
