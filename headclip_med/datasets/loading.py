"""A case → its volume and, on exactly the same grid, where its lesions are."""

from __future__ import annotations

import hashlib

import numpy as np

from headclip_med.base.volume import LoadedVolume, image_digest, to_metatensor
from headclip_med.datasets.case import Case, LabelledVolume
from headclip_med.datasets.planes import read_stack
from headclip_med.datasets.truth import Mask, read_case_truth
from headclip_med.reading import load
from headclip_med.reading.checks import stack

# How the warning about a label that its mask contradicts begins; the check of a set tells it by that.
CONTRADICTION = "labelled "


def load_labelled(case: Case, *, masks_known: bool) -> LabelledVolume:
    """Read a case.

    Args:
        case: What is known about it.
        masks_known: The set says where lesions are, so that a normal case has an empty mask.

    Returns:
        Its volume, and on exactly the same grid where its lesions are.

    Raises:
        InputError: an unreadable image.
        MaskError, GridError, MeaningError: as of :func:`headclip_med.datasets.truth.read_case_truth`.
    """
    volume = read_stack(case) if case.stacked else stack(_images(case))
    warnings: list[str] = []
    label, truth = case.label, None
    ignored: Mask | None = None
    values: tuple[int, ...] = ()
    if case.has_mask:
        truth, ignored, values = read_case_truth(case, volume, warnings)
        label = case.label if ignored is not None and ignored.all() else bool(truth.any())
        if case.label not in (None, label):
            said, shown = ("abnormal", "empty") if case.label else ("normal", "not empty")
            warnings.append(f"{CONTRADICTION}{said}, but its mask is {shown}: the mask decides")
    elif masks_known and label is False:
        truth = np.zeros(volume.array.shape[1:], dtype=bool)
    image = image_digest(volume.array)
    return LabelledVolume(
        volume=to_metatensor(volume),
        gt_mask=truth,
        gt_label=label,
        image_sha256=image,
        sha256=hashlib.sha256(image.encode() + _packed(truth) + _packed(ignored)).hexdigest(),
        warnings=tuple(warnings),
        ignored=ignored,
        mask_values=values,
    )


def _images(case: Case) -> list[LoadedVolume]:
    """The sequences of a case, each from its file or from its place in a 4-D file."""
    times = case.volumes or (None,) * len(case.images)
    return [load(path, time=time) for path, time in zip(case.images, times, strict=True)]


def _packed(truth: Mask | None) -> bytes:
    return b"" if truth is None else np.packbits(truth).tobytes()
