"""The detector as a graph that exporters can trace: pixels and valid → map and score, in float32."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from headclip_med.base.errors import ModelError
from headclip_med.bundle.build_model import with_pack
from headclip_med.bundle.network import HeadCLIPNetwork
from headclip_med.detectors import ClassFeatures, HeadCLIP
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import first_local_block
from headclip_med.models.load import Model, detector_for, place_model


class ExportGraph(nn.Module):
    """:meth:`headclip_med.detectors.HeadCLIP.compute` for one image size and any batch.

    Holds what the graph needs and no more: the tower's parts up to the last block that is used, its positions
    resampled, class features, and output projections with the head weights in them.

    Args:
        detector: on the CPU, in float32.

    Attributes:
        image_size: side S of the square input in pixels.

    Raises:
        ModelError: a tower in 16 bits, or on another device than the CPU.
    """

    def __init__(self, detector: HeadCLIP) -> None:
        super().__init__()
        _check_exact(detector)
        self.image_size = detector.image_size
        config = replace(detector.config, image_size=self.image_size, kernel="fused")
        last = max(detector.layers) if not detector.wants_image_score else detector.tower.depth - 1
        self.tower = detector.tower.for_size(self.image_size, last, config.position_mode)
        self._detector = HeadCLIP(self.tower, detector.classes, config, detector.head_weights, name=detector.name)
        weights = self._detector.head_weights
        self.predictor = weights if isinstance(weights, nn.Module) else None
        self._register_classes()
        self._register_head_weights()
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the probability of abnormal, and the slice score.

        Args:
            pixels: ``(N, 3, S, S)`` float32, normalised as the tower expects.
            valid: ``(N, S, S)`` float32, 1 inside the patient, 0 elsewhere. It limits the score, not the map.

        Returns:
            ``(N, 1, S, S)`` and ``(N,)``, float32 in [0, 1].
        """
        out = self._filled().compute(pixels, valid)
        return out.maps[:, None], out.scores

    def example(self, count: int) -> tuple[Tensor, Tensor]:
        """Make inputs of the right shapes.

        Args:
            count: slices N.

        Returns:
            Pixels ``(N, 3, S, S)`` of noise, and valid ``(N, S, S)`` that is 1 everywhere.
        """
        generator = torch.Generator().manual_seed(0)
        shape = (self.image_size, self.image_size)
        return torch.randn(count, 3, *shape, generator=generator), torch.ones(count, *shape)

    def _register_classes(self) -> None:
        classes = self._detector.classes
        for layer, patch in classes.patch.items():
            self.register_buffer(f"patch_classes_{layer}", patch.clone())
        for layer, centre in classes.centre.items():
            self.register_buffer(f"centre_{layer}", centre.clone())
        self.register_buffer("image_classes", classes.image)

    def _register_head_weights(self) -> None:
        detector = self._detector
        weights = detector.head_weights if isinstance(detector.head_weights, HeadWeights) else HeadWeights()
        self.register_buffer("local_weights", weights.local)
        self.register_buffer("global_weights", weights.global_)
        self._folded_layers: tuple[int, ...] = ()
        if detector.folded is not None:
            start = first_local_block(self.tower.depth, detector.config.local_start)
            self._folded_layers = tuple(range(start, max(detector.layers) + 1))
            for layer in self._folded_layers:
                self.register_buffer(f"folded_{layer}", detector.folded[layer])

    def _filled(self) -> HeadCLIP:
        """The detector with this module's own tensors in it, which tracers know."""
        detector = copy.copy(self._detector)
        detector.classes = ClassFeatures(
            patch={layer: getattr(self, f"patch_classes_{layer}") for layer in detector.classes.patch},
            image=self.image_classes,
            centre={layer: getattr(self, f"centre_{layer}") for layer in detector.classes.centre},
        )
        if isinstance(detector.head_weights, HeadWeights):
            detector.head_weights = replace(
                detector.head_weights, local=self.local_weights, global_=self.global_weights
            )
        if detector.folded is not None:
            detector.folded = {layer: getattr(self, f"folded_{layer}") for layer in self._folded_layers}
        return detector


def exportable(network: HeadCLIPNetwork | Model, domain: str | None = None) -> tuple[Model, HeadCLIP]:
    """Prepare a model for export: class features in its pack, float32, on the CPU.

    Args:
        network: as :func:`headclip_med.bundle.build_model.build_network` makes it, or a loaded model.
        domain: whose prompts become the class features of a CLIP tower without a pack.

    Returns:
        The model, and its detector.

    Raises:
        ModelError: another method than HeadCLIP's family, or a tower already placed elsewhere or in 16 bits.
    """
    model = with_pack(network.model if isinstance(network, HeadCLIPNetwork) else network, domain)
    model = place_model(model, torch.device("cpu"), torch.float32)
    detector = detector_for(model, model.domain)
    if not isinstance(detector, HeadCLIP):
        raise ModelError("An exported model must be of the HeadCLIP family", detector.name, "Use method headclip")
    return model, detector


def _check_exact(detector: HeadCLIP) -> None:
    tower = detector.tower
    if tower.dtype != torch.float32 or tower.device.type != "cpu":
        raise ModelError(
            "A model must be on the CPU in float32 to be exported",
            f"{tower.dtype} on {tower.device}".removeprefix("torch."),
            "Load it again with precision float32",
        )
