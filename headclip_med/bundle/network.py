"""The detector as one network module, as MONAI's bundles, trainers and exporters want it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headclip_med.base.errors import InputError, ModelError
from headclip_med.base.names import DEFAULT_MODEL
from headclip_med.bundle.method_network import MethodNetwork, check_pixels, in_domain
from headclip_med.bundle.states import check_state
from headclip_med.detectors import HeadCLIP, get_method
from headclip_med.encoders.head_weights import initial_theta
from headclip_med.encoders.image import first_local_block
from headclip_med.engine.device import Precision, choose_dtype
from headclip_med.engine.engine import Engine
from headclip_med.engine.torch_scorer import TorchScorer
from headclip_med.models.domains import get_domain
from headclip_med.models.load import Model, detector_for, load_model
from headclip_med.models.new_pack import tower_record
from headclip_med.models.pack import Pack
from headclip_med.models.record import PACK_FORMAT, UNCALIBRATED, PackRecord

# What can be learned, and the tensor of a pack that holds it.
LEARNABLE = {"heads": "head_weights", "classes": "patch_classes"}


class HeadCLIPNetwork(nn.Module):
    """Model pixels → one anomaly map, with the class features baked in.

    The tower is frozen. The pack's tensors (head weights, class features, centre) are parameters where they are
    learned and buffers elsewhere, under the same names, so that a checkpoint fits either way. No text is encoded here.

    Args:
        model: with a pack that holds class features; see :func:`build_network` for the others.
        learn: ``heads``, ``classes``, both or none.
        precision: of the tower's matrix products, as of :class:`headclip_med.engine.torch_scorer.TorchScorer`.

    Attributes:
        tower: the frozen model that owns the tower's weights.
    """

    def __init__(self, model: Model, learn: Sequence[str] = (), precision: Precision = "auto") -> None:
        super().__init__()
        unknown = sorted(set(learn) - set(LEARNABLE))
        if unknown:
            raise InputError(f"What is learned must be among {', '.join(LEARNABLE)}", ", ".join(unknown))
        if model.pack is None or "patch_classes" not in model.pack.tensors:
            raise ModelError("A network must have class features baked in", model.name, "Use build_network")
        self.tower = model.built.tower.model
        self._model, self._precision = model, precision
        self._engine: tuple[object, Engine[TorchScorer]] | None = None
        self._ready: tuple[Engine[TorchScorer], HeadCLIP] | None = None
        learned = {LEARNABLE[part] for part in learn}
        self._names = tuple(sorted(model.pack.tensors))
        for name, value in sorted(model.pack.tensors.items()):
            tensor = value.detach().float().clone()
            if name in learned:
                self.register_parameter(_attribute(name), nn.Parameter(tensor))
            else:
                self.register_buffer(_attribute(name), tensor)

    def forward(self, pixels: Tensor, patch_grid: bool = False) -> Tensor:
        """Probability of abnormal in [0, 1].

        Args:
            pixels: ``(N, 3, S, S)``, normalised as the tower expects; S as :attr:`image_size`.
            patch_grid: the map on the patch grid, where the losses are taken.

        Returns:
            ``(N, 1, S, S)``, or ``(N, 1, Hp, Wp)``, float32.
        """
        check_pixels(pixels)
        detector = self.detector()
        maps = detector.patch_maps(pixels) if patch_grid else detector.compute(pixels).maps
        return maps[:, None].float()

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self._detector(self._model).image_size

    @property
    def model(self) -> Model:
        """The model with the tensors as they are now, detached; what an engine or a pack is made of."""
        return self._with({name: tensor.detach() for name, tensor in self.pack_tensors()})

    def detector(self) -> HeadCLIP:
        """The detector on the tensors as they are now; differentiable in what is learned, while gradients are on."""
        if torch.is_grad_enabled() and any(tensor.requires_grad for _, tensor in self.pack_tensors()):
            self._place()
            return self._detector(self._with(dict(self.pack_tensors())))
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return self._prepared()
        engine = self.as_engine()
        if self._ready is None or self._ready[0] is not engine:
            self._ready = (engine, self._detector(engine.scorer.model))
        return self._ready[1]

    def as_engine(self, batch_size: int | None = None) -> Engine[TorchScorer]:
        """The engine that scores cases with these weights; made anew only after they changed or moved."""
        key = (batch_size, *((id(t), t._version, t.device) for t in (*self.parameters(), *self.buffers())))
        if self._engine is None or self._engine[0] != key:
            device = self._place()
            scorer = TorchScorer(self.model, device=str(device), precision=self._precision, batch_size=batch_size)
            self._engine = (key, Engine(scorer))
        return self._engine[1]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module, but a checkpoint of another network is refused in words.

        Raises:
            ModelError: tensors that are missing, unknown or of another shape; ``strict`` False lets the first two pass.
        """
        check_state(self, state_dict, strict, self._model.name)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def pack_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The pack's tensors by their names there."""
        return ((name, getattr(self, _attribute(name))) for name in self._names)

    def train(self, mode: bool = True) -> HeadCLIPNetwork:
        """Training mode for the learned parts; the tower stays in evaluation mode.

        A float32 network in evaluation mode can be traced, as MONAI's exporters do right after ``eval()``.
        """
        super().train(mode)
        self.tower.eval()
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

    def _place(self) -> torch.device:
        """Store the tower's matrices in the chosen type, on the device where the module is now."""
        device = self._model.built.tower.device
        self._model.built.tower.place(device, choose_dtype(device, self._precision))
        return device

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


def build_network(
    model: str | Path = DEFAULT_MODEL,
    *,
    weights: str | Path | None = None,
    domain: str | None = None,
    learn: Sequence[str] = (),
    precision: Precision = "auto",
) -> HeadCLIPNetwork | MethodNetwork:
    """A network by the name of its model; of another method than HeadCLIP's family, one that scores by it.

    Args:
        model: built-in pack, pack folder, tower by name or file; weights: of the tower of a pack that carries none.
        domain: whose prompts become the class features of a CLIP tower without a pack; default ``generic``.
        learn: ``heads``, ``classes``; other methods learn what is theirs. Head weights are there either way, so that
            checkpoints fit; at first they are the pack's, or 1.
        precision: ``auto`` takes 16 bits where the hardware multiplies them; train in ``float32``.

    Raises:
        ModelError, InputError: a model that cannot be had, or options that do not fit it.
    """
    loaded = load_model(model, weights=weights)
    if not issubclass(get_method(loaded.method), HeadCLIP):
        return MethodNetwork(in_domain(loaded, domain), precision)
    loaded = with_pack(loaded, domain)
    return HeadCLIPNetwork(_with_head_weights(loaded, "heads" in learn), learn, precision)


def with_pack(model: Model, domain: str | None = None) -> Model:
    """``model`` with class features in its pack: those that it has, or those of the domain's prompts.

    Raises:
        InputError: a domain for a pack that was made for another one.
    """
    if model.pack is not None and "patch_classes" in model.pack.tensors:
        if domain not in (None, model.pack.record.domain):
            raise InputError(
                f"The domain of the pack {model.pack.record.name} must stay {model.pack.record.domain}",
                domain,
                "Leave the domain out, or choose another pack",
            )
        return model
    chosen = get_domain(domain) if domain else model.domain
    detector = detector_for(model, chosen)
    if not isinstance(detector, HeadCLIP):
        raise ModelError("A network must be of the HeadCLIP family", detector.name, "Use method headclip")
    classes = detector.classes
    tensors = {"patch_classes": torch.stack([classes.patch[layer] for layer in detector.layers])}
    if classes.image is not None:
        tensors["image_classes"] = classes.image
    tensors = {name: value.detach().cpu() for name, value in tensors.items()}
    if model.pack is not None:
        record = model.pack.record.model_copy(update={"domain": chosen.name})
        return replace(model, pack=replace(model.pack, record=record, tensors={**model.pack.tensors, **tensors}))
    record = PackRecord(
        format=PACK_FORMAT,
        name=model.name,
        title=f"Prompts of the domain {chosen.name} for {model.built.architecture}",
        method=model.method,
        tower=tower_record(model.built),
        domain=chosen.name,
        threshold=UNCALIBRATED,
    )
    return replace(model, pack=Pack(Path(), record, tensors, ""))


def _with_head_weights(model: Model, learned: bool) -> Model:
    """``model`` with head weights: its own, or all 1 on every head of the local branch, which changes no number."""
    pack = model.pack
    assert pack is not None
    config = pack.config()
    if "head_weights" in pack.tensors:
        return model
    if config.lhw_dynamic or config.local_attention == "none" or config.lhw_branch != "local":
        if not learned:
            return model
        raise ModelError(
            "Head weights that are learned in a bundle must be static and of the local branch",
            f"lhw_dynamic {config.lhw_dynamic}, local attention {config.local_attention}, branch {config.lhw_branch}",
            "Learn classes alone, or use `headclip-med train`",
        )
    tower = model.built.tower
    rows = tower.depth - first_local_block(tower.depth, config.local_start)
    theta = initial_theta((rows, tower.heads), config.lhw_param)
    return replace(model, pack=replace(pack, tensors={**pack.tensors, "head_weights": theta}))


def _attribute(name: str) -> str:
    """A module's tensors may have no dots in their names."""
    return name.replace(".", "__")
