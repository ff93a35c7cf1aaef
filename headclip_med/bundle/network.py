"""The detector as one network module, as MONAI's bundles, trainers and exporters want it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from headclip_med.base.errors import InputError, ModelError
from headclip_med.detectors import Detector, HeadCLIP, LabelledPixels
from headclip_med.engine.device import Precision, choose_dtype
from headclip_med.engine.engine import Engine
from headclip_med.engine.torch_scorer import TorchScorer
from headclip_med.models.load import Model, detector_for

# What can be learned, and the tensor of a pack that holds it.
LEARNABLE = {"heads": "head_weights", "classes": "patch_classes"}

# In a training label: outside the patient, where no loss is taken.
IGNORE = 255


class DetectorNetwork(nn.Module, ABC):
    """Model pixels → one anomaly map. What is learned is the module's parameters, the tower is frozen.

    Args:
        model: that scores.
        precision: of the tower's matrix products, as of :class:`headclip_med.engine.torch_scorer.TorchScorer`.

    Attributes:
        tower: the frozen model that owns the tower's weights.
        image_size: side of the square input in pixels.
    """

    def __init__(self, model: Model, precision: Precision = "auto") -> None:
        super().__init__()
        self._model, self._precision = model, precision
        self._engine: tuple[object, Engine[TorchScorer]] | None = None
        self.tower = model.built.tower.model
        self.image_size = 0

    @property
    @abstractmethod
    def model(self) -> Model:
        """The model with what is learned as it is now, detached, of which an engine or a pack is made."""

    def as_engine(self, batch_size: int | None = None) -> Engine[TorchScorer]:
        """Give the engine that scores cases with these weights, made anew only after they changed or moved.

        Args:
            batch_size: slices at once. None: as the engine chooses.

        Returns:
            An engine on the device where the module is now.
        """
        key = (batch_size, *((id(t), t._version, t.device) for t in (*self.parameters(), *self.buffers())))
        if self._engine is None or self._engine[0] != key:
            device = self._place()
            scorer = TorchScorer(self.model, device=str(device), precision=self._precision, batch_size=batch_size)
            self._engine = (key, Engine(scorer))
        return self._engine[1]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a checkpoint as any module does, but refuse one of another network in words.

        Args:
            state_dict, strict, assign: as of :meth:`torch.nn.Module.load_state_dict`.

        Returns:
            Keys that are missing or unknown, where ``strict`` is False.

        Raises:
            ModelError: tensors that are missing, unknown or of another shape. ``strict`` False lets the first two pass.
        """
        _check_state(self.state_dict(), state_dict, strict, self._model.name)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def train(self, mode: bool = True) -> DetectorNetwork:
        """Put what is learned into training mode, or out of it, and leave the tower in evaluation mode.

        Args:
            mode: whether to train.

        Returns:
            The network itself.
        """
        super().train(mode)
        self.tower.eval()
        return self

    def _place(self) -> torch.device:
        """Store the tower's matrices in the chosen type, on the device where the module is now."""
        tower = self._model.built.tower
        device = tower.device
        tower.place(device, choose_dtype(device, self._precision))
        return device


class HeadCLIPNetwork(DetectorNetwork):
    """HeadCLIP and its family as a network, with the class features baked in.

    The pack's tensors (head weights, class features, centre) are parameters where they are
    learned and buffers elsewhere, under the same names, so that a checkpoint fits either way. No text is encoded here.

    Args:
        model: with a pack that holds class features. See :func:`build_network` for the others.
        learn: ``heads``, ``classes``, both or none.
        precision: as of :class:`DetectorNetwork`.

    Raises:
        InputError: something else is to be learned.
        ModelError: a model without class features, or of another method.
    """

    def __init__(self, model: Model, learn: Sequence[str] = (), precision: Precision = "auto") -> None:
        super().__init__(model, precision)
        unknown = sorted(set(learn) - set(LEARNABLE))
        if unknown:
            raise InputError(f"What is learned must be among {', '.join(LEARNABLE)}", ", ".join(unknown))
        if model.pack is None or "patch_classes" not in model.pack.tensors:
            raise ModelError("A network must have class features baked in", model.name, "Use build_network")
        self._ready: tuple[Engine[TorchScorer], HeadCLIP] | None = None
        self.image_size = self._detector(model).image_size
        learned = {LEARNABLE[part] for part in learn}
        self._names = tuple(sorted(model.pack.tensors))
        for name, value in sorted(model.pack.tensors.items()):
            tensor = value.detach().float().clone()
            if name in learned:
                self.register_parameter(_attribute(name), nn.Parameter(tensor))
            else:
                self.register_buffer(_attribute(name), tensor)

    def forward(self, pixels: Tensor, patch_grid: bool = False) -> Tensor:
        """Compute the probability of abnormal in [0, 1].

        Args:
            pixels: ``(N, 3, S, S)``, normalised as the tower expects, with S as :attr:`image_size`.
            patch_grid: the map on the patch grid, where the losses are taken.

        Returns:
            ``(N, 1, S, S)``, or ``(N, 1, Hp, Wp)``, float32.
        """
        check_pixels(pixels)
        detector = self.detector()
        maps = detector.patch_maps(pixels) if patch_grid else detector.compute(pixels).maps
        return maps[:, None].float()

    @property
    def model(self) -> Model:
        """The model with the tensors as they are now, detached."""
        return self._with({name: tensor.detach() for name, tensor in self.pack_tensors()})

    def detector(self) -> HeadCLIP:
        """Give the detector on the tensors as they are now.

        Returns:
            A detector that is differentiable in what is learned, while gradients are on.

        Raises:
            ModelError: a trace of a network that is not in evaluation mode and in float32.
        """
        if torch.is_grad_enabled() and any(tensor.requires_grad for _, tensor in self.pack_tensors()):
            self._place()
            return self._detector(self._with(dict(self.pack_tensors())))
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return self._prepared()
        engine = self.as_engine()
        if self._ready is None or self._ready[0] is not engine:
            self._ready = (engine, self._detector(engine.scorer.model))
        return self._ready[1]

    def pack_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """List the pack's tensors by their names there, in alphabetical order.

        Returns:
            An iterator of name and tensor.
        """
        return ((name, getattr(self, _attribute(name))) for name in self._names)

    def train(self, mode: bool = True) -> DetectorNetwork:
        """Put the learned parts into training mode, or out of it, and leave the tower in evaluation mode.

        A float32 network in evaluation mode can be traced, as MONAI's exporters do right after ``eval()``.

        Args:
            mode: whether to train.

        Returns:
            The network itself.
        """
        super().train(mode)
        if not mode and self._precision == "float32":
            with torch.no_grad():
                self.detector()
        return self

    def _prepared(self) -> HeadCLIP:
        """The detector as it was made last: a tracer must find it made, for making it looks into tensors."""
        if self._ready is None:
            raise ModelError(
                "A network must be in evaluation mode and in float32 to be traced",
                f"precision {self._precision}, training {self.training}",
                "Use precision: float32 in network_def, and call eval()",
            )
        return self._ready[1]

    def _with(self, tensors: dict[str, Tensor]) -> Model:
        pack = self._model.pack
        assert pack is not None
        same = all(torch.equal(pack.tensors[name].float(), value.detach().cpu()) for name, value in tensors.items())
        return replace(self._model, pack=replace(pack, tensors=tensors, sha256=pack.sha256 if same else ""))

    @staticmethod
    def _detector(model: Model) -> HeadCLIP:
        detector = detector_for(model, model.domain)
        if not isinstance(detector, HeadCLIP):
            raise ModelError("A network must be of the HeadCLIP family", detector.name, "Use method headclip")
        return detector


class MethodNetwork(DetectorNetwork):
    """Any method as a network. What it learns is the module's parameters, its loss is its own.

    Args:
        model: with a pack whose tensors are the method's state, or without any for a method that learned nothing.
        precision: as of :class:`DetectorNetwork`.

    Attributes:
        learned: what training changes.
    """

    def __init__(self, model: Model, precision: Precision = "auto") -> None:
        super().__init__(model, precision)
        self._detector = detector_for(model, model.domain)
        self.learned = self._detector.learned() if self._detector.capabilities.trains else nn.Module()
        self.image_size = self._detector.image_size

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the probability of abnormal in [0, 1].

        Args:
            pixels: ``(N, 3, S, S)``, normalised as the tower expects, with S as :attr:`image_size`.

        Returns:
            ``(N, 1, S, S)`` float32.
        """
        check_pixels(pixels)
        device = self._place()
        return self._now().score(pixels.to(device)).maps[:, None].float()

    def loss(self, pixels: Tensor, label: Tensor) -> Tensor:
        """Compute the method's own loss.

        Args:
            pixels: ``(N, 3, S, S)``, normalised as the tower expects.
            label: ``(N, 1, S, S)``, 1 in a lesion, 255 outside the patient.

        Returns:
            One number, differentiable in :attr:`learned`.
        """
        self._place()
        mask = (label[:, 0] == 1).float()
        return self._detector.loss(LabelledPixels(pixels, mask, label[:, 0] != IGNORE, mask.flatten(1).amax(dim=1)))

    @property
    def model(self) -> Model:
        """The model with what is learned as it is now."""
        pack = self._model.pack
        if pack is None:
            return self._model
        return replace(self._model, pack=replace(pack, tensors=self._detector.state(), sha256=""))

    def _now(self) -> Detector:
        """The detector on what is learned as it is now: a method may keep what follows from it."""
        return detector_for(self.model, self._model.domain)

    def _place(self) -> torch.device:
        """Place the tower, and the text side with it."""
        device = super()._place()
        if self._model.built.clip is not None:
            self._model.built.clip.to(device)
        return device


class MethodLoss(nn.Module):
    """A method's own loss for a trainer's ``loss_function``. It takes pixels where others take maps.

    Args:
        network: of :func:`headclip_med.bundle.build_model.new_method`.
    """

    def __init__(self, network: MethodNetwork) -> None:
        super().__init__()
        self._network = [network]  # in a list: the loss owns none of its parameters

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """Compute the loss of pixels, which :class:`headclip_med.bundle.inferer.PixelsInferer` hands on.

        Args:
            pred: pixels ``(N, 3, S, S)``.
            label: as of :meth:`MethodNetwork.loss`.

        Returns:
            One number.
        """
        return self._network[0].loss(pred, label)


def check_pixels(pixels: Tensor) -> None:
    """Refuse what is no model input, such as one channel from ``SliceInferer``.

    Args:
        pixels: what a network was called with.

    Raises:
        InputError: another shape than ``(N, 3, H, W)``.
    """
    shape = tuple(int(n) for n in pixels.shape)
    if len(shape) != 4 or shape[1] != 3:
        do = "Repeat a single channel three times and normalise it as the tower expects, or use HeadCLIPInferer"
        raise InputError("The input of the network must be pixels (N, 3, S, S)", shape, do)


def _check_state(own: Mapping[str, Any], state: Mapping[str, Any], strict: bool, name: str) -> None:
    """Refuse a checkpoint of another network."""
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


def _attribute(name: str) -> str:
    """A module's tensors may have no dots in their names."""
    return name.replace(".", "__")
