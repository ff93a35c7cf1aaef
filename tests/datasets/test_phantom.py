"""Phantoms: the truth lies where it was asked for, on any grid."""

from __future__ import annotations

import numpy as np
from affines import affine_of, rotation

from headclip_med.base.geometry import voxel_to_world
from headclip_med.datasets.phantom import Lesion, centred_affine, make_phantom, random_lesions

LESION = Lesion((20.0, -14.0, 18.0), (10.0, 8.0, 9.0), irregularity=0.0)


def test_a_lesion_lies_at_its_millimetres_on_any_grid() -> None:
    straight = centred_affine((60, 70, 60), (3, 3, 3))
    tilted = rotation(20, 0) @ affine_of(("L", "P", "S"), (3, 3, 3))
    tilted[:3, 3] -= voxel_to_world(tilted, np.array([29.5, 34.5, 29.5]))
    for affine in (straight, tilted):
        phantom = make_phantom(1, shape=(60, 70, 60), affine=affine, lesions=(LESION,))
        centre = voxel_to_world(affine, np.argwhere(phantom.truth).mean(axis=0))
        np.testing.assert_allclose(centre, LESION.centre_mm, atol=0.5)
        volume = phantom.truth.sum() * 27
        assert abs(volume / (4 / 3 * np.pi * 10 * 8 * 9) - 1) < 0.1


def test_a_bright_lesion_is_brighter_and_a_dark_one_darker_than_without() -> None:
    plain = make_phantom(3, shape=(40, 48, 40), affine=centred_affine((40, 48, 40), (4, 4, 4)), noise=0)
    for kind, sign in (("bright", 1), ("dark", -1)):
        lesion = Lesion((20, -14, 18), (12, 12, 12), kind)  # type: ignore[arg-type]
        phantom = make_phantom(3, shape=plain.array.shape, affine=plain.affine, noise=0, lesions=(lesion,))
        inside = phantom.truth > 0
        assert sign * (phantom.array[inside].mean() - plain.array[inside].mean()) > 50


def test_the_seed_decides_everything() -> None:
    one, two, other = (
        make_phantom(s, shape=(24, 28, 24), affine=centred_affine((24, 28, 24), (8, 8, 8))) for s in (5, 5, 6)
    )
    np.testing.assert_array_equal(one.array, two.array)
    assert not np.array_equal(one.array, other.array)


def test_stripped_heads_are_zero_outside_the_brain() -> None:
    phantom = make_phantom(7, shape=(24, 28, 24), affine=centred_affine((24, 28, 24), (8, 8, 8)), skull=False)
    assert (phantom.array == 0).mean() > 0.5


def test_random_lesions_lie_in_the_head_and_follow_their_generator() -> None:
    lesions = random_lesions(np.random.default_rng(0), 50, (3, 10))
    assert lesions == random_lesions(np.random.default_rng(0), 50, (3, 10))
    assert all(np.linalg.norm(np.array(le.centre_mm) / [52, 68, 50]) <= 1 for le in lesions)
    assert {le.kind for le in lesions} == {"bright", "dark", "rim", "mottled"}
