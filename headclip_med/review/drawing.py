"""Regions that a reader draws: checked, measured as findings are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headclip_med.base.errors import InputError
from headclip_med.base.geometry import voxel_to_world
from headclip_med.review.cases import CaseData
from headclip_med.review.components import Mask, Voxel, measure, to_runs
from headclip_med.review.decisions import finding_record
from headclip_med.review.model import DrawnFinding, Mark

_MOST = 65535  # drawn regions of one case: uint16


def checked_mask(mask: NDArray[Any], shape: Voxel) -> Mask:
    """What is not 0.

    Raises:
        InputError: another grid, or nothing drawn.
    """
    found = np.asarray(mask) != 0
    if found.shape != shape:
        raise InputError(f"A drawn region must have the shape {shape}", found.shape)
    if not found.any():
        raise InputError("A drawn region must hold a voxel", "none", "Erase it instead")
    return found


def masks_of_labels(labels: NDArray[Any], shape: Voxel) -> dict[str, Mask]:
    """What is painted with n, by ``dn``.

    Raises:
        InputError: another grid, or other than whole numbers from 0 to 65535.
    """
    if labels.shape != shape or labels.dtype.kind not in "bui" or not 0 <= labels.min() <= labels.max() <= _MOST:
        given = f"{labels.dtype} {labels.shape}"
        raise InputError(f"Drawn labels must be whole numbers from 0 to {_MOST} in the shape {shape}", given)
    numbers = np.flatnonzero(np.bincount(labels.ravel().astype(np.uint16)))
    return {f"d{n}": np.asarray(labels == n) for n in numbers if n > 0}


def drawn_finding(data: CaseData, drawn_id: str, mask: Mask, facts: Mapping[str, Any]) -> DrawnFinding:
    """A drawn region with its measures; ``facts`` are the other fields."""
    finding = measure(mask, data.volume_map, data.affine, data.axis, drawn_number(drawn_id), data.is_plain)
    return DrawnFinding(id=drawn_id, runs=to_runs(mask), finding=finding_record(finding), **facts)


def drawn_number(drawn_id: str) -> int:
    """n of ``dn``; 0 for anything else."""
    return int(drawn_id[1:]) if drawn_id[1:].isdecimal() else 0


def next_number(drawn: Collection[str]) -> int:
    """The number of the next drawn region: above all others, or a free one where that is no label any more.

    Raises:
        InputError: there is no free number.
    """
    taken = {drawn_number(name) for name in drawn}
    number = max(taken, default=0) + 1
    if number > _MOST:
        number = next((n for n in range(1, _MOST + 1) if n not in taken), 0)
    if not number:
        raise InputError(f"A case must have at most {_MOST} drawn regions", len(taken), "Remove one first")
    return number


def centre_mark(drawn: DrawnFinding, data: CaseData) -> Mark:
    """The place of a drawn region as a mark."""
    x, y, z = voxel_to_world(data.affine, np.asarray(data.centre(drawn.finding)))
    return Mark(position_mm=(float(x), float(y), float(z)), confidence=drawn.confidence, drawn=drawn.id)
