"""Define the vocabulary: shape aliases, planes and the keys of a volume's metadata. Nothing else.

| word | shape | meaning |
|---|---|---|
| volume | ``(C, I, J, K)`` MetaTensor | ``affine``: 4×4 float64, voxel index → RAS mm |
| slices | ``(N, C, H, W)`` | display orientation: rows go down, columns go right on the screen |
| pixels | ``(N, 3, S, S)`` | model input, normalised |
| patch_features | ``{layer: (N, P, D)}`` | projected, L2-normalised, ``grid = (Hp, Wp)`` |
| text_features | ``(2, D)`` | ``[normal, abnormal]``, L2-normalised |
| head_weights | ``(L, heads)`` | 1 = frozen tower |
| anomaly_map | ``(N, H, W)`` | probability of abnormal in [0, 1] |
| volume_map | ``(1, I, J, K)`` | the same in the source's own grid |
"""

from __future__ import annotations

from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")

Affine = NDArray[np.float64]  # (4, 4), voxel index → RAS mm
Vector = NDArray[np.float64]  # (3,)

RESEARCH_ONLY = "Research use only. Not a medical device; not for diagnosis."


class VolumeMeta(TypedDict, total=False):
    """Holds what our readers know of a volume, all of it optional for foreign volumes.

    A MetaTensor from a MONAI loader holds it in a form that can be collated, of which
    :func:`headclip_med.reading.volume_meta` makes this again.

    Everything that depends on the array's order is kept in world terms (a normal, a position), so that
    it stays true after a reorientation.
    """

    source_format: str  # nifti, nrrd, mha, dicom, png, jpeg, tiff, bmp, array
    source_name: str  # base name of the file or folder, readable; never a path, never patient data
    content_sha256: str  # of the bytes that were read; for a series: of the sorted files' hashes
    modality: str | None  # DICOM code (CT, MR, US, ...), None when the format does not say
    sequence: str  # of MR where the header names it: flair, t1, t1c, t2, ...; " + " between channels
    is_rgb: bool  # three colour channels in [0, 255]
    is_2d: bool  # a plain image: pixels, no millimetres, no patient space; K = 1, or the frames of a cine
    slice_normal: list[float] | None  # unit vector (RAS) along which slices were acquired, None: unknown
    display_inverted: bool  # MONOCHROME1: invert for eyes and network, never in stored values
    default_window: list[float] | None  # [level, width] stored in the file
    # Of the source's slices, in order of K as read. Where the volume was not resampled, ``[:, :, k].T`` is exactly the
    # pixel matrix (rows, columns) of frame ``slice_frames[k]`` of ``slice_files[k]``.
    slice_uids: list[str]  # SOPInstanceUIDs; "" where an empty slice stands for a missing or damaged one
    slice_files: list[str]  # absolute paths, "" likewise: for writers only, never for results, logs or reports
    slice_frames: list[int]  # 0-based frame of a multi-frame file, 0 otherwise
    tiled: bool  # a mosaic: slices are parts of one stored frame, which is not their pixel matrix
    slice_positions: list[list[float]]  # RAS mm of each slice's centre
    resampled: bool  # slices of K are not those of the source, whose number may differ
    sheared: bool  # gantry tilt kept in the affine, whose axes are not orthogonal
    uneven: bool  # slices of different distances, kept one by one: the affine is a mean, slice_positions are true ...
    slice_nominal_positions: list[list[float]]  # ... and these are where the affine puts the slices
    empty_positions: list[list[float]]  # RAS mm, by the affine, of slices that hold nothing and are never scored
    qform_code: int
    sform_code: int
    reader_warnings: list[str]  # what was odd, in words
