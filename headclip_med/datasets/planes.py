"""Pictures as our reader lays them out, even where they are one constant colour: empty masks, blank slices.

:func:`headclip_med.reading.load` refuses a constant image, because nothing can be found in one; but the mask of a
normal image is constant and right. Upright, transparency, palette and size are decided by the reader's own functions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import InputError
from headclip_med.base.files import sha256_file
from headclip_med.base.geometry import RAS_TO_LPS
from headclip_med.base.types import VolumeMeta
from headclip_med.base.volume import LoadedVolume
from headclip_med.datasets.case import Case
from headclip_med.reading import raster
from headclip_med.reading.checks import check_size, finish, sha256_of_digests
from headclip_med.reading.content import existing_path


def read_plane(path: Path, notes: list[str]) -> NDArray[np.generic]:
    """Read a picture upright, with its values as stored.

    Args:
        path: A picture.
        notes: Doubts are added to them.

    Returns:
        ``(1 or 3, I, J)``: columns and rows.

    Raises:
        InputError: no such file, no picture, several pages, or a damaged one.
    """
    existing_path(path)
    return raster.read_samples(path, None, notes).array.transpose(0, 2, 1)


def read_stack(case: Case) -> LoadedVolume:
    """Stack the slices of one volume in order along K, 1 mm apart for want of better knowledge.

    Args:
        case: Whose images are slices.

    Returns:
        ``(1 or 3, I, J, K)`` float32.

    Raises:
        InputError: a slice that cannot be read, slices of several sizes, or nothing but constant slices.
    """
    notes: list[str] = []
    planes = [read_plane(path, notes) for path in case.images]
    _check_sizes(case, planes)
    channels = max(len(plane) for plane in planes)
    check_size((len(planes), channels, *planes[0].shape[1:]), case.name)
    colour = [plane if len(plane) == channels else np.repeat(plane, channels, axis=0) for plane in planes]
    meta = VolumeMeta(
        source_format=case.images[0].suffix.lower().lstrip(".").replace("jpg", "jpeg"),
        source_name=case.name,
        content_sha256=sha256_of_digests(sha256_file(path) for path in case.images),
        modality=None,
        is_rgb=channels == 3,
        is_2d=False,
        slice_normal=[0.0, 0.0, 1.0],
        display_inverted=False,
        default_window=None,
    )
    return finish(np.stack(colour, axis=-1), RAS_TO_LPS.copy(), meta, list(dict.fromkeys(notes)))


def _check_sizes(case: Case, planes: list[NDArray[np.generic]]) -> None:
    for path, plane in zip(case.images, planes, strict=True):
        if plane.shape[1:] != planes[0].shape[1:]:
            (i, j), (first_i, first_j) = plane.shape[1:], planes[0].shape[1:]
            raise InputError(
                f"The slices of {case.name} must have one size",
                f"{path.name} with {i} × {j}, the first with {first_i} × {first_j} pixels",
                "Take the odd ones out",
            )
