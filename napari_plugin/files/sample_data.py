"""A synthetic head with a lesion of known place, alone or with its anomaly map: no patient, no download."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from headclip_med.base.errors import HeadclipError
from headclip_med.base.versions import __version__
from headclip_med.datasets.phantom import Lesion, make_phantom

from ..layers.grid import display_grid

LESION = Lesion(centre_mm=(28.0, 20.0, 24.0), radii_mm=(12.0, 14.0, 10.0), irregularity=0.0)
"""A bright ellipsoid in the patient's right frontal lobe."""

_SEED = 20


def synthetic_head() -> list[tuple[Any, dict[str, Any], str]]:
    """Make a FLAIR-like head and its lesion.

    Returns:
        Two layers: the head of 2 mm voxels as an image, and its lesion as labels.
    """
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


def synthetic_result() -> list[tuple[Any, dict[str, Any], str]]:
    """Run the embedded model on the demonstration volume, once, and keep its result until the next boot.

    Returns:
        The layers of the volume, then those of the result.

    Raises:
        ModuleNotFoundError: torch is not installed. Reviewing needs none, running a model does.
    """
    from headclip_med.cohort.demo import CASE_NAME, VOLUME_NAME, run_demo
    from headclip_med.reading import load_volume

    from ..control.worker import load_any_engine
    from ..layers.volume import volume_layers
    from .reader import read_result_folder

    folder = Path(tempfile.gettempdir()) / f"headclip_med_sample_{__version__}"
    try:
        result = read_result_folder(str(folder / CASE_NAME))
    except HeadclipError:
        run_demo(folder, load_any_engine("headclip-tiny"))
        result = read_result_folder(str(folder / CASE_NAME))
    return [*volume_layers(load_volume(folder / VOLUME_NAME)), *result]
