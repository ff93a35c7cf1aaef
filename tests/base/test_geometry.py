"""Planes, axes and millimetres, on every orientation an array can have."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from affines import (
    affine_of,
    rotation,
)

from headclip_med.base import geometry
from headclip_med.base.errors import InputError
from headclip_med.slicing.slices import cut_slices, slices_to_volume

AXCODES = [
    tuple(letters[i] for i in order) for order in permutations(range(3)) for letters in product("RL", "AP", "SI")
]


@pytest.mark.parametrize("axcodes", AXCODES, ids="".join)
def test_every_orientation_shows_a_corner_mark_where_a_radiologist_expects_it(
    axcodes: tuple[str, ...],
) -> None:
    """A mark in the right-anterior-superior corner; axial: top left, coronal: top left, sagittal: top left."""
    affine = affine_of(axcodes)
    assert nib.aff2axcodes(affine) == axcodes
    volume = torch.zeros(1, 4, 5, 6)
    corner = tuple(-1 if letter in "RAS" else 0 for letter in axcodes)
    volume[(0, *corner)] = 1
    for plane in geometry.PLANES:
        frame = geometry.slice_frame(affine, plane)
        slices = cut_slices(volume, frame)
        towards = axcodes[frame.axis]
        position = -1 if towards in "RAS" else 0
        assert slices[position, 0, 0, 0] == 1, plane
        assert torch.equal(slices_to_volume(slices[:, 0], frame), volume[0])


@pytest.mark.parametrize("axcodes", AXCODES[::5], ids="".join)
def test_tilted_grids_keep_their_nearest_plane(axcodes: tuple[str, ...]) -> None:
    affine = rotation(20, 0) @ rotation(-15, 2) @ affine_of(axcodes)
    for plane, letters in (("axial", "SI"), ("coronal", "AP"), ("sagittal", "RL")):
        assert axcodes[geometry.plane_axis(affine, plane)] in letters
        assert geometry.axis_plane(affine, geometry.plane_axis(affine, plane)) == plane


def test_acquisition_plane_follows_the_source_then_the_spacing_then_axial() -> None:
    isotropic = np.eye(4)
    assert geometry.acquisition_plane(isotropic)[0] == "axial"
    assert geometry.acquisition_plane(np.diag([4.0, 1, 1, 1]))[0] == "sagittal"
    assert geometry.acquisition_plane(affine_of(("A", "S", "L"), (1, 1, 1.2)))[0] == "sagittal"
    assert geometry.acquisition_plane(isotropic, np.array([0, -1.0, 0]))[0] == "coronal"


@pytest.mark.parametrize(
    ("shape", "normal", "expected"),
    [
        ((1, 64, 64), None, "sagittal"),
        ((64, 1, 64), None, "coronal"),
        ((64, 64, 1), None, "axial"),
        ((1, 64, 64), [0, 0, 1.0], "axial"),  # what the source states comes first
        ((1, 64, 1), None, "coronal"),  # a row of voxels is no slice: spacing decides
        ((64, 64, 64), None, "coronal"),
    ],
)
def test_a_single_slice_is_its_own_plane(shape: tuple[int, ...], normal: list[float] | None, expected: str) -> None:
    affine = np.diag([1.0, 3, 1, 1])
    given = None if normal is None else np.array(normal)
    plane, reason = geometry.acquisition_plane(affine, given, shape)
    assert plane == expected
    assert (reason == "a single slice") == (normal is None and shape.count(1) == 1)


def test_positions_by_hand() -> None:
    affine = affine_of(("L", "P", "S"))  # x = 11 − i, y = −7 − 2j, z = 5 + 3k
    np.testing.assert_allclose(geometry.voxel_to_world(affine, np.array([1, 2, 3])), [10, -11, 14])
    np.testing.assert_allclose(geometry.world_to_voxel(affine, np.array([10.0, -11, 14])), [1, 2, 3])
    np.testing.assert_allclose(geometry.slice_centres(affine, (3, 5, 2), 2), [[10, -11, 5], [10, -11, 8]])
    assert geometry.voxel_volume(affine) == pytest.approx(6)
    np.testing.assert_allclose(geometry.spacing(rotation(33, 1) @ affine), [1, 2, 3])


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.eye(3), "4×4"),
        (np.full((4, 4), np.nan), "finite"),
        (np.diag([1.0, 0, 1, 1]), "invertible"),
        (np.array([[1.0, 1, 0, 0], [0, 1e-9, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "invertible"),
        (np.array([[1.0, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "orthogonal.*11.3 degrees"),
        (np.diag([1.0, 1, 1, 2]), "0 0 0 1"),
    ],
)
def test_affines_that_cannot_place_voxels_are_refused(affine: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        geometry.check_affine(affine, "scan.nii.gz")


def test_rounded_direction_cosines_pass() -> None:
    rounded = rotation(10, 0)
    rounded[:3, :3] = np.round(rounded[:3, :3], 3)
    np.testing.assert_array_equal(geometry.check_affine(rounded, "x"), rounded)
