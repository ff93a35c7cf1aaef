"""One slice of a scan as a detector sees it, and the heads that raise its score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import SliceFrame, slice_frame
from headclip_med.base.volume import LoadedVolume
from headclip_med.detectors.headclip.attribution import HeadEffect, HeadShares, detector_shares, strongest_heads
from headclip_med.detectors.headclip.detector import HeadCLIP
from headclip_med.engine.case import make_job
from headclip_med.models.domains import Domain
from headclip_med.models.load import own_preprocessing
from headclip_med.models.scope import Scope, out_of_scope
from headclip_med.reading import load_volume
from headclip_med.slicing.intensity import Placement, PreprocessingKind
from headclip_med.slicing.pixels import slice_limits, slice_pixels
from headclip_med.slicing.scan import Scan
from headclip_med.slicing.view import source_name

# Where the map stays below the threshold, this share of the patient's patches with the highest map is looked at.
_HIGHEST = 0.01


@dataclass(frozen=True)
class SliceView:
    """A slice as the network sees it.

    Attributes:
        pixels: ``(1, 3, S, S)``, normalised.
        valid: ``(1, S, S)`` bool, inside the patient.
        image: ``(S, S)`` or ``(S, S, 3)`` in [0, 1].
        placement: Where the slice lies in the square.
        words: Scan and place, such as ``flair.nii.gz, axial slice 12 of 0 … 54``.
        index: Along the plane's axis.
        warnings: What a reader must know of the scan.
    """

    pixels: Tensor
    valid: Tensor
    image: NDArray[np.float32]
    placement: Placement
    words: str
    index: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class SliceHeads:
    """What the heads add to the score of one slice.

    Attributes:
        anomaly: Map ``(S, S)`` in [0, 1], 0 outside the patient.
        threshold: On it.
        inside: Patches ``(Hp, Wp)`` bool that were looked at.
        chosen: Which these are, in words.
        shares: Of every head at every patch.
        effects: The heads that raise the logit most, over ``inside``.
    """

    view: SliceView
    anomaly: NDArray[np.float32]
    threshold: float
    inside: NDArray[np.bool_]
    chosen: str
    shares: HeadShares
    effects: list[HeadEffect]

    def map_of(self, effect: HeadEffect) -> NDArray[np.float32]:
        """Give the share of one head at every patch.

        Args:
            effect: One of ``effects``.

        Returns:
            ``(Hp, Wp)``, in logits.
        """
        share = self.shares.by_head()[effect.layer - self.shares.first_layer, effect.head]
        return np.asarray(share.cpu().unflatten(0, self.shares.grid))

    def parts(self) -> dict[str, float]:
        """Average the logit over ``inside``, and what it is the sum of.

        Returns:
            Means by name: ``heads``, ``base``, ``biases``, ``centre`` and their sum ``logit``.
        """
        shares, inside = self.shares, torch.from_numpy(self.inside).flatten()
        sums = {"heads": shares.heads.sum(dim=(1, 2)), "base": shares.base, "biases": shares.biases}
        sums |= {"centre": shares.centre, "logit": shares.logits()}
        return {name: float(part.cpu()[:, inside].mean()) for name, part in sums.items()}


def view_slice(
    detector: HeadCLIP,
    domain: Domain,
    path: Path,
    index: int | None = None,
    expected: Sequence[tuple[str, Scope]] = (),
    kind: PreprocessingKind = "own",
) -> SliceView:
    """Cut one slice of the scan at ``path`` in its acquisition plane, by default the one that scores highest.

    Args:
        detector: Scores the slices where none is chosen.
        domain: Its window, fit and channels are used.
        path: A scan as :func:`headclip_med.reading.load_volume` reads it.
        index: Slice along the plane's axis from 0, None for the one that scores highest.
        expected: The images that the model is for, see :func:`headclip_med.models.scope.out_of_scope`.
        kind: ``own`` or ``released`` preprocessing.

    Returns:
        The slice with its pixels, limits and picture.

    Raises:
        InputError: An unreadable scan, or no such slice.
    """
    volume = load_volume(path)
    own = own_preprocessing(detector, domain, kind)
    job = make_job(volume, domain.name, own, warnings=out_of_scope(expected, volume))
    scan, frame = job.scan(), slice_frame(job.affine, job.planes[0])
    count = scan.mask.shape[frame.axis]
    if index is not None and not 0 <= index < count:
        raise InputError(f"The slice must lie between 0 and {count - 1}", index, f"{source_name(volume)} has {count}")
    chosen = _highest(detector, scan, frame) if index is None else index
    device = detector.tower.device
    pixels, where = slice_pixels(scan, frame, [chosen], device), scan.placement(frame)
    valid = slice_limits(scan, frame, scan.inside(frame, [chosen]), device)
    part = "" if count == 1 else f", {frame.plane} slice {chosen} of 0 … {count - 1}"
    words = f"{source_name(volume)}{part}"
    return SliceView(pixels, valid, _on_screen(pixels, scan, volume), where, words, chosen, job.warnings)


def explain_slice(detector: HeadCLIP, view: SliceView, threshold: float, count: int = 10) -> SliceHeads:
    """Find the heads that raise the score most where the map reaches ``threshold``, else where it is highest.

    Args:
        detector: The one that ``view`` was cut for.
        view: The slice.
        threshold: On the map, in (0, 1).
        count: How many heads at most.

    Returns:
        Map, patches looked at, shares of all heads and the strongest ones.
    """
    shares = detector_shares(detector, view.pixels)
    found = detector.score(view.pixels, view.valid).maps[0] * view.valid[0]
    patches = F.adaptive_avg_pool2d(found[None], shares.grid)[0].flatten()
    reached = (found >= threshold).float()
    inside = F.adaptive_avg_pool2d(reached[None], shares.grid)[0].flatten() >= 0.5
    chosen = f"{int(inside.sum())} of {inside.numel()} patches at or above the threshold {threshold:.3g}"
    if not bool(inside.any()):
        number = max(1, round(_HIGHEST * inside.numel()))
        inside[patches.topk(number).indices] = True
        chosen = f"no patch reaches the threshold {threshold:.3g}: the {number} highest of {inside.numel()}"
    if detector.config.intensity_fusion is not None:
        chosen += "; the map also weighs brightness, the shares are of the tower's part"
    return SliceHeads(
        view,
        np.asarray(found.float().cpu()),
        threshold,
        np.asarray(inside.cpu().unflatten(0, shares.grid)),
        chosen,
        shares,
        strongest_heads(shares, inside, count),
    )


def _highest(detector: HeadCLIP, scan: Scan, frame: SliceFrame) -> int:
    """The slice that scores highest; the middle one of nothing but background."""
    scores = {index: _score(detector, scan, frame, index) for index in scan.foreground_slices(frame)}
    return max(scores, key=scores.__getitem__) if scores else scan.mask.shape[frame.axis] // 2


def _score(detector: HeadCLIP, scan: Scan, frame: SliceFrame, index: int) -> float:
    device = detector.tower.device
    limits = slice_limits(scan, frame, scan.inside(frame, [index]), device)
    return float(detector.score(slice_pixels(scan, frame, [index], device), limits).scores[0])


def _on_screen(pixels: Tensor, scan: Scan, volume: LoadedVolume) -> NDArray[np.float32]:
    """The slice itself: colours as they are, of several sequences the first, of neighbours the middle one."""
    spec = scan.preprocessing
    mean, std = (pixels.new_tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    levels = np.asarray((pixels[0] * std + mean).clamp(0, 1).cpu())
    if bool(volume.meta.get("is_rgb", False)):
        return levels.transpose(1, 2, 0)
    return levels[1 if spec.channels == "neighbours" and len(volume.array) == 1 else 0]
