"""Whole cases through a network: what a bundle names as its inferer, and the transform that takes its scores out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.inferers import Inferer
from monai.transforms import MapTransform
from torch import Tensor, nn
from torch.nn import functional as F

from headclip_med.base.errors import InputError, ModelError
from headclip_med.base.geometry import slice_frame
from headclip_med.bundle.network import HeadCLIPNetwork, MethodNetwork
from headclip_med.engine.ask import Ask
from headclip_med.engine.result import AnomalyResult
from headclip_med.models.scope import warn_out_of_scope
from headclip_med.slicing.intensity import Channels

# What the inferer leaves in a map's metadata, and :class:`TakeScoresd` takes out.
PRED_SCORE, SLICE_SCORES, SLICE_BACKGROUND, SLICE_AXIS = "pred_score", "slice_scores", "slice_background", "slice_axis"
WARNINGS = "score_warnings"


class HeadCLIPInferer(Inferer):
    """Volumes or images as read → anomaly maps on the same grid, with slice scores and a score of the whole.

    Everything between is the engine's: window, foreground, slices of the acquisition plane, model pixels, and back.
    So the maps are those of ``headclip-med predict`` on the same file.

    Args:
        plane, window, channels, smooth_mm: as of :class:`headclip_med.engine.ask.Ask`.
        batch_size: slices at once, default the engine's own.
        progress: called with slices done and slices in all.
    """

    def __init__(
        self,
        plane: str | Sequence[str] | None = None,
        window: str | None = None,
        channels: Channels | None = None,
        smooth_mm: float | None = None,
        batch_size: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        self.ask = Ask(plane=plane, window=window, channels=channels, smooth_mm=smooth_mm)
        self.batch_size, self.progress = batch_size, progress

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> MetaTensor:
        """Score a batch.

        Args:
            inputs: volumes ``(B, C, I, J, K)``, or plain images ``(B, C, I, J)``, as read: not windowed, not resized to
                the model. A MetaTensor brings its affine and what our readers know of it. A plain tensor is taken as
                RAS with 1 mm voxels.
            network: of :func:`headclip_med.bundle.network.build_network`, also within DistributedDataParallel.
            args, kwargs: not used.

        Returns:
            ``(B, 1, I, J, K)`` or ``(B, 1, I, J)`` in [0, 1] with the inputs' affine, metadata and history, on their
            device. Its metadata also holds ``pred_score``, ``slice_scores (N,)`` with ``slice_background (N,)``, and
            ``slice_axis``: the spatial axis that slices are counted along. Members of a batch may differ in it: scores
            behind the last slice are NaN. ``score_warnings`` says what was odd or assumed, a line each.

        Raises:
            InputError, ModelError: a shape, a volume or a network that cannot be used.
        """
        if inputs.ndim not in (4, 5):
            raise InputError(
                "The input of HeadCLIPInferer must be (B, C, I, J, K), or (B, C, I, J) for plain images",
                tuple(inputs.shape),
                "Add a channel axis with EnsureChannelFirstd",
            )
        maps = [self._map(item, _network(network)) for item in _items(inputs)]
        most = max(len(found.meta[SLICE_SCORES]) for found in maps)
        for found in maps:
            lacking = (0, most - len(found.meta[SLICE_SCORES]))
            found.meta[SLICE_SCORES] = F.pad(found.meta[SLICE_SCORES], lacking, value=torch.nan)
            found.meta[SLICE_BACKGROUND] = F.pad(found.meta[SLICE_BACKGROUND], lacking, value=True)
        collated: MetaTensor = list_data_collate(maps)
        return collated.to(inputs.device)

    def predict(self, volume: Tensor, network: Callable[..., Any]) -> AnomalyResult:
        """Score one volume or image, with the whole result.

        Args:
            volume: ``(C, I, J, K)``, or ``(C, I, J)`` of an image.
            network: as of :meth:`__call__`.

        Returns:
            Slices, findings and all.
        """
        engine = _network(network).as_engine(self.batch_size)
        return engine.predict(_as_volume(volume), self.ask, progress=self.progress)

    def _map(self, item: Tensor, network: HeadCLIPNetwork | MethodNetwork) -> MetaTensor:
        result = self.predict(item, network)
        warn_out_of_scope(result.warnings)
        found = torch.as_tensor(result.map_array).reshape(1, *item.shape[1:])
        history = list(item.applied_operations) if isinstance(item, MetaTensor) else []
        return MetaTensor(found, meta={**_known(item), **_scores(result)}, applied_operations=history)


class TakeScoresd(MapTransform):
    """The scores in a map's metadata → entries of the data: ``KEY_score`` (a float), ``KEY_slice_scores``,
    ``KEY_slice_background``, ``KEY_slice_axis`` and ``KEY_warnings``.

    Put it before ``Invertd``, which replaces the metadata.

    Args:
        keys: maps of :class:`HeadCLIPInferer`.
        allow_missing_keys: data may lack a key.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take the scores of every key.

        Args:
            data: with maps under the keys.

        Returns:
            The same, and the scores.

        Raises:
            InputError: a map without scores.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            meta = out[key].meta
            if PRED_SCORE not in meta:
                raise InputError(
                    f"{key} must be a map of HeadCLIPInferer", "no scores with it", "Put TakeScoresd first"
                )
            out[f"{key}_score"] = float(meta[PRED_SCORE])
            axis = int(meta[SLICE_AXIS])
            count = (*out[key].shape[1:], 1)[axis]  # an image has one slice
            out[f"{key}_slice_scores"] = torch.as_tensor(meta[SLICE_SCORES])[:count]
            out[f"{key}_slice_background"] = torch.as_tensor(meta[SLICE_BACKGROUND])[:count]
            out[f"{key}_slice_axis"] = axis
            out[f"{key}_warnings"] = str(meta.get(WARNINGS, ""))
        return out


class PatchGridInferer(Inferer):
    """Model pixels ``(N, 3, S, S)`` → maps on the patch grid ``(N, 1, Hp, Wp)``: the inferer of a trainer."""

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the network, through whatever wraps it.

        Args:
            inputs: ``(N, 3, S, S)``.
            network: of HeadCLIP's family.
            args, kwargs: not used.

        Returns:
            ``(N, 1, Hp, Wp)`` in [0, 1].

        Raises:
            ModelError: a network of another method, whose loss takes no maps.
        """
        if isinstance(network, MethodNetwork):
            raise ModelError(
                "The workflow train must have a network of HeadCLIP's family",
                network.model.method,
                "Run the workflow train_method",
            )
        return network(inputs, patch_grid=True)


class PixelsInferer(Inferer):
    """Hands the pixels on as they are: the inferer of a trainer whose loss is a method's own."""

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Give the pixels, as the loss runs the network.

        Args:
            inputs: ``(N, 3, S, S)``.
            network, args, kwargs: not used.

        Returns:
            ``inputs``.
        """
        return inputs


def _network(network: Callable[..., Any]) -> HeadCLIPNetwork | MethodNetwork:
    inner = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    if not isinstance(inner, (HeadCLIPNetwork, MethodNetwork)):
        raise ModelError(
            "The network of HeadCLIPInferer must be one of headclip_med.bundle.network.build_network",
            type(inner).__name__,
            "Use network_def as the bundle defines it",
        )
    return inner


def _items(inputs: Tensor) -> list[Tensor]:
    """The members of a batch, each with its own metadata."""
    if isinstance(inputs, MetaTensor) and inputs.is_batch:
        return list(decollate_batch(inputs, detach=True))
    return list(inputs.detach())


def _known(item: Tensor) -> dict[str, Any]:
    """The metadata that has a value: what a batch could not carry comes out of it as None."""
    return {k: v for k, v in item.meta.items() if v is not None} if isinstance(item, MetaTensor) else {}


def _as_volume(item: Tensor) -> MetaTensor:
    """What the engine takes: a MetaTensor, which says of an image that it has two axes."""
    data = item.as_tensor() if isinstance(item, MetaTensor) else item
    meta = _known(item)
    if item.ndim == 3:
        meta["spatial_shape"] = torch.tensor(item.shape[1:])
    return MetaTensor(data, meta=meta)


def _scores(result: AnomalyResult) -> dict[str, Any]:
    """Scores as entries of a map's metadata."""
    return {
        PRED_SCORE: result.pred_score,
        SLICE_SCORES: torch.tensor([part.score for part in result.slices]),
        SLICE_BACKGROUND: torch.tensor([part.background for part in result.slices]),
        SLICE_AXIS: slice_frame(result.affine, result.planes[0]).axis,
        WARNINGS: "\n".join(result.warnings),
    }
