"""The steps of the main job as MONAI dictionary transforms, so that any MONAI pipeline or bundle can name them.

Whole job in one transform::

    pre = Compose([
        LoadImaged("image", reader="headclip_med.reading.VolumeReader"),
        EnsureChannelFirstd("image"), Orientationd("image", "RAS", labels=None),
    ])
    post = Compose([
        AnomalyMapd("image", model="headclip-tiny"),
        Invertd("anomaly_map", transform=pre, orig_keys="image", nearest_interp=False),
        SaveImaged("anomaly_map", output_dir="out", resample=False),
    ])
    post(pre({"image": "flair.nii.gz"}))

Step by step: ``WindowIntensityd → CutSlicesd → ToPixelsd → DetectSlicesd``, and back with ``Invertd``. Window and plane
are chosen as the engine chooses them for the generic domain. What was assumed about the window is added to
``reader_warnings`` (a string, a line each), and ``plane_reason`` says why this plane. Only the engine knows the
foreground while it scores: its maps are 0 outside, its scores look inside only, and background slices never enter the
tower. The steps score every slice as a whole.

Volumes are MetaTensors ``(C, I, J, K)`` as ``LoadImaged`` and ``EnsureChannelFirstd`` give them, with our readers or
MONAI's, before a batch or after ``decollate_batch``. Pictures may be ``(C, I, J)``. A plain tensor or array is refused,
because it does not know its affine. Everything but an asked-for result can be collated, cached and sent to workers.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TransformBackends
from monai.utils.enums import TraceKeys
from torch import Tensor

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import SliceFrame, check_affine, slice_frame, spacing
from headclip_med.base.types import Plane
from headclip_med.base.volume import flat_meta, listed_meta
from headclip_med.engine.ask import Ask
from headclip_med.engine.engine import Engine
from headclip_med.engine.load import load_engine
from headclip_med.engine.torch_scorer import TorchScorer
from headclip_med.models.domains import choose_window, get_domain
from headclip_med.models.scope import warn_out_of_scope
from headclip_med.reading.sources import OVERSHOOT, check_metatensor, load_source, placed_volume
from headclip_med.slicing.intensity import Fit, Placement, Preprocessing, foreground, intensity_ranges, place
from headclip_med.slicing.pixels import from_square, normalise, rescale, three_channels, to_square
from headclip_med.slicing.slices import cut_slices, slices_to_volume
from headclip_med.slicing.view import Window, choose_planes, given_window

Data = dict[Hashable, Any]

# Keys of a MetaTensor's history: PersistentDataset loads no slices from its cache without them.
torch.serialization.add_safe_globals([TraceKeys])

# A model is loaded once, whichever of a ThreadDataLoader's threads comes first.
_LOADING = threading.Lock()


class WindowIntensityd(MapTransform):
    """Volume ``(C, I, J, K)`` in stored units → [0, 1], clipped.

    Args:
        keys: of volumes.
        window: CT window by name, ``LEVEL/WIDTH`` or a pair. None: for CT what the engine takes, else percentiles of
            the foreground.
        percentiles: lower and upper, in percent.
        allow_missing_keys: data may lack a key.

    Raises:
        InputError: a volume that :class:`AnomalyMapd` would refuse, or percentiles that do not rise from 0 to 100.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(
        self,
        keys: KeysCollection,
        window: str | Window | None = None,
        percentiles: tuple[float, float] = (0.5, 99.5),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        try:
            low, high = percentiles
            rising = 0 <= low < high <= 100
        except (TypeError, ValueError):
            rising = False
        if not rising:
            raise InputError("The percentiles must be two numbers that rise from 0 to 100", percentiles)
        self._window = None if window is None else given_window(window)
        self._spec = Preprocessing(0, (), (), percentiles=percentiles)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Window every key.

        Args:
            data: with volumes under the keys.

        Returns:
            The same, windowed.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            source = _checked(out, key)
            with _naming(key):
                volume = load_source(source)
                window, assumed = choose_window(self._window, get_domain("generic"), volume)
            array, meta = volume.array, volume.meta
            is_rgb, is_2d, inverted = (bool(meta.get(name)) for name in ("is_rgb", "is_2d", "display_inverted"))
            mask = foreground(array, modality=meta.get("modality"), is_rgb=is_rgb, is_2d=is_2d, inverted=inverted)
            ranges = intensity_ranges(array, mask, replace(self._spec, window=window), is_rgb=is_rgb)
            levels = (
                rescale(torch.from_numpy(array).movedim(-1, 0), ranges, inverted=inverted)
                .movedim(0, -1)
                .to(source.device)
            )
            out[key] = _like(source, levels.reshape(source.shape), meta, [*meta.get("reader_warnings", ()), assumed])
        return out


class CutSlicesd(MapTransform, InvertibleTransform):
    """Volume ``(C, I, J, K)`` → slices ``(N, C, H, W)`` in radiological display orientation. The inverse puts
    slices or maps ``(N, C, H, W)`` back as ``(C, I, J, K)``.

    Args:
        keys: of volumes.
        plane: axial, coronal or sagittal. None: the acquisition plane.
        allow_missing_keys: data may lack a key.

    Raises:
        InputError: not a MetaTensor of that shape with a usable affine, or values that are not finite.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(self, keys: KeysCollection, plane: Plane | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.plane = plane

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Cut every key.

        Args:
            data: with volumes under the keys.

        Returns:
            The same, with slices under the keys.

        Raises:
            InputError: several planes, or a volume that cannot be cut.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            source = _checked(out, key)
            with _naming(key):
                volume = placed_volume(source)
                allow_shear = bool(volume.meta.get("sheared"))
                affine = check_affine(volume.affine, "the volume", allow_shear=allow_shear)
                planes, reason = choose_planes(affine, volume, self.plane)
                if len(planes) > 1:
                    raise InputError("A volume must be cut along one plane", ", ".join(planes), "Choose one of them")
            frame = slice_frame(affine, planes[0])
            whole = source.as_tensor().reshape(volume.shape)
            out[key] = _like(source, cut_slices(whole, frame), volume.meta)
            out[key].meta["plane_reason"] = reason
            out[key].meta["slice_pixel_mm"] = torch.from_numpy(spacing(affine)[[frame.row_axis, frame.col_axis]])
            extra = {"frame": _frame_to_list(frame), "spatial_ndim": source.ndim - 1}
            self.push_transform(out[key], extra_info=extra)
        return out

    def inverse(self, data: Mapping[Hashable, Any]) -> Data:
        """Put every key's slices back.

        Args:
            data: with slices or maps under the keys.

        Returns:
            The same, with volumes under the keys.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            slices = _checked(out, key, _SLICES)
            info = self.pop_transform(slices)["extra_info"]
            frame = _frame_from_list(info["frame"])
            volume = torch.stack([slices_to_volume(channel, frame) for channel in slices.as_tensor().unbind(1)])
            out[key] = _like(slices, volume[..., 0] if int(info["spatial_ndim"]) == 2 else volume)
        return out


class ToPixelsd(MapTransform, InvertibleTransform):
    """Slices in [0, 1] ``(N, 1 or 3, H, W)`` → model pixels ``(N, 3, S, S)``. The inverse takes maps
    ``(N, 1, S, S)`` to the slices' own size.

    Args:
        keys: of slices.
        image_size: S.
        mean, std: of the tower's pixels, three each.
        fit: ``pad`` or ``stretch``.
        allow_missing_keys: data may lack a key.

    Raises:
        InputError: slices of another shape or outside [0, 1], or an argument that cannot be meant.
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
        if image_size < 1 or len(mean) != 3 or len(std) != 3 or min(std) <= 0 or fit not in ("pad", "stretch"):
            raise InputError(
                "ToPixelsd must have a size above 0, three means, three deviations above 0, and the fit pad or stretch",
                f"{image_size}, {mean}, {std}, {fit}",
            )
        self._spec = Preprocessing(image_size, tuple(mean), tuple(std), fit=fit)

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Resize and normalise every key.

        Args:
            data: with slices under the keys.

        Returns:
            The same, with pixels under the keys.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            slices = _checked(out, key, _SLICES)
            levels = slices.as_tensor().float()
            _check_levels(levels, key)
            shape = (slices.shape[2], slices.shape[3])
            rows, cols = (float(mm) for mm in listed_meta(slices.meta).get("slice_pixel_mm", (1, 1)))
            where = place(shape, (rows, cols), self._spec.image_size, self._spec.fit)
            with _naming(key):
                pixels = normalise(three_channels(to_square(levels, where)), self._spec)
            out[key] = _like(slices, pixels)
            corner = [where.size, where.top, where.left, where.height, where.width]
            self.push_transform(out[key], extra_info={"placement": corner, "slice_shape": list(shape)})
        return out

    def inverse(self, data: Mapping[Hashable, Any]) -> Data:
        """Bring every key's maps back to the slices' own size.

        Args:
            data: with maps ``(N, 1, S, S)`` under the keys.

        Returns:
            The same, with maps ``(N, 1, H, W)`` under the keys.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            maps = _checked(out, key, _SLICES)
            info = self.pop_transform(maps)["extra_info"]
            height, width = info["slice_shape"]
            placed = Placement(*(int(n) for n in info["placement"]))
            channels = maps.as_tensor().float().unbind(1)
            own = [from_square(channel, placed, (int(height), int(width))) for channel in channels]
            out[key] = _like(maps, torch.stack(own, dim=1))
        return out


class _WithEngine(MapTransform):
    """A transform that runs a model, which is loaded at the first call and kept, but never pickled."""

    def __init__(
        self,
        keys: KeysCollection,
        model: str | Path | Engine[TorchScorer],
        device: str,
        output_key: str | Iterable[str],
        allow_missing_keys: bool,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self._model, self._device = model, device
        self._loaded: Engine[TorchScorer] | None = None
        self.output_keys = _output_keys(self.keys, output_key)

    @property
    def engine(self) -> Engine[TorchScorer]:
        """The loaded engine."""
        if isinstance(self._model, Engine):
            return self._model
        with _LOADING:
            if self._loaded is None:
                self._loaded = load_engine(self._model, self._device)
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}


class DetectSlicesd(_WithEngine):
    """Model pixels ``(N, 3, S, S)`` → maps ``(N, 1, S, S)`` under ``output_key`` and scores ``(N,)`` under
    ``output_key + "_scores"``. The maps carry the pixels' history, so that ``Invertd`` brings them back.

    Args:
        keys: of pixels.
        model: name, path or engine.
        device: of a model that is not an engine yet.
        domain: for the prompts of a model without class features of its own.
        output_key: as of :class:`AnomalyMapd`.
        allow_missing_keys: data may lack a key.

    Raises:
        InputError: pixels of another shape, or values that are not finite.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: str | Path | Engine[TorchScorer] = "headclip-tiny",
        device: str = "auto",
        domain: str | None = None,
        output_key: str | Iterable[str] = "anomaly_map",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, model, device, output_key, allow_missing_keys)
        self.domain = domain

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Score every key's slices.

        Args:
            data: with pixels under the keys.

        Returns:
            The same, with maps and scores.

        Raises:
            InputError: pixels of another shape, or values that are not finite.
        """
        out = dict(data)
        for key, name in self.key_iterator(out, self.output_keys):
            pixels = _checked(out, key, "(N, 3, S, S)")
            if pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
                raise InputError(f"{key} must be pixels (N, 3, S, S)", tuple(pixels.shape), "Put ToPixelsd before")
            with _naming(key):
                batch = self.engine.scorer.score_pixels(pixels.as_tensor().detach().float(), domain=self.domain)
            out[name] = _map_like(out, key, batch.maps[:, None])
            out[f"{name}_scores"] = batch.scores
        return out


class AnomalyMapd(_WithEngine):
    """Volume ``(C, I, J, K)`` or picture ``(C, I, J)`` as read → anomaly map with one channel on the same grid under
    ``output_key``, and its score in [0, 1], a float, under ``output_key + "_score"``.

    What was odd or assumed is in the map's ``meta["reader_warnings"]``, a line each.

    Args:
        keys: of volumes or pictures.
        model: name, path or engine.
        device: of a model that is not an engine yet.
        output_key: of the map. With several keys a name for each, or one that becomes ``KEY_anomaly_map``.
        allow_missing_keys: data may lack a key.
        with_result: also put the whole :class:`~headclip_med.engine.result.AnomalyResult` under ``output_key +
            "_result"``, which no ``DataLoader`` can collate.
        ask: what is asked of every volume.
        predict_options: fields of :class:`headclip_med.engine.ask.Ask` by name, over those of ``ask``, and the other
            keyword arguments of :meth:`Engine.predict`.

    Raises:
        InputError: a volume or an option that cannot be used.
        ModelError: the model or the device cannot be had.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: str | Path | Engine[TorchScorer] = "headclip-tiny",
        device: str = "auto",
        output_key: str | Iterable[str] = "anomaly_map",
        allow_missing_keys: bool = False,
        with_result: bool = False,
        ask: Ask | None = None,
        **predict_options: Any,
    ) -> None:
        super().__init__(keys, model, device, output_key, allow_missing_keys)
        self.with_result, self.ask, self.predict_options = with_result, ask, predict_options
        left_out = ("self", "source", "ask", "options")
        own = [name for name in signature(Engine.predict).parameters if name not in left_out]
        known = [*(field.name for field in fields(Ask)), *own]
        if unknown := sorted(set(predict_options) - set(known)):
            raise InputError(f"The options of AnomalyMapd must be among {', '.join(known)}", ", ".join(unknown))

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Run the main job on every key.

        Args:
            data: with volumes or pictures under the keys.

        Returns:
            The same, with maps and scores.
        """
        out = dict(data)
        for key, name in self.key_iterator(out, self.output_keys):
            source = _checked(out, key)
            with _naming(key):
                result = self.engine.predict(source, self.ask, **self.predict_options)
            warn_out_of_scope(result.warnings)
            found = torch.as_tensor(result.map_array)[None]
            found = found.reshape(1, *source.shape[1:])
            out[name] = _map_like(out, key, found, result.meta, result.warnings)
            out[f"{name}_score"] = result.pred_score
            if self.with_result:
                out[f"{name}_result"] = result
        return out


# What a tensor must be, and which transforms make it so.
_VOLUME = "(C, I, J, K)"
_SLICES = "(N, C, H, W)"


def _checked(data: Data, key: Hashable, shape: str = _VOLUME) -> MetaTensor:
    """``data[key]``, once it is a MetaTensor that can be of that shape, with numbers in it."""
    value = data[key]
    if not isinstance(value, MetaTensor):
        raise InputError(
            f"{key} must be a MetaTensor {shape}, which knows its affine",
            f"a {type(value).__name__}",
            "Load it with LoadImaged and keep track_meta=True, or wrap it: MetaTensor(array, affine=affine)",
        )
    check_metatensor(value, f"{key} {shape}")
    if shape != _VOLUME and value.ndim != 4:
        do = "Put the transforms before it that make slices"
        raise InputError(f"{key} must have the shape {shape}", tuple(value.shape), do)
    return value


def _check_levels(levels: Tensor, key: Hashable) -> None:
    low, high = (float(value) for value in levels.detach().aminmax())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise InputError(
            f"{key} must be slices in [0, 1]",
            f"values from {low:.4g} to {high:.4g}",
            "Put WindowIntensityd before CutSlicesd",
        )


@contextmanager
def _naming(key: Hashable) -> Iterator[None]:
    """Say of which key an error is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{key}: {error.must}", error.given, error.do) from error


def _output_keys(keys: Sequence[Hashable], output_key: str | Iterable[str]) -> tuple[str, ...]:
    """One for each key."""
    if isinstance(output_key, str):
        return (output_key,) if len(keys) == 1 else tuple(f"{key}_{output_key}" for key in keys)
    names = tuple(output_key)
    if len(set(names)) != len(keys):
        given = ", ".join(map(str, names)) or "none"
        raise InputError(f"There must be an output key for each of {', '.join(map(str, keys))}", given)
    return names


def _map_like(
    data: Data, key: Hashable, found: Tensor, known: Mapping[str, Any] | None = None, notes: Sequence[str] | None = None
) -> MetaTensor:
    """A map with the affine, metadata and history of its source.

    ``Invertd`` gives the map its source's metadata, so the source is told what the map is: what was assumed, and that
    it has no channel axis of a file, or MONAI's ``SaveImage`` would mistake the grid of a colour picture's map.
    """
    source = data[key] = _like(data[key], data[key].as_tensor(), known, notes)
    source.meta["original_channel_dim"] = float("nan")
    return _like(source, found)


def _like(
    source: MetaTensor, data: Tensor, known: Mapping[str, Any] | None = None, notes: Sequence[str] | None = None
) -> MetaTensor:
    """``data`` with the affine and history of ``source``, and its metadata in a form that can be in a batch.

    Args:
        known: the metadata as the engine reads it, default as it stands.
        notes: instead of its warnings.
    """
    meta = {**listed_meta(source.meta if known is None else known), "affine": source.affine}
    if notes is not None:
        meta["reader_warnings"] = [note for note in dict.fromkeys(notes) if note]
    return MetaTensor(data.contiguous(), meta=flat_meta(meta), applied_operations=list(source.applied_operations))


def _frame_to_list(frame: SliceFrame) -> list[Any]:
    axes, flips = (frame.axis, frame.row_axis, frame.col_axis), (frame.flip_rows, frame.flip_cols)
    return [frame.plane, *map(int, axes), *map(bool, flips)]  # numpy's own would not be loaded again from a cache


def _frame_from_list(values: Sequence[Any]) -> SliceFrame:
    plane, axis, row_axis, col_axis, flip_rows, flip_cols = values
    return SliceFrame(plane, int(axis), int(row_axis), int(col_axis), bool(flip_rows), bool(flip_cols))
