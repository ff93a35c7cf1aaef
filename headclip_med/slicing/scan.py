"""A volume and how its slices become pixels. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from headclip_med.base.geometry import SliceFrame, spacing
from headclip_med.base.types import Affine
from headclip_med.slicing.intensity import Placement, Preprocessing, Range, neighbour_indices, place
from headclip_med.slicing.slices import cut_array

Floats = NDArray[np.float32]

# Neighbours within a slice only: what is enclosed in one slice need not be in the next.
_IN_SLICE = np.zeros((3, 3, 3), dtype=bool)
_IN_SLICE[1] = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True)
class Scan:
    """A volume and how its slices become pixels.

    Attributes:
        volume: ``(C, I, J, K)`` float32, stored values.
        mask: its foreground ``(I, J, K)``.
        affine: voxel index → RAS mm, ``(4, 4)``.
        ranges: black and white per channel, in stored units.
        preprocessing: size, channels and normalisation of the model input.
        inverted: MONOCHROME1, where low is bright.
    """

    volume: Floats
    mask: NDArray[np.bool_]
    affine: Affine
    ranges: Sequence[Range]
    preprocessing: Preprocessing
    inverted: bool = False

    def foreground_slices(self, frame: SliceFrame) -> list[int]:
        """List the slices that show more than background.

        Args:
            frame: The plane and its orientation.

        Returns:
            Indices along the frame's axis, rising.
        """
        share = self.mask.mean(axis=tuple(a for a in range(3) if a != frame.axis))
        return [int(i) for i in np.flatnonzero(share >= self.preprocessing.min_foreground)]

    def placement(self, frame: SliceFrame) -> Placement:
        """Place slices of a plane in the model's square input.

        Args:
            frame: The plane and its orientation.

        Returns:
            Where they lie in the square, in pixels.
        """
        rows, cols = frame.row_axis, frame.col_axis
        shape, steps = (self.mask.shape[rows], self.mask.shape[cols]), spacing(self.affine)
        return place(shape, (steps[rows], steps[cols]), self.preprocessing.image_size, self.preprocessing.fit)

    def cut(self, frame: SliceFrame, indices: Sequence[int]) -> tuple[Floats, Sequence[Range]]:
        """Cut slices with the black and white of each of their channels.

        With 2.5-D, ``C`` is 3 for a volume of one channel: the slice between its neighbours.

        Args:
            frame: The plane and its orientation.
            indices: Slices along the frame's axis, n of them.

        Returns:
            Stored values ``(n, C, H, W)``, and ``(low, high)`` per channel.
        """
        if self.preprocessing.channels == "repeat" or len(self.volume) != 1:
            return cut_array(self.volume, frame, indices), self.ranges
        step = max(1, round(self.preprocessing.neighbour_mm / float(spacing(self.affine)[frame.axis])))
        count = self.mask.shape[frame.axis]
        around = cut_array(self.volume, frame, [n for i in indices for n in neighbour_indices(i, count, step)])
        return around.reshape(len(indices), 3, *around.shape[2:]), list(self.ranges) * 3

    def inside(self, frame: SliceFrame, indices: Sequence[int]) -> NDArray[np.bool_]:
        """Cut the foreground with its holes filled, so that a dark lesion counts as patient.

        Args:
            frame: The plane and its orientation.
            indices: Slices along the frame's axis, n of them.

        Returns:
            ``(n, H, W)``.
        """
        return fill_holes(cut_array(self.mask[None], frame, indices)[:, 0])


def fill_holes(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill every region that does not reach the edge of its slice (4 neighbours).

    Args:
        masks: ``(n, H, W)``.

    Returns:
        ``(n, H, W)``.
    """
    framed = np.pad(~masks, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    regions, _ = ndimage.label(framed, structure=_IN_SLICE)
    outside = regions == regions[:, :1, :1]
    return np.asarray(~outside[:, 1:-1, 1:-1])
