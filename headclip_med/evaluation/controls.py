"""Trivial detectors that a method has to beat before it has shown anything.

On FLAIR, lesions are bright; in a colonoscopy, polyps are red; much that is abnormal has edges. A control knows one
such thing and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import check_affine, slice_centres, slice_frame
from headclip_med.base.versions import package_versions
from headclip_med.engine.result import AnomalyResult, SliceScore
from headclip_med.engine.volume_map import find_components, volume_score
from headclip_med.reading.sources import with_meta
from headclip_med.slicing.intensity import foreground
from headclip_med.slicing.view import choose_planes

if TYPE_CHECKING:
    from headclip_med.engine.batches import Cancel
    from headclip_med.engine.scan_run import SlicesDone

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

# In voxels within the slice: of the gradient, and of the neighbourhood that a control's map is smooth over.
_GRADIENT_SIGMA, _SMOOTH_SIGMA = 1.0, 4.0
# A slice's score is the mean of this share of its highest values inside the foreground.
_TOP_SHARE = 0.01
# Two standard deviations above the mean: the usual cut for "bright".
_Z_THRESHOLD = float(expit(2.0))


def _z_score(values: Array, inside: Mask) -> Array:
    """Logistic function of the z-score within the foreground, 0 outside it."""
    spread = float(values[inside].std()) if inside.any() else 0.0
    centred = values - (float(values[inside].mean()) if inside.any() else 0.0)
    return np.where(inside, expit(centred / (spread or 1.0)), 0.0).astype(np.float32)


def _intensity(array: Array, inside: Mask, axis: int) -> Array:
    return _z_score(array.mean(axis=0, dtype=np.float32), inside)


def _redness(array: Array, inside: Mask, axis: int) -> Array:
    if len(array) != 3:
        raise InputError("The control redness must be given colour images", f"{len(array)} channel(s)")
    return _z_score(array[0] / (array.sum(axis=0) + 1), inside)


def _edges(array: Array, inside: Mask, axis: int) -> Array:
    """How much edge there is around a voxel: the magnitude of the Gaussian gradient within the slice, smoothed.

    In voxels, whatever their size in mm; the outline of the patient is an edge too.
    """
    grey = array.mean(axis=0, dtype=np.float32)
    across = [other for other in range(3) if other != axis]
    slopes = [
        ndimage.gaussian_filter(grey, _within(axis, _GRADIENT_SIGMA), order=[int(other == along) for other in range(3)])
        for along in across
    ]
    return _z_score(ndimage.gaussian_filter(np.hypot(*slopes), _within(axis, _SMOOTH_SIGMA)), inside)


def _within(axis: int, sigma: float) -> list[float]:
    """``sigma`` along the array axes of a slice, none from slice to slice."""
    return [0.0 if other == axis else sigma for other in range(3)]


def _chance(array: Array, inside: Mask, axis: int) -> Array:
    """Smooth noise seeded by the image itself: the same image always gets the same map."""
    seed = int.from_bytes(hashlib.sha256(array.tobytes()).digest()[:8], "little")
    noise = np.random.default_rng(seed).standard_normal(array.shape[1:], dtype=np.float32)
    sigma = [_SMOOTH_SIGMA if size > 1 else 0.0 for size in noise.shape]
    return _z_score(np.asarray(ndimage.gaussian_filter(noise, sigma)), inside)


# By name: (channels, I, J, K), the foreground (I, J, K) and the array axis of the slices → a map in [0, 1].
CONTROLS: dict[str, Callable[[Array, Mask, int], Array]] = {
    "intensity": _intensity,
    "redness": _redness,
    "edges": _edges,
    "chance": _chance,
}


@dataclass(frozen=True)
class Control:
    """A control by name, as in :data:`CONTROLS`."""

    name: str
    cut: float | None = None

    def predict(
        self, volume: MetaTensor, *, progress: SlicesDone | None = None, cancel: Cancel | None = None
    ) -> AnomalyResult:
        """Score one volume by the one thing that the control knows.

        Args:
            volume: ``(C, I, J, K)``.
            progress: Never called, as a control is done at once.
            cancel: Never asked.

        Returns:
            The control's map, its slice scores and the findings above its threshold.

        Raises:
            InputError: an affine that cannot be used, or ``redness`` and an image without three channels.
        """
        affine = check_affine(np.asarray(volume.affine, dtype=np.float64), "the volume")
        array = np.asarray(volume.as_tensor().numpy(), dtype=np.float32)
        inside = foreground_of(volume, array)
        planes, _ = choose_planes(affine, volume, None)
        frame = slice_frame(affine, planes[0])
        volume_map = CONTROLS[self.name](array, inside, frame.axis)
        cut, origin = self.threshold()
        shape = (volume_map.shape[0], volume_map.shape[1], volume_map.shape[2])
        places = slice_centres(affine, shape, frame.axis)
        slices = tuple(
            _slice_score(i, volume_map.take([i], frame.axis), inside.take([i], frame.axis), place)
            for i, place in enumerate(places)
        )
        return AnomalyResult(
            volume=volume,
            volume_map=with_meta(torch.from_numpy(volume_map[None]), affine, volume.meta),
            pred_score=volume_score([s.score for s in slices if not s.background]),
            threshold=cut,
            threshold_origin=origin,
            planes=planes[:1],
            slices=slices,
            findings=find_components(volume_map, affine, cut, frame.axis),
            display_window=_range(array, inside),
            provenance=self.identity(),
        )

    def identity(self) -> dict[str, Any]:
        """Name everything that decides its numbers.

        Returns:
            Name, method, threshold and version of the package.
        """
        return {
            "model": f"control:{self.name}",
            "method": "control",
            "threshold": self.threshold()[0],
            "version": package_versions()["headclip-med"],
        }

    def threshold(self) -> tuple[float, str]:
        """Tell the cut on the map: the user's, or two standard deviations above the mean.

        Returns:
            The cut in [0, 1], and in words where it came from.
        """
        if self.cut is not None:
            return self.cut, "chosen by the user before the evaluation"
        return _Z_THRESHOLD, "a-priori: two standard deviations above the foreground's mean"

    def ledger(self) -> tuple[dict[str, Any], ...]:
        """Tell what it was trained on.

        Returns:
            Always empty.
        """
        return ()


def make_control(name: str, threshold: float | None = None) -> Control:
    """Make the control of that name.

    Args:
        name: Of :data:`CONTROLS`, without ``control:``.
        threshold: Cut on the map, None for the control's own.

    Returns:
        The control.

    Raises:
        InputError: there is no such control. The nearest name is given.
    """
    if name not in CONTROLS:
        near = get_close_matches(name, CONTROLS, 1)
        hint = f"Did you mean control:{near[0]}" if near else ""
        raise InputError(f"A control must be one of {', '.join(CONTROLS)}", name, hint)
    return Control(name, threshold)


def foreground_of(volume: MetaTensor, array: Array) -> Mask:
    """Find the voxels that may show something, as the engine sees them.

    Args:
        volume: Whose metadata tells modality, colours and inversion.
        array: Its values ``(C, I, J, K)``.

    Returns:
        ``(I, J, K)``, true where any channel may show something.
    """
    meta = volume.meta
    return foreground(
        array,
        modality=meta.get("modality"),
        is_rgb=bool(meta.get("is_rgb", False)),
        is_2d=bool(meta.get("is_2d", False)),
        inverted=bool(meta.get("display_inverted", False)),
    )


def _slice_score(index: int, values: Array, inside: Mask, place: NDArray[np.float64]) -> SliceScore:
    seen = np.sort(values[inside])[::-1]
    top = seen[: max(1, round(_TOP_SHARE * len(seen)))]
    score = float(top.mean()) if len(seen) else 0.0
    position = (float(place[0]), float(place[1]), float(place[2]))
    return SliceScore(index=index, position_mm=position, score=score, background=not len(seen))


def _range(array: Array, inside: Mask) -> tuple[float, float]:
    values = array[0][inside] if inside.any() else array[0].ravel()
    low, high = np.percentile(values, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))
