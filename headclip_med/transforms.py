"""The steps of the main job as MONAI dictionary transforms, so that any MONAI pipeline or bundle can name them.

Whole job in one transform::

    pre = Compose([
        LoadImaged("image", reader="headclip_med.reading.NiftiReader"),
        EnsureChannelFirstd("image"), Orientationd("image", "RAS"),
    ])
    post = Compose([
        AnomalyMapd("image", model="headclip-tiny"),
        Invertd("anomaly_map", transform=pre, orig_keys="image"),
        SaveImaged("anomaly_map", output_dir="out", resample=False),
    ])
    post(pre({"image": "flair.nii.gz"}))

Step by step: ``WindowIntensityd → CutSlicesd → ToPixelsd → DetectSlicesd``, and back with ``Invertd``. Window and plane
are chosen as the engine chooses them for the generic domain; what was assumed about the window is added to
``reader_warnings``, and ``plane_reason`` says why this plane. Only the engine knows the foreground while it scores: its
maps are 0 outside, its scores look inside only, and background slices never enter the tower. The steps score every
slice as a whole.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TransformBackends
from torch import Tensor

from headclip_med.engine import Engine, load_engine
from headclip_med.geometry import SliceFrame, check_affine, slice_frame, spacing
from headclip_med.intensity import Fit, Placement, Preprocessing, foreground, intensity_ranges, parse_window, place
from headclip_med.packs.domains import get_domain
from headclip_med.packs.scope import warn_out_of_scope
from headclip_med.pixels import from_square, normalise, rescale, three_channels, to_square
from headclip_med.prepare import choose_planes, choose_window
from headclip_med.slices import cut_slices, slices_to_volume
from headclip_med.types import Plane

Data = dict[Hashable, Any]


class WindowIntensityd(MapTransform):
    """Volume ``(C, I, J, K)`` in stored units → [0, 1], clipped.

    Args:
        window: CT window by name or ``LEVEL/WIDTH``; None: for CT what the engine takes, else percentiles of the
            foreground.
        percentiles: lower and upper, in percent.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(
        self,
        keys: KeysCollection,
        window: str | None = None,
        percentiles: tuple[float, float] = (0.5, 99.5),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self._window = None if window is None else parse_window(window)
        self._spec = Preprocessing(0, (), (), percentiles=percentiles)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Window every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            volume: MetaTensor = out[key]
            window, assumed = choose_window(self._window, get_domain("generic"), volume)
            is_rgb, is_2d, inverted = (
                bool(volume.meta.get(name, False)) for name in ("is_rgb", "is_2d", "display_inverted")
            )
            array = np.asarray(volume.as_tensor().numpy(), dtype=np.float32)
            mask = foreground(
                array, modality=volume.meta.get("modality"), is_rgb=is_rgb, is_2d=is_2d, inverted=inverted
            )
            ranges = intensity_ranges(array, mask, replace(self._spec, window=window), is_rgb=is_rgb)
            levels = rescale(torch.from_numpy(array).movedim(-1, 0), ranges, inverted=inverted).movedim(0, -1)
            out[key] = _like(volume, levels, assumed)
        return out


class CutSlicesd(MapTransform, InvertibleTransform):
    """Volume ``(C, I, J, K)`` → slices ``(N, C, H, W)`` in radiological display orientation; the inverse puts
    single-channel maps ``(N, 1, H, W)`` back as ``(1, I, J, K)``.

    Args:
        plane: axial, coronal or sagittal; None: the acquisition plane.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(self, keys: KeysCollection, plane: Plane | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.plane = plane

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Cut every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            volume: MetaTensor = out[key]
            affine = check_affine(np.asarray(volume.affine, dtype=np.float64), str(key))
            planes, reason = choose_planes(affine, volume, self.plane)
            frame = slice_frame(affine, planes[0])
            out[key] = _like(volume, cut_slices(volume.as_tensor(), frame))
            out[key].meta["plane_reason"] = reason
            rows, cols = (float(spacing(affine)[a]) for a in (frame.row_axis, frame.col_axis))
            out[key].meta["slice_pixel_mm"] = [rows, cols]
            self.push_transform(out[key], extra_info={"frame": _frame_to_list(frame)})
        return out

    def inverse(self, data: Mapping[Hashable, Any]) -> Data:
        """Put every key's maps back."""
        out = dict(data)
        for key in self.key_iterator(out):
            maps: MetaTensor = out[key]
            frame = _frame_from_list(self.pop_transform(maps)["extra_info"]["frame"])
            out[key] = _like(maps, slices_to_volume(maps.as_tensor()[:, 0], frame)[None])
        return out


class ToPixelsd(MapTransform, InvertibleTransform):
    """Slices in [0, 1] ``(N, 1 or 3, H, W)`` → model pixels ``(N, 3, S, S)``; the inverse takes maps
    ``(N, 1, S, S)`` to the slices' own size.

    Args:
        image_size: S; mean, std: of the tower's pixels; fit: ``pad`` or ``stretch``.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(
        self,
        keys: KeysCollection,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        fit: Fit = "pad",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self._spec = Preprocessing(image_size, tuple(mean), tuple(std), fit=fit)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Resize and normalise every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            slices: MetaTensor = out[key]
            shape = (slices.shape[2], slices.shape[3])
            pixel_mm = slices.meta.get("slice_pixel_mm", [1.0, 1.0])
            where = place(shape, (pixel_mm[0], pixel_mm[1]), self._spec.image_size, self._spec.fit)
            pixels = normalise(three_channels(to_square(slices.as_tensor(), where)), self._spec)
            out[key] = _like(slices, pixels)
            corner = [where.size, where.top, where.left, where.height, where.width]
            self.push_transform(out[key], extra_info={"placement": corner, "slice_shape": list(shape)})
        return out

    def inverse(self, data: Mapping[Hashable, Any]) -> Data:
        """Bring every key's maps back to the slices' own size."""
        out = dict(data)
        for key in self.key_iterator(out):
            maps: MetaTensor = out[key]
            info = self.pop_transform(maps)["extra_info"]
            height, width = info["slice_shape"]
            placed = Placement(*(int(n) for n in info["placement"]))
            out[key] = _like(maps, from_square(maps.as_tensor()[:, 0], placed, (int(height), int(width)))[:, None])
        return out


class _WithEngine(MapTransform):
    """A transform that runs a model; the model is loaded at the first call and kept."""

    def __init__(
        self,
        keys: KeysCollection,
        model: str | Path | Engine,
        device: str,
        output_key: str,
        allow_missing_keys: bool,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self._model, self._device, self.output_key = model, device, output_key

    @property
    def engine(self) -> Engine:
        """The loaded engine."""
        if not isinstance(self._model, Engine):
            self._model = load_engine(self._model, self._device)
        return self._model


class DetectSlicesd(_WithEngine):
    """Model pixels ``(N, 3, S, S)`` → maps ``(N, 1, S, S)`` under ``output_key`` and scores ``(N,)`` under
    ``output_key + "_scores"``; the maps carry the pixels' history, so that ``Invertd`` brings them back.

    Args:
        model: name, path or engine; domain: for the prompts of a model without class features of its own.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: str | Path | Engine = "headclip-tiny",
        device: str = "auto",
        domain: str | None = None,
        output_key: str = "anomaly_map",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, model, device, output_key, allow_missing_keys)
        self.domain = domain

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Score every key's slices."""
        out = dict(data)
        for key in self.key_iterator(out):
            batch = self.engine.score_pixels(out[key].as_tensor(), domain=self.domain)
            out[self.output_key] = _like(out[key], batch.maps[:, None])
            out[f"{self.output_key}_scores"] = batch.scores
        return out


class AnomalyMapd(_WithEngine):
    """Volume ``(C, I, J, K)`` as read → anomaly map ``(1, I, J, K)`` on the same grid under ``output_key``, and the
    whole :class:`~headclip_med.result.AnomalyResult` under ``output_key + "_result"``.

    Args:
        model: name, path or engine; predict_options: keyword arguments of :meth:`Engine.predict`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: str | Path | Engine = "headclip-tiny",
        device: str = "auto",
        output_key: str = "anomaly_map",
        allow_missing_keys: bool = False,
        **predict_options: Any,
    ) -> None:
        super().__init__(keys, model, device, output_key, allow_missing_keys)
        self.predict_options = predict_options

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Run the main job on every key."""
        out = dict(data)
        for key in self.key_iterator(out):
            result = self.engine.predict(out[key], **self.predict_options)
            warn_out_of_scope(result.warnings)
            out[self.output_key] = _like(out[key], result.volume_map.as_tensor())
            out[self.output_key].meta["original_channel_dim"] = "no_channel"  # one channel, whatever the source had
            out[f"{self.output_key}_result"] = result
        return out


def _like(source: MetaTensor, data: Tensor, assumed: str = "") -> MetaTensor:
    """``data`` with the affine, metadata and transform history of ``source``; ``assumed`` joins its warnings."""
    out = MetaTensor(data.contiguous(), applied_operations=list(source.applied_operations))
    out.copy_meta_from(source, copy_attr=True)
    if assumed:
        out.meta["reader_warnings"] = [*source.meta.get("reader_warnings", []), assumed]
    return out


def _frame_to_list(frame: SliceFrame) -> list[Any]:
    return [frame.plane, frame.axis, frame.row_axis, frame.col_axis, frame.flip_rows, frame.flip_cols]


def _frame_from_list(values: Sequence[Any]) -> SliceFrame:
    plane, axis, row_axis, col_axis, flip_rows, flip_cols = values
    return SliceFrame(plane, int(axis), int(row_axis), int(col_axis), bool(flip_rows), bool(flip_cols))
