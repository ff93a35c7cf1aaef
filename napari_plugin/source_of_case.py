"""The source image of a case, and further sequences beside it, as volumes to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headclip_med.reading.base import AnyVolume
from headclip_med.review import OpenCase
from headclip_med.review.sources import linked_image, match_source


@dataclass(frozen=True, eq=False)
class Sequence3D:
    """Another image on the case's grid: ``(I, J, K)`` or, in colour, ``(I, J, K, 3)``."""

    name: str
    array: NDArray[np.float32]
    message: str


def find_source(case: OpenCase, places: Sequence[Path]) -> tuple[AnyVolume | None, str]:
    """The source of a case, or None; and what to tell the reader about it."""
    found = match_source(case.record, list(places))
    return found.volume, found.message


def find_sequence(case: OpenCase, path: Path) -> Sequence3D:
    """Another image of the same patient, resampled for display where it has a grid of its own.

    Raises:
        InputError: unreadable, or nowhere near the case.
    """
    image = linked_image(path, case.data)
    return Sequence3D(image.name, image.array, image.message)
