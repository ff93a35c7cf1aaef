"""The contours of a case: findings in the colours of their decisions, or one slice at a dragged threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .grid import DisplayGrid

if TYPE_CHECKING:
    from headclip_med.review import ReviewFinding

Here = tuple[Any, ...]
"""The slice on the screen, as an index into a displayed array; everything in 3-D."""

# Contour colours by decision: apart in lightness and hue for every kind of colour vision, none of them in the map.
_COLOURS = {
    None: "#35e0ff",
    "accepted": "#5bf08a",
    "rejected": "#9aa3ad",
    "uncertain": "#ffffff",
    "mixed": "#c9a0ff",
}
_CODES = {status: number for number, status in enumerate(_COLOURS, start=1)}
_CHOSEN = 10  # added to the code of the finding that is chosen
_CHOSEN_COLOUR = "#ff4fd8"


class Contours:
    """What we have painted into a labels layer, which anybody can write into.

    Args:
        grid: how the case is laid out.
        map_array: ``(I, J, K)`` in the source's order.
        painted: the layer's own array in display order, changed in place, empty so far.
    """

    def __init__(self, grid: DisplayGrid, map_array: NDArray[np.float32], painted: NDArray[np.uint8]) -> None:
        self._grid, self._map_array, self._painted = grid, map_array, painted
        self._labels: NDArray[np.int32] | None = None
        self._codes: dict[int, int] = {}
        self._previewed: float | None = None

    def preview(self, here: Here, threshold: float) -> None:
        """Paint one slice at a threshold. The rest of the volume stays as it is.

        Args:
            here: the slice on the screen.
            threshold: in [0, 1].
        """
        self._painted[here] = self._grid.view(self._map_array)[here] >= threshold
        self._labels, self._previewed = None, threshold

    def paint(self, labels: NDArray[np.int32], findings: Sequence[ReviewFinding], chosen: str | None = None) -> None:
        """Paint all findings. Of labels that are painted already only those whose colour is another one.

        Args:
            labels: ``(I, J, K)`` of :class:`headclip_med.review.Components`.
            findings: the finding of each label.
            chosen: key of the one that stands out.
        """
        codes = {row.finding.label: _code(row, chosen) for row in findings}
        if labels is not self._labels:
            self._painted[...] = _table(codes)[self._grid.view(labels)]
        else:
            painted = self._grid.to_source(self._painted)
            for row in findings:
                label, low, high = row.finding.label, row.finding.voxel_min, row.finding.voxel_max
                if codes[label] != self._codes.get(label):
                    box = tuple(slice(first, last + 1) for first, last in zip(low, high, strict=True))
                    painted[box][labels[box] == label] = codes[label]
        self._labels, self._codes, self._previewed = labels, codes, None

    def is_as_painted(self, here: Here | None) -> bool:
        """Tell whether the layer holds what was painted last.

        Args:
            here: the slice on the screen, None in 3-D, where all of it is.

        Returns:
            True where nobody else has written into it. In 3-D a preview counts as it is.
        """
        where = ... if here is None else here
        painted = self._painted[where]
        if self._labels is not None:
            return np.array_equal(painted, _table(self._codes)[self._grid.view(self._labels)[where]])
        if self._previewed is not None and here is not None:
            return np.array_equal(painted, self._grid.view(self._map_array)[here] >= self._previewed)
        return self._previewed is not None or not painted.any()


def contour_look() -> dict[str, Any]:
    """Describe the look of the contours' layer, which needs napari.

    Returns:
        Name, colours and opacity, as napari takes them.
    """
    from napari.utils import DirectLabelColormap

    colours: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    for status, colour in _COLOURS.items():
        colours[_CODES[status]] = colour
        colours[_CODES[status] + _CHOSEN] = _CHOSEN_COLOUR
    return {"name": "threshold contours", "colormap": DirectLabelColormap(color_dict=colours), "opacity": 1.0}


def _code(row: ReviewFinding, chosen: str | None) -> int:
    return _CODES["mixed" if row.mixed else row.status] + (_CHOSEN if row.id == chosen else 0)


def _table(codes: dict[int, int]) -> NDArray[np.uint8]:
    """What is painted for each label."""
    table = np.zeros(max((0, *codes)) + 1, dtype=np.uint8)
    table[list(codes)] = list(codes.values())
    return table
