"""Small results for the tests of reviewing: a map worked by hand, written as a prediction writes it."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from writing_phantom import make_result

from headclip_med.review import OpenCase, Session
from headclip_med.writing import write_result

SHAPE = (12, 10, 6)
AFFINE = np.array([[-1.0, 0, 0, 10], [0, -2.0, 0, 20], [0, 0, 3.0, -5], [0, 0, 0, 1]])  # LPS, 1 × 2 × 3 mm

TWIN, TALL, SHORT, LOW = (2, 2, 2), (2, 2, 2), (4, 2, 2), (9, 7, 4)
"""At 0.5 TALL and SHORT are one finding of three voxels, TWIN, named after its peak; at 0.7 they are two."""


def hand_map(scale: float = 1.0) -> np.ndarray:
    """0.1; a bar of 0.9, 0.6, 0.8 along the first axis; one voxel of 0.55."""
    amap = np.full(SHAPE, 0.1)
    amap[2:5, 2, 2] = 0.9, 0.6, 0.8
    amap[LOW] = 0.55
    return amap * scale


def write_case(folder: Path, amap: np.ndarray | None = None, **more: Any) -> Path:
    """A result folder with a map, a mask and a record."""
    folder.mkdir(parents=True)
    write_result(make_result(AFFINE, hand_map() if amap is None else amap, **more), folder, formats=("nifti",))
    return folder


def at(voxel: tuple[int, int, int]) -> str:
    """Id of the finding with its peak there."""
    return "f" + "-".join(map(str, voxel))


def mm(voxel: tuple[int, int, int]) -> tuple[float, float, float]:
    """RAS mm of a voxel's centre, by hand: the axes run to the left, to the back and up."""
    i, j, k = voxel
    return (10.0 - i, 20.0 - 2 * j, -5.0 + 3 * k)


def opened(place: Path, key: str = "case", **more: Any) -> tuple[Session, OpenCase]:
    """A session with one case open and its overlay shown, where that is allowed."""
    session = Session.open([place], **more)
    case = session.open_case(key)
    if not case.concealed:
        case.show_overlay()
    return session, case


def ticking() -> Any:
    """A clock that ticks a second at every look."""
    seconds = count()
    return lambda: f"2026-01-01T00:00:{next(seconds):02d}+00:00"
