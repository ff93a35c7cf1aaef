"""Labelled volumes → the slices that are trained on: balanced, in the tower's own pixels, with their masks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, PersistentDataset
from monai.transforms import Transform
from numpy.typing import NDArray
from torch import Tensor

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import slice_frame
from headclip_med.datasets.case import Case, LabelledVolume
from headclip_med.datasets.dataset import CaseDataset
from headclip_med.detectors.losses import IGNORED
from headclip_med.engine.case import make_job
from headclip_med.models.domains import Domain, window_of
from headclip_med.slicing.intensity import Preprocessing
from headclip_med.slicing.pixels import slice_pixels, to_square
from headclip_med.slicing.slices import cut_slices, evenly
from headclip_med.training.config import SliceConfig


@dataclass(frozen=True)
class TrainingSlice:
    """One slice ready for a tower.

    Attributes:
        pixels: ``(3, S, S)`` float16, normalised as the tower expects.
        mask: ``(S, S)`` uint8, 1 in a lesion, IGNORED where nothing is known.
        valid: ``(S, S)`` bool, the patient as far as anything is known of him.
        label: Whether there is a lesion in it.
        case, patient, image_sha256: What it was cut from.
    """

    pixels: Tensor
    mask: Tensor
    valid: Tensor
    label: bool
    case: str
    patient: str
    image_sha256: str


@dataclass(frozen=True)
class SlicesOfCase(Transform):
    """A transform from a case to its training slices, which MONAI's caches can keep."""

    dataset: CaseDataset
    domain: Domain
    preprocessing: Preprocessing
    config: SliceConfig

    def __call__(self, case: Case) -> list[dict[str, Any]]:
        """Read the case and cut it: fields of :class:`TrainingSlice`, plain enough for a cache without pickles.

        Args:
            case: Of ``dataset``.

        Returns:
            Fields of :class:`TrainingSlice` by name, for each slice.

        Raises:
            InputError: A case that cannot be read or has no mask.
        """
        labelled = self.dataset.load(case)
        if labelled.gt_mask is None:
            raise InputError(
                "Every training case must say where its lesions are",
                f"{case.name} has no mask",
                "Choose a set with masks, or take the case out with `headclip-med data split`",
            )
        cut = cut_case(case, labelled, labelled.gt_mask, self.domain, self.preprocessing, self.config)
        return [vars(part) for part in cut]


def training_slices(
    transform: SlicesOfCase, cases: Sequence[Case], cache_dir: Path | None = None, content_sha256: str | None = None
) -> list[TrainingSlice]:
    """Cut every case, and with ``cache_dir`` keep the slices there, by everything that decides them.

    Args:
        transform: Reads and cuts a case.
        cases: In any number.
        cache_dir: Where slices are kept on disk, None for memory only.
        content_sha256: Of the images and masks of the whole set.

    Returns:
        Slices of all cases, in order.
    """
    items: Any
    if cache_dir is None:
        items = CacheDataset(list(cases), transform, progress=False, num_workers=0)
    else:
        decides = repr((content_sha256, transform.domain, transform.preprocessing, transform.config))
        place = cache_dir / f"slices-{hashlib.sha256(decides.encode()).hexdigest()[:16]}"
        items = PersistentDataset(list(cases), transform, cache_dir=place, weights_only=True)
    return [TrainingSlice(**part) for i in range(len(cases)) for part in items[i]]


def cut_case(
    case: Case,
    labelled: LabelledVolume,
    truth: NDArray[np.bool_],
    domain: Domain,
    preprocessing: Preprocessing,
    config: SliceConfig,
) -> list[TrainingSlice]:
    """Cut the acquisition plane, with and without lesion, evenly spread over the slices there are.

    Args:
        case: Gives the names.
        labelled: Its volume, and where nothing is known.
        truth: ``(I, J, K)``, lesions.
        domain: Its window, fit and channels are used.
        preprocessing: Gives the input size, mean and spread.
        config: How many slices of each kind, and what counts as lesion.

    Returns:
        Slices by rising index.
    """
    own = replace(preprocessing, window=window_of(domain), fit=domain.fit, channels=domain.channels)
    job = make_job(labelled.volume, domain.name, own)
    source, frame = job.scan(), slice_frame(job.affine, job.planes[0])
    unknown = np.zeros_like(truth) if labelled.ignored is None else labelled.ignored
    chosen = _choose(source.foreground_slices(frame), truth, unknown, source.mask, frame.axis, config)
    cut = []
    where = source.placement(frame)
    for index in chosen:
        mask, ignored = (cut_slices(torch.from_numpy(m)[None].float(), frame, [index]) for m in (truth, unknown))
        limits = torch.from_numpy(source.inside(frame, [index]))[:, None].float()
        mask, limits = (to_square(part, where)[0, 0] >= 0.5 for part in (mask, limits))
        ignored = (to_square(ignored, where)[0, 0] > 0) & ~mask  # as far as it reaches into a pixel
        cut.append(
            TrainingSlice(
                pixels=slice_pixels(source, frame, [index], torch.device("cpu"))[0].half(),
                mask=mask.to(torch.uint8).masked_fill(ignored, IGNORED),
                valid=(limits & ~ignored) | mask,
                label=bool(truth.take(index, frame.axis).any()),
                case=case.name,
                patient=case.patient or case.name,
                image_sha256=labelled.image_sha256,
            )
        )
    return cut


def _choose(
    seen: Sequence[int],
    truth: NDArray[np.bool_],
    unknown: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    axis: int,
    config: SliceConfig,
) -> list[int]:
    """Slices with lesion, and slices that are known to have none."""
    others = tuple(a for a in range(3) if a != axis)
    lesion, body, is_open = truth.sum(axis=others), inside.sum(axis=others), unknown.sum(axis=others) > 0
    with_lesion = [i for i in seen if lesion[i] > config.min_lesion * max(1, body[i])]
    without = [i for i in seen if lesion[i] == 0 and not is_open[i]]
    return sorted({*evenly(with_lesion, config.lesion), *evenly(without, config.free)})
