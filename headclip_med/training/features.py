"""Training slices → what a step needs of them: kept in memory as far as it goes, computed again beyond that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from headclip_med.detectors.losses import IGNORED, VALID_SHARE
from headclip_med.encoders.heads import HeadWeights
from headclip_med.encoders.image import Contributions, EncodeOptions, encode_images, local_contributions
from headclip_med.encoders.tower import ImageTower
from headclip_med.training.adapter import Adapter
from headclip_med.training.feature_store import FeatureStore
from headclip_med.training.linear import in_half, stack_contributions, tapped_features
from headclip_med.training.slices import TrainingSlice

# linear: from contributions; autograd: through the tower; fixed: features that nothing learned can change.
Mode = Literal["linear", "autograd", "fixed"]
_PARTS = ("base", "heads", "cls_token")  # of contributions, in the order of its fields
_GLOBAL = "global_feature"


@dataclass(frozen=True)
class PatchTruth:
    """Truth on the patch grid: lesion share ``(N, Hp, Wp)``, valid ``(N, Hp, Wp)`` 0 or 1, labels ``(N,)``."""

    lesion: Tensor
    valid: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Kept:
    """One slice without gradients: contributions, or raw projected features by layer and the global feature."""

    parts: Contributions | None = None
    features: dict[int, Tensor] | None = None
    global_feature: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        tensors = [] if self.parts is None else [self.parts.base, self.parts.heads]
        tensors += list((self.features or {}).values())
        return sum(t.element_size() * t.nelement() for t in tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Name all of it, as :meth:`of` reads it.

        Returns:
            Tensors by name.
        """
        named = {f"layer.{layer}": value for layer, value in (self.features or {}).items()}
        if self.parts is not None:
            named |= {name: getattr(self.parts, name) for name in _PARTS}
        known = self.global_feature if self.parts is None else self.parts.global_feature
        return named if known is None else {**named, _GLOBAL: known}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], grid: tuple[int, int]) -> Kept:
        """Read what :meth:`tensors` gave, of a slice with this patch grid.

        Args:
            tensors: By name.
            grid: Rows and columns of patches.

        Returns:
            The same as was kept.
        """
        known = tensors.get(_GLOBAL)
        if _PARTS[0] in tensors:
            base, heads, cls_token = (tensors[name] for name in _PARTS)
            return cls(parts=Contributions(base, heads, cls_token, known, grid))
        layers = {int(name.removeprefix("layer.")): value for name, value in tensors.items() if name != _GLOBAL}
        return cls(features=dict(sorted(layers.items())), global_feature=known)


class FeatureBank:
    """Features of the training slices under the current head weights.

    Args:
        tower: Frozen.
        options: Which layers are tapped and how.
        slices: Those that are trained on.
        mode: ``linear``, ``autograd`` or ``fixed``.
        cache_bytes: Memory for what is kept. Slices that come later are computed whenever they are asked for.
        foreground_only: Whether only patches of the patient are valid.
        store: Where what is kept also lies on disk, for a run that goes on after an interruption.
    """

    def __init__(
        self,
        tower: ImageTower,
        options: EncodeOptions,
        slices: Sequence[TrainingSlice],
        mode: Mode,
        cache_bytes: float,
        foreground_only: bool = True,
        store: FeatureStore | None = None,
    ) -> None:
        self._store = store
        self.tower, self.options, self.slices, self.mode = tower, options, slices, mode
        self.foreground_only = foreground_only
        self._left = cache_bytes
        self._kept: dict[int, Kept] = {}

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def labels(self) -> list[bool]:
        """Whether each slice holds a lesion."""
        return [part.label for part in self.slices]

    def truth(self, indices: Sequence[int]) -> PatchTruth:
        """Average the masks of some slices on the patch grid.

        Args:
            indices: N places in ``slices``.

        Returns:
            Lesion share and valid patches ``(N, Hp, Wp)``, and labels ``(N,)``.
        """
        chosen = [self.slices[i] for i in indices]
        side = chosen[0].mask.shape[-1] // self.tower.patch_size
        masks = torch.stack([part.mask for part in chosen])
        valid = torch.stack([part.valid for part in chosen]).float()
        lesion = F.adaptive_avg_pool2d((masks == 1).float()[:, None], (side, side))[:, 0]
        inside = F.adaptive_avg_pool2d(valid[:, None], (side, side))[:, 0] >= VALID_SHARE
        inside = inside if self.foreground_only else torch.ones_like(inside)
        inside &= F.adaptive_max_pool2d((masks == IGNORED).float()[:, None], (side, side))[:, 0] == 0
        labels = torch.tensor([part.label for part in chosen], dtype=torch.float32)
        return PatchTruth(lesion, inside.float(), labels)

    def features(self, adapter: Adapter, indices: Sequence[int]) -> tuple[dict[int, Tensor], Tensor | None]:
        """Compute normalised features, whose gradients reach the adapter only.

        Args:
            adapter: Gives head weights and centres.
            indices: N places in ``slices``.

        Returns:
            Patch features by layer ``(N, P, D)``, and the global feature ``(N, D)`` or None.
        """
        centre = adapter.centres()
        if self.mode == "autograd":
            pixels = torch.stack([self.slices[i].pixels for i in indices]).float()
            out = encode_images(self.tower, pixels, self.options, head_weights=adapter.weights(), centre=centre)
            return out.patch_features, out.global_feature
        kept = [self._keep(i) for i in indices]
        if self.mode == "fixed":
            return _fixed(kept, centre)
        parts = stack_contributions([k.parts for k in kept if k.parts is not None])
        weights = adapter.weights()
        weights = weights(parts.cls_token) if callable(weights) else weights
        taps = tapped_features(self.tower, parts, weights, self.options, centre=centre)
        return taps, parts.global_feature

    @torch.no_grad()
    def raw_features(self, index: int, weights: HeadWeights | None = None) -> dict[int, Tensor]:
        """Compute the projected features of one slice before centring.

        Args:
            index: Place in ``slices``.
            weights: Of the heads, every one 1 by default. Of no effect in the mode ``fixed``.

        Returns:
            ``(P, D)`` by layer, not normalised.
        """
        if self.mode == "fixed":
            features = self._keep(index).features or {}
        elif self.mode == "linear":
            parts = self._keep(index).parts
            assert parts is not None
            features = tapped_features(self.tower, parts, weights or HeadWeights(), self.options, normalise=False)
        else:
            pixels = self.slices[index].pixels[None].float()
            out = encode_images(self.tower, pixels, self.options, head_weights=weights, normalise=False)
            features = out.patch_features
        return {layer: part[0] for layer, part in features.items()}

    def _keep(self, index: int) -> Kept:
        if index in self._kept:
            return self._kept[index]
        pixels = self.slices[index].pixels
        stored = None if self._store is None else self._store.read(pixels)
        kept = self._computed(pixels) if stored is None else Kept.of(stored, self.tower.grid(pixels))
        if kept.bytes <= self._left:
            self._left -= kept.bytes
            self._kept[index] = kept
            if stored is None and self._store is not None:
                self._store.write(pixels, kept.tensors())
        return kept

    def _computed(self, pixels: Tensor) -> Kept:
        batch = pixels[None].float()
        if self.mode == "fixed":
            with torch.no_grad():
                out = encode_images(self.tower, batch, self.options, normalise=False)
            return Kept(features=out.patch_features, global_feature=out.global_feature)
        return Kept(parts=in_half(local_contributions(self.tower, batch, self.options)))


def _fixed(kept: Sequence[Kept], centre: dict[int, Tensor]) -> tuple[dict[int, Tensor], Tensor | None]:
    layers = list(kept[0].features or {})
    taps = {
        layer: F.normalize(torch.cat([(k.features or {})[layer] for k in kept]) - centre[layer], dim=-1)
        for layer in layers
    }
    known = [k.global_feature for k in kept if k.global_feature is not None]
    return taps, torch.cat(known) if len(known) == len(kept) else None
