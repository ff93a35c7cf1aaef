"""A synthetic head with a lesion of known place: no patient, no download."""

from __future__ import annotations

from typing import Any

from headclip_med.phantom import Lesion, make_phantom

from .layers import display_grid

LESION = Lesion(centre_mm=(28.0, 20.0, 24.0), radii_mm=(12.0, 14.0, 10.0), irregularity=0.0)
"""A bright ellipsoid in the patient's right frontal lobe."""

_SEED = 20


def synthetic_head() -> list[tuple[Any, dict[str, Any], str]]:
    """Two layers: a FLAIR-like head of 2 mm voxels as an image, and its lesion as labels."""
    head = make_phantom(_SEED, lesions=(LESION,))
    shape = (head.array.shape[0], head.array.shape[1], head.array.shape[2])
    grid = display_grid(head.affine, shape)
    place = grid.layer_kwargs(lesion_centre_mm=LESION.centre_mm)
    image = {"name": "synthetic head", "colormap": "gray", "contrast_limits": (0.0, float(head.array.max()))}
    truth = {"name": "lesion (truth)", "opacity": 0.4}
    return [
        (grid.view(head.array), {**image, **place}, "image"),
        (grid.view(head.truth), {**truth, **place}, "labels"),
    ]
